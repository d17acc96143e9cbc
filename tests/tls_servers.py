"""Servers that speak TLS, with certificates of the tests' own."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trustme

from harness import TIMEOUT, Listener, Peer


class Authority:
    """A certificate authority with its file for ``--ca-file``."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.file = str(directory / "ca.pem")
        self.ca.cert_pem.write_to_path(self.file)
        self._directory = directory

    def context(self, *names: str, **options: Any) -> ssl.SSLContext:
        """Return what a server with a certificate for `names` needs."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(*names, **options).configure_cert(context)
        return context

    def client_cert(self, name: str = "client") -> str:
        """Return a file for ``--client-cert``: a certificate with its key."""
        file = self._directory / f"{name}.pem"
        issued = self.ca.issue_cert(f"{name}@example.com", common_name=name)
        issued.private_key_and_cert_chain_pem.write_to_path(str(file))
        return str(file)


def secure(peer: Peer, context: ssl.SSLContext) -> Peer:
    """Perform the server's side of the TLS handshake."""
    peer.sock = context.wrap_socket(peer.sock, server_side=True)
    return peer


def accepting(context: ssl.SSLContext) -> Callable[[Peer], None]:
    """Return a server that performs both handshakes, and ends."""
    return lambda peer: secure(peer, context).handshake()


@contextlib.contextmanager
def tls_server(act: Callable[[Peer], None]) -> Iterator[Listener]:
    """Let `act` play the server of the next connection, from its first byte, on a thread."""

    def serve() -> None:
        with listener.accept() as peer, contextlib.suppress(OSError, EOFError):
            act(peer)

    with Listener() as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener
        thread.join(TIMEOUT)


def read_hello(peer: Peer) -> None:
    """Read the first record of a TLS handshake."""
    assert peer.sock.recv(65536)[:1] == b"\x16"


def read_hello_and_reset(peer: Peer) -> None:
    """End the TCP connection in the middle of the TLS handshake."""
    read_hello(peer)
    peer.reset()


def say(data: bytes) -> Callable[[Peer], None]:
    """Return a server that answers the first record with `data`, and ends."""

    def act(peer: Peer) -> None:
        read_hello(peer)
        peer.send(data)

    return act
