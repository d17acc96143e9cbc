"""How the process ends: end of stdin, signals, a host that has gone, and streams nobody reads.

Read beside the contract's section "Ending". Times are asserted only where the contract promises
one, with two seconds to spare for a busy machine.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from harness import (
    BINARY,
    PING,
    PLUGIN,
    PONG,
    TEXT,
    TIMEOUT,
    Listener,
    Peer,
    Plugin,
    close_frame,
    echo_server,
    frame,
)

SLACK = 2.0
"""Seconds that a bound of the contract may be exceeded by, for the machine's sake."""

SIGNALS = [signal.SIGTERM, signal.SIGINT]
DOWN = "plugin shutting down"

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Check a bound of the contract."""
    since = time.monotonic()
    yield
    assert time.monotonic() - since < seconds + SLACK


def create(url: str, **options: Any) -> Any:
    return {"id": "create", "action": "websocket-create", "payload": {"url": url, **options}}


def send(id: int, data: str) -> Any:
    payload = {"id": "ws-1", "type": "text", "data": data}
    return {"id": id, "action": "websocket-send", "payload": payload}


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


def no_more_lines(plugin: Plugin) -> None:
    assert plugin.read_line() == b""


# --- end of stdin ---


def test_end_of_stdin_lets_handshakes_and_sends_finish() -> None:
    with Listener() as listener, Plugin() as plugin:
        plugin.send(create(listener.url), send(1, "one"), send(2, "two"))
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
        no_more_lines(plugin)
        assert plugin.wait() == 0


def test_end_of_stdin_lets_handshakes_fail() -> None:
    with Listener() as listener, Plugin() as plugin:
        plugin.send(create(listener.url), send(1, "one"))
        plugin.close_stdin()
        with listener.accept() as peer:
            peer.read_request()
            peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            assert plugin.read()["id"] == "create"
            assert plugin.read()["error"]["code"] == "not-open"
            assert plugin.event("ws-1", "error")["status"] == 404
            assert plugin.event("ws-1", "close")["cause"] == "failure"
        no_more_lines(plugin)
        assert plugin.wait() == 0


def test_end_of_stdin_waits_for_a_slow_server() -> None:
    with Listener() as listener, Plugin() as plugin:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        _, peer = listener.open(plugin)
        count = 12
        data = "x" * 2**20
        with peer:
            plugin.send(*(send(id, data) for id in range(count)))
            plugin.close_stdin()
            for _ in range(count):
                assert peer.read_frame()[1] == data.encode()
            for id in range(count):
                assert plugin.read() == {"id": id, "response": {}}
            finish_closing(peer, plugin, "ws-1")
        assert plugin.wait() == 0


def test_end_of_stdin_leaves_a_close_of_the_host_as_it_is() -> None:
    with Listener() as listener, Plugin() as plugin:
        _, peer = listener.open(plugin)
        with peer:
            payload = {"id": "ws-1", "code": 3000, "reason": "enough"}
            plugin.send({"action": "websocket-close", "payload": payload})
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
            payload = {"id": f"ws-{number}", "type": "text", "data": "waits for a place"}
            plugin.create(listener.url)
            plugin.send(
                {"id": number, "action": "websocket-send", "payload": payload},
                {"action": "websocket-close", "payload": {"id": f"ws-{number}"}},
            )
        plugin.request("plugin-describe")
        plugin.close_stdin()
        closing.send(close_frame(1000))
        closing.close()
        assert plugin.event("ws-1", "close")["cause"] == "host"
        for number in (6, 7):
            # Each has its place for a second, and its server does not answer.
            with listener.accept() as peer:
                peer.read_request()
                failure = plugin.read()
                assert (failure["id"], failure["error"]["code"]) == (number, "not-open")
                assert plugin.event(f"ws-{number}", "close")["cause"] == "host"
        with listener.accept() as peer:
            peer.handshake()
            plugin.event("ws-8", "open")
            assert plugin.read() == {"id": 8, "response": {}}
            assert peer.read_frame()[1] == b"waits for a place"
            peer.expect_close(1000)
            peer.send(close_frame(1000))
        assert plugin.event("ws-8", "close")["cause"] == "host"
        for number, peer in enumerate(peers, 2):
            peer.handshake()
            plugin.event(f"ws-{number}", "open")
            finish_closing(peer, plugin, f"ws-{number}")
        no_more_lines(plugin)
        assert plugin.wait() == 0


LAST_LINES: dict[str, Callable[[str], Any]] = {
    "websocket-send": lambda url: send(9, "last"),
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
            thread = flood(peer, messages=400)
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
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_input_that_ends_at_once(data: bytes, answers: int, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "stdin"
    path.write_bytes(data)
    with path.open("rb") as file, Plugin(stdin=file if kind == "file" else -1) as plugin:
        if kind == "pipe":
            plugin.write(data)
            plugin.close_stdin()
        for _ in range(answers):
            plugin.read()
        no_more_lines(plugin)
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


# --- signals ---


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("milliseconds", [0, 5, 20, 50, 100, 300])
def test_a_signal_during_the_start_ends_in_silence(number: int, milliseconds: int) -> None:
    # Before that, the interpreter has not come to the plugin's first line. Of the two, Python
    # has a handler of its own for SIGINT.
    with Plugin() as plugin:
        end = time.monotonic() + TIMEOUT
        while not catches(plugin.process.pid, signal.SIGTERM):
            assert time.monotonic() < end
        time.sleep(milliseconds / 1000)
        plugin.process.send_signal(number)
        assert plugin.wait() == 0
        assert plugin.stderr == b""
        no_more_lines(plugin)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_closes_what_is_open_and_aborts_what_connects(number: int) -> None:
    with Listener() as listener, Plugin("--linger", "3600") as plugin:
        opened, peer = listener.open(plugin)
        connecting = plugin.create(listener.url)
        with peer, listener.accept() as other, within(2):
            other.read_request()
            plugin.process.send_signal(number)
            closing = plugin.event(connecting, "close")
            assert closing == {"code": 1006, "reason": DOWN, "cause": "shutdown"}
            other.expect_end()
            finish_closing(peer, plugin, opened)
            no_more_lines(plugin)
            assert plugin.wait() == 0
        assert plugin.stderr == b""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_lingering(number: int) -> None:
    with Listener() as listener, Plugin("--linger", "3600") as plugin:
        id, peer = listener.open(plugin)
        plugin.close_stdin()
        with peer, within(2):
            exchange_ping(peer)
            plugin.process.send_signal(number)
            finish_closing(peer, plugin, id)
            assert plugin.wait() == 0


def test_a_signal_gives_a_silent_server_a_second() -> None:
    with Listener() as listener, Plugin() as plugin:
        id, peer = listener.open(plugin)
        with peer, within(2):
            plugin.process.send_signal(signal.SIGTERM)
            closing = plugin.event(id, "close")
            assert (closing["code"], closing["cause"]) == (1006, "shutdown")
            assert plugin.wait() == 0
            peer.expect_close(1001, DOWN)
            peer.expect_end()


def test_after_a_signal_requests_are_refused() -> None:
    with Listener() as listener, Plugin() as plugin:
        id, peer = listener.open(plugin)
        with peer:
            plugin.process.send_signal(signal.SIGTERM)
            peer.expect_close(1001, DOWN)
            requests = [
                create(listener.url),
                {"id": "send", "action": "websocket-send", "payload": send(1, "")["payload"]},
                {"id": "close", "action": "websocket-close", "payload": {"id": id}},
                {"id": "background", "action": "app-background"},
                {"id": "describe", "action": "plugin-describe"},
            ]
            plugin.send(*requests)
            for request in requests:
                answer = plugin.read()
                assert answer["id"] == request["id"]
                assert answer["error"]["code"] == "shutting-down"
            # What would have been wrong anyway is told as ever.
            plugin.send({"id": "wrong", "action": "no-such-action"})
            assert plugin.read()["error"]["code"] == "unknown-action"
            peer.send(close_frame(1001))
            peer.close()
            plugin.event(id, "close")
        assert plugin.wait() == 0


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_ends_at_once(first: int, second: int) -> None:
    with Listener() as listener, Plugin() as plugin:
        _, peer = listener.open(plugin)
        with peer:
            plugin.process.send_signal(first)
            peer.expect_close(1001, DOWN)
            plugin.process.send_signal(second)
            assert plugin.wait() == 128 + second
            peer.expect_end()
        assert plugin.stderr == b""


def flood(peer: Peer, messages: int = sys.maxsize) -> threading.Thread:
    """Send messages until nobody takes them any more, and for as long as the test takes."""

    def run() -> None:
        with contextlib.suppress(OSError):
            for _ in range(messages):
                peer.send(frame(TEXT, b"x" * 65536))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def wait_until_full(stream: FileIO | socket.socket) -> None:
    """Wait until a stream that nobody reads takes no more for a while."""
    while select.select([], [stream], [], 0.5)[1]:
        time.sleep(0.05)


@contextlib.contextmanager
def unread_plugin(**popen: Any) -> Iterator[tuple[Plugin, FileIO, FileIO]]:
    """Start a plugin and never read what it writes; the pipe's two ends come with it."""
    ours, theirs = os.pipe()
    with (
        FileIO(ours) as reader,
        FileIO(theirs, "w") as writer,
        Plugin(stdout=writer, **popen) as plugin,
    ):
        yield plugin, reader, writer


