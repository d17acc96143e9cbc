"""A host for wsplugin in one file to copy: asyncio and the standard library, nothing else.

Try it from a fresh clone (a virtual environment holds the plugin)::

    $ python3 -m venv .venv && .venv/bin/pip install .
    $ .venv/bin/python host_examples/python/quickstart.py

Use it::

    async with Host("wsplugin", "--allow-host", "example.com") as host:
        websocket = await host.create("wss://example.com/")
        await websocket.send("hello")
        async for event in websocket:
            match event:
                case Message(data):
                    print(data)
                    break

Events are queued from `create` on, so none is lost, and the loop over a connection ends behind
its `Close`. Whoever leaves the loop earlier closes the connection: by ``break``, an exception or a
cancellation; ``async with websocket`` does so even where no loop was begun. Who is slow holds up
one server and nobody else: when a queue is full, the plugin stops reading from that server, until
it is half empty. That is for seconds, not minutes: a server may end a connection for its silence.
"""

import asyncio
import base64
import itertools
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast

GRACE = 5.0
"""Seconds that the plugin has to end by itself before it is killed."""
REST = 1.0
"""Seconds for what a plugin that has ended has left in its pipes; others may hold them open."""
LONGEST_FIRST_LINE = 1_048_576
"""Bytes without a line feed that show, before the description has come, that none will come."""
LONGEST_ERROR_LINE = 65_536
LONGEST_ERRORS = 1_048_576
"""Bytes of the plugin's stderr that may wait for the app's."""

Cause = Literal["host", "server", "limit", "background", "shutdown", "failure"]


@dataclass(frozen=True)
class Open:
    """The connection is open; `headers` are those of the HTTP response, names in lower case.

    `protocol` is the subprotocol chosen, `extensions` what was negotiated, each "" if there is
    none; `profile` has the times of the opening, in milliseconds, under the plugin's own names.
    """

    headers: dict[str, str]
    protocol: str = ""
    extensions: str = ""
    profile: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """A message has arrived: text as `str`, binary as `bytes`."""

    data: str | bytes


@dataclass(frozen=True)
class Error:
    """The connection has failed; its `Close` comes next. `status`: of an HTTP refusal."""

    code: str
    message: str
    status: int | None = None
    headers: dict[str, str] | None = None


@dataclass(frozen=True)
class Close:
    """The connection has ended: the last event of each, even if the plugin itself dies."""

    code: int
    reason: str
    cause: Cause


Event = Open | Message | Error | Close


