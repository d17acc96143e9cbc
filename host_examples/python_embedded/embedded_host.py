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

Requests block until they are answered. A listener is called on a thread of its connection's own,
in order, and may make requests. One that is slow holds up its own server and nobody else: when too
much waits for it, the plugin stops reading from that server, until half of it has been taken. That
is for seconds, not minutes: a server may end a connection for its silence. The thread lives until
the connection is closed, and keeps the process alive as long, as those of an idle host do not.
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

from msgspec.structs import replace

import wsplugin
from wsplugin import Settings

CHUNK = 65_536
GRACE = 5.0
"""Seconds that the plugin has to end by itself before it is cut off."""
REST = 1.0
"""Seconds for what a plugin that has ended has left to be read."""


class RequestError(Exception):
    """The plugin has refused a request: a stable `code`, and a `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class PluginEnded(Exception):
    """The plugin is gone or never was, and why: what was asked of it will not be answered."""


class Listener:
    """What happens to a connection; `on_close` comes once and last, even if the plugin fails.

    What a listener throws is logged as this module's, and ends nothing.
    """

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
    """One connection, from :meth:`Host.create`.

    Every method raises `RequestError` if the plugin refuses and `PluginEnded` if it is gone.
    Times are in seconds.
    """

    def __init__(self, host: "Host", listener: Listener) -> None:
        self.id = ""
        self.protocol = ""
        """The subprotocol chosen, from the opening on; "" if there is none."""
        self.extensions = ""
        """As negotiated, from the opening on; "" if there are none."""
        self.profile: dict[str, float] = {}
        """The times of the opening, in milliseconds, under the plugin's own names."""
        self._host = host
        self._listener = listener
        self._events: queue.SimpleQueue[tuple[Callable[[], None], int] | None] = queue.SimpleQueue()
        self._bytes = 0
        # Whether the host holds back messages because too much waits, or the app has asked to;
        # under the lock, in which the requests for it are put in order, too.
        self._full = False
        self._paused = False
        self._lock = threading.Lock()
        # No daemon: a connection that is not closed keeps the process alive.
        threading.Thread(target=self._listen, name="wsplugin listener", daemon=False).start()

    def send(self, data: str | bytes | bytearray | memoryview) -> None:
        """Send a message, text or anything like `bytes`. That it blocks is the back-pressure.

        Text that is none (a lone surrogate) is a `ValueError`.
        """
        if isinstance(data, str):
            payload = {"id": self.id, "type": "text", "data": data}
        else:
            encoded = base64.b64encode(memoryview(data).tobytes()).decode()
            payload = {"id": self.id, "type": "base64", "data": encoded}
        self._host.request("websocket-send", payload)

    def close(self, code: int = 1000, reason: str = "", *, timeout: float | None = None) -> None:
        """Start the closing handshake; `on_close` tells its end.

        Code 1005 sends none. With a `timeout` the connection is cut if its end takes longer; 0
        cuts it at once.
        """
        payload = {"id": self.id, "code": code} | ({"reason": reason} if reason else {})
        self._host.request("websocket-close", payload | milliseconds(timeout))

    def pause(self) -> None:
        """Hold messages back, until :meth:`resume`: the plugin stops reading from the server.

        Those that wait for the listener already still come.
        """
        with self._lock:
            self._paused = True
            answer = self._host.submit("websocket-pause", {"id": self.id})
        answer.result()

    def resume(self) -> None:
        """Let messages come again."""
        with self._lock:
            self._paused = False
            if self._full:
                return  # they come as soon as half of what waits has been taken
            answer = self._host.submit("websocket-resume", {"id": self.id})
        answer.result()

    def ping(self, timeout: float | None = None) -> float:
        """Return how many seconds the server took to answer a Ping.

        If it does not answer in time, the connection fails and this is refused with `not-open`.
        """
        payload = {"id": self.id} | milliseconds(timeout)
        rtt: float = self._host.request("websocket-ping", payload)["rtt"] / 1000
        return rtt

    def take(self, name: str, payload: dict[str, Any]) -> None:
        """Queue an event that the host has read, for the listener."""
        match name:
            case "open":
                headers = payload["headers"]
                self.protocol = payload.get("protocol", "")
                self.extensions = payload.get("extensions", "")
                self.profile = payload.get("profile", {})
                self._queue(lambda: self._listener.on_open(self, headers))
            case "message" if payload["type"] == "text":
                text = payload["data"]
                self._queue(lambda: self._listener.on_message(self, text), len(text.encode()))
            case "message" if payload["type"] == "base64":
                data = base64.b64decode(payload["data"])
                self._queue(lambda: self._listener.on_message(self, data), len(data))
            case "error":
                status, headers = payload.get("status"), payload.get("headers")
                code, message = payload["code"], payload["errMsg"]
                self._queue(lambda: self._listener.on_error(self, code, message, status, headers))
            case "close":
                code, reason, cause = payload["code"], payload["reason"], payload["cause"]
                self._queue(lambda: self._listener.on_close(self, code, reason, cause))
                self.end()

    def end(self) -> None:
        """Let the listener's thread end behind what waits."""
        self._events.put(None)

    def _queue(self, event: Callable[[], None], size: int = 0) -> None:
        self._events.put((event, size))
        with self._lock:
            self._bytes += size
            if not self._full and self._fill() >= 1 and "pause" in self._host.features:
                self._full = True
                self._host.post("websocket-pause", {"id": self.id})

    def _fill(self) -> float:
        """Return how full the queue is, 1 for full."""
        by_bytes = self._bytes / self._host.queue_bytes
        return max(by_bytes, self._events.qsize() / self._host.queue_messages)

    def _listen(self) -> None:
        while queued := self._events.get():
            event, size = queued
            with self._lock:
                self._bytes -= size
                if self._full and self._fill() <= 0.5:
                    self._full = False
                    if not self._paused:
                        self._host.post("websocket-resume", {"id": self.id})
            try:
                event()
            except BaseException:
                logging.getLogger(__name__).exception("a listener has failed")
            del queued, event  # the last message would stay in memory until the next comes


