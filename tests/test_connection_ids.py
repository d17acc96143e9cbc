"""Ids of connections: unknown ones, those of closed ones, and how they count."""

from typing import Any

import pytest

from harness import Listener, Plugin, close_frame
from host_lines import close, create, done, expect_failure, send


@pytest.mark.parametrize(
    "id", ["", "ws-0", "ws-999999", "ws--1", "ws-1 ", "WS-1", "1", "ws-01", "ws-\u0661"]
)
@pytest.mark.parametrize("action", [send, close])
def test_unknown_ids(plugin: Plugin, id: str, action: Any) -> None:
    plugin.send(action(id, *(["text"] if action is send else [])) | {"id": 7})
    expect_failure(plugin.read(), 7, "unknown-id")


def test_after_the_close_event(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        peer.send(close_frame(1000))
        peer.expect_close()
    plugin.event(id, "close")
    plugin.send(send(id, "late"), close(id), close(id, 4000))
    expect_failure(plugin.read(), "late", "not-open")
    assert [plugin.read(), plugin.read()] == [done("close")] * 2


def test_ids_count_up(server: Listener) -> None:
    """In the order of creation, never used again, and a refused create uses none."""
    with Plugin() as plugin:
        plugin.send(create("ws://example.com/"), create("nonsense"))
        for code in ("forbidden", "invalid-payload"):
            expect_failure(plugin.read(), "create", code)
        for n in range(1, 8):
            plugin.send(create(server.url))
            assert plugin.read() == {"id": "create", "response": {"id": f"ws-{n}"}}
            server.accept().reset()
            plugin.events_to_close(f"ws-{n}")
        plugin.send(create(server.url, None))
        peer = server.accept()
        peer.handshake()
        plugin.event("ws-8", "open")
        peer.reset()
        plugin.events_to_close("ws-8")