class RequestError(Exception):
    """The plugin has refused a request: a stable `code`, and a `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class PluginEnded(Exception):
    """The plugin is gone or never was, and why: what was asked of it will not be answered."""


class WebSocket:
    """One connection, from :meth:`Host.create`. Loop over it for its events.

    Every method raises `RequestError` if the plugin refuses and `PluginEnded` if it is gone.
    Times are in seconds.
    """

    def __init__(self, host: "Host") -> None:
        self.id = ""
        self._host = host
        self._events: asyncio.Queue[tuple[Event, int]] = asyncio.Queue()
        self._bytes = 0
        self._looped = False
        self._left = False
        self._closed = False
        # Whether the host holds back messages because the queue is full, or the app has asked to.
        self._full = False
        self._paused = False

    async def send(self, data: str | bytes | bytearray | memoryview) -> None:
        """Send a message, text or anything like `bytes`. Await this before the next.

        That it takes its time is the back-pressure of a server that reads slowly. Text that is
        none (a lone surrogate) is a `ValueError`.
        """
        if isinstance(data, str):
            payload = {"id": self.id, "type": "text", "data": data}
        else:
            encoded = base64.b64encode(memoryview(data).tobytes()).decode()
            payload = {"id": self.id, "type": "base64", "data": encoded}
        await self._host.request("websocket-send", payload)

    async def close(
        self,
        code: int = 1000,
        reason: str = "",
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the plugin's, not this call's
    ) -> None:
        """Start the closing handshake; the `Close` event tells its end.

        Code 1005 sends none. With a `timeout` the connection is cut if its end takes longer; 0
        cuts it at once.
        """
        payload = {"id": self.id, "code": code} | ({"reason": reason} if reason else {})
        await self._host.request("websocket-close", payload | milliseconds(timeout))

    async def pause(self) -> None:
        """Hold messages back, until :meth:`resume`: the plugin stops reading from the server.

        Those that the queue holds already still come.
        """
        self._paused = True
        await self._host.request("websocket-pause", {"id": self.id})

    async def resume(self) -> None:
        """Let messages come again."""
        self._paused = False
        if not self._full:  # else they come as soon as the queue is half empty
            await self._host.request("websocket-resume", {"id": self.id})

    async def ping(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the plugin's, not this call's
    ) -> float:
        """Return how many seconds the server took to answer a Ping.

        If it does not answer in time, the connection fails and this is refused with `not-open`.
        """
        payload = {"id": self.id} | milliseconds(timeout)
        response = await self._host.request("websocket-ping", payload)
        rtt: float = response["rtt"] / 1000
        return rtt

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._leave()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield the events as they come, up to the `Close`. There is one loop: others are over."""
        if self._looped or self._left:
            return
        self._looped = True
        try:
            event: Event | None = None
            while not isinstance(event, Close):
                event, size = await self._events.get()
                self._taken(size)
                yield event
        finally:
            self._leave()

    def _leave(self) -> None:
        """Close the connection, unless it is closed, and forget what nobody will take any more."""
        if not (self._left or self._closed):
            self._host.post("websocket-close", {"id": self.id})
        self._left = True
        self._events = asyncio.Queue()

    def take(self, name: str, payload: dict[str, Any]) -> None:
        """Queue an event that the host has read."""
        size = 0
        match name:
            case "open":
                event: Event = Open(
                    payload["headers"],
                    payload.get("protocol", ""),
                    payload.get("extensions", ""),
                    payload.get("profile", {}),
                )
            case "message" if payload["type"] == "text":
                event = Message(payload["data"])
                size = len(payload["data"].encode())
            case "message" if payload["type"] == "base64":
                data = base64.b64decode(payload["data"])
                event = Message(data)
                size = len(data)
            case "error":
                event = Error(
                    payload["code"],
                    payload["errMsg"],
                    payload.get("status"),
                    payload.get("headers"),
                )
            case "close":
                event = Close(payload["code"], payload["reason"], payload["cause"])
                self._closed = True
            case _:
                return  # of a later version of the plugin
        if self._left:
            return
        self._events.put_nowait((event, size))
        self._bytes += size
        if not self._full and self._fill() >= 1 and "pause" in self._host.features:
            self._full = True
            self._host.post("websocket-pause", {"id": self.id})

    def _fill(self) -> float:
        """Return how full the queue is, 1 for full."""
        by_bytes = self._bytes / self._host.queue_bytes
        return max(by_bytes, self._events.qsize() / self._host.queue_messages)

    def _taken(self, size: int) -> None:
        self._bytes -= size
        if self._full and self._fill() <= 0.5:
            self._full = False
            if not self._paused:
                self._host.post("websocket-resume", {"id": self.id})


