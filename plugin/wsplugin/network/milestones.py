"""When the steps of an opening happened, for the ``profile`` of the event ``open``."""

from wsplugin.messages import Profile


class Milestones:
    """Times of one opening; all but `started_at` in seconds of the event loop's clock.

    Args:
        read: when the request was read.
        started: when the connection was given its place.
        started_at: the same in seconds since 1970.

    """

    def __init__(self, read: float, started: float, started_at: float) -> None:
        self._read = read
        self._started = started
        self._started_at = started_at
        self._look_up: tuple[float, float] | None = None
        self._connect: tuple[float, float] | None = None

    def looked_up(self, start: float, end: float) -> None:
        """A name was looked up; behind a proxy there may be a second one, and it goes on."""
        self._look_up = (self._look_up[0] if self._look_up else start, end)

    def connected(self, start: float) -> None:
        """The socket that has won the race began at `start`."""
        self._connect = (start, start)

    def secured(self, end: float) -> None:
        """TCP, and a proxy's tunnel and TLS where there are any, are up: the request goes."""
        self._connect = (self._connect[0] if self._connect else end, end)

    def profile(self, opened: float) -> Profile:
        """Return all of them, for a connection that is open now."""
        look_up_start, look_up_end = self._look_up or (self._started, self._started)
        connect_start, connect_end = self._connect or (look_up_end, look_up_end)
        return Profile(
            self._since_1970(self._started),
            self._since_1970(look_up_start),
            self._since_1970(look_up_end),
            self._since_1970(connect_start),
            self._since_1970(connect_end),
            _milliseconds(connect_end - connect_start),
            _milliseconds(opened - connect_end),
            _milliseconds(opened - self._read),
        )

    def _since_1970(self, when: float) -> float:
        return _milliseconds(self._started_at + when - self._started)


def _milliseconds(seconds: float) -> float:
    # What is beyond microseconds is noise, and a long number.
    return round(seconds * 1000, 3)
