"""What becomes of the bytes that a server sends, and what its going leaves to be read."""

import enum
import socket

from msgspec import Struct


class Reading(enum.Enum):
    """What becomes of the bytes that the server sends."""

    ON = enum.auto()
    """They are read and taken as they come."""
    BEHIND = enum.auto()
    """They wait, partly in the inbox, since the host is behind: :meth:`Wire.resume` goes on."""
    YIELDING = enum.auto()
    """They wait until others have had their turn, which is scheduled."""
    PAUSED = enum.auto()
    """They wait, since the host has said so: :meth:`Wire.unpause` goes on."""
    OVER = enum.auto()
    """They are dropped: after the server's Close frame, a failure, or the cut."""

    @property
    def is_held(self) -> bool:
        """Whether what has come waits to be taken."""
        return self in (Reading.BEHIND, Reading.YIELDING, Reading.PAUSED)


class Loss(Struct, frozen=True):
    """The end of the transport, as asyncio tells of it."""

    exc: Exception | None
    rest: socket.socket | None
    """Where what the server had sent can still be read, if asyncio has not done so."""
