"""A plugin as a child process of a cheap host: lines in, lines out, and what they cost.

The host must not be what is measured, so it parses the lines it needs and counts the others.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 60.0
"""Seconds that a measurement may take."""

END_TIMEOUT = 5.0
"""Seconds that a plugin may take to end after the end of its stdin."""

READ_SIZE = 1 << 18  # bytes
EVENT = b'"websocket-event"'


class PluginError(Exception):
    """The plugin did not do what the contract's seed part says."""


class Clock(NamedTuple):
    """A moment in a plugin's life: wall and CPU time (user and system, all threads), in seconds."""

    wall: float
    cpu: float


def request(number: int, action: str, payload: object) -> bytes:
    """A line from the host; ids are four digits long, so that all answers have one length."""
    line = {"id": 1000 + number, "action": action, "payload": payload}
    return json.dumps(line).encode() + b"\n"


class PluginProcess:
    """A running plugin, killed after TIMEOUT: so no read or write can wait for ever."""

    def __init__(self, command: Sequence[str]) -> None:
        self.spawned = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that a command's own children end with it
        )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._read_ahead = b""
        self._watchdog = self._kill_after(TIMEOUT)

    def __enter__(self) -> PluginProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends the plugin as a host does, with the end of its stdin; kills it if that fails."""
        self._watchdog.cancel()
        self._stdin.close()
        self._watchdog = self._kill_after(0 if any(exc) else END_TIMEOUT)
        while self._stdout.read(READ_SIZE):
            pass
        self._stdout.close()
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        self._watchdog.cancel()
        self._watchdog.join()  # before the id is free: it could be another process's next
        self._process.wait()

    def kill(self) -> None:
        """Ends it at once, where an orderly end would read what an endless flood still sends."""
        os.killpg(self._process.pid, signal.SIGKILL)

    def _kill_after(self, seconds: float) -> threading.Timer:
        watchdog = threading.Timer(seconds, os.killpg, (self._process.pid, signal.SIGKILL))
        watchdog.daemon = True
        watchdog.start()
        return watchdog

    # What the plugin has used.

    def clock(self) -> Clock:
        # Linux makes the clock of a process's CPU time out of its id (clock_getcpuclockid(3)). It
        # counts nanoseconds, those of ended threads too; /proc/PID/stat counts ticks of 10 ms.
        return Clock(time.perf_counter(), time.clock_gettime(~self._process.pid << 3 | 2))

    def memory(self, field: str) -> int:
        """VmRSS (now) or VmHWM (peak), in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024

    # Lines.

    def write(self, line: bytes) -> None:
        """Writes a line that is shorter than a pipe."""
        self._stdin.write(line)

    def _read(self) -> bytes:
        chunk: bytes = self._stdout.read(READ_SIZE)
        if not chunk:
            late = time.perf_counter() - self.spawned > TIMEOUT
            raise PluginError(f"not done within {TIMEOUT:g} s" if late else "ended early")
        return chunk

    def read(self) -> bytes:
        """What has come, at least a byte."""
        chunk, self._read_ahead = self._read_ahead or self._read(), b""
        return chunk

    def line(self) -> bytes:
        """The next line."""
        parts = []
        while not (end := self._read_ahead.find(b"\n") + 1):
            parts.append(self._read_ahead)
            self._read_ahead = self._read()
        parts.append(self._read_ahead[:end])
        self._read_ahead = self._read_ahead[end:]
        return b"".join(parts)

    def skip(self, lines: int) -> int:
        """Takes that many lines unseen; returns their size in bytes."""
        size = 0
        while lines > 0:
            chunk = self._read_ahead or self._read()
            found = chunk.count(b"\n")
            end = len(chunk)
            if found >= lines:
                end = 0
                for _ in range(lines):
                    end = chunk.index(b"\n", end) + 1
            self._read_ahead = chunk[end:]
            size += end
            lines -= found
        return size

    def answer_and_events(self) -> tuple[bytes, list[bytes]]:
        """The next lines, until there are an answer and an event; some peers answer late."""
        answer, events = b"", list[bytes]()
        while not (answer and events):
            line = self.line()
            if EVENT in line:
                events.append(line)
            elif b'"response"' in line:
                answer = line
            else:
                raise PluginError(f"unexpected: {line[:200]!r}")
        return answer, events

    def exchange(self, blocks: Sequence[bytes], lines_a_block: int) -> int:
        """Writes blocks of requests, and reads the `lines_a_block` that answer each of them.

        At most two blocks are unanswered at any time, and seldom less than one.
        Returns the size of the lines in bytes.
        """
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        os.set_blocking(self._stdin.fileno(), False)
        unwritten = memoryview(b"")
        size = lines = sent = 0
        while lines < lines_a_block * len(blocks):
            if not unwritten and sent < len(blocks) and sent - lines / lines_a_block <= 1:
                unwritten = memoryview(blocks[sent])
                sent += 1
                poll.register(self._stdin, select.POLLOUT)
            for fd, _ in poll.poll():
                if fd == self._stdout.fileno():
                    chunk = self._read()
                    size += len(chunk)
                    lines += chunk.count(b"\n")
                else:
                    unwritten = unwritten[os.write(fd, unwritten) :]
                    if not unwritten:
                        poll.unregister(fd)
        return size
