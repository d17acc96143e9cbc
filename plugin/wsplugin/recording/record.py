"""Writes the conversation to a file as it happens, as a transcript that ``wsplugin replay`` plays.

What of it is written is decided in ``redaction.py``; who can read it, here.
"""

import errno
import logging
import os
import stat
import time
from typing import Final

from wsplugin.log import fault
from wsplugin.messages import WHITE_SPACE, RequestError
from wsplugin.recording.redaction import event_or_answer_text, request_text

logger = logging.getLogger(__name__)

# Shorter pauses are not worth a line.
SHORTEST_PAUSE: Final = 0.01


class Recorder:
    """Writes to a file; one that fails ends the recording and nothing else.

    Whatever file was there before, it begins anew and can be read by its owner only.

    Args:
        path: the file; a symbolic link is followed, and what is no file, a pipe, is left as it is.
        redact_data: leave the payloads of messages out.

    Raises:
        OSError: it cannot be written, or not be kept from others.

    """

    def __init__(self, path: str, *, redact_data: bool = False) -> None:
        self._redact_data = redact_data
        self._fd: int | None = open_private(path)
        self._last: float | None = None

    def line_in(self, line: bytes | bytearray | RequestError) -> None:
        """Record one of the host's lines, before it is carried out."""
        try:
            if isinstance(line, RequestError):
                self._write("> <a line that is too long>")
            elif line.strip(WHITE_SPACE):
                self._write("> " + request_text(line, redact_data=self._redact_data))
        except Exception as exc:  # noqa: BLE001 - the line must be carried out, whatever it is
            self._fail(fault(exc))

    def lines_out(self, lines: bytes | bytearray) -> None:
        """Record lines to the host, before they are written."""
        try:
            texts = (
                event_or_answer_text(line, redact_data=self._redact_data)
                for line in lines.splitlines()  # on bytes: LF and CR only, and JSON has neither
            )
            self._write(*("< " + text for text in texts))
        except Exception as exc:  # noqa: BLE001 - the lines must be written, whatever it is
            self._fail(fault(exc))

    def end_of_stdin(self) -> None:
        """Record that the host has closed the plugin's stdin."""
        self._write("@end-of-stdin")

    def signal(self, name: str) -> None:
        """Record that a signal has come; may be called by its handler."""
        self._write(f"@signal {name}")

    def exit(self, status: int) -> None:
        """Record the exit status."""
        self._write(f"@exit {status}")

    def _write(self, *lines: str) -> None:
        if self._fd is None:
            return
        now = time.monotonic()
        elapsed = now - self._last if self._last is not None else 0
        self._last = now
        if elapsed >= SHORTEST_PAUSE:
            lines = (f"# +{elapsed:.3f}s", *lines)
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as exc:
            self._fail(exc.strerror or fault(exc))

    def _fail(self, why: str) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        logger.warning("recording has ended: %s", why)


def open_private(path: str) -> int:
    """Open a file for writing, emptied, which nobody but its owner can read; return a descriptor.

    Raises:
        OSError: it cannot be written, is another user's, or lies where modes are not kept; it is
            left as it was.

    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    fd = os.open(path, flags, 0o600)
    # While one of the numbers 0 to 2 is free, it would be taken for a standard stream.
    standard = []
    while fd < 3:
        standard.append(fd)
        fd = os.dup(fd)
    for number in standard:
        os.close(number)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            if os.name == "posix":
                _make_private(fd)
            os.ftruncate(fd, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _make_private(fd: int) -> None:
    # Not only the mode: root may change that of any file, and its owner would read it.
    if os.fstat(fd).st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user")
    os.fchmod(fd, 0o600)
    # Some file systems take every mode and keep none.
    if os.fstat(fd).st_mode & 0o077:
        raise PermissionError(errno.EPERM, "others could read it, whatever its mode")
