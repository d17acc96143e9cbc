"""TCP between the plugin and a server, without a network: what the kernels of both ends do.

A :class:`Socket` is the plugin's end and looks like ``socket.socket``; a :class:`Peer` is the
server's end, which calls back. Modelled after Linux where systems differ: what arrived before a
reset can still be read, and closing a socket with unread data resets the connection.
"""

import collections
import errno
import math
import os
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from simulation.world import World, shown

Sockaddr = tuple[str, int] | tuple[str, int, int, int]

# struct tcp_info in linux/tcp.h: where tcpi_bytes_acked and tcpi_bytes_received stand.
TCP_INFO: Final = 11
BYTES_ACKED: Final = 120
SIOCOUTQ: Final = 0x5411
SO_NWRITE: Final = 0x1024
"""macOS' way to ask how many bytes have not been acknowledged."""


class Weather(NamedTuple):
    """How a network treats a connection."""

    latency: float
    """Seconds that a segment travels at least."""
    jitter: float
    """Seconds that it may take more."""
    segment: int
    """How many bytes from the server travel together at most."""
    gap: float
    """Seconds between two segments from the server at least."""
    room: int
    """How many bytes may be on their way or unread, in each direction."""


class Stream:
    """One direction: bytes on their way, and bytes that have arrived and are not read.

    Args:
        arrived: called when something has arrived, be it the end.

    """

    def __init__(self, link: "Link", arrived: Callable[[], None]) -> None:
        self._link = link
        self._arrived = arrived
        self._last = 0.0
        self._segments: collections.deque[tuple[float, bytes]] = collections.deque()
        self.unread = bytearray()
        self.on_its_way = 0
        self.sent = 0
        """How many bytes have been sent."""
        self.acknowledged = 0
        """How many bytes have arrived."""
        self.progress_at = -math.inf
        """When the last byte arrived."""
        self.sent_at = -math.inf
        """When the last byte was sent."""
        self.ending = False
        self.ended = False
        """Whether the end has arrived."""
        self.stalled_until = -math.inf
        self.broken = False
        self.segment = 2**30
        """How many bytes travel together at most."""
        self.gap = 0.0
        """Seconds between the arrivals of two segments at least."""

    @property
    def room(self) -> int:
        """How many bytes can be sent now."""
        return self._link.weather.room - self.on_its_way - len(self.unread)

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self.on_its_way and self.ended == self.ending

    def send(self, data: bytes) -> None:
        """Send bytes, for all of which there must be room."""
        self.on_its_way += len(data)
        self.sent += len(data)
        self.sent_at = self._link.world.now
        # Every segment is an event: a long message is not cut into hundreds.
        size = max(self.segment, len(data) // 40)
        for start in range(0, len(data), size):
            self._travel(data[start : start + size])

    def end(self) -> None:
        """Send the end (FIN)."""
        if not self.ending:
            self.ending = True
            self._travel(b"")

    def _travel(self, segment: bytes) -> None:
        link = self._link
        weather = link.weather
        delay = weather.latency + (weather.jitter and link.random.random() * weather.jitter)
        self._last = max(link.world.now + delay, self._last + self.gap)
        self._segments.append((self._last, segment))
        if len(self._segments) == 1:
            link.world.at(self._last, self._arrive, link.number)

    def _arrive(self) -> None:
        """Let what is due arrive, in order."""
        link = self._link
        now = link.world.now
        segments = self._segments
        came = False
        while segments and max(segments[0][0], self.stalled_until) <= now:
            segment = segments.popleft()[1]
            if link.silent or self.broken:
                continue
            came = True
            if segment:
                self.on_its_way -= len(segment)
                self.acknowledged += len(segment)
                self.unread += segment
                self.progress_at = now
            else:
                self.ended = True
        if segments:
            link.world.at(max(segments[0][0], self.stalled_until), self._arrive, link.number)
        if came:
            self._arrived()

    def take(self, most: int) -> bytes:
        """Read what has arrived, up to so many bytes."""
        data = bytes(self.unread[:most])
        del self.unread[:most]
        return data


class Link:
    """One TCP connection between a socket of the plugin's and a server."""

    def __init__(self, world: World, number: int, address: Sockaddr, weather: Weather) -> None:
        self.world = world
        self.number: Final = number
        self.address: Final = address
        self.weather = weather
        self.random = world.random(f"link {number}")
        self.silent = False
        """Whether the network drops all that is sent, both ways."""
        self.up = Stream(self, self._arrived_at_peer)
        self.down = Stream(self, self._arrived_at_client)
        self.down.segment = weather.segment
        self.down.gap = weather.gap
        self.error = 0
        """The error that the plugin's next call gets, once."""
        self.reset_seen = False
        """Whether the server's reset has arrived."""
        self.closed = False
        """Whether the plugin has closed its last descriptor of this."""
        self.arrived_at_close = 0
        """How many bytes of the server's had arrived when the plugin closed it."""
        self.peer = Peer(self)
        self.descriptors = 0
        self.on_arrival: Callable[[], None] = lambda: None
        """Called when something has arrived in the plugin's socket."""
        self.spoken: Callable[[], None] = lambda: None
        """Called with the first byte that the plugin sends."""

    def _arrived_at_peer(self) -> None:
        self.peer.arrived()

    def _arrived_at_client(self) -> None:
        self.on_arrival()
        # The plugin finds it when its loop asks. Once it has closed, data is answered with a reset.
        if self.closed and self.down.unread:
            self._later(self.peer.reset_arrives)

    def note(self, what: object) -> None:
        """Add a line about this connection to the trace."""
        self.world.note(f"link {self.number}", what)

    # --- what the plugin's end does ---

    def client_closes(self) -> None:
        """End as Linux does: with a reset if something has not been read."""
        self.closed = True
        self.arrived_at_close = self.down.acknowledged
        unread = bool(self.down.unread)
        self.note("the plugin resets" if unread else "the plugin closes")
        if unread:
            self.up.stalled_until = -math.inf
            self._later(self.peer.reset_arrives)
        elif not self.reset_seen:
            self.up.end()

    def _later(self, callback: Callable[[], None]) -> None:
        if not self.silent:
            self.world.after(self.weather.latency, callback, self.number)

    # --- what the server's end does ---

    def peer_resets(self) -> None:
        """Send a reset, behind what is on its way."""
        self.note("the server resets")
        self.up.broken = True
        if not self.silent:
            self.world.at(
                max(
                    self.down._last, self.down.stalled_until, self.world.now + self.weather.latency
                ),
                self._reset_arrives,
                self.number,
            )

    def _reset_arrives(self) -> None:
        if not self.closed and not self.reset_seen and not self.silent:
            self.note("the reset has arrived")
            self.error = errno.ECONNRESET
            self.reset_seen = True


class Peer:
    """The server's end of a connection. Calls back when something has come."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.reading = True
        self.gone = False
        """Whether this end has reset the connection or been reset."""
        self.received: Callable[[bytes], None] = lambda data: None
        self.ended: Callable[[], None] = lambda: None
        self.given = 0
        """How many bytes have been given to :meth:`send`."""
        self._outgoing = bytearray()
        self._finishing = False
        self._end_told = False

    def send(self, data: bytes) -> None:
        """Send bytes as room allows."""
        if self.speaks:
            self.given += len(data)
            self._outgoing += data
            self.link.note(f"< {shown(data)}")
            self.pump()

    @property
    def all_sent(self) -> bool:
        """Whether all that was to be sent has arrived."""
        return not self._outgoing and self.link.down.idle

    @property
    def speaks(self) -> bool:
        """Whether this end may still send."""
        return not self.gone and not self._finishing

    def pump(self) -> None:
        """Send on, the plugin having read."""
        if self.gone:
            return
        down = self.link.down
        if self._outgoing and (size := min(len(self._outgoing), down.room)) > 0:
            down.send(bytes(self._outgoing[:size]))
            del self._outgoing[:size]
        if self._finishing and not self._outgoing:
            down.end()

    def finish(self) -> None:
        """End this direction, behind what has been sent."""
        if not self._finishing and not self.gone:
            self.link.note("the server ends its direction")
            self._finishing = True
            self.pump()

    def reset(self) -> None:
        """Reset the connection; what has not been sent is lost."""
        if not self.gone:
            self.gone = True
            self._outgoing.clear()
            self.link.peer_resets()

    def pause(self) -> None:
        """Read no more."""
        self.link.note("the server stops reading")
        self.reading = False

    def resume(self) -> None:
        """Read on."""
        self.link.note("the server reads on")
        self.reading = True
        self.arrived()

    def arrived(self) -> None:
        """Read what has come, if this end reads."""
        up = self.link.up
        if not self.reading or self.gone:
            return
        if up.unread:
            data = up.take(len(up.unread))
            self.link.note(f"> {shown(data)}")
            self.received(data)
        if not self._end_told and self._at_end():
            self._end_told = True
            self.ended()

    def _at_end(self) -> bool:
        # Whoever took the last bytes may have stopped reading, or reset the connection.
        up = self.link.up
        return up.ended and not up.unread and self.reading and not self.gone

    def reset_arrives(self) -> None:
        """Be reset by the plugin's end."""
        if not self.gone:
            self.link.note("the server has been reset")
            self.gone = True
            self._outgoing.clear()


class Socket:
    """The plugin's end of a connection, as ``socket.socket``, always non-blocking.

    Args:
        connect: what happens when it is connected; returns the link, or an error number, and
            after how many seconds; None for never.

    """

    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(
        self,
        world: World,
        connect: Callable[[Sockaddr], tuple[Link | int, float | None]] | None,
        link: Link | None = None,
        family: int = socket.AF_INET,
    ) -> None:
        self.family = family
        self.link = link
        self._world = world
        self._connect = connect
        self._error = 0
        self._connected = link is not None
        self._no_more_writing = False
        self._descriptor = world.descriptor(self)
        if link is not None:
            link.descriptors += 1

    # --- for the selector ---

    def readable(self) -> bool:
        """Whether a read would return at once."""
        link = self.link
        if link is None or not self._connected:
            return False
        return bool(link.down.unread or link.down.ended or link.error or link.reset_seen)

    def writable(self) -> bool:
        """Whether a write would take something, or fail at once."""
        if not self._connected:
            return bool(self._error)
        link = self.link
        assert link is not None
        # Linux calls a socket writable when a third of its room is free.
        return link.reset_seen or link.up.room * 3 >= link.weather.room

    # --- as socket.socket ---

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._descriptor

    def setblocking(self, flag: bool) -> None:
        """Take what asyncio wants."""
        assert not flag, "it would wait"

    def gettimeout(self) -> float:
        """Tell that it is non-blocking."""
        return 0.0

    def getsockname(self) -> Sockaddr:
        """Return some address."""
        return ("192.0.2.1", self._descriptor % 65536)

    def getpeername(self) -> Sockaddr:
        """Return the server's address."""
        if self.link is None or not self._connected:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self.link.address

    def setsockopt(self, *arguments: Any) -> None:
        """Take any option."""
        self._open()

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:
        """Return the error of a connect, or what Linux tells of a connection."""
        self._open()
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR):
            error, self._error = self._error, 0
            return error
        link = self.link
        if link is None or not self._world.tells:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        if (level, option) == (socket.SOL_SOCKET, SO_NWRITE):
            return link.up.on_its_way
        assert (level, option) == (socket.IPPROTO_TCP, TCP_INFO), (level, option)
        # Linux counts the SYN, too.
        acked, received = link.up.acknowledged + 1, link.down.acknowledged
        return (bytes(BYTES_ACKED) + struct.pack("=QQ", acked, received)).ljust(size, b"\0")[:size]

    def ioctl(self, request: int) -> bytes:
        """Do what ``fcntl.ioctl`` does with this descriptor."""
        if request != SIOCOUTQ or self.link is None or not self._world.tells:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        return struct.pack("=i", self.link.up.on_its_way)

    def connect(self, address: Sockaddr) -> None:
        """Begin to connect."""
        self._open()
        assert self._connect is not None
        outcome, delay = self._connect(address)
        if isinstance(outcome, Link):
            self.link = outcome
            outcome.descriptors += 1
        if delay is not None:
            self._world.after(delay, lambda: self._connect_done(outcome))
        raise BlockingIOError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))

    def _connect_done(self, outcome: Link | int) -> None:
        if self._descriptor < 0:
            return  # nobody waits for it any more
        if isinstance(outcome, Link):
            outcome.note(f"connected to {outcome.address}")
            self._connected = True
        else:
            self._error = outcome

    def recv_into(self, buffer: Any) -> int:
        """Read into a buffer."""
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def recv(self, size: int) -> bytes:
        """Read: what has arrived first, then the error, then the end."""
        link = self._connection()
        if link.down.unread:
            data = link.down.take(size)
            link.peer.pump()
            return data
        if link.error:
            self._raise_error(link)
        if link.reset_seen or link.down.ended:
            return b""
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def send(self, data: Any) -> int:
        """Write what there is room for."""
        link = self._connection()
        if link.error:
            self._raise_error(link)
        if link.reset_seen or self._no_more_writing:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        size = min(len(data), link.up.room)
        if size <= 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        first = not link.up.sent
        link.up.send(bytes(data[:size]))
        if first:
            link.spoken()
        return size

    def sendmsg(self, buffers: Iterable[Any]) -> int:
        """Write several buffers, as asyncio does from Python 3.12 on."""
        return self.send(b"".join(buffers))

    def shutdown(self, how: int) -> None:
        """End the plugin's direction."""
        assert how == socket.SHUT_WR
        self._no_more_writing = True
        self._connection().up.end()

    def dup(self) -> "Socket":
        """Return another descriptor of the same connection."""
        self._open()
        return Socket(self._world, None, self._connection(), self.family)

    def close(self) -> None:
        """Close the descriptor, and the connection with its last."""
        if self._descriptor < 0:
            return
        del self._world.files[self._descriptor]
        self._descriptor = -1
        if self.link is not None:
            self.link.descriptors -= 1
            if not self.link.descriptors:
                self.link.client_closes()

    def _open(self) -> None:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _connection(self) -> Link:
        self._open()
        if self.link is None or not self._connected:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self.link

    def _raise_error(self, link: Link) -> None:
        error, link.error = link.error, 0
        raise OSError(error, os.strerror(error))
