"""One net for what nobody foresaw: an exception ends what it concerns, and nothing else.

Whatever raises while a connection is served ends that connection: with `error` (``internal-error``,
in words that repeat nothing of the exception's), and `close` 1006 `failure`; its requests are
answered and its place is free. Whatever raises while a request is carried out, that request has
one answer. stderr says what it was, without the exception's text. ``test_fault_sweep.py`` raises
everywhere; here are the cases that each stand for a net of its own.
"""

import contextlib
import json
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import faulty_plugin
from deflate import DEFLATE, Compressor, compressed
from faulty_plugin import SECRET
from harness import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Listener,
    Peer,
    Plugin,
    close_frame,
    environment,
    frame,
)
from host_lines import background, close, create, describe, done, encode, send
from situations import linux
from tls_servers import Authority, accepting, tls_server

COMMAND = [sys.executable, faulty_plugin.__file__]
FAULT = {
    "errMsg": "a fault of the plugin has ended the connection, see its log",
    "code": "internal-error",
}
FAILED = [
    ("error", FAULT),
    ("close", {"code": 1006, "reason": FAULT["errMsg"], "cause": "failure"}),
]


class Game:
    """A plugin with a fault in it, and a connection that must notice nothing of it."""

    def __init__(self, plugin: Plugin, server: Listener) -> None:
        self.plugin = plugin
        self.server = server
        self.bystander = ""
        self.beside: Peer

    def open_bystander(self) -> None:
        """Open the connection that must notice nothing."""
        self.bystander, self.beside = self.server.open(self.plugin)

    def arm(self, target: str, nth: int = 1, *, after: bool = False) -> None:
        """Have a function raise, once."""
        self.control(json.dumps({"target": f"wsplugin.{target}", "nth": nth, "after": after}))

    def control(self, text: str) -> Any:
        self.plugin.write(f"!{text}\n".encode())
        line = self.plugin.read()
        assert line["id"] == "!"
        return line["response"]

    def open(self, *headers: str, **options: Any) -> tuple[str, Peer]:
        return self.server.open(self.plugin, *headers, **options)

    def finish(self) -> None:
        """Check that it has happened, and that all else goes on; end the plugin."""
        plugin = self.plugin
        assert self.control("happened") is True
        if not self.bystander:
            self.open_bystander()
        plugin.send(send(self.bystander, "still there"))
        assert plugin.read() == done("still there")
        while (received := self.beside.read_frame()) != (0x80 | TEXT, b"still there"):
            assert received[0] == 0x80 | PING
        self.beside.send(frame(TEXT, b"so am I"))
        assert plugin.event(self.bystander, "message")["data"] == "so am I"
        # All places but one are free: nobody is evicted for those who take them.
        with contextlib.ExitStack() as stack:
            others = {}
            for _ in range(4):
                id, peer = self.open()
                others[id] = stack.enter_context(peer)
            plugin.send(background())
            for peer in (self.beside, *others.values()):
                peer.expect_close(1001)
                peer.send(close_frame(1001))
                peer.close()
            closed = set()
            for _ in (self.bystander, *others):
                payload = plugin.read()["payload"]
                assert payload["name"] == "close"
                assert payload["payload"]["cause"] == "background"
                closed.add(payload["id"])
            assert closed == {self.bystander, *others}
            assert plugin.read() == done("background")
        assert plugin.finish() == ([], 0)
        check_log(plugin)


def check_log(plugin: Plugin) -> None:
    """Check that stderr has a line for the exception, and nothing that it must not have."""
    assert b"MemoryError" in plugin.stderr
    assert all(b" ERROR wsplugin" in line for line in plugin.stderr.splitlines()), plugin.stderr
    assert SECRET.encode() not in plugin.stderr


@contextlib.contextmanager
def game(*options: str) -> Iterator[Game]:
    """Start a plugin with a bystander; at the end check that all but the fault has gone well."""
    with (
        Listener() as server,
        Plugin(*options, command=COMMAND, env=environment()) as plugin,
    ):
        game = Game(plugin, server)
        if "--ping-interval" not in options:  # else it would be its Pings that fail
            game.open_bystander()
        yield game
        game.finish()
        game.beside.close()


