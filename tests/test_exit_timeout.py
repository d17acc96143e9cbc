"""``--exit-timeout``: from the end of stdin to that of the process at most, whoever is to wait for.

A cut connection gets no Close frame, or nobody answers it: 1006, cause ``shutdown``.
"""

import contextlib
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from io import FileIO

import pytest

from harness import TEXT, Listener, Plugin, close_frame, frame, within
from host_lines import (
    background,
    close,
    create,
    describe,
    done,
    encode,
    expect_abnormal,
    expect_failure,
    send,
)
from pressure import MESSAGE, Flood, deaf_server, stall, wait_until_full
from situations import DOWN, connecting, expect_nobody, finish_closing
from test_signals import STUCK, unread_plugin

S = 0.5
OPTION = ("--exit-timeout", f"{S}")
LAST = 0.3
"""Seconds that the host has to read the last lines."""


def expect_cut(plugin: Plugin, id: str) -> None:
    """Read the `close` of a connection that was cut."""
    reason = expect_abnormal(plugin.event(id, "close"), "shutdown")
    assert "exit timeout" in reason


def test_silent_servers() -> None:
    """One is open, one connecting, one the host has closed, and one has closed itself."""
    with Listener() as listener, Plugin(*OPTION) as plugin, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(listener.open(plugin)[1]) for _ in range(3)]
        peers.append(stack.enter_context(connecting(plugin, listener)[1]))
        plugin.request("websocket-close", {"id": "ws-2"})
        began = time.monotonic()
        with within(S):
            plugin.close_stdin()
            peers[0].expect_close(1001, DOWN)
            peers[2].expect_close(1001, DOWN)
            peers[2].send(close_frame(1001))
            closes = {}
            for _ in range(4):
                payload = plugin.read()["payload"]
                assert payload["name"] == "close"
                closes[payload["id"]] = payload["payload"]
            assert plugin.read_line() == b""
            assert plugin.wait() == 0
        assert time.monotonic() - began >= S
        # Both Close frames were seen.
        assert closes.pop("ws-3") == {"code": 1001, "reason": DOWN, "cause": "shutdown"}
        for close_ in closes.values():
            assert "exit timeout" in expect_abnormal(close_, "shutdown")
        for peer in peers:
            peer.expect_end()


def test_a_server_that_does_not_read() -> None:
    with deaf_server() as listener, Plugin(*OPTION, "--close-timeout", "3600") as plugin:
        ws, peer = listener.open(plugin)
        with peer:
            answered, waiting = stall(plugin, ws)
            with within(S):
                plugin.close_stdin()
                for id in range(answered, answered + waiting):
                    expect_failure(plugin.read(), id, "not-open")
                expect_cut(plugin, ws)
                assert plugin.read_line() == b""
                assert plugin.wait() == 0


def test_lingering() -> None:
    with Listener() as listener, Plugin(*OPTION, "--linger", "3600") as plugin:
        id, peer = listener.open(plugin)
        with peer, within(S):
            plugin.close_stdin()
            peer.send(frame(TEXT, b"still there"))
            assert plugin.event(id, "message")["data"] == "still there"
            expect_cut(plugin, id)
            peer.expect_end()
            assert plugin.wait() == 0


def test_what_ends_sooner_is_not_held_up() -> None:
    with Listener() as listener, Plugin("--exit-timeout", "3600") as plugin:
        id, peer = listener.open(plugin)
        with within(0):
            plugin.close_stdin()
            finish_closing(peer, plugin, id)
            assert plugin.wait() == 0


def test_who_waits_for_a_place_gets_none_that_a_cut_makes_free() -> None:
    with Listener() as listener, Plugin("--max-connections", "1", *OPTION) as plugin:
        peer = connecting(plugin, listener)[1]
        with peer:
            plugin.send(send("ws-1", "a", 1), close("ws-1", request=2), create(listener.url))
            assert [plugin.read()["id"], plugin.read()["id"]] == [2, "create"]
            plugin.send(send("ws-2", "b", 3), background(4))
            plugin.close_stdin()
            # It has a second, which the create behind it has given it, or all of us have less.
            expect_failure(plugin.read(), 3, "not-open")
            expect_abnormal(plugin.event("ws-2", "close"), "background")
            expect_failure(plugin.read(), 1, "not-open")
            expect_abnormal(plugin.event("ws-1", "close"), "host")
            assert plugin.read() == done(4)
            assert plugin.wait() == 0
        expect_nobody(listener)


