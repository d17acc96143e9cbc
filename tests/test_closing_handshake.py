"""Closing handshakes, started by the host and by the server (RFC 6455 section 7).

Read beside the contract's section "A connection's life".
"""

import contextlib
from typing import Any

import pytest

from harness import CONT, PING, PONG, TEXT, Listener, Plugin, close_frame, frame, within
from host_lines import background, close, done, expect_abnormal, expect_failure, send
from pool import Pool

# --- started by the host ---


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1000, "bye"), (1001, ""), (1014, "é"), (3000, ""), (4999, "é" * 61 + "!")],
)
@pytest.mark.parametrize(
    "answer",
    [close_frame(1000), close_frame(None), close_frame(4001, "other"), close_frame(1011)],
)
def test_close_by_host(
    plugin: Plugin, server: Listener, code: int, reason: str, answer: bytes
) -> None:
    """The Close frame that started it counts, whatever the server answers."""
    id, peer = server.open(plugin)
    with peer:
        plugin.send(close(id, code, reason))
        assert plugin.read() == done("close")
        peer.expect_close(code, reason)
        peer.send(answer)
    assert plugin.event(id, "close") == {"code": code, "reason": reason, "cause": "host"}


def test_messages_arrive_until_the_server_has_closed_too(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send(close(id))
        assert plugin.read() == done("close")
        peer.expect_close(1000)
        peer.send(frame(TEXT, b"late") + frame(PING, b"still there?"))
        assert plugin.event(id, "message")["data"] == "late"
        assert peer.read_frame() == (0x80 | PONG, b"still there?")
        peer.send(frame(TEXT, b"lat", fin=False) + frame(CONT, b"er") + close_frame(1000))
    assert plugin.event(id, "message")["data"] == "later"
    assert plugin.event(id, "close")["cause"] == "host"


def test_a_cut_is_a_cut_though_another_end_follows_at_once(
    plugin: Plugin, server: Listener
) -> None:
    """The server sees no Close frame, and the host no failure."""
    id, peer = server.open(plugin)
    with peer:
        plugin.send(close(id) | {"payload": {"id": id, "timeout": 0}}, background())
        assert plugin.read() == done("close")
        expect_abnormal(plugin.event(id, "close"), "host")
        assert plugin.read() == done("background")
        peer.expect_end()


def test_a_longer_timeout_of_a_close_counts_as_the_close_timeout(
    pool: Pool, server: Listener
) -> None:
    """Of one that has ended already, too."""
    with pool.lend("--close-timeout", "0.2") as plugin:
        id, peer = server.open(plugin)
        with peer:
            longer = close(id) | {"payload": {"id": id, "timeout": 3_600_000}}
            plugin.send(background(), longer)
            assert plugin.read() == done("close")
            closed = plugin.event(id, "close")
            assert "longer than 0.2 seconds" in expect_abnormal(closed, "background")
            assert plugin.read() == done("background")


def test_sends_go_out_before_the_close_frame(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send(send(id, "a"), send(id, "b"), close(id, 4000), send(id, "c"), close(id, 4001))
        assert [plugin.read() for _ in range(3)] == [done("a"), done("b"), done("close")]
        expect_failure(plugin.read(), "c", "not-open")
        assert plugin.read() == done("close")
        assert peer.read_frame() == (0x80 | TEXT, b"a")
        assert peer.read_frame() == (0x80 | TEXT, b"b")
        peer.expect_close(4000, "")
        peer.send(close_frame(4000))
    assert plugin.event(id, "close")["code"] == 4000


def test_server_does_not_answer_the_close_frame(hasty: Plugin, server: Listener) -> None:
    id, peer = server.open(hasty)
    with peer:
        with within(0.3):
            hasty.send(close(id, 4000, "bye"))
            assert hasty.read() == done("close")
            peer.expect_close(4000, "bye")
            expect_abnormal(hasty.event(id, "close"), "host")
        peer.expect_end()


@pytest.mark.parametrize("kept_alive_by", [frame(TEXT, b"more"), frame(PING), frame(PONG)])
def test_a_server_that_goes_on_instead_of_closing(
    hasty: Plugin, server: Listener, kept_alive_by: bytes
) -> None:
    id, peer = server.open(hasty)
    with peer, within(0.3):
        hasty.send(close(id))
        assert hasty.read() == done("close")
        with contextlib.suppress(ConnectionError):
            while True:
                peer.send(kept_alive_by)
                peer.sock.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    if not peer.sock.recv(65536):
                        break
    events = hasty.events_to_close(id)
    assert {name for name, _ in events[:-1]} <= {"message"}
    expect_abnormal(events[-1][1], "host")


def test_close_timeout_includes_waiting_sends(pool: Pool, server: Listener) -> None:
    """A server that does not read: the Close frame never gets its turn."""
    with pool.lend("--close-timeout", "0.5", "--max-send-buffer", "64MiB") as plugin:
        id, peer = server.open(plugin, perMessageDeflate=False)
        with peer:
            big = "*" * 2**20
            plugin.send(*(send(id, big, n + 1) for n in range(24)))
            with within(0.5):
                plugin.send(close(id))
                answers: list[Any] = []
                while len(answers) < 25:
                    answers.append(plugin.read())
                expect_abnormal(plugin.event(id, "close"), "host")
        ok = [line["id"] for line in answers if "response" in line]
        failed = [line["id"] for line in answers if "error" in line]
        ok.remove("close")
        assert ok + failed == list(range(1, 25))
        assert all(line["error"]["code"] == "not-open" for line in answers if "error" in line)


# --- started by the server ---


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1000, "bye"), (4321, "é"), (None, ""), (1011, "oops")]
)
def test_close_by_server(plugin: Plugin, server: Listener, code: int | None, reason: str) -> None:
    id, peer = server.open(plugin)
    with peer:
        peer.send(close_frame(code, reason))
        assert peer.expect_close() == close_frame(code, reason)[2:]
    assert plugin.event(id, "close") == {
        "code": 1005 if code is None else code,
        "reason": reason,
        "cause": "server",
    }


