"""A plugin here, servers and a name server there, and a link between them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from harness import PLUGIN, Listener, Peer, Plugin, environment
from networks.link import DEVICE, Link
from networks.name_server import NameServer
from networks.namespaces import Namespace
from tls_servers import Authority, secure

# Documentation's (RFC 5737, RFC 3849): no server anywhere has them.
HERE: Final = "192.0.2.1"
HERE_6: Final = "2001:db8::1"
SERVER: Final = "192.0.2.2"
NAME_SERVER: Final = "192.0.2.53"
NOBODY: Final = "192.0.2.3"
NOBODY_6: Final = "2001:db8::99"
# Public ones, as --block-private judges them, and in the namespaces only.
PUBLIC: Final = "1.2.3.4"
PUBLIC_6: Final = "2600::2"
PUBLIC_NOBODY: Final = "1.2.3.99"
PUBLIC_NOBODY_6: Final = "2600::99"

_SYN_SENT: Final = "02"


class Network:
    """Whatever has no server is silent: what is sent there is dropped."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self.here = Namespace(NAME_SERVER)
            stack.callback(self.here.close)
            self.there = Namespace()
            stack.callback(self.there.close)
            self.link = Link(self.here, self.there)
            stack.callback(self.link.close)
            for namespace in (self.here, self.there):
                # Not the system's choice: this one every system has.
                namespace.set("net/ipv4/tcp_congestion_control", "reno")
                namespace.ip("link", "set", DEVICE, "up")
            self.here.ip("address", "add", f"{HERE}/24", "dev", DEVICE)
            self.here.ip("address", "add", f"{HERE_6}/64", "dev", DEVICE, "nodad")
            self.here.ip("route", "add", "default", "dev", DEVICE)
            self.here.ip("-6", "route", "add", "default", "dev", DEVICE)
            for address in (SERVER, NAME_SERVER):
                self.there.ip("address", "add", f"{address}/24", "dev", DEVICE)
            self.there.ip("address", "add", f"{PUBLIC}/32", "dev", DEVICE)
            self.there.ip("address", "add", f"{PUBLIC_6}/128", "dev", DEVICE, "nodad")
            self.there.ip("-6", "route", "add", "default", "dev", DEVICE)
            self.names = NameServer(self.there, NAME_SERVER)
            stack.callback(self.names.close)
            self._stack = stack.pop_all()

    def listen(self, address: str = SERVER) -> Listener:
        """Return a listening socket there."""
        return self.there.inside(lambda: Listener(address))

    def plugin(self, *options: str) -> Plugin:
        """Return a plugin here, which may use plain ``ws://``."""
        command = [*self.here.command, *PLUGIN]
        return Plugin("--allow-insecure", *options, command=command, env=environment())

    @contextlib.contextmanager
    def open(
        self, *options: str, authority: Authority | None = None, **create: Any
    ) -> Iterator[tuple[Plugin, str, Peer]]:
        """Open a connection, over TLS where there is an authority."""
        if authority:
            options += ("--ca-file", authority.file)
        with self.listen() as listener, self.plugin(*options) as plugin:
            url = listener.url.replace("ws:", "wss:") if authority else listener.url
            ws = plugin.create(url, **create)
            with listener.accept() as peer:
                if authority:
                    secure(peer, authority.context(SERVER))
                peer.handshake()
                plugin.event(ws, "open")
                try:
                    yield plugin, ws, peer
                finally:
                    peer.end_threads()

    def close(self) -> None:
        """Remove it."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def attempts(plugin: Plugin) -> int:
    """Return how many sockets of a plugin's namespace wait for an answer to their SYN."""
    lines = Path(f"/proc/{plugin.process.pid}/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[3] == _SYN_SENT for line in lines)
