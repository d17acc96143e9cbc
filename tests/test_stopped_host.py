"""A host that stops reading stops the plugin: memory stays flat, and nothing is lost.

Memory is compared with that of the same process with its connections open and idle.
"""

import contextlib
import itertools
import logging
import os
import select
import threading
from typing import Any

import msgspec
import pytest

from harness import BINARY, PING, PONG, TEXT, TIMEOUT, Listener, Plugin, echo_server, frame
from host_lines import close, describe, encode, send
from pressure import (
    IDLE_MARGIN,
    MIB,
    NO_CONTEXT,
    STILL,
    Flood,
    inflating,
    number_of,
    numbered,
    wait_until_still,
)
from situations import linux

log = logging.getLogger(__name__)

TAKEN = 4 * MIB
"""What the plugin may have read from servers for a host that has stopped reading."""


def fill_stdin(plugin: Plugin, line: bytes, most: int) -> int:
    """Write a line again and again until no more is taken, or `most` was; return how much."""
    assert plugin.process.stdin
    fd = plugin.process.stdin.fileno()
    os.set_blocking(fd, False)
    written = 0
    data = b""
    while written < most and select.select([], [fd], [], STILL)[1]:
        data = data or line
        with contextlib.suppress(BlockingIOError):
            count = os.write(fd, data)
            written += count
            data = data[count:]
    os.set_blocking(fd, True)
    threading.Thread(target=plugin.write, args=(data,), daemon=True).start()
    return written


FLOODS: dict[str, tuple[int, int, int, int]] = {
    # servers, opcode, size of a message, messages of each server
    "one server, 100 MB of 256 KiB texts": (1, TEXT, 256 * 1024, 400),
    "five servers, 2 KiB binary messages": (5, BINARY, 2048, 4000),
}


@linux
@pytest.mark.parametrize(("servers", "opcode", "size", "count"), FLOODS.values(), ids=FLOODS)
def test_a_stopped_host_stops_servers_and_its_own_requests(
    servers: int, opcode: int, size: int, count: int
) -> None:
    with Listener() as listener, Plugin() as plugin, contextlib.ExitStack() as stack:
        peers = {}
        for _ in range(servers):
            id, peer = listener.open(plugin)
            peers[id] = stack.enter_context(peer)
        plugin.reset_peak()
        idle = plugin.memory()
        plugin.stop_reading()
        floods = [Flood(peer, numbered(opcode, size, count)) for peer in peers.values()]
        sent = wait_until_still(lambda: sum(flood.sent for flood in floods))
        assert sent < servers * size * count
        taken = sum(flood.taken() for flood in floods)
        assert taken < TAKEN
        request = encode(describe("filler"))
        # What the pipe holds, and one read before the plugin notices.
        assert fill_stdin(plugin, request, MIB) <= 2 * 65536 + len(request)
        assert plugin.peak_memory() - idle < IDLE_MARGIN

        plugin.resume_reading()
        plugin.send(describe("last"))
        arrived: dict[str, list[int]] = {id: [] for id in peers}
        answered = False
        while not answered or sum(map(len, arrived.values())) < servers * count:
            line = msgspec.json.decode(plugin.read_line())
            if "event" in line:
                assert line["payload"]["name"] == "message"
                arrived[line["payload"]["id"]].append(number_of(line["payload"]["payload"]))
            else:
                answered |= line["id"] == "last"
        assert all(numbers == list(range(count)) for numbers in arrived.values())
        growth = plugin.peak_memory() - idle
        log.info(
            "stopped host: %d bytes sent, %d of them read; memory grew by %.1f MiB",
            sent,
            taken,
            growth / MIB,
        )
        assert growth < IDLE_MARGIN


