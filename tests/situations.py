"""States that tests bring connections into, and out of again."""

from typing import Any

import pytest

from harness import TIMEOUT, Listener, Peer, Plugin, close_frame


def connecting(plugin: Plugin, server: Listener, **options: Any) -> tuple[str, Peer]:
    """Create a connection whose server has read the request and not answered."""
    id = plugin.create(server.url, **options)
    peer = server.accept()
    peer.read_request()
    return id, peer


def silent(plugin: Plugin, server: Listener, count: int) -> tuple[list[str], list[Peer]]:
    """Open connections and close them; their server does not answer the Close frames."""
    pairs = [server.open(plugin) for _ in range(count)]
    for id, peer in pairs:
        assert plugin.request("websocket-close", {"id": id})["response"] == {}
        peer.expect_close(1000)
    return [id for id, _ in pairs], [peer for _, peer in pairs]


def finish(plugin: Plugin, peers: list[Peer]) -> None:
    """Complete the closing handshakes of servers that have kept silent; order does not matter."""
    for peer in peers:
        peer.send(close_frame(1000))
        peer.close()
    for _ in peers:
        assert plugin.read()["payload"]["payload"]["cause"] == "host"


def expect_nobody(server: Listener) -> None:
    """Check that no TCP connection waits to be accepted."""
    server.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.sock.accept()
    server.sock.settimeout(TIMEOUT)
