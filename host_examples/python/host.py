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
                    await websocket.close()

Events are queued from `create` on, so none is lost, and the loop over a connection ends behind
its `Close`. The queue has no bound, because a host that does not read stops all connections at
once: whoever gets more than they can take should close.
"""

import asyncio
import base64
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

CHUNK = 65_536
GRACE = 5.0
"""Seconds that the plugin has to end by itself before it is killed."""

Cause = Literal["host", "server", "limit", "background", "shutdown", "failure"]


@dataclass(frozen=True)
class Open:
    """The connection is open; `headers` are those of the HTTP response, names in lower case."""

    headers: dict[str, str]


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
    """The plugin is gone, and why: what was asked of it will not be answered."""


class WebSocket:
    """One connection, from :meth:`Host.create`. Loop over it for its events."""

    def __init__(self, host: "Host") -> None:
        self.id = ""
        self._host = host
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def send(self, data: str | bytes) -> None:
        """Send a message. Await this before the next: it is the back-pressure."""
        if isinstance(data, str):
            payload = {"id": self.id, "type": "text", "data": data}
        else:
            encoded = base64.b64encode(data).decode()
            payload = {"id": self.id, "type": "base64", "data": encoded}
        await self._host.request("websocket-send", payload)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the closing handshake; the `Close` event tells its end."""
        payload = {"id": self.id, "code": code, "reason": reason}
        await self._host.request("websocket-close", payload)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield the events as they come, up to the `Close`."""
        event: Event | None = None
        while not isinstance(event, Close):
            event = await self._events.get()
            yield event

    def take(self, name: str, payload: dict[str, Any]) -> None:
        """Queue an event that the host has read."""
        match name:
            case "open":
                event: Event = Open(payload["headers"])
            case "message":
                data = payload["data"]
                event = Message(data if payload["type"] == "text" else base64.b64decode(data))
            case "error":
                event = Error(
                    payload["code"],
                    payload["errMsg"],
                    payload.get("status"),
                    payload.get("headers"),
                )
            case "close":
                event = Close(payload["code"], payload["reason"], payload["cause"])
            case _:
                return  # of a later version of the plugin
        self._events.put_nowait(event)


class Host:
    """Runs the plugin as a child process: use ``async with``, which spawns and stops it.

    Args:
        command: the plugin's command line.
        on_line: called with every line, its direction (``">"`` to the plugin, ``"<"`` from it)
            before it.

    """

    def __init__(self, *command: str, on_line: Callable[[str, str], None] | None = None) -> None:
        self._command = command or ("wsplugin",)
        self._on_line = on_line
        self._ids = itertools.count(1)
        # Requests without an answer, and the connection that each would create.
        self._pending: dict[int, tuple[asyncio.Future[Any], WebSocket | None]] = {}
        self._websockets: dict[str, WebSocket] = {}
        self._stopping = False
        self._ended = ""
        self._errors = b""

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=pipe
        )
        self._stderr_reader = asyncio.create_task(self._read_stderr())
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def create(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        protocols: Sequence[str] = (),
        timeout: float | None = None,  # noqa: ASYNC109 - the plugin's, not this call's
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
        websocket = WebSocket(self)
        await self.request("websocket-create", payload, creates=websocket)
        return websocket

    async def background(self) -> None:
        """Tell that the app leaves the screen: ends all connections, then returns."""
        await self.request("app-background")

    async def describe(self) -> dict[str, Any]:
        """Return the plugin's version, actions and limits."""
        description: dict[str, Any] = await self.request("plugin-describe")
        return description

    async def request(
        self, action: str, payload: object = None, *, creates: WebSocket | None = None
    ) -> Any:
        """Send a request and return its response.

        Raises:
            RequestError: the plugin has refused it.
            PluginEnded: the plugin ended before it answered.

        """
        if self._ended or self._stopping:
            raise PluginEnded(self._ended or "the host has stopped the plugin")
        id = next(self._ids)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[id] = answer, creates
        self._write({"id": id, "action": action, "payload": payload})
        try:
            await self._stdin.drain()
        except ConnectionError:
            pass  # the plugin is gone: the reader sees it too, and says how it ended
        except asyncio.CancelledError:
            answer.cancel()
            raise
        return await answer

    async def stop(self, grace: float = GRACE) -> int:
        """End the plugin in good order and return its exit status.

        Its input is closed first: it then closes the connections and ends. Only one that has not
        ended after the grace is killed.
        """
        self._stopping = True
        self._stdin.close()
        done, _ = await asyncio.wait([self._reader], timeout=grace)
        if not done:
            self._process.kill()
            await asyncio.wait([self._reader], timeout=GRACE)
            self._reader.cancel()  # somebody else holds its stdout open
        await asyncio.wait([self._reader])
        return await self._process.wait()

    @property
    def _stdin(self) -> asyncio.StreamWriter:
        assert self._process.stdin
        return self._process.stdin

    def _write(self, request: dict[str, Any]) -> None:
        # The id comes first: of a line that is too long the plugin reads no more than the start.
        line = json.dumps({key: value for key, value in request.items() if value is not None})
        if self._on_line:
            self._on_line(">", line)
        self._stdin.write(line.encode() + b"\n")

    async def _read(self) -> None:
        """Read stdout to its end, always: a line is whole only when its LF has come."""
        assert self._process.stdout
        parts: list[bytes] = []
        reason = ""
        try:
            while chunk := await self._process.stdout.read(CHUNK):
                *ends, rest = chunk.split(b"\n")
                for end in ends:
                    self._take(b"".join([*parts, end]))
                    parts.clear()
                parts.append(rest)
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            reason = f"the plugin wrote what is no line of its protocol ({exc!r})"
            self._process.kill()
        finally:
            self._end(reason or await self._how_it_ended())

    def _take(self, line: bytes) -> None:
        if self._on_line:
            self._on_line("<", line.decode())
        message = json.loads(line)
        if "event" in message:
            event = message["payload"]
            websocket = self._websockets.get(event["id"])
            if event["name"] == "close":
                self._websockets.pop(event["id"], None)
            if websocket:
                websocket.take(event["name"], event["payload"])
            return
        answer, creates = self._pending.pop(message["id"], (None, None))
        if answer is None:
            return  # to a line that the plugin could not read: this host writes none
        error = message.get("error")
        if creates and not error:
            creates.id = message["response"]["id"]
            # Before the next line is looked at, which may be an event of this connection.
            self._websockets[creates.id] = creates
            if answer.cancelled():
                payload = {"id": creates.id}
                self._write({"id": 0, "action": "websocket-close", "payload": payload})
        if answer.cancelled():
            return
        if error:
            answer.set_exception(RequestError(error["code"], error["errMsg"]))
        else:
            answer.set_result(message["response"])

    async def _read_stderr(self) -> None:
        """Pass stderr on, and remember its end: it says why if the plugin fails."""
        assert self._process.stderr
        while chunk := await self._process.stderr.read(CHUNK):
            if sys.stderr:  # a windowed app may have none
                sys.stderr.write(chunk.decode(errors="replace"))
            self._errors = (self._errors + chunk)[-1000:]

    async def _how_it_ended(self) -> str:
        """Wait for the end of a plugin that has closed its stdout, and put it into words."""
        self._stdin.close()
        try:
            status = await asyncio.wait_for(self._process.wait(), GRACE)
        except TimeoutError:
            self._process.kill()
            status = await self._process.wait()
        await asyncio.wait([self._stderr_reader], timeout=GRACE)
        text = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        *_, last = ["", *self._errors.decode(errors="replace").strip().splitlines()]
        return f"the plugin {text}" + (f": {last}" if last else "")

    def _end(self, reason: str) -> None:
        """Fail what is pending, and close every connection that had no `Close` yet."""
        self._ended = reason
        for answer, _ in self._pending.values():
            if not answer.done():
                answer.set_exception(PluginEnded(reason))
        self._pending.clear()
        for websocket in self._websockets.values():
            websocket.take("close", {"code": 1006, "reason": reason, "cause": "failure"})
        self._websockets.clear()
