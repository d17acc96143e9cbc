"""What of one connection waits to be sent, from the host's request to the operating system.

A message waits whole in the queue until the connection is open and the server reads; then it is
framed, and its frame goes to the transport with the others of its batch. Over TLS frames wait here
a second time, since asyncio's TLS transport counts nothing of what it has been given.
"""

import collections
from typing import Final

from msgspec import Struct

from wsplugin.messages import Id, RequestError

# A message that waits costs more than its bytes: without this bound a stalled server would let
# any number of empty ones wait, or of ones with long request ids.
MAX_BOOKKEEPING: Final = 2**24


class Waiting(Struct, frozen=True):
    """A message that waits in the queue."""

    request: Id
    opcode: int
    payload: bytes | bytearray


class Queue:
    """Messages that wait for the connection to open, or for the server to read.

    Args:
        limit: how many bytes of messages may wait; into an empty queue any message goes.

    """

    def __init__(self, limit: int) -> None:
        self.size = 0
        """Bytes of the messages."""
        self._limit = limit
        self.messages: collections.deque[Waiting] = collections.deque()
        self._bookkeeping = 0

    @property
    def held(self) -> int:
        """About how many bytes of memory it takes."""
        return self.size + self._bookkeeping

    def has_room(self, size: int, behind: int) -> bool:
        """Tell whether `size` bytes more may wait, where `behind` bytes wait elsewhere."""
        waiting = self.size + behind
        return not waiting or waiting + size <= self._limit

    def push(self, message: Waiting) -> None:
        """Let a message wait.

        Raises:
            RequestError: ``buffer-full``.

        """
        cost = bookkeeping(message.request)
        if self.messages and self._bookkeeping + cost > MAX_BOOKKEEPING:
            raise RequestError("buffer-full", "too many messages are waiting")
        self._bookkeeping += cost
        self.messages.append(message)
        self.size += len(message.payload)

    def pop(self) -> Waiting:
        """Take the message that has waited longest."""
        message = self.messages.popleft()
        self.size -= len(message.payload)
        self._bookkeeping -= bookkeeping(message.request)
        return message

    def clear(self) -> list[Id]:
        """Give up all; return their requests."""
        requests = [message.request for message in self.messages]
        self.messages.clear()
        self.size = self._bookkeeping = 0
        return requests


def bookkeeping(id: Id) -> int:
    """Return about how many bytes a waiting message takes beside its payload."""
    return 256 + (len(id) if isinstance(id, str) else 0)


class Pieces:
    """Framed bytes that the transport may not have yet, cut into pieces.

    Args:
        size: bytes of the longest piece.

    """

    def __init__(self, size: int) -> None:
        self.waiting = 0
        """How many bytes there are."""
        self._size = size
        self._pieces: collections.deque[memoryview] = collections.deque()

    def push(self, data: bytes) -> None:
        """Append bytes."""
        view = memoryview(data)
        for start in range(0, len(data), self._size):
            self._pieces.append(view[start : start + self._size])
        self.waiting += len(data)

    def pop(self) -> memoryview:
        """Take the next piece."""
        piece = self._pieces.popleft()
        self.waiting -= len(piece)
        return piece

    def clear(self) -> None:
        """Drop all."""
        self._pieces.clear()
        self.waiting = 0
