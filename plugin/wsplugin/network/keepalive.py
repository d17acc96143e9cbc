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


class Answered(Struct, frozen=True):
    """A Ping that has been answered, and the seconds that its Pong took."""

    payload: bytes
    seconds: float


class Awaited(Struct):
    """A Ping on its way."""

    payload: bytes
    timeout: float
    over: float
    """When its time is over."""
    sent: float
    """When it was handed to the operating system, or was last seen waiting for that."""
    before: float
    """What :attr:`Progress.taken` will be when all before it has been taken."""
    behind: float
    """The same with the Ping."""
    given: float
    """How many bytes have been handed to the operating system when it has."""
    has_left: bool = False


class Keepalive:
    """Pings of one open connection, its own and those that the host asks for; times in seconds.

    Args:
        interval: from a Pong to the next Ping.
        timeout: from the last sign of life to the end, once a Ping has been sent. Either of them as
            0 turns the connection's own pings off.
        now: when the connection opened.

    """

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        # When the connection's own next Ping goes, if none of them is awaited.
        self._next = now + interval if interval and timeout else math.inf
        self._own: bytes | None = None
        # The earliest first: a Pong answers all before it, too (RFC 6455 section 5.5.3).
        self._awaited: dict[bytes, Awaited] = {}
        self._look = math.inf
        self._seen = Progress()
        self._held = False
        self._stopped = False
        self._read_first = True

    @property
    def awaits(self) -> bool:
        """Whether a Pong is awaited."""
        return bool(self._awaited)

    @property
    def due(self) -> float:
        """When :meth:`act` has something to say; infinite if it never has."""
        if self._stopped:
            return math.inf
        due = self._next if self._own is None else math.inf
        # A stopped host is not a dead server: what it has answered may not have been read.
        return due if self._held or not self._awaited else min(due, self._over, self._look)

    @property
    def _over(self) -> float:
        return min(ping.over for ping in self._awaited.values())

    def act(self, now: float, progress: Progress) -> Act:
        """Say what is to be done, as far as the server has come by now."""
        if now < self.due:
            return Act.NOTHING
        if self._awaited and not self._held:
            if self._is_life(progress):
                self._start_anew(now)
            self._seen = progress
            self._set_look(now)
            if now >= self._over:
                if self._read_first:
                    self._read_first = False
                    return Act.READ_FIRST
                return Act.GIVE_UP
        return Act.PING if self._own is None and now >= self._next else Act.NOTHING

    def _is_life(self, progress: Progress) -> bool:
        """Tell progress from the system's word that Pings themselves have arrived."""
        return progress.received > self._seen.received or self._without_pings(
            progress.taken
        ) > self._without_pings(self._seen.taken)

    def _without_pings(self, taken: float) -> float:
        pings = self._awaited.values()
        return taken - sum(min(max(taken - p.before, 0), p.behind - p.before) for p in pings)

    def _start_anew(self, now: float) -> None:
        for ping in self._awaited.values():
            ping.over = now + ping.timeout
        self._set_look(now)
        self._read_first = True

    def _set_look(self, now: float) -> None:
        self._look = now + look_after(min(ping.timeout for ping in self._awaited.values()))

    def pinged(
        self,
        payload: bytes,
        now: float,
        progress: Progress,
        before: float,
        behind: float,
        given: float,
        timeout: float | None = None,
    ) -> None:
        """A Ping is on its way.

        Args:
            payload: what its Pong will say.
            now: the time.
            progress: how far the server has come.
            before: what :attr:`Progress.taken` will be when all before the Ping has been taken.
            behind: the same with the Ping.
            given: how many bytes there have been to send with it, as :meth:`left` counts them.
            timeout: its time, if it is one of the host's.

        """
        if timeout is None:
            self._own = payload
            timeout = self._timeout
        if self._awaited and self._is_life(progress):
            self._start_anew(now)
        self._awaited[payload] = Awaited(
            payload, timeout, now + timeout, now, before, behind, given
        )
        self._seen = progress
        self._set_look(now)
        self._read_first = True

    def left(self, now: float, handed: float, *, just_now: bool = False) -> None:
        """Take note of how many bytes have been handed to the operating system by now.

        A Ping that has left since the last time may have done so at any moment in between: it
        counts from that time on, unless it is the last of them, and they have left `just_now`.
        """
        for ping in self._awaited.values():
            if not ping.has_left:
                ping.has_left = handed >= ping.given
                if not ping.has_left or (just_now and handed == ping.given):
                    ping.sent = now

    def ponged(self, payload: bytes, now: float) -> list[Answered]:
        """A Pong has come; return which Pings it answers, if any (RFC 6455 section 5.5.3)."""
        answered: list[Answered] = []
        if payload not in self._awaited:
            return answered
        for ping in list(self._awaited.values()):
            del self._awaited[ping.payload]
            answered.append(Answered(ping.payload, now - ping.sent))
            if ping.payload == self._own:
                self._own = None
                self._next = now + self._interval
            if ping.payload == payload:
                break
        return answered

    def hold(self) -> None:
        """Nothing is read from the server for now."""
        self._held = True

    def go_on(self, now: float) -> None:
        """The server is read from again."""
        if self._held:
            self._held = False
            if self._awaited:
                self._start_anew(now)

    def stop(self) -> None:
        """Send no more, and time nothing any more; Pongs that come still answer their Pings."""
        self._stopped = True
