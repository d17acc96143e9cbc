"""Random interleavings of host lines and server moves, against a small model of the contract.

Every step is one write of the host or one move of a server; the model says which lines and which
frames come of it, and the real process, over real pipes and sockets, has to bring exactly those.
A failure shrinks to the few steps that make it.

Time stands still in the model, so the process runs with patience for everything; that two things
happen at once is for ``test_storm.py`` and ``test_at_once.py``.
"""

import os
import sys
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from connection_model import CLOSED, CLOSING, CONNECTING, DONE, LIMIT, OPEN, Connection, Model
from harness import CLOSE, PING, TEXT, Listener, Peer, Plugin, close_frame, frame
from host_lines import background, close, create, send
from invariants import Checker

PATIENT = """
import wsplugin.connection
wsplugin.connection.GRACE = 1000.0
import wsplugin.manager
assert wsplugin.manager.GRACE == 1000.0
from wsplugin.cli import main
main()
"""
OPTIONS = ("--max-connections", str(LIMIT), "--open-timeout", "1000", "--close-timeout", "1000")

TEXTS = st.sampled_from(["", "a", "é😀", "*" * 200])
PICKS = st.integers(0, 5)
HOST_LINES = st.one_of(
    st.tuples(st.just("create")),
    *[st.tuples(st.just("send"), PICKS, TEXTS)] * 3,
    st.tuples(st.just("close"), PICKS, st.sampled_from([1000, 4000]), st.sampled_from(["", "bye"])),
    st.tuples(st.just("background")),
    st.tuples(st.just("unknown")),
)


