"""A host that has gone: hung up, killed, or never there."""

import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import BINARY, TIMEOUT, Listener, Peer, Plugin, close_frame, within
from host_lines import create, describe, encode, send
from pressure import MESSAGE, NO_CONTEXT, Flood, inflating, wait_until_full
from situations import DOWN, exchange_ping, linux

# --- hung up ---


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
            plugin.send(describe(1))
            assert os.read(ours, 1)
        else:
            plugin.send(create(listener.url))
            peer = stack.enter_context(listener.accept())
            peer.read_request()
            if state != "connecting":
                peer.send(peer.response())
                exchange_ping(peer)
            if state == "flooded":
                Flood(peer, itertools.repeat(MESSAGE))
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
    bombs = inflating(BINARY, bytes(16_000_000)) * 20
    ours, theirs = os.pipe()
    with Listener() as listener, Plugin(stdout=theirs) as plugin, contextlib.ExitStack() as stack:
        os.close(theirs)
        peers = []
        for _ in range(5):
            plugin.send(create(listener.url, binaryType="arraybuffer"))
            peer = stack.enter_context(listener.accept())
            peer.handshake(NO_CONTEXT)
            exchange_ping(peer)
            peers.append(peer)
        for peer in peers:
            Flood(peer, itertools.repeat(bombs))
        wait_until_full(peers[-1].sock)
        with within(2):
            os.close(ours)
            assert plugin.wait() == 1
        assert plugin.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_a_host_that_has_gone() -> None:
    with Path("/dev/full").open("wb") as full, Plugin(stdout=full) as plugin:
        plugin.send(describe(1))
        assert plugin.wait() == 1
        assert plugin.stderr == b""


# --- killed ---

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
    Flood(peer, itertools.repeat(MESSAGE))
    wait_until_full(peer.sock)


def flooding(peer: Peer) -> None:
    opened(peer)
    Flood(peer, itertools.repeat(MESSAGE))


SEND = encode(send("ws-1", "x" * 2**18, 0))

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
            process.stdin.write(encode(create(listener.url)))
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
