"""Writes to a descriptor with flow control and without ever setting O_NONBLOCK on it.

That flag belongs to the pipe's end and not to the descriptor: the host and others share it. Small
writes go out at once if the stream has room for them, everything else through a thread, which also
notices when the host hangs up.
"""

import asyncio
import collections
import os
import select
import stat
import sys
import threading
from collections.abc import Callable
from typing import Final

from wsplugin.input import CHUNK, wait_for

# What a Linux pipe is asked to hold: all that Linux gives by default (pipe(7), pipe-max-size). The
# price: 64 plugins use up what Linux gives to all pipes of a user without privileges, whose next
# ones are tiny.
PIPE_SIZE: Final = 2**20
# What poll() promises for a pipe that it calls writable (POSIX: at least PIPE_BUF bytes).
DIRECT: Final = 4096


class DescriptorSink:
    """A :class:`~wsplugin.output.Sink` that writes to `fd`, which stays open."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        self.waiting = 0
        self.write_now = _WriteNow(fd)
        self._fd = fd
        self._loop = loop
        self._on_written: Callable[[], None]
        self._on_lost: Callable[[], None]
        # Shared with the thread, under the lock.
        self._lock = threading.Lock()
        self._queue: collections.deque[bytearray] = collections.deque()
        self._level = -1
        self._closing = False
        self._waker = _Waker(fd)
        self._thread = threading.Thread(target=self._run, name="stdout", daemon=True)

    def start(self, on_written: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Begin."""
        self._on_written = on_written
        self._on_lost = on_lost
        self._thread.start()

    def write_later(self, batch: bytearray) -> None:
        """Have the thread write `batch`."""
        with self._lock:
            self._queue.append(batch)
            self.waiting += len(batch)
        self._waker.wake()

    def notify_at(self, level: int) -> None:
        """Call back once, as soon as no more than `level` bytes are waiting."""
        with self._lock:
            if self.waiting > level:
                self._level = level
                return
        self._loop.call_soon(self._on_written)

    def close(self) -> None:
        """End the thread; what is waiting is lost."""
        with self._lock:
            if self._closing:
                return  # the thread may have given back the waker's descriptors already
            self._closing = True
            self._queue.clear()
            self.waiting = 0
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
                    self._tell(self._on_lost)
            except OSError:
                self._tell(self._on_lost)
        with self._lock:
            # Not while close() wakes us: the descriptor may be another's by then.
            self._waker.close()

    def _write_all(self, batch: bytearray) -> None:
        view = memoryview(batch)
        while view and not self._closing:
            try:
                written = os.write(self._fd, view[:CHUNK])
            except BlockingIOError:
                wait_for(self._fd, select.POLLOUT)
                continue
            view = view[written:]
            with self._lock:
                if self._closing:
                    return
                self.waiting -= written
                reached = self.waiting <= self._level
                if reached:
                    self._level = -1
            if reached:
                self._tell(self._on_written)

    def _tell(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            self._closing = True  # the loop has been closed: nobody is left to write for


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
