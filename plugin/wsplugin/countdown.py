"""The time that a connection has to end: a timer around :class:`Deadline`, which decides."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from wsplugin.deadline import MOMENT, Deadline

if TYPE_CHECKING:
    from wsplugin.network.wire import Wire


class Countdown:
    """Has a connection cut when its time is over.

    Args:
        on_look: called whenever it has been seen how much the server has taken.
        on_over: called with the seconds that the server had.
        on_fault: called with an exception that nobody has foreseen.

    """

    def __init__(
        self,
        on_look: Callable[[], None],
        on_over: Callable[[float], None],
        on_fault: Callable[[Exception], None],
    ) -> None:
        self.wire: Wire | None = None
        """Set when the connection is open: what the server takes counts from then on."""
        self._on_look = on_look
        self._on_over = on_over
        self._on_fault = on_fault
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def when(self) -> float:
        """When the time is over, in the event loop's time; infinite if that is open."""
        return self._deadline.when

    @property
    def _taken(self) -> float:
        return self.wire.taken if self.wire is not None else 0

    def set(self, seconds: float) -> None:
        """Let the time be over in so many seconds, whatever the server takes, if not sooner."""
        if self._deadline.set(self._loop.time(), seconds):
            self._set_timer()

    def expire(self) -> None:
        """Let the time be over: the connection is being cut already."""
        self._deadline.set(self._loop.time(), 0)

    def set_patient(self, seconds: float) -> None:
        """Let the time be over when the server has taken nothing for so long, if it is open."""
        if self._deadline.set_patient(self._loop.time(), seconds, self._taken):
            self._set_timer()

    def bring_forward(self, seconds: float) -> None:
        """Let the time that runs be no longer than so many seconds, and be prolonged as before."""
        if self._deadline.bring_forward(self._loop.time(), seconds):
            self._set_timer()

    def count_from_here(self) -> None:
        """Take no note of what the server has taken so far."""
        self._deadline.count_from(self._taken)

    def cancel(self) -> None:
        """Do nothing any more, and let go of the connection, which refers to this in turn."""
        if self._timer is not None:
            self._timer.cancel()
        self.wire = None
        self._on_look = _do_nothing
        self._on_over = self._on_fault = _do_nothing

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline.next_look(self._loop.time()), self._look)

    def _look(self) -> None:
        """See what the server has taken meanwhile, and whether its time is over."""
        try:
            now = self._loop.time()
            self._deadline.look(now, self._taken)
            self._on_look()
            if now < self._deadline.when:
                self._set_timer()
            else:
                # After a stop of the process all times are over: what has arrived is read first.
                # Not by call_soon(), which would come before the next look at the sockets.
                until = self._deadline.reading_until(now)
                self._timer = self._loop.call_later(0, self._overdue, until)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the connection has to end
            self._on_fault(exc)

    def _overdue(self, reading_until: float) -> None:
        try:
            reads_on = self.wire is not None and self.wire.reads_on()
            if reads_on and self._loop.time() < reading_until:
                self._timer = self._loop.call_later(MOMENT, self._overdue, reading_until)
            else:
                self._on_over(self._deadline.seconds)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the connection has to end
            self._on_fault(exc)


def _do_nothing(*_: object) -> None:
    pass
