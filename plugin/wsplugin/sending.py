"""What the host wants sent on one connection, from each request to its answer."""

import collections
from typing import TYPE_CHECKING, Final

from wsplugin.encoding import encode_answer, encode_done
from wsplugin.messages import Id, PingAnswer, RequestError, RoundTrip
from wsplugin.network.outbox import Queue, Waiting
from wsplugin.output import Output

if TYPE_CHECKING:
    from wsplugin.network.keepalive import Answered
    from wsplugin.network.wire import Wire

MOST_PINGS: Final = 16
"""How many of the host's pings may wait for their Pong on a connection."""


class Sending:
    """Requests of one connection that have no answer yet.

    Args:
        limit: how many bytes of messages may wait.
        output: where answers go.

    """

    def __init__(self, limit: int, output: Output) -> None:
        self._output = output
        self._queue = Queue(limit)
        # Requests whose message has been written but not yet taken by the operating system.
        self._written: collections.deque[Id] = collections.deque()
        # Requests whose Ping is on its way, by its payload.
        self._pings: dict[bytes, Id] = {}

    @property
    def waits(self) -> bool:
        """Whether a message waits for the connection to open, or for the server to read."""
        return bool(self._queue.messages)

    @property
    def held(self) -> int:
        """About how many bytes of memory what waits takes."""
        return self._queue.held

    def send(self, wire: "Wire | None", id: Id, opcode: int, payload: bytes | bytearray) -> None:
        """Send one message, or let it wait; the request is answered when it has been handed on.

        Raises:
            RequestError: ``buffer-full``; nothing has been sent.

        """
        queue, size = self._queue, len(payload)
        behind = wire.waiting if wire is not None else 0
        if (behind or queue.messages) and not queue.has_room(size, behind):
            if wire is not None:
                # What waits for the rest of its batch does not wait for the server.
                wire.flush()
                behind = wire.waiting
            if not queue.has_room(size, behind):
                waiting = queue.size + behind
                raise RequestError(
                    "buffer-full", f"{waiting} bytes are waiting (--max-send-buffer)"
                )
        if wire is None or queue.messages or wire.paused:
            queue.push(Waiting(id, opcode, payload))
        else:
            self._write(wire, id, opcode, payload)

    def ping(self, wire: "Wire", id: Id, seconds: float) -> None:
        """Send a Ping before the messages that wait; the request is answered with its Pong.

        Raises:
            RequestError: ``buffer-full``; nothing has been sent.

        """
        if len(self._pings) >= MOST_PINGS:
            raise RequestError("buffer-full", f"{MOST_PINGS} pings are waiting")
        self._pings[wire.ping(seconds)] = id

    def owe(self, id: Id) -> None:
        """Let a request have its answer with those that will not be carried out."""
        self._written.append(id)

    def pump(self, wire: "Wire") -> None:
        """Write what waits as far as the server takes it."""
        while self._queue.messages and not wire.paused:
            message = self._queue.pop()
            try:
                self._write(wire, message.request, message.opcode, message.payload)
            except Exception:
                self.owe(message.request)
                raise
        wire.flush()

    def _write(self, wire: "Wire", id: Id, opcode: int, payload: bytes | bytearray) -> None:
        wire.send(opcode, payload)
        if wire.paused:
            self._written.append(id)
        else:
            self._answer(id)

    def taken(self) -> None:
        """The operating system has taken what was written."""
        while self._written:
            # One by one: each of those that are left is answered, should this one raise.
            self._answer(self._written[0])
            self._written.popleft()

    def ponged(self, answered: "Answered") -> None:
        """A Ping has been answered; it may be none of the host's."""
        id = self._pings.pop(answered.payload, None)
        if id is not None:
            rtt = RoundTrip(round(answered.seconds * 1000, 3))
            self._output.write(encode_answer(PingAnswer(id, rtt)))

    def _answer(self, id: Id) -> None:
        if id is not None:
            self._output.write(encode_done(id))

    def give_up(self) -> list[Id]:
        """Forget all; return the requests that have had no answer."""
        ids = [*self._written, *self._queue.clear(), *self._pings.values()]
        self._written.clear()
        self._pings.clear()
        return ids
