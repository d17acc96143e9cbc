"""Bytes in to lines, bytes out with flow control: the only owner of the host's two streams.

Reading: where the operating system can tell when there is something to read (pipes, sockets,
terminals on POSIX) the event loop does it; regular files, and everything on Windows, are read by
a thread. Neither ever sets O_NONBLOCK: a terminal or an inherited pipe shares that flag with
other processes, the host among them.

Writing: small writes go out at once if the stream has room for them, everything else through a
thread, which also notices when the host hangs up.
"""

import asyncio
import collections
import os
import select
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from wsplugin.messages import RequestError

CHUNK: Final = 65_536
HIGH_WATER: Final = 2**20
LOW_WATER: Final = 2**18
BOM: Final = b"\xef\xbb\xbf"
# What is written at a time, and what a Linux pipe is asked to hold: all that Linux gives by default
# (pipe(7), pipe-max-size). With 64 and 256 KiB a flood of messages of 64 KiB takes a sixth more
# CPU: processes are woken more often, and the pipe is sooner full. The price: 64 plugins use up
# what Linux gives to all pipes of a user without privileges, whose next ones are tiny.
BATCH: Final = 2**18
PIPE_SIZE: Final = 2**20
# What poll() promises for a pipe that it calls writable (POSIX: at least PIPE_BUF bytes).
DIRECT: Final = 4096


class Lines:
    """Splits a stream into lines, holding no more of it than one line of `max_line` bytes."""

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._held = bytearray()
        self._skipping = False
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterator[bytes | bytearray | RequestError]:
        """Take bytes as they come; yield the lines that end in them, without LF.

        A line that is too long comes as the error to answer it with.
        """
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield self._take(end)
        self._hold(rest)

    def end(self) -> Iterator[bytes | bytearray | RequestError]:
        """Yield the last line, if the stream ended without LF."""
        if self._held or self._skipping:
            yield self._take(b"")

    def _take(self, end: bytes) -> bytes | bytearray | RequestError:
        line: bytes | bytearray = end
        if self._held or len(end) > self._max_line:
            self._hold(end)
            line, self._held = self._held, bytearray()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BOM)
        if self._skipping:
            self._skipping = False
            from wsplugin.mistakes import too_long

            return too_long(line, self._max_line)
        return line

    def _hold(self, part: bytes) -> None:
        if self._skipping:
            return
        self._held += part
        if len(self._held) > self._max_line:
            self._skipping = True
            # Enough to find an id at the beginning of the line.
            del self._held[CHUNK:]


class Input(Protocol):
    """The stream of the host's lines. Starts paused; calls back on the event loop."""

    def pause(self) -> None:
        """Stop reading, at the latest after one chunk more."""

    def resume(self) -> None:
        """Read on."""

    def close(self) -> None:
        """Read no more. The descriptor stays open."""


def open_input(
    fd: int, on_chunk: Callable[[bytes], None], loop: asyncio.AbstractEventLoop
) -> Input:
    """Read `fd` in the way that suits it; `on_chunk` gets ``b""`` at the end of the stream."""
    if sys.platform != "win32":
        polled = PolledInput(fd, on_chunk, loop)
        try:
            polled.resume()
            polled.pause()
            return polled
        except (OSError, NotImplementedError):
            pass  # epoll refuses regular files and /dev/null; a thread reads them
    return ThreadedInput(fd, on_chunk, loop)


def _wait(fd: int, event: int) -> None:
    """Wait until a descriptor that another process has set O_NONBLOCK on is ready."""
    # Not select.select(), which takes no descriptor beyond 1023.
    poll = select.poll()
    poll.register(fd, event)
    poll.poll()


def _read(fd: int) -> bytes:
    """Read a chunk; a stream that fails has ended."""
    while True:
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:
            _wait(fd, select.POLLIN)
        except OSError:
            return b""


