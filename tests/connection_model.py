"""A small model of the contract: what comes of host lines and server moves, in no time.

What it knows of a connection is its state; what comes of a step are answers, events and frames.
"""

import struct
from collections import deque
from typing import Any

from harness import CLOSE, PONG, TEXT, close_frame

LIMIT = 2
"""How many connections there may be: few, so that evictions are common."""

WAITING, CONNECTING, OPEN, CLOSING, DONE, CLOSED = range(6)
"""DONE: both Close frames have been sent, TCP is still up."""

Close = tuple[int, str, str]
"""Code, reason and cause of a `close` event."""


class Connection:
    """What the model knows of one connection."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.state = WAITING
        self.queue: list[tuple[Any, str]] = []
        self.ending: Close | None = None
        self.outcome: Close | None = None
        self.aborted = False

    @property
    def leaving(self) -> bool:
        """Whether its end has been decided."""
        return self.ending is not None or self.state >= CLOSING


class Model:
    """The contract. What it expects to come is collected in lists that a step empties."""

    def __init__(self, created: int) -> None:
        self.created = created
        self.connections: dict[str, Connection] = {}
        self.backgrounds: deque[tuple[Any, list[Connection]]] = deque()
        self.answers: dict[Any, str] = {}
        self.events: dict[str, list[tuple[str, Any]]] = {}
        self.frames: dict[str, list[tuple[int, bytes]]] = {}
        self.opening: list[str] = []
        """Connections whose TCP connection comes up in this step."""
        self.ended: list[str] = []
        """Connections of which the plugin ends TCP in this step."""

    # What the host asks for.

    def create(self, request: Any) -> None:
        self.created += 1
        new = Connection(f"ws-{self.created}")
        self.connections[new.id] = new
        self.answers[request] = new.id
        staying = [c for c in self.living() if not c.leaving]
        if len(staying) > LIMIT:
            reason = f"connection limit of {LIMIT} reached"
            self._end(staying[0], (1001, reason, "limit"), at_once=True)
        self._give_places()

    def send(self, request: Any, id: str, text: str) -> None:
        connection = self.connections.get(id)
        if connection is None:
            self.answers[request] = "unknown-id"
        elif connection.leaving:
            self.answers[request] = "not-open"
        elif connection.state == OPEN:
            self._deliver(connection, request, text)
        else:
            connection.queue.append((request, text))

    def close(self, request: Any, id: str, code: int, reason: str) -> None:
        connection = self.connections.get(id)
        self.answers[request] = "{}" if connection else "unknown-id"
        if connection and not connection.leaving:
            self._end(connection, (code, reason, "host"))

    def background(self, request: Any) -> None:
        self.backgrounds.append((request, self.living()))
        for connection in self.living():
            reason = "application entered background"
            self._end(connection, (1001, reason, "background"), at_once=True)
        self._answer_backgrounds()

    def settle(self) -> None:
        """Let what was aborted end, and those that wait begin."""
        for connection in self.living():
            if connection.aborted:
                self.ended.append(connection.id)
                self._finish(connection, self._abnormal(connection))

    # What a server does.

    def accept(self, connection: Connection) -> None:
        connection.state = OPEN
        self._event(connection, "open")
        queue, connection.queue = connection.queue, []
        for request, text in queue:
            self._deliver(connection, request, text)
        if connection.ending:
            self._start_closing(connection)

    def message(self, connection: Connection, text: str) -> None:
        if connection.state in (OPEN, CLOSING):
            self._event(connection, "message", text)

    def ping(self, connection: Connection, payload: bytes) -> None:
        if connection.state in (OPEN, CLOSING):
            self.frames.setdefault(connection.id, []).append((0x80 | PONG, payload))

    def server_close(self, connection: Connection, code: int | None, reason: str) -> None:
        if connection.state == OPEN:
            payload = close_frame(code, reason)[2:]
            self.frames.setdefault(connection.id, []).append((0x80 | CLOSE, payload))
            connection.outcome = (1005 if code is None else code, reason, "server")
            connection.state = DONE
        elif connection.state == CLOSING:
            connection.outcome = connection.ending
            connection.state = DONE

    def end_of_tcp(self, connection: Connection, error: str = "network-error") -> None:
        """TCP has ended, or a failure that the plugin ends it for."""
        if connection.state == DONE:
            assert connection.outcome
            self._finish(connection, connection.outcome)
        elif connection.state == CLOSING:
            self._finish(connection, self._abnormal(connection))
        else:
            self._finish(connection, (1006, "", "failure"), error)

    def living(self) -> list[Connection]:
        """All that have not had their `close` event, oldest first."""
        return [c for c in self.connections.values() if c.state != CLOSED]

    # What comes of it.

    def _end(self, connection: Connection, ending: Close, *, at_once: bool = False) -> None:
        connection.ending = connection.ending or ending
        if connection.state < OPEN and (at_once or not connection.queue):
            if connection.state == WAITING:
                self._finish(connection, self._abnormal(connection))
            else:
                connection.aborted = True
        elif connection.state == OPEN:
            self._start_closing(connection)

    def _start_closing(self, connection: Connection) -> None:
        assert connection.ending
        code, reason, _ = connection.ending
        payload = struct.pack("!H", code) + reason.encode()
        self.frames.setdefault(connection.id, []).append((0x80 | CLOSE, payload))
        connection.state = CLOSING

    def _deliver(self, connection: Connection, request: Any, text: str) -> None:
        self.answers[request] = "{}"
        self.frames.setdefault(connection.id, []).append((0x80 | TEXT, text.encode()))

    def _abnormal(self, connection: Connection) -> Close:
        assert connection.ending
        return (1006, "", connection.ending[2])

    def _event(self, connection: Connection, name: str, detail: Any = None) -> None:
        self.events.setdefault(connection.id, []).append((name, detail))

    def _finish(self, connection: Connection, close: Close, error: str | None = None) -> None:
        for request, _ in connection.queue:
            self.answers[request] = "not-open"
        connection.queue = []
        if error:
            self._event(connection, "error", error)
        self._event(connection, "close", close)
        connection.state = CLOSED
        self._answer_backgrounds()
        self._give_places()

    def _give_places(self) -> None:
        living = self.living()
        free = LIMIT - sum(connection.state != WAITING for connection in living)
        for connection in [c for c in living if c.state == WAITING][: max(free, 0)]:
            connection.state = CONNECTING
            self.opening.append(connection.id)

    def _answer_backgrounds(self) -> None:
        while self.backgrounds and all(c.state == CLOSED for c in self.backgrounds[0][1]):
            self.answers[self.backgrounds.popleft()[0]] = "{}"
