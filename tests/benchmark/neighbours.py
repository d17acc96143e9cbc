"""`python tests/benchmark/neighbours.py`: what others on the same plugin cost.

App A is flooded on one connection, on five, and on one again, in turns; app B has one connection
and makes round trips meanwhile, or is flooded, too. The second over the first is what four more
floods cost B; the third over the first is what chance does.

Four connections are flooded alone, beside a fifth whose consumer is slow and has it paused, and
alone again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from loopback import LoopbackServer
from plugin_process import PluginProcess, request

FLOOD = "flood-base64-1k"
TRIPS = 300
SHARE_BYTES = 64 << 20
"""How many bytes of lines are read for the share."""
ENDLESS = 10**9
MARK = b'"app":"B"'
COLUMNS = (1, 5, 1)
"""How many connections of A are flooded."""
SLOW = (False, True, False)
"""Whether there is a fifth, paused."""


class Host:
    """Reads all there is, and tells lines of B from those of A."""

    def __init__(self, process: PluginProcess, server: str) -> None:
        self._process = process
        self._server = server
        self._rest = b""

    def create(self, app: str, name: str) -> str:
        """Open a connection of an app; return its id. Nothing else may be going on."""
        payload = {"url": f"{self._server}/{name}", "perMessageDeflate": False}
        line = {"id": 1, "action": "websocket-create", "app": app, "payload": payload}
        self._process.write(json.dumps(line).encode() + b"\n")
        answer, events = self._process.answer_and_events()
        if json.loads(events[0])["payload"]["name"] != "open":
            raise SystemExit(f"not open: {events[0]!r}")
        id: str = json.loads(answer)["response"]["id"]
        return id

    def send(self, app: str, id: str, text: str) -> None:
        """Send a text message of an app."""
        payload = {"id": id, "type": "text", "data": text}
        line = {"id": 2, "action": "websocket-send", "app": app, "payload": payload}
        self._process.write(json.dumps(line).encode() + b"\n")

    def read(self) -> tuple[int, int]:
        """Read once; return how many bytes of lines of A and of B have become whole."""
        chunk = self._rest + self._process.read()
        end = chunk.rfind(b"\n") + 1
        self._rest = chunk[end:]
        ours = stop = 0
        while (at := chunk.find(MARK, stop, end)) >= 0:
            start = max(chunk.rfind(b"\n", stop, at) + 1, stop)
            stop = chunk.index(b"\n", at) + 1
            ours += stop - start
        return end - ours, ours


def p99(command: list[str], server: str, floods: int) -> float:
    """Return the 99th hundredth of B's round trips in seconds, while A is flooded."""
    with PluginProcess(command) as process:
        host = Host(process, server)
        flooded = [host.create("A", FLOOD) for _ in range(floods)]
        own = host.create("B", "round-trip")
        for id in flooded:
            host.send("A", id, str(ENDLESS))
        times = []
        for _ in range(TRIPS):
            start = time.perf_counter()
            host.send("B", own, "x" * 100)
            while not host.read()[1]:
                pass
            times.append(time.perf_counter() - start)
        process.kill()
        return statistics.quantiles(times, n=100)[98]


def share(command: list[str], server: str, floods: int) -> float:
    """Return what part of the bytes is B's, while both are flooded."""
    with PluginProcess(command) as process:
        host = Host(process, server)
        connections = [("A", host.create("A", FLOOD)) for _ in range(floods)]
        connections.append(("B", host.create("B", FLOOD)))
        for app, id in connections:
            host.send(app, id, str(ENDLESS))
        theirs = ours = 0
        while theirs + ours < SHARE_BYTES:
            of_a, of_b = host.read()
            theirs, ours = theirs + of_a, ours + of_b
        process.kill()
        return ours / (theirs + ours)


def four(command: list[str], server: str, *, paused: bool) -> float:
    """Return the seconds that four floods take, beside a paused one or alone."""
    with PluginProcess(command) as process:
        host = Host(process, server)
        if paused:
            slow = host.create("slow", FLOOD)
            process.write(request(0, "websocket-pause", {"id": slow}))
            process.line()
            host.send("slow", slow, str(ENDLESS))
            process.line()
        for id in [host.create("B", FLOOD) for _ in range(4)]:
            host.send("B", id, str(ENDLESS))
        start = time.perf_counter()
        size = 0
        while size < SHARE_BYTES:
            size += host.read()[1]
        taken = time.perf_counter() - start
        process.kill()
        return taken


def ratio(words: str, first: list[float], other: list[float], again: list[float]) -> str:
    """Say the median of the ratios of one round, and what chance does."""
    change = [b / a for a, b in zip(first, other, strict=True)]
    chance = [b / a for a, b in zip(first, again, strict=True)]
    low, high = min(chance), max(chance)
    return (
        f"{words}: {statistics.median(change):.2f} (the first again:"
        f" {statistics.median(chance):.2f}, {low:.2f} to {high:.2f})\n"
    )


def main() -> None:
    """Measure in turns, and print medians of the ratios of one round."""
    parser = argparse.ArgumentParser(
        prog="python tests/benchmark/neighbours.py", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default: 9")
    rounds = parser.parse_args().rounds
    command = [sys.executable, "-m", "wsplugin", "--max-connections", "10"]
    server = LoopbackServer()
    trips = list[list[float]]()
    floods = list[list[float]]()
    parts = list[float]()
    try:
        for _ in range(rounds):
            trips.append([p99(command, server.url, count) for count in COLUMNS])
            floods.append([four(command, server.url, paused=paused) for paused in SLOW])
            parts.append(share(command, server.url, 5))
    finally:
        server.close()
    sys.stdout.write(
        ratio("p99 of B, five floods of A to one", *map(list, zip(*trips, strict=True)))
        + f"B's part of the bytes, when it is flooded, too: {min(parts):.0%} to {max(parts):.0%}\n"
        + ratio("time of four floods, beside a paused one", *map(list, zip(*floods, strict=True)))
    )


if __name__ == "__main__":
    main()
