"""The end of stdin: what was read is carried out, and ``--linger`` keeps connections open."""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import TEXT, TIMEOUT, Listener, Plugin, close_frame, frame
from host_lines import close, create, done, expect_failure, send
from pressure import MESSAGE, Flood, deaf_server, wait_until_full
from situations import DOWN, finish_closing
from systems import not_under_wine

# --- at once ---


def test_end_of_stdin_lets_handshakes_and_sends_finish() -> None:
    with Listener() as listener, Plugin() as plugin:
        plugin.send(create(listener.url), send("ws-1", "one", 1), send("ws-1", "two", 2))
        plugin.close_stdin()
        with listener.accept() as peer:
            assert plugin.read() == {"id": "create", "response": {"id": "ws-1"}}
            peer.handshake()
            plugin.event("ws-1", "open")
            assert [plugin.read()["id"], plugin.read()["id"]] == [1, 2]
            assert [peer.read_frame()[1], peer.read_frame()[1]] == [b"one", b"two"]
            peer.expect_close(1001, DOWN)
            peer.send(frame(TEXT, b"last words") + close_frame(1001))
            peer.close()
            assert plugin.event("ws-1", "message")["data"] == "last words"
            closing = plugin.event("ws-1", "close")
            assert closing == {"code": 1001, "reason": DOWN, "cause": "shutdown"}
        assert plugin.read_line() == b""
        assert plugin.wait() == 0


def test_end_of_stdin_lets_handshakes_fail() -> None:
    with Listener() as listener, Plugin() as plugin:
        plugin.send(create(listener.url), send("ws-1", "one", 1))
        plugin.close_stdin()
        with listener.accept() as peer:
            peer.read_request()
            peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            assert plugin.read()["id"] == "create"
            assert plugin.read()["error"]["code"] == "not-open"
            assert plugin.event("ws-1", "error")["status"] == 404
            assert plugin.event("ws-1", "close")["cause"] == "failure"
        assert plugin.read_line() == b""
        assert plugin.wait() == 0


def test_end_of_stdin_waits_for_a_slow_server() -> None:
    with deaf_server() as listener, Plugin() as plugin:
        _, peer = listener.open(plugin)
        count = 12
        data = "x" * 2**20
        with peer:
            plugin.send(*(send("ws-1", data, id) for id in range(count)))
            plugin.close_stdin()
            for _ in range(count):
                assert peer.read_frame()[1] == data.encode()
            for id in range(count):
                assert plugin.read() == done(id)
            finish_closing(peer, plugin, "ws-1")
        assert plugin.wait() == 0


def test_end_of_stdin_leaves_a_close_of_the_host_as_it_is() -> None:
    with Listener() as listener, Plugin() as plugin:
        _, peer = listener.open(plugin)
        with peer:
            plugin.send(close("ws-1", 3000, "enough", None))
            plugin.close_stdin()
            peer.expect_close(3000, "enough")
            peer.send(close_frame(3000))
            peer.close()
            closing = plugin.event("ws-1", "close")
            assert closing == {"code": 3000, "reason": "enough", "cause": "host"}
        assert plugin.wait() == 0


def test_end_of_stdin_waits_for_a_host_that_reads_late() -> None:
    count, data = 40, b"x" * 2**18
    with Listener() as listener, Plugin() as plugin:
        id, peer = listener.open(plugin)
        with peer:
            plugin.stop_reading()
            thread = threading.Thread(target=peer.send, args=(frame(TEXT, data) * count,))
            thread.start()
            plugin.close_stdin()
            with pytest.raises(subprocess.TimeoutExpired):
                plugin.process.wait(0.5)
            plugin.resume_reading()
            for _ in range(count):
                assert plugin.event(id, "message")["data"] == data.decode()
            thread.join(TIMEOUT)
            finish_closing(peer, plugin, id)
        assert plugin.wait() == 0


def test_end_of_stdin_leaves_handshakes_their_time() -> None:
    """Connections that wait for a place hurry those that close, not those that still connect."""
    with Listener() as listener, Plugin() as plugin, contextlib.ExitStack() as stack:
        _, closing = listener.open(plugin)
        plugin.request("websocket-close", {"id": "ws-1"})
        closing.expect_close(1000)
        peers = []
        for _ in range(4):
            plugin.create(listener.url)
            peers.append(stack.enter_context(listener.accept()))
        for number in range(6, 9):
            id = plugin.create(listener.url)
            plugin.send(send(id, "waits for a place", number), close(id, request=None))
        plugin.request("plugin-describe")
        plugin.close_stdin()
        closing.send(close_frame(1000))
        closing.close()
        assert plugin.event("ws-1", "close")["cause"] == "host"
        for number in (6, 7):
            # Each has its place for a second, and its server does not answer.
            with listener.accept() as peer:
                peer.read_request()
                expect_failure(plugin.read(), number, "not-open")
                assert plugin.event(f"ws-{number}", "close")["cause"] == "host"
        with listener.accept() as peer:
            peer.handshake()
            plugin.event("ws-8", "open")
            assert plugin.read() == done(8)
            assert peer.read_frame()[1] == b"waits for a place"
            peer.expect_close(1000)
            peer.send(close_frame(1000))
        assert plugin.event("ws-8", "close")["cause"] == "host"
        for number, peer in enumerate(peers, 2):
            peer.handshake()
            plugin.event(f"ws-{number}", "open")
            finish_closing(peer, plugin, f"ws-{number}")
        assert plugin.read_line() == b""
        assert plugin.wait() == 0


