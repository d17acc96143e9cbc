"""One connection as the host sees it: from ``websocket-create`` to its one ``close`` event.

States run one way: WAITING (for a place) → CONNECTING → OPEN → CLOSING → CLOSED, and any of them
may be left out. How frames travel is the business of ``wire.py``, which is imported with the
first connection, and with it the network libraries.
"""

import asyncio
import collections
import enum
import logging
import math
import traceback
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from wsplugin.encoding import MessageEncoder, encode, encode_done, encode_error, encode_event
from wsplugin.messages import (
    Cause,
    CloseEventPayload,
    ConnectionErrorCode,
    CreatePayload,
    ErrorPayload,
    Id,
    OpenPayload,
    RequestError,
)
from wsplugin.output import Output
from wsplugin.policy import Target
from wsplugin.settings import Settings

if TYPE_CHECKING:
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    from wsplugin.network.wire import Wire

logger = logging.getLogger(__name__)

GRACE: Final = 1.0
"""Seconds that a server has to answer where the plugin decides that a connection ends."""

# A message that waits costs more than its bytes: without this bound a stalled server would let
# any number of empty ones wait, or of ones with long request ids.
MAX_BOOKKEEPING: Final = 2**24


class State(enum.IntEnum):
    """Where a connection stands."""

    WAITING = 0
    CONNECTING = 1
    OPEN = 2
    CLOSING = 3
    CLOSED = 4


class Ending(NamedTuple):
    """How a connection is to end on purpose: the Close frame to send, and on whose behalf."""

    code: int
    reason: str
    cause: Cause


class Owner(Protocol):
    """What a connection needs of the manager."""

    settings: Settings
    output: Output

    def closed(self, connection: "Connection") -> None:
        """The connection has written its last line and given back its socket."""


