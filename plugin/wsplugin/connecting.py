"""The opening of one connection while it is on its way: a task, and the time that it has."""

import asyncio
import logging
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from wsplugin.log import fault
from wsplugin.messages import ErrorPayload
from wsplugin.outcome import FAULT

if TYPE_CHECKING:
    from wsplugin.network.opening import Attempt, Dialer, Opener

logger = logging.getLogger(__name__)


class Connecting:
    """Runs an attempt; what it opens, it tells the connection itself.

    Args:
        opener: the connection.
        dialer: how to get to the network; None for the system's way.
        seconds: how long it may take.
        on_overdue: called when it has taken longer, and has to be called off.
        on_over: called when it has ended, with the exception that has ended it.

    """

    def __init__(
        self,
        opener: "Opener",
        dialer: "Dialer | None",
        seconds: float,
        on_overdue: Callable[[float], None],
        on_over: Callable[[BaseException | None], None],
    ) -> None:
        self._opener = opener
        self._dialer = dialer
        self._seconds = seconds
        self._on_overdue = on_overdue
        self._on_over = on_over
        self._loop = loop = asyncio.get_running_loop()
        self._attempt: Attempt | None = None
        self._timer = loop.call_later(seconds, self._read_first)
        self._task: asyncio.Task[None] | None = loop.create_task(self._run())
        # A task that is cancelled before it starts would run nothing behind an await.
        self._task.add_done_callback(self._over)

    async def _run(self) -> None:
        # Not before: a bad line is answered without loading the network libraries.
        from wsplugin.network.opening import Attempt, SystemDialer

        self._attempt = Attempt(self._opener, self._dialer or SystemDialer(), self._seconds)
        await self._attempt.run()

    def _read_first(self) -> None:
        # The answer may have arrived while the process was stopped. Not by call_soon(), which would
        # come before the next look at the sockets.
        self._timer = self._loop.call_later(0, self._on_overdue, self._seconds)

    def stop_timing(self) -> None:
        """Be no more overdue: it is open, or is called off for another reason."""
        self._timer.cancel()

    def call_off(self) -> None:
        """Cut what there is; that it is over is told in the next turn of the event loop."""
        self.stop_timing()
        if self._task is not None:
            self._task.cancel()
        if self._attempt is not None:
            self._attempt.abandon()  # the server's answer may already be there to be read

    def _over(self, task: asyncio.Task[None]) -> None:
        exc = None if task.cancelled() else task.exception()
        self._task = None  # it keeps the exception that has cancelled it, and that our frames
        self._on_over(exc)
        self.release()
        while exc is not None:
            # Frames and exception refer to each other, and to all that a TLS connection holds.
            traceback.clear_frames(exc.__traceback__)
            exc = exc.__cause__ or exc.__context__

    def explain(self, exc: BaseException) -> ErrorPayload:
        """Say in the contract's words what has ended it."""
        try:
            failure = self._attempt.explain(exc) if self._attempt is not None else None
        except Exception as bug:  # noqa: BLE001 - whatever it is, the `close` event must come
            logger.error("%s: cannot explain: %s", self._opener.id, fault(bug))
            failure = None
        if failure is None:
            logger.error("%s: a fault of the plugin: %s", self._opener.id, fault(exc))
            failure = FAULT
        return failure

    def release(self) -> None:
        """Let go of what refers to the connection in turn."""
        self.stop_timing()
        if self._attempt is not None:
            self._attempt.release()
            self._attempt = None
