"""An event loop whose clock jumps to the next timer as soon as nothing else is to be done.

For coroutines that wait for futures and timers alone: no descriptors, no threads.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Loop(asyncio.SelectorEventLoop):
    """Time passes only here."""

    _ready: Any
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.complaints: list[dict[str, Any]] = []
        """What asyncio found wrong: exceptions that were never retrieved, tasks left pending."""
        self.set_exception_handler(lambda _, context: self.complaints.append(context))

    def time(self) -> float:
        """Return how many seconds have passed."""
        return self.now

    def _run_once(self) -> None:
        if not self._ready:
            due = [handle.when() for handle in self._scheduled if not handle.cancelled()]
            assert due, "waiting for ever"
            self.now = max(self.now, min(due))
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own, which must have nothing to complain of."""
    loop = Loop()
    try:
        task = loop.create_task(main)
        result = loop.run_until_complete(task)
        settle(loop)
        assert not asyncio.all_tasks(loop)
        return result
    finally:
        loop.close()
        assert loop.complaints == []


def turn(loop: Loop) -> bool:
    """Let one turn of the loop pass, to the next timer if need be; False if nothing is to come."""
    if not loop._ready and not any(not handle.cancelled() for handle in loop._scheduled):
        return False
    if not loop._ready:
        loop._run_once()
    loop.stop()
    loop.run_forever()
    return True


def settle(loop: Loop) -> None:
    """Let everything happen that can happen without time passing."""
    while loop._ready:
        loop.stop()
        loop.run_forever()
