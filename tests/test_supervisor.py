"""The supervisor in Python: when it starts the plugin again, and what becomes of those who wait."""

import asyncio
import itertools
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import virtual_time
from harness import PLUGIN, TIMEOUT, echo_server
from host import Close, Host, Message, PluginEnded, WebSocket
from supervisor import Supervisor


class FakeHost:
    """A host without a plugin, that ends when it is told to."""

    def __init__(self, *, starts: bool = True, takes: float = 0) -> None:
        self.ended = "" if starts else "it does not start"
        self.created: list[str] = []
        self._takes = takes
        self._over = asyncio.Event()

    async def start(self) -> None:
        """Start, or fail to."""
        if self._takes:
            await asyncio.sleep(self._takes)
        if self.ended:
            raise PluginEnded(self.ended)

    async def create(self, url: str) -> str:
        """Create what stands for a connection."""
        self.created.append(url)
        return url

    async def background(self, app: str | None) -> None:
        """End what stands for connections."""
        if self.ended:
            raise PluginEnded(self.ended)
        self.created.clear()

    def die(self, reason: str = "it has died") -> None:
        """End."""
        self.ended = reason
        self._over.set()

    async def wait_ended(self) -> str:
        """Wait for the end."""
        await self._over.wait()
        return self.ended

    async def stop(self) -> int:
        """End in good order."""
        self.die("stopped")
        return 0


class Story:
    """A supervisor of fake hosts, on virtual time; `dying` are those that die as they start."""

    def __init__(self, *, dying: int = 0, failing: range = range(0), takes: float = 0) -> None:
        self.hosts: list[FakeHost] = []
        self.starts: list[float] = []
        self.told: list[str] = []
        self.dying = dying
        self._failing = failing
        self._takes = takes
        make: Any = self._make
        self.supervisor = Supervisor(make, tell=self.told.append)

    def _make(self) -> FakeHost:
        host = FakeHost(starts=len(self.hosts) not in self._failing, takes=self._takes)
        self.starts.append(now())
        self.hosts.append(host)
        if len(self.hosts) <= self.dying and not host.ended:
            asyncio.get_running_loop().call_soon(host.die)
        return host

    async def create(self, url: str = "ws://127.0.0.1/") -> float:
        """Create a connection; return when it was."""
        await self.supervisor.create(url)
        return now()


