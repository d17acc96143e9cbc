"""Who may have a place, and who must go: decisions on plain values, which the manager carries out.

A connection has a place from the moment it may open its socket until its ``close`` event.
"""

import collections
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

# How many connections may wait for a place. Only those can be many that have messages and a close
# behind them, which no longer count for the limit of connections.
MAX_WAITING: Final = 1000


if TYPE_CHECKING:
    # For the checker alone: a Protocol that is made costs every start half a million instructions.
    class Candidate(Protocol):
        """What is to be known of a connection."""

        @property
        def ending(self) -> bool:
            """Whether its end has been decided."""

        @property
        def held(self) -> int:
            """About how many bytes it takes while it waits for a place."""

        @property
        def deadline(self) -> float:
            """When it will be cut; infinite if that is open."""


C = TypeVar("C", bound="Candidate")


class Places(Generic[C]):
    """All connections that have not had their ``close`` event, and the places they share.

    Args:
        limit: how many places there are.
        allowed: how many bytes those that wait for a place with their end behind them may hold;
            as many as there are places may always wait, each of which holds no more than one that
            is open.

    """

    def __init__(self, limit: int, allowed: int) -> None:
        self._limit = limit
        self._allowed = allowed
        # Dictionaries for their order: oldest first.
        self._all: dict[C, None] = {}
        self._holding: dict[C, None] = {}
        self._waiting: collections.deque[C] = collections.deque()

    def __iter__(self) -> Iterator[C]:
        """Iterate over all, oldest first; they may leave meanwhile."""
        return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def arrive(self, connection: C) -> None:
        """Let a connection wait for a place."""
        self._all[connection] = None
        self._waiting.append(connection)

    def leave(self, connection: C) -> None:
        """Forget a connection, which has had its ``close`` event."""
        # An exception may have kept it from being in all of them.
        self._all.pop(connection, None)
        self._holding.pop(connection, None)
        if connection in self._waiting:
            self._waiting.remove(connection)

    @property
    def is_full(self) -> bool:
        """Whether one more would be too many, of those that stay or of those that wait."""
        staying = sum(not connection.ending for connection in self._all)
        waiting = [connection for connection in self._waiting if connection.ending]
        held = sum(connection.held for connection in waiting)
        return staying >= self._limit or (
            len(waiting) >= self._limit and (held > self._allowed or len(waiting) >= MAX_WAITING)
        )

    def evicted(self) -> C | None:
        """Return the oldest connection whose end is not decided, if those are one too many."""
        staying = [connection for connection in self._all if not connection.ending]
        return staying[0] if len(staying) > self._limit else None

    def too_many_waiting(self) -> list[C]:
        """Return the oldest of those that wait with their end behind them and hold too much."""
        closing = collections.deque(c for c in self._waiting if c.ending)
        held = sum(connection.held for connection in closing)
        gone = []
        while len(closing) > self._limit and (held > self._allowed or len(closing) > MAX_WAITING):
            gone.append(closing.popleft())
            held -= gone[-1].held
        return gone

    def give(self) -> C | None:
        """Give a free place to who has waited longest; return who that is, if anybody."""
        if not self._waiting or len(self._holding) >= self._limit:
            return None
        connection = self._waiting[0]
        self._holding[connection] = None
        self._waiting.popleft()
        return connection

    def hurried(self) -> list[C]:
        """Return those whose places others wait for: of those that leave, the next to go."""
        # Not those that only end when they are open, with the end of stdin: they have no deadline.
        leaving = [connection for connection in self._holding if connection.deadline < math.inf]
        leaving.sort(key=lambda connection: connection.deadline)
        return leaving[: len(self._waiting)]
