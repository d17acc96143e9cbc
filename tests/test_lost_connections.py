"""TCP connections that end without a closing handshake, in order or with a reset."""

import contextlib
from collections.abc import Callable

import pytest

from harness import BINARY, CONT, TEXT, Listener, Peer, Plugin, close_frame, frame, within
from host_lines import close, done, expect_abnormal, expect_failure, send

ENDS = pytest.mark.parametrize("end", [Peer.close, Peer.reset])
End = Callable[[Peer], None]

LOST = [
    ("at once", b"", []),
    ("after a message", frame(TEXT, b"a"), ["a"]),
    ("within a frame's header", frame(TEXT, b"a") + b"\x81", ["a"]),
    ("within a length", b"\x81\x7f\x00\x00", []),
    ("within a payload", frame(TEXT, b"*" * 100)[:50], []),
    ("within a fragmented message", frame(TEXT, b"*" * 100, fin=False), []),
    ("within a Close frame", close_frame(1000, "bye")[:3], []),
]


@pytest.mark.parametrize(("when", "data", "messages"), LOST, ids=[case[0] for case in LOST])
def test_end_while_open(
    plugin: Plugin, server: Listener, when: str, data: bytes, messages: list[str]
) -> None:
    id, peer = server.open(plugin)
    peer.send(data)
    for text in messages:
        assert plugin.event(id, "message")["data"] == text
    peer.close()
    error = plugin.event(id, "error")
    assert error["code"] == "network-error"
    assert expect_abnormal(plugin.event(id, "close"), "failure")


def test_reset_while_open(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    peer.reset()
    error = plugin.event(id, "error")
    assert error["code"] == "network-error"
    assert "reset" in error["errMsg"]
    assert "reset" in expect_abnormal(plugin.event(id, "close"), "failure")


def test_messages_before_the_end_are_delivered(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    peer.send(b"".join(frame(BINARY, b"*" * n) for n in range(500)))
    peer.close()
    events = plugin.events_to_close(id)
    assert [len(payload["data"]) for _, payload in events[:-2]] == list(range(500))
    assert [name for name, _ in events[-2:]] == ["error", "close"]


@ENDS
def test_end_instead_of_an_answer_to_the_close_frame(
    plugin: Plugin, server: Listener, end: End
) -> None:
    """It was ended on purpose: no error."""
    id, peer = server.open(plugin)
    plugin.send(close(id, 4000, "bye"))
    assert plugin.read() == done("close")
    peer.expect_close(4000)
    end(peer)
    expect_abnormal(plugin.event(id, "close"), "host")


@ENDS
def test_end_after_the_closing_handshake(plugin: Plugin, server: Listener, end: End) -> None:
    id, peer = server.open(plugin)
    plugin.send(close(id, 4000, "bye"))
    assert plugin.read() == done("close")
    peer.expect_close(4000)
    peer.send(close_frame(4000))
    if end is Peer.reset:
        # A reset may destroy what has been sent before it: see first that it has arrived.
        expect_failure(plugin.request("websocket-send", send(id, "x")["payload"]), 1, "not-open")
        peer.sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            peer.sock.recv(1)
    end(peer)
    assert plugin.event(id, "close") == {"code": 4000, "reason": "bye", "cause": "host"}


@ENDS
def test_end_after_the_servers_close_frame(plugin: Plugin, server: Listener, end: End) -> None:
    id, peer = server.open(plugin)
    peer.send(close_frame(4000, "bye"))
    peer.expect_close(4000)
    end(peer)
    assert plugin.event(id, "close") == {"code": 4000, "reason": "bye", "cause": "server"}


@pytest.mark.parametrize("bad", [frame(3), close_frame(1005), frame(TEXT, b"\xff"), frame(CONT)])
def test_broken_frames_while_closing(plugin: Plugin, server: Listener, bad: bytes) -> None:
    """It was ended on purpose: no error, and the reason says what went wrong."""
    id, peer = server.open(plugin)
    plugin.send(close(id))
    assert plugin.read() == done("close")
    peer.expect_close(1000)
    peer.send(bad)
    peer.close()
    expect_abnormal(plugin.event(id, "close"), "host")


@pytest.mark.parametrize("closing", [False, True])
def test_server_does_not_end_tcp_after_broken_frames(
    plugin: Plugin, server: Listener, closing: bool
) -> None:
    id, peer = server.open(plugin)
    with peer, within(1):
        if closing:
            plugin.send(close(id))
            assert plugin.read() == done("close")
            peer.expect_close(1000)
        peer.send(frame(3))
        events = plugin.events_to_close(id)
        peer.expect_end()
    assert [name for name, _ in events] == (["close"] if closing else ["error", "close"])
    expect_abnormal(events[-1][1], "host" if closing else "failure")


@ENDS
def test_end_with_sends_waiting(plugin: Plugin, server: Listener, end: End) -> None:
    """Sends that have not been taken are answered before the error and the close."""
    id, peer = server.open(plugin, perMessageDeflate=False)
    count = 12
    plugin.send(*(send(id, "*" * 2**20, n + 1) for n in range(count)))
    first = plugin.read()
    assert first == done(1)
    end(peer)
    answers = [first, *(plugin.read() for _ in range(count - 1))]
    assert [line["id"] for line in answers] == list(range(1, count + 1))
    expect_failure(answers[-1], count, "not-open")
    assert plugin.event(id, "error")["code"] == "network-error"
    expect_abnormal(plugin.event(id, "close"), "failure")