# --- messages ---


@pytest.mark.parametrize("binary_type", ["arraybuffer", "base64"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_message_that_cannot_be_encoded(opcode: int, binary_type: str, at_once: bool) -> None:
    """What was half an event has not gone out, and what came before has, once."""
    with game() as play:
        id, peer = play.open(binaryType=binary_type)
        with peer:
            play.arm("encoding:encode_into", 3)
            plugin = play.plugin
            messages = [frame(opcode, b"message %d" % n) for n in range(4)]
            for batch in [b"".join(messages)] if at_once else messages:
                with contextlib.suppress(ConnectionError):
                    peer.send(batch)
            events = plugin.events_to_close(id)
            assert [name for name, _ in events] == ["message", "message", "error", "close"]
            assert events[2:] == FAILED
            peer.expect_close(1011, "internal error")
            peer.expect_end()


class Case(NamedTuple):
    """Where it is raised, and how a connection comes there."""

    target: str
    nth: int
    play: Callable[[Game, str, Peer], list[str]]
    """Brings it there; returns the names of the events that come before the end."""
    options: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


def sending(data: bytes, *names: str) -> Callable[[Game, str, Peer], list[str]]:
    """Have the server send something."""

    def play(game: Game, id: str, peer: Peer) -> list[str]:
        peer.send(data)
        return list(names)

    return play


def waiting(game: Game, id: str, peer: Peer) -> list[str]:
    """Wait for a Ping to be due."""
    return []


def ponging(game: Game, id: str, peer: Peer) -> list[str]:
    head, payload = peer.read_frame()
    assert head == 0x80 | PING
    peer.send(frame(PONG, payload))
    return []


def ending(game: Game, id: str, peer: Peer) -> list[str]:
    peer.sock.shutdown(socket.SHUT_WR)
    return []


def resetting(game: Game, id: str, peer: Peer) -> list[str]:
    peer.reset()
    return []


def closing_in_vain(game: Game, id: str, peer: Peer) -> list[str]:
    game.plugin.send(close(id))
    assert game.plugin.read() == done("close")
    peer.expect_close(1000)
    return []


def message_sent(game: Game, id: str, peer: Peer) -> list[str]:
    """A message that is lost: its request is answered all the same, and only once."""
    game.plugin.send(send(id, "lost"))
    answer = game.plugin.read()
    assert (answer["id"], answer["error"]["code"]) == ("lost", "not-open")
    return []


def messages_batched(game: Game, id: str, peer: Peer) -> list[str]:
    """They have been handed on; what fails is the write of their batch."""
    game.plugin.send(send(id, "one"), send(id, "two"))
    assert [game.plugin.read(), game.plugin.read()] == [done("one"), done("two")]
    return []


CASES: dict[str, Case] = {
    "taking frames": Case("network.frames:Frames.take", 1, sending(frame(TEXT, b"lost"))),
    "taking frames, later": Case(
        "network.frames:Frames._parse", 2, sending(frame(TEXT, b"hi") + frame(PONG) * 2, "message")
    ),
    "decompressing": Case(
        "network.compression:Inflater.decompress",
        1,
        sending(frame(TEXT, b"hi") + compressed(TEXT, Compressor()(b"lost")), "message"),
        headers=(DEFLATE,),
    ),
    "room for a read": Case("network.inbox:Inbox.room", 1, sending(frame(TEXT, b"lost"))),
    "after a read": Case("network.inbox:Inbox.filled", 1, sending(frame(TEXT, b"lost"))),
    "answering a Ping": Case("network.wire:Wire._write", 1, sending(frame(PING))),
    "a timer": Case("network.keepalive:Keepalive.act", 1, waiting, ("--ping-interval", "0.3")),
    "progress": Case("network.progress:Meter.look", 1, waiting, ("--ping-interval", "0.3")),
    "sending a Ping": Case(
        "network.heartbeat:Heartbeat._ping", 1, waiting, ("--ping-interval", "0.3")
    ),
    "taking a Pong": Case(
        "network.keepalive:Keepalive.ponged", 1, ponging, ("--ping-interval", "0.3")
    ),
    "the server's Close frame": Case(
        "connection:Connection.server_closing", 1, sending(close_frame(1000))
    ),
    "a violation": Case("network.wire:Wire._fail", 1, sending(frame(3))),
    "telling of a violation": Case("connection:Connection.failed", 1, sending(frame(3))),
    "the end of the connection": Case("network.wire:Wire._finish", 1, ending),
    "the end of the connection, told": Case("connection:Connection.lost", 1, ending),
    "what it says of the end": Case("connection:decide", 1, ending),
    "what is dropped at the end": Case("network.outbox:Pieces.clear", 1, ending),
    "a reset": Case("network.wire:Wire._read_rest", 1, resetting),
    "the deadline": Case(
        "deadline:Deadline.reading_until", 1, closing_in_vain, ("--close-timeout", "0.2")
    ),
    "looking at the deadline": Case(
        "deadline:Deadline.look", 1, closing_in_vain, ("--close-timeout", "0.2")
    ),
    "sending": Case("network.wire:Wire.send", 1, message_sent),
    "serializing": Case("network.frames:frame", 1, message_sent),
    "answering": Case("sending:Sending._answer", 1, message_sent),
    "writing a batch": Case("network.wire:Wire.flush", 1, messages_batched),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fault_while_a_connection_is_open(case: Case) -> None:
    with game(*case.options) as play:
        id, peer = play.open(*case.headers)
        with peer:
            play.arm(case.target, case.nth)
            before = case.play(play, id, peer)
            events = play.plugin.events_to_close(id)
            assert [name for name, _ in events[:-2]] == before
            assert events[-2:] == FAILED
            with contextlib.suppress(OSError):  # of whoever has reset it himself
                peer.expect_end()


# The system takes two of these at once, or three.
LONG = "x" * 2**21


@pytest.mark.parametrize(
    "target",
    [
        "connection:Connection.writable",
        "connection:Connection._pump",
        "sending:Sending._answer",
        "network.wire:Wire._write_pieces",
        "network.wire:Wire.send",
        "encoding:encode_done",
    ],
)
def test_a_fault_when_the_server_reads_on(target: str) -> None:
    """Of many messages that wait each has one answer, whether it was sent or not."""
    with game() as play:
        id, peer = play.open(perMessageDeflate=False)
        with peer:
            play.plugin.send(*(send(id, LONG, n) for n in range(8)), describe())
            lines = [play.plugin.read()]
            while lines[-1].get("id") != "describe":
                lines.append(play.plugin.read())
            play.arm(target)
            with contextlib.suppress(ConnectionError, EOFError):
                while True:
                    peer.read_exact(2**16)
        while lines[-1].get("event") is None or lines[-1]["payload"]["name"] != "close":
            lines.append(play.plugin.read())
        answers = [line for line in lines if "id" in line and line["id"] != "describe"]
        assert sorted(line["id"] for line in answers) == [*range(8)]
        refused = [line["error"]["code"] for line in answers if "error" in line]
        assert refused
        assert set(refused) == {"not-open"}
        events = [line["payload"] for line in lines if "event" in line]
        assert [(event["name"], event["payload"]) for event in events] == FAILED


def test_a_fault_with_the_first_messages() -> None:
    """They have come with the response of the opening handshake."""
    with game() as play:
        play.arm("encoding:encode_into", 2)
        id = play.plugin.create(play.server.url)
        with play.server.accept() as peer:
            peer.handshake(glued=frame(TEXT, b"first") + frame(TEXT, b"lost") * 2)
            play.plugin.event(id, "open")
            assert play.plugin.event(id, "message")["data"] == "first"
            assert play.plugin.events_to_close(id) == FAILED
            peer.expect_end()


def test_a_fault_on_top_of_a_fault() -> None:
    """The server has to do without a Close frame, and the host has its events all the same."""
    with game() as play:
        id, peer = play.open()
        with peer:
            play.arm("encoding:encode_into")
            play.control(
                json.dumps({"target": "wsplugin.network.wire:Wire._stop_listening", "nth": 1})
            )
            peer.send(frame(TEXT, b"lost"))
            assert play.plugin.events_to_close(id) == FAILED
            peer.expect_end()


@pytest.mark.parametrize("target", ["encoding:encode_event", "encoding:encode"])
def test_the_close_event_comes_though_it_cannot_be_encoded_at_first(target: str) -> None:
    with game() as play:
        id, peer = play.open()
        with peer:
            play.arm(target)
            peer.send(close_frame(4000, "bye"))
            peer.expect_close(4000)
        closing = play.plugin.event(id, "close")
        assert closing == {"code": 4000, "reason": "bye", "cause": "server"}


def test_the_close_event_comes_though_an_answer_before_it_cannot_be_encoded() -> None:
    with game() as play:
        id = play.plugin.create(play.server.url)
        with play.server.accept() as peer:
            peer.read_request()
            play.plugin.send(send(id, "one"), send(id, "two"), describe())
            play.plugin.read()
            play.arm("encoding:encode_error")
            peer.close()
        assert [play.plugin.read()["id"] for _ in range(2)] == ["one", "two"]
        names = [name for name, _ in play.plugin.events_to_close(id)]
        assert names == ["error", "close"]


# --- the opening ---


def accept_and_wait(game: Game) -> None:
    with game.server.accept() as peer:
        peer.handshake()
        peer.expect_end()


def refuse(game: Game) -> None:
    with game.server.accept() as peer:
        peer.read_request()
        peer.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")


def keep_silent(game: Game) -> None:
    with game.server.accept() as peer:
        peer.expect_end()


def nobody(game: Game) -> None:
    """It does not come so far as to a server."""


OPENINGS: dict[str, tuple[str, Callable[[Game], None], bool]] = {
    # where, what the server does, and whether the fault comes after the work is done
    "the start": ("connecting:Connecting._run", nobody, False),
    "the attempt": ("network.opening:Attempt.__init__", nobody, False),
    "its run": ("network.opening:Attempt.run", nobody, False),
    "the address": ("network.opening:Attempt._find", nobody, False),
    "the race": ("network.addresses:race", nobody, False),
    "the race, when it is won": ("network.addresses:race", keep_silent, True),
    "a socket": ("network.opening:SystemDialer.connect", nobody, False),
    "a socket that is connected": ("network.opening:SystemDialer.connect", keep_silent, True),
    "the exchange": ("network.exchange:Exchange.__init__", keep_silent, False),
    "the transport": ("network.opening:Attempt._create_transport", keep_silent, True),
    "the request": ("network.opening:Attempt._enter", keep_silent, False),
    "the response": ("network.response:ResponseReader.feed", accept_and_wait, False),
    "its fields": ("network.response:fields", accept_and_wait, False),
    "its taking": ("network.opening:Attempt._take_response", accept_and_wait, False),
    "the wire": ("network.wire:Wire.__init__", accept_and_wait, False),
    "the wire, when it is made": ("network.wire:Wire.__init__", accept_and_wait, True),
    "the open event": ("connection:Connection.opened", accept_and_wait, False),
    "the open event, encoded": ("encoding:encode_event", accept_and_wait, False),
    "what comes of it": ("connection:Connection._connecting_over", refuse, False),
    "its explanation": ("network.opening:Attempt.explain", refuse, False),
    "the end of its time": ("connection:Connection._open_timed_out", keep_silent, False),
    "what is cancelled": ("connecting:Connecting.call_off", keep_silent, False),
}


@pytest.mark.parametrize(("target", "serve", "after"), OPENINGS.values(), ids=OPENINGS)
def test_a_fault_while_a_connection_opens(
    target: str, serve: Callable[[Game], None], after: bool
) -> None:
    with game() as play:
        play.arm(target, after=after)
        is_late = any(word in target for word in ("timed_out", "call_off"))
        timeout = 300 if is_late else 20_000
        id = play.plugin.create(play.server.url, timeout=timeout)
        serve(play)
        assert play.plugin.events_to_close(id) == FAILED


def test_a_fault_of_a_look_up() -> None:
    with game("--allow-insecure") as play:
        play.arm("network.names:resolve")
        id = play.plugin.create(f"ws://server.test:{play.server.port}/")
        assert play.plugin.events_to_close(id) == FAILED


# The import of a module fails once.
IMPORTS = """
import sys
class Once:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            raise MemoryError({secret!r})
sys.meta_path.insert(0, Once())
from wsplugin.cli import main
main([])
"""


@pytest.mark.parametrize(
    "module",
    [
        "wsplugin.network.opening",
        "wsplugin.network.wire",
        "websockets.client",
        "websockets.frames",
        "zlib",
    ],
)
def test_an_import_that_fails_once(module: str) -> None:
    code = IMPORTS.format(module=module, secret=SECRET)
    with Listener() as server, Plugin(command=[sys.executable, "-c", code]) as plugin:
        id = plugin.create(server.url)
        assert plugin.events_to_close(id) == FAILED
        id, peer = server.open(plugin)
        with peer:
            peer.send(frame(TEXT, b"hi") + close_frame(1000))
            assert plugin.event(id, "message")["data"] == "hi"
            peer.expect_close(1000)
        plugin.event(id, "close")
        assert plugin.finish() == ([], 0)
        check_log(plugin)


# --- requests ---


def test_a_request_that_cannot_be_carried_out_has_one_answer() -> None:
    with game() as play:
        play.arm("manager:Manager._dispatch")
        play.plugin.send(describe(1), describe(2))
        failed, answered = play.plugin.read(), play.plugin.read()
        assert failed == {
            "id": 1,
            "error": {"code": "invalid-request", "errMsg": "internal error, see the log"},
        }
        assert answered["id"] == 2
        assert "response" in answered


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("encoding:encode_error", b'{"id":1,"action":"unknown"}\n'),
        ("decoding:decode_request", b'{"id":1,"action":"plugin-describe"}\n'),
        ("mistakes:explain", b'{"id":1,"action":"unknown"}\n'),
    ],
)
def test_a_line_that_is_refused_with_a_fault_has_one_answer(target: str, line: bytes) -> None:
    with game() as play:
        play.arm(target)
        play.plugin.write(line)
        assert "error" in play.plugin.read()
        assert play.plugin.request("plugin-describe", id="next")["response"]


@pytest.mark.parametrize(
    "target",
    ["connection:Connection.end", "connection:Connection._pump", "network.wire:Wire.close"],
)
def test_a_fault_behind_the_answer_to_a_close(target: str) -> None:
    with game() as play:
        id, peer = play.open()
        with peer:
            play.arm(target)
            play.plugin.send(close(id))
            assert play.plugin.read() == done("close")
            assert play.plugin.events_to_close(id) == FAILED
            peer.expect_end()


@pytest.mark.parametrize(
    "target",
    [
        "places:Places.arrive",
        "places:Places.evicted",
        "places:Places.too_many_waiting",
        "places:Places.give",
        "places:Places.hurried",
        "manager:Manager._give_places",
        "connection:Connection.connect",
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_fault_behind_the_answer_to_a_create(target: str, after: bool) -> None:
    with game() as play:
        play.arm(target, after=after)
        assert play.plugin.events_to_close(play.plugin.create(play.server.url)) == FAILED


@pytest.mark.parametrize(
    "target", ["connection:Connection.__init__", "encoding:encode_answer", "policy:parse_url"]
)
def test_a_create_that_fails_creates_nothing(target: str) -> None:
    with game() as play:
        play.arm(target)
        play.plugin.send(create(play.server.url))
        assert play.plugin.read()["error"]["code"] == "invalid-request"
        # Its id has not been used up.
        id, peer = play.open()
        assert id == "ws-2"
        with peer:
            peer.reset()
        play.plugin.events_to_close(id)


def test_a_fault_when_a_place_becomes_free() -> None:
    """Who waits for it does not wait for ever."""
    with game() as play, contextlib.ExitStack() as stack:
        pairs = [play.open() for _ in range(4)]
        for id, peer in pairs:
            stack.enter_context(peer)
            play.plugin.send(close(id))
            assert play.plugin.read() == done("close")
            peer.expect_close(1000)
        sixth = play.plugin.create(play.server.url)
        play.arm("connection:Connection.connect")
        for _, peer in pairs:
            peer.send(close_frame(1000))
            peer.close()
        closed = [play.plugin.read()["payload"] for _ in range(6)]
        assert sorted((line["id"], line["name"]) for line in closed) == sorted(
            [*((id, "close") for id, _ in pairs), (sixth, "error"), (sixth, "close")]
        )


@pytest.mark.parametrize("nth", [1, 2])
def test_a_fault_in_the_background(nth: int) -> None:
    """One connection cannot be ended as it should be, or the answer cannot be encoded."""
    with (
        Listener() as server,
        Plugin(command=COMMAND, env=environment()) as plugin,
    ):
        play = Game(plugin, server)
        pairs = [play.open() for _ in range(3)]
        play.arm("connection:Connection.end" if nth == 1 else "encoding:encode_done")
        plugin.send(background())
        for _, peer in pairs:
            with peer, contextlib.suppress(EOFError, ConnectionError):
                peer.expect_close(1001)
                peer.send(close_frame(1001))
        names = []
        while "event" in (line := plugin.read()):
            names.append(line["payload"]["name"])
        assert sorted(names) == ["close"] * 3 + ["error"] * (nth == 1)
        assert line == done("background")
        assert play.control("happened") is True
        assert plugin.finish() == ([], 0)
        check_log(plugin)


@pytest.mark.parametrize("end", ["stdin", "SIGTERM"])
def test_a_fault_at_the_end(end: str) -> None:
    with (
        Listener() as server,
        Plugin(command=COMMAND, env=environment()) as plugin,
    ):
        play = Game(plugin, server)
        pairs = [play.open() for _ in range(2)]
        play.arm("connection:Connection." + ("end_when_open" if end == "stdin" else "end"))
        if end == "stdin":
            plugin.close_stdin()
        else:
            plugin.process.terminate()
        for _, peer in pairs:
            with peer, contextlib.suppress(EOFError, ConnectionError):
                peer.expect_close(1001)
                peer.send(close_frame(1001))
        lines = [json.loads(line) for line in iter(plugin.read_line, b"")]
        assert sorted(line["payload"]["name"] for line in lines) == ["close", "close", "error"]
        assert plugin.wait() == 0
        check_log(plugin)


# --- the session ---


def test_lines_behind_one_that_fails_are_carried_out() -> None:
    with game() as play:
        play.arm("manager:Manager.handle", 2)
        play.plugin.write(b"\n" + encode(describe(1), describe(2), describe(3)))
        # The first of them has failed, where nothing can: it is lost, and nothing else.
        assert [play.plugin.read()["id"] for _ in range(2)] == [2, 3]


def test_lines_behind_one_that_cannot_be_split_off_are_carried_out() -> None:
    with game() as play:
        play.arm("lines:Lines._take", 2)
        half, rest = encode(describe(4))[:20], encode(describe(4))[20:]
        play.plugin.write(encode(describe(1), describe(2), describe(3)) + half)
        assert [play.plugin.read()["id"] for _ in range(2)] == [1, 3]
        play.plugin.write(rest)
        assert play.plugin.read()["id"] == 4


@pytest.mark.parametrize("function", ["request_text", "event_or_answer_text"])
def test_a_recording_that_fails_ends_nothing_else(function: str, tmp_path: Path) -> None:
    path = tmp_path / "recording"
    with (
        Listener() as server,
        Plugin("--record", str(path), command=COMMAND, env=environment()) as plugin,
    ):
        play = Game(plugin, server)
        play.arm(f"recording.redaction:{function}")
        id, peer = play.open()
        with peer:
            peer.send(frame(TEXT, b"hi") + close_frame(1000))
            assert plugin.event(id, "message")["data"] == "hi"
            peer.expect_close()
        plugin.event(id, "close")
        assert play.control("happened") is True
        assert plugin.finish() == ([], 0)
        assert b"recording has ended: MemoryError" in plugin.stderr
        assert SECRET.encode() not in plugin.stderr
    assert b"hi" not in path.read_bytes()


# --- descriptors that run out ---


class Descriptors:
    """Takes from a process all descriptors that it does not have yet, and gives them back."""

    def __init__(self, plugin: Plugin) -> None:
        self._pid = plugin.process.pid
        self._before = resource.prlimit(self._pid, resource.RLIMIT_NOFILE)

    def take(self) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, (3, self._before[1]))

    def give_back(self) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._before)


def echo_once(plugin: Plugin, server: Listener) -> None:
    """Check that a connection opens and works."""
    id, peer = server.open(plugin)
    with peer:
        plugin.send(send(id, "there?"))
        assert plugin.read() == done("there?")
        assert peer.read_frame() == (0x80 | TEXT, b"there?")
        peer.send(close_frame(1000))
        peer.expect_close()
    plugin.event(id, "close")


def failure(plugin: Plugin, url: str) -> Any:
    """Return the `error` event of a connection that cannot be opened."""
    (error, why), (close, end) = plugin.events_to_close(plugin.create(url))
    assert (error, close) == ("error", "close")
    assert (end["code"], end["cause"]) == (1006, "failure")
    return why


@linux
def test_no_descriptor_for_the_first_connection() -> None:
    """Not even for the modules that it needs."""
    with Listener() as server, Plugin() as plugin:
        plugin.request("plugin-describe")
        descriptors = Descriptors(plugin)
        descriptors.take()
        for _ in range(3):
            assert failure(plugin, server.url)["errMsg"]
            plugin.write(b'{"id":7,"action":"unknown"}\n')
            answer = plugin.read()
            assert (answer["id"], answer["error"]["code"]) == (7, "unknown-action")
            plugin.write(b'{"id":8,"x":"\\ud800"}\n')
            answer = plugin.read()
            assert (answer["id"], answer["error"]["code"]) == (8, "invalid-json")
        descriptors.give_back()
        echo_once(plugin, server)
        assert plugin.finish() == ([], 0)


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "server.test", "name.invalid"])
def test_no_descriptor_for_a_socket(host: str) -> None:
    options = ("--allow-insecure",)
    with (
        Listener() as server,
        Plugin(*options, command=COMMAND, env=environment()) as plugin,
    ):
        url = f"ws://{host}:{server.port}/"
        echo_once(plugin, server)
        open_id, peer = server.open(plugin)
        descriptors = Descriptors(plugin)
        descriptors.take()
        with peer:
            for _ in range(3):
                why = failure(plugin, url)
                assert why["code"] == "network-error"
                if host != "name.invalid":
                    assert why["errMsg"].endswith(": Too many open files")
            # What is open needs none.
            peer.send(frame(TEXT, b"hi") + close_frame(1000))
            assert plugin.event(open_id, "message")["data"] == "hi"
            peer.expect_close()
        plugin.event(open_id, "close")
        descriptors.give_back()
        echo_once(plugin, server)
        assert plugin.finish() == ([], 0)
        assert b"ERROR" not in plugin.stderr


