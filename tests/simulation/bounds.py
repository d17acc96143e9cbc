"""The contract's bounds on time, checked to the tick while a run goes on.

Virtual time lets the plugin compute in no time, so a bound holds exactly: what ends a microsecond
late is late. Where the host was behind, and so the plugin was to hold back, no bound is checked.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from simulation.apps import Apps
from simulation.host import Host
from simulation.life import GRACE, Life
from simulation.network import Network
from simulation.servers import Server
from simulation.world import Violation, World
from wsplugin.settings import PING_TIMEOUT, Settings

TICK: Final = 1e-6
"""What floating point may lose."""
STOP: Final = 2.0
"""Seconds from a signal, or from the loss of the host, to the end."""
LAST: Final = 0.3
"""Seconds that the host has for the last lines when the exit timeout is over."""
OVERTIME: Final = 1 / 8
"""By which part of its time something may end too late that progress prolongs."""
TOOK_LONGER: Final = re.compile(r"the closing handshake took longer than (\S+) seconds")


class Bounds:
    """Follows one run.

    Args:
        slack: seconds by which a busy machine may be late.

    """

    def __init__(
        self, world: World, settings: Settings, network: Network, host: Host, slack: float
    ) -> None:
        self.world = world
        self.settings = settings
        self.network = network
        self.host = host
        self.lives: dict[str, Life] = {}
        """All connections that have had no ``close`` event."""
        self.apps = Apps(world, settings, network, self.lives, self._surely_stays)
        self.created: Callable[[], int] = lambda: 0
        """Tells how many connections the plugin has created."""
        self.cut: set[str] = set()
        """Connections that have been cut and can have had no Close frame."""
        self.cuts = self.hurried = 0
        """How many have been cut, and how many have had less than the close timeout."""
        # The create that was taken last, until it is known what has become of it.
        self._creating: dict[str, Any] | None = None
        self._closes: dict[Any, Life] = {}
        # Requests that pause, resume or ping, each with its connection.
        self._asked: dict[Any, tuple[str, Life]] = {}
        self._created = 0
        self.pauses = self.pongs = 0
        """How many pauses have held, and how many pings have been answered with a time."""
        self._stopped = False
        self._slack = TICK + slack

    def dispatched(self, request: dict[str, Any]) -> None:
        """The plugin has taken a request."""
        self._settle()
        match request["action"]:
            case "websocket-create":
                self._creating = request
            case "websocket-close":
                if (life := self.apps.reached(request)) is not None:
                    self._close(request, life)
            case "websocket-pause" | "websocket-resume" | "websocket-ping":
                if (life := self.apps.reached(request)) is not None:
                    self._asked[request["id"]] = request["action"], life
                    self._asks(request, life)
            case "app-background":
                self.apps.background(request)

    def answered(self, line: Any) -> None:
        """The plugin has answered: a close that it could not carry out was none.

        Raises:
            Violation: the answer cannot be right.

        """
        self._settle()
        id = line["id"]
        life = self._closes.pop(id, None)
        if life is not None and "error" in line:
            life.closes.pop(id, None)
            life.may_be_paused = True  # it is as it was before, and that is not known any more
        elif life is not None and life.cut == id:
            life.cut_told = True
        if id in self._asked:
            self._answered(line, *self._asked.pop(id))
        self.apps.answered(line)
        for life in self.lives.values():
            if id in life.owed:
                life.owed.discard(id)
                refused = line.get("error", {}).get("code") == "not-open"
                if refused and life.cut_surely and not life.cut_told:
                    raise Violation(f"{line} before the answer to what has cut {life.id}")

    def _close(self, request: dict[str, Any], life: Life) -> None:
        """The plugin has taken a request to close, or to cut."""
        now, id = self.world.now, request["id"]
        ms = request["payload"].get("timeout")
        longest = self.settings.close_timeout
        if ms == 0 and life.cut is None:
            life.cut_surely = life.staying and not life.in_doubt and self._surely_stays(life)
            life.cut = id
            life.owed = self._owed(life)
        if ms is not None:
            life.closes[id] = now, min(longest, ms / 1000)
        elif not life.closes:
            life.closes[id] = now, longest
            life.usual = id
        self._closes[id] = life
        life.resume(now)
        life.silent = False

    def _owed(self, life: Life) -> set[Any]:
        """Return the sends and pings of a connection that wait."""
        return {
            id
            for id, request in self.host.checker.pending.items()
            if request["action"] in ("websocket-send", "websocket-ping")
            and request["payload"]["id"] == life.id
            and request.get("app") in (None, life.app)
            and id in self.host.taken
        }

    def _asks(self, request: dict[str, Any], life: Life) -> None:
        """The plugin has taken a request to pause, to resume or to ping."""
        now = self.world.now
        match request["action"]:
            case "websocket-pause":
                life.timeless |= self.dead_from(life) > now + self._slack and life.staying
                life.may_be_paused |= life.staying
            case "websocket-resume":
                life.resume(now)
            case "websocket-ping":
                ms = request["payload"].get("timeout")
                seconds = ms / 1000 if ms else self.settings.ping_timeout or PING_TIMEOUT
                life.pings[request["id"]] = now, seconds

    def _answered(self, line: Any, action: str, life: Life) -> None:
        """The plugin has answered a request to pause, to resume or to ping.

        Raises:
            Violation: the ping has taken a time that it cannot have taken.

        """
        done = "response" in line
        match action:
            case "websocket-pause":
                life.silent = done and life.may_be_paused and not life.in_doubt
                self.pauses += life.silent
            case "websocket-resume":
                life.silent = False
                life.may_be_paused |= not done
            case "websocket-ping" if done:
                self.pongs += 1
                asked_at, _ = life.pings.pop(line["id"])
                self._check_rtt(life, line["response"]["rtt"] / 1000, self.world.now - asked_at)
            case "websocket-ping" if line["error"]["code"] != "not-open" or life.opened == math.inf:
                del life.pings[line["id"]]

    def _check_rtt(self, life: Life, seconds: float, most: float) -> None:
        links = [server.peer.link for server in self.network.servers.get(life.port, [])]
        least = 2 * min(link.weather.latency for link in links)
        if not least - TICK <= seconds <= most + TICK:
            raise Violation(f"{life.id}: a ping took {seconds} s, not {least} to {most} s")

    def told(self, id: str) -> None:
        """The plugin has told a message.

        Raises:
            Violation: it had said that it would not.

        """
        self._settle()
        if self.lives[id].cut_told:
            raise Violation(f"{id}: a message though it has been cut")
        if self.lives[id].silent and not self.host.stdin.closed:
            raise Violation(f"{id}: a message though it is paused")

    def is_read(self, life: Life) -> bool:
        """Tell whether what comes from its server has to be read."""
        return not life.may_be_paused or self.host.stdin.closed

    def _settle(self) -> None:
        """Find out what has become of the create that was taken last: its id is not yet told."""
        if self._creating is None:
            return
        request, self._creating = self._creating, None
        app, payload = request.get("app"), request["payload"]
        if self.created() == self._created:
            if not (self._stopped or self.expired() or self.host.gone):
                self.apps.refuse(app)
            return
        self.apps.make_room(app)
        self._created += 1
        timeout = payload.get("timeout")
        seconds = self.settings.open_timeout if timeout is None else timeout / 1000
        port = urlsplit(payload["url"]).port
        assert port is not None
        life = Life(f"ws-{self._created}", port, app, self.world.now, seconds)
        life.coveted = len(self.apps.of(app)) >= self.settings.max_connections
        self.lives[life.id] = life
        self.network.name(port, life.id, app)

    def _surely_stays(self, life: Life) -> bool:
        """Tell whether the plugin cannot have decided by itself that a connection ends."""
        servers = self.network.servers.get(life.port, [])
        return (
            life.opened < math.inf
            and self.dead_from(life) > self.world.now + self._slack
            and all(server.speaks and not server.fault for server in servers if server.opened)
        )

    def stop(self) -> None:
        """A signal ends all that exist, and there will be no more."""
        self._settle()
        self._stopped = True
        for life in self.lives.values():
            life.end(self.world.now)

    def event(self, id: str, name: str, payload: Any) -> None:
        """The plugin has written an event.

        Raises:
            Violation: it comes too late, or too soon.

        """
        self._settle()
        life = self.lives[id]
        now = self.world.now
        begun = self.network.begun.get(life.port, math.inf)
        if name == "open":
            life.opened = now
            if life.cut_told:
                raise Violation(f"{id}: open though it has been cut")
            self._at_most(life, now, begun + life.timeout, "open", begun)
        elif name == "error" and payload["code"] == "open-timeout":
            self._exactly(life, now, begun + life.timeout, "open-timeout", begun)
        elif name == "error" and payload["code"] == "ping-timeout":
            self._ping_timeout(life, now)
        elif name == "close":
            self._closed(life, now, begun, payload)
            del self.lives[id]

    def _closed(self, life: Life, now: float, begun: float, payload: Any) -> None:
        servers = self.network.servers.get(life.port, [])
        if life.opened == math.inf and begun < math.inf:
            self._at_most(life, now, begun + life.timeout, "end of the opening", begun)
        progress = max((self._taken_at(s) for s in servers), default=-math.inf)
        for request, (asked_at, patience) in life.closes.items():
            if request == life.usual and payload["cause"] != "host":
                continue  # it has brought no other end forward
            bound = asked_at + patience
            if progress >= life.close_asked:  # the Close frame itself is taken, too
                bound = max(progress, asked_at) + patience * (1 + OVERTIME)
            self._at_most(life, now, bound, "end of a close", asked_at)
        self._check_time_had(life, now, servers, payload)
        if life.cut is not None:
            self._check_cut(life, now, payload)
        if life.ended_by_plugin < math.inf:
            start = life.ended_by_plugin
            self._at_most(life, now, start + GRACE, f"end by {payload['cause']}", start)
        if now > self.exit_at + self._slack:  # whether the host is behind or not
            raise Violation(f"{life.id}: {now - self.exit_at:g} s too late, at the exit timeout")
        start = self.apps.closed(life, payload)
        if start < math.inf:
            self._at_most(life, now, start + GRACE, "eviction", start)
        for server in servers:
            both = server.close_received is not None and server.close_sent is not None
            down = server.peer.link.down
            read = down.acknowledged - len(down.unread)
            if both and read >= server.close_sent_end and life.opened < math.inf:
                start = max(server.close_received_at, down.progress_at)
                self._at_most(life, now, start + GRACE, "end after both Close frames", start)

    def _check_time_had(self, life: Life, now: float, servers: list[Server], payload: Any) -> None:
        """See that a server that was given up in its closing handshake has had its time."""
        words = TOOK_LONGER.match(payload["reason"])
        if words is None or life.cut is not None:
            return
        own = {f"{seconds:g}" for _, seconds in life.closes.values()}
        self.hurried += words[1] in own and float(words[1]) < self.settings.close_timeout
        may_be_hurried = (
            life.ended_by_plugin < math.inf
            or life.in_doubt
            or life.coveted
            or life.crowded
            or any(server.close_sent is not None for server in servers)
        )
        allowed = {*own, f"{self.settings.close_timeout:g}"}
        if may_be_hurried:
            allowed.add(f"{GRACE:g}")
        if words[1] not in allowed:
            raise Violation(f"{life.id}: {payload}, and it had {sorted(allowed)} seconds")
        early = life.close_asked + float(words[1]) - self._slack - now
        if payload["cause"] == "host" and early > 0:
            raise Violation(f"{life.id}: {payload}, {early:g} s too soon")

    def _check_cut(self, life: Life, now: float, payload: Any) -> None:
        """See how a connection was cut: at once, and after all that waited was answered."""
        at, _ = life.closes.get(life.cut, (math.inf, 0.0))
        if now > at + self._slack and self.world.frozen_until < at:
            raise Violation(f"{life.id}: {now - at:g} s too late, having been cut")
        if life.cut_surely and not self.host.checker.faulty:
            self.cuts += 1
            self.cut.add(life.id)
            if life.owed & self.host.checker.pending.keys():
                raise Violation(f"{life.id}: {life.owed} have not been answered before its end")
            if (payload["code"], payload["cause"]) != (1006, "host"):
                raise Violation(f"{life.id}: {payload}, and it was cut")

    def _taken_at(self, server: Server) -> float:
        """Return when the server has last taken something, as far as the system tells."""
        up = server.peer.link.up
        return up.progress_at if self.world.tells else up.sent_at

    def _ping_timeout(self, life: Life, now: float) -> None:
        if now < self.dead_from(life) - self._slack and not life.unsure:
            raise Violation(f"{life.id}: ping-timeout, too soon")

    def dead_from(self, life: Life) -> float:
        """Return from when on a server may be taken for dead; infinity for never.

        This is the contract's rule of keepalive: the time of a Pong after that of its Ping, begun
        anew by whatever has come since.
        """
        if life.timeless and not self.host.stdin.closed:
            return math.inf
        interval, timeout = self.settings.ping_interval, self.settings.ping_timeout
        since = max(life.heard, life.anew_at)
        over = [max(asked_at, since) + seconds for asked_at, seconds in life.pings.values()]
        if interval and timeout:
            over.append(max(life.opened + interval, since) + timeout)
        return min(over, default=math.inf)

    # --- whenever the process sleeps, before any time passes ---

    def asleep(self) -> None:
        """See that nothing is overdue.

        Raises:
            Violation: something is.

        """
        self._settle()
        now = self.world.now
        for life in self.lives.values():
            if life.opened < math.inf:
                for server in self.network.servers.get(life.port, []):
                    if server.opened:  # and lost no race
                        self._check_keepalive(life, server)
            self._at_most(life, now, life.ended_by_plugin + GRACE, "the end", life.ended_by_plugin)
        for life, since in self.apps.waiting():
            self._at_most(life, now, since + GRACE, "its place", since)

    def _check_keepalive(self, life: Life, server: Server) -> None:
        link = server.peer.link
        dead_from = self.dead_from(life)
        heard = link.down.progress_at
        if self.world.now < dead_from - self._slack:
            life.heard = heard
        elif heard > life.heard and heard < dead_from + self._slack:
            life.unsure = True  # it came at the last moment, and either is right
        settings = self.settings
        since = max(life.opened, heard, self._taken_at(server), life.read_from)
        overdue = [max(at, since) + seconds * (1 + OVERTIME) for at, seconds in life.pings.values()]
        if settings.ping_interval and settings.ping_timeout:
            patience = settings.ping_interval + settings.ping_timeout * (1 + OVERTIME)
            overdue.append(since + patience)
        if (
            self.world.now > min(overdue, default=math.inf) + 2 * GRACE + self._slack
            and self.is_read(life)
            and not self._behind(life.opened)
            and life.staying
            and not self.host.stdin.closed
            and server.close_sent is None
        ):
            raise Violation(f"{life.id}: nothing has come from the server, and nobody noticed")

    # --- the end ---

    def stopped(self, since: float) -> None:
        """See that the session has ended in time, having been told to at `since`.

        Raises:
            Violation: it has not.

        """
        if self.world.now > max(since, self.world.frozen_until) + STOP + self._slack:
            raise Violation(f"the end took {self.world.now - since:g} s from a signal")

    @property
    def exit_at(self) -> float:
        """When the exit timeout is over, infinity if it does not run."""
        seconds = self.settings.exit_timeout
        ended_at = self.host.stdin.ended_at
        # Whoever has been stopped may have learned of the end afterwards.
        return math.inf if seconds is None else max(ended_at, self.world.frozen_until) + seconds

    def expired(self) -> bool:
        """Tell whether the exit timeout is over."""
        seconds = self.settings.exit_timeout
        return seconds is not None and self.world.now >= self.host.stdin.ended_at + seconds

    def ended(self) -> None:
        """See that the session has ended soon after the exit timeout.

        Raises:
            Violation: it has not.

        """
        if self.world.now > self.exit_at + LAST + self._slack:
            raise Violation(f"the end came {self.world.now - self.exit_at:g} s after all were cut")

    def _at_most(self, life: Life, now: float, bound: float, what: str, since: float) -> None:
        if now > bound + self._slack and not self._behind(since):
            raise Violation(f"{life.id}: {what} {now - bound:g} s too late")

    def _exactly(self, life: Life, now: float, bound: float, what: str, since: float) -> None:
        self._at_most(life, now, bound, what, since)
        # On a busy machine, or after a stop, the time may be over before anything has begun.
        stopped = self.world.frozen_until >= life.created
        if now < bound - self._slack and bound < math.inf and not stopped:
            raise Violation(f"{life.id}: {what} {bound - now:g} s too soon")

    def _behind(self, since: float) -> bool:
        """Tell whether the host was behind at any moment since then."""
        stdout = self.host.stdout
        return stdout.holding or stdout.held_at >= since or self.world.frozen_until >= since
