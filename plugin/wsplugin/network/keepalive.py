"""When a Ping goes, and when the time of its Pong is over (RFC 6455 section 5.5.2).

A value with methods: the clock and the progress are handed in, the timer and the frames are the
wire's. What is measured is the server and not the queue: a Pong cannot come inside a long message,
and a Ping waits behind our own data, so whatever the server sends and whatever it takes starts the
time anew.
"""

import enum
import math
from typing import Final

from msgspec import Struct

LOOKS: Final = 8
"""How often progress is looked at within each time, at least: an end comes so much late at most."""
LONGEST_LOOK: Final = 0.5
"""Seconds between two looks at the most."""


def look_after(patience: float) -> float:
    """Return after how many seconds progress is to be looked at, where it prolongs `patience`."""
    return min(patience / LOOKS, LONGEST_LOOK)


class Progress(Struct, frozen=True):
    """How far both directions have come, in bytes since some moment before the first look."""

    taken: int = 0
    received: int = 0


class Act(enum.Enum):
    """What is to be done."""

    NOTHING = enum.auto()
    PING = enum.auto()
    """Send a Ping, and tell :meth:`Keepalive.pinged`."""
    READ_FIRST = enum.auto()
    """Read what has arrived, and ask again: after a stop of the process all times are over."""
    GIVE_UP = enum.auto()
    """The server is dead."""


class Keepalive:
    """Keepalive of one open connection; times in seconds.

    Args:
        interval: from a Pong to the next Ping.
        timeout: from the last sign of life to the end, once a Ping has been sent. Either of them as
            0 turns pings off.
        now: when the connection opened.

    """

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        # The next Ping, or the end of the time of the one that is awaited.
        self._next = now + interval if interval and timeout else math.inf
        self._awaited: bytes | None = None
        self._look = math.inf
        self._seen = Progress()
        # What the server takes between these two is the Ping itself.
        self._before = self._behind = 0
        self._held = False
        self._read_first = True

    @property
    def due(self) -> float:
        """When :meth:`act` has something to say; infinite if it never has."""
        if self._awaited is None:
            return self._next
        # A stopped host is not a dead server: what it has answered may not have been read.
        return math.inf if self._held else min(self._next, self._look)

    def act(self, now: float, progress: Progress) -> Act:
        """Say what is to be done, as far as the server has come by now."""
        if now < self.due:
            return Act.NOTHING
        if self._awaited is None:
            return Act.PING
        if self._is_life(progress):
            self._start_anew(now)
        self._seen = progress
        self._look = now + look_after(self._timeout)
        if now < self._next:
            return Act.NOTHING
        if self._read_first:
            self._read_first = False
            return Act.READ_FIRST
        return Act.GIVE_UP

    def _is_life(self, progress: Progress) -> bool:
        """Tell progress from the system's word that the Ping itself has arrived."""
        old, new = self._seen.taken, progress.taken
        return (
            progress.received > self._seen.received
            or min(new, self._before) > min(old, self._before)
            or new > max(old, self._behind)
        )

    def _start_anew(self, now: float) -> None:
        self._next = now + self._timeout
        self._look = now + look_after(self._timeout)
        self._read_first = True

    def pinged(
        self, payload: bytes, now: float, progress: Progress, before: int, behind: int
    ) -> None:
        """A Ping is on its way.

        Args:
            payload: what its Pong will say.
            now: the time.
            progress: how far the server has come.
            before: what :attr:`Progress.taken` will be when all before the Ping has been taken.
            behind: the same with the Ping.

        """
        self._awaited = payload
        self._seen = progress
        self._before, self._behind = before, behind
        self._start_anew(now)

    def ponged(self, payload: bytes, now: float) -> None:
        """A Pong has come; it may answer no Ping of ours (RFC 6455 section 5.5.3)."""
        if self._awaited is not None and payload == self._awaited:
            self._awaited = None
            self._next = now + self._interval

    def hold(self) -> None:
        """Nothing is read from the server for now."""
        self._held = True

    def go_on(self, now: float) -> None:
        """The server is read from again."""
        if self._held:
            self._held = False
            if self._awaited is not None:
                self._start_anew(now)

    def stop(self) -> None:
        """Send no more, and time nothing any more."""
        self._awaited = None
        self._next = math.inf
