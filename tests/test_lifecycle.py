"""One connection's life: states, queue, closing handshake, places, eviction, background.

Read beside the contract's section "A connection's life". Servers are played by hand. Times are
asserted only where the contract promises one, with a second and a half to spare for a busy
machine.
"""

import contextlib
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Listener,
    Peer,
    Plugin,
    Pool,
    close_frame,
    frame,
)

SLACK = 1.5
"""Seconds that a bound of the contract may be exceeded by, for the machine's sake."""


@pytest.fixture
def hasty(pool: Pool) -> Iterator[Plugin]:
    """A plugin that waits only a moment for closing handshakes."""
    with pool.lend("--close-timeout", "0.3") as plugin:
        yield plugin


@pytest.fixture
def server() -> Iterator[Listener]:
    with Listener() as listener:
        yield listener


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Check a bound that the contract names."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds + SLACK


@contextlib.contextmanager
def stopped(plugin: Plugin) -> Iterator[None]:
    """Stop the process: what happens meanwhile has happened at once when it goes on."""
    os.kill(plugin.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, plugin.process.pid, os.WSTOPPED | os.WNOWAIT)
    try:
        yield
    finally:
        os.kill(plugin.process.pid, signal.SIGCONT)


def send(id: str, text: str, request: Any = None) -> dict[str, Any]:
    """Return a request that sends a text."""
    payload = {"id": id, "type": "text", "data": text}
    return {"id": request or text, "action": "websocket-send", "payload": payload}


def close(id: str, code: int = 1000, reason: str = "", request: Any = "close") -> dict[str, Any]:
    """Return a request that closes a connection."""
    payload = {"id": id, "code": code, "reason": reason}
    return {"id": request, "action": "websocket-close", "payload": payload}


def create(url: str, request: Any = "create", **options: Any) -> dict[str, Any]:
    """Return a request that creates a connection."""
    return {"id": request, "action": "websocket-create", "payload": {"url": url, **options}}


def background(request: Any = "background") -> dict[str, Any]:
    """Return a request that ends all connections."""
    return {"id": request, "action": "app-background"}


def done(request: Any) -> dict[str, Any]:
    """Return the answer without content."""
    return {"id": request, "response": {}}


def expect_failure(line: Any, request: Any, code: str) -> None:
    """Check the answer to a request that failed."""
    assert (line["id"], line["error"]["code"]) == (request, code)
    assert line["error"]["errMsg"]


def expect_abnormal(payload: Any, cause: str) -> str:
    """Check a `close` event without closing handshake; return its reason."""
    assert (payload["code"], payload["cause"]) == (1006, cause)
    assert payload["reason"]
    assert len(payload) == 3
    return str(payload["reason"])


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
    server.sock.settimeout(20)


# --- ended by the host ---


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


# --- ended by the server ---


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
        with stopped(plugin):
            plugin.send(close(id, 4000, "host"))
            peer.send(close_frame(4001, "server"))
        peer.read_to_close()
    assert plugin.read() == done("close")
    assert plugin.event(id, "close") in (
        {"code": 4000, "reason": "host", "cause": "host"},
        {"code": 4001, "reason": "server", "cause": "server"},
    )


# --- TCP ends without a closing handshake ---


def end(peer: Peer) -> None:
    """End the TCP connection in an orderly way."""
    peer.close()


def reset(peer: Peer) -> None:
    """Reset the TCP connection."""
    peer.reset()


ENDS = pytest.mark.parametrize("end", [end, reset])
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
    if end is reset:
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


# --- connecting ---


def test_sends_wait_for_the_opening_handshake(plugin: Plugin, server: Listener) -> None:
    id, peer = connecting(plugin, server)
    with peer:
        plugin.send(*(send(id, f"{n}") for n in range(20)))
        # Nothing of them is answered yet: another request is answered first.
        assert "response" in plugin.request("plugin-describe")
        peer.send(peer.response())
        plugin.event(id, "open")
        for n in range(20):
            assert plugin.read() == done(f"{n}")
            assert peer.read_frame() == (0x80 | TEXT, b"%d" % n)
        peer.send(close_frame(1000))
        peer.expect_close(1000)
    plugin.event(id, "close")