class Host:
    """Runs the plugin as a child process: use ``async with``, which starts and stops it.

    Starting fails with `PluginEnded`, and leaves no process behind, where the command is something
    else than wsplugin, or speaks another protocol.

    Args:
        command: the plugin's command line. ``--parent-pid`` and ``--exit-timeout`` are appended
            unless it has them: the plugin then ends with this process, and within two seconds when
            it is stopped, whatever the network does.
        appends_options: False leaves the command as it is, for a plugin of 1.0 or one that runs
            elsewhere (ssh, containers), where this process has another number.
        start_timeout: seconds within which the plugin must have described itself.
        stderr: what becomes of the plugin's stderr: ``"inherit"`` passes it on to that of the app,
            ``"discard"`` does not, and a function is called with each line. What it throws goes to
            the event loop's exception handler.
        queue_bytes: message data that may wait in a connection's queue before its server is held
            up; a threshold: what is on the way is taken besides.
        queue_messages: the same in events.
        on_line: called with every line, its direction (``">"`` to the plugin, ``"<"`` from it)
            before it.

    """

    def __init__(
        self,
        *command: str,
        appends_options: bool = True,
        start_timeout: float = 5.0,
        stderr: Literal["inherit", "discard"] | Callable[[str], object] = "inherit",
        queue_bytes: int = 1_048_576,
        queue_messages: int = 1024,
        on_line: Callable[[str, str], object] | None = None,
    ) -> None:
        self._command = [*(command or ("wsplugin",))]
        self._appended: list[str] = []
        if appends_options:
            self._append("--parent-pid", str(os.getpid()))
            self._append("--exit-timeout", "1.5")
        self._start_timeout = start_timeout
        self._stderr = stderr
        self.queue_bytes = queue_bytes
        self.queue_messages = queue_messages
        self._on_line = on_line
        self.description: dict[str, Any] = {}
        """What the plugin has said of itself: its version, actions, limits and features."""
        self.features: frozenset[str] = frozenset()
        self._ids = itertools.count(1)
        # Requests without an answer, and the connection that each would create.
        self._pending: dict[int, tuple[asyncio.Future[Any], WebSocket | None]] = {}
        self._websockets: dict[str, WebSocket] = {}
        self._process: _Process | None = None
        self._ended = "the plugin has not been started"

    def _append(self, option: str, value: str) -> None:
        if not any(part == option or part.startswith(f"{option}=") for part in self._command):
            self._command += [option, value]
            self._appended.append(option)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the plugin, once, and ask it what it is; `PluginEnded` if it is none."""
        if self._process:
            raise RuntimeError("a host starts its plugin once")
        self._process = process = _Process(self._take, _Stderr(self._stderr))
        try:
            await process.start(self._command)
        except OSError as exc:
            self._ended = f"the plugin cannot be started: {exc}"
            raise PluginEnded(f"{self._ended} ({self._words()})") from exc
        self._ended = ""
        self._life = asyncio.create_task(self._see_through(process))
        try:
            async with asyncio.timeout(self._start_timeout):
                description = await self.request("plugin-describe")
            self._check(description)
        except BaseException as exc:
            await self.stop(grace=0)
            if not isinstance(exc, (TimeoutError, RequestError, PluginEnded)):
                raise
            text = f"{exc}" or f"the plugin did not describe itself in {self._start_timeout:g} s"
            raise PluginEnded(f"{text} ({self._words()})") from exc

    def _check(self, description: Any) -> None:
        if not isinstance(description, dict):
            raise PluginEnded(f"the plugin is no wsplugin: it describes itself as {description!r}")
        name, protocol = description.get("name"), description.get("protocol")
        if name != "wsplugin":
            raise PluginEnded(f"the plugin is no wsplugin: its name is {name!r}")
        if protocol != 1:
            raise PluginEnded(f"the plugin speaks protocol {protocol!r}, this host protocol 1")
        self.description = description
        self.features = frozenset(description.get("features") or ())
        assert self._process
        self._process.longest_line = sys.maxsize

    def _words(self) -> str:
        command = shlex.join(self._command)
        return f"started as: {command if len(command) < 300 else command[:300] + ' …'}"

    async def create(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        protocols: Sequence[str] = (),
        timeout: float | None = None,  # noqa: ASYNC109 - the plugin's, not this call's
        per_message_deflate: bool = True,
        tcp_no_delay: bool = True,
        app: str | None = None,
        host_headers: Mapping[str, str] | None = None,
    ) -> WebSocket:
        """Create a connection; returns at once, before it is open.

        Args:
            url: ``wss://`` or ``ws://``.
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
        websocket = WebSocket(self)
        try:
            await self.request("websocket-create", payload, app=app, headers=own, creates=websocket)
        except asyncio.CancelledError:
            if websocket.id:  # it was answered in the same turn
                websocket._leave()
            raise
        return websocket

    async def background(self, app: str | None = None) -> None:
        """Tell that the app leaves the screen: ends all its connections, then returns."""
        await self.request("app-background", app=app)

    async def describe(self) -> dict[str, Any]:
        """Return the plugin's version, actions, features and limits."""
        description: dict[str, Any] = await self.request("plugin-describe")
        return description

    async def request(
        self,
        action: str,
        payload: object = None,
        *,
        app: str | None = None,
        headers: Mapping[str, str] | None = None,
        creates: WebSocket | None = None,
    ) -> Any:
        """Send a request and return its response.

        Raises:
            RequestError: the plugin has refused it.
            PluginEnded: the plugin ended before it answered.
            ValueError: it cannot be written as JSON in UTF-8; so for `TypeError`.

        """
        if self._ended:
            raise PluginEnded(self._ended)
        assert self._process
        id = next(self._ids)
        request = {"id": id, "action": action, "app": app, "headers": headers, "payload": payload}
        line = encode(request)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[id] = answer, creates
        try:
            self._write(line)
            return await answer
        finally:
            answer.cancel()  # where this call is: the answer then is nobody's

    def post(self, action: str, payload: object) -> None:
        """Send a request whose answer nobody waits for."""
        if not self._ended:
            self._write(encode({"id": next(self._ids), "action": action, "payload": payload}))

    @property
    def ended(self) -> str:
        """Why there is nobody to ask, "" while there is a plugin."""
        return self._ended

    async def wait_ended(self) -> str:
        """Wait for the plugin's end, when all has been told, and return how it ended."""
        await asyncio.wait([self._life])
        return self._ended

    async def stop(self, grace: float = GRACE) -> int:
        """End the plugin in good order and return its exit status; a second time, the same.

        Its input is closed first: it then closes the connections and ends. Only one that has not
        ended after the grace is killed.
        """
        process = self._process
        if process is None or process.transport is None:
            raise PluginEnded(self._ended)
        self._ended = self._ended or "the host has stopped the plugin"
        process.close_stdin()
        for wait in (grace, GRACE):
            _, running = await asyncio.wait([self._life], timeout=wait)
            if not running:
                break
            process.kill()
        self._life.cancel()  # of no effect but on the life of what even a kill does not end
        return process.status

    async def _see_through(self, process: "_Process") -> None:
        """Wait for the plugin's end, see that it comes, and tell everybody who waits for it."""
        try:
            ends = [process.exited, process.stdout_ended]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:  # or the event loop is about to end, and has cancelled this
            try:
                # One that has closed its stdout will say nothing any more, alive or not.
                process.close_stdin()
                await asyncio.wait([process.exited], timeout=GRACE)
                process.kill()
                await asyncio.wait([process.exited], timeout=GRACE)
                await asyncio.wait([process.stdout_ended, process.stderr_ended], timeout=REST)
                await process.stderr.finish()
            finally:
                process.close()
                self._end(self._how_it_ended(process))

    def _write(self, line: bytes) -> None:
        if self._on_line:
            self._show(">", line.decode().removesuffix("\n"))
        assert self._process
        self._process.write(line)

    def _show(self, direction: str, line: str) -> None:
        if self._on_line:
            try:
                self._on_line(direction, line)
            except Exception as exc:  # noqa: BLE001 - the app's, whatever it is
                report("on_line has failed", exc)

    def _take(self, line: bytes) -> None:
        """Take a line of the plugin's: an event, an answer, or what a later one may add."""
        text = line.decode()
        self._show("<", text)
        message = json.loads(text)
        if "event" in message:
            if message["event"] == "websocket-event":
                self._take_event(message["payload"])
            return
        answer, creates = self._pending.get(message.get("id"), (None, None))
        if answer is None:
            return  # answered before, or asked by nobody
        if error := message.get("error"):
            settle(answer, RequestError(error["code"], error["errMsg"]))
        elif "response" not in message:
            settle(answer, PluginEnded("the plugin answered without a response or an error"))
        else:
            if creates:
                creates.id = message["response"]["id"]
                # Before the next line is looked at, which may be an event of this connection.
                self._websockets[creates.id] = creates
                if answer.cancelled():
                    creates._leave()
            if not answer.done():
                answer.set_result(message["response"])
        # Not before: what cannot be read must fail this call with all others.
        del self._pending[message["id"]]

    def _take_event(self, event: dict[str, Any]) -> None:
        id, name = event["id"], event["name"]
        if websocket := self._websockets.get(id):
            websocket.take(name, event["payload"])
        if name == "close":
            self._websockets.pop(id, None)

    def _how_it_ended(self, process: "_Process") -> str:
        if process.fault:
            return process.fault
        status = process.status
        text = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        last = process.stderr.last_line()
        if (
            status == 2
            and "unrecognized arguments" in last
            and any(option in last for option in self._appended)
        ):
            text += "; this wsplugin is of 1.0; update it or start it without these options"
        return f"the plugin {text}" + (f": {last}" if last else "")

    def _end(self, reason: str) -> None:
        """Fail what is pending, and close every connection that had no `Close` yet."""
        self._ended = reason
        for answer, _ in self._pending.values():
            settle(answer, PluginEnded(reason))
        self._pending.clear()
        for websocket in self._websockets.values():
            websocket.take("close", {"code": 1006, "reason": reason, "cause": "failure"})
        self._websockets.clear()


