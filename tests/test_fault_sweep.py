"""Exceptions in every function of the plugin, one after another, in whole lives of connections.

Each scene is played once to count which functions are called, and then again for some of them with
an exception in its first, second or third call, before or after its work. Whatever that is: every
request has one answer, the connection one `close` event, its place is free, the others work, and
stderr says what it was without the exception's text.

Which of them is drawn with the scene's name for a seed, with ``FAULTS=some`` in the environment;
``FAULTS=all`` takes all of them, in half an hour. It wants a quiet machine: some scenes have
times of a twentieth of a second.
"""

import contextlib
import itertools
import json
import os
import queue
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import faulty_plugin
from conversations import fragments
from deflate import Compressor, compressed
from harness import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    Listener,
    Peer,
    Plugin,
    close_frame,
    environment,
    frame,
)
from host_lines import background, close, create, send
from invariants import REQUEST_CODES, Checker
from tls_servers import Authority, secure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "FAULTS" not in os.environ, reason="half an hour, and times of its own: FAULTS=some or all"
    ),
]

COMMAND = [sys.executable, faulty_plugin.__file__]
CALLS = 3
"""Up to which call of each function an exception is tried."""
DRAWN = 40
"""How many faults are tried in each scene."""
MOST_PROBLEMS = 5
"""How many are worth waiting for, as most are found by waiting in vain."""
NETS = (
    "connection:Connection.faulted",
    "connection:Connection._finish",
    "connection:Connection.flush",
    "connection:Connection.resume",
    "connection:Connection.send",
    "manager:Manager.closed",
    "manager:Manager.flush",
    "manager:Manager.handle",
    "network.names:_run",
    "network.names:_settle",
    "network.outbox:Queue.clear",
    "network.outbox:Queue.pop",
    "network.outbox:bookkeeping",
    "places:Places.leave",
    "network.exchange:Exchange.connection_made",
    "network.exchange:Exchange.connection_lost",
    "network.exchange:Exchange.data_received",
    "network.exchange:Exchange.pause_writing",
    "network.exchange:Exchange.resume_writing",
    "network.wire:Wire._break",
    "network.wire:Wire._go_on",
    "network.wire:Wire._receive",
    "network.wire:Wire._tick",
    "network.wire:Wire.buffer_updated",
    "network.wire:Wire.connection_lost",
    "network.wire:Wire.eof_received",
    "network.wire:Wire.get_buffer",
    "network.wire:Wire.pause_writing",
    "network.wire:Wire.resume_writing",
)
"""What is called by asyncio or the manager and catches what is raised below it, and not what
is raised in its place; and what cannot raise as it takes an element out of a container."""
ANSWERS = (
    "connection:Connection._enter",
    "connection:Connection._answer",
    "connection:Connection._write",
    "manager:Manager._answer",
    "manager:Manager._close",
    "manager:Manager._create",
    "manager:Manager._background",
    "manager:Manager._describe",
    "manager:Manager._dispatch",
    "manager:Manager._send",
    "network.opening:Attempt._take_response",
    "network.outbox:Queue.push",
)
"""What has an answer or an assignment for its last act, and nothing after it that could raise."""
LARGE = "x" * (6 * 2**20)
"""More than the operating system takes at once."""


# --- servers ---


def echo(peer: Peer) -> None:
    """Answer frame by frame."""
    peer.handshake()
    while True:
        head, payload = peer.read_frame()
        opcode = head & 0x0F
        if opcode in (TEXT, CLOSE, PING):
            peer.send(frame(PONG if opcode == PING else opcode, payload))
        if opcode == CLOSE:
            return


FIRST = frame(TEXT, b"first") + frame(PING, b"p") + fragments(BINARY, b"a", b"b")
LAST = frame(PONG, b"unasked for") + frame(TEXT, b"last")


def talk(peer: Peer) -> None:
    """Send messages of all kinds, take what comes, answer the Close frame."""
    peer.handshake(glued=FIRST[:3])
    peer.send(FIRST[3:] + LAST)
    peer.read_to_close()
    peer.send(close_frame(1000))