def now() -> float:
    """Return the time."""
    return asyncio.get_running_loop().time()


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test on virtual time."""
    virtual_time.run(story())


def test_starts_come_at_once_then_later_and_after_the_fifth_no_more() -> None:
    async def story() -> None:
        plays = Story(dying=6)
        async with plays.supervisor as supervisor:
            await asyncio.sleep(100)
            assert plays.starts == [0, 0, 0.5, 1.5, 3.5]
            words = "it has died; it was started 5 times within 3 minutes"
            with pytest.raises(PluginEnded, match=rf"^{words}$"):
                await supervisor.create("ws://127.0.0.1/")
            assert now() == 100
            assert plays.told == [
                "it has died; it is started again",
                "it has died; it is started again in 0.5 s",
                "it has died; it is started again in 1 s",
                "it has died; it is started again in 2 s",
                f"{words}, and is not for another 176 s",
            ]
            # The sixth, three minutes after the first two, dies as well: it is the fourth then.
            await asyncio.sleep(100)
            assert plays.starts[5:] == [180, 182]
            assert await plays.create() == 200
            assert plays.hosts[6].created

    play(story)


def test_a_create_waits_for_the_next_plugin_and_goes_to_it_alone() -> None:
    async def story() -> None:
        plays = Story()
        async with plays.supervisor:
            assert await plays.create("ws://127.0.0.1/first") == 0
            plays.hosts[0].die()
            assert await plays.create("ws://127.0.0.1/second") == 0
            plays.hosts[1].die()
            waiting = [asyncio.create_task(plays.create(f"{number}")) for number in range(3)]
            assert [await task for task in waiting] == [0.5] * 3
        assert [host.created for host in plays.hosts] == [
            ["ws://127.0.0.1/first"],
            ["ws://127.0.0.1/second"],
            ["0", "1", "2"],
        ]

    play(story)


def test_a_create_that_waits_fails_when_the_last_start_has_been() -> None:
    async def story() -> None:
        plays = Story(failing=range(1, 5))
        async with plays.supervisor:
            plays.hosts[0].die()
            with pytest.raises(PluginEnded, match=r"^it does not start; it was started 5 times "):
                await plays.create()
            assert now() == 3.5
            assert plays.starts == [0, 0, 0.5, 1.5, 3.5]

    play(story)


def test_a_create_waits_for_the_first_start_behind_the_three_minutes() -> None:
    async def story() -> None:
        plays = Story(failing=range(1, 5), takes=1)
        async with plays.supervisor:
            plays.hosts[0].die()
            with pytest.raises(PluginEnded, match="5 times"):
                await plays.create()
            await asyncio.sleep(180.5 - now())
            assert len(plays.starts) == 6
            assert await plays.create() == 181

    play(story)


def test_a_plugin_that_dies_now_and_then_is_always_started_at_once() -> None:
    async def story() -> None:
        plays = Story()
        async with plays.supervisor:
            for number in range(20):
                await asyncio.sleep(181)
                plays.hosts[number].die()
                assert await plays.create() == (number + 1) * 181

    play(story)


def test_a_first_start_that_fails_is_the_last() -> None:
    async def story() -> None:
        plays = Story(failing=range(9))
        with pytest.raises(PluginEnded, match=r"^it does not start$"):
            await plays.supervisor.start()
        await asyncio.sleep(10)
        assert plays.starts == [0]
        for call in (plays.create, plays.supervisor.stop):
            with pytest.raises(PluginEnded, match=r"^the plugin has not been started$"):
                await call()

    play(story)


def test_a_stop_ends_the_wait_for_the_next_start() -> None:
    async def story() -> None:
        plays = Story(dying=2)
        async with plays.supervisor as supervisor:
            await asyncio.sleep(0.1)
            waiting = asyncio.create_task(plays.create())
            await asyncio.sleep(0.1)
            assert await supervisor.stop() == 0
            with pytest.raises(PluginEnded, match=r"^the host has stopped the plugin$"):
                await waiting
            await asyncio.sleep(100)
            assert len(plays.starts) == 2

    play(story)


def test_background_reaches_the_plugin_there_is_and_waits_for_none() -> None:
    async def story() -> None:
        plays = Story()
        async with plays.supervisor as supervisor:
            await plays.create()
            await supervisor.background()
            assert plays.hosts[0].created == []
            plays.hosts[0].die()
            await supervisor.background()
            assert len(plays.starts) == 1

    play(story)


def test_faults_of_the_app_s_own_are_told_and_leave_nobody_waiting() -> None:
    async def story() -> None:
        hosts = [FakeHost(), FakeHost()]
        left = iter(hosts)
        make: Any = lambda: next(left)  # noqa: E731 - fails the third time
        tell: Any = lambda: None  # noqa: E731 - takes no words
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with Supervisor(make, tell=tell) as supervisor:
            hosts[0].die()
            await supervisor.create("ws://127.0.0.1/")
            hosts[1].die()
            with pytest.raises(PluginEnded, match=r"^nobody starts the plugin again: "):
                await supervisor.create("ws://127.0.0.1/")
        messages = [context["message"] for context in told]
        assert messages == ["tell has failed", "tell has failed", "the supervisor cannot go on"]

    asyncio.run(asyncio.wait_for(story(), TIMEOUT))


# --- the real plugin ------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="kills by SIGKILL")
def test_a_plugin_that_is_killed_under_load_again_and_again() -> None:
    """Nothing is left pending, every connection closes, the fifth start is the last."""

    async def load(url: str, pids: list[int], ends: list[str]) -> None:
        """Connect and send until no plugin is started any more."""
        for number in itertools.count():
            try:
                websocket = await supervisor.create(url)
            except PluginEnded as ended:
                ends.append(str(ended))
                if "5 times" in str(ended):
                    return
                continue
            sends = [asyncio.create_task(websocket.send(f"{number}")) for _ in range(100)]
            close = await last(websocket, pids)
            assert (close.code, close.cause) == (1006, "failure")
            results = await asyncio.gather(*sends, return_exceptions=True)
            assert {type(result) for result in results} <= {type(None), PluginEnded}

    async def last(websocket: WebSocket, pids: list[int]) -> Close:
        """Loop to the end; kill the plugin as soon as it has passed a message on."""
        async for event in websocket:
            if isinstance(event, Message) and pids:
                os.kill(pids.pop(), signal.SIGKILL)
        assert isinstance(event, Close)
        return event

    alive: list[int] = []
    hosts: list[Host] = []

    def make() -> Host:
        class Known(Host):
            async def start(self) -> None:
                await super().start()
                assert self._process
                assert self._process.transport
                alive.append(self._process.transport.get_pid())

        hosts.append(Known(*PLUGIN))
        return hosts[-1]

    told: list[str] = []
    supervisor = Supervisor(make, tell=told.append)

    async def story() -> None:
        ends: list[str] = []
        with echo_server() as server:
            async with supervisor:
                await asyncio.gather(*(load(server.url, alive, ends) for _ in range(4)))
        assert len(hosts) == 5
        assert len(told) == 5
        assert "it was started 5 times within 3 minutes" in told[-1]
        assert not any(host._pending or host._websockets for host in hosts)
        statuses = [host._process.status for host in hosts if host._process]
        assert statuses == [-9] * 5

    asyncio.run(asyncio.wait_for(story(), 3 * TIMEOUT))
