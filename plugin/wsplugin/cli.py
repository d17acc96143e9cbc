"""The command ``wsplugin``: options, logging, descriptors, signals, exit status."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from wsplugin.session import Session
from wsplugin.settings import Settings

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the plugin over stdin and stdout; ends the process."""
    settings, level = parse_arguments(sys.argv[1:] if argv is None else argv)
    stdin, stdout = take_descriptors()
    log = configure_logging(level)
    status = asyncio.run(_serve(stdin, stdout, settings))
    log.drain()
    # Not sys.exit(): it would wait for threads that may be stuck, in a name server's silence or
    # in a write to a host that does not read.
    os._exit(status)


async def _serve(stdin: int, stdout: int, settings: Settings) -> int:
    session = Session(stdin, stdout, settings)
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        loop.call_soon_threadsafe(session.stop)

    # Windows has no SIGTERM that another process could send; Ctrl+Break is its like.
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if number := getattr(signal, name, None):
            signal.signal(number, on_signal)
    return await session.run()


def take_descriptors() -> tuple[int, int]:
    """Move stdin and stdout to private descriptors, out of reach of everything else.

    After this, descriptor 0 is the null device and descriptor 1 is stderr: a stray ``print`` or
    a child process can neither read the host's lines nor write between ours.

    Raises:
        SystemExit: there is no stdout to write to.

    """
    null = os.open(os.devnull, os.O_RDWR)
    while null < 3:
        # One of the three is closed: what is opened next would take its number, a socket even.
        if null == 1:
            sys.exit("wsplugin: stdout is closed")
        null = os.open(os.devnull, os.O_RDWR)
    stdin, stdout = os.dup(0), os.dup(1)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    if sys.platform == "win32":
        import msvcrt

        # Text mode would turn LF into CRLF and end the input at Ctrl+Z.
        msvcrt.setmode(stdin, os.O_BINARY)
        msvcrt.setmode(stdout, os.O_BINARY)
    return stdin, stdout


class StderrHandler(logging.Handler):
    """Logs to stderr without ever waiting for whoever should read it.

    A thread writes; records that come while it is stuck are dropped once enough are waiting.
    """

    MAX_WAITING = 1000

    def __init__(self) -> None:
        super().__init__()
        self._queue: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record, or drop it."""
        if self._queue is None:
            import queue
            import threading

            self._queue = queue.Queue(self.MAX_WAITING)
            threading.Thread(target=self._run, name="stderr", daemon=True).start()
        try:
            self._queue.put_nowait(self.format(record))
        except Exception:  # noqa: BLE001 - full, or not to be formatted: a log may lose records
            return

    def _run(self) -> None:
        while True:
            line = self._queue.get()
            try:
                os.write(2, f"{line}\n".encode(errors="backslashreplace"))
            except OSError:
                pass  # closed, or the disk is full: there is nowhere to say so
            self._queue.task_done()

    def drain(self) -> None:
        """Give the thread a moment to write what is waiting."""
        import time

        deadline = time.monotonic() + 0.2
        while self._queue and self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)


def configure_logging(level: str) -> StderrHandler:
    """Log the plugin's own records of `level` and above to stderr."""
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("wsplugin").setLevel(level.upper())
    # The library's records of lower levels hold headers and payloads.
    logging.getLogger("websockets").setLevel(logging.ERROR)
    return handler


def parse_arguments(argv: Sequence[str]) -> tuple[Settings, str]:
    """Return settings and log level.

    Raises:
        SystemExit: status 2 for a wrong option, 0 after ``--help``, ``--version``, ``--schema``.

    """
    if not argv:
        return Settings(), "warning"
    from wsplugin.options import parse

    return parse(argv)