def test_a_name_that_is_looked_up() -> None:
    command = [sys.executable, "-c", STUCK, "--allow-insecure", "--proxy=none", *OPTION]
    with Plugin(command=command) as plugin:
        id = plugin.create("ws://stuck.test/", timeout=3_600_000)
        plugin.send(send(id, "waits", 7))
        with within(S):
            plugin.close_stdin()
            expect_failure(plugin.read(), 7, "not-open")
            expect_cut(plugin, id)
            assert plugin.wait() == 0


# --- the host does not read -----------------------------------------------------------------------


def test_the_last_lines_of_a_host_that_does_not_read_are_dropped() -> None:
    """All that it wrote has been read, and no connection is left."""
    with unread_plugin(*OPTION) as (plugin, _, writer):
        plugin.send(*(describe(number) for number in range(5000)))
        wait_until_full(writer)
        with within(S + LAST):
            plugin.close_stdin()
            assert plugin.wait() == 0
        assert plugin.stderr == b""


def pipe() -> tuple[int, int]:
    return os.pipe()


def socket_pair() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return theirs.detach(), ours.detach()


def half_closed(fd: int) -> None:
    """End a stream as hosts do that have one socket for both directions."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("make", "end"),
    [(pipe, os.close), (socket_pair, os.close), (socket_pair, half_closed)],
    ids=["pipe", "socket", "half a socket"],
)
def test_an_end_of_stdin_that_is_not_read(
    make: Callable[[], tuple[int, int]], end: Callable[[int], None]
) -> None:
    """The output is full: what the host has written waits in its pipe, with the end behind it."""
    theirs, ours = make()
    with (
        Listener() as listener,
        FileIO(theirs) as stdin,
        unread_plugin(*OPTION, stdin=stdin) as (plugin, _, _),
    ):
        os.write(ours, encode(create(listener.url)))
        with listener.accept() as peer:
            peer.handshake()
            Flood(peer, itertools.repeat(MESSAGE))
            wait_until_full(peer.sock)
            os.set_blocking(ours, False)
            with FileIO(os.dup(ours), "w") as stream:
                while stream.write(b" " * 65536 + b"\n"):
                    pass
            with within(S + LAST):
                end(ours)
                peer.expect_end()
                assert plugin.wait() == 0
            assert plugin.stderr == b""


def test_a_host_that_reads_on_at_the_last_moment_has_all_lines() -> None:
    with Listener() as listener, Plugin(*OPTION) as plugin:
        id, peer = listener.open(plugin)
        with peer:
            plugin.stop_reading()
            Flood(peer, itertools.repeat(MESSAGE))
            wait_until_full(peer.sock)
            plugin.close_stdin()
            peer.expect_end()
            plugin.resume_reading()
            *messages, (name, payload) = plugin.events_to_close(id)
            assert {name for name, _ in messages} == {"message"}
            assert (name, payload["code"], payload["cause"]) == ("close", 1006, "shutdown")
            assert plugin.read_line() == b""
            assert plugin.wait() == 0


# --- with signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["signal", "exit timeout"])
def test_a_signal_does_not_prolong_it(first: str) -> None:
    """What is to come within two seconds of the one comes sooner, if the other wants it to."""
    with unread_plugin("--exit-timeout", "0.1", "--linger", "3600") as (plugin, _, writer):
        plugin.send(*(describe(number) for number in range(5000)))
        wait_until_full(writer)
        with within(0.1 + LAST):
            if first == "signal":
                plugin.process.send_signal(signal.SIGTERM)
                plugin.close_stdin()
            else:
                plugin.close_stdin()
                time.sleep(0.2)
                plugin.process.send_signal(signal.SIGTERM)
            assert plugin.wait() == 0
        assert plugin.stderr == b""