REQUESTS: dict[str, tuple[int, str, dict[str, Any]]] = {
    # how many requests, what comes back for each, and the request
    "answered": (30_000, "response", describe()),
    "refused": (30_000, "error", {"action": "websocket-shout"}),
    # Less in sum than the send buffer of the connection, so that nothing may be refused.
    "echoed": (
        10_000,
        "response",
        send("ws-1", "x" * 999),
    ),
}


@linux
@pytest.mark.parametrize(("count", "result", "request_"), REQUESTS.values(), ids=REQUESTS)
def test_a_host_that_writes_before_it_reads_cannot_deadlock_the_pair(
    count: int, result: str, request_: dict[str, Any]
) -> None:
    with echo_server() as server, Plugin() as plugin:
        ws = plugin.create(server.url, perMessageDeflate=False)
        plugin.event(ws, "open")
        plugin.reset_peak()
        idle = plugin.memory()
        plugin.stop_reading()
        written = 0

        def write() -> None:
            nonlocal written
            for id in range(count):
                plugin.send(request_ | {"id": id})
                written += 1

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        assert wait_until_still(lambda: written) < count, "stdin is read without limit"
        assert plugin.peak_memory() - idle < IDLE_MARGIN
        plugin.resume_reading()
        answers: list[int] = []
        echoes = 0
        is_echoed = "payload" in request_
        while len(answers) < count or echoes < count * is_echoed:
            line = plugin.read()
            if "event" in line:
                echoes += line["payload"]["name"] == "message"
            else:
                assert result in line
                answers.append(line["id"])
        writer.join(TIMEOUT)
        assert answers == list(range(count))
        assert plugin.peak_memory() - idle < IDLE_MARGIN


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the pause", "within the pause"])
def test_while_reading_is_paused_no_ping_times_out(moment: str) -> None:
    interval, patience = 0.2, 2.0
    with (
        Listener() as listener,
        Plugin("--ping-interval", str(interval), "--ping-timeout", str(patience)) as plugin,
    ):
        id, peer = listener.open(plugin)
        with peer:
            plugin.stop_reading()
            if moment == "before the pause":
                head, ping = peer.read_frame()
            flood = Flood(peer, numbered(TEXT, 256 * 1024, 200))
            wait_until_still(lambda: flood.sent)
            if moment == "within the pause":
                head, ping = peer.read_frame()
            assert head & 0x0F == PING
            # Nothing more may come, no Close frame above all, for longer than a ping may take.
            assert not select.select([peer.sock], [], [], interval + 1.5 * patience)[0]
            plugin.resume_reading()
            for number in range(200):
                assert number_of(plugin.event(id, "message")) == number
            flood.join(TIMEOUT)
            peer.send(frame(PONG, ping) + frame(TEXT, b"alive"))
            assert plugin.event(id, "message")["data"] == "alive"
            # The Pong has been taken for one: the next Ping follows.
            assert peer.read_frame()[0] & 0x0F == PING


def test_a_flood_of_large_messages_leaves_turns_to_others() -> None:
    # One read of such frames is 60 MB of messages, so the flooding connection alone could keep
    # the output full for ever: the others and stdin must get a turn in between.
    turns = 200
    with Listener() as listener, Plugin() as plugin:
        id, flooding = listener.open(plugin, NO_CONTEXT)
        other, peer = listener.open(plugin)
        with flooding, peer:
            Flood(flooding, itertools.repeat(inflating(TEXT, b"x" * MIB) * 64))
            for number in range(5):
                plugin.send(describe(number))
                peer.send(frame(TEXT, b"%08d" % number))
                due = {("answer", number), ("message", number)}
                for _ in range(turns):
                    line = msgspec.json.decode(plugin.read_line())
                    if "event" not in line:
                        due.remove(("answer", line["id"]))
                    elif line["payload"]["id"] == other:
                        due.remove(("message", number_of(line["payload"]["payload"])))
                    if not due:
                        break
                assert not due, f"not in {turns} messages of the flood"
            plugin.send(close(id, request=None))
            flooding.expect_close(1000)
