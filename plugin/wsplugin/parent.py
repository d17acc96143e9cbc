"""The process that the plugin must not outlive, whoever else holds its pipes.

Where the system tells when a process has ended, nobody asks again and again: Linux does by a pidfd,
BSD and macOS by kqueue, Windows by a wait on a thread. A process that has ended and that nobody has
waited for yet, a zombie, has ended.
"""

import asyncio
import contextlib
import errno
import logging
import os
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

# What there is of it depends on the system.
system: Any = select

logger = logging.getLogger(__name__)

EVERY: Final = 1.0
"""Seconds between two looks, where the system does not tell."""
# A thread's number, which is no process's: from Linux 6.9 the one, before it the other.
NO_PROCESS: Final = (errno.ENOENT, errno.EINVAL)
# On an older one, an app that calls pidfd_open() is killed for it.
ANDROID_WITH_PIDFD: Final = 31
# Windows' ERROR_INVALID_PARAMETER, where there is no such process.
NO_SUCH_PROCESS: Final = 87


if TYPE_CHECKING:
    # For the checker alone: a Protocol that is made costs every start half a million instructions.
    class Descriptor(Protocol):
        """What has a descriptor, and closes it when nobody knows it any more."""

        def fileno(self) -> int:
            """Return its number."""


class Unwatchable(Exception):
    """The process exists and cannot be watched; the text is for people."""


class Parent:
    """A process, found when this is made: its number may be another's later.

    If it is another's by then, nobody can tell; but as long as the plugin's own parent lives, its
    number can be no other's.

    Args:
        pid: its id.

    Raises:
        Unwatchable: it exists and cannot be watched.

    """

    def __init__(self, pid: int) -> None:
        if pid == os.getpid():
            raise Unwatchable("this is the plugin itself")
        self._pid = pid
        self._is_ours = os.getppid() == pid
        self._gone = False
        self._descriptor: int | Descriptor | None = None
        self._handle = 0
        try:
            if sys.platform == "win32":
                self._handle = open_handle(pid)
            else:
                self._descriptor = open_descriptor(pid)
        except ProcessLookupError:
            self._gone = True
        if self._is_ours and sys.platform != "win32" and os.getppid() != pid:
            self._gone = True  # and what has been opened may be another's

    def watch(self, loop: asyncio.AbstractEventLoop, on_gone: Callable[[], None]) -> None:
        """Call back on the event loop when the process has ended; soon, if it has already."""
        descriptor = self._descriptor

        def gone() -> None:
            logger.info("process %d has ended", self._pid)
            if descriptor is not None:
                loop.remove_reader(descriptor)
            on_gone()

        def wait() -> None:
            wait_for(self._handle)
            with contextlib.suppress(RuntimeError):  # the loop is closed: the plugin ends anyway
                loop.call_soon_threadsafe(gone)

        def look() -> None:
            if self._exists():
                loop.call_later(EVERY, look)
            else:
                gone()

        if self._gone:
            loop.call_soon(gone)
        elif descriptor is not None:
            loop.add_reader(descriptor, gone)
        elif sys.platform == "win32":
            threading.Thread(target=wait, name="parent", daemon=True).start()
        else:
            look()

    def _exists(self) -> bool:
        return os.getppid() == self._pid if self._is_ours else exists(self._pid)


def open_descriptor(pid: int) -> "int | Descriptor | None":
    """Return what is readable when a process has ended; None where there is no such thing.

    Raises:
        ProcessLookupError: there is no such process.
        Unwatchable: it is none.

    """
    try:
        if hasattr(os, "pidfd_open") and android_level() >= ANDROID_WITH_PIDFD:
            return int(os.pidfd_open(pid))
        if hasattr(system, "kqueue"):
            queue: Any = system.kqueue()
            what, how = system.KQ_FILTER_PROC, system.KQ_EV_ADD
            queue.control([system.kevent(pid, what, how, fflags=system.KQ_NOTE_EXIT)], 0)
            found: Descriptor = queue
            return found
    except ProcessLookupError:
        raise
    except OSError as exc:
        if exc.errno in NO_PROCESS:
            raise Unwatchable(f"{pid} is no process but a thread of one") from None
        # An old kernel, a sandbox, no descriptors: it is looked at now and then.
    if not exists(pid):
        raise ProcessLookupError
    return None


def android_level() -> int:
    """Return which API of Android this Python was built for, of other systems more than any."""
    level: Callable[[], int] = getattr(sys, "getandroidapilevel", lambda: sys.maxsize)
    return level()


def exists(pid: int) -> bool:
    """Tell whether a process exists that has not ended; POSIX only.

    That it is a zombie, Linux alone tells of the systems that have to be asked.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists, and is another user's
    try:
        # proc(5): the number, the name in brackets, which may hold brackets, and the state.
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in (b"Z", b"X")


def open_handle(pid: int) -> int:
    """Return a handle of a process; Windows only.

    Raises:
        ProcessLookupError: there is no such process.
        Unwatchable: Windows does not allow it.

    """
    if sys.platform != "win32":
        raise NotImplementedError
    import _winapi

    try:
        return _winapi.OpenProcess(_winapi.SYNCHRONIZE, False, pid)
    except OSError as exc:
        if exc.winerror == NO_SUCH_PROCESS:
            raise ProcessLookupError from None
        raise Unwatchable(f"process {pid} cannot be watched: {exc.strerror}") from None


def wait_for(handle: int) -> None:
    """Return when the process has ended; Windows only."""
    if sys.platform != "win32":
        raise NotImplementedError
    import _winapi

    _winapi.WaitForSingleObject(handle, _winapi.INFINITE)
