"""Logging to stderr that never waits for whoever should read it, and tells no secrets."""

import logging
import os
import queue
import threading
import time
from typing import Final

MAX_WAITING: Final = 1000
DRAIN_SECONDS: Final = 0.2


class StderrHandler(logging.Handler):
    """Has a thread write records; drops those that come while too many wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record, or drop it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            pass  # nobody reads stderr: a log may lose records, the plugin must not wait

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            try:
                os.write(2, f"{line}\n".encode(errors="backslashreplace"))
            except OSError:
                pass  # closed, or the disk is full: there is nowhere to say so
            self._lines.task_done()

    def drain(self) -> None:
        """Give the thread a moment to write what is waiting."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)


def configure_logging(level: str) -> StderrHandler:
    """Log the plugin's own records of `level` and above to stderr."""
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.ERROR)
    # The records of these hold headers, payloads and tracebacks.
    for library in ("asyncio", "websockets"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    logging.getLogger("wsplugin").setLevel(level.upper())
    return handler


SILENT: Final = logging.Logger("websockets")
"""For the library, whose records hold URLs, headers and payloads: reaches no handler at all."""
SILENT.disabled = True
SILENT.setLevel(logging.CRITICAL + 1)