def test_a_signal_while_the_host_does_not_read() -> None:
    with Listener() as listener, unread_plugin() as (plugin, _, writer):
        plugin.send(create(listener.url))
        with listener.accept() as peer:
            peer.handshake()
            thread = flood(peer)
            wait_until_full(writer)
            with within(2):
                plugin.process.send_signal(signal.SIGTERM)
                peer.expect_close(1001, DOWN)
                assert plugin.wait() == 0
            thread.join(TIMEOUT)
        assert plugin.stderr == b""


@pytest.mark.parametrize("signal_first", [False, True])
def test_a_signal_while_the_last_lines_wait(signal_first: bool) -> None:
    """More than the pipe holds, less than what stops the plugin; no connection is left."""
    with unread_plugin() as (plugin, _, writer):
        plugin.send(*({"id": number, "action": "plugin-describe"} for number in range(5000)))
        wait_until_full(writer)
        with within(2):
            if signal_first:
                plugin.process.send_signal(signal.SIGTERM)
                plugin.close_stdin()
            else:
                plugin.close_stdin()
                with pytest.raises(subprocess.TimeoutExpired):
                    plugin.process.wait(0.5)
                plugin.process.send_signal(signal.SIGTERM)
            assert plugin.wait() == 0
        assert plugin.stderr == b""


