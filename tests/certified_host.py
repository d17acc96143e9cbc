"""A host that keeps its promises, as small as it can be, and its demo: for the tests of the kit.

Threads and the standard library. Nothing here blocks on the plugin but the thread whose work it is.
"""

import base64
import collections
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

GRACE = 5.0
FULL, MANY = 2**20, 1_024
FAILURE = {"code": 1006, "cause": "failure"}


class Ended(Exception):
    """The plugin is gone or is none."""


class Refused(Exception):
    """The plugin has answered with an error."""


def show(line: dict[str, Any]) -> None:
    """Print a line at once."""
    with PRINTING:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


PRINTING = threading.Lock()


def thread(target: Any, *args: Any) -> threading.Thread:
    """Start a thread that keeps nobody alive."""
    started = threading.Thread(target=target, args=args, daemon=True)
    started.start()
    return started


class Connection:
    """Queues events between the host's reader and a listener that prints them on a thread."""

    def __init__(self, host: "Host", id: str, name: str, delay: float) -> None:
        self.host, self.id, self.name, self.delay = host, id, name, delay
        self.events: collections.deque[tuple[str, dict[str, Any]]] = collections.deque()
        self.size = 0
        self.full = self.held = self.closed = False
        self.changed = threading.Condition()
        thread(self.listen)

    def take(self, name: str, payload: dict[str, Any]) -> None:
        """Queue an event."""
        if name not in ("open", "message", "error", "close"):
            return
        if name == "message" and payload["type"] not in ("text", "base64"):
            return
        with self.changed:
            self.events.append((name, payload))
            self.size += len(payload["data"]) if name == "message" else 0
            self.closed |= name == "close"
            if not self.full and (self.size >= FULL or len(self.events) >= MANY):
                self.full = True
                self.ask("websocket-pause")
            self.changed.notify()

    def ask(self, action: str) -> None:
        """Have the plugin pause or resume, unless the app has done so or there is no need."""
        if not self.held and not self.closed and "pause" in self.host.features:
            self.host.request(action, {"id": self.id})

    def hold(self, held: bool) -> "Future[Any]":
        """Pause or resume for the app."""
        with self.changed:
            self.held = held
            if not held and self.full:
                return self.host.request("plugin-describe")  # the queue resumes it
            return self.host.request(
                "websocket-pause" if held else "websocket-resume", {"id": self.id}
            )

    def listen(self) -> None:
        """Print the events, and take the time that the app takes."""
        name = ""
        while name != "close":
            with self.changed:
                self.changed.wait_for(lambda: self.events)
                name, payload = self.events.popleft()
                self.size -= len(payload["data"]) if name == "message" else 0
                if self.full and self.size <= FULL // 2 and len(self.events) <= MANY // 2:
                    self.full = False
                    self.ask("websocket-resume")
            show({"on": self.name, "event": name} | printed(name, payload))
            time.sleep(self.delay if name == "message" else 0)


