"""The contract's bounds on time, checked to the tick while a run goes on.

Virtual time lets the plugin compute in no time, so a bound holds exactly: what ends a microsecond
late is late. Where the host was behind, and so the plugin was to hold back, no bound is checked.
"""

import math
from typing import Any, Final

from simulation.host import Host
from simulation.network import FIRST_PORT, Network
from simulation.servers import Server
from simulation.world import Violation, World
from wsplugin.settings import PING_TIMEOUT, Settings

TICK: Final = 1e-6
"""What floating point may lose."""
GRACE: Final = 1.0
"""Seconds for ends that the plugin decides, and after both Close frames."""
STOP: Final = 2.0
"""Seconds from a signal, or from the loss of the host, to the end."""
LAST: Final = 0.3
"""Seconds that the host has for the last lines when the exit timeout is over."""
OVERTIME: Final = 1 / 8
"""By which part of its time something may end too late that progress prolongs."""


class Life:
    """What is known of one connection's times."""

    def __init__(self, number: int, created: float, timeout: float) -> None:
        self.id = f"ws-{number}"
        self.port = FIRST_PORT + number - 1
        self.created = created
        self.timeout = timeout
        self.opened = math.inf
        self.heard = -math.inf
        """When something last arrived that was in time."""
        self.unsure = False
        """Whether something came just when its time was over."""
        self.close_asked = math.inf
        """When the plugin has taken a ``websocket-close``."""
        self.ended_by_plugin = math.inf
        """When background or a signal has ended it, or the limit where that is sure."""
        self.may_be_paused = False
        """Whether it is paused, if nothing but the host has had a say."""
        self.silent = False
        """Whether no message of it may be told, since the plugin has said so."""
        self.in_doubt = False
        """Whether it may have been evicted, and so resumed."""
        self.timeless = False
        """Whether it was paused before its server could be taken for dead."""
        self.read_from = -math.inf
        """When it was resumed."""
        self.anew_at = -math.inf
        """When a resume has surely begun the times of its pings anew."""
        self.pings: dict[Any, tuple[float, float]] = {}
        """When each ping of the host's that waits was asked for, and its time in seconds."""

    @property
    def staying(self) -> bool:
        """Whether its end has not been decided, as far as the host can know."""
        return self.close_asked == self.ended_by_plugin == math.inf

    def resume(self, now: float) -> None:
        """Take note that it is resumed, or that its end is decided, which does the same."""
        if self.timeless:
            self.anew_at = now
        self.timeless = self.may_be_paused = False
        self.read_from = now


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
        self._closes: dict[Any, Life] = {}
        # Requests that pause, resume or ping, each with its connection.
        self._asked: dict[Any, tuple[str, Life]] = {}
        self._created = 0
        self.pauses = self.pongs = 0
        """How many pauses have held, and how many pings have been answered with a time."""
        self._stopped = False
        self._evicting = -math.inf
        self._slack = TICK + slack

    def dispatched(self, request: dict[str, Any]) -> None:
        """The plugin has taken a request."""
        now = self.world.now
        match request["action"]:
            case "websocket-create":
                if not self._stopped:
                    self._evicting = now
                    self._evict()
                    self._create(request["payload"])
            case "websocket-close":
                life = self.lives.get(request["payload"]["id"])
                if life is not None and life.close_asked == math.inf:
                    life.close_asked = now
                    life.resume(now)
                    life.silent = False
                    self._closes[request.get("id")] = life
            case "websocket-pause" | "websocket-resume" | "websocket-ping":
                life = self.lives.get(request["payload"]["id"])
                if life is not None:
                    self._asked[request["id"]] = request["action"], life
                    self._asks(request, life)
            case "app-background":
                self.plugin_ends()

    def answered(self, line: Any) -> None:
        """The plugin has answered: a close that it could not carry out was none."""
        life = self._closes.pop(line["id"], None)
        if life is not None and "error" in line:
            life.close_asked = math.inf
            life.may_be_paused = True  # it is as it was before, and that is not known any more
        if line["id"] in self._asked:
            self._answered(line, *self._asked.pop(line["id"]))

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
        if self.lives[id].silent and not self.host.stdin.closed:
            raise Violation(f"{id}: a message though it is paused")

    def is_read(self, life: Life) -> bool:
        """Tell whether what comes from its server has to be read."""
        return not life.may_be_paused or self.host.stdin.closed

    def _create(self, payload: dict[str, Any]) -> None:
        """Begin to follow a connection: its id is known before it is answered."""
        self._created += 1
        timeout = payload.get("timeout")
        seconds = self.settings.open_timeout if timeout is None else timeout / 1000
        life = Life(self._created, self.world.now, seconds)
        self.lives[life.id] = life

    def _evict(self) -> None:
        """A create makes one connection more: the oldest that stays has to go."""
        staying = [life for life in self.lives.values() if life.staying]
        if len(staying) >= self.settings.max_connections and all(map(self._surely_stays, staying)):
            staying[0].ended_by_plugin = self.world.now
        if len(self.lives) >= self.settings.max_connections:
            self._doubt(staying)

    def _doubt(self, staying: list[Life]) -> None:
        """One of these may have been evicted: the oldest whose end was not decided, or waited."""
        is_found = False
        for life in staying:
            is_sure = self._surely_stays(life) and not life.in_doubt
            if not is_found or life.opened == math.inf:
                life.in_doubt, life.silent = True, False
            is_found |= is_sure

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
        self._stopped = True
        self.plugin_ends()

    def plugin_ends(self) -> None:
        """Background or a signal ends all that exist."""
        for life in self.lives.values():
            life.ended_by_plugin = min(life.ended_by_plugin, self.world.now)
            life.resume(self.world.now)
            life.silent = False

    def event(self, id: str, name: str, payload: Any) -> None:
        """The plugin has written an event.

        Raises:
            Violation: it comes too late, or too soon.

        """
        life = self.lives[id]
        now = self.world.now
        begun = self.network.begun.get(life.port, math.inf)
        if name == "open":
            life.opened = now
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
        if payload["cause"] == "host":
            progress = max((self._taken_at(s) for s in servers), default=-math.inf)
            patience = self.settings.close_timeout
            bound = life.close_asked + patience
            if progress >= life.close_asked:  # the Close frame itself is taken, too
                bound = progress + patience * (1 + OVERTIME)
            self._at_most(life, now, bound, "end of a close", life.close_asked)
        if life.ended_by_plugin < math.inf:
            start = life.ended_by_plugin
            self._at_most(life, now, start + GRACE, f"end by {payload['cause']}", start)
        if now > self.exit_at + self._slack:  # whether the host is behind or not
            raise Violation(f"{life.id}: {now - self.exit_at:g} s too late, at the exit timeout")
        if payload["cause"] == "limit":
            start = self._evicting
            self._at_most(life, now, start + GRACE, "eviction", start)
        for server in servers:
            both = server.close_received is not None and server.close_sent is not None
            down = server.peer.link.down
            read = down.acknowledged - len(down.unread)
            if both and read >= server.close_sent_end and life.opened < math.inf:
                start = max(server.close_received_at, down.progress_at)
                self._at_most(life, now, start + GRACE, "end after both Close frames", start)

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
        now = self.world.now
        for life in self.lives.values():
            if life.opened < math.inf:
                for server in self.network.servers.get(life.port, []):
                    if server.opened:  # and lost no race
                        self._check_keepalive(life, server)
            self._at_most(life, now, life.ended_by_plugin + GRACE, "the end", life.ended_by_plugin)
        self._check_waiting()

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

    def _check_waiting(self) -> None:
        """Of the connections that leave, one must do so in a second if another waits for it."""
        if self.settings.proxy != "none":
            return  # when a connection has begun is not seen
        begun = self.network.begun
        waiting = [life for life in self.lives.values() if life.port not in begun]
        leaving = [
            life
            for life in self.lives.values()
            if life.port in begun and life.close_asked < math.inf
        ]
        if waiting and leaving:
            first = waiting[0]
            since = max(
                first.created, *(max(life.close_asked, begun[life.port]) for life in leaving)
            )
            self._at_most(first, self.world.now, since + GRACE, "its place", since)

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
