"""How the end of a process is told on systems that this is not run on, played by stand-ins."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import virtual_time
from wsplugin import parent
from wsplugin.parent import EVERY, Parent, Unwatchable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="stands in for it")

INIT = 1
"""A process that does not end, and is not ours."""


@pytest.fixture
def no_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(parent, "system", SimpleNamespace())


class Queue:
    """What kqueue(2) gives, as far as it is asked: its descriptor is a pipe's."""

    def __init__(self, error: int = 0) -> None:
        self.changes: list[Any] = []
        self.error = error
        self.reader, self.writer = os.pipe()

    def control(self, changes: list[Any], most: int) -> list[Any]:
        assert most == 0
        self.changes += changes
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return []

    def fileno(self) -> int:
        return self.reader

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def played_kqueue(monkeypatch: pytest.MonkeyPatch, error: int = 0) -> Queue:
    queue = Queue(error)
    system = SimpleNamespace(
        kqueue=lambda: queue,
        kevent=lambda *what, fflags: (*what, fflags),
        KQ_FILTER_PROC=-5,
        KQ_EV_ADD=1,
        KQ_NOTE_EXIT=2**31,
    )
    monkeypatch.setattr(parent, "system", system)
    return queue


@pytest.mark.usefixtures("no_pidfd")
def test_kqueue_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = played_kqueue(monkeypatch)

    async def main() -> None:
        gone = asyncio.Event()
        Parent(INIT).watch(asyncio.get_running_loop(), gone.set)
        assert queue.changes == [(INIT, -5, 1, 2**31)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not gone.is_set()
        os.write(queue.writer, b"x")
        async with asyncio.timeout(10):
            await gone.wait()

    asyncio.run(main())
    queue.close()


def told(watched: Parent) -> float:
    """Return after how many seconds it is told, in virtual time."""

    async def main() -> float:
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        watched.watch(loop, gone.set)
        async with asyncio.timeout(100 * EVERY):
            await gone.wait()
        return loop.time()

    return virtual_time.run(main())


@pytest.mark.usefixtures("no_pidfd")
def test_kqueue_finds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = played_kqueue(monkeypatch, errno.ESRCH)
    assert told(Parent(INIT)) == 0
    queue.close()


class Life:
    """A process that ends when it has been looked for so many times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def kill(self, pid: int, number: int) -> None:
        assert number == 0
        self.looks -= 1
        if self.looks < 0:
            raise ProcessLookupError

    def getppid(self) -> int:
        self.looks -= 1
        return 4711 if self.looks >= 0 else 1


@pytest.mark.usefixtures("no_pidfd")
@pytest.mark.parametrize("refused", [None, errno.EACCES, errno.EMFILE])
def test_who_cannot_be_told_looks_once_a_second(
    refused: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = None if refused is None else played_kqueue(monkeypatch, refused)
    # Once when it is found, and once when it is to be watched.
    monkeypatch.setattr(os, "kill", Life(2 + 3).kill)
    assert told(Parent(INIT)) == 4 * EVERY
    monkeypatch.setattr(os, "kill", Life(0).kill)
    assert told(Parent(INIT)) == 0
    if queue is not None:
        queue.close()


@pytest.mark.usefixtures("no_pidfd")
def test_the_number_of_the_plugin_s_parent_is_no_other_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has it afterwards, which lives."""
    monkeypatch.setattr(os, "kill", lambda pid, number: None)
    # Twice when it is found, and once when it is to be watched.
    monkeypatch.setattr(os, "getppid", Life(3 + 2).getppid)
    assert told(Parent(4711)) == 3 * EVERY


def test_a_parent_that_ends_while_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found may be another process by then, which lives."""
    monkeypatch.setattr(os, "pidfd_open", lambda pid: os.open(os.devnull, os.O_RDONLY))
    monkeypatch.setattr(os, "getppid", Life(1).getppid)
    watched = Parent(4711)
    assert told(watched) == 0


@pytest.mark.parametrize(("level", "calls"), [(24, False), (31, True)])
def test_an_older_android_is_not_asked_for_a_pidfd(
    level: int, calls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def pidfd_open(pid: int) -> int:
        asked.append(pid)
        raise ProcessLookupError

    monkeypatch.setattr(parent, "system", SimpleNamespace())
    monkeypatch.setattr(os, "pidfd_open", pidfd_open, raising=False)
    monkeypatch.setattr(sys, "getandroidapilevel", lambda: level, raising=False)
    Parent(INIT)
    assert asked == ([INIT] if calls else [])


def test_exists() -> None:
    assert parent.exists(INIT)
    with subprocess.Popen([sys.executable, "-c", ""]) as ending:
        os.waitid(os.P_PID, ending.pid, os.WEXITED | os.WNOWAIT)
        assert not parent.exists(ending.pid) or not Path("/proc/self/stat").exists()
    assert not parent.exists(ending.pid)


# --- Windows --------------------------------------------------------------------------------------


class WindowsFailure(OSError):
    """An error of Windows, which has a number of its own."""

    def __init__(self, winerror: int, strerror: str) -> None:
        super().__init__(errno.EINVAL, strerror)
        self.winerror = winerror


def played_windows(monkeypatch: pytest.MonkeyPatch, error: OSError | None) -> threading.Event:
    ended = threading.Event()

    def open_process(access: int, inherit: bool, pid: int) -> int:
        assert (access, inherit, pid) == (0x100000, False, INIT)
        if error is not None:
            raise error
        return 77

    def wait(handle: int, milliseconds: int) -> int:
        assert (handle, milliseconds) == (77, 0xFFFFFFFF)
        ended.wait()
        return 0

    windows = SimpleNamespace(
        OpenProcess=open_process,
        WaitForSingleObject=wait,
        SYNCHRONIZE=0x100000,
        INFINITE=0xFFFFFFFF,
    )
    monkeypatch.setitem(sys.modules, "_winapi", windows)
    monkeypatch.setattr(parent, "sys", SimpleNamespace(platform="win32"))
    return ended


def test_windows_tells_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = played_windows(monkeypatch, None)

    async def main() -> None:
        gone = asyncio.Event()
        Parent(INIT).watch(asyncio.get_running_loop(), gone.set)
        await asyncio.sleep(0)
        assert not gone.is_set()
        ended.set()
        async with asyncio.timeout(10):
            await gone.wait()

    asyncio.run(main())


def test_windows_finds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    played_windows(monkeypatch, WindowsFailure(87, "The parameter is incorrect"))
    assert told(Parent(INIT)) == 0


def test_windows_does_not_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    played_windows(monkeypatch, WindowsFailure(5, "Access is denied"))
    with pytest.raises(Unwatchable, match="process 1 cannot be watched: Access is denied"):
        Parent(INIT)
