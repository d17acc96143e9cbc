"""The host beside this file as ``wsplugin certify`` drives it: calls on stdin, outcomes on stdout.

    $ wsplugin certify -- python3 host_examples/python_embedded/embedded_scripted.py

One JSON object a line, in both directions; ``certify.md`` describes them. Where the environment has
a command as ``WSPLUGIN``, that speaks for the plugin, over the same socket pair.
"""

import base64
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from embedded_host import Host, Listener, PluginEnded, RequestError, WebSocket

from wsplugin import Settings

LAST_WORDS = 1.0
"""Seconds for calls and listeners to tell of their end, once the plugin has been stopped."""


class Unreadable(Exception):
    """A line of the script is none."""


def serve_with(command: str, stdin: int, stdout: int, settings: Settings) -> int:
    """Have a process speak for the plugin; what it says on stderr is why it has failed."""
    pipe = subprocess.PIPE
    last = b""
    with subprocess.Popen([command], stdin=stdin, stdout=stdout, stderr=pipe) as process:  # noqa: S603 - the kit's
        assert process.stderr
        for line in process.stderr:
            sys.stderr.buffer.write(line)
            sys.stderr.flush()
            last = line
    if process.returncode and last:
        raise RuntimeError(f"it ended with status {process.returncode}: {last.decode().strip()}")
    return process.returncode


# Which call a thread carries out: what is to be told once it has been handed to the plugin.
current = threading.local()


class ScriptedHost(Host):
    """A host that tells when a request has been put in its order."""

    def submit(self, *args: Any, **options: Any) -> "Future[Any]":
        """Send a request, and let the next line of the script be read."""
        answer = super().submit(*args, **options)
        if hasattr(current, "submitted"):
            current.submitted.set()
        return answer


class Teller(Listener):
    """Prints the events of a connection, and takes its time over each message."""

    def __init__(self, tell: Callable[[dict[str, Any]], None], name: str, delay: float) -> None:
        self._tell = tell
        self._name = name
        self._delay = delay

    def _event(self, event: str, **facts: object) -> None:
        self._tell({"on": self._name, "event": event} | facts)

    def on_open(self, websocket: WebSocket, headers: dict[str, str]) -> None:
        """Print the facts of the opening."""
        protocol, extensions = websocket.protocol, websocket.extensions
        self._event("open", headers=headers, protocol=protocol, extensions=extensions)

    def on_message(self, websocket: WebSocket, data: str | bytes) -> None:
        """Print a message."""
        if isinstance(data, str):
            self._event("message", text=data)
        else:
            self._event("message", base64=base64.b64encode(data).decode())
        time.sleep(self._delay)

    def on_error(
        self, websocket: WebSocket, code: str, message: str, status: int | None, *_: object
    ) -> None:
        """Print the error."""
        answered = {} if status is None else {"status": status}
        self._event("error", code=code, message=message, **answered)

    def on_close(self, websocket: WebSocket, code: int, reason: str, cause: str) -> None:
        """Print the end."""
        self._event("close", code=code, reason=reason, cause=cause)


class Script:
    """Carries out calls, each on a thread, without waiting for those before it."""

    def __init__(self) -> None:
        command = os.environ.get("WSPLUGIN")
        self._serve = functools.partial(serve_with, command) if command else None
        self._host: Host | None = None
        self._websockets: dict[str, WebSocket] = {}
        self._printing = threading.Lock()

    def run(self) -> None:
        """Start the plugin, carry out the lines of stdin, stop the plugin."""
        self._call({"id": 0, "call": "start"})
        while line := sys.stdin.buffer.readline():
            match call := parse(line):
                case {"call": "sleep", "ms": ms}:
                    time.sleep(ms / 1000)
                case {"call": "start"}:
                    self._call(call)
                case _:
                    submitted = threading.Event()
                    arguments = (call, submitted)
                    threading.Thread(target=self._call, args=arguments, daemon=True).start()
                    submitted.wait()
        self._call({"id": None, "call": "stop"})
        until = time.monotonic() + LAST_WORDS
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(max(0, until - time.monotonic()))

    def _call(self, call: dict[str, Any], submitted: threading.Event | None = None) -> None:
        current.submitted = submitted or threading.Event()
        try:
            result = {"outcome": "ok"} | self._carry_out(call)
        except RequestError as refusal:
            result = {"outcome": "refused", "code": refusal.code, "message": refusal.message}
        except PluginEnded as ended:
            result = {"outcome": "ended", "message": str(ended)}
        except (ValueError, TypeError) as exc:
            result = {"outcome": "invalid", "message": str(exc)}
        finally:
            current.submitted.set()
        if call["id"] is not None:
            self._tell({"id": call["id"]} | result)

    def _carry_out(self, call: dict[str, Any]) -> dict[str, Any]:
        if call["call"] == "start":
            self._websockets = {}
            self._host = None
            self._host = ScriptedHost(serve=self._serve)
            return {}
        if self._host is None:
            raise PluginEnded("the plugin could not be started")
        match call["call"]:
            case "create":
                self._create(self._host, call)
            case "send":
                data = call["text"] if "text" in call else base64.b64decode(call["base64"])
                self._websocket(call).send(data)
            case "close":
                code, reason = call.get("code", 1000), call.get("reason", "")
                self._websocket(call).close(code, reason, timeout=seconds(call))
            case "pause":
                self._websocket(call).pause()
            case "resume":
                self._websocket(call).resume()
            case "ping":
                return {"rtt": 1000 * self._websocket(call).ping(seconds(call))}
            case "background":
                self._host.background(call.get("app"))
            case "stop":
                current.submitted.set()
                return {"status": self._host.stop()}
        return {}

    def _websocket(self, call: dict[str, Any]) -> WebSocket:
        if call["to"] not in self._websockets:
            raise ValueError(f"there is no connection {call['to']!r}")
        return self._websockets[call["to"]]

    def _create(self, host: Host, call: dict[str, Any]) -> None:
        self._websockets[call["as"]] = host.create(
            call["url"],
            Teller(self._tell, call["as"], call.get("delay", 0) / 1000),
            headers=call.get("headers"),
            protocols=call.get("protocols", ()),
            timeout=seconds(call),
            app=call.get("app"),
            host_headers=call.get("hostHeaders"),
        )

    def _tell(self, line: dict[str, Any]) -> None:
        """Print a line at once."""
        with self._printing:
            print(json.dumps(line), flush=True)


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


if __name__ == "__main__":
    try:
        Script().run()
        status = 0
    except Unreadable as unreadable:
        print(f"embedded_scripted.py: {unreadable}", file=sys.stderr)
        status = 2
    sys.stdout.flush()
    # Not sys.exit(), which would wait for listeners that still have messages to be slow over.
    os._exit(status)
