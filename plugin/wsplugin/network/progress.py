"""How much of what was sent the server's system has acknowledged, and how much has come from it.

Not how long the queue is, which stays full for as long as the host keeps sending. Linux tells it of
every socket (tcp(7), TCP_INFO), and the same for TLS; elsewhere what the system has accepted from
the plugin counts, and what has been read.
"""

import asyncio
import socket
import struct
import sys
from typing import Any, Final

from wsplugin.network.keepalive import Progress
from wsplugin.network.outbox import Pieces

# The fields tcpi_bytes_acked and tcpi_bytes_received of Linux' struct tcp_info, since Linux 4.1.
_BYTES: Final = struct.Struct("=120xQQ")
# Bytes not yet acknowledged: Linux' SIOCOUTQ (tcp(7)), and macOS' socket option SO_NWRITE.
_SIOCOUTQ: Final = 0x5411
_SO_NWRITE: Final = 0x1024


class Meter:
    """Looks at one connection.

    Args:
        transport: TCP, or TLS over it.
        pieces: what the transport is still to be given.

    """

    def __init__(self, transport: asyncio.Transport, pieces: Pieces) -> None:
        self.written = 0
        """How many bytes the transport has been given: kept by the wire."""
        self.read = 0
        """How many bytes have been read: kept by the wire."""
        self._transport = transport
        self._pieces = pieces
        self._asked = 0
        self._sock: Any = transport.get_extra_info("socket")

    def look(self) -> Progress:
        """Return how far it has come."""
        if sys.platform == "linux" and self._sock is not None:
            try:
                info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES.size)
                return Progress(*_BYTES.unpack(info))
            except (OSError, struct.error):
                self._sock = None  # an older system, no TCP, or it has been closed
        return Progress(self.written - self._in_transport() - self._unacknowledged(), self.read)

    def end(self) -> int:
        """Return what :attr:`Progress.taken` will be when all there is to send has been taken."""
        held = self._pieces.waiting + self._in_transport() + self._unacknowledged()
        return self.look().taken + held

    @property
    def given(self) -> int:
        """How many bytes there have been to send so far."""
        return self.written + self._pieces.waiting

    @property
    def handed(self) -> int:
        """How many of them have been handed to the operating system; over TLS rather fewer."""
        return self.written - self._in_transport()

    @property
    def has_left(self) -> bool:
        """Whether all there is to send has been handed to the operating system."""
        return not (self._pieces.waiting or self._in_transport())

    def has_read(self) -> bool:
        """Tell whether more has been read since this was asked last."""
        before, self._asked = self._asked, self.read
        return self.read > before

    def _in_transport(self) -> int:
        """Return how many bytes the transport holds, encrypted or not."""
        transport: Any = self._transport
        held: int = transport.get_write_buffer_size()
        # asyncio's TLS transport counts what it has not encrypted; the rest is in its TCP one.
        below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
        return held + (below.get_write_buffer_size() if below is not None else 0)

    def _unacknowledged(self) -> int:
        """Return how many bytes the system holds; 0 where it does not tell."""
        if self._sock is None:
            return 0
        try:
            if sys.platform == "linux":
                import fcntl

                waiting = fcntl.ioctl(self._sock.fileno(), _SIOCOUTQ, b"\0\0\0\0")
                return int.from_bytes(waiting, sys.byteorder)
            if sys.platform == "darwin":
                waiting = self._sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
                return int(waiting)
        except (OSError, ValueError):
            self._sock = None  # closed
        return 0