@linux
def test_no_descriptor_when_a_connection_is_lost_with_messages() -> None:
    """What cannot be read is lost; the events come all the same."""
    with Listener() as server, Plugin() as plugin:
        id, peer = server.open(plugin)
        with peer:
            descriptors = Descriptors(plugin)
            descriptors.take()
            with plugin.stopped():
                peer.send(frame(TEXT, b"perhaps"))
                plugin.send(send(id, "lost", None))
                peer.reset()
            events = plugin.events_to_close(id)
            assert events[-1][1]["cause"] == "failure"
            descriptors.give_back()
        echo_once(plugin, server)
        assert plugin.finish() == ([], 0)


@linux
@pytest.mark.parametrize("by_option", [True, False])
def test_no_descriptor_for_the_roots(by_option: bool, authority: Authority) -> None:
    """A failure is not remembered: roots that could not be read would refuse all servers."""
    variables = {} if by_option else {"SSL_CERT_FILE": authority.file, "SSL_CERT_DIR": "/none"}
    options = ("--ca-file", authority.file) if by_option else ()
    with (
        Listener() as server,
        Plugin(*options, command=COMMAND, env=environment(**variables)) as plugin,
    ):
        echo_once(plugin, server)
        descriptors = Descriptors(plugin)
        descriptors.take()
        failure(plugin, "wss://127.0.0.1:1/")
        descriptors.give_back()
        with tls_server(accepting(authority.context("127.0.0.1"))) as secured:
            id = plugin.create(secured.url.replace("ws:", "wss:"))
            plugin.event(id, "open")
            plugin.events_to_close(id)
        assert plugin.finish() == ([], 0)