@pytest.mark.parametrize("reason", ["", "changed my mind"])
def test_close_while_connecting(plugin: Plugin, server: Listener, reason: str) -> None:
    id, peer = connecting(plugin, server)
    with peer:
        plugin.send(close(id, 4000, reason))
        assert plugin.read() == done("close")
        why = expect_abnormal(plugin.event(id, "close"), "host")
        # In words, and true ones: nobody has lost anything.
        assert "lost" not in why
        peer.expect_end()


def test_close_in_the_same_write_as_create(plugin: Plugin, server: Listener) -> None:
    first = int(plugin.create(server.url).split("-")[1])
    server.accept().reset()
    plugin.events_to_close(f"ws-{first}")
    id = f"ws-{first + 1}"
    plugin.send(create(server.url), close(id), send(id, "late"), close(id))
    assert plugin.read() == {"id": "create", "response": {"id": id}}
    assert plugin.read() == done("close")
    expect_failure(plugin.read(), "late", "not-open")
    assert plugin.read() == done("close")
    expect_abnormal(plugin.event(id, "close"), "host")


def test_close_behind_waiting_sends(plugin: Plugin, server: Listener) -> None:
    """It takes its turn behind them, and is answered at once."""
    id, peer = connecting(plugin, server)
    with peer:
        plugin.send(send(id, "a"), send(id, "b"), close(id, 4000, "bye"), send(id, "c"), close(id))
        assert plugin.read() == done("close")
        expect_failure(plugin.read(), "c", "not-open")
        assert plugin.read() == done("close")
        peer.send(peer.response())
        plugin.event(id, "open")
        assert [plugin.read(), plugin.read()] == [done("a"), done("b")]
        assert peer.read_frame() == (0x80 | TEXT, b"a")
        assert peer.read_frame() == (0x80 | TEXT, b"b")
        peer.expect_close(4000, "bye")
        peer.send(close_frame(4000))
    assert plugin.event(id, "close") == {"code": 4000, "reason": "bye", "cause": "host"}


def test_close_timeout_includes_the_opening_handshake(hasty: Plugin, server: Listener) -> None:
    id, peer = connecting(hasty, server)
    with peer, within(0.3):
        hasty.send(send(id, "a"), close(id))
        assert hasty.read() == done("close")
        expect_failure(hasty.read(), "a", "not-open")
        expect_abnormal(hasty.event(id, "close"), "host")
        peer.expect_end()


@pytest.mark.parametrize("with_close", [False, True])
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "handshake-failed"),
        (b"", "network-error"),
        (b"SSH-2.0-OpenSSH\r\n", "handshake-failed"),
    ],
)
def test_sends_wait_in_vain(
    plugin: Plugin, server: Listener, answer: bytes, code: str, with_close: bool
) -> None:
    """Answered before both, in order."""
    id, peer = connecting(plugin, server)
    with peer:
        plugin.send(send(id, "a"), send(id, "b"))
        if with_close:
            plugin.send(close(id))
            assert plugin.read() == done("close")
        peer.send(answer)
    for text in ("a", "b"):
        expect_failure(plugin.read(), text, "not-open")
    events = plugin.events_to_close(id)
    if not with_close:
        (error, why), (_, end) = events
        assert (error, why["code"]) == ("error", code)
        expect_abnormal(end, "failure")
    assert events[-1][1]["code"] == 1006


def test_open_timeout_with_sends_waiting(plugin: Plugin, server: Listener) -> None:
    id, peer = connecting(plugin, server, timeout=100)
    with peer, within(0.1):
        plugin.send(send(id, "a"))
        expect_failure(plugin.read(), "a", "not-open")
        assert plugin.event(id, "error")["code"] == "open-timeout"
        expect_abnormal(plugin.event(id, "close"), "failure")
        peer.expect_end()


def test_waiting_sends_are_limited(pool: Pool, server: Listener) -> None:
    """Into an empty buffer any message goes."""
    with pool.lend("--max-send-buffer", "10") as plugin:
        id, peer = connecting(plugin, server, perMessageDeflate=False)
        with peer:
            plugin.send(send(id, "*" * 20, "big"), send(id, "*", "small"))
            expect_failure(plugin.read(), "small", "buffer-full")
            peer.send(peer.response())
            plugin.event(id, "open")
            assert plugin.read() == done("big")
            assert peer.read_frame() == (0x80 | TEXT, b"*" * 20)
            peer.send(close_frame(1000))
            peer.expect_close()
        plugin.event(id, "close")


# --- ids ---


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


# --- places ---


