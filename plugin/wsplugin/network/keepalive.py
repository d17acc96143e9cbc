"""When a Ping goes, and when the time of its Pong is over (RFC 6455 section 5.5.2).

A value with methods: the clock is handed in, the timer and the frames are the wire's.
"""

import enum
import math


class Act(enum.Enum):
    """What is to be done."""

    NOTHING = enum.auto()
    PING = enum.auto()
    """Send a Ping, and tell :meth:`Keepalive.pinged`."""
    GIVE_UP = enum.auto()
    """The server is dead."""


class Keepalive:
    """Keepalive of one open connection; times in seconds.

    Args:
        interval: from a Pong to the next Ping.
        timeout: from a Ping to its Pong. Either of them as 0 turns pings off.
        now: when the connection opened.

    """

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._awaited: bytes | None = None
        self._held = False
        self._next = now + interval if interval and timeout else math.inf

    @property
    def due(self) -> float:
        """When :meth:`act` has something to say; infinite if it never has."""
        # A stopped host is not a dead server: what it has answered may not have been read.
        return math.inf if self._held and self._awaited is not None else self._next

    def act(self, now: float) -> Act:
        """Say what is to be done."""
        if now < self.due:
            return Act.NOTHING
        return Act.PING if self._awaited is None else Act.GIVE_UP

    def pinged(self, payload: bytes, now: float) -> None:
        """A Ping is on its way."""
        self._awaited = payload
        self._next = now + self._timeout

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
                self._next = now + self._timeout

    def stop(self) -> None:
        """Send no more, and time nothing any more."""
        self._awaited = None
        self._next = math.inf
