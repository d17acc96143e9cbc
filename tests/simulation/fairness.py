"""A course of its own: one app floods on five connections, and another has its turns all the same.

Counted are bytes as they travel. From the moment when a message of the other app has arrived in the
plugin's socket to the batch that carries it, the flood has at most one turn, and what the output
holds already; and if the other app floods on one connection, it has as much as the five.
"""

import random
from collections.abc import Iterator
from typing import Any, Final

from simulation import behaviours
from simulation.network import Host, Place
from simulation.plan import Plan
from simulation.script import Script
from simulation.servers import Behaviour, Content, Course, Server
from simulation.sockets import Weather
from simulation.world import START, Violation
from wsplugin import turns
from wsplugin.settings import Settings

SHARE: Final = 20
"""One in how many seeds plays this."""
FLOODS: Final = 5
FLOOD, OTHER = "flood", "other"
BEGIN: Final = 1.0
"""When the floods begin, in seconds since the start: all connections are open."""
TURNS: Final = 12
"""How much each connection floods."""
PROPORTIONS: Final = {
    "HIGH_WATER": 2**20,
    "LOW_WATER": 2**18,
    "BATCH": 2**18,
    "WRITE_HIGH_WATER": 2**16,
    "FIRST_ROOM": 2**16,
    "ROOM": 2**20,
    "SLICE": 2**16,
    "TURN_SIZE": 2**17,
}
"""The plugin's own limits: small runs have them smaller, and in the same proportions."""


class Fairness:
    """One run's course.

    Args:
        is_rival: whether the other app floods, too; else it has one round trip after another.
        size: bytes of each message of a flood.

    """

    def __init__(self, weather: Weather, turn: int, size: int, *, is_rival: bool) -> None:
        self.is_rival = is_rival
        self.trips = 0
        """How many round trips the other app has had."""
        self.most = 0
        """The most that the flood has had while a message of the other app waited."""
        self.shares = {FLOOD: 0, OTHER: 0}
        """How many bytes each has had while both flooded."""
        self._turn = turn
        self._size = size
        self._weather = weather
        self._left = dict.fromkeys(self.shares, 0)
        self._flooded = 0
        # What the flood had had when the message that waits arrived.
        self._arrived: int | None = None
        self._script: Script

    def __call__(self, script: Script) -> Iterator[float]:
        """Play it."""
        self._script = script
        script.on_message = self._told
        order = [FLOOD] * FLOODS
        order.insert(script.random.randint(0, FLOODS), OTHER)
        for app in order:
            floods = app == FLOOD or self.is_rival
            self._left[app] += floods * TURNS * self._turn
            life = self._flood if floods else behaviours.nothing
            behaviour = Behaviour(behaviours.accept, life, behaviours.answer, echoes=not floods)
            place = Place(True, 0.0, {"127.0.0.1": Host(0, 0.0)}, self._weather, behaviour)
            script.create_at(place, app=app, perMessageDeflate=False)
        # With as much for the one connection of the other as for the five: both last as long.
        self._left[OTHER] *= FLOODS
        yield BEGIN
        if not self.is_rival:
            self._watch()
            self._ask()
        yield 60.0
        self._check()
        script.host.stdin.end()

    def _flood(self, server: Server) -> Course:
        """Send messages of one size, as fast as they are taken."""
        yield START + BEGIN - server.world.now
        total = TURNS * self._turn
        if self._script.host.checker.apps[self._script.network.id_of(server)] == OTHER:
            total *= FLOODS
        for number in range(-(-total // _framed(self._size))):
            content: Content = ("text", f"{number}:".ljust(self._size, "x"))
            server.peer.send(server.say(content))

    # --- round trips ---

    @property
    def _other(self) -> str:
        apps = self._script.host.checker.apps
        return next(id for id in apps if apps[id] == OTHER)

    def _watch(self) -> None:
        (server,) = self._script.network.of(self._other)
        link = server.peer.link

        def arrived() -> None:
            if self._arrived is None and server.peer.all_sent:
                self._arrived = self._flooded

        link.on_arrival = arrived

    def _ask(self) -> None:
        script, id = self._script, self._other
        number = self.trips
        self._arrived = None
        script.sent.setdefault(id, {})[number] = b"%d:" % number
        script.senders.setdefault(id, {})[number] = OTHER
        payload = {"id": id, "type": "text", "data": f"{number}:"}
        script.write("websocket-send", payload, app=OTHER)

    # --- what is told ---

    def _told(self, id: str, payload: Any) -> None:
        """Take note of a message: it is among what goes to the host now."""
        app = self._script.host.checker.apps[id]
        assert app is not None
        size = _framed(len(payload["data"]))
        if all(left > 0 for left in self._left.values()):
            self.shares[app] += size
        self._left[app] -= size
        if app == FLOOD:
            self._flooded += size
        elif not self.is_rival:
            self._answered()

    def _answered(self) -> None:
        """A round trip is over.

        Raises:
            Violation: the flood has had too much meanwhile.

        """
        assert self._arrived is not None
        waited = self._flooded - self._arrived
        self.most = max(self.most, waited)
        self.trips += 1
        # It is over with the message that exceeds it.
        if waited > self._turn + _framed(self._size):
            raise Violation(f"{OTHER} has waited for {waited} bytes, a turn is {self._turn}")
        if self._left[FLOOD] > 0:
            self._ask()

    def _check(self) -> None:
        share = self.shares[OTHER] / max(1, sum(self.shares.values()))
        if self.is_rival and not 0.4 <= share <= 0.6:
            self._script.world.fail(Violation(f"{OTHER} has had {share:.0%} of what was told"))


def _framed(size: int) -> int:
    """Return the length of a message's frame (RFC 6455 section 5.2)."""
    return size + (2 if size < 126 else 4)


def drawn(seed: int) -> tuple[Plan, Fairness]:
    """Draw the conditions of such a run, and its course."""
    draw = random.Random(f"{seed}/fairness")
    scale = draw.choice((16, 64, 64, 64))
    turn = turns.TURN_SIZE // scale
    room, pace = draw.choice(((65_536, 0.0), (65_536, 0.0), (1500, 0.0), (1500, 0.0005)))
    is_rival = draw.random() < 0.3
    # With a latency it is the network that gives the five more than the one.
    latency = 0.0 if is_rival else draw.choice((0.0, 0.0, 0.001))
    segment = draw.choice((2**30, 2**30, turn // 3))
    weather = Weather(latency, draw.choice((0.0, latency / 2)), segment, 0.0, turn * 4)
    settings = Settings(
        allow_insecure=True,
        proxy="none",
        ping_interval=0.0,
        at_limit=draw.choice(("evict", "refuse")),
    )
    plan = Plan(
        settings,
        (FLOOD, OTHER),
        {name: limit // scale for name, limit in PROPORTIONS.items()},
        draw.choice((0.0, 0.0, 0.0003)),
        room=room,
        pace=pace,
    )
    size = draw.choice((turn // 100, turn // 10))
    return plan, Fairness(weather, turn, size, is_rival=is_rival)