class PolledInput(Input):
    """Reads when the event loop says that there is something to read."""

    def __init__(
        self, fd: int, on_chunk: Callable[[bytes], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._fd = fd
        self._on_chunk = on_chunk
        self._loop = loop

    def pause(self) -> None:
        """Stop reading."""
        self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read on."""
        self._loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Read no more."""
        self.pause()

    def _readable(self) -> None:
        chunk = _read(self._fd)
        if not chunk:
            self.pause()
        self._on_chunk(chunk)


class ThreadedInput(Input):
    """Reads on a thread, one chunk ahead of the event loop at most."""

    def __init__(
        self, fd: int, on_chunk: Callable[[bytes], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._fd = fd
        self._on_chunk = on_chunk
        self._loop = loop
        self._held: list[bytes] = []
        self._paused = True
        self._closed = False
        self._wanted = threading.Semaphore(1)
        threading.Thread(target=self._run, name="stdin", daemon=True).start()

    def pause(self) -> None:
        """Stop reading."""
        self._paused = True

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._deliver)

    def close(self) -> None:
        """Read no more."""
        self._closed = True
        self._wanted.release()

    def _run(self) -> None:
        chunk = b"-"
        while chunk:
            self._wanted.acquire()
            if self._closed:
                return
            chunk = _read(self._fd)
            try:
                self._loop.call_soon_threadsafe(self._arrived, chunk)
            except RuntimeError:
                return  # the loop has been closed meanwhile

    def _arrived(self, chunk: bytes) -> None:
        self._held.append(chunk)
        self._deliver()

    def _deliver(self) -> None:
        if self._held and not self._paused and not self._closed:
            chunk = self._held.pop()
            self._wanted.release()
            self._on_chunk(chunk)


class Output:
    """The stream of lines to the host.

    What is appended to :attr:`batch` goes out with the next :meth:`flush`; after :meth:`touch`
    that happens at the end of the event loop's turn, and what runs inside :meth:`cork` and
    :meth:`uncork` is flushed there.

    :attr:`full` is true from the moment more than :data:`HIGH_WATER` bytes wait until no more
    than :data:`LOW_WATER` do, when `on_drained` is called; meanwhile nobody should add more than
    what cannot wait. `on_gone` is called once when the host has hung up; whatever is written
    after that is dropped.
    """

    def __init__(
        self,
        fd: int,
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
        self._fd = fd
        self._loop = loop
        self._on_drained = on_drained
        self._on_gone = on_gone
        self._corked = False
        self._flush_scheduled = False
        # Shared with the thread, under the lock.
        self._lock = threading.Lock()
        self._queue: collections.deque[bytearray] = collections.deque()
        self._queued = 0
        self._draining = False
        self._closing = False
        self._drained = asyncio.Event()
        self._waker = _Waker(fd)
        self._write_now = _WriteNow(fd)
        self._thread = threading.Thread(target=self._run, name="stdout", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Append one line to the batch."""
        self.batch += line
        self.touch()

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

    def _scheduled_flush(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Hand the batch on: to the stream itself if it is small and fits, else to the thread."""
        batch = self.batch
        if not batch:
            return
        if self.gone:
            batch.clear()
            return
        if self.record is not None:
            self.record(batch)
        # A round trip takes a fifth less CPU without the thread (137 for 169 microseconds).
        # Nothing can overtake: the queue is empty and only we add to it.
        if not self._queued:
            try:
                written = self._write_now(batch)
            except OSError:
                self._lost()
                return
            del batch[:written]
            if not batch:
                return
        self.batch = bytearray()
        with self._lock:
            self._queue.append(batch)
            self._queued += len(batch)
            self.full = self.full or self._queued > HIGH_WATER
        self._waker.wake()

    async def drain(self) -> None:
        """Wait until all has been written, or the host has gone."""
        self.flush()
        self._draining = True
        while self._queued and not self.gone:
            self._drained.clear()
            await self._drained.wait()

    def close(self) -> None:
        """End the thread; what has not been written is lost. The descriptor stays open."""
        with self._lock:
            self._closing = True
            self._waker.wake()

    # --- on the thread ---

    def _run(self) -> None:
        while not self._closing:
            with self._lock:
                batch = self._queue.popleft() if self._queue else None
            try:
                if batch is not None:
                    self._write_all(batch)
                elif not self._waker.wait():
                    self._tell(self._lost)
            except OSError:
                self._tell(self._lost)
        with self._lock:
            # Not while close() wakes us: the descriptor may be another's by then.
            self._waker.close()

    def _write_all(self, batch: bytearray) -> None:
        view = memoryview(batch)
        while view and not self._closing:
            try:
                written = os.write(self._fd, view[:CHUNK])
            except BlockingIOError:
                _wait(self._fd, select.POLLOUT)
                continue
            view = view[written:]
            with self._lock:
                self._queued -= written
                relieved = self.full and self._queued <= LOW_WATER
                emptied = self._draining and not self._queued
            if relieved or emptied:
                self._tell(self._relieved)

    def _tell(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            self._closing = True  # the loop has been closed: nobody is left to write for

    # --- back on the event loop ---

    def _relieved(self) -> None:
        self._drained.set()
        if self.full and self._queued <= LOW_WATER:
            self.full = False
            self._on_drained()

    def _lost(self) -> None:
        if self.gone:
            return
        self.gone = True
        with self._lock:
            self._queue.clear()
            self._queued = 0
        self.batch.clear()
        self._relieved()
        self._on_gone()


class _Waker:
    """Lets the writing thread sleep until there is work or, on POSIX, the host has hung up."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        if sys.platform == "win32":
            self._event = threading.Event()
            return
        self._receiver, self._sender = os.pipe()
        os.set_blocking(self._sender, False)
        self._poll = select.poll()
        self._poll.register(self._receiver, select.POLLIN)
        self._poll.register(fd, 0)  # errors and hang-ups are reported unasked

    def wake(self) -> None:
        """End the wait, or the next one."""
        if sys.platform == "win32":
            self._event.set()
            return
        try:
            os.write(self._sender, b"\0")
        except (BlockingIOError, OSError):
            pass  # it is full of wake-ups already, or the thread has ended

    def wait(self) -> bool:
        """Sleep; False if the host has hung up (on Windows only a write can tell)."""
        if sys.platform == "win32":
            self._event.wait()
            self._event.clear()
            return True
        for fd, event in self._poll.poll():
            if fd == self._receiver:
                os.read(self._receiver, 4096)
            else:
                self._poll.unregister(self._fd)
                # POLLNVAL: a kind of file that this system cannot poll.
                return event == select.POLLNVAL
        return True

    def close(self) -> None:
        """Give the descriptors back."""
        if sys.platform != "win32":
            os.close(self._receiver)
            os.close(self._sender)


class _WriteNow:
    """Writes as many bytes as can be written without waiting, and returns how many.

    Not by O_NONBLOCK, which the host and others would share: it belongs to the pipe's end, not to
    the descriptor. Linux can leave the choice to each write, which spares a flood of messages of
    64 KiB the thread and halves its CPU.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._nowait = 0
        self._poll: select.poll | None = None
        if sys.platform != "win32":
            mode = os.fstat(fd).st_mode
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                self._poll = select.poll()
                self._poll.register(fd, select.POLLOUT)
                self._yes = [(fd, select.POLLOUT)]
            if sys.platform == "linux" and self._poll:
                # Python may have been built for a system without.
                self._nowait = getattr(os, "RWF_NOWAIT", 0)
                if stat.S_ISFIFO(mode):
                    _enlarge_pipe(fd)

    def __call__(self, data: bytearray) -> int:
        if sys.platform == "linux" and self._nowait:
            try:
                return os.pwritev(self._fd, [data], -1, self._nowait)
            except BlockingIOError:
                return 0
            except (OSError, NotImplementedError):
                # A named pipe, Linux before 6.4, a sandbox; or the host has gone, as the thread's
                # plain write will tell.
                self._nowait = 0
        if self._poll and len(data) <= DIRECT and self._poll.poll(0) == self._yes:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                pass
        return 0


def _enlarge_pipe(fd: int) -> None:
    """Give a Linux pipe more room: fewer switches between processes."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # the user has too many large pipes: this one stays as it is
