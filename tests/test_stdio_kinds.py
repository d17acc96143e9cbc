"""What stdin and stdout may be, and that stdout carries protocol lines and nothing else.

Pipes, socket pairs, terminals, files, the null device, closed descriptors: a conversation is the
same on each. Flags that a descriptor shares with the host are left as they were.
"""

import contextlib
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import PLUGIN, TEXT, TIMEOUT, Listener, Plugin, close_frame, echo_server, frame

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX descriptors")

DESCRIBE = b'{"id":1,"action":"plugin-describe"}\n'


def request(action: str, payload: Any, id: Any) -> bytes:
    return json.dumps({"id": id, "action": action, "payload": payload}).encode() + b"\n"


def conversation(url: str, text: str = "hi") -> bytes:
    """Return lines that open a connection, send a text, and end with the stream."""
    create = request("websocket-create", {"url": url}, 1)
    return create + request("websocket-send", {"id": "ws-1", "type": "text", "data": text}, 2)


def check(output: bytes, text: str = "hi") -> None:
    """Check what :func:`conversation` gives with an echo server."""
    assert output.endswith(b"\n")
    lines = [json.loads(line) for line in output.splitlines()]
    answers = {line["id"]: line["response"] for line in lines if "event" not in line}
    assert answers == {1: {"id": "ws-1"}, 2: {}}
    events = [line["payload"] for line in lines if "event" in line]
    assert [event["name"] for event in events] == ["open", "message", "close"]
    assert events[1]["payload"] == {"type": "text", "data": text}
    assert events[2]["payload"]["code"] == 1001