def test_sixth_connection_ends_the_oldest(plugin: Plugin, server: Listener) -> None:
    pairs = [server.open(plugin) for _ in range(5)]
    sixth = plugin.create(server.url)
    oldest, peer = pairs.pop(0)
    payload = peer.expect_close(1001, "connection limit of 5 reached")
    # Its place is not free before its `close` event.
    expect_nobody(server)
    peer.send(frame(CLOSE, payload))
    peer.close()
    assert plugin.event(oldest, "close") == {
        "code": 1001,
        "reason": "connection limit of 5 reached",
        "cause": "limit",
    }
    with server.accept() as peer:
        peer.handshake()
        plugin.event(sixth, "open")
        plugin.send(send(oldest, "late"), close(oldest))
        expect_failure(plugin.read(), "late", "not-open")
        assert plugin.read() == done("close")
        for id, other in [*pairs, (sixth, peer)]:
            other.send(close_frame(1000))
            other.expect_close()
            other.close()
            plugin.event(id, "close")


def test_evicted_connection_sends_what_waits(plugin: Plugin, server: Listener) -> None:
    pairs = [server.open(plugin) for _ in range(5)]
    oldest, peer = pairs[0]
    plugin.send(send(oldest, "last words"), create(server.url), send(oldest, "too late"))
    assert plugin.read() == done("last words")
    sixth = plugin.read()["response"]["id"]
    expect_failure(plugin.read(), "too late", "not-open")
    assert peer.read_frame() == (0x80 | TEXT, b"last words")
    peer.expect_close(1001)
    peer.send(frame(TEXT, b"farewell") + close_frame(1001))
    peer.close()
    assert plugin.event(oldest, "message")["data"] == "farewell"
    assert plugin.event(oldest, "close")["cause"] == "limit"
    server.accept().reset()
    plugin.event(sixth, "error")
    plugin.event(sixth, "close")
    for id, other in pairs[1:]:
        other.reset()
        plugin.events_to_close(id)


def test_evicted_server_does_not_answer(plugin: Plugin, server: Listener) -> None:
    """One second for its closing handshake."""
    pairs = [server.open(plugin) for _ in range(5)]
    with within(1):
        sixth = plugin.create(server.url)
        expect_abnormal(plugin.event(pairs[0][0], "close"), "limit")
        peer = server.accept()
    pairs[0][1].expect_end()
    pairs[0][1].close()
    for id, other in [*pairs[1:], (sixth, peer)]:
        other.reset()
        plugin.events_to_close(id)


def test_eviction_while_connecting(plugin: Plugin, server: Listener) -> None:
    """Aborted at once, its sends answered before its `close` event."""
    pairs = [connecting(plugin, server) for _ in range(5)]
    oldest, peer = pairs.pop(0)
    plugin.send(send(oldest, "a"), create(server.url))
    sixth = plugin.read()["response"]["id"]
    expect_failure(plugin.read(), "a", "not-open")
    reason = expect_abnormal(plugin.event(oldest, "close"), "limit")
    assert reason == "connection limit of 5 reached"
    peer.expect_end()
    peer.close()
    for id, other in [*pairs, (sixth, server.accept())]:
        other.reset()
        plugin.events_to_close(id)


def test_eviction_while_waiting_for_a_place(plugin: Plugin, server: Listener) -> None:
    """Five leave slowly, five wait for their places: an eleventh ends the oldest that waits."""
    _, peers = silent(plugin, server, 5)
    waiting = [plugin.create(server.url) for _ in range(5)]
    plugin.send(send(waiting[0], "a"), create(server.url))
    eleventh = plugin.read()["response"]["id"]
    expect_failure(plugin.read(), "a", "not-open")
    reason = expect_abnormal(plugin.event(waiting[0], "close"), "limit")
    assert reason == "connection limit of 5 reached"
    expect_nobody(server)
    for id in (*waiting[1:], eleventh):
        plugin.send(close(id))
        assert plugin.read() == done("close")
        expect_abnormal(plugin.event(id, "close"), "host")
    finish(plugin, peers)
    expect_nobody(server)


def test_closing_connections_do_not_count(plugin: Plugin, server: Listener) -> None:
    """A create beside four open and one closing evicts nobody; it waits for the fifth place."""
    pairs = [server.open(plugin) for _ in range(5)]
    middle, peer = pairs.pop(2)
    plugin.send(close(middle), create(server.url))
    assert plugin.read() == done("close")
    sixth = plugin.read()["response"]["id"]
    peer.expect_close(1000)
    expect_nobody(server)
    peer.send(close_frame(1000))
    peer.close()
    assert plugin.event(middle, "close")["code"] == 1000
    for id, other in [*pairs, (sixth, server.accept())]:
        other.reset()
        plugin.events_to_close(id)


