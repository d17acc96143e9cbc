"""Descriptors that are closed when the plugin starts."""

import socket
import subprocess
import sys

import pytest

from harness import PLUGIN, TEXT, Listener, Plugin, close_frame, frame
from systems import posix_only

pytestmark = posix_only("numbers of descriptors")


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


def test_without_stdout_the_plugin_does_not_start() -> None:
    with Plugin(command=closing(1)) as plugin:
        assert plugin.wait() != 0
        assert plugin.stderr.count(b"\n") == 1
        assert b"stdout" in plugin.stderr


def test_without_stdin_the_plugin_has_nothing_to_do() -> None:
    with Plugin(command=closing(0)) as plugin:
        assert plugin.read_line() == b""
        assert plugin.wait() == 0
