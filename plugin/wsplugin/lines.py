"""The host's stream of bytes, split into lines: no descriptors, no event loop."""

import itertools
from collections.abc import Iterator
from typing import Final

from wsplugin.messages import RequestError
from wsplugin.mistakes import ID_WITHIN, too_long

BOM: Final = b"\xef\xbb\xbf"
# How much of a line that is too long is kept to find its id in, whatever the limit: a little more
# than it is searched for, as what comes behind an id tells that it is whole.
KEPT: Final = ID_WITHIN + 64


class Lines:
    """Splits a stream into lines, holding no more of it than one line of `max_line` bytes.

    Of a line that is longer it holds the beginning, :data:`KEPT` bytes.
    """

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._held = bytearray()
        self._skipping = False
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterator[bytes | bytearray | RequestError]:
        """Take bytes as they come; return the lines that end in them, without LF.

        A line that is too long comes as the error to answer it with.
        """
        *ends, rest = chunk.split(b"\n")
        # Not one generator: an exception at one line would end it before the others.
        if not rest:  # as mostly
            return map(self._take, ends)
        return itertools.chain(map(self._take, ends), self._keep(rest))

    def _keep(self, rest: bytes) -> Iterator[RequestError]:
        self._hold(rest)
        yield from ()

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
            return too_long(line, self._max_line)
        return line

    def _hold(self, part: bytes) -> None:
        if not self._skipping:
            try:
                self._held += part
                self._skipping = len(self._held) > self._max_line
            except MemoryError:
                # As if it were beyond the limit: a line with a hole might still be a request.
                self._skipping = True
        elif len(self._held) < KEPT:
            self._held += part
        if self._skipping:
            del self._held[KEPT:]
