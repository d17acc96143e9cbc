"""Signals: what is open closes within two seconds, whatever the host and the servers do."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from harness import PLUGIN, TIMEOUT, Listener, Plugin, close_frame, within
from host_lines import background, close, create, describe, encode, send
from pressure import MESSAGE, Flood, wait_until_full
from situations import DOWN, exchange_ping, finish_closing, linux

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


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
        assert plugin.read_line() == b""


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
            assert plugin.read_line() == b""
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
                send(id, "", "send"),
                close(id),
                background(),
                describe(),
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


@linux
@pytest.mark.parametrize("replay", [False, True], ids=["plugin", "replay"])
def test_a_hangup_that_is_ignored_from_the_start_stays_so(replay: bool, tmp_path: Path) -> None:
    """As under nohup."""
    file = tmp_path / "talk"
    file.write_text("> 1\n< {}\n", encoding="utf-8")
    options = ["replay", str(file)] if replay else []
    with Plugin(command=["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *PLUGIN, *options]) as plugin:
        end = time.monotonic() + TIMEOUT
        while not catches(plugin.process.pid, signal.SIGTERM):
            assert time.monotonic() < end
        plugin.process.send_signal(signal.SIGHUP)
        plugin.write(b"1\n")
        plugin.read()
        plugin.process.send_signal(signal.SIGHUP)
        assert plugin.finish() == ([], 0)
        assert plugin.stderr == b""


@contextlib.contextmanager
def unread_plugin(*options: str, **popen: Any) -> Iterator[tuple[Plugin, FileIO, FileIO]]:
    """Start a plugin and never read what it writes; the pipe's two ends come with it."""
    ours, theirs = os.pipe()
    with (
        FileIO(ours) as reader,
        FileIO(theirs, "w") as writer,
        Plugin(*options, stdout=writer, **popen) as plugin,
    ):
        yield plugin, reader, writer


def test_a_signal_while_the_host_does_not_read() -> None:
    with Listener() as listener, unread_plugin() as (plugin, _, writer):
        plugin.send(create(listener.url))
        with listener.accept() as peer:
            peer.handshake()
            thread = Flood(peer, itertools.repeat(MESSAGE))
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
        plugin.send(*(describe(number) for number in range(5000)))
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


def test_a_signal_while_the_host_writes_and_does_not_read() -> None:
    with unread_plugin() as (plugin, _, writer):

        def write() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plugin.write(encode(describe()) * 100)

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
