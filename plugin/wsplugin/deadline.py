"""When a connection that is to end is cut: a value, with clock and progress handed in."""

import math
from typing import Final

from wsplugin.network.keepalive import look_after

MOMENT: Final = 0.005
"""Seconds after which to see whether more has been read."""
MOST_READING: Final = 1.0
"""Seconds for what has arrived during a stop of the process."""


class Deadline:
    """The end of the time that a server has, in seconds of the event loop's clock."""

    def __init__(self) -> None:
        self.when = math.inf
        """When the connection is to be cut; infinite as long as that is open."""
        self.seconds = 0.0
        """The time that the server had, for people."""
        # Whether the time starts anew with whatever the server takes.
        self._patient = False
        self._taken = 0.0
        # What progress cannot prolong it beyond.
        self._latest = math.inf

    def set(self, now: float, seconds: float) -> bool:
        """Let the time be over in so many seconds, unless it is sooner; tell whether it was later.

        Whatever the server takes from now on prolongs nothing.
        """
        self._latest = min(self._latest, now + seconds)
        if now + seconds > self.when or (not self._patient and now + seconds == self.when):
            return False
        self.when, self.seconds, self._patient = now + seconds, seconds, False
        return True

    def set_patient(self, now: float, seconds: float, taken: float) -> bool:
        """Let the time be over when the server has taken nothing for so many seconds.

        Only if it is still open when it is over; tell whether it was. `taken` is how many bytes the
        server has taken so far.
        """
        if self.when < math.inf:
            return False
        self.when, self.seconds, self._patient, self._taken = now + seconds, seconds, True, taken
        return True

    def bring_forward(self, now: float, seconds: float) -> bool:
        """Let the time be over in so many seconds if it would be later; tell whether it would.

        What prolonged it before does so still, by as many seconds.
        """
        if now + seconds >= self.when:
            return False
        self.when, self.seconds = now + seconds, seconds
        return True

    def count_from(self, taken: float) -> None:
        """Take no note of what the server has taken before it could take what waits."""
        self._taken = taken

    def look(self, now: float, taken: float) -> None:
        """Take note of how many bytes the server has taken so far."""
        if self._patient and taken > self._taken:
            self._taken = taken
            self.when = min(now + self.seconds, self._latest)

    def next_look(self, now: float) -> float:
        """Return when progress is to be looked at, or the time is over."""
        return min(self.when, now + look_after(self.seconds)) if self._patient else self.when

    def reading_until(self, now: float) -> float:
        """Return until when what has come is read before the connection is cut, once time is over.

        After a stop of the process all times are over. Where progress could prolong this one, it is
        then as long as the stop at the most, since a server may send without end. Where others wait
        for the end, and where the time has just run out, it is now.
        """
        return now + min(now - self.when, MOST_READING) if self._patient else now
