"""Attempts that are called off at every turn of the event loop, with real sockets.

Whenever that is: the connection has one `close` event, its server sees the end of TCP, no task and
no socket is left, and asyncio has nothing to complain of.
"""

import asyncio
import contextlib
import gc
import itertools
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from harness import TIMEOUT, Listener, Peer
from host_lines import background, close, create, encode
from tls_servers import Authority, secure
from wsplugin.manager import Manager
from wsplugin.network import names
from wsplugin.output import Output
from wsplugin.settings import Settings


class Loop(asyncio.SelectorEventLoop):
    """Counts its turns, and does something before one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.then: dict[int, Callable[[], None]] = {}
        self.complaints: list[Any] = []
        self.set_exception_handler(lambda _, context: self.complaints.append(context))

    def _run_once(self) -> None:
        self.turns += 1
        if (act := self.then.pop(self.turns, None)) is not None:
            self.call_soon(act)
        super()._run_once()  # type: ignore[misc]


class Lines:
    """Takes all lines, and keeps the names of events."""

    waiting = 0

    def __init__(self, on_close: Callable[[], None]) -> None:
        self.names: list[str] = []
        self._on_close = on_close

    def start(self, on_written: Callable[[], None], on_lost: Callable[[], None]) -> None:
        pass

    def write_now(self, data: bytearray) -> int:
        for line in map(json.loads, data.splitlines()):
            if "event" in line:
                self.names.append(line["payload"]["name"])
                if self.names[-1] == "error":
                    self.names.append(line["payload"]["payload"]["errMsg"])
                if self.names[-1] == "close":
                    self._on_close()
        return len(data)

    def write_later(self, batch: bytearray) -> None:
        raise AssertionError("nothing is left to be written later")

    def notify_at(self, level: int) -> None:
        pass

    def close(self) -> None:
        pass


class Scene(NamedTuple):
    """What is connected to, and how."""

    host: str = "127.0.0.1"
    secure: bool = False
    proxy: bool = False


SCENES = {
    "plain": Scene(),
    "one of two addresses": Scene("localhost"),
    "a name": Scene("server.test"),
    "TLS": Scene(secure=True),
    "a proxy": Scene("server.test", proxy=True),
    "TLS through a proxy": Scene("server.test", secure=True, proxy=True),
}


def accept(peer: Peer, scene: Scene, context: ssl.SSLContext | None) -> None:
    """Accept whatever comes, and wait for the end."""
    if scene.proxy:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    if context is not None:
        peer = secure(peer, context)
    peer.handshake()
    peer.expect_end()


class Server:
    """Accepts all connections; knows which have not ended yet."""

    def __init__(self, listener: Listener, scene: Scene, context: ssl.SSLContext | None) -> None:
        self._listener = listener
        self._scene = scene
        self._context = context
        self._peers: list[threading.Thread] = []
        listener.sock.settimeout(None)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
                thread.start()
                self._peers.append(thread)

    def _serve(self, peer: Peer) -> None:
        with peer, contextlib.suppress(OSError, EOFError):
            accept(peer, self._scene, self._context)

    def expect_ends(self) -> None:
        """Check that all connections have ended."""
        while self._peers:
            thread = self._peers.pop()
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@contextlib.contextmanager
def serving(scene: Scene, context: ssl.SSLContext | None) -> Iterator[tuple[Listener, Server]]:
    with Listener() as listener:
        server = Server(listener, scene, context)
        yield listener, server
        listener.sock.shutdown(2)


def call_off(settings: Settings, url: str, line: Any, turn: int) -> list[str]:
    """Open a connection, and call it off before a turn of the loop; return its events."""
    loop = Loop()
    closed = asyncio.Event()
    lines = Lines(closed.set)

    async def main() -> None:
        output = Output(lines, loop, on_drained=lambda: None, on_gone=lambda: None)
        manager = Manager(settings, output, lambda: None)
        manager.handle(encode(create(url)).rstrip())
        loop.then[loop.turns + turn] = lambda: manager.handle(encode(line).rstrip())
        async with asyncio.timeout(TIMEOUT):
            await closed.wait()
        await asyncio.sleep(0)  # it takes a turn to wake the session, and it needs one to end

    try:
        loop.run_until_complete(main())
        left = asyncio.all_tasks(loop)
    finally:
        loop.close()
    gc.collect()  # it is then that asyncio finds exceptions that nobody has retrieved
    assert loop.complaints == []
    assert not left
    return lines.names


# Of the servers: Python leaves one open where the plugin has gone before the TLS handshake. The
# plugin has none of these.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.parametrize("line", [close("ws-1"), background()], ids=["close", "background"])
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_called_off_at_every_turn(
    scene: Scene, line: Any, trusted: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = trusted.context(scene.host) if scene.secure else None
    monkeypatch.setattr(names, "resolve", lambda host: [names.Address(2, "127.0.0.1", 0)])
    with serving(scene, context) as (listener, server):
        url = f"{'wss' if scene.secure else 'ws'}://{scene.host}:{listener.port}/"
        proxy = f"http://127.0.0.1:{listener.port}" if scene.proxy else "none"
        settings = Settings(allow_insecure=True, proxy=proxy, close_timeout=0.05)
        for turn in itertools.count(1):
            events = call_off(settings, url, line, turn)
            server.expect_ends()
            if events == ["open", "close"]:
                break
            assert events == ["close"]
        assert turn > 3