@pytest.mark.parametrize("by", ["host", "server"])
def test_server_does_not_end_tcp(plugin: Plugin, server: Listener, by: str) -> None:
    """At most one second after both Close frames."""
    id, peer = server.open(plugin)
    with peer:
        if by == "host":
            plugin.send(close(id, 4000, "end"))
            assert plugin.read() == done("close")
            peer.expect_close(4000)
        with within(1):
            peer.send(close_frame(4000, "end"))
            expected = {"code": 4000, "reason": "end", "cause": by}
            assert plugin.event(id, "close") == expected
        peer.expect_end()


def test_requests_between_both_close_frames_and_the_end_of_tcp(
    plugin: Plugin, server: Listener
) -> None:
    id, peer = server.open(plugin)
    with peer:
        peer.send(close_frame(4000))
        peer.expect_close(4000)
        plugin.send(send(id, "late"), close(id, 4001))
        expect_failure(plugin.read(), "late", "not-open")
        assert plugin.read() == done("close")
    assert plugin.event(id, "close") == {"code": 4000, "reason": "", "cause": "server"}


def test_close_frames_cross(plugin: Plugin, server: Listener) -> None:
    """Each side has sent its Close frame before it has the other's."""
    id, peer = server.open(plugin)
    with peer:
        with plugin.stopped():
            plugin.send(close(id, 4000, "host"))
            peer.send(close_frame(4001, "server"))
        peer.read_to_close()
    assert plugin.read() == done("close")
    assert plugin.event(id, "close") in (
        {"code": 4000, "reason": "host", "cause": "host"},
        {"code": 4001, "reason": "server", "cause": "server"},
    )
