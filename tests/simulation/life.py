"""What is known of one connection's times, as far as the host and the servers can know."""

import math
from typing import Any, Final

GRACE: Final = 1.0
"""Seconds for ends that the plugin decides, and after both Close frames."""

App = str | None
"""None for connections and requests that name none."""


class Life:
    """One connection that has had no ``close`` event.

    Args:
        id: the connection's.
        port: its own, by which its servers are found.
        created: when the plugin took the request.
        timeout: seconds for its opening.

    """

    def __init__(self, id: str, port: int, app: App, created: float, timeout: float) -> None:
        self.id = id
        self.port = port
        self.app = app
        self.created = created
        self.timeout = timeout
        self.opened = math.inf
        self.heard = -math.inf
        """When something last arrived that was in time."""
        self.unsure = False
        """Whether something came just when its time was over."""
        self.closes: dict[Any, tuple[float, float]] = {}
        """When the plugin has taken each ``websocket-close`` that has a say, and its seconds."""
        self.usual: Any = None
        """The first of them, if it has left the time to ``--close-timeout``."""
        self.cut: Any = None
        """The request that has cut it at once."""
        self.cut_surely = False
        """Whether nothing else can have ended it before that."""
        self.cut_told = False
        """Whether that has been answered."""
        self.owed: set[Any] = set()
        """Sends and pings that waited when it was cut."""
        self.ended_by_plugin = math.inf
        """When background or a signal has ended it, or the limit where that is sure."""
        self.in_background = False
        """Whether that was the background."""
        self.may_be_paused = False
        """Whether it is paused, if nothing but the host has had a say."""
        self.silent = False
        """Whether no message of it may be told, since the plugin has said so."""
        self.in_doubt = False
        """Whether it may have been evicted, and so resumed."""
        self.crowded = False
        """Whether it may have been one too many of those that wait with their end behind them."""
        self.coveted = False
        """Whether another connection of its app may have waited for its place."""
        self.timeless = False
        """Whether it was paused before its server could be taken for dead."""
        self.read_from = -math.inf
        """When it was resumed."""
        self.anew_at = -math.inf
        """When a resume has surely begun the times of its pings anew."""
        self.pings: dict[Any, tuple[float, float]] = {}
        """When each ping of the host's that waits was asked for, and its time in seconds."""

    @property
    def close_asked(self) -> float:
        """When the plugin has taken the first ``websocket-close``; infinity for never."""
        return min((at for at, _ in self.closes.values()), default=math.inf)

    @property
    def staying(self) -> bool:
        """Whether its end has not been decided, as far as the host can know."""
        return not self.closes and self.ended_by_plugin == math.inf

    def resume(self, now: float) -> None:
        """Take note that it is resumed, or that its end is decided, which does the same."""
        if self.timeless:
            self.anew_at = now
        self.timeless = self.may_be_paused = False
        self.read_from = now

    def end(self, now: float) -> None:
        """Take note that the plugin has ended it, for the background or for a signal."""
        self.ended_by_plugin = min(self.ended_by_plugin, now)
        self.resume(now)
        self.silent = False