def talk_compressed(peer: Peer) -> None:
    """As `talk`, compressed."""
    compress = Compressor()
    peer.handshake("Sec-WebSocket-Extensions: permessage-deflate")
    peer.send(compressed(TEXT, compress(b"first")) + compressed(BINARY, *[compress(b"second")] * 1))
    peer.read_to_close()
    peer.send(close_frame(1000))


def close_first(peer: Peer) -> None:
    """Send messages and a Close frame at once."""
    peer.handshake(glued=FIRST)
    peer.send(LAST + close_frame(4000, "bye"))
    peer.expect_close()


def violate(peer: Peer) -> None:
    """Send what must not be sent."""
    peer.handshake()
    peer.send(FIRST + frame(3))
    peer.expect_close()


def reset(peer: Peer) -> None:
    """Reset the connection while the plugin writes."""
    peer.handshake()
    peer.send(FIRST)
    peer.read_exact(10)  # of whatever message comes
    peer.reset()


def refuse(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 403 Forbidden\r\nA: b\r\n\r\n")


def garbage(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"SSH-2.0\r\n")


def hang_up(peer: Peer) -> None:
    peer.read_request()


def keep_silent(peer: Peer) -> None:
    peer.read_request()
    peer.expect_end()


def never_answer_the_close(peer: Peer) -> None:
    peer.handshake(glued=frame(TEXT, b"first"))
    peer.expect_end()


def flood(peer: Peer) -> None:
    """Send more than the output holds, then as `talk`."""
    peer.handshake()
    peer.send(frame(TEXT, b"x" * 2**16) * 40 + LAST)
    peer.read_to_close()
    peer.send(close_frame(1000))


def proxy(peer: Peer) -> None:
    """Be a proxy, and the server behind it."""
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    talk(peer)


class Scene(NamedTuple):
    """A life of a connection."""

    serve: Callable[[Peer], None]
    options: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    payload: dict[str, Any] = {}  # noqa: RUF012 - read only
    sends: tuple[str, ...] = ("small", LARGE, "small")
    behind: bool = False
    """Whether the host does not read for a while."""
    close: str = "when open"
    """When the host closes: ``at once``, ``when open`` or ``never``."""
    secure: bool = False


SCENES: dict[str, Scene] = {
    "closed by the host": Scene(talk),
    "by a name of two addresses": Scene(talk, ("--allow-insecure",), "two.test"),
    "compressed": Scene(talk_compressed, sends=("small" * 100, LARGE)),
    "closed by the server": Scene(close_first, sends=("small",), close="never"),
    "closed by the server while the host sends": Scene(close_first, close="never"),
    "a violation": Scene(violate, sends=("small",), close="never"),
    "a reset": Scene(reset, close="never"),
    "refused": Scene(refuse, close="never"),
    "garbage": Scene(garbage, close="never"),
    "hung up": Scene(hang_up, close="never"),
    "nobody listens": Scene(talk, ("--allow-insecure",), "127.0.0.3", close="never"),
    "no such name": Scene(talk, ("--allow-insecure",), "none.invalid", close="never"),
    "timed out": Scene(keep_silent, payload={"timeout": 100}, close="never"),
    "closed while connecting": Scene(keep_silent, sends=(), close="at once"),
    "sends and a close while connecting": Scene(talk, close="at once"),
    "no answer to the close": Scene(
        never_answer_the_close, ("--close-timeout", "0.1"), sends=("small",)
    ),
    "no answer to pings": Scene(
        never_answer_the_close,
        ("--ping-interval", "0.05", "--ping-timeout", "0.05"),
        sends=("small",),
        close="never",
    ),
    "pings": Scene(talk, ("--ping-interval", "0.02", "--ping-timeout", "5"), sends=("small",)),
    "a host that is behind": Scene(flood, sends=("small",), behind=True),
    "over TLS": Scene(talk, secure=True),
    "through a proxy": Scene(
        proxy, ("--allow-insecure", "--proxy", "http://127.0.0.1:{port}"), "server.test"
    ),
}


# --- the play ---


@contextlib.contextmanager
def serving(act: Callable[[Peer], None], context: ssl.SSLContext | None) -> Iterator[Listener]:
    """Let `act` play the server of all connections; whatever becomes of one is no matter."""

    def serve(peer: Peer) -> None:
        with peer, contextlib.suppress(OSError, EOFError, AssertionError):
            act(secure(peer, context) if context else peer)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept(),), daemon=True).start()

    with Listener() as listener:
        listener.sock.settimeout(None)
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener
        listener.sock.shutdown(socket.SHUT_RDWR)
        thread.join(TIMEOUT)