@pytest.mark.parametrize("closed_by", ["host", "server"])
def test_create_cuts_off_a_closing_connection(
    plugin: Plugin, server: Listener, closed_by: str
) -> None:
    """After one second, and no more of them than it needs."""
    pairs = [server.open(plugin) for _ in range(5)]
    for id, peer in pairs:
        if closed_by == "host" or id != pairs[0][0]:
            plugin.send(close(id))
            assert plugin.read() == done("close")
        else:
            peer.send(close_frame(1000))
        peer.expect_close(1000)
    with within(1):
        sixth = plugin.create(server.url)
        line = plugin.read()
        assert line["payload"]["name"] == "close"
        assert line["payload"]["payload"]["cause"] == closed_by
        ended = line["payload"]["id"]
        peer = server.accept()
    if closed_by == "server":
        assert ended == pairs[0][0]
    peer.handshake()
    plugin.event(sixth, "open")
    for id, other in pairs:
        if id != ended:
            other.send(close_frame(1000))
        other.close()
        if id != ended:
            assert plugin.event(id, "close") == {"code": 1000, "reason": "", "cause": "host"}
    peer.reset()
    plugin.events_to_close(sixth)


def test_a_place_that_comes_free_at_once_spares_the_closing(
    plugin: Plugin, server: Listener
) -> None:
    """A create cuts off only what it waits for: not where another gives its place first."""
    _, (slow,) = silent(plugin, server, 1)
    others = [connecting(plugin, server) for _ in range(4)]
    aborted, gone = others.pop(0)
    plugin.send(close(aborted), create(server.url))
    assert plugin.read() == done("close")
    sixth = plugin.read()["response"]["id"]
    gone.expect_end()
    gone.close()
    expect_abnormal(plugin.event(aborted, "close"), "host")
    peer = server.accept()
    # Cut off, the closing connection would be reset within a second.
    slow.sock.settimeout(1 + SLACK)
    with pytest.raises(TimeoutError):
        slow.sock.recv(1)
    finish(plugin, [slow])
    for id, other in [*others, (sixth, peer)]:
        other.reset()
        plugin.events_to_close(id)


def test_close_while_waiting_for_a_place(plugin: Plugin, server: Listener) -> None:
    _, peers = silent(plugin, server, 5)
    sixth = plugin.create(server.url)
    plugin.send(close(sixth, 4000, "never mind"), close(sixth), send(sixth, "late"))
    lines = [plugin.read() for _ in range(4)]
    event = next(line for line in lines if "event" in line)
    lines.remove(event)
    expect_abnormal(event["payload"]["payload"], "host")
    assert lines[:2] == [done("close")] * 2
    expect_failure(lines[2], "late", "not-open")
    finish(plugin, peers)
    expect_nobody(server)


def test_sends_and_close_wait_for_a_place(plugin: Plugin, server: Listener) -> None:
    _, peers = silent(plugin, server, 5)
    sixth = plugin.create(server.url)
    plugin.send(send(sixth, "a"), close(sixth, 4000), send(sixth, "b"))
    assert plugin.read() == done("close")
    expect_failure(plugin.read(), "b", "not-open")
    finish(plugin, peers)
    with server.accept() as peer:
        peer.handshake()
        plugin.event(sixth, "open")
        assert plugin.read() == done("a")
        assert peer.read_frame() == (0x80 | TEXT, b"a")
        peer.expect_close(4000)
        peer.send(close_frame(4000))
    assert plugin.event(sixth, "close")["cause"] == "host"


def test_close_timeout_while_waiting_for_a_place(pool: Pool, server: Listener) -> None:
    with pool.lend("--close-timeout", "0.8") as plugin:
        pairs = [server.open(plugin) for _ in range(5)]
        sixth = plugin.create(server.url)
        seventh = plugin.create(server.url)
        with within(1):
            plugin.send(send(seventh, "a"), close(seventh))
            assert plugin.read() == done("close")
            lines = [plugin.read() for _ in range(4)]
        failure = next(line for line in lines if "id" in line)
        expect_failure(failure, "a", "not-open")
        events = [line["payload"] for line in lines if "event" in line]
        ends = {event["id"]: event["payload"] for event in events}
        assert set(ends) == {pairs[0][0], pairs[1][0], seventh}
        expect_abnormal(ends[seventh], "host")
        for _, peer in pairs[:2]:
            peer.close()
        for id, peer in [*pairs[2:], (sixth, server.accept())]:
            peer.reset()
            plugin.events_to_close(id)


