"""Servers that behave and servers that do not, and what each of them knows afterwards.

What a server does is drawn from the seed or given by a scenario: how it answers the opening
handshake, what it does on an open connection, how it takes a Close frame. Each of these is a
generator that yields seconds to wait.
"""

import base64
import hashlib
import math
import random
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

from harness import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_frame, frame, unmask
from simulation.sockets import Peer
from simulation.world import World

GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
RSV1: Final = 4
UNTIL_THE_REQUEST: Final = math.inf
"""What a course yields to wait for the request of the opening handshake."""

Content = tuple[Literal["text", "binary"], str | bytes]
Course = Iterator[float]
"""Does something, and yields how many seconds to wait before it goes on."""


class Behaviour(NamedTuple):
    """What a server does.

    `closing` is how it takes a Close frame; `pongs` the part of the Pings it answers.
    """

    opening: Callable[["Server"], Course]
    life: Callable[["Server"], Course]
    closing: Callable[["Server"], Course]
    echoes: bool = False
    pongs: float = 1.0
    compresses: bool = False
    lingers: bool = False
    """Whether it leaves the end of TCP to the plugin, both Close frames being there."""


class Server:
    """One connection as its server sees it."""

    def __init__(self, world: World, peer: Peer, behaviour: Behaviour, max_size: int) -> None:
        self.world = world
        self.peer = peer
        self.behaviour = behaviour
        self.max_size = max_size
        """The longest message that the plugin takes."""
        self.random: random.Random = world.random(f"server {peer.link.number}")
        self.request = b""
        self.opened = False
        """Whether it has accepted the opening handshake."""
        self.sent: list[tuple[Content, int]] = []
        """The messages that the plugin must tell, each with where in the stream it ends."""
        self.received: list[bytes] = []
        """The payloads of all messages from the plugin."""
        self.close_received: bytes | None = None
        self.close_received_at = 0.0
        self.close_sent: bytes | None = None
        self.close_sent_end = 0
        """Where in the stream its Close frame ends."""
        self.pinged: tuple[bytes, int] | None = None
        """The last Ping, and where in the stream it ends."""
        self.answered = True
        """Whether it has answered the plugin's last Ping, if there was one."""
        self.ponged = b""
        """What the plugin's last Pong says."""
        self.broke = False
        """Whether it has sent what RFC 6455 or the plugin's limits forbid."""
        self.closed_first = False
        self.ended_alone = False
        """Whether it has ended its direction, or all, without a Close frame."""
        self.fault: str | None = None
        """What the plugin did that no client may."""
        self._rest = bytearray()
        self._deflate: Deflate | None = None
        peer.received = self._received
        peer.ended = self._ended
        self._opening = behaviour.opening(self)
        self._run(self._opening)

    @property
    def speaks(self) -> bool:
        """Whether what it sends is still to be heard."""
        return self.close_sent is None and not self.broke and self.peer.speaks

    # --- what behaviours do ---

    def response(self, *headers: str) -> bytes:
        """Return the response that accepts the request."""
        key = re.search(rb"(?i)\r\nsec-websocket-key: *([^\r]+)", self.request)
        accept = hashlib.sha1(((key[1].decode() if key else "") + GUID).encode()).digest()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {base64.b64encode(accept).decode()}",
            *headers,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def accept(self, glued: Callable[[], bytes] = bytes, *, pieces: int = 1) -> None:
        """Accept the opening handshake; what is `glued` goes out in the same write."""
        headers = []
        if self.behaviour.compresses and b"permessage-deflate" in self.request:
            self._deflate = Deflate(self.random)
            headers.append(f"Sec-WebSocket-Extensions: {self._deflate.header}")
        response = self.response(*headers)
        self.opened = True
        data = response + glued()
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            self.peer.send(data[start : start + size])
        # Offsets of what was glued counted from before the response.
        shift = len(response)
        self.sent = [(content, end + shift) for content, end in self.sent]
        if self.close_sent is not None:
            self.close_sent_end += shift
        self._run(self.behaviour.life(self))
        self._parse()

    def content(self) -> Content:
        """Make up a message, never the same twice on one connection."""
        draw = self.random
        number = len(self.sent)
        size = draw.choice((0, 1, 20, 120, 130, 300, draw.randrange(2000)))
        text = f"{number}:" + draw.choice(("x", 'é"\\\n', "😀"))[: size or 1] * (size // 3)
        data = text.encode()[: self.max_size].decode(errors="ignore")
        return ("text", data) if draw.random() < 0.6 else ("binary", data.encode())

    def encode(self, content: Content, fragments: int = 1, between: bytes = b"") -> bytes:
        """Return the frames of a message, with `between` between two fragments."""
        kind, data = content
        payload = data.encode() if isinstance(data, str) else data
        rsv = 0
        if self._deflate is not None and self.random.random() < 0.8:
            payload = self._deflate.encode(payload)
            rsv = RSV1
        size = max(1, -(-len(payload) // fragments))
        parts = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
        frames = []
        for index, part in enumerate(parts):
            opcode = CONT if index else TEXT if kind == "text" else BINARY
            last = index == len(parts) - 1
            frames.append(frame(opcode, part, fin=last, rsv=0 if index else rsv))
        return between.join(frames)

    def message(self, fragments: int = 1, between: bytes = b"", ahead: int = 0) -> bytes:
        """Return a message to be sent at once, and remember it.

        Args:
            fragments: into how many.
            between: goes between two fragments.
            ahead: how many bytes are sent before it in the same write.

        """
        content = self.content()
        data = self.encode(content, fragments, between)
        self._remember(content, ahead + len(data))
        return data

    def say(self, content: Content) -> bytes:
        """Return the frame of a message to be sent at once, and remember it."""
        data = self.encode(content)
        self._remember(content, len(data))
        return data

    def _remember(self, content: Content, size: int) -> None:
        if self.speaks:
            self.sent.append((content, self.peer.given + size))

    def messages(self, count: int, ahead: int = 0) -> bytes:
        """Return several messages to be sent in one write."""
        data = b""
        for _ in range(count):
            data += self.message(ahead=ahead + len(data))
        return data

    def ping(self, ahead: int = 0) -> bytes:
        """Return a Ping to be sent at once, and remember it."""
        payload = b"ping %d" % self.peer.given
        data = frame(PING, payload)
        if self.speaks:
            self.pinged = (payload, self.peer.given + ahead + len(data))
        return data

    def close(self, code: int | None = 1000, reason: str = "", ahead: int = 0) -> bytes:
        """Return a Close frame to be sent at once, and remember it."""
        data = close_frame(code, reason)
        if self.speaks:
            self.close_sent = data[2:]
            self.close_sent_end = self.peer.given + ahead + len(data)
            self.closed_first = self.close_received is None
        return data

    def violation(self) -> bytes:
        """Return a frame that no server may send, and remember it."""
        if self.speaks:
            self.broke = True
        bad = [
            frame(3),
            frame(TEXT, b"\xff"),
            frame(CONT, b"x"),
            frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
            frame(CLOSE, b"\x03"),
            frame(CLOSE, b"\x03\xed"),
            frame(PING, fin=False),
            frame(PING, bytes(126)),
            frame(TEXT, b"x", rsv=2),
            frame(TEXT, b"x", mask=b"abcd"),
            frame(BINARY, length=self.max_size + 1),
            b"\x82\x7e\x00\x01x",
        ]
        return self.random.choice(bad)

    def finish(self) -> None:
        """End this direction."""
        self.ended_alone |= self.close_sent is None
        self.peer.finish()

    def reset(self) -> None:
        """Reset the connection."""
        self.ended_alone |= self.close_sent is None
        self.peer.reset()

    # --- what comes of it ---

    def _run(self, course: Course) -> None:
        """Go on with a course, now."""
        if self.peer.gone:
            return
        delay = next(course, None)
        if delay is not None and delay < UNTIL_THE_REQUEST:
            self.world.after(delay, lambda: self._run(course), self.peer.link.number)

    def _received(self, data: bytes) -> None:
        self._rest += data
        if not self.request and (end := self._rest.find(b"\r\n\r\n")) >= 0:
            self.request = bytes(self._rest[: end + 4])
            del self._rest[: end + 4]
            self._run(self._opening)
        if self.opened:
            self._parse()

    def _parse(self) -> None:
        rest = self._rest
        while len(rest) >= 2 and not self.peer.gone:
            size = rest[1] & 0x7F
            start = 2
            if not rest[1] & 0x80:
                self.fault = "a frame without mask"
            if size == 126:
                start, size = 4, int.from_bytes(rest[2:4])
            elif size == 127:
                start, size = 10, int.from_bytes(rest[2:10])
            end = start + 4 + size
            if len(rest) < max(end, start):
                return
            payload = unmask(bytes(rest[start + 4 : end]), bytes(rest[start : start + 4]))
            head = rest[0]
            del rest[:end]
            self._frame(head, payload)

    def _frame(self, head: int, payload: bytes) -> None:
        opcode = head & 0x0F
        if self.close_received is not None and opcode not in (PING, PONG):
            # RFC 6455 section 5.5.1 speaks of data; a Pong may still answer a Ping.
            self.fault = f"a frame of opcode {opcode} behind a Close frame"
        elif opcode == PING:
            self.answered = self.speaks and self.random.random() < self.behaviour.pongs
            if self.answered:
                self.peer.send(frame(PONG, payload))
        elif opcode == CLOSE:
            self.close_received = payload
            self.close_received_at = self.world.now
            if self.close_sent is None:
                self._run(self.behaviour.closing(self))
            elif not self.behaviour.lingers:
                self.peer.finish()
        elif opcode in (TEXT, BINARY):
            if not head & 0x80:
                self.fault = "a fragment"
            if head & 0x40:
                if self._deflate is None:
                    self.fault = "a compressed message, without extension"
                    return
                payload = self._deflate.decode(payload)
            self.received.append(payload)
            fits = len(payload) <= self.max_size
            if self.behaviour.echoes and fits and self.speaks:
                text = opcode == TEXT
                content: Content = ("text", payload.decode()) if text else ("binary", payload)
                self.peer.send(self.say(content))
        elif opcode == PONG:
            self.ponged = payload
        else:
            self.fault = f"a frame of opcode {opcode}"

    def _ended(self) -> None:
        """The plugin has ended its direction, or all."""
        self.peer.finish()

    @property
    def well(self) -> bool:
        """Whether it reads, speaks, and has read all there is."""
        link = self.peer.link
        return (
            self.opened
            and self.speaks
            and self.peer.reading
            and link.up.idle
            and self.close_received is None
            and not (link.silent or link.reset_seen or link.down.ended)
        )

    def due(self, consumed: int) -> int:
        """Return how many messages end within so many bytes of the stream."""
        count = len(self.sent)
        while count and self.sent[count - 1][1] > consumed:
            count -= 1
        return count


class Deflate:
    """A server's side of permessage-deflate (RFC 7692), with parameters drawn at random."""

    def __init__(self, draw: random.Random) -> None:
        parameters = ["permessage-deflate"]
        self._fresh_out = draw.random() < 0.3
        self._fresh_in = draw.random() < 0.3
        self._bits = draw.choice((15, 12, 9))
        if self._fresh_out:
            parameters.append("server_no_context_takeover")
        if self._fresh_in:
            parameters.append("client_no_context_takeover")
        if self._bits < 15:
            parameters.append(f"server_max_window_bits={self._bits}")
        if draw.random() < 0.3:
            parameters.append(f"client_max_window_bits={draw.choice((8, 9, 15))}")
        self.header: Final = "; ".join(parameters)
        self._out = self._compressor()
        self._in = zlib.decompressobj(-15)

    def _compressor(self) -> "zlib._Compress":
        return zlib.compressobj(1, zlib.DEFLATED, -self._bits, 1)

    def encode(self, data: bytes) -> bytes:
        """Compress a message."""
        if self._fresh_out:
            self._out = self._compressor()
        return (self._out.compress(data) + self._out.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def decode(self, data: bytes) -> bytes:
        """Decompress a message."""
        if self._fresh_in:
            self._in = zlib.decompressobj(-15)
        return self._in.decompress(data + b"\0\0\xff\xff")
