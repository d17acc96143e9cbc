"""``--parent-pid``: the plugin is gone when its host is, though somebody else holds its pipes.

That somebody is the test itself: it holds the other ends of both, and the host holds none.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from harness import PLUGIN, TEXT, TIMEOUT, Listener, Peer, Plugin, close_frame, frame, within
from host_lines import close, create, describe, encode, send
from pressure import MESSAGE, Flood, wait_until_full
from situations import DOWN, exchange_ping, finish_closing, linux

SLEEPER = [sys.executable, "-c", "import time; print(flush=True); time.sleep(3600)"]


@contextlib.contextmanager
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that does nothing, to be killed; nobody waits for it, so it is a zombie."""
    with subprocess.Popen(SLEEPER, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as sleeper:
        assert sleeper.stdout
        sleeper.stdout.readline()
        try:
            yield sleeper
        finally:
            sleeper.kill()


def ended() -> int:
    """Return the number of a process that has ended, and that somebody has waited for."""
    with subprocess.Popen(PLUGIN, stdin=subprocess.DEVNULL) as ending:
        return ending.pid


# --- at any moment --------------------------------------------------------------------------------


def nothing(plugin: Plugin, listener: Listener) -> None:
    """Leave the plugin without a line."""


def connecting(plugin: Plugin, listener: Listener) -> Peer:
    plugin.send(create(listener.url))
    peer = listener.accept()
    peer.read_request()
    return peer


def opened(plugin: Plugin, listener: Listener) -> Peer:
    peer = connecting(plugin, listener)
    peer.send(peer.response())
    exchange_ping(peer)
    return peer


def within_a_line(plugin: Plugin, listener: Listener) -> Peer:
    peer = opened(plugin, listener)
    plugin.write(b'{"id": "' + b"x" * 2**20)
    return peer


def sending(plugin: Plugin, listener: Listener) -> Peer:
    """Have the plugin send more than the server has read."""
    peer = opened(plugin, listener)
    plugin.send(*[send("ws-1", "x" * 2**18, 0)] * 60)
    return peer


def flooding(plugin: Plugin, listener: Listener) -> Peer:
    peer = opened(plugin, listener)
    Flood(peer, itertools.repeat(MESSAGE))
    for _ in range(20):
        plugin.read()
    return peer


def unread(plugin: Plugin, listener: Listener) -> Peer:
    """Have the server send until nothing moves any more, as nobody reads the plugin's stdout."""
    peer = opened(plugin, listener)
    plugin.stop_reading()
    Flood(peer, itertools.repeat(MESSAGE))
    wait_until_full(peer.sock)
    return peer


def writing(plugin: Plugin, listener: Listener) -> Peer:
    """Write until nothing moves any more, as nobody reads the answers."""
    peer = opened(plugin, listener)
    plugin.stop_reading()

    def write() -> None:
        with contextlib.suppress(OSError):
            while True:
                plugin.write(encode(describe()) * 100)

    threading.Thread(target=write, daemon=True).start()
    assert plugin.process.stdin
    wait_until_full(plugin.process.stdin)  # type: ignore[arg-type]
    return peer


def closing(plugin: Plugin, listener: Listener) -> Peer:
    """Have the host close, and the server not answer."""
    peer = opened(plugin, listener)
    plugin.send(close("ws-1", 3000))
    peer.expect_close(3000)
    return peer


def closing_by_the_server(plugin: Plugin, listener: Listener) -> Peer:
    """Have the server close, and keep TCP open."""
    peer = opened(plugin, listener)
    peer.send(close_frame(4000))
    peer.expect_close(4000)
    return peer


def at_the_end_of_stdin(plugin: Plugin, listener: Listener) -> Peer:
    peer = opened(plugin, listener)
    plugin.close_stdin()
    peer.expect_close(1001, DOWN)
    return peer


def lingering(plugin: Plugin, listener: Listener) -> Peer:
    peer = opened(plugin, listener)
    plugin.close_stdin()
    exchange_ping(peer)
    return peer


def at_an_unread_end_of_stdin(plugin: Plugin, listener: Listener) -> Peer:
    """Have connections closed and the last lines written, which nobody reads."""
    peer = unread(plugin, listener)
    plugin.close_stdin()
    return peer


Arrange = Callable[[Plugin, Listener], Peer | None]
MOMENTS: dict[Arrange, bool] = {
    # and whether the server, which reads, is to see 1001 then
    nothing: False,
    connecting: False,
    opened: True,
    within_a_line: True,
    sending: True,
    flooding: True,
    unread: True,
    writing: True,
    closing: False,
    closing_by_the_server: False,
    at_the_end_of_stdin: False,
    lingering: True,
    at_an_unread_end_of_stdin: True,
}


@pytest.mark.parametrize("arrange", MOMENTS, ids=lambda arrange: arrange.__name__)
def test_a_host_that_is_killed_takes_the_plugin_along(arrange: Arrange) -> None:
    options = ("--linger", "3600") if arrange is lingering else ()
    with (
        process() as host,
        Listener() as listener,
        Plugin("--parent-pid", f"{host.pid}", *options) as plugin,
    ):
        peer = arrange(plugin, listener)
        with within(2):
            host.kill()
            if peer is not None:
                if MOMENTS[arrange]:
                    peer.expect_close(1001, DOWN)
                peer.expect_end()
                peer.close()
            assert plugin.process.wait(TIMEOUT) == 1
        assert plugin.wait() == 1
        assert plugin.stderr == b""


def test_the_host_s_servers_have_their_second() -> None:
    with (
        process() as host,
        Listener() as listener,
        Plugin("--parent-pid", f"{host.pid}") as plugin,
    ):
        _, peer = listener.open(plugin)
        _, silent = listener.open(plugin)
        with peer, silent:
            host.kill()
            peer.expect_close(1001, DOWN)
            peer.send(frame(TEXT, b"nobody hears this") + close_frame(1001))
            peer.close()
            silent.expect_close(1001, DOWN)
            with within(1):
                silent.expect_end()
        assert plugin.wait() == 1
        assert plugin.read_line() == b""


# The host is the plugin's parent, and gives it the streams that it has itself.
HOST = """
import os, subprocess, sys
command = [sys.executable, "-m", "wsplugin", "--parent-pid", str(os.getpid())]
subprocess.Popen(command).wait()
"""


@linux
@pytest.mark.parametrize("arrange", [nothing, opened, flooding, unread])
def test_a_parent_that_is_killed_takes_the_plugin_along(arrange: Arrange) -> None:
    with (
        Listener() as listener,
        Plugin(command=[sys.executable, "-c", HOST]) as host,
    ):
        if arrange is nothing:
            host.request("plugin-describe")
        peer = arrange(host, listener)
        with within(2):
            host.process.kill()
            if peer is not None:
                peer.expect_close(1001, DOWN)
                peer.expect_end()
                peer.close()
            # It held the other ends of both: whoever reads comes to an end.
            host.resume_reading()
            while host.read_line():
                pass
        assert host.wait() == -9
        assert host.stderr == b""


def test_a_host_that_lives_on_changes_nothing() -> None:
    with (
        process() as host,
        Listener() as listener,
        Plugin("--parent-pid", f"{host.pid}") as plugin,
    ):
        id, peer = listener.open(plugin)
        plugin.close_stdin()
        finish_closing(peer, plugin, id)
        assert plugin.wait() == 0
        assert plugin.stderr == b""
        assert host.poll() is None


# --- before the start -----------------------------------------------------------------------------


def test_a_process_that_has_ended_before() -> None:
    with Plugin("--parent-pid", f"{ended()}") as plugin:
        with within(2):
            assert plugin.wait() == 1
        assert plugin.read_line() == b""
        assert plugin.stderr == b""


def test_a_zombie_has_ended_before() -> None:
    with process() as host:
        host.kill()
        os.waitid(os.P_PID, host.pid, os.WEXITED | os.WNOWAIT)
        with Plugin("--parent-pid", f"{host.pid}") as plugin:
            with within(2):
                assert plugin.wait() == 1
            assert plugin.stderr == b""


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", [0, 10, 20, 30, 40, 60, 80, 120])
def test_a_host_that_is_killed_during_the_start(milliseconds: int) -> None:
    with process() as host, Plugin("--parent-pid", f"{host.pid}") as plugin:
        plugin.send(describe())
        time.sleep(milliseconds / 1000)
        with within(2):
            host.kill()
            assert plugin.wait() == 1
        assert plugin.stderr == b""


def test_what_cannot_be_watched_is_said() -> None:
    code = "import os, sys; from wsplugin.cli import main; main(['--parent-pid', str(os.getpid())])"
    with Plugin(command=[sys.executable, "-c", code]) as plugin:
        assert plugin.wait() == 2
        assert plugin.stderr == (
            b"wsplugin: error: argument --parent-pid: this is the plugin itself\n"
        )


@linux
def test_a_thread_is_no_process() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    with Plugin("--parent-pid", f"{thread.native_id}") as plugin:
        assert plugin.wait() == 2
        assert plugin.read_line() == b""
        assert b"is no process but a thread of one\n" in plugin.stderr
    over.set()


# --- where the system does not tell ---------------------------------------------------------------

# Like a kernel or a sandbox without pidfd_open().
REFUSED = """
import errno, os
def refuse(*_):
    raise OSError(errno.{error}, os.strerror(errno.{error}))
os.pidfd_open = refuse
from wsplugin.cli import main
main()
"""


def refused(error: str) -> list[str]:
    return [sys.executable, "-c", REFUSED.format(error=error)]


@linux
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EMFILE"])
def test_without_pidfd_the_plugin_looks_once_a_second(error: str) -> None:
    with (
        process() as host,
        Listener() as listener,
        Plugin("--parent-pid", f"{host.pid}", command=refused(error)) as plugin,
    ):
        _, peer = listener.open(plugin)
        with peer, within(2):
            host.kill()  # and stays a zombie
            peer.expect_close(1001, DOWN)
            peer.send(close_frame(1001))
            peer.close()
            assert plugin.wait() == 1
        assert plugin.stderr == b""


@linux
def test_without_pidfd_a_process_that_has_ended_before() -> None:
    with Plugin("--parent-pid", f"{ended()}", command=refused("ENOSYS")) as plugin:
        with within(2):
            assert plugin.wait() == 1
        assert plugin.stderr == b""


@linux
def test_without_pidfd_a_parent_that_is_killed() -> None:
    code = HOST.replace('"-m", "wsplugin"', '"-c", ' + repr(refused("EPERM")[2]))
    with Listener() as listener, Plugin(command=[sys.executable, "-c", code]) as host:
        with opened(host, listener) as peer, within(2):
            host.process.kill()
            peer.expect_close(1001, DOWN)
            peer.send(close_frame(1001))
            peer.close()
            while host.read_line():
                pass
        assert host.wait() == -9
