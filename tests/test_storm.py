"""Hundreds of connections that end in every possible way at every possible moment.

Servers behave at random, the host asks for anything at any time, and the invariants hold: see
``invariants.py``. Chosen at random, from a fixed seed, is only what happens; when it happens is
up to the machine, so that every run is another storm.
"""

import contextlib
import json
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from harness import TIMEOUT, Plugin
from invariants import Checker
from storm_server import Server

PLACES = 5


class Host:
    """Writes requests at random, on a thread; the test reads."""

    def __init__(self, plugin: Plugin, checker: Checker, server: Server, seed: int) -> None:
        self.plugin = plugin
        self.checker = checker
        self.url = f"ws://127.0.0.1:{server.listener.port}"
        self.rng = random.Random(seed)
        self.requests = 0
        self.creates = 0
        self.sends: Counter[str] = Counter()
        self.progress = threading.Event()

    def run(self, connections: int) -> None:
        """Write until so many connections have been asked for, then end the input."""
        weights = {self.create: 1, self.send: 4, self.close: 0.3, self.strange: 0.2}
        with contextlib.suppress(OSError):
            while self.creates < connections:
                kinds = self.rng.choices(list(weights), list(weights.values()), k=5)
                requests = [request for kind in kinds if (request := kind())]
                if self.rng.random() < 0.02:
                    requests.append(self.background())
                self.plugin.send(*requests)
                # Mostly leave the servers time to end it themselves, sometimes do not.
                self.let(self.rng.choice([0, 0.001, 0.01, 0.2, 0.2, 0.2]))
            self.plugin.close_stdin()

    def let(self, seconds: float) -> None:
        """Wait so long at most for a place to be free."""
        deadline = time.monotonic() + seconds
        while (
            self.creates - self.checker.ended >= PLACES
            and (left := deadline - time.monotonic()) > 0
        ):
            self.progress.clear()
            self.progress.wait(left)

    def request(self, action: str, payload: Any = None) -> dict[str, Any]:
        """Return a request, known to the checker."""
        self.requests += 1
        request = {"id": self.requests, "action": action}
        if payload is not None:
            request["payload"] = payload
        return self.checker.request(request)

    def create(self) -> dict[str, Any]:
        """Create a connection: to the server, or where nobody listens."""
        self.creates += 1
        url = f"{self.url}/{self.creates}"
        if self.rng.random() < 0.05:
            url = "ws://127.0.0.1:1/"
        timeout = self.rng.choice([20, 200, 5000])
        return self.request("websocket-create", {"url": url, "timeout": timeout})

    def some_id(self) -> str | None:
        """Return a connection, rather a young one."""
        known = self.checker.created[-8:]
        return self.rng.choice(known) if known else None

    def send(self) -> dict[str, Any] | None:
        """Send the next number on some connection."""
        id = self.some_id()
        if id is None:
            return None
        data = str(self.sends[id])
        self.sends[id] += 1
        return self.request("websocket-send", {"id": id, "type": "text", "data": data})

    def close(self) -> dict[str, Any] | None:
        """Close some connection."""
        id = self.some_id()
        if id is None:
            return None
        return self.request("websocket-close", {"id": id, "code": 4444, "reason": "storm"})

    def strange(self) -> dict[str, Any]:
        """Ask for what cannot be."""
        payload = self.rng.choice([{"id": "ws-99999"}, {"id": "ws-1", "code": 1}, {"id": "x"}])
        return self.request("websocket-close", payload)

    def background(self) -> dict[str, Any]:
        """End all connections."""
        return self.request("app-background")


def message_number(payload: Any) -> int:
    """Return the number that a message carries."""
    data = payload["data"]
    return int(data if payload["type"] == "text" else bytes(data))


def check_messages(checker: Checker, server: Server) -> None:
    """Check the numbers of all messages in both directions."""
    for number, id in enumerate(checker.created, 1):
        events = checker.events[id]
        numbers = [message_number(payload) for name, payload in events if name == "message"]
        assert numbers == list(range(len(numbers))), id
        received = [int(text) for text in server.received.get(number, [])]
        sent = [int(text) for text in checker.sent[id]]
        assert received == sorted(set(received)), id
        # Of those answered with {} none is left out before one that came.
        assert set(sent) & set(range(max(received, default=-1) + 1)) <= set(received), id
        if number in server.completed:
            assert set(sent) <= set(received), id


@pytest.mark.parametrize(
    ("seed", "connections"),
    [(1, 120), *(pytest.param(seed, 400, marks=pytest.mark.slow) for seed in (2, 3))],
)
def test_storm(seed: int, connections: int) -> None:
    checker = Checker()
    with Server(seed * 1_000_000) as server, Plugin("--close-timeout", "0.5") as plugin:
        host = Host(plugin, checker, server, seed)
        writer = threading.Thread(target=host.run, args=(connections,))
        writer.start()
        try:
            while line := plugin.read_line():
                checker.line(json.loads(line))
                host.progress.set()
        except AssertionError:
            plugin.process.kill()
            raise
        finally:
            writer.join(TIMEOUT)
        assert plugin.wait() == 0
        assert plugin.stderr == b""
    checker.finish()
    assert server.failures == []
    assert len(checker.created) >= connections
    assert server.most == PLACES
    check_messages(checker, server)
    # A storm in which something never happens would prove little.
    ends = Counter(events[-1][1]["cause"] for events in checker.events.values())
    assert set(ends) >= {"host", "server", "limit", "background", "failure"}, ends
    errors = Counter(p["code"] for e in checker.events.values() for n, p in e if n == "error")
    assert set(errors) >= {"network-error", "handshake-failed", "open-timeout", "protocol-error"}


def test_the_checker_can_fail() -> None:
    """Each of these streams is wrong in its last line."""
    create = {"id": 1, "action": "websocket-create"}
    created = {"id": 1, "response": {"id": "ws-1"}}

    def event(name: str, payload: Any = None) -> Any:
        event = {"id": "ws-1", "name": name, "payload": payload}
        return {"event": "websocket-event", "payload": event}

    closed = event("close", {"code": 1000, "reason": "", "cause": "server"})
    failed = event("close", {"code": 1006, "reason": "why", "cause": "failure"})
    wrong: list[list[Any]] = [
        [created, created],
        [{"id": 2, "response": {}}],
        [{"id": 1, "response": {"id": "ws-2"}}],
        [event("open")],
        [created, event("message")],
        [created, event("open"), event("open")],
        [created, closed, event("message")],
        [created, closed, closed],
        [created, event("error"), event("error")],
        [created, event("error"), closed],
        [created, failed],
        [created, event("open"), event("error"), event("message")],
        [created, event("close", {"code": 1006, "reason": "", "cause": "host"})],
        [created, event("close", {"code": 1006, "reason": "x", "cause": "server"})],
    ]
    for lines in wrong:
        checker = Checker()
        checker.request(create)
        for line in lines[:-1]:
            checker.line(line)
        with pytest.raises(AssertionError):
            checker.line(lines[-1])
    for unfinished in ([], [created], [created, event("open")]):
        checker = Checker()
        checker.request(create)
        for line in unfinished:
            checker.line(line)
        with pytest.raises(AssertionError):
            checker.finish()
