"""What stdin and stdout may be: pipes, sockets, terminals, files, the null device.

A conversation is the same on each. Flags that a descriptor shares with the host are left as they
were.
"""

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import pytest

from harness import PLUGIN, TIMEOUT, Plugin, echo_server
from streams import DESCRIBE, KINDS, check, conversation, end, read_all, run, terminal
from systems import posix_only

pytestmark = posix_only("kinds of descriptors")


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