class _Process(asyncio.SubprocessProtocol):
    """The plugin's process: its lines, and its end, each part of which is a future."""

    def __init__(self, take: Callable[[bytes], None], stderr: "_Stderr") -> None:
        loop = asyncio.get_running_loop()
        self.transport: asyncio.SubprocessTransport | None = None
        self.stderr = stderr
        self.exited: asyncio.Future[None] = loop.create_future()
        self.stdout_ended: asyncio.Future[None] = loop.create_future()
        self.stderr_ended: asyncio.Future[None] = loop.create_future()
        self.fault = ""
        """Why the host listens to it no longer."""
        self.longest_line = LONGEST_FIRST_LINE
        self._take = take
        self._parts: list[bytes] = []
        self._size = 0
        self._stdin_open = True

    async def start(self, command: Sequence[str]) -> None:
        """Start it; an `OSError` if there is no such program."""
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NO_WINDOW
        await asyncio.get_running_loop().subprocess_exec(
            lambda: self,
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=flags,
        )

    @property
    def status(self) -> int:
        """The exit status, negative for a signal."""
        status = self.transport.get_returncode() if self.transport else None
        # What even a kill does not end is as good as killed.
        return -9 if status is None else status

    def write(self, data: bytes) -> None:
        """Write to its stdin; after its end, to nobody."""
        if self._stdin_open and not self._stdin.is_closing():
            self._stdin.write(data)

    def close_stdin(self) -> None:
        """Write what waits, then end its stdin."""
        if self._stdin_open:
            self._stdin_open = False
            self._stdin.close()

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        if self.transport and self.transport.get_returncode() is None:
            try:
                self.transport.kill()
            except ProcessLookupError:
                pass  # it has just ended, and the loop is about to say so

    def close(self) -> None:
        """Give up its pipes, whoever else holds their other ends, and kill it if it still runs."""
        if self.transport:
            self.transport.close()

    @property
    def _stdin(self) -> asyncio.WriteTransport:
        assert self.transport
        return cast(asyncio.WriteTransport, self.transport.get_pipe_transport(0))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the process from the event loop."""
        self.transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Cut stdout into lines; a line is whole only when its LF has come."""
        if fd == 2:
            self.stderr.take(data)
        elif not self.fault:
            line = b""
            try:
                *ends, rest = data.split(b"\n")
                for end in ends:
                    line = b"".join([*self._parts, end])
                    self._parts.clear()
                    self._size = 0
                    self._take(line)
                self._parts.append(rest)
                self._size += len(rest)
                if self._size > self.longest_line:
                    line = b"".join(self._parts)
                    raise ValueError("the line does not end")
            except Exception as exc:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                self._parts.clear()
                what = f"{line[:100]!r}" + (" …" if len(line) > 100 else "")
                self.fault = f"the plugin wrote what is no line of its protocol: {what}"
                if not isinstance(exc, (ValueError, LookupError, TypeError, AttributeError)):
                    self.fault = f"the host could not take a line of the plugin's ({exc!r})"
                self.kill()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Note that one of the three pipes has ended."""
        if fd == 0:
            self._stdin_open = False
        ended = {1: self.stdout_ended, 2: self.stderr_ended}.get(fd)
        if ended and not ended.done():
            ended.set_result(None)

    def process_exited(self) -> None:
        """Note that the process has ended."""
        if not self.exited.done():
            self.exited.set_result(None)


class _Stderr:
    """Hands the plugin's stderr on, and keeps its end: it says why, if the plugin fails."""

    def __init__(self, to: Literal["inherit", "discard"] | Callable[[str], object]) -> None:
        self._to = to
        self._end = b""
        self._line = b""
        # What waits for the app's stderr, which may be stuck.
        self._waiting = bytearray()
        self._changed = threading.Condition()
        self._over = False
        self._writer: threading.Thread | None = None

    def take(self, data: bytes) -> None:
        """Take some of it."""
        self._end = (self._end + data)[-1000:]
        if self._to == "inherit":
            self._pass_on(data)
        elif callable(self._to):
            *lines, self._line = (self._line + data).split(b"\n")
            if len(self._line) > LONGEST_ERROR_LINE:
                lines.append(self._line)
                self._line = b""
            for line in lines:
                self._call(line)

    def last_line(self) -> str:
        """Return the last line so far, or "" if there is none."""
        *_, last = ["", *self._end.decode(errors="replace").strip().splitlines()]
        return last

    async def finish(self) -> None:
        """Wait a moment until the app's stderr has taken what there is."""
        if self._line:
            self._call(self._line)
        if self._writer:
            with self._changed:
                self._over = True
                self._changed.notify()
            await asyncio.to_thread(self._writer.join, REST)

    def _call(self, line: bytes) -> None:
        try:
            assert callable(self._to)
            self._to(line.decode(errors="replace").removesuffix("\r"))
        except Exception as exc:  # noqa: BLE001 - the app's, whatever it is
            report("what was given for the plugin's stderr has failed", exc)

    def _pass_on(self, data: bytes) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="plugin stderr", daemon=True)
            self._writer.start()
        with self._changed:
            # Stuck: what does not fit is lost, but the plugin and the loop go on.
            if len(self._waiting) + len(data) <= LONGEST_ERRORS:
                self._waiting += data
                self._changed.notify()

    def _write(self) -> None:
        """Write to the app's stderr, on a thread, because that may be stuck."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over)
                if not self._waiting:
                    return
                data, self._waiting = self._waiting, bytearray()
            try:
                write_stderr(data)
            except (AttributeError, OSError, ValueError):
                pass  # there is none, or it is broken: that is no reason to stop reading


def write_stderr(data: bytearray) -> None:
    """Write to the app's stderr, whatever that is; None in a windowed app."""
    try:
        fd = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        sys.stderr.write(data.decode(errors="replace"))  # a stand-in
        return
    # Below its buffer: a thread that waits with the buffer's lock in its hand would have the
    # interpreter abort when the app ends.
    while data:
        del data[: os.write(fd, data)]


def encode(request: Mapping[str, Any]) -> bytes:
    """Return a request as a line; what is None is left out.

    The id comes first: of a line that is too long the plugin reads no more than the start.
    """
    present = {key: value for key, value in request.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def milliseconds(timeout: float | None) -> dict[str, int]:
    """Return the field for a timeout in seconds, or none."""
    return {} if timeout is None else {"timeout": round(timeout * 1000)}


def settle(answer: asyncio.Future[Any], failure: Exception) -> None:
    """Fail a call, unless its caller has gone."""
    if not answer.done():
        answer.set_exception(failure)


def report(what: str, exc: Exception) -> None:
    """Tell the app of a fault of its own, as asyncio tells of one in a callback."""
    context = {"message": what, "exception": exc}
    asyncio.get_running_loop().call_exception_handler(context)
