"""The example of a connection that comes back."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest

import virtual_time
from demos import EXAMPLES
from harness import PLUGIN, TIMEOUT, Listener, close_frame
from host import Close, Event, Message, Open, PluginEnded, RequestError
from reconnect import Link


class FakeWebSocket:
    """A connection whose events a test says."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.sent: list[str] = []
        self.failure: Exception | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Event]:
        event: Event | None = None
        while not isinstance(event, Close):
            event = await self.events.get()
            yield event

    async def send(self, data: str) -> None:
        """Send, or fail, and nobody knows whether it has been sent."""
        self.sent.append(data)
        if self.failure:
            raise self.failure

    async def ping(self, timeout: float) -> float:  # noqa: ASYNC109 - as the real one
        """Find out that the server is gone."""
        await asyncio.sleep(timeout)
        self.end()
        raise RequestError("not-open", "no Pong")

    def end(self) -> None:
        """End."""
        self.events.put_nowait(Close(1006, "", "failure"))


class Story:
    """A link on virtual time, which waits as long as it may at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, plugin: bool = True) -> None:
        monkeypatch.setattr(random, "uniform", lambda _, longest: longest)
        self.created: list[float] = []
        self.websockets: list[FakeWebSocket] = []
        self.events: list[Event] = []
        self._plugin = plugin
        create: Any = self._create
        self.link = Link(create, self.events.append)

    async def _create(self) -> FakeWebSocket:
        self.created.append(asyncio.get_running_loop().time())
        if not self._plugin:
            raise PluginEnded("none")
        self.websockets.append(FakeWebSocket())
        return self.websockets[-1]

    async def run(self, script: Any) -> None:
        """Run the link as long as the script runs."""
        running = asyncio.create_task(self.link.run())
        await script(self)
        running.cancel()
        await asyncio.wait([running])


def test_the_waits_grow_and_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plays: Story) -> None:
        await asyncio.sleep(100)
        assert plays.created == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5]
        monkeypatch.setattr(random, "uniform", lambda least, longest: (least + longest) / 3)
        await asyncio.sleep(60)
        assert plays.created[9:] == [121.5, 131.5, 141.5, 151.5]

    virtual_time.run(Story(monkeypatch, plugin=False).run(script))


def test_a_message_shows_that_the_server_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plays: Story) -> None:
        for _ in range(3):
            await asyncio.sleep(50)
            plays.websockets[-1].events.put_nowait(Open({}))
            plays.websockets[-1].end()
        await asyncio.sleep(50)
        assert plays.created == [0, 50.5, 101, 152]
        plays.websockets[-1].events.put_nowait(Message("well"))
        plays.websockets[-1].end()
        await asyncio.sleep(50)
        assert plays.created[4:] == [200.5]

    virtual_time.run(Story(monkeypatch).run(script))


def test_a_change_of_the_network_asks_the_server_and_waits_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(plays: Story) -> None:
        await asyncio.sleep(50)
        plays.websockets[0].events.put_nowait(Open({}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await plays.link.network_changed()
        await asyncio.sleep(0.1)
        assert plays.created == [0, 53]
        plays.websockets[1].end()
        await asyncio.sleep(0.1)
        await plays.link.network_changed()
        await asyncio.sleep(0.1)
        assert plays.created[2:] == [pytest.approx(53.2)]

    virtual_time.run(Story(monkeypatch).run(script))


def test_nothing_is_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plays: Story) -> None:
        sending = asyncio.create_task(plays.link.send("waits for the opening"))
        await asyncio.sleep(50)
        assert not sending.done()
        plays.websockets[0].events.put_nowait(Open({}))
        await sending
        plays.websockets[0].failure = PluginEnded("it has died")
        with pytest.raises(PluginEnded):
            await plays.link.send("nobody knows")
        plays.websockets[0].end()
        await asyncio.sleep(50)
        plays.websockets[1].events.put_nowait(Open({}))
        await plays.link.send("later")
        assert plays.websockets[0].sent == ["waits for the opening", "nobody knows"]
        assert plays.websockets[1].sent == ["later"]

    virtual_time.run(Story(monkeypatch).run(script))


@pytest.mark.skipif(os.name != "posix", reason="the commands are those of a POSIX shell")
def test_the_example_itself() -> None:
    with Listener() as listener:
        example = [sys.executable, str(EXAMPLES / "python" / "reconnect.py"), listener.url, *PLUGIN]
        pipe = subprocess.PIPE
        with subprocess.Popen(example, stdin=pipe, stdout=pipe, text=True) as process:
            try:
                assert process.stdin
                assert process.stdout
                for text in ("one", "two"):
                    process.stdin.write(f"{text}\n")
                    process.stdin.flush()
                    with listener.accept() as peer:
                        peer.handshake()
                        assert peer.read_frame()[1] == text.encode()
                        peer.send(b"\x81\x02hi" + close_frame(4000, "again"))
                        peer.expect_close(4000)
                        for line in ("open\n", "message: hi\n", "close: 4000 again (server)\n"):
                            assert process.stdout.readline() == line
                process.communicate("", timeout=TIMEOUT)
            finally:
                process.kill()
        assert process.returncode == 0