LAST_LINES: dict[str, Callable[[str], Any]] = {
    "websocket-send": lambda url: send("ws-1", "last", 9),
    "websocket-create": create,
}


@pytest.mark.parametrize("make", LAST_LINES.values(), ids=LAST_LINES)
def test_a_last_line_that_ends_while_the_host_is_behind(make: Callable[[str], Any]) -> None:
    """Without LF it is complete with the end of stdin only."""
    with Listener() as listener, Plugin() as plugin:
        _, peer = listener.open(plugin)
        with peer:
            plugin.stop_reading()
            plugin.write(json.dumps(make(listener.url)).encode())
            thread = Flood(peer, [MESSAGE] * 400)
            wait_until_full(peer.sock)
            plugin.close_stdin()
            plugin.resume_reading()
            frames = [payload for _, payload in peer.read_to_close()[:-1]]
            thread.join(TIMEOUT)
            peer.send(close_frame(1001))
        if make is create:
            assert frames == []
            with listener.accept() as other:
                other.handshake()
                other.expect_close(1001, DOWN)
                other.send(close_frame(1001))
        else:
            assert frames == [b"last"]
        lines = [json.loads(line) for line in iter(plugin.read_line, b"")]
        answers = [line["id"] for line in lines if "id" in line]
        assert answers == (["create"] if make is create else [9])
        names = [line["payload"]["name"] for line in lines if "event" in line]
        assert names.count("message") == 400
        assert names.count("close") == (2 if make is create else 1)
        assert plugin.wait() == 0


INPUTS: dict[str, tuple[bytes, int]] = {
    # what stdin holds, and how many answers
    "nothing": (b"", 0),
    "a blank line": (b"\n", 0),
    "a line": (b'{"id":1,"action":"plugin-describe"}\n', 1),
    "a line without LF": (b'{"id":1,"action":"plugin-describe"}', 1),
    "half a line": (b'{"id":1,"action":"plug', 1),
}


@pytest.mark.parametrize(("data", "answers"), INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize(
    "kind", ["pipe", pytest.param("file", marks=not_under_wine("it gives CPython no files"))]
)
def test_input_that_ends_at_once(data: bytes, answers: int, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "stdin"
    path.write_bytes(data)
    with path.open("rb") as file, Plugin(stdin=file if kind == "file" else -1) as plugin:
        if kind == "pipe":
            plugin.write(data)
            plugin.close_stdin()
        for _ in range(answers):
            plugin.read()
        assert plugin.read_line() == b""
        assert plugin.wait() == 0
        assert plugin.stderr == b""


# --- linger ---


def test_linger_keeps_open_until_servers_have_closed_all() -> None:
    with Listener() as listener, Plugin("--linger", "3600") as plugin:
        first, peer = listener.open(plugin)
        second, other = listener.open(plugin)
        with peer, other:
            plugin.close_stdin()
            for number in range(3):
                peer.send(frame(TEXT, b"%d" % number))
                assert plugin.event(first, "message")["data"] == f"{number}"
            peer.send(close_frame(1000, "done"))
            peer.close()
            assert plugin.event(first, "close")["cause"] == "server"
            other.send(frame(TEXT, b"still there"))
            assert plugin.event(second, "message")["data"] == "still there"
            other.send(close_frame(1000, "done"))
            other.close()
            assert plugin.event(second, "close")["cause"] == "server"
        assert plugin.wait() == 0


def test_linger_ends() -> None:
    seconds = 0.5
    with Listener() as listener, Plugin("--linger", f"{seconds}") as plugin:
        id, peer = listener.open(plugin)
        with peer:
            since = time.monotonic()
            plugin.close_stdin()
            finish_closing(peer, plugin, id)
            assert time.monotonic() - since >= seconds
        assert plugin.wait() == 0


def test_without_connections_linger_is_over_at_once() -> None:
    with Plugin("--linger", "3600") as plugin:
        plugin.request("plugin-describe")
        assert plugin.finish() == ([], 0)


def test_linger_lets_handshakes_finish() -> None:
    with Listener() as listener, Plugin("--linger", "3600") as plugin:
        plugin.send(create(listener.url))
        plugin.close_stdin()
        with listener.accept() as peer:
            peer.handshake(glued=frame(TEXT, b"hi") + close_frame(1000))
            peer.expect_close(1000)
            peer.close()
            assert plugin.read()["id"] == "create"
            plugin.event("ws-1", "open")
            assert plugin.event("ws-1", "message")["data"] == "hi"
            assert plugin.event("ws-1", "close")["code"] == 1000
        assert plugin.wait() == 0
