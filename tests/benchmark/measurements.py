"""The measurements: what is done to a fresh plugin process, and what is read off it.

Metrics are `wall`, `cpu`, `p50` and `p99` in seconds (of a message, where there are messages),
`memory` and `peak` (resident) in bytes.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from plugin_process import Clock, PluginError, PluginProcess, request
from workloads import Workload

Metrics = dict[str, float]

SETTLING = 0.3
"""Seconds between `open` and the reading of idle memory."""

BLOCK = 100
"""Requests of a pipelined echo written in one go; at most twice as many are in flight."""


@dataclass(frozen=True)
class Plugin:
    """A plugin that runs here."""

    command: Sequence[str]
    version: str
    extended: bool
    """Whether it speaks more than the seed: perMessageDeflate and base64."""


def describe(command: Sequence[str], version: str = "") -> Plugin:
    """Tries a command out, with the action that only extended plugins answer with a response."""
    with PluginProcess(command) as process:
        process.write(request(0, "plugin-describe", {}))
        response = json.loads(process.line()).get("response")
    if response is None:
        return Plugin(command, version, extended=False)
    return Plugin(command, f"{response['name']} {response['version']}", extended=True)


def measure(plugin: Plugin, workload: Workload, server: str) -> Metrics:
    """One measurement of a workload, against the server at that URL."""
    create: dict[str, object] = {"url": f"{server}/{workload.name}"}
    if plugin.extended:
        create["perMessageDeflate"] = False
        if workload.kind == "base64":
            create["binaryType"] = "base64"
    with PluginProcess(plugin.command) as process:
        process.write(request(0, "websocket-create", create))
        answer, events = process.answer_and_events()
        opened = process.clock()
        if json.loads(events[0])["payload"]["name"] != "open":
            raise PluginError(f"not open: {events[0]!r}")
        if workload.measure == "start":
            time.sleep(SETTLING)
            wall = opened.wall - process.spawned
            return {"wall": wall, "cpu": opened.cpu, "memory": process.memory("VmRSS")}
        id = json.loads(answer)["response"]["id"]
        if workload.measure == "flood":
            return flood(process, workload, id)
        if workload.measure == "echo":
            return echo(process, workload, id)
        return round_trips(process, workload, id)


def flood(process: PluginProcess, workload: Workload, id: str) -> Metrics:
    """The server sends as fast as it can, and the host reads as fast as it can."""

    def run(count: int) -> None:
        go = {"id": id, "type": "text", "data": str(count)}
        process.write(request(0, "websocket-send", go))
        _, events = process.answer_and_events()
        size = process.skip(count - len(events) - 1)
        events += [process.line()] * (len(events) < count)
        # All events are equal, so their size tells whether one was lost, cut or doubled.
        if events[-1] != events[0] or size != len(events[0]) * (count - len(events)):
            raise PluginError("the messages of a flood differ")
        check(events[0], workload)

    run(workload.count // 10)
    before = process.clock()
    run(workload.count)
    return cost(process, before, workload.count)


def echo(process: PluginProcess, workload: Workload, id: str) -> Metrics:
    """The host keeps sends in flight, and waits for none of them."""
    send = {"id": id, **workload.message()}
    # Two blocks take turns: when one is written again, its ids have been answered.
    lines = [request(number, "websocket-send", send) for number in range(2 * BLOCK)]
    blocks = [b"".join(lines[:BLOCK]), b"".join(lines[BLOCK:])]
    process.write(lines[0])
    answer, (event,) = process.answer_and_events()
    check(event, workload)

    def run(pairs: int) -> None:
        size = process.exchange(blocks * pairs, 2 * BLOCK)
        if size != pairs * 2 * BLOCK * (len(answer) + len(event)):
            raise PluginError("the answers and events of an echo differ")

    pairs = max(workload.count // (2 * BLOCK), 1)
    run(max(pairs // 10, 1))
    before = process.clock()
    run(pairs)
    return cost(process, before, pairs * 2 * BLOCK)


def round_trips(process: PluginProcess, workload: Workload, id: str) -> Metrics:
    """One message at a time, from the write of its line to its answer and echo."""
    line = request(0, "websocket-send", {"id": id, **workload.message()})
    process.write(line)
    check(process.answer_and_events()[1][0], workload)

    def run(count: int) -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            process.write(line)
            process.skip(2)
            times.append(time.perf_counter() - start)
        return times

    run(workload.count // 10)
    before = process.clock()
    hundredths = statistics.quantiles(run(workload.count), n=100)
    spent = cost(process, before, workload.count)
    return {"cpu": spent["cpu"], "p50": hundredths[49], "p99": hundredths[98]}


def cost(process: PluginProcess, before: Clock, count: int) -> Metrics:
    """The cost of one of `count` messages since `before`, and the peak memory of the process."""
    after = process.clock()
    return {
        "wall": (after.wall - before.wall) / count,
        "cpu": (after.cpu - before.cpu) / count,
        "peak": process.memory("VmHWM"),
    }


def check(event: bytes, workload: Workload) -> None:
    """Refuses an event that does not hold the workload's message."""
    if json.loads(event)["payload"]["payload"] != workload.message():
        raise PluginError(f"wrong message: {event[:200]!r}")
