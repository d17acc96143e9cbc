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
from typing import Final, Protocol

CHUNK: Final = 65_536


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
