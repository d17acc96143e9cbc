"""A host for wsplugin in one file to copy, for apps that cannot start a process (iOS, Android).

The plugin runs in the app's own Python, on a thread, and speaks over a socket pair: the same
lines as ever. embedded_demo.py beside this file shows it at work and says how to run it.
In short::

    class Chat(Listener):
        def on_open(self, websocket, headers):
            websocket.send("hello")

    with Host(Settings(allow_hosts=("example.com",))) as host:
        host.create("wss://example.com/", Chat())
        ...

A wrong setting is a `ValueError` that names it, where the Settings are made. The plugin logs to the
app's own handlers, as ``wsplugin``: at level info when and why connections end, never a secret.

An app whose own side is not Python needs of this file no more than `_serve`: it makes the socket
pair, runs ``wsplugin.serve`` on a thread that holds a Python thread state, and reads and writes
lines on its end.

Requests block until they are answered. Listeners are called on one thread of the host's own, in
order, and may make requests. Events wait for them without a bound, because a host that does not
read stops all connections at once: whoever gets more than they can take should close.
"""

import base64
import itertools
import json
import logging
import queue
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Self

import wsplugin
from wsplugin import Settings

CHUNK = 65_536
GRACE = 5.0
"""Seconds that the plugin has to end by itself before it is cut off."""


class RequestError(Exception):
    """The plugin has refused a request: a stable `code`, and a `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class PluginEnded(Exception):
    """The plugin is gone, and why: what was asked of it will not be answered."""


class Listener:
    """What happens to a connection; `on_close` comes once and last, even if the plugin fails."""

    def on_open(self, websocket: "WebSocket", headers: dict[str, str]) -> None:
        """The connection is open; names of the HTTP response's headers are in lower case."""

    def on_message(self, websocket: "WebSocket", data: str | bytes) -> None:
        """A message has arrived: text as `str`, binary as `bytes`."""

    def on_error(
        self,
        websocket: "WebSocket",
        code: str,
        message: str,
        status: int | None,
        headers: dict[str, str] | None,
    ) -> None:
        """The connection has failed; its close comes next. `status`: of an HTTP refusal."""

    def on_close(self, websocket: "WebSocket", code: int, reason: str, cause: str) -> None:
        """The connection has ended. Cause: host, server, limit, background, shutdown, failure."""


