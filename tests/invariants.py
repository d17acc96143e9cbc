"""What holds for every stream of lines that the plugin writes, whatever servers and host do."""

from typing import Any

REQUEST_CODES = {"not-open", "buffer-full", "unknown-id", "invalid-payload", "shutting-down"}
CAUSES = {"host", "server", "limit", "background", "shutdown", "failure"}
NAMING = (
    "websocket-send",
    "websocket-close",
    "websocket-pause",
    "websocket-resume",
    "websocket-ping",
)
"""The actions that name a connection."""


class Violation(AssertionError):
    """A line that the contract does not allow here."""


class Checker:
    """Follows requests and lines; raises at the first line that must not be.

    Every request with an id has exactly one answer. Every connection has exactly one `close` event
    and nothing after it, one `error` event at most and directly before it, `open` before messages.
    What names an app reaches that app's connections, and learns nothing of the others.

    Args:
        refuses: whether creates beyond the limit are refused (``--at-limit refuse``).

    """

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.pending: dict[Any, dict[str, Any]] = {}
        """Requests without answer, by id."""
        self.created: list[str] = []
        """All connections, in order."""
        self.apps: dict[str, str | None] = {}
        """The app of each connection; None for one that was created without a name."""
        self.events: dict[str, list[tuple[str, Any]]] = {}
        """Events by connection."""
        self.sent: dict[str, list[Any]] = {}
        """Data of the sends answered with `{}`, by connection."""
        self.faulty = False
        """Whether a request may be answered with an apology for a fault of the plugin."""
        self.ended = 0
        """How many connections have had their `close` event."""
        self._order: dict[Any, int] = {}
        self._refused: dict[str, int] = {}
        self._existed: dict[Any, list[str]] = {}
        self._error: str | None = None
        # Requests without id, which are answered only if they fail; and lines without an id that
        # can be read, which are answered with an error.
        self._unnamed: list[dict[str, Any]] = []

    def request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take note of a request, before it is written; return it."""
        if request.get("id") is not None:
            assert request["id"] not in self.pending
            self.pending[request["id"]] = request
            self._order[request["id"]] = len(self._order)
            if request["action"] == "app-background":
                app = request.get("app")
                self._existed[request["id"]] = [
                    id for id in self.created if app in (None, self.apps[id])
                ]
        else:
            request |= {"codes": REQUEST_CODES, "optional": True}
            self._unnamed.append(request)
        return request

    def expect_error(self, id: Any, *codes: str) -> dict[str, Any]:
        """Take note of a line that must be answered with an error, before it is written.

        Returns:
            What stands for it in :attr:`pending`.

        """
        line = {"id": id, "action": None, "codes": codes, "optional": False}
        if id is None:
            self._unnamed.append(line)
        else:
            assert id not in self.pending
            self.pending[id] = line
            self._order[id] = len(self._order)
        return line

    def line(self, line: Any) -> None:
        """Check the next line."""
        if self._error is not None:
            payload = line.get("payload", {})
            if (payload.get("id"), payload.get("name")) != (self._error, "close"):
                raise Violation(f"between an error and its close: {line}")
        if "event" in line:
            id = line["payload"]["id"]
            self._event(id, line["payload"]["name"], line["payload"]["payload"])
            if line.get("app") != self.apps[id] or (self.apps[id] is None and "app" in line):
                raise Violation(f"{id} is of the app {self.apps[id]}: {line}")
        else:
            self._answer(line)

    def forget(self, request: dict[str, Any]) -> None:
        """Expect no answer to a request, or to what stands for one, that was not read."""
        if request.get("id") is None:
            self._unnamed.remove(request)
        else:
            del self.pending[request["id"]]

    def finish(self) -> None:
        """Check that nothing is owed."""
        if self.pending:
            raise Violation(f"without answer: {self.pending}")
        if any(not line["optional"] for line in self._unnamed):
            raise Violation(f"without answer: {self._unnamed}")
        for id, events in self.events.items():
            if not events or events[-1][0] != "close":
                raise Violation(f"{id} has not been closed: {events}")

    def closed(self, id: str) -> bool:
        """Tell whether a connection has had its `close` event."""
        return bool(self.events[id]) and self.events[id][-1][0] == "close"

    def _answer(self, line: Any) -> None:
        if line["id"] is None:
            self._answer_unnamed(line)
            return
        request = self.pending.pop(line["id"], None)
        if request is None:
            raise Violation(f"not asked for: {line}")
        action = request["action"]
        if action is None:
            if self.faulty and line.get("error", {}).get("code") == "invalid-request":
                return
            if line.get("error", {}).get("code") not in request["codes"]:
                raise Violation(f"{line} to what must be {request['codes']}")
            return
        id = request.get("payload", {}).get("id")
        if action in NAMING:
            self._check_reach(line, id, request)
        if "error" in line:
            apology = self.faulty and line["error"]["errMsg"].startswith("internal error")
            known = line["error"]["code"] in REQUEST_CODES or (
                line["error"]["code"] == "limit-reached"
                and action == "websocket-create"
                and self.refuses
            )
            if not known and not apology:
                raise Violation(f"{line} to {request}")
            if action == "websocket-send" and line["error"]["code"] == "not-open":
                self._refused.setdefault(id, self._order[line["id"]])
        elif action == "websocket-create":
            id = line["response"]["id"]
            if id != f"ws-{len(self.created) + 1}":
                raise Violation(f"{line} after {len(self.created)} connections")
            self.created.append(id)
            self.apps[id] = request.get("app")
            self.events[id] = []
            self.sent[id] = []
        elif action == "websocket-send":
            refused = self._refused.get(id, self._order[line["id"]])
            if refused < self._order[line["id"]] or self.closed(id):
                raise Violation(f"{line} to {request} after an end")
            self.sent[id].append(request["payload"]["data"])
        elif action == "websocket-ping":
            rtt = line["response"]["rtt"]
            if self.closed(id) or not isinstance(rtt, float) or rtt < 0:
                raise Violation(f"{line} to {request}")
        elif action == "app-background":
            left = [id for id in self._existed[line["id"]] if not self.closed(id)]
            if left:
                raise Violation(f"{line} before the end of {left}")

    def _check_reach(self, line: Any, id: str, request: dict[str, Any]) -> None:
        """See whether a request has reached a connection, and whether it was to."""
        code = line.get("error", {}).get("code")
        if code not in (None, "unknown-id", "not-open", "buffer-full"):
            return
        app = request.get("app")
        exists = id in self.events
        if (code != "unknown-id") != (exists and (app in (None, self.apps[id]) or self.closed(id))):
            raise Violation(f"{line} to {request}, of {id} of the app {self.apps.get(id)}")

    def _answer_unnamed(self, line: Any) -> None:
        # What must be answered goes first: what may be is answered with the same codes.
        for request in sorted(self._unnamed, key=lambda request: bool(request["optional"])):
            apology = self.faulty and line["error"]["errMsg"].startswith("internal error")
            if line.get("error", {}).get("code") in request["codes"] or apology:
                self._unnamed.remove(request)
                return
        raise Violation(f"not asked for: {line}")

    def _event(self, id: str, name: str, payload: Any) -> None:
        if id not in self.events:
            raise Violation(f"{name} of {id} before the answer that creates it")
        events = self.events[id]
        names = [name for name, _ in events]
        if "close" in names:
            raise Violation(f"{name} of {id} after its close")
        match name:
            case "open":
                if names:
                    raise Violation(f"open of {id} after {names}")
            case "message":
                if "open" not in names:
                    raise Violation(f"message of {id} before its open")
            case "error":
                self._error = id
            case "close":
                self._check_close(id, payload, "error" in names)
                self._error = None
                self.ended += 1
            case _:
                raise Violation(f"unknown event {name}")
        events.append((name, payload))

    def _check_close(self, id: str, payload: Any, failed: bool) -> None:
        code, reason, cause = payload["code"], payload["reason"], payload["cause"]
        if cause == "limit" and self.refuses:
            raise Violation(f"{id} was evicted, and creates are to be refused: {payload}")
        if cause not in CAUSES or failed != (cause == "failure"):
            raise Violation(f"cause of {id} with{'' if failed else 'out'} error: {payload}")
        if (failed or code == 1006) and not (code == 1006 and reason):
            raise Violation(f"an abnormal end of {id} must be 1006, and say why: {payload}")
        # A server that closes and does not take our answer has not completed its handshake.
        stuck = reason.startswith("the closing handshake took longer")
        if cause == "server" and code == 1006 and not stuck:
            raise Violation(f"no server can close with 1006: {payload}")
