"""Hundreds of connections that end in every possible way at every possible moment.

Servers behave at random, the host asks for anything at any time, and the invariants hold: see
``invariants.py``. Chosen at random, from a fixed seed, is only what happens; when it happens is
up to the machine, so that every run is another storm.
"""

import contextlib
import json
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import pytest

from harness import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    Listener,
    Peer,
    Plugin,
    close_frame,
    frame,
)
from invariants import Checker

ESTABLISHED = 1
PLACES = 5


class Server:
    """A server of which each connection behaves in its own way.

    Messages are numbered in both directions, so that a lost, a doubled or a misplaced one shows.
    """

    def __init__(self, seed: int) -> None:
        self.listener = Listener()
        self.most = 0
        """The most TCP connections of the plugin seen at the same time."""
        self.received: dict[int, list[str]] = {}
        """What has been received, by the number in the path of the request."""
        self.completed: set[int] = set()
        """Where the Close frame of the plugin has been read: all that was sent has come before."""
        self.failures: list[AssertionError] = []
        self._seed = seed
        self._live: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._accepter = threading.Thread(target=self._accept)
        self._accepter.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End, once every connection has ended."""
        self.listener.sock.shutdown(socket.SHUT_RDWR)
        self._accepter.join(TIMEOUT)
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        self.listener.sock.close()

    def _accept(self) -> None:
        self.listener.sock.settimeout(None)
        while True:
            try:
                peer = self.listener.accept()
            except OSError:
                return
            # The plugin closes one socket before it opens the next: what still seems to be
            # established after an accept was so all the time.
            self._live.add(peer.sock)
            count = sum(self._established(sock) for sock in list(self._live))
            self.most = max(self.most, count)
            rng = random.Random(self._seed + len(self._threads))
            thread = threading.Thread(target=self._serve, args=(peer, rng))
            self._threads.append(thread)
            thread.start()

    def _established(self, sock: socket.socket) -> bool:
        try:
            return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED
        except OSError:
            return False  # closed by us

    def _serve(self, peer: Peer, rng: random.Random) -> None:
        try:
            Life(self, peer, rng).live()
        except (OSError, EOFError):
            pass  # the plugin has ended it
        except AssertionError as exc:
            self.failures.append(exc)
        finally:
            self._live.discard(peer.sock)
            peer.close()


class Life:
    """One connection as the server lives it."""

    def __init__(self, server: Server, peer: Peer, rng: random.Random) -> None:
        self.server = server
        self.peer = peer
        self.rng = rng
        self.number = -1
        self.messages = 0

    def live(self) -> None:
        opening = self.rng.choice([*OPENINGS, *[accept] * 12])
        if not opening(self):
            return
        for _ in range(self.rng.choice([0, 0, 1, 3, 10, 30])):
            self.rng.choice(DOINGS)(self)
        self.rng.choice(ENDINGS)(self)

    def message(self) -> bytes:
        """Return the next message, in some form."""
        data = str(self.messages).encode()
        self.messages += 1
        opcode = self.rng.choice([TEXT, BINARY])
        if self.rng.random() < 0.3:
            ping = self.rng.choice([b"", frame(PING, b"p"), frame(PONG)])
            return frame(opcode, data[:1], fin=False) + ping + frame(CONT, data[1:])
        return frame(opcode, data)

    def read(self, seconds: float) -> bool:
        """Read what comes in some time; answer Ping and sometimes Close. False at the end."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.peer.sock.settimeout(left)
            try:
                first = self.peer.sock.recv(1, socket.MSG_PEEK)
            except TimeoutError:
                return True
            self.peer.sock.settimeout(TIMEOUT)
            if not first:
                return False
            head, payload = self.peer.read_frame()
            match head & 0x0F:
                case 0x1 | 0x2:
                    self.server.received[self.number].append(payload.decode())
                case 0x9:
                    self.peer.send(frame(PONG, payload))
                case 0x8:
                    self.server.completed.add(self.number)
                    if self.rng.random() < 0.8:
                        self.peer.send(frame(CLOSE, payload))
                    if self.rng.random() < 0.7:
                        self.peer.close()
                    return False
        return True

    def request(self) -> None:
        """Read the request."""
        self.number = int(self.peer.read_request().split(b" ", 2)[1].strip(b"/"))
        self.server.received[self.number] = []