def run(stdin: Any, stdout: Any, **popen: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(PLUGIN, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, **popen)


def end(process: subprocess.Popen[bytes], status: int = 0) -> bytes:
    """Wait for the end and return what came on stderr."""
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status, stderr
    return stderr or b""


def read_all(fd: int) -> bytes:
    """Read to the end of the stream; on a terminal that is an error."""
    data = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(fd, 65536):
            data += chunk
    return data


# --- the kinds --------------------------------------------------------------------------------


class Streams:
    """One kind of descriptor: the plugin's end and the host's."""

    def __init__(self, plugin: int, host: int, end_input: Callable[[], None]) -> None:
        self.plugin = plugin
        self.host = host
        self.end_input = end_input

    def close(self) -> None:
        for fd in {self.plugin, self.host}:
            with contextlib.suppress(OSError):
                os.close(fd)


def pipe_in() -> Streams:
    reader, writer = os.pipe()
    return Streams(reader, writer, lambda: os.close(writer))


def pipe_out() -> Streams:
    reader, writer = os.pipe()
    return Streams(writer, reader, lambda: None)


def named_pipe() -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/pipe"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a writer
        os.set_blocking(reader, True)
        return reader, os.open(path, os.O_WRONLY)


def named_pipe_in() -> Streams:
    reader, writer = named_pipe()
    return Streams(reader, writer, lambda: os.close(writer))


def named_pipe_out() -> Streams:
    reader, writer = named_pipe()
    return Streams(writer, reader, lambda: None)


def socket_pair() -> Streams:
    ours, theirs = socket.socketpair()
    plugin, host = theirs.detach(), ours.detach()

    def shut() -> None:
        with socket.socket(fileno=os.dup(host)) as sock:
            sock.shutdown(socket.SHUT_WR)

    return Streams(plugin, host, shut)


def terminal() -> Streams:
    host, plugin = os.openpty()
    attributes = termios.tcgetattr(plugin)
    attributes[1] &= ~termios.OPOST  # LF stays LF
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(plugin, termios.TCSANOW, attributes)
    return Streams(plugin, host, lambda: (os.write(host, b"\x04"), None)[1])


KINDS = {
    "pipe": (pipe_in, pipe_out),
    "named pipe": (named_pipe_in, named_pipe_out),  # which Linux cannot write to without waiting
    "socket": (socket_pair,) * 2,
    "terminal": (terminal,) * 2,
}


@pytest.mark.parametrize(
    ("stdin", "stdout", "nonblocking"),
    [(a, b, a != b or other) for a in KINDS for b in KINDS for other in {False, a == b}],
)
def test_conversation(stdin: str, stdout: str, nonblocking: bool) -> None:
    source, sink = KINDS[stdin][0](), KINDS[stdout][1]()
    for streams in (source, sink):
        os.set_blocking(streams.plugin, not nonblocking)
    flags = [fcntl.fcntl(streams.plugin, fcntl.F_GETFL) for streams in (source, sink)]
    with echo_server() as server:
        process = run(source.plugin, sink.plugin)
        os.write(source.host, conversation(server.url))
        output = b""
        while output.count(b"\n") < 4:
            output += os.read(sink.host, 65536)
        assert [fcntl.fcntl(s.plugin, fcntl.F_GETFL) for s in (source, sink)] == flags
        source.end_input()
        process.wait(TIMEOUT)
        assert [fcntl.fcntl(s.plugin, fcntl.F_GETFL) for s in (source, sink)] == flags
        os.close(sink.plugin)
        output += read_all(sink.host)
    assert end(process) == b""
    check(output)
    source.close()
    sink.close()


@pytest.mark.parametrize("kind", ["socket", "terminal"])
@pytest.mark.parametrize("nonblocking", [False, True])
def test_one_descriptor_for_both_directions(kind: str, nonblocking: bool) -> None:
    streams = KINDS[kind][0]()
    os.set_blocking(streams.plugin, not nonblocking)
    flags = fcntl.fcntl(streams.plugin, fcntl.F_GETFL)
    with echo_server() as server:
        process = run(streams.plugin, streams.plugin)
        os.write(streams.host, conversation(server.url))
        output = b""
        while output.count(b"\n") < 4:
            output += os.read(streams.host, 65536)
        streams.end_input()
        process.wait(TIMEOUT)
        assert fcntl.fcntl(streams.plugin, fcntl.F_GETFL) == flags
        os.close(streams.plugin)
        output += read_all(streams.host)
    assert end(process) == b""
    check(output)
    streams.close()


@pytest.mark.parametrize("kind", ["pipe", "named pipe", "socket"])
@pytest.mark.parametrize("nonblocking", [False, True])
def test_more_than_the_streams_hold(kind: str, nonblocking: bool) -> None:
    """Partial writes, full pipes: 4 MiB each way through each kind."""
    source, sink = KINDS[kind][0](), KINDS[kind][1]()
    for streams in (source, sink):
        os.set_blocking(streams.plugin, not nonblocking)
    text = "0123456789abcdef" * 2**18
    with echo_server() as server, tempfile.TemporaryFile() as lines:
        lines.write(conversation(server.url, text))
        lines.seek(0)
        process = run(source.plugin, sink.plugin)
        os.close(source.plugin)
        os.close(sink.plugin)
        # Another process writes while this one reads.
        with subprocess.Popen(["cat"], stdin=lines, stdout=source.host) as writer:
            if kind != "socket":
                os.close(source.host)
            output = os.read(sink.host, 65536)
            writer.wait(TIMEOUT)
            if kind == "socket":
                source.end_input()
            output += read_all(sink.host)
    assert end(process) == b""
    check(output, text)
    source.close()
    sink.close()


# What may become of the write that does not wait, where Python or the system are others.
WITHOUT_NOWAIT = {
    "an old libc": "del os.RWF_NOWAIT",
    "a sandbox": "os.pwritev = refuse",
    "an old kernel": "error = OSError(errno.EOPNOTSUPP, 'x'); os.pwritev = refuse",
    "an old Python": "error = NotImplementedError('x'); os.pwritev = refuse",
}
STARTER = """
import errno, os
error = PermissionError(errno.EPERM, "x")
def refuse(*arguments):
    raise error
{}
from wsplugin.cli import main
main([])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such write")
@pytest.mark.parametrize("change", WITHOUT_NOWAIT.values(), ids=WITHOUT_NOWAIT)
def test_where_no_write_can_do_without_waiting(change: str) -> None:
    text = "0123456789abcdef" * 2**18
    command = [sys.executable, "-c", STARTER.format(change)]
    with echo_server() as server, Plugin(command=command) as plugin:
        plugin.write(conversation(server.url, text))
        plugin.close_stdin()
        check(b"".join(iter(plugin.read_line, b"")), text)
        assert plugin.wait() == 0
        assert plugin.stderr == b""


def test_regular_files(tmp_path: Path) -> None:
    source, sink = tmp_path / "in", tmp_path / "out"
    with echo_server() as server:
        source.write_bytes(conversation(server.url))
        with source.open("rb") as stdin, sink.open("wb") as stdout:
            assert end(run(stdin, stdout)) == b""
    check(sink.read_bytes())


def test_regular_file_that_is_appended_to(tmp_path: Path) -> None:
    sink = tmp_path / "out"
    sink.write_bytes(b"before\n")
    with sink.open("ab") as stdout, run(subprocess.PIPE, stdout) as process:
        process.communicate(DESCRIBE, timeout=TIMEOUT)
    first, second = sink.read_bytes().splitlines()
    assert first == b"before"
    assert json.loads(second)["id"] == 1


def test_large_file_to_file(tmp_path: Path) -> None:
    """More lines than the reader takes at a time, none lost."""
    source, sink = tmp_path / "in", tmp_path / "out"
    count = 20_000
    source.write_bytes(b"".join(b'{"id":%d,"action":"x"}\n' % id for id in range(count)))
    with source.open("rb") as stdin, sink.open("wb") as stdout:
        assert end(run(stdin, stdout)) == b""
    assert [json.loads(line)["id"] for line in sink.read_bytes().splitlines()] == [*range(count)]


def test_null_device_as_stdin() -> None:
    process = run(subprocess.DEVNULL, subprocess.PIPE)
    output, stderr = process.communicate(timeout=TIMEOUT)
    assert (output, stderr, process.returncode) == (b"", b"", 0)


def test_null_device_as_stdout() -> None:
    with echo_server() as server:
        process = run(subprocess.PIPE, subprocess.DEVNULL)
        _, stderr = process.communicate(conversation(server.url), timeout=TIMEOUT)
    assert (stderr, process.returncode) == (b"", 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_stdout_that_cannot_be_written_is_a_host_that_has_gone() -> None:
    with Path("/dev/full").open("wb") as full:
        process = run(subprocess.PIPE, full)
        assert process.stdin
        process.stdin.write(DESCRIBE)
        process.stdin.flush()
        # Without the end of its input.
        assert process.wait(TIMEOUT) == 1
        assert end(process, 1) == b""


def closing(*fds: int) -> list[str]:
    """Return a command that starts the plugin with descriptors closed."""
    closed = " ".join(f"{fd}>&-" for fd in fds)
    return ["sh", "-c", f'exec "$0" "$@" {closed}', *PLUGIN]


def test_closed_stdin_is_the_end_of_the_input() -> None:
    with Plugin(command=closing(0), stdin=subprocess.DEVNULL) as plugin:
        assert plugin.read_line() == b""
        assert plugin.wait() == 0
    assert plugin.stderr == b""


@pytest.mark.parametrize("fds", [(1,), (0, 1)])
def test_closed_stdout_is_said_on_stderr(fds: tuple[int, ...]) -> None:
    with Plugin(command=closing(*fds)) as plugin:
        status = plugin.wait()
    assert status != 0
    assert b"stdout" in plugin.stderr
    assert b"Traceback" not in plugin.stderr


def test_nothing_open_at_all_ends() -> None:
    with Plugin(command=closing(0, 1, 2)) as plugin:
        assert plugin.wait() != 0


@pytest.mark.parametrize("level", ["debug", "warning"])
def test_closed_stderr(level: str) -> None:
    """What is opened later must not become descriptor 2: logs would go to a server."""
    with Listener() as listener, Plugin("--log-level", level, command=closing(2)) as plugin:
        id, peer = listener.open(plugin)
        with peer:
            peer.send(frame(TEXT, b"hi"))
            assert plugin.event(id, "message")["data"] == "hi"
            plugin.close_stdin()
            peer.expect_close(1001)
            peer.send(close_frame(1001))
            peer.sock.shutdown(socket.SHUT_WR)
            plugin.event(id, "close")
            with pytest.raises(EOFError):
                peer.read_exact(1)
        assert plugin.wait() == 0


@pytest.mark.parametrize("fds", [(0,), (2,), (0, 2)])
def test_the_null_device_stands_in_for_closed_descriptors(fds: tuple[int, ...]) -> None:
    code = (
        "import json, os; from wsplugin.cli import take_descriptors\n"
        "stdin, stdout = take_descriptors()\n"
        "null = os.stat(os.devnull)\n"
        "same = [fd for fd in (0, 1, 2) if os.path.samestat(os.fstat(fd), null)]\n"
        "os.write(stdout, json.dumps([same, min(stdin, stdout)]).encode() + b'\\n')\n"
    )
    command = [*closing(*fds)[:3], sys.executable, "-c", code]
    with Plugin(command=command) as plugin:
        same, lowest = plugin.read()
        assert plugin.wait() == 0
    assert lowest > 2
    assert 0 in same  # nothing can read the host's lines
    assert (1 in same, 2 in same) == (2 in fds, 2 in fds)


# --- nothing else reaches the protocol ----------------------------------------------------------

# Runs in the plugin's own process, for every line from the host.
STRAY = r"""
import os, subprocess, sys
from wsplugin import manager

def stray():
    print("STRAY print")
    print("STRAY stderr", file=sys.stderr)
    sys.stdout.write("STRAY write without line end")
    sys.stdout.flush()
    sys.__stdout__.buffer.write(b"STRAY buffer\n")
    sys.__stdout__.flush()
    os.write(1, b"STRAY os.write\n")
    subprocess.run(["sh", "-c", "echo STRAY child; cat; read x; echo STRAY got $x"], check=False)
    os.system("echo STRAY system")
    assert sys.stdin.read() == ""
    assert os.read(0, 100) == b""
    assert input_is_empty()
    import warnings
    warnings.warn("STRAY warning")
    import logging
    logging.getLogger("other").error("STRAY log")
    logging.getLogger("websockets").error("STRAY library's log")

def input_is_empty():
    try:
        input()
    except EOFError:
        return True

handle = manager.Manager.handle
def handle_and_more(self, line):
    stray()
    handle(self, line)
    stray()
manager.Manager.handle = handle_and_more
from wsplugin.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_stray_output_never_reaches_stdout(kind: str) -> None:
    source, sink = KINDS[kind][0](), KINDS[kind][1]()
    with echo_server() as server, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", STRAY],
            stdin=source.plugin,
            stdout=sink.plugin,
            stderr=stderr,
        )
        os.write(source.host, conversation(server.url))
        output = b""
        while output.count(b"\n") < 4:
            output += os.read(sink.host, 65536)
        source.end_input()
        assert process.wait(TIMEOUT) == 0
        os.close(sink.plugin)
        output += read_all(sink.host)
        stderr.seek(0)
        logged = stderr.read()
    check(output)
    assert b"STRAY" not in output
    for word in (b"print", b"os.write", b"child", b"system", b"buffer", b"warning", b"log"):
        assert b"STRAY " + word in logged
    assert b"STRAY got\n" in logged
    assert b"Traceback" not in logged
    source.close()
    sink.close()


