"""The receive buffer of one connection: bytes that have been read and not yet taken."""

from typing import Final

# Room for one read at first, and from the first read on that has filled it. With half of the
# latter a flood of messages of 64 KiB takes a tenth more CPU. (Over TLS it is asyncio that says
# how much.)
FIRST_ROOM: Final = 2**16
ROOM: Final = 2**20


class Inbox:
    """Bytes not yet taken are ``buffer[start:end]``; ``view`` is the same memory without copies."""

    def __init__(self) -> None:
        self.buffer = bytearray(FIRST_ROOM)
        self.view = memoryview(self.buffer)
        self.start = 0
        self.end = 0
        self._room = FIRST_ROOM

    @property
    def size(self) -> int:
        """How many bytes have not been taken."""
        return self.end - self.start

    def room(self, least: int) -> memoryview:
        """Return where the next `least` bytes or more are to be written; tell :meth:`filled`."""
        if self.start == self.end:
            self.start = self.end = 0
        size = len(self.buffer)
        if size - self.end < least or (not self.end and size != self._room):
            self._make_room(least)
        return self.view[self.end :]

    def _make_room(self, least: int) -> None:
        rest = self.end - self.start
        # A frame longer than the buffer: grow as its bytes come, not as its header claims.
        room = self._room
        while room < max(2 * rest, rest + least):
            room *= 2
        old = self.view[self.start : self.end]
        if room != len(self.buffer):
            self.buffer = bytearray(room)
            self.view = memoryview(self.buffer)
        self.view[:rest] = old
        self.start, self.end = 0, rest

    def filled(self, count: int) -> None:
        """Take note of `count` bytes that have been written to :meth:`room`."""
        self.end += count
        if self.end == len(self.buffer):
            self._room = ROOM

    def put(self, data: bytes) -> None:
        """Append bytes that were read elsewhere."""
        if data:
            self.room(len(data))[: len(data)] = data
            self.filled(len(data))

    def clear(self) -> None:
        """Drop what has not been taken."""
        self.start = self.end = 0

    def release(self) -> None:
        """Give the memory back; the buffer is of no more use."""
        self.clear()
        self.buffer = bytearray()
        self.view = memoryview(self.buffer)