class Conversation(RuleBasedStateMachine):
    """Plays the host and all servers, and compares."""

    # Starting a process takes as long as many examples, so they share one. An example that fails
    # may leave anything behind; the next begins with a new one.
    plugin: ClassVar[Plugin | None] = None
    listener: ClassVar[Listener]
    checker: ClassVar[Checker]
    created: ClassVar[int] = 0
    requests: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        if Conversation.plugin is None:
            command = [sys.executable, "-c", PATIENT]
            Conversation.plugin = Plugin(*OPTIONS, command=command)
            Conversation.listener = Listener()
            Conversation.checker = Checker()
            Conversation.created = 0
        self.model = Model(Conversation.created)
        self.peers: dict[str, Peer] = {}

    # --- steps ---

    @rule(lines=st.lists(HOST_LINES, min_size=1, max_size=5))
    def host(self, lines: list[tuple[Any, ...]]) -> None:
        self.write(lines)

    @precondition(lambda self: self.choices(CONNECTING))
    @rule(pick=PICKS, glued=st.lists(TEXTS, max_size=2), close=st.booleans())
    def accept(self, pick: int, glued: list[str], close: bool) -> None:
        connection, peer = self.choose(pick, CONNECTING)
        self.model.accept(connection)
        data = peer.response()
        for text in glued:
            self.model.message(connection, text)
            data += frame(TEXT, text.encode())
        if close:
            self.model.server_close(connection, 4001, "glued")
            data += close_frame(4001, "glued")
        peer.send(data)
        self.compare()

    @precondition(lambda self: self.choices(CONNECTING))
    @rule(
        pick=PICKS,
        answer=st.sampled_from(
            [b"HTTP/1.1 500 No\r\n\r\n", b"no HTTP\r\n", b"HTTP/1.1 101\r\n\r\n"]
        ),
    )
    def refuse(self, pick: int, answer: bytes) -> None:
        connection, peer = self.choose(pick, CONNECTING)
        self.model.end_of_tcp(connection, "handshake-failed")
        self.model.ended.append(connection.id)
        peer.send(answer)
        self.compare()

    @precondition(lambda self: self.choices(OPEN, CLOSING, DONE))
    @rule(pick=PICKS, text=TEXTS, ping=st.booleans())
    def message(self, pick: int, text: str, ping: bool) -> None:
        connection, peer = self.choose(pick, OPEN, CLOSING, DONE)
        self.model.message(connection, text)
        data = frame(TEXT, text.encode())
        if ping:
            self.model.ping(connection, b"ping")
            data = frame(PING, b"ping") + data
        peer.send(data)
        self.compare()

    @precondition(lambda self: self.choices(OPEN, CLOSING, DONE))
    @rule(pick=PICKS, code=st.sampled_from([None, 1000, 4002]), behind=st.booleans())
    def close(self, pick: int, code: int | None, behind: bool) -> None:
        connection, peer = self.choose(pick, OPEN, CLOSING, DONE)
        reason = "" if code is None else "server"
        self.model.server_close(connection, code, reason)
        peer.send(close_frame(code, reason) + (frame(TEXT, b"late") if behind else b""))
        self.compare()

    @precondition(lambda self: self.choices(CONNECTING, OPEN, CLOSING, DONE))
    @rule(pick=PICKS, reset=st.booleans())
    def end(self, pick: int, reset: bool) -> None:
        connection, peer = self.choose(pick, CONNECTING, OPEN, CLOSING, DONE)
        # A reset may destroy a Close frame that has been sent and not read.
        if reset and connection.state != DONE:
            peer.reset()
        self.model.end_of_tcp(connection)
        del self.peers[connection.id]
        peer.close()
        self.compare()

    @precondition(lambda self: self.choices(OPEN, CLOSING))
    @rule(pick=PICKS, bad=st.sampled_from([frame(3), frame(TEXT, b"\xff"), close_frame(1005)]))
    def break_rules(self, pick: int, bad: bytes) -> None:
        connection, peer = self.choose(pick, OPEN, CLOSING)
        peer.send(bad)
        if connection.state == OPEN:
            head, _ = peer.read_frame()
            assert head == 0x80 | CLOSE
        self.model.end_of_tcp(connection, "protocol-error")
        # What else the server sends does not count any more.
        peer.send(frame(TEXT, b"late"))
        peer.close()
        del self.peers[connection.id]
        self.compare()

    def teardown(self) -> None:
        """End all that is left, so that the next example finds an empty plugin."""
        if Conversation.plugin is not None:
            self.write([("background",)])
            while left := self.choices(CONNECTING, OPEN, CLOSING, DONE):
                self.model.end_of_tcp(left[0])
                self.peers.pop(left[0].id).close()
                self.compare()
            self.checker.finish()
            Conversation.created = self.model.created

    @classmethod
    def discard(cls) -> None:
        """End the plugin that examples share."""
        if cls.plugin is not None:
            cls.plugin.end()
            cls.listener.__exit__(None, None, None)
            cls.plugin = None

    # --- how ---

    def choices(self, *states: int) -> list[Connection]:
        """Return the connections in one of these states."""
        return [c for c in self.model.living() if c.state in states]

    def choose(self, pick: int, *states: int) -> tuple[Connection, Peer]:
        """Pick a connection in one of these states."""
        choices = self.choices(*states)
        connection = choices[pick % len(choices)]
        return connection, self.peers[connection.id]

    def write(self, lines: list[tuple[Any, ...]]) -> None:
        """Write host lines in one go; tell the model of each."""
        requests = []
        for kind, *arguments in lines:
            Conversation.requests += 1
            id = Conversation.requests
            known = list(self.model.connections)
            if kind in ("send", "close"):
                if not known:
                    continue
                # Counted from the youngest: those are mostly alive.
                target = known[-1 - arguments[0] % len(known)]
            match kind:
                case "create":
                    self.model.create(id)
                    url = f"{self.listener.url}ws-{self.model.created}"
                    requests.append(create(url, id))
                case "send":
                    text = f"{arguments[1]}{id}"
                    self.model.send(id, target, text)
                    requests.append(send(target, text, id))
                case "close":
                    self.model.close(id, target, *arguments[1:])
                    requests.append(close(target, arguments[1], arguments[2], id))
                case "background":
                    self.model.background(id)
                    requests.append(background(id))
                case "unknown":
                    unknown = f"ws-{self.model.created + 1}"
                    self.model.close(id, unknown, 1000, "")
                    requests.append(close(unknown, request=id))
        for request in requests:
            self.checker.request(request)
        assert self.plugin
        self.plugin.send(*requests)
        self.model.settle()
        self.compare()

    def compare(self) -> None:
        """Read the lines and frames that the model expects, and see that there are no others."""
        try:
            self.check_lines()
            self.check_servers()
            assert self.plugin
            # Nothing more has come of it: not a line before the answer to another request.
            assert "response" in self.plugin.request("plugin-describe", id="barrier")
        except BaseException:
            for peer in self.peers.values():
                peer.close()
            # How it would end now could only hide what has gone wrong.
            if self.plugin is not None:
                self.plugin.kill()
            self.discard()
            raise

    def check_lines(self) -> None:
        """Read the lines expected; their order is checked by the invariants."""
        assert self.plugin
        model = self.model
        answers, model.answers = model.answers, {}
        events, model.events = model.events, {}
        expected = len(answers) + sum(map(len, events.values()))
        got_answers: dict[Any, str] = {}
        got_events: dict[str, list[tuple[str, Any]]] = {}
        for _ in range(expected):
            line = self.plugin.read()
            self.checker.line(line)
            if "event" in line:
                event = line["payload"]
                detail = self.detail(event["name"], event["payload"])
                got_events.setdefault(event["id"], []).append((event["name"], detail))
            else:
                got_answers[line["id"]] = self.result(line)
        assert (got_answers, got_events) == (answers, events)

    def check_servers(self) -> None:
        """Read the frames expected, and see TCP connections come and go as expected."""
        frames, self.model.frames = self.model.frames, {}
        ended, self.model.ended = self.model.ended, []
        opening, self.model.opening = self.model.opening, []
        for id, expected in frames.items():
            assert [self.peers[id].read_frame() for _ in expected] == expected
        for id in ended:
            # One that was given its place and aborted in the same step never had a socket.
            if id in self.peers:
                peer = self.peers.pop(id)
                peer.expect_end()
                peer.close()
        for id in opening:
            if self.model.connections[id].state != CONNECTING:
                continue
            peer = self.listener.accept()
            path = peer.read_request().split(b" ", 2)[1].decode()
            self.peers[path.strip("/")] = peer
        assert {
            id for id, c in self.model.connections.items() if CONNECTING <= c.state < CLOSED
        } == set(self.peers)
        assert len(self.peers) <= LIMIT
        self.listener.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.listener.sock.accept()
        self.listener.sock.settimeout(20)

    def detail(self, name: str, payload: Any) -> Any:
        """Reduce an event to what the model says of it."""
        match name:
            case "message":
                return payload["data"]
            case "error":
                return payload["code"]
            case "close":
                code = payload["code"]
                return (code, "" if code == 1006 else payload["reason"], payload["cause"])
        return None

    def result(self, line: Any) -> str:
        """Reduce an answer to what the model says of it."""
        if "error" in line:
            return str(line["error"]["code"])
        return str(line["response"].get("id", "{}"))


@pytest.mark.parametrize(
    ("examples", "steps"), [(60, 20), pytest.param(200, 30, marks=pytest.mark.slow)]
)
def test_model(examples: int, steps: int) -> None:
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize="CI" in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(Conversation, settings=profile)
    finally:
        Conversation.discard()
