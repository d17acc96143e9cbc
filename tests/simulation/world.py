"""What is outside of the process: the time, the descriptors, and what happens when.

Nothing here knows the plugin. Time stands still while the process runs and jumps while it sleeps,
so that a run takes milliseconds however long its timeouts are, and every bound can be checked to
the tick.
"""

import errno
import hashlib
import heapq
import math
import os
import random
from collections.abc import Callable
from typing import Final, Protocol

from invariants import Violation

__all__ = ["Digest", "File", "Stale", "Violation", "World", "shown"]

START: Final = 1000.0
"""When every run begins, in seconds: not 0, which somebody might take for "none"."""
FIRST_DESCRIPTOR: Final = 1_000_000
"""Beyond those of the real process: a real system call on one of ours fails with EBADF."""


class Stale(Exception):
    """The simulation reaches for something that the plugin has no more: a name has changed."""


class File(Protocol):
    """What a descriptor stands for."""

    def readable(self) -> bool:
        """Whether a read would return at once, be it with an end or an error."""

    def writable(self) -> bool:
        """Whether a write would take something, or fail at once."""


class World:
    """The clock and the agenda of one run.

    Args:
        seed: what decides everything.
        trace: called with every line of the run's trace; None for none.

    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.seed: Final = seed
        self.now = START
        self.files: dict[int, File] = {}
        self.tells = True
        """Whether the system tells how much of what was sent has been acknowledged."""
        self.woken = False
        """Whether somebody has called ``call_soon_threadsafe`` while the process slept."""
        self.exhausted_until = -math.inf
        """Until when no descriptors are left."""
        self.frozen_until = -math.inf
        """Until when the process is stopped, as by SIGSTOP."""
        self._trace = trace
        self._agenda: list[tuple[float, int, int, Callable[[], None]]] = []
        self._planned = 0
        self._violation: Exception | None = None

    def random(self, name: str) -> random.Random:
        """Return a generator of its own for somebody.

        With one for all, whatever changed a draw of one server would change all others, and the
        order in which the plugin turns to its connections would matter.
        """
        return random.Random(f"{self.seed}/{name}")

    def descriptor(self, file: File) -> int:
        """Give out a descriptor: as POSIX wants, the lowest that is free.

        So that what is done to a descriptor after it was closed is done to another's.

        Raises:
            OSError: none are left.

        """
        if self.now < self.exhausted_until:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        descriptor = FIRST_DESCRIPTOR
        while descriptor in self.files:
            descriptor += 1
        self.files[descriptor] = file
        return descriptor

    # --- the agenda ---

    def at(self, time: float, callback: Callable[[], None], rank: int = 0) -> None:
        """Have something happen outside of the process.

        What happens at the same moment happens in the order of `rank`, then of planning.
        """
        self._planned += 1
        heapq.heappush(self._agenda, (time, rank, self._planned, callback))

    def after(self, delay: float, callback: Callable[[], None], rank: int = 0) -> None:
        """Have something happen so many seconds from now."""
        self.at(self.now + delay, callback, rank)

    def next_event(self) -> float:
        """Return when the next thing happens; infinity if nothing ever will."""
        return self._agenda[0][0] if self._agenda else math.inf

    def run_due(self) -> None:
        """Have everything happen that is due."""
        agenda = self._agenda
        while agenda and agenda[0][0] <= self.now:
            heapq.heappop(agenda)[3]()

    def advance(self, until: float) -> None:
        """Let the time pass up to the next event, or to `until` if that is sooner."""
        self.now = max(self.now, min(self.next_event(), until))
        self.run_due()

    # --- what is told ---

    def fail(self, violation: Exception) -> None:
        """End the run with a failure.

        Not by raising: whoever finds it may be called by the plugin, whose nets would catch it.
        """
        if self._violation is None:
            self._violation = violation

    def check(self) -> None:
        """Raise what has been found.

        Raises:
            Violation: or another exception of the simulation itself.

        """
        if self._violation is not None:
            raise self._violation

    def note(self, who: str, what: object) -> None:
        """Add a line to the trace."""
        if self._trace is not None:
            self._trace(f"{self.now - START:12.6f}  {who:<10} {what}")


class Digest:
    """A trace of which only the hash is kept, to tell whether two runs are the same."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def __call__(self, line: str) -> None:
        """Take one line."""
        self._hash.update(line.encode() + b"\n")

    def value(self) -> str:
        """Return the digest of all lines so far."""
        return self._hash.hexdigest()


def shown(data: bytes | bytearray | memoryview, most: int = 160) -> str:
    """Return bytes as a trace shows them."""
    data = bytes(data)
    more = f"… ({len(data)} bytes)" if len(data) > most else ""
    return repr(data[:most])[2:-1] + more
