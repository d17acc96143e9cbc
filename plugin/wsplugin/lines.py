"""The host's stream of bytes, split into lines: no descriptors, no event loop."""

from collections.abc import Iterator
from typing import Final

from wsplugin.messages import RequestError

BOM: Final = b"\xef\xbb\xbf"
# How much of a line that is too long is kept to find its id in.
ID_WITHIN: Final = 65_536


class Lines:
    """Splits a stream into lines, holding no more of it than one line of `max_line` bytes."""

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._held = bytearray()
        self._skipping = False
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterator[bytes | bytearray | RequestError]:
        """Take bytes as they come; yield the lines that end in them, without LF.

        A line that is too long comes as the error to answer it with.
        """
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield self._take(end)
        self._hold(rest)

    def end(self) -> Iterator[bytes | bytearray | RequestError]:
        """Yield the last line, if the stream ended without LF."""
        if self._held or self._skipping:
            yield self._take(b"")

    def _take(self, end: bytes) -> bytes | bytearray | RequestError:
        line: bytes | bytearray = end
        if self._held or len(end) > self._max_line:
            self._hold(end)
            line, self._held = self._held, bytearray()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BOM)
        if self._skipping:
            self._skipping = False
            from wsplugin.mistakes import too_long

            return too_long(line, self._max_line)
        return line

    def _hold(self, part: bytes) -> None:
        if self._skipping:
            return
        self._held += part
        if len(self._held) > self._max_line:
            self._skipping = True
            # Enough to find an id at the beginning of the line.
            del self._held[ID_WITHIN:]