def test_output_before_the_start_is_flushed_to_stderr() -> None:
    """What a site hook has left in Python's own buffer must not come out among the lines."""
    code = "import sys; sys.stdout.write('STRAY'); from wsplugin.cli import main; main([])"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Plugin(command=[sys.executable, "-c", code], env=buffered) as plugin:
        plugin.request("plugin-describe")
        lines, status = plugin.finish()
    assert (lines, status) == ([], 0)


def test_children_do_not_inherit_the_private_descriptors() -> None:
    """A child that outlives the plugin would keep the host's pipes open."""
    code = (
        "import subprocess, sys\n"
        "from wsplugin import manager\n"
        "handle = manager.Manager.handle\n"
        "def more(self, line):\n"
        "    subprocess.Popen(['sleep', '30'], close_fds=False, stderr=subprocess.DEVNULL,\n"
        "        stdout=subprocess.DEVNULL)\n"
        "    handle(self, line)\n"
        "manager.Manager.handle = more\n"
        "from wsplugin.cli import main\n"
        "main([])\n"
    )
    command = [sys.executable, "-c", code]
    with Plugin(command=command, start_new_session=True, stderr=subprocess.DEVNULL) as plugin:
        try:
            plugin.request("plugin-describe")
            lines, status = plugin.finish()
            assert (lines, status) == ([], 0)
        finally:
            with contextlib.suppress(OSError):
                os.killpg(plugin.process.pid, 9)