def test_open_timeout_starts_with_the_place(plugin: Plugin, server: Listener) -> None:
    _, peers = silent(plugin, server, 5)
    sixth = plugin.create(server.url, timeout=300)
    # It waits a second for its place, more than three times its timeout.
    line = plugin.read()
    assert (line["payload"]["name"], line["payload"]["payload"]["cause"]) == ("close", "host")
    with server.accept() as peer:
        peer.read_request()
        assert plugin.event(sixth, "error")["code"] == "open-timeout"
        expect_abnormal(plugin.event(sixth, "close"), "failure")
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.send(close_frame(1000))
        peer.close()
    for _ in peers[1:]:
        assert plugin.read()["payload"]["name"] == "close"


@pytest.mark.parametrize("limit", [1, 2])
def test_max_connections(pool: Pool, server: Listener, limit: int) -> None:
    with pool.lend("--max-connections", str(limit)) as plugin:
        reason = f"connection limit of {limit} reached"
        pairs = [server.open(plugin) for _ in range(limit)]
        for _ in range(3):
            oldest, peer = pairs.pop(0)
            id = plugin.create(server.url)
            peer.expect_close(1001, reason)
            peer.send(close_frame(1001))
            peer.close()
            expected = {"code": 1001, "reason": reason, "cause": "limit"}
            assert plugin.event(oldest, "close") == expected
            peer = server.accept()
            peer.handshake()
            plugin.event(id, "open")
            pairs.append((id, peer))
        for id, peer in pairs:
            peer.reset()
            plugin.events_to_close(id)


def test_many_creates_in_one_write(plugin: Plugin, server: Listener) -> None:
    """All but the last five are ended, and the server sees no more than five at a time."""
    plugin.send(*(create(server.url, n) for n in range(40)))
    ids: list[str] = []
    ended: list[str] = []
    while len(ended) < 35:
        line = plugin.read()
        if "response" in line:
            assert line["id"] == len(ids)
            ids.append(line["response"]["id"])
        else:
            event = line["payload"]
            assert event["name"] == "close"
            expect_abnormal(event["payload"], "limit")
            ended.append(event["id"])
    assert sorted(ended, key=ids.index) == ids[:35]
    # Those given a place first may have reached the server before they were ended.
    live: list[Peer] = []
    while len(live) < 5:
        peer = server.accept()
        try:
            peer.handshake()
            live.append(peer)
        except (EOFError, ConnectionError):
            peer.close()
    opened = [plugin.read()["payload"] for _ in range(5)]
    assert sorted(event["id"] for event in opened) == sorted(ids[35:])
    assert all(event["name"] == "open" for event in opened)
    for peer in live:
        peer.reset()
    events = [plugin.read()["payload"]["name"] for _ in range(10)]
    assert sorted(events) == ["close"] * 5 + ["error"] * 5


# --- background ---


def test_background_without_connections(plugin: Plugin) -> None:
    for payload in (None, dict[str, Any]()):
        assert plugin.request("app-background", payload) == done(1)
    plugin.send({"id": 2, "action": "app-background", "payload": None})
    assert plugin.read() == done(2)