# A bug, once.
BUG = """
from wsplugin.manager import Manager
handle = Manager.handle
def stumble(self, line):
    if line == b"stumble":
        raise ZeroDivisionError
    handle(self, line)
Manager.handle = stumble
from wsplugin.cli import main
main()
"""


def test_a_bug_does_not_silence_the_plugin() -> None:
    with Plugin(command=[sys.executable, "-c", BUG]) as plugin:
        plugin.write(b'{"id":1,"action":"plugin-describe"}\nstumble\n')
        assert plugin.read()["id"] == 1
        assert "response" in plugin.request("plugin-describe")
        assert plugin.finish() == ([], 0)


def test_a_signal_while_the_host_writes_and_does_not_read() -> None:
    with unread_plugin() as (plugin, _, writer):

        def write() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plugin.write(b'{"id":1,"action":"plugin-describe"}\n' * 100)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        wait_until_full(writer)
        with within(2):
            plugin.process.send_signal(signal.SIGTERM)
            assert plugin.wait() == 0
        thread.join(TIMEOUT)
        assert plugin.stderr == b""


# A name server's silence, without a name server.
STUCK = """
import socket, time
look_up = socket.getaddrinfo
def getaddrinfo(host, *arguments, **options):
    if host == "stuck.test":
        time.sleep(3600)
    return look_up(host, *arguments, **options)
socket.getaddrinfo = getaddrinfo
from wsplugin.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--block-private"]], ids=["plain", "block-private"])
@pytest.mark.parametrize("end", ["signal", "stdin", "host gone"])
def test_a_stuck_name_look_up_delays_no_end(options: list[str], end: str) -> None:
    command = [sys.executable, "-c", STUCK, "--allow-insecure", "--proxy=none", *options]
    with unread_plugin(command=command) as (plugin, reader, writer):
        writer.close()
        plugin.send(create("ws://stuck.test/", timeout=300 if end == "stdin" else 60_000))
        answer = reader.read(65536)
        assert answer
        assert answer.endswith(b'"ws-1"}}\n')
        with within(2):
            if end == "signal":
                plugin.process.send_signal(signal.SIGTERM)
            elif end == "stdin":
                plugin.close_stdin()
            else:
                reader.close()
            assert plugin.wait() == (1 if end == "host gone" else 0)
        assert plugin.stderr == b""


# --- the host has gone ---


def pipe() -> tuple[int, int]:
    return os.pipe()


def socket_pair() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def terminal() -> tuple[int, int]:
    return os.openpty()


STREAMS = [pipe, socket_pair, terminal]


@pytest.mark.parametrize("make", STREAMS)
@pytest.mark.parametrize("state", ["no connection", "connecting", "open", "flooded"])
def test_a_host_that_hangs_up_is_noticed(make: Callable[[], tuple[int, int]], state: str) -> None:
    ours, theirs = make()
    with Listener() as listener, Plugin(stdout=theirs) as plugin, contextlib.ExitStack() as stack:
        os.close(theirs)
        if state == "no connection":
            plugin.send({"id": 1, "action": "plugin-describe"})
            assert os.read(ours, 1)
        else:
            plugin.send(create(listener.url))
            peer = stack.enter_context(listener.accept())
            peer.read_request()
            if state != "connecting":
                peer.send(peer.response())
                exchange_ping(peer)
            if state == "flooded":
                flood(peer)
                # The plugin has stopped reading when nothing more can be sent.
                wait_until_full(peer.sock)
        with within(2):
            os.close(ours)
            if state in ("open", "flooded"):
                peer.expect_close(1001, DOWN)
            if state == "open":
                peer.send(close_frame(1001))
                peer.close()
            elif state != "no connection":
                peer.expect_end()
            assert plugin.wait() == 1
        assert plugin.stderr == b""


@pytest.mark.slow
def test_a_host_that_hangs_up_under_a_flood_of_bombs_is_noticed() -> None:
    deflate = zlib.compressobj(9, wbits=-15)
    data = deflate.compress(bytes(16_000_000)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    bombs = frame(BINARY, data.removesuffix(b"\x00\x00\xff\xff"), rsv=4) * 20
    extension = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"

    def run(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer.send(bombs)

    ours, theirs = os.pipe()
    with Listener() as listener, Plugin(stdout=theirs) as plugin, contextlib.ExitStack() as stack:
        os.close(theirs)
        peers = []
        for _ in range(5):
            plugin.send(create(listener.url, binaryType="arraybuffer"))
            peer = stack.enter_context(listener.accept())
            peer.handshake(extension)
            exchange_ping(peer)
            peers.append(peer)
        for peer in peers:
            threading.Thread(target=run, args=(peer,), daemon=True).start()
        wait_until_full(peers[-1].sock)
        with within(2):
            os.close(ours)
            assert plugin.wait() == 1
        assert plugin.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_a_host_that_has_gone() -> None:
    with Path("/dev/full").open("wb") as full, Plugin(stdout=full) as plugin:
        plugin.send({"id": 1, "action": "plugin-describe"})
        assert plugin.wait() == 1
        assert plugin.stderr == b""


def test_without_stdout_the_plugin_does_not_start() -> None:
    with Plugin(command=["sh", "-c", 'exec "$@" >&-', "sh", *PLUGIN]) as plugin:
        assert plugin.wait() != 0
        assert plugin.stderr.count(b"\n") == 1
        assert b"stdout" in plugin.stderr


def test_without_stdin_the_plugin_has_nothing_to_do() -> None:
    with Plugin(command=["sh", "-c", 'exec "$@" <&-', "sh", *PLUGIN]) as plugin:
        no_more_lines(plugin)
        assert plugin.wait() == 0


# --- a host that is killed ---

# Starts the plugin, prints its process id, and copies its own input to the plugin.
HOST = """
import os, subprocess, sys, threading
plugin = subprocess.Popen(
    [sys.executable, "-m", "wsplugin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
)
print(plugin.pid, flush=True)
def read():
    while plugin.stdout.read(65536):
        pass
if sys.argv[1] == "reads":
    threading.Thread(target=read, daemon=True).start()
while data := os.read(0, 65536):
    plugin.stdin.write(data)
plugin.wait()
"""


@contextlib.contextmanager
def host(reads: bool) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a host in a process of its own; a descriptor of its plugin's process comes with it."""
    command = [sys.executable, "-c", HOST, "reads" if reads else "is deaf"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdout
        assert process.stderr
        plugin = os.pidfd_open(int(process.stdout.readline()))
        try:
            yield process, plugin
            # The plugin has this end too: all of it has been read when that has ended.
            assert process.stderr.read() == b""
        finally:
            process.kill()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(plugin, signal.SIGKILL)
            os.close(plugin)


def connecting(peer: Peer) -> None:
    peer.read_request()


def opened(peer: Peer) -> None:
    peer.handshake()
    exchange_ping(peer)


def flooded(peer: Peer) -> None:
    opened(peer)
    flood(peer)
    wait_until_full(peer.sock)


def flooding(peer: Peer) -> None:
    opened(peer)
    flood(peer)


SEND = json.dumps(send(0, "x" * 2**18)).encode() + b"\n"

MOMENTS: dict[str, tuple[bool, Callable[[Peer], None] | None, bytes]] = {
    # whether the host reads, what the server does before, what the host has written last
    "at the start": (True, None, b""),
    "connecting": (True, connecting, b""),
    "open": (True, opened, b""),
    "open, and does not read": (False, opened, b""),
    "within a line": (True, opened, b'{"id": 1, "action": "websocket-se'),
    "within a long line": (True, opened, b'{"id": "' + b"x" * 2**20),
    "with sends waiting": (True, opened, SEND * 60),
    "in the middle of a flood": (True, flooding, b""),
    "flooded, and does not read": (False, flooded, b""),
}


@pytest.mark.slow
@linux
@pytest.mark.parametrize(("reads", "serve", "last"), MOMENTS.values(), ids=MOMENTS)
def test_a_host_that_is_killed_leaves_no_plugin_behind(
    reads: bool, serve: Callable[[Peer], None] | None, last: bytes
) -> None:
    with Listener() as listener, host(reads) as (process, plugin), contextlib.ExitStack() as stack:
        assert process.stdin
        peer = None
        if serve is not None:
            process.stdin.write(json.dumps(create(listener.url)).encode() + b"\n")
            peer = stack.enter_context(listener.accept())
            serve(peer)
        process.stdin.write(last)
        with within(2):
            process.kill()
            if peer is not None:
                if serve is not connecting:
                    peer.expect_close(1001, DOWN)
                peer.expect_end()
            assert select.select([plugin], [], [], TIMEOUT)[0]


# --- stderr ---

LEVELS = ["debug", "info", "warning", "error", "critical"]


def converse(plugin: Plugin, server: Listener) -> None:
    """Have more to log than fits anywhere, and work all the same."""
    id = plugin.create(server.url)
    plugin.event(id, "open")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        for _ in range(400):
            refused = plugin.create(f"ws://127.0.0.1:{sock.getsockname()[1]}/")
            plugin.event(refused, "error")
            plugin.event(refused, "close")
    plugin.write(b"{\n")
    assert plugin.read()["error"]["code"] == "invalid-json"
    plugin.request("websocket-send", {"id": id, "type": "text", "data": "still there"})
    assert plugin.event(id, "message")["data"] == "still there"
    with within(2):
        lines, status = plugin.finish()
        assert [line["payload"]["payload"]["code"] for line in lines] == [1001]
        assert status == 0


@pytest.mark.parametrize("level", LEVELS)
def test_stderr_that_nobody_reads_blocks_nothing(level: str) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"full" * 1024):
            pass
    os.set_blocking(writer, True)
    with echo_server() as server, Plugin("--log-level", level, stderr=writer) as plugin:
        os.close(writer)
        converse(plugin, server)
    os.close(reader)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_stderr_that_cannot_be_written_harms_nothing(redirection: str) -> None:
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *PLUGIN]
    with echo_server() as server, Plugin("--log-level", "debug", command=command) as plugin:
        converse(plugin, server)


def test_stderr_that_has_been_hung_up_harms_nothing() -> None:
    reader, writer = os.pipe()
    with echo_server() as server, Plugin("--log-level", "debug", stderr=writer) as plugin:
        os.close(writer)
        os.close(reader)
        converse(plugin, server)
