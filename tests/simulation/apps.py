"""Who may have a place, and who is ended for whom: each app for itself."""

import math
from collections.abc import Callable
from typing import Any

from simulation.life import App, Life
from simulation.network import Network
from simulation.world import Violation, World
from wsplugin.settings import Settings


class Apps:
    """Follows one run.

    Args:
        lives: all connections that have had no ``close`` event, oldest first.
        surely_stays: tells whether the plugin cannot have decided by itself that one ends.

    """

    def __init__(
        self,
        world: World,
        settings: Settings,
        network: Network,
        lives: dict[str, Life],
        surely_stays: Callable[[Life], bool],
    ) -> None:
        self.world = world
        self.settings = settings
        self.network = network
        self.lives = lives
        self.refused = 0
        """How many creates were refused at the limit."""
        self.strangers = 0
        """How many requests have named a connection of another app."""
        self._surely_stays = surely_stays
        self._evicting: dict[App, float] = {}
        # The connections that each request of app-background has ended.
        self._backgrounds: dict[Any, list[Life]] = {}

    def of(self, app: App) -> list[Life]:
        """Return the connections of an app, and of those that name none."""
        return [life for life in self.lives.values() if life.app == app]

    def reached(self, request: dict[str, Any]) -> Life | None:
        """Return the connection that a request names, if it may reach it."""
        life = self.lives.get(request["payload"]["id"])
        app = request.get("app")
        if life is None or app in (None, life.app):
            return life
        self.strangers += 1
        return None

    # --- places ---

    def make_room(self, app: App) -> None:
        """A create has been carried out that is not yet among the lives: one may have to go."""
        lives, limit = self.of(app), self.settings.max_connections
        staying = [life for life in lives if life.staying]
        self._evicting[app] = self.world.now
        if len(staying) >= limit and all(map(self._surely_stays, staying)):
            if self.settings.at_limit == "refuse":
                raise Violation(f"{app}: a create beyond the limit was not refused")
            staying[0].ended_by_plugin = self.world.now
        if len(lives) >= limit:
            for life in lives:
                life.coveted = True
            if self.settings.at_limit == "evict":
                self._doubt(staying)
            self._crowd(lives)

    def refuse(self, app: App) -> None:
        """A create was refused.

        Raises:
            Violation: there were places for its app.

        """
        self.refused += 1
        lives = self.of(app)
        if self.settings.at_limit != "refuse" or len(lives) < self.settings.max_connections:
            raise Violation(f"{app}: a create was refused, of {len(lives)} connections")

    def _doubt(self, staying: list[Life]) -> None:
        """One of these may have been evicted: the oldest whose end was not decided, or waited."""
        is_found = False
        for life in staying:
            is_sure = self._surely_stays(life) and not life.in_doubt
            if not is_found or life.opened == math.inf:
                life.in_doubt, life.silent = True, False
            is_found |= is_sure

    def _crowd(self, lives: list[Life]) -> None:
        """Those that wait for a place with their end behind them may have been too many."""
        waiting = [life for life in lives if life.closes and life.opened == math.inf]
        if len(waiting) > self.settings.max_connections:
            for life in waiting:
                life.crowded = True

    def closed(self, life: Life, payload: Any) -> float:
        """See that a connection was ended for one of its own app; return since when, if it was.

        Raises:
            Violation: it was not.

        """
        reason = f"connection limit of {self.settings.max_connections} reached"
        cause = payload["cause"]
        if cause == "background" and not life.in_background:
            raise Violation(f"{life.id}: {payload}, and its app is not in the background")
        if cause == "limit" and not life.in_doubt:
            raise Violation(f"{life.id}: {payload}, and its app had places left")
        if cause == "host" and payload["reason"] == reason and not life.crowded:
            raise Violation(f"{life.id}: {payload}, and few of its app have waited")
        return self._evicting[life.app] if cause == "limit" else math.inf

    def waiting(self) -> list[tuple[Life, float]]:
        """Return who waits longest of each app that has no place to give, and since when.

        Of the connections that leave, one must do so in a second if another waits for it.
        """
        if self.settings.proxy != "none":
            return []  # when a connection has begun is not seen
        begun = self.network.begun
        found = []
        for app in {life.app: None for life in self.lives.values()}:
            lives = self.of(app)
            waiting = [life for life in lives if life.port not in begun]
            leaving = [
                max(life.close_asked, begun[life.port])
                for life in lives
                if life.port in begun and life.closes
            ]
            if waiting and leaving:
                found.append((waiting[0], max(waiting[0].created, *leaving)))
        return found

    # --- background ---

    def background(self, request: dict[str, Any]) -> None:
        """End the connections of an app, or all if it names none."""
        app = request.get("app")
        ended = [life for life in self.lives.values() if app in (None, life.app)]
        self._backgrounds[request["id"]] = ended
        for life in ended:
            life.in_background = True
            life.end(self.world.now)

    def answered(self, line: Any) -> None:
        """A request of app-background was answered, or another one.

        Raises:
            Violation: connections that it has ended are still there.

        """
        ended = self._backgrounds.pop(line["id"], [])
        if "response" in line and (left := [life.id for life in ended if life.id in self.lives]):
            raise Violation(f"{line} before the end of {left}")

    def is_waited_for(self, request: dict[str, Any]) -> bool:
        """Tell whether a request of app-background still waits for a connection."""
        return any(life.id in self.lives for life in self._backgrounds[request["id"]])
