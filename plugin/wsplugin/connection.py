"""One connection as the host sees it: from ``websocket-create`` to its one ``close`` event.

How bytes travel is the business of ``network/``, which is imported with the first connection.
"""

import asyncio
import contextlib
import enum
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Protocol

from wsplugin.connecting import Connecting
from wsplugin.countdown import Countdown
from wsplugin.encoding import MessageEncoder, encode, encode_event
from wsplugin.log import fault
from wsplugin.messages import (
    ConnectionErrorCode,
    ErrorPayload,
    Id,
    OpenPayload,
    RequestError,
)
from wsplugin.outcome import FAULT, Ending, decide, encode_not_open, not_open, not_open_yet
from wsplugin.output import Output
from wsplugin.policy import Target
from wsplugin.requests import NewConnection
from wsplugin.sending import Sending
from wsplugin.settings import PING_TIMEOUT, Settings
from wsplugin.turns import Turns

if TYPE_CHECKING:
    from wsplugin.network.keepalive import Answered
    from wsplugin.network.opening import Dialer
    from wsplugin.network.wire import Wire

logger = logging.getLogger(__name__)

GRACE: Final = 1.0
"""Seconds that a server has to answer where the plugin decides that a connection ends."""


class State(enum.IntEnum):
    """Where a connection stands."""

    WAITING = 0
    """It has no place yet."""
    CONNECTING = 1
    """An attempt is on its way to the server."""
    OPEN = 2
    """Both opening handshakes are done: messages go both ways."""
    CLOSING = 3
    """Our Close frame is on its way: for the host's close, the server's, or a failure."""
    CLOSED = 4
    """The `close` event has been written."""


MAY_BECOME: Final = {
    State.WAITING: {State.CONNECTING, State.CLOSED},
    State.CONNECTING: {State.OPEN, State.CLOSED},
    State.OPEN: {State.CLOSING, State.CLOSED},
    State.CLOSING: {State.CLOSED},
    State.CLOSED: set[State](),
}


if TYPE_CHECKING:
    # For the checker alone: a Protocol that is made costs every start half a million instructions.
    class Owner(Protocol):
        """What a connection needs of the manager."""

        settings: Settings
        output: Output
        turns: Turns
        dialer: "Dialer | None"
        """How to get to the network; None for the system's way."""

        def closed(self, connection: "Connection") -> None:
            """The connection has written its last line and given back its socket."""


P = ParamSpec("P")


def _netted(
    method: Callable[Concatenate["Connection", P], None],
) -> Callable[Concatenate["Connection", P], None]:
    """Let an exception of a method end its connection, and nothing else."""

    @functools.wraps(method)
    def call(self: "Connection", /, *args: P.args, **options: P.kwargs) -> None:
        try:
            method(self, *args, **options)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the `close` event must come
            self.faulted(exc)

    return call


