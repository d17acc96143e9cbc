"""States that tests bring connections into, and out of again."""

from pathlib import Path
from typing import Any

import pytest

from harness import PING, PONG, TEXT, TIMEOUT, Listener, Peer, Plugin, close_frame, frame

DOWN = "plugin shutting down"
"""The reason of the Close frames with which the plugin ends."""

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")


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


def exchange_ping(peer: Peer) -> None:
    """Make sure that the plugin has taken everything that was sent before."""
    peer.send(frame(PING, b"there?"))
    head, payload = peer.read_frame()
    assert (head & 0x0F, payload) == (PONG, b"there?")


def finish_closing(peer: Peer, plugin: Plugin, id: str, reason: str = DOWN) -> None:
    """Play the server's part of a closing handshake that the plugin starts."""
    peer.expect_close(1001, reason)
    peer.send(close_frame(1001))
    peer.close()
    assert plugin.event(id, "close") == {"code": 1001, "reason": reason, "cause": "shutdown"}


def expect_error(plugin: Plugin, id: str, code: str) -> Any:
    """Read the `error` and the `close` event of a connection that never opened."""
    (error, why), (close, end) = plugin.events_to_close(id)
    assert (error, close) == ("error", "close")
    assert why["code"] == code
    assert why["errMsg"]
    assert end == {"code": 1006, "reason": end["reason"], "cause": "failure"}
    assert end["reason"]
    return why


def failure(plugin: Plugin, url: str, **options: Any) -> tuple[str, str]:
    """Create a connection that fails; return code and errMsg of its error."""
    id = plugin.create(url, **options)
    error = plugin.event(id, "error")
    close = plugin.event(id, "close")
    assert (close["code"], close["cause"]) == (1006, "failure")
    assert close["reason"]
    return error["code"], error["errMsg"]


def end_open(plugin: Plugin, id: str, peer: Peer) -> None:
    """Show that a connection is open, and end it."""
    peer.send(frame(TEXT, b"hello") + close_frame(4000))
    assert plugin.event(id, "message")["data"] == "hello"
    peer.expect_close(4000)
    peer.close()
    assert plugin.event(id, "close")["code"] == 4000