def test_background_in_every_state(plugin: Plugin, server: Listener) -> None:
    """Every `close` event first, the answer last."""
    open_id, open_peer = server.open(plugin)
    connecting_id, connecting_peer = connecting(plugin, server)
    (closing_id,), (closing_peer,) = silent(plugin, server, 1)
    closed_id, closed_peer = server.open(plugin)
    closed_peer.send(close_frame(4000, "bye"))
    closed_peer.expect_close(4000)
    queued_id, queued_peer = connecting(plugin, server)
    plugin.send(send(connecting_id, "a"), send(queued_id, "b"), close(queued_id))
    assert plugin.read() == done("close")
    with within(1):
        plugin.send(background(), send(open_id, "late"), close(open_id))
        open_peer.expect_close(1001, "application entered background")
        open_peer.send(close_frame(1001))
        open_peer.close()
        lines: list[Any] = []
        while not lines or lines[-1] != done("background"):
            lines.append(plugin.read())
    answers = {line["id"]: line for line in lines if "id" in line}
    for text in ("a", "b", "late"):
        expect_failure(answers[text], text, "not-open")
    assert answers["close"] == done("close")
    assert all(line["payload"]["name"] == "close" for line in lines if "event" in line)
    ends = {line["payload"]["id"]: line["payload"]["payload"] for line in lines if "event" in line}
    assert len(ends) == 5
    reason = "application entered background"
    assert ends[open_id] == {"code": 1001, "reason": reason, "cause": "background"}
    assert expect_abnormal(ends[connecting_id], "background") == reason
    # What had been ended before keeps its cause.
    expect_abnormal(ends[closing_id], "host")
    assert ends[closed_id] == {"code": 4000, "reason": "bye", "cause": "server"}
    expect_abnormal(ends[queued_id], "host")
    for peer in (connecting_peer, closing_peer, closed_peer, queued_peer):
        peer.expect_end()
        peer.close()


def test_background_while_waiting_for_a_place(plugin: Plugin, server: Listener) -> None:
    _, peers = silent(plugin, server, 5)
    waiting = plugin.create(server.url)
    plugin.send(send(waiting, "a"), background())
    expect_failure(plugin.read(), "a", "not-open")
    expect_abnormal(plugin.event(waiting, "close"), "background")
    finish(plugin, peers)
    assert plugin.read() == done("background")
    expect_nobody(server)