class Connection:
    """One connection; methods are called on the event loop and never wait.

    None of them raises, but for what :meth:`send` says: a fault of the plugin ends the connection
    and nothing else.
    """

    def __init__(self, id: str, target: Target, options: NewConnection, owner: "Owner") -> None:
        self.id = id
        self.app = options.app
        self.target = target
        self.options = options
        self.settings = owner.settings
        self.output = owner.output
        self.turns = owner.turns
        self.encoder = MessageEncoder(id, options.app, options.binary_type)
        self.state = State.WAITING
        self.turn = 0
        """The number of its last turn after the host was behind: kept by the manager."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.read_at = self._loop.time()
        """When the request was read, in the event loop's time."""
        self._connecting: Connecting | None = None
        self._wire: Wire | None = None
        self._sending = Sending(owner.settings.max_send_buffer, owner.output)
        self._paused = False
        self._size = len(encode(options))  # headers may be as long as a line
        self._ending: Ending | None = None
        self._failure: ErrorPayload | None = None
        # Why a connection that was ended on purpose has not completed its closing handshake.
        self._cut: str | None = None
        self._countdown = Countdown(self._looked, self._overdue, self.faulted)

    @property
    def ending(self) -> bool:
        """Whether the end has been decided; such a connection takes no more messages."""
        return self._ending is not None or self.state >= State.CLOSING

    @property
    def held(self) -> int:
        """About how many bytes it takes while it waits for a place."""
        return self._size + self._sending.held

    @property
    def deadline(self) -> float:
        """When the connection will be cut, in the event loop's time; infinite if that is open."""
        return self._countdown.when

    def _enter(self, state: State) -> None:
        assert state in MAY_BECOME[self.state], f"{self.state.name} to {state.name}"
        self.state = state

    # --- what the manager asks for ---

    @_netted
    def connect(self) -> None:
        """Begin the opening handshake: the connection has been given its place."""
        self._enter(State.CONNECTING)
        logger.info("%s: connecting to %s:%d", self.id, self.target.host, self.target.port)
        timeout = self.options.timeout
        seconds = self.settings.open_timeout if timeout is None else timeout / 1000
        self._connecting = Connecting(
            self, self._owner.dialer, seconds, self._open_timed_out, self._connecting_over
        )

    def send(self, id: Id, opcode: int, payload: bytes | bytearray) -> None:
        """Send one message, or queue it; the request is answered when it has been handed on.

        Raises:
            RequestError: ``not-open`` or ``buffer-full``; nothing has been sent.

        """
        wire = self._wire
        if self.ending or (wire is not None and wire.is_lost):
            raise not_open(self.id)
        try:
            self._sending.send(wire, id, opcode, payload)
        except RequestError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, the others go on
            self._sending.owe(id)
            self.faulted(exc)

    def ping(self, id: Id, timeout: int | None) -> None:
        """Send a Ping before the messages that wait; the request is answered with its Pong.

        Args:
            id: the request's.
            timeout: in milliseconds; None for ``--ping-timeout``, or its default if that is 0.

        Raises:
            RequestError: ``not-open`` or ``buffer-full``; nothing has been sent.

        """
        wire = self._wire
        if self.state < State.OPEN and not self.ending:
            raise not_open_yet(self.id)
        if self.ending or wire is None or wire.is_lost:
            raise not_open(self.id)
        seconds = timeout / 1000 if timeout else self.settings.ping_timeout or PING_TIMEOUT
        try:
            self._sending.ping(wire, id, seconds)
        except RequestError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, the others go on
            self._sending.owe(id)
            self.faulted(exc)

    @_netted
    def pause(self) -> None:
        """Let no message be told until :meth:`unpause`, or until the end is decided."""
        if not self.ending:
            self._paused = True
            if self._wire is not None:
                self._wire.pause()

    @_netted
    def unpause(self) -> None:
        """Let messages be told again."""
        self._paused = False
        if self._wire is not None:
            self._wire.unpause()

    def flush(self) -> None:
        """Write the messages that :meth:`send` has batched."""
        if self._wire is not None and self.state is State.OPEN:
            try:
                self._wire.flush()
            except Exception as exc:  # noqa: BLE001 - whatever it is, the others go on
                self.faulted(exc)

    @_netted
    def end(self, ending: Ending, grace: float | None = None, *, at_once: bool = False) -> None:
        """End the connection: messages that wait go first, then the closing handshake.

        An end that has been decided before stays as it was, but may come sooner.

        Args:
            ending: what to tell the server and the host.
            grace: seconds until the connection is cut, whatever happens; by default the close
                timeout, which starts anew with whatever the server takes.
            at_once: do not let messages wait for the opening handshake.

        """
        if self._ending is None:
            self._ending = ending
            logger.debug("%s: ends (%s)", self.id, ending.cause)
        self.unpause()
        if self.state is State.CLOSED:
            return  # by a fault of that
        if self.state < State.OPEN and (at_once or not self._sending.waits):
            self._abort_opening(
                ending.reason
                if ending.cause != "host"
                else "closed by the host before the opening handshake was done"
            )
            return
        if grace is None:
            self._be_patient()
        else:
            self.cut_off(grace)
        if self.state is State.OPEN:
            self._pump()

    @_netted
    def end_when_open(self, ending: Ending) -> None:
        """End the connection once its opening handshake is done and its messages are sent."""
        if self.state >= State.OPEN:
            self.end(ending)
        else:
            self._ending = self._ending or ending

    @_netted
    def cut_off(self, grace: float) -> None:
        """Cut the connection after `grace` seconds, unless that has been set to be sooner."""
        if self.state is not State.CLOSED:
            self._countdown.set(grace)

    @_netted
    def cut(self, ending: Ending, *, instead: bool = False) -> None:
        """Cut the connection at once: no Close frame, and nothing more of what the server sent.

        An end that has been decided before stays as it was, unless this one counts `instead`; so
        does a completed handshake in any case.
        """
        if self._wire is not None:
            self._wire.abort()  # first: a Close frame of ours that has not left by now never will
        if self._wire is None or self._wire.closing is None:
            if instead or self._ending is None:
                self._ending = ending
            self._cut = ending.reason
        if self.state is State.OPEN:
            # Till its loss is told, another end must not start the closing handshake.
            self._enter(State.CLOSING)
        elif self.state < State.OPEN:
            self._abort_opening(ending.reason)

    def _be_patient(self) -> None:
        """Cut the connection when the server has taken nothing for the close timeout."""
        self._countdown.set_patient(self.settings.close_timeout)

    @_netted
    def hurry(self, seconds: float) -> None:
        """Give a connection that ends no more than so many seconds without progress."""
        if self.state is not State.CLOSED:
            self._countdown.bring_forward(seconds)

    @property
    def is_behind(self) -> bool:
        """Whether messages wait for the host to catch up."""
        return self._wire is not None and self._wire.is_behind

    def wait_for_turn(self) -> None:
        """Be resumed when it is its app's turn again."""
        if self._wire is not None:
            self._wire.wait_for_turn()

    def resume(self) -> None:
        """Take what the server has sent while the host was behind."""
        if self._wire is not None:
            self._wire.resume()

    # --- what the attempt and the wire tell ---

    def opened(self, wire: "Wire", facts: OpenPayload) -> None:
        """The server has accepted the opening handshake."""
        self._enter(State.OPEN)
        self._wire = self._countdown.wire = wire
        if self._connecting is not None:
            self._connecting.stop_timing()
        logger.info("%s: open", self.id)
        self.output.write(encode_event(self.id, self.app, facts))
        if self._paused:
            wire.pause()
        if self._ending:
            self._countdown.count_from_here()
            self._be_patient()
        self._pump()

    def ponged(self, answered: "Answered") -> None:
        """A Ping has been answered; it may be one of the connection's own."""
        self._sending.ponged(answered)

    def writable(self) -> None:
        """The server has read on."""
        self._sending.taken()
        if self.state is State.OPEN:
            self._pump()
        else:
            self._see_off()

    def server_closing(self) -> None:
        """Both Close frames are on their way: TCP must end soon."""
        logger.debug("%s: the server's Close frame has come", self.id)
        if self.state is State.OPEN:
            self._enter(State.CLOSING)
        if not self._see_off():
            # Ours waits behind data: its second begins when it has left.
            self._be_patient()

    def _see_off(self) -> bool:
        """Give the server its second once both Close frames have been handed on; tell whether."""
        wire = self._wire
        over = wire is not None and wire.close_received and wire.watch_close()
        if over:
            self.cut_off(GRACE)
        return over

    def failed(self, code: ConnectionErrorCode, message: str) -> None:
        """The connection has failed; the wire has sent its Close frame and listens no more."""
        if self.state is State.CLOSED:
            return
        if self.state is State.OPEN:
            self._failure = ErrorPayload(message, code)
            self._enter(State.CLOSING)
        else:
            self._cut = message
        self.cut_off(GRACE)

    def lost(self, why: str) -> None:
        """The TCP connection is down, and everything received has been told."""
        if self.state not in (State.OPEN, State.CLOSING):
            return
        if self.state is State.OPEN and self._cut is None:
            self._failure = ErrorPayload(why, "network-error")
        self._cut = self._cut or why
        self._finish()

    def lost_while_paused(self) -> None:
        """The TCP connection is down: requests that wait need not wait for the resume."""
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        for id in self._sending.give_up():
            self.output.insist(encode_not_open, self.id, id)

    def faulted(self, exc: BaseException) -> None:
        """An exception that nobody has foreseen: the connection ends at once.

        Its text stays out of the log, since it may repeat what the server or the host sent.
        """
        logger.error("%s: a fault of the plugin: %s", self.id, fault(exc))
        if self.state is State.CLOSED:
            return
        self._failure = FAULT
        try:
            if self._connecting is not None:
                self._connecting.call_off()
            if self._wire is not None:
                self._wire.abort()
        except Exception as again:  # noqa: BLE001 - whatever it is, the `close` event must come
            logger.error("%s: and another: %s", self.id, fault(again))
        self._finish()

    # --- the course of things ---

    @_netted
    def _connecting_over(self, exc: BaseException | None) -> None:
        """The attempt has ended: the connection is open, or never will be."""
        connecting = self._connecting
        if self.state is State.CONNECTING:
            if exc is not None and connecting is not None:
                failure = connecting.explain(exc)
                if self._failure is None and (self._cut is None or failure is FAULT):
                    self._failure = failure
            self._finish()
        elif exc is not None:
            self.faulted(exc)
        self._connecting = None

    @_netted
    def _open_timed_out(self, seconds: float) -> None:
        self._failure = ErrorPayload(
            f"no opening handshake within {seconds:g} seconds", "open-timeout"
        )
        if self._connecting is not None:
            self._connecting.call_off()

    def _abort_opening(self, why: str) -> None:
        self._cut = self._cut or why
        self._countdown.expire()
        if self._connecting is not None:
            self._connecting.call_off()
        else:
            self._finish()

    @_netted
    def _looked(self) -> None:
        if self._wire is not None:
            self._see_off()  # over TLS nobody else tells that our Close frame has left

    @_netted
    def _overdue(self, seconds: float) -> None:
        self._cut = self._cut or f"the closing handshake took longer than {seconds:g} seconds"
        if self.state < State.OPEN:
            self._abort_opening(self._cut)
        elif self._wire is not None:
            self._wire.abort()

    def _pump(self) -> None:
        """Write what waits as far as the server takes it, then the Close frame if one waits."""
        wire = self._wire
        assert wire
        self._sending.pump(wire)
        if self._ending and not self._sending.waits:
            self._enter(State.CLOSING)
            wire.close(self._ending.code, self._ending.reason)

    # --- the end ---

    def _finish(self) -> None:
        """Write the last lines of this connection and give back its place."""
        outcome = decide(self._failure, self._ending, self._cut, self._wire)
        self._enter(State.CLOSED)
        self._countdown.cancel()
        close = outcome.close
        # Words of the server's or the app's stay out of the log.
        ours = close.code == 1006 or close.cause not in ("host", "server")
        why = f": {close.reason}" if ours else ""
        logger.info("%s: closed with %d (%s)%s", self.id, close.code, close.cause, why)
        # From below upwards, and each whatever becomes of the others.
        with contextlib.ExitStack() as last:
            last.callback(self._owner.closed, self)
            last.callback(self._release)
            last.callback(self.output.insist, encode_event, self.id, self.app, close)
            if outcome.error is not None:
                last.callback(self.output.insist, encode_event, self.id, self.app, outcome.error)
            self._refuse_waiting()

    def _release(self) -> None:
        # Connection, wire and task refer to each other: without this a few hundred KiB of buffers
        # and compression would wait for the garbage collector, with each of them.
        wire, self._wire = self._wire, None
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.release()
        if wire is not None:
            wire.release()
