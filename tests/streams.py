"""Kinds of stdin and stdout, and a conversation that is the same on each."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import termios
from collections.abc import Callable
from typing import Any

from harness import PLUGIN, TIMEOUT
from host_lines import create, describe, encode, send

DESCRIBE = encode(describe(1))


def conversation(url: str, text: str = "hi") -> bytes:
    """Return lines that open a connection, send a text, and end with the stream."""
    return encode(create(url, 1), send("ws-1", text, 2))


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
    """Start the plugin on these streams."""
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


class Streams:
    """One kind of descriptor: the plugin's end and the host's."""

    def __init__(self, plugin: int, host: int, end_input: Callable[[], None]) -> None:
        self.plugin = plugin
        self.host = host
        self.end_input = end_input

    def close(self) -> None:
        """Close both ends, as far as they are open."""
        for fd in {self.plugin, self.host}:
            with contextlib.suppress(OSError):
                os.close(fd)


def pipe_in() -> Streams:
    """Return stdin on a pipe."""
    reader, writer = os.pipe()
    return Streams(reader, writer, lambda: os.close(writer))


def pipe_out() -> Streams:
    """Return stdout on a pipe."""
    reader, writer = os.pipe()
    return Streams(writer, reader, lambda: None)


def named_pipe() -> tuple[int, int]:
    """Return both ends of a named pipe, the reading one first."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/pipe"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a writer
        os.set_blocking(reader, True)
        return reader, os.open(path, os.O_WRONLY)


def named_pipe_in() -> Streams:
    """Return stdin on a named pipe."""
    reader, writer = named_pipe()
    return Streams(reader, writer, lambda: os.close(writer))


def named_pipe_out() -> Streams:
    """Return stdout on a named pipe."""
    reader, writer = named_pipe()
    return Streams(writer, reader, lambda: None)


def socket_pair() -> Streams:
    """Return stdin or stdout on a socket."""
    ours, theirs = socket.socketpair()
    plugin, host = theirs.detach(), ours.detach()

    def shut() -> None:
        with socket.socket(fileno=os.dup(host)) as sock:
            sock.shutdown(socket.SHUT_WR)

    return Streams(plugin, host, shut)


def terminal() -> Streams:
    """Return stdin or stdout on a terminal."""
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