def printed(name: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Return what the demo prints of an event."""
    match name:
        case "message":
            return {"text" if payload["type"] == "text" else "base64": payload["data"]}
        case "error":
            status = {"status": payload["status"]} if "status" in payload else {}
            return {"code": payload["code"], "message": payload["errMsg"]} | status
        case "open":
            return {key: payload[key] for key in ("headers", "protocol", "extensions")}
        case _:
            return {key: payload[key] for key in ("code", "reason", "cause")}


class Host:
    """Runs the plugin from :meth:`start` to :meth:`stop`."""

    def __init__(self) -> None:
        self.ids = itertools.count(1)
        self.lock = threading.Lock()
        self.pending: dict[int, tuple[Future[Any], Any]] = {}
        self.connections: dict[str, Connection] = {}
        self.outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self.features: list[str] = []
        self.ended = self.errors = ""
        self.over = threading.Event()

    def start(self) -> None:
        """Start the plugin and check what it is."""
        command = [os.environ["WSPLUGIN"], "--parent-pid", str(os.getpid()), "--exit-timeout=1.5"]
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(command, 0, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as exc:
            self.ended = f"{command[0]}: {exc.strerror}"
            raise Ended(self.ended) from None
        self.errors_end = thread(self.read_stderr)
        thread(self.write)
        thread(self.read)
        why = "nothing has come"
        try:
            described = self.request("plugin-describe").result(GRACE)
            if described["name"] == "wsplugin" and described["protocol"] == 1:
                self.features = described["features"]
                return
            why = f"it is {described['name']}, protocol {described['protocol']}"
        except (Ended, Refused) as exc:
            why = str(exc)
        except TimeoutError:
            pass
        self.process.kill()
        self.over.wait()
        if self.process.returncode == 2 and "unrecognized" in self.errors:
            why = "this wsplugin is of 1.0; update it or start it without these options"
        raise Ended(f"{command[0]} is no plugin: {why}")

    def request(
        self, action: str, payload: Any = None, *, new: Any = None, **more: Any
    ) -> "Future[Any]":
        """Send a request; return the future of its response."""
        id = next(self.ids)
        line = {"id": id, "action": action, "payload": payload} | more
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        answer: Future[Any] = Future()
        with self.lock:
            if self.ended:
                raise Ended(self.ended)
            self.pending[id] = answer, new
        self.outgoing.put(data)
        return answer

    def write(self) -> None:
        """Write what is to go out, for as long as the plugin takes it."""
        assert self.process.stdin
        while data := self.outgoing.get():
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[self.process.stdin.write(rest) :]
            except OSError:
                return  # the plugin is gone, as the reader sees, too
        self.process.stdin.close()

    def read(self) -> None:
        """Read to the end, and tell of it."""
        assert self.process.stdout
        parts: list[bytes] = []
        why = ""
        try:
            while chunk := self.process.stdout.read(65_536):
                *ends, rest = chunk.split(b"\n")
                for end in ends:
                    line = b"".join([*parts, end])
                    parts.clear()
                    self.take(json.loads(line))
                parts.append(rest)
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            why = f"it wrote no line of the protocol: {line[:60].decode(errors='replace')} ({exc})"
            self.process.kill()
        self.outgoing.put(None)
        self.finish(why)

    def finish(self, why: str) -> None:
        """Fail what is pending once the process has ended."""
        try:
            status = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.errors_end.join(1)
        with self.lock:
            if self.ended:
                return
            self.ended = why or f"the plugin ended with status {status}: {self.errors}"
            pending, self.pending = self.pending, {}
        for answer, _ in pending.values():
            answer.set_exception(Ended(self.ended))
        for connection in self.connections.copy().values():
            connection.take("close", FAILURE | {"reason": self.ended})
        self.over.set()

    def take(self, line: Any) -> None:
        """Take a line that has been read."""
        if line.get("event") == "websocket-event":
            event = line["payload"]
            if connection := self.connections.get(event["id"]):
                connection.take(event["name"], event.get("payload") or {})
                if event["name"] == "close":
                    del self.connections[event["id"]]
        elif "id" in line:
            answer, new = self.pending.pop(line["id"], (None, None))
            if answer is None:
                return
            if "error" in line:
                answer.set_exception(Refused(line["error"]["code"], line["error"]["errMsg"]))
            elif new and "id" not in line.get("response", {}):
                answer.set_exception(Ended("the plugin has named no connection"))
            else:
                if new:
                    id = line["response"]["id"]
                    self.connections[id] = Connection(self, id, *new)
                answer.set_result(line.get("response", {}))

    def read_stderr(self) -> None:
        """Pass stderr on, if anybody reads that, and keep its last line."""
        assert self.process.stderr
        tail = b""
        while chunk := self.process.stderr.read(65_536):
            tail = (tail + chunk)[-1_000:]
            *_, self.errors = ["", *tail.decode(errors="replace").strip().splitlines()]
            try:
                os.write(2, chunk)
            except OSError:
                pass  # the app's stderr is closed

    def stop(self) -> int:
        """Close stdin and wait; return the exit status."""
        self.outgoing.put(None)
        try:
            status = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if not self.over.wait(1):
            self.finish("")  # somebody else holds stdout
        return status


class Demo:
    """Carries out the script."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.start(0)

    def start(self, id: int) -> None:
        """Start a host."""
        self.host = Host()
        self.settle(id, self.host.start)

    def settle(self, id: int, work: Any) -> None:
        """Do some work that blocks, and print its outcome."""
        answer: Future[Any] = Future()
        try:
            answer.set_result(work() or {})
        except Exception as exc:  # noqa: BLE001 - each becomes an outcome
            answer.set_exception(exc)
        self.show(id, answer)

    def show(self, id: int, answer: "Future[Any]") -> None:
        """Print an outcome."""
        match answer.exception():
            case None:
                shown = {"outcome": "ok"}
                shown |= {k: v for k, v in answer.result().items() if k in ("rtt", "status")}
            case Refused(args=(code, message)):
                shown = {"outcome": "refused", "code": code, "message": message}
            case Ended() as exc:
                shown = {"outcome": "ended", "message": str(exc)}
            case exc:
                shown = {"outcome": "invalid", "message": str(exc)}
        show({"id": id} | shown)

    def run(self, call: dict[str, Any]) -> None:
        """Start one call."""
        id, host = call["id"], self.host
        match call["call"]:
            case "start":
                self.start(id)
            case "stop":
                thread(self.settle, id, lambda: {"status": host.stop()})
            case _:
                try:
                    answer = self.request(host, call)
                except (Ended, ValueError, LookupError) as exc:
                    answer = Future()
                    answer.set_exception(exc)
                answer.add_done_callback(lambda answer: self.show(id, answer))

    def request(self, host: Host, call: dict[str, Any]) -> "Future[Any]":
        """Return the future of a call's response."""
        app = {"app": call["app"]} if "app" in call else {}
        given = {key: call[key] for key in ("timeout", "code", "reason") if key in call}
        if call["call"] == "background":
            return host.request("app-background", **app)
        if call["call"] == "create":
            payload: dict[str, Any] = {
                k: call[k] for k in ("url", "headers", "protocols") if k in call
            }
            if "hostHeaders" in call:
                app["headers"] = call["hostHeaders"]
            new = (call["as"], call.get("delay", 0) / 1000)
            payload |= given | {"binaryType": "base64"}
            return host.request("websocket-create", payload, new=new, **app)
        (connection,) = (c for c in host.connections.values() if c.name == call["to"])
        payload = {"id": connection.id}
        match call["call"]:
            case "send":
                kind, data = next((k, call[k]) for k in ("text", "base64") if k in call)
                base64.b64decode(data if kind == "base64" else "")
                return host.request("websocket-send", payload | {"type": kind, "data": data})
            case "pause" | "resume" as what:
                return connection.hold(what == "pause")
            case what:
                return host.request(f"websocket-{what}", payload | given)


def main() -> None:
    """Run the demo."""
    demo = Demo()
    for line in sys.stdin.buffer:
        demo.run(json.loads(line))
    if hasattr(demo.host, "process"):
        demo.host.stop()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
