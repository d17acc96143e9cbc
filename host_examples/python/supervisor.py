"""Starts the plugin again when it has died; to copy beside ``host.py``, for apps that want it.

Use it in the place of a host, for `create`, `background` and `stop`::

    async with Supervisor(lambda: Host("wsplugin", "--allow-host", "example.com")) as supervisor:
        websocket = await supervisor.create("wss://example.com/")

When the plugin dies, what was asked of it fails with `PluginEnded`, and every connection gets its
`Close` with the cause "failure", as without a supervisor: whether what was on the way has been
sent, nobody knows, so nothing is sent a second time. Connecting again is the app's; `reconnect.py`
shows how. Only a `create` that finds no plugin waits for the next one.

The plugin is started again at once, then after 0.5, 1 and 2 seconds. One that has been started five
times within three minutes is not well: until they have passed every `create` fails at once.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from host import Host, PluginEnded, WebSocket, report

DELAYS = (0.0, 0.0, 0.5, 1.0, 2.0)
"""Seconds before a start, by how many there were in the period."""
PERIOD = 180.0

logger = logging.getLogger(__name__)


class Supervisor:
    """Keeps a plugin running: use ``async with``.

    Args:
        make: returns a host that has not been started; called for each start.
        tell: called with words when the plugin has died: why, and what happens next.

    """

    def __init__(
        self, make: Callable[[], Host], *, tell: Callable[[str], object] = logger.warning
    ) -> None:
        self._make = make
        self._tell = tell
        self._starts: deque[float] = deque(maxlen=len(DELAYS))
        self._failure = "the plugin has not been started"
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the plugin; one that fails to start at all is not tried again: `PluginEnded`."""
        self._host = await self._launch()
        self._failure = ""
        self._keeper = asyncio.create_task(self._keep())

    async def create(self, url: str, **options: Any) -> WebSocket:
        """Create a connection, see :meth:`Host.create`; where there is no plugin, wait for one."""
        while not self._failure and self._host.ended:
            await self._changed.wait()
        if self._failure:
            raise PluginEnded(self._failure)
        return await self._host.create(url, **options)

    async def background(self, app: str | None = None) -> None:
        """Tell that the app leaves the screen; where there is no plugin, nothing has to end."""
        if not self._failure and not self._host.ended:
            await self._host.background(app)

    async def stop(self) -> int:
        """End the plugin for good, and return its exit status."""
        if self._keeper is None:
            raise PluginEnded(self._failure)
        self._change("the host has stopped the plugin")
        self._keeper.cancel()
        await asyncio.wait([self._keeper])
        return await self._host.stop()

    async def _launch(self) -> Host:
        self._starts.append(asyncio.get_running_loop().time())
        host = self._make()
        await host.start()
        return host

    async def _keep(self) -> None:
        """Start the plugin again, each time it has ended."""
        try:
            while True:
                reason = await self._host.wait_ended()
                while reason:
                    await self._wait_for_turn(reason)
                    try:
                        self._host = await self._launch()
                        reason = ""
                    except PluginEnded as exc:
                        reason = str(exc)
                self._change("")
        except Exception as exc:  # noqa: BLE001 - a fault of `make`, whatever it is
            self._change(f"nobody starts the plugin again: {exc!r}")
            report("the supervisor cannot go on", exc)

    async def _wait_for_turn(self, reason: str) -> None:
        """Wait as long as it takes before the next start."""
        now = asyncio.get_running_loop().time()
        while self._starts and self._starts[0] <= now - PERIOD:
            self._starts.popleft()
        count = len(self._starts)
        if count < len(DELAYS):
            delay = DELAYS[count]
            self._say(f"{reason}; it is started again" + (f" in {delay:g} s" if delay else ""))
            await asyncio.sleep(delay)
        else:
            delay = self._starts[0] + PERIOD - now
            self._change(f"{reason}; it was started {count} times within {PERIOD / 60:g} minutes")
            self._say(f"{self._failure}, and is not for another {delay:.0f} s")
            await asyncio.sleep(delay)
            self._change("")

    def _say(self, words: str) -> None:
        try:
            self._tell(words)
        except Exception as exc:  # noqa: BLE001 - the app's, whatever it is
            report("tell has failed", exc)

    def _change(self, failure: str) -> None:
        """Say whether a `create` fails, and have those look that wait."""
        self._failure = failure
        self._changed.set()
        self._changed = asyncio.Event()