class WebSocket:
    """One connection, from :meth:`Host.create`."""

    def __init__(self, host: "Host", listener: Listener) -> None:
        self.id = ""
        self._host = host
        self._listener = listener

    def send(self, data: str | bytes) -> None:
        """Send a message. That it blocks is the back-pressure."""
        if isinstance(data, str):
            payload = {"id": self.id, "type": "text", "data": data}
        else:
            encoded = base64.b64encode(data).decode()
            payload = {"id": self.id, "type": "base64", "data": encoded}
        self._host.request("websocket-send", payload)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the closing handshake; `on_close` tells its end."""
        self._host.request("websocket-close", {"id": self.id, "code": code, "reason": reason})

    def take(self, name: str, payload: dict[str, Any]) -> None:
        """Tell the listener of an event that the host has read."""
        match name:
            case "open":
                self._listener.on_open(self, payload["headers"])
            case "message":
                data = payload["data"]
                text = payload["type"] == "text"
                self._listener.on_message(self, data if text else base64.b64decode(data))
            case "error":
                status, headers = payload.get("status"), payload.get("headers")
                code, message = payload["code"], payload["errMsg"]
                self._listener.on_error(self, code, message, status, headers)
            case "close":
                code, reason, cause = payload["code"], payload["reason"], payload["cause"]
                self._listener.on_close(self, code, reason, cause)


class Host:
    """Runs the plugin on a thread, from its making until :meth:`stop`; use it in a ``with``."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._ids = itertools.count(1)
        # Requests without an answer, and the connection that each would create.
        self._pending: dict[int, tuple[Future[Any], WebSocket | None]] = {}
        self._websockets: dict[str, WebSocket] = {}  # the reader's alone
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stopping = False
        self._ended = ""
        self._status = 1
        self._failure = ""
        self._socket, theirs = socket.socketpair()
        self._plugin = self._start("plugin", self._serve, theirs)
        self._reader = self._start("reader", self._read)
        self._start("listener", self._listen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _start(self, name: str, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name=f"wsplugin {name}", daemon=True)
        thread.start()
        return thread

    def _serve(self, theirs: socket.socket) -> None:
        """Be the plugin, on a thread of its own, until the host's side has ended."""
        with theirs:
            try:
                self._status = wsplugin.serve(theirs.fileno(), theirs.fileno(), self._settings)
            except Exception as exc:
                self._failure = f": {exc}"
                logging.getLogger(__name__).exception("the plugin has failed")

    def create(
        self,
        url: str,
        listener: Listener,
        *,
        headers: Mapping[str, str] | None = None,
        protocols: Sequence[str] = (),
        timeout: float | None = None,
        per_message_deflate: bool = True,
    ) -> WebSocket:
        """Create a connection; returns at once, before it is open. `timeout` is in seconds."""
        payload: dict[str, Any] = {"url": url, "binaryType": "base64"}
        if headers:
            payload["headers"] = dict(headers)
        if protocols:
            payload["protocols"] = list(protocols)
        if timeout is not None:
            payload["timeout"] = round(timeout * 1000)
        if not per_message_deflate:
            payload["perMessageDeflate"] = False
        websocket = WebSocket(self, listener)
        self.request("websocket-create", payload, creates=websocket)
        return websocket

    def background(self) -> None:
        """Tell that the app leaves the screen: ends all connections, then returns."""
        self.request("app-background")

    def describe(self) -> dict[str, Any]:
        """Return the plugin's version, actions and limits."""
        description: dict[str, Any] = self.request("plugin-describe")
        return description

    def request(
        self, action: str, payload: object = None, *, creates: WebSocket | None = None
    ) -> Any:
        """Send a request and return its response.

        Raises:
            RequestError: the plugin has refused it.
            PluginEnded: the plugin ended before it answered.

        """
        answer: Future[Any] = Future()
        with self._lock:
            if self._ended or self._stopping:
                raise PluginEnded(self._ended or "the host has stopped the plugin")
            id = next(self._ids)
            self._pending[id] = answer, creates
        # The id comes first: of a line that is too long the plugin reads no more than the start.
        line = json.dumps({"id": id, "action": action, "payload": payload})
        try:
            # Under a lock of its own: while this waits for the plugin, the reader must go on.
            with self._writing:
                self._socket.sendall(line.encode() + b"\n")
        except OSError:
            pass  # the plugin is gone: the reader sees it too, and says how it ended
        return answer.result()

    def stop(self, grace: float = GRACE) -> int:
        """End the plugin in good order and return its exit status.

        Its input is ended first: it then closes the connections and ends. One that has not ended
        after the grace is cut off, which it takes for the loss of its host.
        """
        self._stopping = True
        for how in (socket.SHUT_WR, socket.SHUT_RDWR):
            if self._plugin.is_alive():
                self._shut_down(how)
                self._plugin.join(grace)
        self._reader.join(grace)
        self._socket.close()
        return self._status

    def _shut_down(self, how: int) -> None:
        try:
            self._socket.shutdown(how)
        except OSError:
            pass  # the plugin is gone

    def _read(self) -> None:
        """Read to the end, always: a line is whole only when its LF has come."""
        parts: list[bytes] = []
        reason = ""
        try:
            while chunk := self._socket.recv(CHUNK):
                *ends, rest = chunk.split(b"\n")
                for end in ends:
                    self._take(b"".join([*parts, end]))
                    parts.clear()
                parts.append(rest)
        except OSError:
            pass  # reset: the plugin is gone
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            reason = f"the plugin wrote what is no line of its protocol ({exc!r})"
            self._shut_down(socket.SHUT_RDWR)
        self._plugin.join(GRACE)
        self._end(reason or f"the plugin ended with status {self._status}{self._failure}")

    def _take(self, line: bytes) -> None:
        message = json.loads(line)
        if "event" in message:
            event = message["payload"]
            id, name, payload = event["id"], event["name"], event["payload"]
            websocket = self._websockets.get(id)
            if name == "close":
                self._websockets.pop(id, None)
            if websocket:
                self._tell(websocket, name, payload)
            return
        with self._lock:
            answer, creates = self._pending.pop(message["id"], (None, None))
        if answer is None:
            return  # to a line that the plugin could not read: this host writes none
        if error := message.get("error"):
            answer.set_exception(RequestError(error["code"], error["errMsg"]))
            return
        if creates:
            creates.id = message["response"]["id"]
            # Before the next line is looked at, which may be an event of this connection.
            self._websockets[creates.id] = creates
        answer.set_result(message["response"])

    def _tell(self, websocket: WebSocket, name: str, payload: dict[str, Any]) -> None:
        self._events.put(lambda: websocket.take(name, payload))

    def _listen(self) -> None:
        while event := self._events.get():
            try:
                event()
            except Exception:
                logging.getLogger(__name__).exception("a listener has failed")

    def _end(self, reason: str) -> None:
        """Fail what is pending, and close every connection that had no close yet."""
        with self._lock:
            self._ended = reason
            pending = [answer for answer, _ in self._pending.values()]
            self._pending.clear()
        for answer in pending:
            answer.set_exception(PluginEnded(reason))
        for websocket in self._websockets.values():
            self._tell(websocket, "close", {"code": 1006, "reason": reason, "cause": "failure"})
        self._websockets.clear()
        self._events.put(None)