class Play:
    """One plugin, a connection that stays open beside all others, and one life after another."""

    def __init__(self, scene: Scene, plugin: Plugin, url: str, bystanders: str) -> None:
        self.scene = scene
        self.plugin = plugin
        self.url = url
        self.bystanders = bystanders
        self.checker = Checker()
        self.numbers = itertools.count()
        self.bystander = ""
        self.faults: list[Any] = []
        # Where there are Pings its own would fail.
        self.stays = "--ping-interval" not in scene.options
        if self.stays:
            self.call_bystander()

    def ask(self, request: dict[str, Any]) -> int:
        """Send a request with an id of its own; return that."""
        request["id"] = next(self.numbers)
        self.plugin.send(self.checker.request(request))
        return int(request["id"])

    def read(self) -> Any:
        """Read and check one line."""
        line = json.loads(self.plugin.read_line() or "null")
        assert line is not None, f"the plugin has ended: {self.plugin.stderr!r}"
        if line.get("id") == "!":
            self.faults.append(line["response"])
        else:
            self.checker.line(line)
        return line

    def read_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.read()

    def control(self, text: str) -> Any:
        """Speak to the faults."""
        self.plugin.write(b"!" + text.encode() + b"\n")
        self.read_until(lambda: bool(self.faults))
        return self.faults.pop()

    def is_closed(self, id: str) -> bool:
        return self.checker.closed(id)

    def events(self, id: str) -> list[str]:
        return [name for name, _ in self.checker.events[id]]

    def create(self, url: str, **payload: Any) -> str | None:
        """Create a connection; None if that was answered with an error."""
        number, count = self.ask(create(url, **payload)), len(self.checker.created)
        self.read_until(lambda: number not in self.checker.pending)
        created = self.checker.created[count:]
        return created[0] if created else None

    def call_bystander(self) -> None:
        id = self.create(self.bystanders)
        assert id is not None
        self.bystander = id
        self.read_until(lambda: "open" in self.events(id))

    def live(self) -> str | None:
        """Play the scene; return the connection's id, if it has come so far."""
        scene = self.scene
        if scene.behind:
            self.plugin.stop_reading()
        requests = [create(self.url, **scene.payload)]
        id = f"ws-{len(self.checker.created) + 1}"
        requests += [send(id, text) for text in scene.sends[:1]]
        if scene.close == "at once":
            requests.append(close(id))
        for request in requests:
            self.ask(request)
        if scene.behind:
            time.sleep(0.05)  # not to wait for something, but to let the output become full
            self.plugin.resume_reading()
        self.read_until(lambda: len(self.checker.created) >= int(id[3:]) or self.all_answered())
        if id not in self.checker.events:
            self.read_until(self.all_answered)
            return None
        if scene.close == "at once":
            self.read_until(self.all_answered)
            self.close_again(id)
        over = ("open", "close")
        self.read_until(lambda: any(name in over for name in self.events(id)))
        if scene.close != "at once":
            for text in scene.sends[1:]:
                self.ask(send(id, text))
            self.read_until(lambda: self.all_answered() or self.is_closed(id))
        if scene.close == "when open":
            self.read_until(lambda: self.is_closed(id) or self.events(id).count("message") >= 1)
            self.ask(close(id))
        self.read_until(self.all_answered)
        if scene.close != "never":
            self.close_again(id)
        self.read_until(lambda: self.is_closed(id) and self.all_answered())
        return id

    def close_again(self, id: str) -> None:
        """Close once more, should the request to close have been what failed."""
        if not self.is_closed(id):
            self.ask(close(id))

    def error_code(self, id: str | None) -> str | None:
        """Return the code of the `error` event of a connection, if it has had one."""
        for name, payload in self.checker.events[id] if id else ():
            assert faulty_plugin.SECRET not in str(payload)
            if name == "error":
                return str(payload["code"])
        return None

    def all_answered(self) -> bool:
        return not self.checker.pending

    def check_others(self) -> None:
        """Check that the other connection works, and that the place is free."""
        if not self.stays:
            self.call_bystander()
        before = self.events(self.bystander).count("message")
        self.ask(send(self.bystander, "there?"))
        self.read_until(
            lambda: self.events(self.bystander).count("message") > before and self.all_answered()
        )
        other = self.create(self.bystanders)
        assert other is not None
        self.read_until(lambda: "open" in self.events(other))
        self.ask(close(other))
        self.read_until(lambda: self.is_closed(other) and self.all_answered())
        assert not self.is_closed(self.bystander)
        if not self.stays:
            self.ask(close(self.bystander))
            self.read_until(lambda: self.is_closed(self.bystander) and self.all_answered())


