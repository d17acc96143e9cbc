"""A server of hundreds of connections, each of which behaves at random in a way of its own."""

import random
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

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
    close_frame,
    frame,
)

ESTABLISHED = 1


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
        """Open, do this and that, and end."""
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
