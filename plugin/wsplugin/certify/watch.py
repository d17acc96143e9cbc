"""Waits that end: with what was waited for, with its ceiling, or with what makes it vain."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

T = TypeVar("T")

PATIENCE: Final = 20.0
"""Seconds to wait for what comes at once from a host that keeps its promises."""
READING: Final = 0.5
"""Seconds to look at what has come."""
SHOWN: Final = 300
"""Characters of what has come that a report repeats."""


class Broken(Exception):
    """A promise is not kept."""

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected {expected}, came {came}")
        self.expected = expected
        self.came = came


class Unplayable(Exception):
    """A situation cannot be played to this host, for the reason in the message."""


class Watch:
    """What all waits of a situation share: whatever else goes wrong ends them at once.

    Args:
        patience: seconds that a wait takes at most if nothing else is said.

    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._trouble: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # What no wait is left for is no fault of the kit's, as asyncio would tell.
        self._trouble.add_done_callback(lambda trouble: trouble.exception())

    def report(self, trouble: Exception) -> None:
        """Note what no wait is for; the first counts."""
        if not self._trouble.done():
            self._trouble.set_exception(trouble)

    def check(self) -> None:
        """Raise what has been noted, if anything has."""
        if self._trouble.done():
            self._trouble.result()

    async def wait(self, waiting: Awaitable[T], expected: str, seconds: float | None = None) -> T:
        """Return what `waiting` returns.

        Raises:
            Broken: it takes longer than `seconds`, or something else has gone wrong meanwhile.

        """
        seconds = self.patience if seconds is None else seconds
        task: asyncio.Future[T] = asyncio.ensure_future(waiting)
        try:
            both: set[asyncio.Future[Any]] = {task, self._trouble}
            # Again: a kit that was itself held up has not yet looked at what came in time.
            for limit in (seconds, READING):
                await asyncio.wait(both, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            self.check()
            raise Broken(expected, f"nothing within {seconds:g} s")
        finally:
            task.cancel()


def shown(text: str | bytes) -> str:
    """Return a line as a report repeats it."""
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    text = text.strip()
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