REQUEST_CODES.update({"invalid-request", "buffer-full"})


def drawn(counts: dict[str, int], seed: str) -> list[tuple[str, int, bool]]:
    """Return the faults to try: in which function, in which call, and whether after its work."""
    faults = []
    for target, count in sorted(counts.items()):
        name = target.removeprefix("wsplugin.")
        moments = (False,) if name in ANSWERS else (False, True)
        if name not in NETS:
            calls = range(1, min(count, CALLS) + 1)
            faults += [(target, nth, after) for nth in calls for after in moments]
    if os.environ.get("FAULTS") == "all":
        return faults
    return random.Random(seed).sample(faults, min(DRAWN, len(faults)))


def try_fault(play: Play, target: str, nth: int, after: bool, usual: str | None) -> None:
    """Play the scene with a fault in it."""
    logged = len(play.plugin.stderr)
    play.control(json.dumps({"target": target, "nth": nth, "after": after}))
    id = play.live()
    happened = play.control("happened")
    play.check_others()
    if happened:
        check_log(play.plugin, logged)
        assert play.error_code(id) in (None, "internal-error", usual)


def check_log(plugin: Plugin, since: int) -> None:
    """Check that stderr says at level error what it was, and nothing that it must not say."""
    deadline = time.monotonic() + TIMEOUT
    while b"ERROR" not in plugin.stderr[since:]:
        assert time.monotonic() < deadline, "nothing on stderr"
        time.sleep(0.01)
    assert faulty_plugin.SECRET.encode() not in plugin.stderr
    assert b"MemoryError" in plugin.stderr[since:]


@pytest.mark.parametrize("name", SCENES)
def test_whatever_raises(name: str, authority: Authority) -> None:
    scene = SCENES[name]
    context = authority.context("127.0.0.1") if scene.secure else None
    problems: list[str] = []
    with (
        serving(scene.serve, context) as server,
        serving(echo, None) as bystanders,
        contextlib.ExitStack() as plugins,
    ):
        url = f"{'wss' if context else 'ws'}://{scene.host}:{server.port}/"
        options = [option.format(port=server.port) for option in scene.options]
        options += ["--ca-file", authority.file] if context else []

        def start() -> Play:
            command = [*COMMAND, "--max-connections", "2", *options]
            plugin = plugins.enter_context(Plugin(command=command, env=environment()))
            return Play(scene, plugin, url, bystanders.url)

        play = start()
        play.live()
        play.check_others()
        play.control("count")
        usual = play.error_code(play.live())
        counts = play.control("counted")
        for target, nth, after in drawn(counts, name):
            try:
                try_fault(play, target, nth, after, usual)
            except (AssertionError, queue.Empty) as problem:
                moment = "after" if after else "before"
                kind = type(problem).__name__
                problems.append(f"{moment} call {nth} of {target}: {kind} {str(problem)[:300]}")
                play.plugin.kill()
                if len(problems) == MOST_PROBLEMS:
                    break
                play = start()
        assert not problems, "\n".join(problems)
        play.ask(background())
        play.read_until(play.all_answered)
        assert play.plugin.finish() == ([], 0)