class Connection:
    """One connection; methods are called on the event loop and never wait."""

    def __init__(self, id: str, target: Target, options: CreatePayload, owner: Owner) -> None:
        self.id: Final = id
        self.target: Final = target
        self.options: Final = options
        self.settings: Final = owner.settings
        self.output: Final = owner.output
        self.encoder: Final = MessageEncoder(id, options.binary_type)
        self.state = State.WAITING
        self.wire: Wire | None = None
        """Set as soon as the TCP connection is there."""
        self.deadline = math.inf
        """When the connection will be cut, in the event loop's time."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        # Messages that wait for the handshake or for the server: request id, opcode, payload.
        self._queue: collections.deque[tuple[Id, int, bytes | bytearray]] = collections.deque()
        self._queued = 0
        self._bookkeeping = 0
        self._size = len(encode(options))  # headers may be as long as a line
        self.turn = 0
        """When it was this connection's turn to be read, for fairness: kept by the manager."""
        # Requests whose message has been written but not yet taken by the operating system.
        self._unanswered: list[Id] = []
        self._ending: Ending | None = None
        self._failure: ErrorPayload | None = None
        # Why a connection that was ended on purpose has not completed its closing handshake.
        self._cut: str | None = None
        self._open_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None

    @property
    def ending(self) -> bool:
        """Whether the end has been decided; such a connection takes no more messages."""
        return self._ending is not None or self.state >= State.CLOSING

    @property
    def held(self) -> int:
        """About how many bytes it takes while it waits for a place."""
        return self._size + self._queued + self._bookkeeping

    # --- what the manager asks for ---

    def connect(self) -> None:
        """Begin the opening handshake: the connection has been given its place."""
        self.state = State.CONNECTING
        logger.info("%s: connecting to %s:%d", self.id, self.target.host, self.target.port)
        self._task = self._loop.create_task(self._connect())
        # Not code behind an await: a task that is cancelled before it starts runs none of it.
        self._task.add_done_callback(self._connect_done)

    def send(self, id: Id, opcode: int, payload: bytes | bytearray) -> None:
        """Send one message, or queue it; the request is answered when it has been handed on.

        Raises:
            RequestError: ``not-open`` or ``buffer-full``; nothing has been sent.

        """
        if self.ending:
            raise not_open(self.id)
        wire = self.wire if self.state is State.OPEN else None
        limit = self.settings.max_send_buffer
        waiting = self._queued + (wire.waiting if wire else 0)
        if wire and waiting + len(payload) > limit:
            wire.flush()  # what waits for the rest of its batch does not wait for the server
            waiting = self._queued + wire.waiting
        if waiting and waiting + len(payload) > limit:
            raise RequestError("buffer-full", f"{waiting} bytes are waiting (--max-send-buffer)")
        if wire and not self._queue and not wire.paused:
            self._write(wire, id, opcode, payload)
            return
        self._bookkeeping += bookkeeping(id)
        if self._queue and self._bookkeeping > MAX_BOOKKEEPING:
            self._bookkeeping -= bookkeeping(id)
            raise RequestError("buffer-full", "too many messages are waiting")
        self._queue.append((id, opcode, payload))
        self._queued += len(payload)

    def flush(self) -> None:
        """Write the messages that :meth:`send` has batched."""
        if self.wire and self.state is State.OPEN:
            self.wire.flush()

    def end(self, ending: Ending, patience: float, *, at_once: bool = False) -> None:
        """End the connection: messages that wait go first, then the closing handshake.

        An end that has been decided before stays as it was, but may come sooner.

        Args:
            ending: what to tell the server and the host.
            patience: seconds until the connection is cut.
            at_once: do not let messages wait for the opening handshake.

        """
        if self.state < State.OPEN and (at_once or not self._queue):
            self._ending = self._ending or ending
            self._abort_opening(
                ending.reason
                if ending.cause != "host"
                else "closed by the host before the opening handshake was done"
            )
            return
        self._ending = self._ending or ending
        self.cut_off(patience)
        if self.state is State.OPEN:
            self._pump()

    def end_when_open(self, ending: Ending) -> None:
        """End the connection once its opening handshake is done and its messages are sent."""
        if self.state >= State.OPEN:
            self.end(ending, self.settings.close_timeout)
        else:
            self._ending = self._ending or ending

    def cut_off(self, patience: float) -> None:
        """Cut the connection after `patience` seconds, unless that has been set to be sooner."""
        deadline = self._loop.time() + patience
        if self.state is not State.CLOSED and deadline < self.deadline:
            if self._deadline_timer:
                self._deadline_timer.cancel()
            self.deadline = deadline
            self._deadline_timer = self._loop.call_at(deadline, self._overdue, patience)

    def resume(self) -> None:
        """Take what the server has sent while the host was behind."""
        if self.wire:
            self.wire.resume_reading()

    # --- what the wire tells ---

    def opened(self, response: "Response") -> None:
        """The server has accepted the opening handshake."""
        if self._open_timer:
            self._open_timer.cancel()
        self.state = State.OPEN
        logger.info("%s: open", self.id)
        self.output.write(encode_event(self.id, OpenPayload(fields(response.headers))))
        if self._ending:
            self.cut_off(self.settings.close_timeout)
        self._pump()

    def writable(self) -> None:
        """The server has read on."""
        for id in self._unanswered:
            self._answer(id)
        self._unanswered.clear()
        if self.state is State.OPEN:
            self._pump()

    def server_closing(self) -> None:
        """The server's Close frame has come and ours is on its way: TCP must end soon."""
        self.state = State.CLOSING
        self.cut_off(GRACE)

    def failed(self, code: ConnectionErrorCode, message: str) -> None:
        """The connection has failed; the wire has sent its Close frame and listens no more."""
        if self.state is State.OPEN:
            self._failure = ErrorPayload(message, code)
        else:
            self._cut = message
        self.state = State.CLOSING
        self.cut_off(GRACE)

    def lost(self, why: str) -> None:
        """The TCP connection is down, and everything received has been told."""
        if self.state < State.OPEN or self.state is State.CLOSED:
            return  # the task of the opening handshake tells, or has told
        if self.state is State.OPEN and self._cut is None:
            self._failure = ErrorPayload(why, "network-error")
        self._cut = self._cut or why
        self._finish()

    # --- the course of things ---

    async def _connect(self) -> None:
        # Not before: a bad line is answered without loading the network libraries.
        from wsplugin.network.opening import perform_opening_handshake

        timeout = self.options.timeout
        seconds = timeout / 1000 if isinstance(timeout, int) else self.settings.open_timeout
        self._open_timer = self._loop.call_later(seconds, self._open_timed_out, seconds)
        await perform_opening_handshake(self)

    def _connect_done(self, task: asyncio.Task[None]) -> None:
        exc = None if task.cancelled() else task.exception()
        if self.state is not State.CONNECTING:
            return
        if exc is not None and self._failure is None and self._cut is None:
            self._failure = self._explain(exc)
        self._finish()
        while exc is not None:
            # Frames and exception refer to each other, and to all that a TLS connection holds.
            traceback.clear_frames(exc.__traceback__)
            exc = exc.__cause__ or exc.__context__

    def _explain(self, exc: BaseException) -> ErrorPayload:
        try:
            from wsplugin.network.opening import explain_failure

            return explain_failure(exc, self)
        except Exception as bug:  # noqa: BLE001 - whatever it is, the `close` event must come
            logger.error("%s: cannot explain %r (%s)", self.id, type(exc), type(bug).__name__)
            return ErrorPayload("the connection could not be opened", "network-error")

    def _open_timed_out(self, seconds: float) -> None:
        self._failure = ErrorPayload(
            f"no opening handshake within {seconds:g} seconds", "open-timeout"
        )
        self._cancel_opening()

    def _abort_opening(self, why: str) -> None:
        self._cut = self._cut or why
        self.deadline = self._loop.time()
        if self._task:
            self._cancel_opening()
        else:
            self._finish()

    def _cancel_opening(self) -> None:
        assert self._task
        self._task.cancel()
        if self.wire and self.wire.connected:
            self.wire.abort()  # the server's answer may already be there to be read

    def _overdue(self, patience: float) -> None:
        self._cut = self._cut or f"the closing handshake took longer than {patience:g} seconds"
        if self.state < State.OPEN:
            self._abort_opening(self._cut)
        elif self.wire:
            self.wire.abort()

    def _pump(self) -> None:
        """Write what waits as far as the server takes it, then the Close frame if one waits."""
        wire = self.wire
        assert wire
        while self._queue and not wire.paused:
            id, opcode, payload = self._queue.popleft()
            self._queued -= len(payload)
            self._bookkeeping -= bookkeeping(id)
            self._write(wire, id, opcode, payload)
        wire.flush()
        if self._ending and not self._queue:
            self.state = State.CLOSING
            wire.send_close(self._ending.code, self._ending.reason)

    def _write(self, wire: "Wire", id: Id, opcode: int, payload: bytes | bytearray) -> None:
        wire.send_message(opcode, payload)
        if wire.paused:
            self._unanswered.append(id)
        else:
            self._answer(id)

    def _answer(self, id: Id) -> None:
        if id is not None:
            self.output.write(encode_done(id))

    def _finish(self) -> None:
        """Write the last lines of this connection and give back its place."""
        for timer in (self._open_timer, self._deadline_timer):
            if timer:
                timer.cancel()
        self.state = State.CLOSED
        for id in (*self._unanswered, *(entry[0] for entry in self._queue)):
            self.output.write(encode_error(not_open(self.id), id))
        self._unanswered.clear()
        self._queue.clear()
        if self._failure:
            self.output.write(encode_event(self.id, self._failure))
        closing = self._closing()
        logger.info("%s: closed with %d (%s)", self.id, closing.code, closing.cause)
        self.output.write(encode_event(self.id, closing))
        if self.wire:
            # Connection, wire and task refer to each other: without this a few hundred KiB of
            # buffers and compression would wait for the garbage collector, with each of them.
            self.wire.release()
            self.wire = None
        self._task = None
        self._owner.closed(self)

    def _closing(self) -> CloseEventPayload:
        """Say how it ended: with the Close frame that started it, if both frames were seen."""
        if self._failure:
            return CloseEventPayload(1006, self._failure.err_msg, "failure")
        wire = self.wire
        sent = wire.protocol.close_sent if wire else None
        received = wire.protocol.close_rcvd if wire else None
        cause = self._ending.cause if self._ending else "server" if received else "failure"
        if wire is None or sent is None or received is None or wire.stuck:
            return CloseEventPayload(1006, self._cut or "the connection was lost", cause)
        if wire.protocol.close_rcvd_then_sent:
            return CloseEventPayload(int(received.code), received.reason, "server")
        return CloseEventPayload(int(sent.code), sent.reason, cause)


def bookkeeping(id: Id) -> int:
    """Return about how many bytes a waiting message takes beside its payload."""
    return 256 + (len(id) if isinstance(id, str) else 0)


def not_open(id: str) -> RequestError:
    """Say that a connection takes no more messages."""
    return RequestError("not-open", f"{id} is closing or closed")


def fields(headers: "Headers") -> dict[str, str]:
    """Return the fields of a response, names in lower case, repeated ones joined (RFC 9110 5.3)."""
    joined: dict[str, str] = {}
    for name, value in headers.raw_items():
        name = name.lower()
        if name in joined:
            value = joined[name] + ("\n" if name == "set-cookie" else ", ") + value
        joined[name] = value
    return joined