def test_background_and_a_silent_server(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        with within(1):
            plugin.send(background())
            expect_abnormal(plugin.event(id, "close"), "background")
            assert plugin.read() == done("background")
        peer.expect_close(1001)
        peer.expect_end()


def test_background_sends_what_waits(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send(send(id, "a"), send(id, "b"), background())
        assert [plugin.read(), plugin.read()] == [done("a"), done("b")]
        assert [payload for _, payload in peer.read_to_close()][:2] == [b"a", b"b"]
        peer.send(frame(TEXT, b"bye") + close_frame(1001))
    assert plugin.event(id, "message")["data"] == "bye"
    assert plugin.event(id, "close")["code"] == 1001
    assert plugin.read() == done("background")


def test_create_during_background(plugin: Plugin, server: Listener) -> None:
    """It ends those that existed; new ones live."""
    id, peer = server.open(plugin)
    plugin.send(background(1), create(server.url), background(2), create(server.url))
    second = plugin.read()["response"]["id"]
    lines = [plugin.read(), plugin.read()]
    (event,) = [line["payload"] for line in lines if "event" in line]
    assert (event["id"], event["name"]) == (second, "close")
    expect_abnormal(event["payload"], "background")
    (third,) = [line["response"]["id"] for line in lines if "id" in line]
    peer.expect_close(1001)
    peer.send(close_frame(1001))
    peer.close()
    assert plugin.event(id, "close")["cause"] == "background"
    assert [plugin.read(), plugin.read()] == [done(1), done(2)]
    while True:
        peer = server.accept()
        try:
            peer.handshake()
            break
        except (EOFError, ConnectionError):
            peer.close()  # the second one's
    plugin.event(third, "open")
    peer.reset()
    plugin.events_to_close(third)


def test_background_without_id(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send({"action": "app-background"})
        peer.expect_close(1001)
        peer.send(close_frame(1001))
    assert plugin.event(id, "close")["cause"] == "background"


# --- independence, and what happens at once ---


def test_connections_do_not_wait_for_each_other(plugin: Plugin, server: Listener) -> None:
    """One connecting, one stuck, one closing: a fifth exchanges messages meanwhile."""
    waiting, waiting_peer = connecting(plugin, server)
    stuck, stuck_peer = server.open(plugin, perMessageDeflate=False)
    (closing,), (closing_peer,) = silent(plugin, server, 1)
    plugin.send(*(send(stuck, "*" * 2**20, f"stuck {n}") for n in range(12)))
    taken = 0
    id = ""
    plugin.send(create(server.url))
    while not id:
        line = plugin.read()
        if line["id"] == "create":
            id = line["response"]["id"]
        else:
            assert line == done(f"stuck {taken}")
            taken += 1
    peer = server.accept()
    peer.handshake()
    plugin.event(id, "open")
    for n in range(20):
        plugin.send(send(id, f"{n}"))
        assert plugin.read() == done(f"{n}")
        assert peer.read_frame() == (0x80 | TEXT, b"%d" % n)
        peer.send(frame(TEXT, b"%d" % n))
        assert plugin.event(id, "message")["data"] == f"{n}"
    for other in (waiting_peer, stuck_peer, closing_peer, peer):
        other.reset()
    names: dict[str, list[str]] = {}
    while sum(events[-1] == "close" for events in names.values()) < 4:
        line = plugin.read()
        if "event" in line:
            names.setdefault(line["payload"]["id"], []).append(line["payload"]["name"])
    failed = ["error", "close"]
    assert names == {waiting: failed, stuck: failed, closing: ["close"], id: failed}


@pytest.mark.parametrize("code", [1000, 4000])
def test_close_and_the_servers_acceptance_at_once(
    plugin: Plugin, server: Listener, code: int
) -> None:
    """Either it was aborted while connecting, or opened and closed with a closing handshake."""
    id, peer = connecting(plugin, server)
    with peer:
        with stopped(plugin):
            plugin.send(close(id, code))
            peer.send(peer.response())
        assert plugin.read() == done("close")
        line = plugin.read()["payload"]
        if line["name"] == "open":
            peer.expect_close(code)
            peer.send(close_frame(code))
            peer.close()
            expected = {"code": code, "reason": "", "cause": "host"}
            assert plugin.event(id, "close") == expected
        else:
            assert line["name"] == "close"
            expect_abnormal(line["payload"], "host")


def test_background_and_the_servers_acceptance_at_once(plugin: Plugin, server: Listener) -> None:
    id, peer = connecting(plugin, server)
    with peer:
        with stopped(plugin):
            plugin.send(background())
            peer.send(peer.response() + frame(TEXT, b"hello"))
        line = plugin.read()["payload"]
        if line["name"] == "open":
            assert plugin.event(id, "message")["data"] == "hello"
            peer.expect_close(1001)
            peer.send(close_frame(1001))
            peer.close()
            assert plugin.event(id, "close")["code"] == 1001
        else:
            assert line["name"] == "close"
            expect_abnormal(line["payload"], "background")
    assert plugin.read() == done("background")


def test_send_and_the_servers_close_at_once(plugin: Plugin, server: Listener) -> None:
    """The answer tells the truth: `{}` and the server gets it, or `not-open` and it does not."""
    id, peer = server.open(plugin)
    with peer:
        with stopped(plugin):
            plugin.send(send(id, "a"))
            peer.send(close_frame(4000))
        frames = [payload for _, payload in peer.read_to_close()]
    answer = plugin.read()
    if "error" in answer:
        expect_failure(answer, "a", "not-open")
    assert frames == ([b"a"] if "response" in answer else []) + [struct.pack("!H", 4000)]
    assert plugin.event(id, "close")["cause"] == "server"


@ENDS
def test_close_and_the_end_of_tcp_at_once(plugin: Plugin, server: Listener, end: End) -> None:
    """On purpose or a failure, as the one or the other came first; never both."""
    id, peer = server.open(plugin)
    with stopped(plugin):
        plugin.send(close(id))
        end(peer)
    lines = [plugin.read(), plugin.read()]
    if lines[1].get("payload", {}).get("name") == "close":
        assert lines[0] == done("close")
        expect_abnormal(lines[1]["payload"]["payload"], "host")
        return
    lines.append(plugin.read())
    lines.remove(done("close"))
    (error, close_event) = (line["payload"] for line in lines)
    assert (error["name"], close_event["name"]) == ("error", "close")
    expect_abnormal(close_event["payload"], "failure")


def test_everything_of_a_short_life_at_once(plugin: Plugin, server: Listener) -> None:
    """Response, messages, Close frame and end of TCP arrive in one read."""
    id, peer = connecting(plugin, server)
    with stopped(plugin):
        plugin.send(send(id, "never"))
        messages = frame(TEXT, b"a") + frame(BINARY, b"b")
        peer.send(peer.response() + messages + close_frame(4000, "c"))
        peer.close()
    events: list[Any] = []
    answer = None
    while not events or events[-1]["name"] != "close":
        line = plugin.read()
        if "event" in line:
            events.append(line["payload"])
        else:
            answer = line
    assert answer is not None
    assert [event["name"] for event in events] == ["open", "message", "message", "close"]
    assert events[-1]["payload"] == {"code": 4000, "reason": "c", "cause": "server"}
