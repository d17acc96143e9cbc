"""What the host does and when."""

import base64
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from simulation import proxies
from simulation.host import Host
from simulation.life import App
from simulation.network import FIRST_PORT, Network, Place, draw_place
from simulation.servers import Server
from simulation.world import World
from wsplugin.settings import Settings

AT_ONCE: Final = 0.05
"""Seconds within which even a busy machine refuses a message that it does not let wait."""
PAUSES: Final = (0.0, 0.0, 0.0, 0.001, 0.05, 0.5, 2.0)
NOBODY: Final = "nobody"
"""An app that has no connection."""
LOOPBACK: Final = ("127.0.0.1", "::1")
PUBLIC: Final = ("93.184.216.34", "2606:2800:220:1::1")
PRIVATE: Final = ("10.0.0.7",)

MALFORMED: Final[list[tuple[bytes, *tuple[str, ...]]]] = [
    (b"x", "invalid-json"),
    (b"[]", "invalid-request"),
    (b"\xff", "invalid-json"),
    (b'{"action":"websocket-send"', "invalid-json"),
    (b'{"action":"nothing"}', "unknown-action"),
    (b'{"action":"app-background","app":null}', "invalid-request"),
    (b'{"action":"websocket-create","payload":{"url":"ws://x"},"app":""}', "invalid-request"),
    (
        b'{"action":"websocket-close","payload":{"id":"ws-1","code":1}}',
        "invalid-payload",
        "shutting-down",
    ),
    (
        b'{"action":"websocket-create","payload":{"url":"http://x"}}',
        "invalid-payload",
        "shutting-down",
    ),
]
"""Lines that have no id, and what their answer may say."""