class Host:
    """Runs the plugin on a thread, from its making until :meth:`stop`; use it in a ``with``.

    Raises:
        PluginEnded: what runs there is no plugin, or speaks another protocol.

    Args:
        settings: the plugin's; without an `exit_timeout` they get one of 1.5 seconds, so that it
            ends within two when it is stopped, whatever the network does.
        appends_options: False leaves the settings as they are.
        start_timeout: seconds within which the plugin must have described itself.
        queue_bytes: message data that may wait for a listener before its server is held up; a
            threshold: what is on the way is taken besides.
        queue_messages: the same in events.
        serve: what speaks for the plugin, see ``wsplugin.serve``.

    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        appends_options: bool = True,
        start_timeout: float = 5.0,
        queue_bytes: int = 1_048_576,
        queue_messages: int = 1024,
        serve: Callable[[int, int, Settings], int] | None = None,
    ) -> None:
        self._settings = settings or Settings()
        if appends_options and self._settings.exit_timeout is None:
            self._settings = replace(self._settings, exit_timeout=1.5)
        self._run = serve or wsplugin.serve
        self.queue_bytes = queue_bytes
        self.queue_messages = queue_messages
        self.description: dict[str, Any] = {}
        """What the plugin has said of itself: its version, actions, limits and features."""
        self.features: frozenset[str] = frozenset()
        self._ids = itertools.count(1)
        # Requests without an answer, and the connection that each would create.
        self._pending: dict[int, tuple[Future[Any], WebSocket | None]] = {}
        self._websockets: dict[str, WebSocket] = {}  # the reader's alone
        # What is to be written: the reader must never wait for the plugin to read.
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended = ""
        self._status = 1
        self._failure = ""
        self._socket, theirs = socket.socketpair()
        self._plugin = self._start("plugin", self._serve, theirs)
        self._reader = self._start("reader", self._read)
        self._writer = self._start("writer", self._write)
        try:
            self._check(start_timeout)
        except BaseException:
            self._shut_down(socket.SHUT_RDWR)
            self.stop()
            raise

    def _check(self, timeout: float) -> None:
        """Ask the plugin what it is."""
        try:
            description = self.submit("plugin-describe").result(timeout)
        except TimeoutError:
            raise PluginEnded(f"the plugin did not describe itself in {timeout:g} s") from None
        except RequestError as exc:
            raise PluginEnded(f"the plugin did not describe itself: {exc}") from exc
        if not isinstance(description, dict):
            raise PluginEnded(f"the plugin is no wsplugin: it describes itself as {description!r}")
        name, protocol = description.get("name"), description.get("protocol")
        if name != "wsplugin":
            raise PluginEnded(f"the plugin is no wsplugin: its name is {name!r}")
        if protocol != 1:
            raise PluginEnded(f"the plugin speaks protocol {protocol!r}, this host protocol 1")
        self.description = description
        self.features = frozenset(description.get("features") or ())

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
                self._status = self._run(theirs.fileno(), theirs.fileno(), self._settings)
            except Exception as exc:
                self._failure = f": {exc}"
                logging.getLogger(__name__).exception("the plugin has failed")
            finally:
                # A process that was forked meanwhile would hold the stream open, closed or not.
                shut_down(theirs, socket.SHUT_WR)

    def create(
        self,
        url: str,
        listener: Listener,
        *,
        headers: Mapping[str, str] | None = None,
        protocols: Sequence[str] = (),
        timeout: float | None = None,
        per_message_deflate: bool = True,
        tcp_no_delay: bool = True,
        app: str | None = None,
        host_headers: Mapping[str, str] | None = None,
    ) -> WebSocket:
        """Create a connection; returns at once, before it is open.

        Args:
            url: ``wss://`` or ``ws://``.
            listener: what is told of its events; maybe before this returns.
            headers: of the opening request, as the app asks for them.
            protocols: subprotocols to offer.
            timeout: for the opening, in seconds.
            per_message_deflate: whether to offer compression.
            tcp_no_delay: False has small messages wait for each other (Nagle's algorithm).
            app: which app this is for, where one host serves several.
            host_headers: what the host itself adds, in place of the app's; here ``Host`` and
                ``Referer`` may be set, too.

        """
        payload: dict[str, Any] = {"url": url, "binaryType": "base64"} | milliseconds(timeout)
        if headers:
            payload["headers"] = dict(headers)
        if protocols:
            payload["protocols"] = list(protocols)
        if not per_message_deflate:
            payload["perMessageDeflate"] = False
        if not tcp_no_delay:
            payload["tcpNoDelay"] = False
        own = dict(host_headers) if host_headers else None
        websocket = WebSocket(self, listener)
        try:
            self.request("websocket-create", payload, app=app, headers=own, creates=websocket)
        except BaseException:
            if not websocket.id:
                websocket.end()
            raise
        return websocket

    def background(self, app: str | None = None) -> None:
        """Tell that the app leaves the screen: ends all its connections, then returns."""
        self.request("app-background", app=app)

    def describe(self) -> dict[str, Any]:
        """Return the plugin's version, actions, features and limits."""
        description: dict[str, Any] = self.request("plugin-describe")
        return description

    def request(self, action: str, payload: object = None, **envelope: Any) -> Any:
        """Send a request and return its response; see :meth:`submit`.

        Raises:
            RequestError: the plugin has refused it.
            PluginEnded: the plugin ended before it answered.
            ValueError: it cannot be written as JSON in UTF-8; so for `TypeError`.

        """
        return self.submit(action, payload, **envelope).result()

    def submit(
        self,
        action: str,
        payload: object = None,
        *,
        app: str | None = None,
        headers: Mapping[str, str] | None = None,
        creates: WebSocket | None = None,
    ) -> Future[Any]:
        """Send a request, and return the future of its response."""
        answer: Future[Any] = Future()
        answer.set_running_or_notify_cancel()  # it cannot be cancelled: it has been sent
        id = next(self._ids)
        request = {"id": id, "action": action, "app": app, "headers": headers, "payload": payload}
        line = encode(request)
        with self._lock:
            if self._ended:
                raise PluginEnded(self._ended)
            self._pending[id] = answer, creates
            self._lines.put(line)
        return answer

    def post(self, action: str, payload: object) -> None:
        """Send a request whose answer nobody waits for; to a plugin that is gone, none."""
        line = encode({"id": next(self._ids), "action": action, "payload": payload})
        with self._lock:
            if not self._ended:
                self._lines.put(line)

    def stop(self, grace: float = GRACE) -> int:
        """End the plugin in good order and return its exit status; a second time, the same.

        Its input is ended first: it then closes the connections and ends. One that has not ended
        after the grace is cut off, which it takes for the loss of its host.
        """
        with self._lock:
            self._ended = self._ended or "the host has stopped the plugin"
        self._see_off(grace)
        self._reader.join(REST)
        self._shut_down(socket.SHUT_RDWR)
        self._reader.join(GRACE)
        self._writer.join(REST)
        self._socket.close()
        return self._status

    def _see_off(self, grace: float) -> None:
        """End the plugin's input, and cut it off if it has not ended after the grace."""
        self._lines.put(None)
        self._plugin.join(grace)
        if self._plugin.is_alive():
            self._shut_down(socket.SHUT_RDWR)
            self._plugin.join(GRACE)

    def _shut_down(self, how: int) -> None:
        shut_down(self._socket, how)

    def _write(self) -> None:
        """Write what is to be written, then the end."""
        try:
            while line := self._lines.get():
                self._socket.sendall(line)
        except OSError:
            pass  # the plugin is gone: the reader sees it too, and says how it ended
        self._shut_down(socket.SHUT_WR)

    def _read(self) -> None:
        """Read to the end, always: a line is whole only when its LF has come."""
        parts: list[bytes] = []
        line = b""
        reason = ""
        try:
            while chunk := self._socket.recv(CHUNK):
                *ends, rest = chunk.split(b"\n")
                for end in ends:
                    line = b"".join([*parts, end])
                    parts.clear()
                    self._take(line)
                parts.append(rest)
        except OSError:
            pass  # reset: the plugin is gone
        except (ValueError, LookupError, TypeError, AttributeError):
            what = f"{line[:100]!r}" + (" …" if len(line) > 100 else "")
            reason = f"the plugin wrote what is no line of its protocol: {what}"
        except Exception as exc:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            reason = f"the host could not take a line of the plugin's ({exc!r})"
        finally:
            parts.clear()
            line = b""
            if reason:
                self._shut_down(socket.SHUT_RDWR)
            self._see_off(GRACE)
            self._end(reason or self._how_it_ended())

    def _take(self, line: bytes) -> None:
        """Take a line of the plugin's: an event, an answer, or what a later one may add."""
        message = json.loads(line)
        if "event" in message:
            if message["event"] == "websocket-event":
                self._take_event(message["payload"])
            return
        with self._lock:
            answer, creates = self._pending.get(message.get("id"), (None, None))
        if answer is None:
            return  # answered before, or asked by nobody
        if error := message.get("error"):
            answer.set_exception(RequestError(error["code"], error["errMsg"]))
        elif "response" not in message:
            failure = PluginEnded("the plugin answered without a response or an error")
            answer.set_exception(failure)
        else:
            if creates:
                creates.id = message["response"]["id"]
                # Before the next line is looked at, which may be an event of this connection.
                self._websockets[creates.id] = creates
            answer.set_result(message["response"])
        with self._lock:  # not before: what cannot be read must fail the call with all others
            del self._pending[message["id"]]

    def _take_event(self, event: dict[str, Any]) -> None:
        id, name = event["id"], event["name"]
        websocket = self._websockets.get(id)
        if websocket:
            websocket.take(name, event["payload"])
        if name == "close":
            self._websockets.pop(id, None)

    def _how_it_ended(self) -> str:
        if self._plugin.is_alive():
            return "the plugin does not end, though it has been cut off"
        return f"the plugin ended with status {self._status}{self._failure}"

    def _end(self, reason: str) -> None:
        """Fail what is pending, and close every connection that had no close yet."""
        with self._lock:
            self._ended = reason
            pending = [answer for answer, _ in self._pending.values() if not answer.done()]
            self._pending.clear()
        for answer in pending:
            answer.set_exception(PluginEnded(reason))
        for websocket in self._websockets.values():
            websocket.take("close", {"code": 1006, "reason": reason, "cause": "failure"})
        self._websockets.clear()


def encode(request: Mapping[str, Any]) -> bytes:
    """Return a request as a line; what is None is left out.

    The id comes first: of a line that is too long the plugin reads no more than the start.
    """
    present = {key: value for key, value in request.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def milliseconds(timeout: float | None) -> dict[str, int]:
    """Return the field for a timeout in seconds, or none."""
    return {} if timeout is None else {"timeout": round(timeout * 1000)}


def shut_down(connection: socket.socket, how: int) -> None:
    """Shut a socket down, if it is not so already."""
    try:
        connection.shutdown(how)
    except OSError:
        pass  # the other side is gone
