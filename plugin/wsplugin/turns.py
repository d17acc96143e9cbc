"""Whose turn it is to have its messages taken: apps in turn, and the connections of one app.

A host that serves one app reads each server once in every round of the event loop. With several
apps each of them has one turn a round, however many of its connections have something to read:
else an app with five floods would hold up another's answer for five turns.
"""

import collections
from collections.abc import Callable, Sized
from typing import Final

from wsplugin.messages import App

TURN: Final = 0.005
"""Seconds after which a server that has sent much lets others have their turn."""
TURN_SIZE: Final = 2**17
"""Bytes after which an app has had its turn, where there are others."""


class Turns:
    """The turns of one round, which is over when all that is ready has had its time.

    Args:
        schedule: calls a function at the beginning of the next round.
        apps: those that have connections.

    """

    def __init__(self, schedule: Callable[[Callable[[], None]], object], apps: Sized) -> None:
        self._schedule = schedule
        self.apps = apps
        # How much of its turn each app has used in this round.
        self._used: dict[App, float] = {}
        # How many turns each app has had: all that it has taken, not counting what was long ago.
        self._had: dict[App, float] = {}
        self._most_had = 0.0
        self._waiting: dict[App, collections.deque[Callable[[], None]]] = {}
        self._scheduled = False

    def is_over(self, app: App) -> bool:
        """Tell whether an app has had its turn in this round."""
        return self._used.get(app, 0) >= 1

    def left(self, app: App) -> float:
        """Return which part of its turn an app has left in this round."""
        return max(0.0, 1 - self._used.get(app, 0))

    def had(self, app: App) -> float:
        """Return how many turns an app has had, to be compared: who has had less goes first.

        One that had nothing to take is not owed more than a turn for it.
        """
        return max(self._had.get(app, 0), self._most_had - 1)

    def forget(self, app: App) -> None:
        """Keep nothing of an app that has no connections any more."""
        self._had.pop(app, None)

    def use(self, app: App, seconds: float, size: int) -> None:
        """Take note of so many seconds in which so many bytes were taken."""
        if len(self.apps) > 1:
            part = max(seconds / TURN, size / TURN_SIZE)
            self._used[app] = self._used.get(app, 0) + part
            self._had[app] = self.had(app) + part
            self._most_had = max(self._most_had, self._had[app])
            self._see_to_next_round()

    def wait(self, app: App, go_on: Callable[[], None]) -> None:
        """Have `go_on` called in a later round: behind those of its app that wait already."""
        self._waiting.setdefault(app, collections.deque()).append(go_on)
        self._see_to_next_round()

    def _see_to_next_round(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._schedule(self._begin_round)

    def _begin_round(self) -> None:
        self._scheduled = False
        self._used.clear()
        waiting, self._waiting = self._waiting, {}
        for app, those in waiting.items():
            while those and not self.is_over(app):
                those.popleft()()
            if those:
                # They go before any of their app that has come to wait meanwhile.
                those.extend(self._waiting.pop(app, ()))
                self._waiting[app] = those
        if self._waiting:
            self._see_to_next_round()
