"""An event loop whose time is the world's and whose descriptors are the world's.

It is asyncio's own selector event loop with its own transports, over a selector and sockets that
are simulated: so what a transport does is what asyncio does, in every version of Python.

``looptime`` (PyPI) was tried for this. It turns a real selector's waits into jumps: sockets stay
real, so that a run is not the same twice, every jump costs 42 empty turns, and times are rounded.
"""

import asyncio
import math
import selectors
from asyncio import selector_events
from collections.abc import Callable, Mapping
from typing import Any, Final

from simulation.world import Violation, World

HORIZON: Final = 20_000.0
"""Seconds after which a run that has not ended never will: no sum of timeouts is that long."""


class Selector(selectors.BaseSelector):
    """Asks the world which descriptors are ready, and lets time pass when none is.

    Args:
        world: where time passes.
        asleep: called whenever the process has nothing to do before something happens outside
            or a timer is due.

    """

    def __init__(self, world: World, asleep: Callable[[], None]) -> None:
        self._world = world
        self._asleep = asleep
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._end = world.now + HORIZON
        self.loop: Any = None
        """For the exact time of the next timer: the timeout is a difference of floats."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a descriptor."""
        assert fileobj in self._world.files, f"descriptor {fileobj} is none of the world's"
        key = selectors.SelectorKey(fileobj, fileobj, events, data)
        self._keys[fileobj] = key
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a descriptor for other events."""
        return self.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Watch a descriptor no more."""
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return what is watched."""
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for descriptors; it is here that all time passes.

        Raises:
            Violation: one was found since the last call, or nothing will ever happen again.

        """
        world = self._world
        world.check()
        while world.now < world.frozen_until:
            world.advance(world.frozen_until)
        world.run_due()
        until = world.now
        if timeout is None:
            until = math.inf
        elif timeout > 0:
            until = self.loop.next_timer()
        while not (ready := self._ready()) and not world.woken and until > world.now:
            world.check()
            self._asleep()
            if until == math.inf and world.next_event() == math.inf:
                world.fail(Violation("the plugin waits for ever: nothing will happen any more"))
            elif world.now > self._end:
                world.fail(Violation(f"the plugin has not ended after {HORIZON:g} seconds"))
            world.check()
            world.advance(until)
        world.woken = False
        world.check()
        return ready

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        ready = []
        files = self._world.files
        for key in self._keys.values():
            file = files.get(key.fd)
            if file is None:
                self._world.fail(Violation(f"descriptor {key.fd} is watched and has been closed"))
                continue
            events = 0
            if key.events & selectors.EVENT_READ and file.readable():
                events = selectors.EVENT_READ
            if key.events & selectors.EVENT_WRITE and file.writable():
                events |= selectors.EVENT_WRITE
            if events:
                ready.append((key, events))
        return ready


class Loop(selector_events.BaseSelectorEventLoop):
    """asyncio's selector event loop in a simulated world.

    Args:
        world: gives the time and the descriptors.
        asleep: as :class:`Selector`'s.
        creep: seconds that pass whenever the time is asked for, as on a busy machine; 0 lets the
            process compute in no time.

    """

    _scheduled: list[asyncio.TimerHandle]
    _ready: Any
    _transports: Any

    def __init__(self, world: World, asleep: Callable[[], None], creep: float = 0.0) -> None:
        self.world = world
        self._creep = creep
        self.selector = Selector(world, asleep)
        self.selector.loop = self
        super().__init__(self.selector)
        # A timer is due at its time and not before: one nanosecond is above what floats lose.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return the world's time."""
        self.world.now += self._creep
        return self.world.now

    def next_timer(self) -> float:
        """Return when the next timer is due."""
        return self._scheduled[0].when()

    def left(self) -> list[str]:
        """Return what is still scheduled: timers, tasks, descriptors that are watched."""
        timers = [str(handle) for handle in self._scheduled if not handle.cancelled()]
        callbacks = [str(handle) for handle in self._ready if not handle.cancelled()]
        tasks = [str(task) for task in asyncio.all_tasks(self)]
        watched = [f"descriptor {fd}" for fd in self.selector.get_map()]
        return [*timers, *callbacks, *tasks, *watched]

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Refuse: a thread would not be the same twice."""
        error = Violation(f"{func} was given to a thread")
        self.world.fail(error)
        raise error

    # The pipe that wakes a real loop is a real socket pair.

    def _make_self_pipe(self) -> None:
        pass

    def _close_self_pipe(self) -> None:
        pass

    def _write_to_self(self) -> None:
        self.world.woken = True