def test_host_that_closes_stdout_alone() -> None:
    reader, writer = os.pipe()
    process = run(subprocess.PIPE, writer)
    os.close(writer)
    assert process.stdin
    process.stdin.write(DESCRIBE)
    process.stdin.flush()
    assert os.read(reader, 65536).startswith(b'{"id":1')
    os.close(reader)
    # Noticed without anything to write, and without the end of the input.
    assert process.wait(TIMEOUT) == 1
    with contextlib.suppress(OSError):
        process.stdin.close()
    assert process.stderr
    assert process.stderr.read() == b""
    process.stderr.close()


def test_terminal_that_hangs_up() -> None:
    """A terminal whose other end is gone ends the input with EIO, not with a traceback."""
    streams = terminal()
    process = run(streams.plugin, subprocess.PIPE)
    os.close(streams.plugin)
    os.write(streams.host, DESCRIBE)
    assert process.stdout
    assert process.stdout.readline().startswith(b'{"id":1')
    os.close(streams.host)
    assert process.wait(TIMEOUT) == 0
    assert end(process) == b""


def bytes_in(reader: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)


# select() knows no descriptor beyond 1023.
CROWDED = """
import os, resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
while os.open(os.devnull, os.O_RDONLY) < 1100:
    pass
from wsplugin.cli import main
main()
"""


@pytest.mark.parametrize("command", [PLUGIN, [sys.executable, "-c", CROWDED]], ids=["", "crowded"])
def test_many_answers_through_a_nonblocking_pipe(command: list[str]) -> None:
    count = 10_000
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=writer, stderr=pipe)
    os.close(writer)
    assert process.stdin
    host = threading.Thread(target=process.stdin.write, args=(DESCRIBE * count,), daemon=True)
    host.start()
    unread, before = bytes_in(reader), 0
    while not unread or unread != before:  # until the pipe is full
        time.sleep(0.3)
        unread, before = bytes_in(reader), unread
    output = b""
    while output.count(b"\n") < count:
        assert select.select([reader], [], [], TIMEOUT)[0]
        output += os.read(reader, 65536)
    host.join(TIMEOUT)
    process.stdin.close()
    assert read_all(reader) == b""
    os.close(reader)
    process.stdin = None
    assert end(process) == b""
