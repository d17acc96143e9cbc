"""What only the host in Python can be asked; ``test_host_examples.py`` asks all of them."""

import asyncio
import os
import socket
import sys

import pytest

from demos import FAKE
from harness import PLUGIN, TIMEOUT, echo_server
from host import Close, Host, PluginEnded

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="the commands are those of a POSIX shell"
)


def test_requests_do_not_wait_for_each_other_and_all_fail_with_the_plugin() -> None:
    async def play() -> None:
        async with Host(sys.executable, "-c", FAKE, os.devnull, "die") as host:
            # A fake that cannot read its answers has ended at once; the next is alive.
            with pytest.raises(PluginEnded, match=r"ended with status 1: .*JSONDecodeError"):
                await host.describe()
        async with Host(*PLUGIN) as host:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                port = silent.getsockname()[1]
                websocket = await host.create(f"ws://127.0.0.1:{port}/")
                # They wait for an opening handshake that never comes.
                sends = [asyncio.create_task(websocket.send("x")) for _ in range(10)]
                assert (await host.describe())["name"] == "wsplugin"
                assert not any(send.done() for send in sends)
                host._process.kill()
                for send in sends:
                    with pytest.raises(PluginEnded, match="the plugin was killed by signal 9"):
                        await send
                assert [event async for event in websocket] == [
                    Close(1006, "the plugin was killed by signal 9", "failure")
                ]
            assert await host.stop() == -9

    asyncio.run(asyncio.wait_for(play(), TIMEOUT))


def test_a_connection_whose_creation_is_cancelled_is_closed() -> None:
    async def play() -> None:
        lines: list[tuple[str, str]] = []
        closed = asyncio.Event()

        def on_line(direction: str, line: str) -> None:
            lines.append((direction, line))
            if '"name":"close"' in line:
                closed.set()

        with echo_server() as server:
            async with Host(*PLUGIN, on_line=on_line) as host:
                creating = asyncio.create_task(host.create(server.url))
                await asyncio.sleep(0)  # it has written its line
                creating.cancel()
                await closed.wait()
                assert await host.stop() == 0
        assert any("websocket-close" in line for direction, line in lines if direction == ">")

    asyncio.run(asyncio.wait_for(play(), TIMEOUT))
