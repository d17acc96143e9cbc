"""Logging to stderr that never waits for whoever should read it, and tells no secrets."""

import collections
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from wsplugin.version import __version__

if TYPE_CHECKING:
    from wsplugin.settings import Settings

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 1000
DRAIN_SECONDS: Final = 0.2
LIBRARIES: Final = ("asyncio", "concurrent.futures", "websockets")

SILENT: Final = logging.Logger("wsplugin.silent")
"""For libraries that take a logger: what they say holds URLs, headers and payloads.

It is enabled for no level, and nobody can find it by its name: whatever a host does to the loggers
of its process, this one reaches none of its handlers.
"""
SILENT.disabled = True


class StderrHandler(logging.Handler):
    """Has a thread write records; drops those that come while too many wait for it."""

    def __init__(self) -> None:
        super().__init__()
        # Each stays in until it has been written.
        self._lines: collections.deque[str] = collections.deque()
        # Held as long as there is nothing to write. Not a queue.Queue: a record of a signal handler
        # would wait for ever for the lock that the interrupted code holds, and a bare start would
        # import it for nothing (half a millisecond).
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record, or drop it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
            self._thread.start()
        if len(self._lines) >= MAX_WAITING:
            return  # nobody reads stderr: a log may lose records, the plugin must not wait
        self._lines.append(self.format(record))
        try:
            self._asleep.release()
        except RuntimeError:
            pass  # it has been woken already, and has yet to look

    def _run(self) -> None:
        while True:
            self._asleep.acquire()
            while self._lines:
                try:
                    os.write(2, f"{self._lines[0]}\n".encode(errors="backslashreplace"))
                except OSError:
                    pass  # closed, or the disk is full: there is nowhere to say so
                self._lines.popleft()

    def drain(self) -> None:
        """Give the thread a moment to write what is waiting."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._lines and time.monotonic() < deadline:
            time.sleep(0.005)


def make_formatter() -> logging.Formatter:
    """Return what writes a record on a line, with its time in UTC, as in RFC 3339."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    formatter.converter = time.gmtime
    formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
    formatter.default_msec_format = "%s.%03dZ"
    return formatter


def configure_logging(level: str) -> StderrHandler:
    """Log to stderr: the plugin's own records of `level` and above, of strangers only errors."""
    handler = StderrHandler()
    handler.setFormatter(make_formatter())
    logging.basicConfig(handlers=[handler], level=logging.ERROR)
    # The records of these hold headers, payloads and tracebacks with the texts of exceptions.
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    logging.getLogger("wsplugin").setLevel(level.upper())
    return handler


def log_start(settings: "Settings") -> None:
    """Log what is asked first about a log: which versions ran, under which options."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    python = ".".join(map(str, sys.version_info[:3]))
    logger.debug(
        "wsplugin %s on Python %s, %s; process %d", __version__, python, sys.platform, os.getpid()
    )
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if name == "proxy" and value not in (None, "none"):
            value = "a URL"  # which may hold credentials
        logger.debug("%s: %s", name, value)


def fault(exc: BaseException) -> str:
    """Say in one line what nobody has foreseen, and where.

    Without the exception's text, which may repeat what the host, an app or a server has said.
    """
    where, trace = "", exc.__traceback__
    while trace is not None:
        where = f" in {trace.tb_frame.f_code.co_qualname}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(exc).__name__}{where}"