class Script:
    """Plays the host: its requests, pauses and end.

    Args:
        apps: those that it serves.
        course: what it does; yields how many seconds to wait. None for what the seed says.

    """

    def __init__(
        self,
        world: World,
        host: Host,
        network: Network,
        settings: Settings,
        apps: tuple[App, ...] = (None,),
        course: Callable[["Script"], Iterator[float]] | None = None,
    ) -> None:
        self.over = False
        """Whether the plugin has ended."""
        self._course = course or Script._drawn
        self.world = world
        self.host = host
        self.network = network
        self.settings = settings
        self.apps = apps
        self.random = world.random("script")
        self.creates = 0
        """How many connections have been asked for."""
        self.sent: dict[str, dict[int, bytes]] = {}
        """The messages of each connection, by their numbers."""
        self.senders: dict[str, dict[int, App]] = {}
        """The apps that the requests to send them named."""
        self.done: dict[str, set[int]] = {}
        """The numbers of those that were answered with ``{}``."""
        self.waited: dict[str, list[int]] = {}
        """The numbers of those that waited and were then refused."""
        self._sends: dict[Any, tuple[str, int]] = {}
        # Connections that have been paused, and not been resumed since.
        self._paused: list[str] = []
        self.stopped_at = math.inf
        """When a signal was given."""
        self.gone_at = math.inf
        """When the host went."""
        self.left: list[tuple[str, Server]] = []
        """The open connections that were well when it went."""
        self.on_message: Callable[[str, Any], None] = lambda *message: None
        """Called with each message when the plugin writes it."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called to give a signal."""
        self.on_killed: Callable[[], None] = lambda: None
        """Called when the host's process has ended."""
        self._requests = 0

    def start(self) -> None:
        """Begin."""
        self._run(self._course(self))

    def _run(self, course: Iterator[float]) -> None:
        delay = None if self.over else next(course, None)
        if delay is not None:
            self.world.after(delay, lambda: self._run(course))

    def _drawn(self) -> Iterator[float]:
        """Do what the seed says."""
        draw = self.random
        steps = [
            *[self.create] * 5,
            *[self.send] * 12,
            *[self.send_many] * 4,
            *[self.close] * 3,
            *[self.pause_or_resume] * 4,
            *[self.ping] * 2,
            self.strange,
        ]
        rounds = draw.randint(4, 24)
        for _ in range(rounds):
            lines = [
                line for _ in range(draw.choice((1, 1, 2, 5))) for line in draw.choice(steps)()
            ]
            if draw.random() < 0.04:
                lines += [self.request("app-background", app=draw.choice(self.apps))]
            self.host.write_lines(*lines)
            yield draw.choice(PAUSES)
            if draw.random() < 0.06:
                yield from self._mishap()
        yield draw.choice((0.0, 0.01, 1.0, 6.0))
        yield from draw.choice((*[self._end] * 8, *[self.stop, self.go] * 2, *[self.die] * 3))()

    def _mishap(self) -> Iterator[float]:
        """Something that happens to the host or to its machine."""
        match self.random.randrange(4):
            case 0 | 1:
                self.host.stdout.pause()
                pause = self.random.choice((0.01, 0.5, 3.0))
                self.world.after(pause, self.host.stdout.resume)
                if self.random.random() < 0.5:
                    yield pause
            case 2:
                self.world.exhausted_until = self.world.now + self.random.choice((0.01, 1.0))
                self.world.note("world", "no descriptors are left")
            case 3:
                self.world.frozen_until = self.world.now + self.random.choice((0.3, 3.0, 30.0))
                self.world.note("world", "the process is stopped for a while")

    def _end(self) -> Iterator[float]:
        if self.random.random() < 0.3:
            self._last_words()
        self.host.stdin.end()
        if self.random.random() < 0.15:
            yield self.random.choice((0.0, 0.3, 2.0))
            yield from self.random.choice((self.stop, self.go, self.die))()

    def _last_words(self) -> None:
        """Write a last line without LF."""
        self.host.write_lines(self.request("plugin-describe"), last=True)

    def stop(self) -> Iterator[float]:
        """Give a signal."""
        self.world.note("host", "gives a signal")
        self.stopped_at = self.world.now
        self.on_stop()
        yield 0.0

    def go(self) -> Iterator[float]:
        """Hang up."""
        self._leave()
        self.host.stdout.hang_up()
        yield 0.0

    def die(self) -> Iterator[float]:
        """Be killed, while somebody else holds the pipes and does nothing with them."""
        self.world.note("host", "is killed")
        self._leave()
        self.host.stdout.reading = False
        self.on_killed()
        yield 0.0

    def _leave(self) -> None:
        self.gone_at = self.world.now
        self.host.gone = True
        served = self.network.served()
        self.left = [(id, server) for id, server in served if id in self._open() and server.well]

    # --- requests ---

    def request(
        self, action: str, payload: Any = None, *, named: bool = True, app: App = None
    ) -> "Line":
        """Return a request as a line, known to the checker."""
        self._requests += 1
        number = self._requests
        request: dict[str, Any] = {}
        if named:
            request["id"] = number if number % 3 else f"r-{number}"
        request["action"] = action
        if payload is not None:
            request["payload"] = payload
        if app is not None:
            request["app"] = app
        line = msgspec.json.encode(request)
        if len(line) > self.settings.max_line:
            return line, self.host.checker.expect_error(request.get("id"), "line-too-long")
        return line, self.host.checker.request(request)

    def about(self, action: str, payload: dict[str, Any], *, named: bool = True) -> "Line":
        """Return a request about some connection, mostly one that may reach it."""
        draw = self.random
        app = None
        if self.apps != (None,):
            owner = self.host.checker.apps.get(payload["id"], self.apps[0])
            app = draw.choice((*[owner] * 6, None, *self.apps, NOBODY))
        return self.request(action, payload, named=named, app=app)

    def create_at(
        self, place: Place, host: str = "127.0.0.1", app: App = None, **options: Any
    ) -> str:
        """Create a connection to a place, and write the request; return its id."""
        port = FIRST_PORT + self.creates
        self.creates += 1
        self.network.places[port] = place
        payload = {"url": f"ws://{host}:{port}/", **options}
        self.host.write_lines(self.request("websocket-create", payload, app=app))
        return f"ws-{self.creates}"

    def write(self, action: str, payload: Any = None, app: App = None) -> None:
        """Write a request."""
        self.host.write_lines(self.request(action, payload, app=app))

    def refused(self, code: str, action: str, payload: Any) -> "Line":
        """Return a request that must be answered with an error."""
        self._requests += 1
        id = f"r-{self._requests}"
        line = msgspec.json.encode({"id": id, "action": action, "payload": payload})
        return line, self.host.checker.expect_error(id, code, "shutting-down")

    def create(self) -> list["Line"]:
        """Create a connection, to somewhere."""
        draw = self.random
        port = FIRST_PORT + self.creates
        self.creates += 1
        host = draw.choice(("127.0.0.1", "localhost", f"c{self.creates}.test", "[::1]"))
        addresses: tuple[str, ...]
        if self.settings.block_private and draw.random() < 0.8:
            host = f"c{self.creates}.test"
        match host:
            case "127.0.0.1":
                addresses = LOOPBACK[:1]
            case "[::1]":
                addresses = LOOPBACK[1:]
            case "localhost":
                addresses = LOOPBACK
            case _:
                addresses = draw.choice((PUBLIC[:1], PUBLIC, PUBLIC[::-1], PRIVATE))
        if self.settings.block_private and host in ("127.0.0.1", "[::1]"):
            # It is refused: nothing is created, and the number not taken.
            self.creates -= 1
            return [self.refused("forbidden", "websocket-create", {"url": f"ws://{host}:{port}/"})]
        if proxies.PORT not in self.network.places:
            self.network.places[proxies.PORT] = draw_place(self.world.random("proxy"), PUBLIC[:1])
        self.network.places[port] = draw_place(self.world.random(f"place {port}"), addresses)
        options: dict[str, Any] = {"url": f"ws://{host}:{port}/{self.creates}"}
        if draw.random() < 0.15:
            options["timeout"] = draw.choice((1, 50, 700, 5000, 60_000))
        if draw.random() < 0.3:
            options["perMessageDeflate"] = False
        if draw.random() < 0.5:
            options["binaryType"] = "base64"
        if draw.random() < 0.1:
            options["headers"] = {"X-Sim": "1"}
        return [self.request("websocket-create", options, app=draw.choice(self.apps))]

    def _some_id(self) -> str | None:
        """Return a connection, rather a young one; now and then one that does not exist yet."""
        draw = self.random
        checker = self.host.checker
        asked = [r for r in checker.pending.values() if r["action"] == "websocket-create"]
        newest = len(checker.created) + len(asked)
        if not newest:
            return None
        if draw.random() < 0.7 and (known := self._open()):
            return draw.choice(known)
        return f"ws-{max(1, newest - int(draw.expovariate(0.5)))}"

    def _open(self) -> list[str]:
        """Return the connections that are open as far as the host knows."""
        events = self.host.checker.events
        return [
            id
            for id in events
            if [name for name, _ in events[id][:1]] == ["open"] and not self.host.checker.closed(id)
        ]

    def send_many(self) -> list["Line"]:
        """Send several messages on one connection, or on several."""
        return [line for _ in range(self.random.randint(2, 8)) for line in self.send()]

    def send(self) -> list["Line"]:
        """Send a message that nobody else sends."""
        draw = self.random
        id = self._some_id()
        if id is None:
            return []
        messages = self.sent.setdefault(id, {})
        number = len(messages)
        text = f"{number}:" + draw.choice("ab😀") * draw.choice((0, 0, 3, 30, 130, 900, 3000))
        data = text.encode()
        payload: dict[str, Any] = {"id": id}
        match draw.randrange(3):
            case 0:
                payload |= {"type": "text", "data": text}
            case 1:
                payload |= {"type": "arraybuffer", "data": list(data)}
            case 2:
                payload |= {"type": "base64", "data": base64.b64encode(data).decode()}
        line, request = self.about("websocket-send", payload, named=draw.random() < 0.95)
        messages[number] = data
        self.senders.setdefault(id, {})[number] = request.get("app")
        if request["action"] is not None and "id" in request:
            self._sends[request["id"]] = (id, number)
        return [(line, request)]

    def answered(self, line: Any) -> None:
        """Take note of an answer."""
        if line["id"] not in self._sends:
            return
        id, number = self._sends[line["id"]]
        if "response" in line:
            self.done.setdefault(id, set()).add(number)
        elif self.world.now > self.host.taken[line["id"]] + AT_ONCE:
            self.waited.setdefault(id, []).append(number)

    def close(self) -> list["Line"]:
        """Close some connection."""
        draw = self.random
        id = self._some_id()
        if id is None:
            return []
        payload: dict[str, Any] = {"id": id}
        if draw.random() < 0.5:
            payload |= {"code": draw.choice((1000, 1001, 3000, 4999)), "reason": "done ✓"}
        elif draw.random() < 0.2:
            payload |= {"code": 1005}
        if draw.random() < 0.6:
            payload["timeout"] = draw.choice((0, 0, 0, 1, 50, 700, 20_000))
        return [self.about("websocket-close", payload)]

    def pause_or_resume(self) -> list["Line"]:
        """Pause some connection, or resume one that was paused, or another."""
        draw = self.random
        if self._paused and draw.random() < 0.6:
            id = self._paused.pop(draw.randrange(len(self._paused)))
            return [self.about("websocket-resume", {"id": id})]
        some = self._some_id()
        if some is None:
            return []
        if draw.random() < 0.1:
            return [self.about("websocket-resume", {"id": some})]
        self._paused.append(some)
        return [self.about("websocket-pause", {"id": some})]

    def ping(self) -> list["Line"]:
        """Ping some server, now and then more often than may wait for their Pongs."""
        draw = self.random
        id = self._some_id()
        if id is None:
            return []
        payload: dict[str, Any] = {"id": id}
        if draw.random() < 0.7:
            payload["timeout"] = draw.choice((50, 400, 3000, 60_000))
        return [self.about("websocket-ping", payload) for _ in range(draw.choice((1, 1, 1, 2, 18)))]

    def strange(self) -> list["Line"]:
        """Ask for what cannot be, or for what has nothing to do with connections."""
        draw = self.random
        match draw.randrange(4):
            case 0:
                return [self.request("plugin-describe")]
            case 1:
                return [self.about("websocket-close", {"id": "ws-99999"})]
            case 2:
                return [(draw.choice((b"", b"  ", b"\r")), {"action": None})]
            case _:
                line, *codes = draw.choice(MALFORMED)
                return [(line, self.host.checker.expect_error(None, *codes))]


Line = tuple[bytes, dict[str, Any]]
