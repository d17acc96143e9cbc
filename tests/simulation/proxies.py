"""An HTTP proxy (RFC 9110 section 9.3.6): connects to a server, or does not."""

import re
from collections.abc import Callable
from typing import Final

from simulation.servers import UNTIL_THE_REQUEST, Course
from simulation.sockets import Peer
from simulation.world import World

HOST: Final = "proxy.test"
PORT: Final = 3128
URL: Final = f"http://{HOST}:{PORT}"

_CONNECT = re.compile(rb"CONNECT \S+:(\d+) HTTP/1\.1\r\n")


class Proxy:
    """The proxy's end of one connection, until a server has it.

    Args:
        tunnel: hands the connection over to the server of a port.

    """

    def __init__(self, world: World, peer: Peer, tunnel: Callable[[Peer, int], None]) -> None:
        self._world = world
        self._peer = peer
        self._tunnel = tunnel
        self._head = bytearray()
        self._random = world.random(f"proxy {peer.link.number}")
        self._course = self._random.choice((*[self._connect] * 8, self._refuse, self._fail))()
        peer.received = self._received
        peer.ended = peer.finish
        self._run()

    def _run(self) -> None:
        delay = next(self._course, None)
        if delay is not None and delay < UNTIL_THE_REQUEST:
            self._world.after(delay, self._run, self._peer.link.number)

    def _received(self, data: bytes) -> None:
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            self._run()

    def _connect(self) -> Course:
        """Connect, in a moment."""
        yield UNTIL_THE_REQUEST
        yield self._random.choice((0.0, 0.0, 0.05, 1.0))
        connect = _CONNECT.match(self._head)
        assert connect, self._head
        interim = self._random.choice((b"", b"", b"HTTP/1.1 103 Early Hints\r\nX: 1\r\n\r\n"))
        self._peer.send(interim + b"HTTP/1.1 200 Connected\r\n\r\n")
        if self._peer.speaks:
            self._tunnel(self._peer, int(connect[1]))

    def _refuse(self) -> Course:
        """Answer with another status, and stay or go."""
        yield UNTIL_THE_REQUEST
        status = self._random.choice(("407 Who", "502 Bad", "302 Found"))
        self._peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno".encode())
        if self._random.random() < 0.5:
            self._peer.finish()

    def _fail(self) -> Course:
        """Answer with something else, or with nothing."""
        yield UNTIL_THE_REQUEST
        self._peer.send(self._random.choice((b"", b"H", b"HTTP/1.1 2", b"\x05\x00", b"\r\n" * 9)))
        yield self._random.choice((0.0, 0.1))
        self._random.choice((self._peer.finish, self._peer.reset, lambda: None))()
