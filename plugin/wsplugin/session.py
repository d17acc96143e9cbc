"""One run of the plugin over a pair of descriptors: the host's stream in, the host's stream out."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from wsplugin.input import open_input
from wsplugin.lines import Lines
from wsplugin.log import fault
from wsplugin.manager import Manager
from wsplugin.messages import RequestError
from wsplugin.output import BATCH, Output
from wsplugin.settings import Settings
from wsplugin.sink import DescriptorSink

if TYPE_CHECKING:
    from wsplugin.input import Input
    from wsplugin.network.opening import Dialer
    from wsplugin.output import Sink
    from wsplugin.parent import Parent
    from wsplugin.recording.record import Recorder

logger = logging.getLogger(__name__)

# How long connections may take to end on a signal, a little more than each is given.
STOP_TIMEOUT = 1.3
# How long the last lines may take to be written once all connections have ended on a signal.
FLUSH_TIMEOUT = 0.5
# How long they may take at the exit timeout, when all connections have been cut.
LAST_FLUSH_TIMEOUT = 0.3


def serve(
    stdin: int, stdout: int, settings: Settings, on_start: Callable[["Session"], None] | None = None
) -> int:
    """Run a session on an event loop of its own; return its exit status.

    `on_start` is called with it on the running loop, before the first line.
    """
    # Not asyncio.run(), which waits for threads that may be stuck in a name server's silence.
    loop = asyncio.new_event_loop()

    def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # What asyncio has caught. Where that was is told, and neither the exception's text nor
        # the arguments of a callback, which asyncio repeats: they may be lines or messages.
        what = str(context.get("message")).partition("(")[0]
        exc = context.get("exception")
        logger.error("%s%s", what, "" if exc is None else f": {fault(exc)}")

    loop.set_exception_handler(complain)
    # Whatever PYTHONASYNCIODEBUG says: in debug mode asyncio logs callbacks with their arguments.
    loop.set_debug(False)

    async def run() -> int:
        session = Session(
            settings, DescriptorSink(stdout, loop), lambda feed: open_input(stdin, feed, loop)
        )
        if on_start is not None:
            on_start(session)
        return await session.run()

    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


class Session:
    """Joins input, manager and output; made and used on a running event loop.

    Args:
        settings: limits and policy.
        sink: where the lines to the host go.
        open_input: begins to read the host's lines, paused; is given what takes the chunks, of
            which ``b""`` is the end of the stream.
        dialer: how to get to names and addresses, if not in the system's way.

    """

    def __init__(
        self,
        settings: Settings,
        sink: "Sink",
        open_input: "Callable[[Callable[[bytes], None]], Input]",
        *,
        dialer: "Dialer | None" = None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._settings = settings
        self._splitter = Lines(settings.max_line)
        self._lines: Iterator[bytes | bytearray | RequestError] = iter(())
        self._input_ended = False
        self._finishing = False
        self._flushing: asyncio.Timeout | None = None
        self._last_word: asyncio.TimerHandle | None = None
        self._exit_timer: asyncio.TimerHandle | None = None
        # When it is over, whatever the host has not read.
        self._over_at = math.inf
        self._stopped = False
        self._idle = asyncio.Event()
        self._output = Output(sink, loop, on_drained=self._drained, on_gone=self.stop)
        self._manager = Manager(settings, self._output, self._idle.set, dialer)
        self._input = open_input(self._feed)
        if settings.exit_timeout is not None:
            self._input.watch_end(self._stdin_ended)
        self._recorder: Recorder | None = None

    def record(self, recorder: "Recorder") -> None:
        """Record what passes; to be called before :meth:`run`."""
        self._recorder = recorder
        self._output.record = recorder.lines_out

    def watch(self, parent: "Parent") -> None:
        """Take the host for gone when this process has ended; to be called before :meth:`run`."""
        parent.watch(self._loop, self._output.lose)

    async def run(self) -> int:
        """Serve until the host, a signal or the loss of the host ends it; return the exit status.

        0 in general, 1 if the host has gone.
        """
        self._input.resume()
        await self._idle.wait()
        if self._stopped:
            self._over_at = min(self._over_at, self._loop.time() + FLUSH_TIMEOUT)
        until = self._over_at if self._over_at < math.inf else None
        try:
            async with asyncio.timeout_at(until) as self._flushing:
                await self._output.drain()
        except TimeoutError:
            pass  # told to stop, and the host does not read
        # The host may go, and a signal come, at this very moment: it can be given no other time.
        self._flushing = None
        for timer in (self._last_word, self._exit_timer):
            if timer is not None:
                timer.cancel()
        # For whoever is still to be told that the host has read on: it is no end of stdin.
        self._input_ended = self._finishing = True
        self._input.close()
        self._output.close()
        return 1 if self._output.gone else 0

    def stop_soon(self) -> None:
        """Have the event loop call :meth:`stop`: for signal handlers and other threads."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """End within two seconds."""
        if not self._stopped:
            logger.info("the host has gone" if self._output.gone else "told to end")
        self._stopped = True
        # The last word, should a connection not end when it is cut.
        if self._last_word is None and not self._idle.is_set():
            self._last_word = self._loop.call_later(STOP_TIMEOUT, self._idle.set)
        if self._flushing is not None and self._over_at == math.inf:
            self._flush_until(self._loop.time() + FLUSH_TIMEOUT)
        self._manager.stop()

    def _flush_until(self, when: float) -> None:
        self._over_at = min(self._over_at, when)
        if self._flushing is not None:
            self._flushing.reschedule(self._over_at)

    def _stdin_ended(self) -> None:
        """The host has closed stdin, though it may not all have been read: its time begins."""
        timeout = self._settings.exit_timeout
        if timeout is not None and self._exit_timer is None:
            self._exit_timer = self._loop.call_later(timeout, self._exit_timed_out)

    def _exit_timed_out(self) -> None:
        # After a stop of the process what has arrived is read first: not call_soon(), which would
        # come before the next look at the sockets.
        self._exit_timer = self._loop.call_later(0, self._cut)

    def _cut(self) -> None:
        logger.info("the exit timeout is over")
        if self._last_word is not None:
            self._last_word.cancel()
        self._flush_until(self._loop.time() + LAST_FLUSH_TIMEOUT)
        self._last_word = self._loop.call_at(self._over_at, self._idle.set)
        self._manager.cut()

    def _feed(self, chunk: bytes) -> None:
        """Take bytes from the host; ``b""`` is the end of the stream."""
        if chunk:
            self._lines = self._splitter.feed(chunk)
        else:
            self._input_ended = True
            self._stdin_ended()
            self._lines = self._splitter.end()
        self._work()
        if self._output.full:
            # Not before: who has something to read reads it once, and takes it in turn.
            self._input.pause()

    def _work(self) -> None:
        """Carry out lines as long as the host takes the answers."""
        exhausted = False
        self._output.cork()
        try:
            while not self._output.full and not exhausted:
                try:
                    line = next(self._lines, None)
                    if line is None:
                        exhausted = True
                        continue
                    if self._recorder is not None:
                        self._recorder.line_in(line)
                    self._manager.handle(line)
                    if len(self._output.batch) > BATCH:
                        self._output.flush()
                except Exception as exc:  # noqa: BLE001 - the lines behind it must be carried out
                    logger.error("a line has failed: %s", fault(exc))
            self._manager.flush()
        finally:
            self._output.uncork()
        if exhausted and self._input_ended and not self._finishing:
            self._finishing = True
            logger.info("end of stdin")
            if self._recorder is not None:
                self._recorder.end_of_stdin()
            self._manager.linger(self._settings.linger)

    def _drained(self) -> None:
        self._work()
        if not self._output.full and not self._input_ended:
            self._input.resume()
        self._manager.resume()