def accept(life: Life) -> bool:
    """Accept, sometimes with frames in the same write, sometimes slowly."""
    life.request()
    data = life.peer.response()
    for _ in range(life.rng.choice([0, 0, 0, 1, 5])):
        data += life.message()
    if life.rng.random() < 0.2:
        at = life.rng.randrange(len(data))
        life.peer.send(data[:at])
        data = data[at:]
    life.peer.send(data)
    return True


def accept_and(end: Callable[[Life], bytes]) -> Callable[[Life], bool]:
    """Accept, and break or close the connection in the same write."""

    def opening(life: Life) -> bool:
        life.request()
        life.peer.send(life.peer.response() + life.message() + end(life))
        return False

    return opening


def answer(*answers: bytes) -> Callable[[Life], bool]:
    """Answer with something else, and end TCP in some way."""

    def opening(life: Life) -> bool:
        life.request()
        life.peer.send(life.rng.choice(answers))
        match life.rng.randrange(3):
            case 0:
                life.peer.reset()
            case 1:
                life.peer.expect_end()
        return False

    return opening


def reset_at_once(life: Life) -> bool:
    """Do not even read the request."""
    life.peer.reset()
    return False


def end_at_once(life: Life) -> bool:
    """End TCP before the request is read."""
    life.peer.close()
    return False


def keep_silent(life: Life) -> bool:
    """Never answer the request."""
    life.request()
    life.peer.expect_end()
    return False


OPENINGS: list[Callable[[Life], bool]] = [
    reset_at_once,
    end_at_once,
    keep_silent,
    answer(b"", b"H", b"HTTP/1.1 101 OK\r\nUpgr", b"HTTP/1.1 101 OK\r\n\r\n"),
    answer(b"HTTP/1.1 403 No\r\n\r\n", b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b"\r\n" * 9),
    accept_and(lambda life: close_frame(4000, "glued")),
    accept_and(lambda life: frame(3)),
    accept_and(lambda life: b"\x81"),
]


def send_messages(life: Life) -> None:
    """Send some messages in one write."""
    life.peer.send(b"".join(life.message() for _ in range(life.rng.randint(1, 5))))


def read_on(life: Life) -> None:
    """Read for a moment."""
    if not life.read(life.rng.choice([0.001, 0.01])):
        raise EOFError


def send_half(life: Life) -> None:
    """Send a message in two writes with a moment between them."""
    data = life.message()
    life.peer.send(data[:1])
    select.select([life.peer.sock], [], [], 0.005)
    life.peer.send(data[1:])


DOINGS: list[Callable[[Life], None]] = [send_messages, read_on, read_on, send_half]


def close_and_read(life: Life) -> None:
    """Close as one should."""
    life.peer.send(close_frame(life.rng.choice([None, 1000, 4000])))
    while life.read(TIMEOUT):
        pass


def close_and_linger(life: Life) -> None:
    """Close and do not end TCP."""
    life.peer.send(close_frame(4001))
    life.peer.expect_end()


def close_and_end(life: Life) -> None:
    """Close and end TCP at once, or reset it."""
    life.peer.send(life.message() + close_frame(4002, "end"))
    if life.rng.random() < 0.5:
        life.peer.reset()


def end_tcp(life: Life) -> None:
    """End TCP without a word."""


def reset_tcp(life: Life) -> None:
    """Reset TCP."""
    life.peer.reset()


def break_rules(life: Life) -> None:
    """Send a bad frame."""
    bad = [frame(3), frame(TEXT, b"\xff"), frame(CONT), frame(CLOSE, b"\0"), frame(9, fin=False)]
    life.peer.send(life.message() + life.rng.choice(bad))
    if life.rng.random() < 0.5:
        life.peer.expect_end()


def read_to_the_end(life: Life) -> None:
    """Answer until the plugin ends it."""
    while life.read(TIMEOUT):
        pass


def do_nothing(life: Life) -> None:
    """Neither read nor write: until the plugin ends it."""
    poll = select.poll()
    poll.register(life.peer.sock, select.POLLRDHUP)
    poll.poll(TIMEOUT * 1000)


ENDINGS: list[Callable[[Life], None]] = [
    close_and_read,
    close_and_linger,
    close_and_end,
    end_tcp,
    reset_tcp,
    break_rules,
    *[read_to_the_end] * 4,
    do_nothing,
]


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
