"""The host beside this file as ``wsplugin certify`` drives it: calls on stdin, outcomes on stdout.

    $ wsplugin certify -- python3 host_examples/python/scripted.py

One JSON object a line, in both directions; ``certify.md`` describes them. The plugin's command is
in the environment, as ``WSPLUGIN``.
"""

import asyncio
import base64
import json
import os
import sys
from typing import Any

from host import Close, Error, Host, Message, Open, PluginEnded, RequestError, WebSocket

LAST_WORDS = 1.0
"""Seconds for calls and loops to tell of their end, once the plugin has been stopped."""


class Unreadable(Exception):
    """A line of the script is none."""


class Script:
    """Carries out calls, each without waiting for those before it."""

    def __init__(self) -> None:
        self._host: Host
        self._websockets: dict[str, WebSocket] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Start the plugin, carry out the lines of stdin, stop the plugin."""
        await self._call({"id": 0, "call": "start"})
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            match call := parse(line):
                case {"call": "sleep", "ms": ms}:
                    await asyncio.sleep(ms / 1000)
                case {"call": "start"}:
                    await self._call(call)
                case _:
                    self._spawn(self._call(call))
        await self._call({"id": None, "call": "stop"})
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_WORDS)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, call: dict[str, Any]) -> None:
        try:
            result = {"outcome": "ok"} | await self._carry_out(call)
        except RequestError as refusal:
            result = {"outcome": "refused", "code": refusal.code, "message": refusal.message}
        except PluginEnded as ended:
            result = {"outcome": "ended", "message": str(ended)}
        except (ValueError, TypeError) as exc:
            result = {"outcome": "invalid", "message": str(exc)}
        if call["id"] is not None:
            tell({"id": call["id"]} | result)

    async def _carry_out(self, call: dict[str, Any]) -> dict[str, Any]:
        match call["call"]:
            case "start":
                self._host = Host(os.environ.get("WSPLUGIN", "wsplugin"))
                self._websockets = {}
                await self._host.start()
            case "create":
                await self._create(call)
            case "send":
                data = call["text"] if "text" in call else base64.b64decode(call["base64"])
                await self._websocket(call).send(data)
            case "close":
                await self._websocket(call).close(
                    call.get("code", 1000), call.get("reason", ""), timeout=seconds(call)
                )
            case "pause":
                await self._websocket(call).pause()
            case "resume":
                await self._websocket(call).resume()
            case "ping":
                return {"rtt": 1000 * await self._websocket(call).ping(seconds(call))}
            case "background":
                await self._host.background(call.get("app"))
            case "stop":
                return {"status": await self._host.stop()}
        return {}

    def _websocket(self, call: dict[str, Any]) -> WebSocket:
        if call["to"] not in self._websockets:
            raise ValueError(f"there is no connection {call['to']!r}")
        return self._websockets[call["to"]]

    async def _create(self, call: dict[str, Any]) -> None:
        websocket = await self._host.create(
            call["url"],
            headers=call.get("headers"),
            protocols=call.get("protocols", ()),
            timeout=seconds(call),
            app=call.get("app"),
            host_headers=call.get("hostHeaders"),
        )
        self._websockets[call["as"]] = websocket
        self._spawn(self._listen(call["as"], websocket, call.get("delay", 0) / 1000))

    async def _listen(self, name: str, websocket: WebSocket, delay: float) -> None:
        async for event in websocket:
            tell({"on": name} | describe(event))
            if isinstance(event, Message):
                await asyncio.sleep(delay)


def describe(event: Open | Message | Error | Close) -> dict[str, Any]:
    """Return an event as the script's lines have it."""
    match event:
        case Open(headers, protocol, extensions):
            facts = {"headers": headers, "protocol": protocol, "extensions": extensions}
            return {"event": "open"} | facts
        case Message(str(text)):
            return {"event": "message", "text": text}
        case Message(data):
            assert isinstance(data, bytes)
            return {"event": "message", "base64": base64.b64encode(data).decode()}
        case Error(code, message, status):
            answered = {} if status is None else {"status": status}
            return {"event": "error", "code": code, "message": message} | answered
        case Close(code, reason, cause):
            return {"event": "close", "code": code, "reason": reason, "cause": cause}


CALLS = {"create", "send", "close", "pause", "resume", "ping", "background", "stop", "start"}


def parse(line: bytes) -> dict[str, Any]:
    """Return a call."""
    try:
        call: dict[str, Any] = json.loads(line)
        known = call["call"] in CALLS | {"sleep"} and isinstance(call["id"], int)
    except (ValueError, LookupError, TypeError) as exc:
        raise Unreadable(f"{line!r}: {exc!r}") from exc
    if not known:
        raise Unreadable(f"{line!r}: no such call")
    return call


def seconds(call: dict[str, Any]) -> float | None:
    """Return a call's timeout."""
    return call["timeout"] / 1000 if "timeout" in call else None


def tell(line: dict[str, Any]) -> None:
    """Print a line at once."""
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(Script().run())
    except Unreadable as unreadable:
        print(f"scripted.py: {unreadable}", file=sys.stderr)
        sys.exit(2)
