"""Pings and their times on an open connection: a timer around :class:`Keepalive`, which decides."""

import asyncio
import os
from collections.abc import Callable

from websockets.client import ClientProtocol

from wsplugin.network.keepalive import Act, Answered, Keepalive
from wsplugin.network.progress import Meter


class Heartbeat:
    """Sends Pings, the connection's own and those that the host asks for.

    Args:
        keepalive: what decides.
        meter: how far the server has come.
        protocol: the library's, which serializes.
        flush: writes what it has serialized.
        on_dead: called when the time of a Ping is over.
        on_fault: called with an exception that nobody has foreseen.

    """

    def __init__(
        self,
        keepalive: Keepalive,
        meter: Meter,
        protocol: ClientProtocol,
        flush: Callable[[], None],
        on_dead: Callable[[], None],
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._keepalive = keepalive
        self._meter = meter
        self._protocol = protocol
        self._flush = flush
        self._on_dead = on_dead
        self._on_fault = on_fault
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to time."""
        self._set_timer()

    def ping(self, timeout: float) -> bytes:
        """Send a Ping for the host, which has `timeout` seconds; return its payload."""
        payload = self._ping(timeout)
        self._set_timer()
        return payload

    def ponged(self, payload: bytes) -> list[Answered]:
        """A Pong has come; return which Pings it answers, the earliest first."""
        answered = self._keepalive.ponged(payload, self._loop.time())
        self._set_timer()
        return answered

    def left(self) -> None:
        """Take note of Pings that have left: the transport has just handed something on."""
        if self._keepalive.awaits:
            self._keepalive.left(self._loop.time(), self._meter.handed, just_now=True)

    def hold(self) -> None:
        """Time nothing, since nothing is read."""
        self._keepalive.hold()
        self._set_timer()

    def go_on(self) -> None:
        """Time again, since it is read again."""
        self._keepalive.go_on(self._loop.time())
        self._set_timer()

    def stop(self) -> None:
        """Send no more, and time nothing any more."""
        self._keepalive.stop()
        self._set_timer()

    def release(self) -> None:
        """Let go of the connection."""
        self.stop()
        self._flush = self._on_dead = _do_nothing
        self._on_fault = _do_nothing

    def _set_timer(self) -> None:
        """Have :meth:`_tick` called when there is something to be said."""
        due = self._keepalive.due
        if self._timer is not None:
            if self._timer.when() == due:
                return
            self._timer.cancel()
            self._timer = None
        if due != float("inf"):
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._keepalive.left(self._loop.time(), self._meter.handed)
            match self._keepalive.act(self._loop.time(), self._meter.look()):
                case Act.PING:
                    self._ping(None)
                case Act.READ_FIRST:
                    # Not call_soon(), which would come before the next look at the sockets.
                    self._timer = self._loop.call_later(0, self._tick)
                    return
                case Act.GIVE_UP:
                    self._on_dead()
            self._set_timer()
        except Exception as exc:  # noqa: BLE001 - the one net of the wire
            self._on_fault(exc)

    def _ping(self, timeout: float | None) -> bytes:
        payload = os.urandom(4)
        self._flush()
        before = self._meter.end()
        # Before, as the server may answer before this process goes on.
        now = self._loop.time()
        self._protocol.send_ping(payload)
        self._flush()
        progress, behind = self._meter.look(), self._meter.end()
        given = self._meter.given
        self._keepalive.pinged(payload, now, progress, before, behind, given, timeout)
        self._keepalive.left(now, self._meter.handed)
        return payload


def _do_nothing(*_: object) -> None:
    pass
