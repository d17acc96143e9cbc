"""The async manager: requests to effects on connections.

Dispatch never waits, so the order of lines is the order of effects and a stalled server holds up
nobody else.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from wsplugin.connection import GRACE, Connection
from wsplugin.decoding import decode_request
from wsplugin.encoding import encode_answer, encode_done, encode_error
from wsplugin.log import fault
from wsplugin.messages import (
    App,
    CreateAnswer,
    Created,
    DescribeAnswer,
    Id,
    RequestError,
)
from wsplugin.outcome import Ending, not_open
from wsplugin.output import Output
from wsplugin.places import Places
from wsplugin.policy import (
    check_close,
    check_headers,
    check_policy,
    check_protocols,
    parse_url,
    with_host_header,
)
from wsplugin.requests import (
    Background,
    Close,
    Describe,
    NewConnection,
    OutgoingMessage,
    Pause,
    Ping,
    Request,
    Resume,
)
from wsplugin.settings import Settings
from wsplugin.turns import Turns

if TYPE_CHECKING:
    from wsplugin.network.opening import Dialer

logger = logging.getLogger(__name__)

BACKGROUND: Final = Ending(1001, "application entered background", "background")
SHUTDOWN: Final = Ending(1001, "plugin shutting down", "shutdown")
CUT: Final = Ending(1006, "cut by the host", "host")
EXPIRED: Final = Ending(1006, "it was still there at the exit timeout", "shutdown")


class Manager:
    """Carries out requests on up to ``settings.max_connections`` connections of each app.

    `on_idle` is called once, when an end has been asked for and no connection is left.
    """

    def __init__(
        self,
        settings: Settings,
        output: Output,
        on_idle: Callable[[], None],
        dialer: "Dialer | None" = None,
    ) -> None:
        self.settings = settings
        self.output = output
        self.dialer = dialer
        self._on_idle = on_idle
        self._limit = Ending(
            1001, f"connection limit of {settings.max_connections} reached", "limit"
        )
        self._created = 0
        self._turn = 0
        # All that have not had their `close` event.
        self._connections: dict[str, Connection] = {}
        # Of each app that has connections, and of the unnamed one.
        self._places: dict[App, Places[Connection]] = {}
        self.turns = Turns(asyncio.get_running_loop().call_soon, self._places)
        # Those that have been sent messages in this batch of lines; a dictionary for its order.
        self._batched: dict[Connection, None] = {}
        # Requests of app-background, each with the connections that it still waits for.
        self._backgrounds: list[tuple[Id, set[str]]] = []
        self._ending = False
        self._lingering: asyncio.TimerHandle | None = None
        self._stopped = False

    def handle(self, line: bytes | bytearray | RequestError) -> None:
        """Carry out one line from the host and write its answer, now or when it is due."""
        id: Id = None
        try:
            if isinstance(line, RequestError):
                raise line
            request = decode_request(line)
            if request is None:
                return
            id = request.id
            if self._stopped:
                raise RequestError("shutting-down", "the plugin is ending")
            if isinstance(request, OutgoingMessage):  # asked first, as it is what comes most
                self._send(request)
            else:
                self._dispatch(request)
        except RequestError as error:
            logger.debug("a request is refused: %s", error.code)
            self.output.insist(encode_error, error, error.id if id is None else id)
        except Exception as exc:  # noqa: BLE001 - the next line must work, whatever it was
            logger.error("a request has failed: %s", fault(exc))
            apology = RequestError("invalid-request", "internal error, see the log")
            self.output.insist(encode_error, apology, id)

    def flush(self) -> None:
        """Write the messages of all requests since the last call, a write for each connection."""
        batched, self._batched = self._batched, {}
        for connection in batched:
            connection.flush()

    def resume(self) -> None:
        """Take what servers have sent meanwhile, until the host is behind again.

        Who has had less goes first of the apps, who took longest ago of the connections of an app:
        else a server whose every read fills the output would leave no turn to the others.
        """
        behind: dict[App, list[Connection]] = {}
        for connection in sorted(self._connections.values(), key=lambda c: c.turn):
            if connection.is_behind:
                behind.setdefault(connection.app, []).append(connection)
        for app in sorted(behind, key=self.turns.had):
            for connection in behind[app]:
                if self.output.full:
                    return
                self._turn += 1
                connection.turn = self._turn
                if self.turns.is_over(app):
                    connection.wait_for_turn()
                else:
                    connection.resume()

    # --- actions ---

    def _dispatch(self, request: Request) -> None:
        match request:
            case NewConnection():
                self._create(request)
            case Close():
                self._close(request)
            case Pause():
                self._pause(request)
            case Resume():
                self._resume(request)
            case Ping():
                self._ping(request)
            case Background():
                self._background(request)
            case Describe():
                self._describe(request)

    def _send(self, message: OutgoingMessage) -> None:
        connection = self._find(message.connection, message.app)
        if connection is None:
            raise not_open(message.connection)
        self._batched[connection] = None
        connection.send(message.id, message.opcode, message.data)

    def _create(self, request: NewConnection) -> None:
        target = parse_url(request.url)
        check_headers(request.headers, request.host_headers)
        target = with_host_header(target, request.host_headers)
        check_protocols(request.protocols)
        check_policy(target, self.settings)
        places = self._places.get(request.app)
        if places is None:
            limit = self.settings.max_connections
            places = Places(limit, limit * self.settings.max_send_buffer)
        if self.settings.at_limit == "refuse" and places.is_full:
            raise RequestError("limit-reached", f"{self._limit.reason} (--at-limit refuse)")
        connection = Connection(f"ws-{self._created + 1}", target, request, self)
        answer = b""
        if request.id is not None:
            answer = encode_answer(CreateAnswer(request.id, Created(connection.id)))
        # From here on it exists.
        self._connections[connection.id] = connection
        self._places[request.app] = places
        self._created += 1
        self.output.write(answer)
        try:
            places.arrive(connection)
            if (oldest := places.evicted()) is not None:
                oldest.end(self._limit, GRACE, at_once=True)
            for waiting in places.too_many_waiting():
                waiting.end(self._limit, GRACE, at_once=True)
            self._give_places(places)
        except Exception as exc:  # noqa: BLE001 - the request has its answer and gets no other
            connection.faulted(exc)

    def _close(self, request: Close) -> None:
        payload = request.payload
        code = 1000 if payload.code is None else payload.code
        reason = payload.reason or ""
        check_close(code, reason)
        connection = self._find(payload.id, request.app)
        self._answer(request.id)
        if connection is None:
            return
        if payload.timeout == 0:
            connection.cut(CUT)
            return
        if not connection.ending:
            connection.end(Ending(code, reason, "host"))
        if payload.timeout is not None:
            connection.hurry(min(payload.timeout / 1000, self.settings.close_timeout))

    def _pause(self, request: Pause) -> None:
        connection = self._find(request.payload.id, request.app)
        if connection is not None:
            connection.pause()
        self._answer(request.id)

    def _resume(self, request: Resume) -> None:
        connection = self._find(request.payload.id, request.app)
        self._answer(request.id)
        if connection is not None:
            connection.unpause()

    def _ping(self, request: Ping) -> None:
        payload = request.payload
        connection = self._find(payload.id, request.app)
        if connection is None:
            raise not_open(payload.id)
        connection.ping(request.id, payload.timeout)

    def _background(self, request: Background) -> None:
        ending = list(self._of(request.app))
        self._backgrounds.append((request.id, {connection.id for connection in ending}))
        logger.info("background: %d connections end", len(ending))
        for connection in ending:
            connection.end(BACKGROUND, GRACE, at_once=True)
        self._answer_backgrounds()

    def _describe(self, request: Describe) -> None:
        if request.id is not None:
            self.output.write(encode_answer(DescribeAnswer(request.id, self.settings.describe())))

    def _find(self, id: str, app: App) -> Connection | None:
        """Return a connection, or None if it has had its ``close`` event.

        Raises:
            RequestError: ``unknown-id``; there is none, or it is another app's.

        """
        connection = self._connections.get(id)
        if connection is None:
            number = re.fullmatch(r"ws-([1-9][0-9]{0,18})", id)
            if number is None or int(number[1]) > self._created:
                raise unknown_id()
        elif app is not UNSET and connection.app != app:
            raise unknown_id()
        return connection

    def _of(self, app: App) -> Iterator[Connection]:
        """Iterate over the connections of an app, or over all if none is named, oldest first.

        They may leave meanwhile.
        """
        named = list(self._connections.values())
        return (each for each in named if app is UNSET or each.app == app)

    def _answer(self, id: Id) -> None:
        if id is not None:
            self.output.write(encode_done(id))

    # --- places ---

    def _give_places(self, places: Places[Connection]) -> None:
        """Let connections that wait begin, as places are free; hurry those that leave."""
        while (connection := places.give()) is not None:
            connection.connect()
        for leaving in places.hurried():
            leaving.cut_off(GRACE)

    def closed(self, connection: Connection) -> None:
        """Forget a connection that has had its ``close`` event."""
        del self._connections[connection.id]
        try:
            places = self._places[connection.app]
            places.leave(connection)
            if not places:
                del self._places[connection.app]
                self.turns.forget(connection.app)
            self._batched.pop(connection, None)
            for _, awaited in self._backgrounds:
                awaited.discard(connection.id)
            self._answer_backgrounds()
            self._give_places(places)
        finally:
            self._check_idle()

    def _answer_backgrounds(self) -> None:
        over = [id for id, awaited in self._backgrounds if not awaited]
        self._backgrounds = [background for background in self._backgrounds if background[1]]
        for id in over:
            if id is not None:
                self.output.insist(encode_done, id)

    # --- the end ---

    def finish(self) -> None:
        """Carry out what has been asked for, then end all connections."""
        self._ending = True
        for connection in self._of(UNSET):
            connection.end_when_open(SHUTDOWN)
        self._check_idle()

    def linger(self, seconds: float) -> None:
        """As :meth:`finish`, in so many seconds or as soon as the servers have closed all."""
        for connection in self._of(UNSET):
            connection.unpause()
        if seconds > 0 and self._connections:
            self._ending = True
            self._lingering = asyncio.get_running_loop().call_later(seconds, self.finish)
        else:
            self.finish()

    def stop(self) -> None:
        """End all connections within a second, and refuse all further requests."""
        self._ending = self._stopped = True
        for connection in self._of(UNSET):
            connection.end(SHUTDOWN, GRACE, at_once=True)
        self._check_idle()

    def cut(self) -> None:
        """End all connections at once, and refuse all further requests."""
        self._ending = self._stopped = True
        for connection in self._of(UNSET):
            connection.cut(EXPIRED, instead=True)
        self._check_idle()

    def _check_idle(self) -> None:
        if self._ending and not self._connections:
            self._ending = False
            if self._lingering is not None:
                self._lingering.cancel()
            self._on_idle()


def unknown_id() -> RequestError:
    """Say that an id is not known, or not to the app that asks: it cannot tell the two apart."""
    return RequestError("unknown-id", "no connection was ever created under this id")
