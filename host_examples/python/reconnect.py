"""A connection that comes back: after the server, the network or the plugin has ended it.

An echo server, then this; each line of stdin is sent, and the line ``network`` stands for what the
system tells an app when the network has changed::

    $ python3 -m venv .venv && .venv/bin/pip install .
    $ python3 host_examples/python/echo_server.py 8765 &
    $ python3 host_examples/python/reconnect.py ws://127.0.0.1:8765/ .venv/bin/wsplugin

What it shows, for an app to copy: to wait longer each time, and a random part of that, so that a
server that comes back does not meet all its clients in the same second; to wait no longer when the
network has changed; to ping then, because the old network may have taken the connection with it
without a word; and to send nothing twice.
"""

import asyncio
import random
import sys
import threading
from collections.abc import Awaitable, Callable

from host import Close, Event, Host, Message, Open, PluginEnded, RequestError, WebSocket
from supervisor import Supervisor

FIRST, LONGEST = 0.5, 30.0
"""Seconds that the wait for the next attempt is bounded by, at first and at last."""
PING_TIMEOUT = 3.0
"""Seconds for a server to show that a connection has outlived a change of the network."""


class Link:
    """One connection after the other.

    Args:
        create: creates one.
        listen: called with each event of each.

    """

    def __init__(
        self, create: Callable[[], Awaitable[WebSocket]], listen: Callable[[Event], object]
    ) -> None:
        self._create = create
        self._listen = listen
        self._websocket: WebSocket | None = None
        self._opened = asyncio.Event()
        self._hurry = asyncio.Event()
        self._attempts = 0

    async def run(self) -> None:
        """Connect, and connect again, until cancelled; `RequestError` if the plugin refuses to."""
        while True:
            self._hurry.clear()
            try:
                websocket = await self._create()
            except PluginEnded as ended:
                print("no plugin:", ended, flush=True)
            else:
                await self._loop(websocket)
            await self._wait()

    async def _loop(self, websocket: WebSocket) -> None:
        async with websocket:
            try:
                async for event in websocket:
                    if isinstance(event, Open):
                        self._websocket = websocket
                        self._opened.set()
                    elif isinstance(event, Message):
                        # Not by the opening: a server may open and close at once, for hours.
                        self._attempts = 0
                    self._listen(event)
            finally:
                self._websocket = None
                self._opened.clear()

    async def _wait(self) -> None:
        longest = min(LONGEST, FIRST * 2**self._attempts)
        self._attempts += 1
        try:
            async with asyncio.timeout(random.uniform(0, longest)):  # noqa: S311 - no secret
                await self._hurry.wait()
        except TimeoutError:
            pass  # the wait is over

    async def send(self, data: str | bytes) -> None:
        """Send a message once there is a connection.

        A failure says that it may or may not have been sent. Whether it may be sent again only the
        app knows, so that is for the app to do.
        """
        while self._websocket is None:
            await self._opened.wait()
        await self._websocket.send(data)

    async def network_changed(self) -> None:
        """Find out whether the connection has outlived it; do not wait for the next attempt."""
        self._attempts = 0
        self._hurry.set()
        if self._websocket:
            try:
                await self._websocket.ping(timeout=PING_TIMEOUT)
            except (RequestError, PluginEnded):
                pass  # it has not, and so it ends: the loop goes on to the next


def show(event: Event) -> None:
    """Print an event."""
    match event:
        case Open():
            print("open", flush=True)
        case Message(data):
            print("message:", data, flush=True)
        case Close(code, reason, cause):
            print(f"close: {code} {reason} ({cause})", flush=True)


def read_lines(lines: "asyncio.Queue[str]") -> None:
    """Have a thread read stdin, "" being its end."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in iter(sys.stdin.readline, ""):
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()


async def main(url: str, *command: str) -> None:
    """Keep a connection, and send what comes on stdin, until that ends."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    async with Supervisor(lambda: Host(*command)) as supervisor, asyncio.TaskGroup() as group:
        link = Link(lambda: supervisor.create(url), show)
        running = group.create_task(link.run())
        read_lines(lines)
        while line := await lines.get():
            try:
                if line.strip() == "network":
                    await link.network_changed()
                else:
                    await link.send(line.strip())
            except (RequestError, PluginEnded) as failure:
                print("maybe sent, maybe not:", failure, flush=True)
        running.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except PluginEnded as ended:
        sys.exit(f"PluginEnded: {ended}")
