"""The stream of the host's lines, read chunk by chunk with flow control.

Where the operating system can tell when there is something to read (pipes, sockets, terminals on
POSIX) the event loop does it; regular files, and everything on Windows, are read by a thread.
Neither ever sets O_NONBLOCK: a terminal or an inherited pipe shares that flag with other
processes, the host among them.
"""

import asyncio
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

CHUNK: Final = 65_536
# What there is of it depends on the system.
system: Any = select


if TYPE_CHECKING:
    # For the checker alone: a Protocol that is made costs every start half a million instructions.
    class Input(Protocol):
        """The stream of the host's lines. Starts paused; calls back on the event loop."""

        def pause(self) -> None:
            """Stop reading, at the latest after one chunk more."""

        def resume(self) -> None:
            """Read on."""

        def watch_end(self, on_end: Callable[[], None]) -> None:
            """Call back when the host has closed its end, though not all may have been read.

            At least once; never where the system cannot tell before all has been.
            """

        def close(self) -> None:
            """Read no more. The descriptor stays open."""


def open_input(
    fd: int, on_chunk: Callable[[bytes], None], loop: asyncio.AbstractEventLoop
) -> "Input":
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


def wait_for(fd: int, event: int) -> None:
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
            wait_for(fd, select.POLLIN)
        except OSError:
            return b""


class PolledInput:
    """Reads when the event loop says that there is something to read."""

    def __init__(
        self, fd: int, on_chunk: Callable[[bytes], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._fd = fd
        self._on_chunk = on_chunk
        self._loop = loop
        self._hangup: Hangup | None = None

    def pause(self) -> None:
        """Stop reading."""
        self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read on."""
        self._loop.add_reader(self._fd, self._readable)

    def watch_end(self, on_end: Callable[[], None]) -> None:
        """Call back when the host has closed its end, where epoll or kqueue can tell."""
        try:
            self._hangup = Hangup(self._fd)
        except (OSError, NotImplementedError):
            return  # it is noticed when all has been read

        def look() -> None:
            if self._hangup is not None and self._hangup.has_come():
                self._forget_end()
                on_end()

        self._loop.add_reader(self._hangup.fileno(), look)

    def _forget_end(self) -> None:
        if self._hangup is not None:
            self._loop.remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None

    def close(self) -> None:
        """Read no more."""
        self.pause()
        self._forget_end()

    def _readable(self) -> None:
        chunk = _read(self._fd)
        if not chunk:
            self.pause()
        self._on_chunk(chunk)


class Hangup:
    """A descriptor that is readable when the other end of a pipe or socket has been closed.

    Not poll(), which would need a thread: no event loop waits for a hang-up without waiting for
    bytes, which a host that does not read may have left in the pipe.

    Raises:
        OSError: there are no descriptors left.
        NotImplementedError: this system tells it in no such way.

    """

    def __init__(self, fd: int) -> None:
        self._queue: Any
        if hasattr(system, "epoll"):
            self._queue = system.epoll()
            self._queue.register(fd, system.EPOLLRDHUP)
        elif hasattr(system, "kqueue"):
            self._queue = system.kqueue()
            # With CLEAR it tells of bytes only when there are more than it has told of.
            how = system.KQ_EV_ADD | system.KQ_EV_CLEAR
            self._queue.control([system.kevent(fd, system.KQ_FILTER_READ, how)], 0)
        else:
            raise NotImplementedError

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return int(self._queue.fileno())

    def has_come(self) -> bool:
        """Tell what it was, once the descriptor is readable."""
        if hasattr(system, "epoll"):
            return bool(self._queue.poll(0))
        return any(event.flags & system.KQ_EV_EOF for event in self._queue.control(None, 1, 0))

    def close(self) -> None:
        """Give the descriptor back."""
        self._queue.close()


class ThreadedInput:
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

    def watch_end(self, on_end: Callable[[], None]) -> None:
        """Do nothing: only reading tells the end of a file, and of a pipe of Windows."""

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
