"""Programs that run as long as a test does: servers, gateways and proxies."""

import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from harness import TIMEOUT, environment

TESTS = Path(__file__).parent.parent


class Program:
    """A program that tells lines on stdout, and its errors to a file.

    Args:
        name: what its file of errors is called after.
        command: its command line.
        folder: where it may write.
        variables: more of its environment.

    """

    def __init__(self, name: str, command: Sequence[str], folder: Path, **variables: str) -> None:
        self._errors = folder / f"{name}.log"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=TESTS,
                env=environment(**variables),
                encoding="utf-8",
                # What it starts ends with it.
                start_new_session=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as stdout:
            for line in stdout:
                self._lines.put(line.rstrip("\n"))
        self._lines.put("")

    def expect_line(self, beginning: str) -> str:
        """Read lines up to one that begins so, and return what is behind the beginning."""
        lines: list[str] = []
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                line = self._lines.get(timeout=deadline - time.monotonic())
            except (queue.Empty, ValueError):
                line = ""
            lines.append(line)
            assert line, f"no {beginning!r} among {lines}: {self.errors()}"
            if line.startswith(beginning):
                return line.removeprefix(beginning)

    def await_port(self, port: int) -> None:
        """Wait until the program listens on this port of the loopback."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
                return
            except ConnectionRefusedError:
                pass  # not yet
            try:
                status = self._process.wait(0.02)
                raise AssertionError(f"ended with status {status}: {self.errors()}")
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline, f"does not listen: {self.errors()}"

    def errors(self) -> str:
        """Return the end of what it has said on stderr."""
        return self._errors.read_text(encoding="utf-8", errors="replace")[-2000:]

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        # Its id is its own as long as nobody has waited for it.
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
