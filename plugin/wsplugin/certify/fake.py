"""The kit's side of one stand-in for the plugin: what the host says to it, and what it answers."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import msgspec

from wsplugin.certify.watch import PATIENCE, Broken, Watch, shown
from wsplugin.decoding import decode_request
from wsplugin.messages import RequestError
from wsplugin.settings import Settings


def description() -> dict[str, Any]:
    """Return what this version of the plugin, with the default options, says of itself."""
    described = Settings().describe()
    return msgspec.json.decode(msgspec.json.encode(described), type=dict[str, Any])


class Request(msgspec.Struct, frozen=True):
    """One of the host's lines."""

    line: bytes
    id: int | str
    action: str
    payload: dict[str, Any]
    envelope: dict[str, Any]
    """The whole line as JSON."""


class Fake:
    """One stand-in for the plugin, from its start to its end.

    At the end of stdin it does as the plugin does: tells of the end of every connection and ends
    with status 0, unless :attr:`at_end` is something else.
    """

    def __init__(
        self,
        watch: Watch,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        started: dict[str, Any],
    ) -> None:
        self._watch = watch
        self._reader = reader
        self._writer = writer
        self._requests: asyncio.Queue[Request | None] = asyncio.Queue()
        self._writes = 0
        self._nothing_to_write = asyncio.Event()
        self._nothing_to_write.set()
        self._held = asyncio.Event()
        self._touched = asyncio.Event()
        self._ids = 0
        self.argv: list[str] = started["argv"]
        self.parent: int = started["parent"]
        self.automatic = {"websocket-pause", "websocket-resume"}
        """Actions that are answered at once with ``{}`` and are no requests of a situation."""
        self.connections: dict[str, str | None] = {}
        """Ids of those that have had no close, and their app."""
        self.names: dict[str, str] = {}
        """What the script calls each, from the end of its URL."""
        self.binary_types: dict[str, str] = {}
        self.is_known = False
        """Whether the host has been told that it is a plugin."""
        self.encodes = True
        """Whether a line that the plugin refuses breaks a promise."""
        self.at_end: Callable[[], Coroutine[Any, Any, None]] = self.end_well
        self.ended = asyncio.Event()
        """Its stdin has ended."""
        self.gone = asyncio.Event()
        """Its process has ended."""

    # --- what it is told ---

    async def listen(self) -> None:
        """Take what the puppet tells, to the end of its process."""
        rest = b""
        parts: list[bytes] = []
        ending: asyncio.Task[None] | None = None
        try:
            while header := await self._reader.readline():
                told = msgspec.json.decode(header)
                data = await self._reader.readexactly(told["length"])
                match told["tell"]:
                    case "stdin":
                        self._touched.set()
                        *lines, rest = data.split(b"\n")
                        for line in lines:
                            self._take(b"".join([*parts, line]))
                            parts.clear()
                        parts.append(rest)
                    case "end-of-stdin":
                        self._requests.put_nowait(None)
                        self.ended.set()
                        ending = asyncio.create_task(self.at_end())
                    case "held":
                        self._held.set()
                    case "written":
                        self._writes -= 1
                        if not self._writes:
                            self._nothing_to_write.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # killed: that its socket is reset says no more than its end
        finally:
            if ending:
                ending.cancel()
            self.gone.set()
            self._nothing_to_write.set()
            self._requests.put_nowait(None)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            decode_request(line)
        except RequestError as exc:
            if self.encodes:
                came = f"{shown(line)} ({exc.code}: {exc.message})"
                self._watch.report(Broken("a line that the plugin takes", came))
            else:
                error = {"code": exc.code, "errMsg": exc.message}
                self.lines({"id": exc.id, "error": error})
            return
        envelope = msgspec.json.decode(line)
        id, payload = envelope.get("id"), envelope.get("payload") or {}
        if id is None:
            self._watch.report(Broken("an id in every request", shown(line)))
            return
        request = Request(line, id, envelope["action"], payload, envelope)
        if request.action in self.automatic:
            self.answer(request)
        else:
            self._requests.put_nowait(request)

    async def request(self, action: str, seconds: float | None = None) -> Request:
        """Return the host's next request, which is for `action`."""
        expected = f"the request {action}"
        request = await self.any_request(expected, seconds)
        if request.action != action:
            raise Broken(expected, shown(request.line))
        return request

    async def any_request(
        self, expected: str = "a request", seconds: float | None = None
    ) -> Request:
        """Return the host's next request."""
        request = await self._watch.wait(self._requests.get(), expected, seconds)
        if request is None:
            self._requests.put_nowait(None)
            raise Broken(expected, "the end of stdin" if self.ended.is_set() else "its death")
        return request

    async def next_or_end(self) -> Request | None:
        """Return the next request; None at the end of stdin."""
        return await self._requests.get()

    def next_at_once(self) -> Request | None:
        """Return the next request if there is one already."""
        return None if self._requests.empty() else self._requests.get_nowait()

    def nothing_asked(self, what: str) -> None:
        """Raise if there is a request that nobody has taken."""
        if request := self.next_at_once():
            raise Broken(f"no request {what}", shown(request.line))

    async def end_of_stdin(self, seconds: float | None = None) -> None:
        """Wait until the host has closed stdin."""
        await self._watch.wait(self.ended.wait(), "the end of the plugin's stdin", seconds)

    async def end(self, seconds: float | None = None) -> None:
        """Wait until the process has ended."""
        await self._watch.wait(self.gone.wait(), "the end of the plugin's process", seconds)

    # --- what it does ---

    def _order(self, data: bytes = b"", **what: Any) -> None:
        if self.gone.is_set():
            return
        if data:
            what["length"] = len(data)
            self._writes += 1
            self._nothing_to_write.clear()
        self._writer.write(msgspec.json.encode(what) + b"\n")
        self._writer.write(data)

    def write(self, data: bytes, to: Literal["stdout", "stderr"] = "stdout") -> None:
        """Write bytes as they are."""
        self._order(data, do="write", to=to)

    def lines(self, *values: Any) -> None:
        """Write lines, all at once."""
        self.write(b"".join(msgspec.json.encode(value) + b"\n" for value in values))

    def wait(self, seconds: float) -> None:
        """Write nothing further for so long."""
        self._order(do="wait", seconds=seconds)

    async def flushed(self, seconds: float | None = None) -> None:
        """Wait until the system has taken all that was written."""
        written = self._nothing_to_write.wait()
        await self._watch.wait(written, "that what the plugin writes is read", seconds)

    def answer(self, request: Request, response: Any = None) -> None:
        """Answer with a response, ``{}`` if none is given."""
        self.lines(self.answer_to(request, response))

    def answer_to(self, request: Request, response: Any = None) -> dict[str, Any]:
        """Return the line that answers with a response."""
        return {"id": request.id, "response": {} if response is None else response}

    def refuse(self, request: Request, code: str, message: str) -> None:
        """Answer with an error."""
        self.lines({"id": request.id, "error": {"code": code, "errMsg": message}})

    def new_connection(self, request: Request) -> str:
        """Return the id of the connection that `request` creates."""
        self._ids += 1
        id = f"ws-{self._ids}"
        self.connections[id] = request.envelope.get("app")
        self.names[id] = request.payload["url"].rpartition("/")[2]
        self.binary_types[id] = request.payload.get("binaryType") or "arraybuffer"
        return id

    def event(self, id: str, name: str, **payload: Any) -> dict[str, Any]:
        """Return the line of an event."""
        line: dict[str, Any] = {"event": "websocket-event"}
        if app := self.connections.get(id):
            line["app"] = app
        if name == "close":
            self.connections.pop(id, None)
        return line | {"payload": {"id": id, "name": name, "payload": payload}}

    def opening(self, id: str, **facts: Any) -> dict[str, Any]:
        """Return the line of an event ``open``."""
        times = ("fetchStart", "domainLookUpStart", "domainLookUpEnd", "connectStart", "connectEnd")
        profile = dict.fromkeys(times, 1.7e12) | {"rtt": 1.5, "handshakeCost": 2.5, "cost": 4.0}
        opening = {"headers": {}, "protocol": "", "extensions": "", "profile": profile}
        return self.event(id, "open", **opening | facts)

    def text(self, id: str, text: str) -> dict[str, Any]:
        """Return the line of an event ``message`` with text."""
        return self.event(id, "message", type="text", data=text)

    def binary(self, id: str, data: bytes) -> dict[str, Any]:
        """Return the line of an event ``message`` with bytes, as the host has asked for them."""
        if (kind := self.binary_types[id]) == "base64":
            return self.event(id, "message", type=kind, data=data)
        return self.event(id, "message", type=kind, data=[*data])

    def close(self, id: str, code: int, reason: str, cause: str) -> None:
        """Tell of the end of a connection."""
        self.lines(self.event(id, "close", code=code, reason=reason, cause=cause))

    async def hold_stdin(self) -> None:
        """Read one piece of stdin, of at most 64 KiB, and then no more."""
        self._order(do="hold")
        await self._watch.wait(self._held.wait(), "the stand-in's obedience")
        self._touched.clear()

    async def filled(self) -> None:
        """Wait until the host writes what is not read."""
        await self._watch.wait(self._touched.wait(), "something on the plugin's stdin")

    def release_stdin(self) -> None:
        """Read on."""
        self._order(do="release")

    def close_stdout(self) -> None:
        """Close stdout and live on."""
        self._order(do="close-stdout")

    def leave_a_grandchild(self) -> None:
        """Start a process that holds stdout."""
        self._order(do="grandchild")

    def exit(self, status: int) -> None:
        """End, behind what is still to be written."""
        self._order(do="exit", status=status)

    def die(self) -> None:
        """End at once, by SIGKILL."""
        self._order(do="die")

    async def end_well(self) -> None:
        """What the plugin does at the end of stdin."""
        for id in [*self.connections]:
            self.close(id, 1001, "plugin shutting down", "shutdown")
        self.exit(0)

    async def stay(self) -> None:
        """What a plugin that hangs does at the end of stdin."""

    async def dismiss(self) -> None:
        """End the process, if it lives, and wait for its end: nothing is left behind."""
        if not self.gone.is_set():
            # Half of it: the other half tells of the end.
            self._writer.write_eof()
            async with asyncio.timeout(PATIENCE):
                await self.gone.wait()
        self._writer.close()


def option(argv: list[str], name: str) -> str | None:
    """Return the value of an option, the last one if there are several; None if there is none."""
    text = "\0".join(argv)
    values: list[str] = re.findall(rf"(?:^|\0){name}[=\0]([^\0]*)", text)
    return values[-1] if values else None
