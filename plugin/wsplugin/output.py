"""The stream of lines to the host, with flow control: what may be added, and when it goes out.

Where the bytes go is a :class:`Sink`'s business; ``sink.py`` has the one for descriptors.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from wsplugin.log import fault

logger = logging.getLogger(__name__)

HIGH_WATER: Final = 2**20
LOW_WATER: Final = 2**18
# What is written at a time. With a fourth of it, and of the pipe (``sink.PIPE_SIZE``), a flood of
# messages of 64 KiB takes a sixth more CPU: processes are woken more often.
BATCH: Final = 2**18


if TYPE_CHECKING:
    # For the checker alone: a Protocol that is made costs every start half a million instructions.
    class Sink(Protocol):
        """Takes bytes for the host, in order; calls back on the event loop."""

        @property
        def waiting(self) -> int:
            """How many bytes have been taken by :meth:`write_later` and are not yet written."""

        def start(self, on_written: Callable[[], None], on_lost: Callable[[], None]) -> None:
            """Begin; `on_lost` is called when the host has hung up."""

        def write_now(self, data: bytearray) -> int:
            """Write as many bytes as can be written without waiting; return how many.

            Only while nothing is :attr:`waiting`.

            Raises:
                OSError: the host has hung up.

            """

        def write_later(self, batch: bytearray) -> None:
            """Write all of `batch`, which is the sink's from now on, as soon as it can be."""

        def notify_at(self, level: int) -> None:
            """Call `on_written` once, as soon as no more than `level` bytes are waiting."""

        def close(self) -> None:
            """Write no more; what is waiting is lost."""


class Output:
    """The stream of lines to the host.

    What is appended to :attr:`batch` goes out with the next :meth:`flush`; after :meth:`touch`
    that happens at the end of the event loop's turn, and what runs inside :meth:`cork` and
    :meth:`uncork` is flushed there.

    :attr:`full` is true from the moment more than :data:`HIGH_WATER` bytes wait until no more
    than :data:`LOW_WATER` do, when `on_drained` is called; meanwhile nobody should add more than
    what cannot wait. `on_gone` is called once when the host has hung up, or has gone in another
    way (:meth:`lose`); whatever is written after that is dropped.
    """

    def __init__(
        self,
        sink: "Sink",
        loop: asyncio.AbstractEventLoop,
        *,
        on_drained: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        self.batch = bytearray()
        self.full = False
        self.gone = False
        self.record: Callable[[bytearray], None] | None = None
        """Called with the lines of every batch before it goes out."""
        self._sink = sink
        self._loop = loop
        self._on_drained = on_drained
        self._on_gone = on_gone
        self._corked = False
        self._flush_scheduled = False
        self._emptied = asyncio.Event()
        sink.start(self._written, self.lose)

    def write(self, line: bytes) -> None:
        """Append one line to the batch."""
        self.batch += line
        self.touch()

    def insist(self, encode: Callable[..., bytes], *args: Any) -> None:
        """Append one line that must come, even if its encoder fails once."""
        for _ in range(2):
            try:
                line = encode(*args)
            except Exception as exc:  # noqa: BLE001 - what comes behind it must not be lost as well
                logger.error("a line to the host cannot be encoded: %s", fault(exc))
            else:
                self.write(line)
                return

    def touch(self) -> None:
        """See to it that the batch goes out."""
        if not self._corked and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._scheduled_flush)

    def cork(self) -> None:
        """Hold writes back until :meth:`uncork`: one write for all answers of a callback."""
        self._corked = True

    def uncork(self) -> None:
        """Write what was held back."""
        self._corked = False
        self.flush()

    def cut_half_line(self) -> None:
        """Take back what an exception has left behind the last whole line of the batch."""
        del self.batch[self.batch.rfind(b"\n") + 1 :]

    def _scheduled_flush(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Hand the batch on: what fits goes out at once, the rest when the host has read."""
        batch = self.batch
        if not batch:
            return
        if self.gone:
            batch.clear()
            return
        if self.record is not None:
            self.record(batch)
        # A round trip takes a fifth less CPU than if all went the other way (137 for 169
        # microseconds). Nothing can overtake: nothing is waiting and only we add to it.
        if not self._sink.waiting:
            try:
                written = self._sink.write_now(batch)
            except OSError:
                self.lose()
                return
            del batch[:written]
            if not batch:
                return
        empty = bytearray()
        self._sink.write_later(batch)
        self.batch = empty
        if not self.full and self._sink.waiting > HIGH_WATER:
            self.full = True
            self._sink.notify_at(LOW_WATER)

    async def drain(self) -> None:
        """Wait until all has been written, or the host has gone."""
        self.flush()
        while self._sink.waiting and not self.gone:
            self._emptied.clear()
            self._sink.notify_at(0)
            await self._emptied.wait()

    def close(self) -> None:
        """Write no more; what has not been written is lost."""
        self._sink.close()

    def _written(self) -> None:
        self._emptied.set()
        if self.full and self._sink.waiting <= LOW_WATER:
            self.full = False
            self._on_drained()
        elif self.full:
            # What cannot wait has been added since: without this nobody would ever read on.
            self._sink.notify_at(LOW_WATER)

    def lose(self) -> None:
        """Write no more: the host has gone."""
        if self.gone:
            return
        self.gone = True
        self.batch.clear()
        self._sink.close()
        self._emptied.set()
        if self.full:
            self.full = False
            self._on_drained()
        self._on_gone()
