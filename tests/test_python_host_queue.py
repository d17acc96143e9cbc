"""How the host in Python holds servers back whose messages nobody takes, each for itself.

The figures: ``pytest tests/test_python_host_queue.py -m slow --log-cli-level=info``.
"""

import asyncio
import itertools
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demos import EXAMPLES
from fake_plugin import fake, play
from harness import PLUGIN, TIMEOUT, Listener, echo_server
from host import Close, Host, Message, Open
from pressure import MESSAGE, Flood

pytestmark = pytest.mark.skipif(os.name != "posix", reason="reads memory from /proc")

log = logging.getLogger(__name__)


class Asked:
    """What a host has asked of the plugin, from the connection's creation on."""

    def __init__(self) -> None:
        self.actions: list[str] = []

    def __call__(self, direction: str, line: str) -> None:
        """Take a line."""
        if direction == ">":
            action = json.loads(line)["action"]
            if action not in ("plugin-describe", "websocket-create", "settle"):
                self.actions.append(action.removeprefix("websocket-"))


# Says all it has to, whatever it is asked meanwhile, and answers what it is asked.
TALKER = """
describe(features={features})
create()
write(*(text({data}) for number in range({count})))
while request := read():
    write({{"id": request["id"], "response": {{}}}})
"""


def talker(
    count: int, data: str = "str(number)", features: str = "['pause']", **queue: int
) -> tuple[Host, Asked]:
    """Return a host with a plugin that says so many messages, and what it will have asked."""
    asked = Asked()
    program = TALKER.format(count=count, data=data, features=features)
    return Host(*fake(program), on_line=asked, **queue), asked  # type: ignore[arg-type]


async def settle(host: Host) -> None:
    """Wait until what the plugin had written has been read, and what it had to answer answered."""
    await host.request("settle")


BOUNDS: dict[str, dict[str, Any]] = {
    # The opening is an event, too.
    "events": {"queue_messages": 8, "count": 10},
    "bytes of text": {"queue_bytes": 80, "count": 10, "data": "'üüüüü'"},
}


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_a_full_queue_pauses_and_a_half_empty_one_resumes(bound: dict[str, Any]) -> None:
    async def story() -> None:
        host, asked = talker(**bound)
        async with host:
            websocket = await host.create("ws://127.0.0.1/")
            await settle(host)
            assert asked.actions == ["pause"]
            taken = 0
            async for event in websocket:
                # Of the opening and ten messages four may be left, or of 100 bytes 40.
                assert asked.actions[1:] == (["resume"] if taken >= 5 else [])
                taken += isinstance(event, Message)
                if taken == 10:
                    await settle(host)
                    assert asked.actions[1:] == ["resume"]
                    break

    play(story())


def test_an_app_s_own_pause_lasts_to_its_own_resume() -> None:
    async def story() -> None:
        host, asked = talker(10, queue_messages=8)
        async with host:
            websocket = await host.create("ws://127.0.0.1/")
            await settle(host)
            await websocket.pause()
            loop = aiter(websocket)
            for _ in range(11):
                await anext(loop)
            assert asked.actions == ["pause", "pause"]
            await websocket.resume()
            assert asked.actions[2:] == ["resume"]

    play(story())


def test_an_app_s_own_resume_leaves_a_full_queue_paused() -> None:
    async def story() -> None:
        host, asked = talker(10, queue_messages=8)
        async with host:
            websocket = await host.create("ws://127.0.0.1/")
            await settle(host)
            await websocket.pause()
            await websocket.resume()
            assert asked.actions == ["pause", "pause"]
            loop = aiter(websocket)
            for _ in range(11):
                await anext(loop)
            assert asked.actions[2:] == ["resume"]

    play(story())


def test_a_plugin_that_cannot_pause_is_not_asked_to() -> None:
    async def story() -> None:
        host, asked = talker(10, features="[]", queue_messages=2)
        async with host:
            websocket = await host.create("ws://127.0.0.1/")
            await settle(host)
            loop = aiter(websocket)
            for _ in range(11):
                await anext(loop)
            assert asked.actions == []

    play(story())


def test_many_queued_events_are_taken_in_linear_time() -> None:
    program = """
describe(features=[])
create()
sys.stdout.write((json.dumps(text("x")) + "\\n") * 200_000)
answer()
to_end()
"""

    async def story() -> None:
        async with Host(*fake(program)) as host:
            websocket = await host.create("ws://127.0.0.1/")
            await settle(host)
            # Of a queue that moves all the others for each this would take minutes.
            count = 0
            async for event in websocket:
                count += isinstance(event, Message)
                if count == 200_000:
                    break

    play(story(), 3 * TIMEOUT)


def test_one_slow_loop_does_not_hold_another_connection() -> None:
    async def story() -> None:
        asked = Asked()
        with Listener() as listener, echo_server() as server:
            async with Host(*PLUGIN, on_line=asked) as host:
                slow = await host.create(listener.url)
                with await asyncio.to_thread(listener.accept) as peer:
                    await asyncio.to_thread(peer.handshake)
                    flood = Flood(peer, itertools.repeat(MESSAGE, 1600))
                    while "pause" not in asked.actions:
                        await host.describe()
                    quick = await host.create(server.url)
                    async for event in quick:
                        match event:
                            case Open():
                                await quick.send("quick")
                            case Message():
                                await quick.close()
                    assert flood.is_alive()
                    # And nothing is lost of what was held back.
                    count = 0
                    async for event in slow:
                        count += isinstance(event, Message)
                        if count == 1600:
                            break
                    assert "resume" in asked.actions
                    peer.end_threads()

    play(story(), 3 * TIMEOUT)


def test_what_comes_behind_a_loop_that_was_left_is_not_kept() -> None:
    program = """
describe()
create()
requests = [read(), read()]
write(*(text("late") for _ in range(10)))
asked = sorted(request["action"] for request in requests)
write(*({"id": request["id"], "response": {"asked": asked}} for request in requests))
to_end()
"""

    async def story() -> None:
        async with Host(*fake(program), queue_messages=8) as host:
            websocket = await host.create("ws://127.0.0.1/")
            async for event in websocket:
                assert event == Open({})
                break
            assert await host.request("x") == {"asked": ["websocket-close", "x"]}
            assert websocket._events.empty()

    play(story())


# --- memory ---------------------------------------------------------------------------------------

# Takes 50 ms over each message for some seconds, and tells how many it has had, and by how many KiB
# its peak of memory has grown meanwhile.
SLOW = {
    "python": """
import asyncio, sys, time
sys.path.insert(0, sys.argv[1])
from host import Host, Open
async def main(url, *command):
    async with Host(*command) as host:
        had = 0
        async for event in await host.create(url):
            if isinstance(event, Open):
                idle = memory("VmRSS")
                open("/proc/self/clear_refs", "w").write("5")
                until = time.monotonic() + 6
                continue
            await asyncio.sleep(0.05)
            had += 1
            if time.monotonic() > until:
                print(had, memory("VmHWM") - idle, flush=True)
                sys.stdin.read()
                return
def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1])
asyncio.run(main(*sys.argv[2:]))
""",
    "python, embedded": """
import sys, threading, time
sys.path.insert(0, sys.argv[1] + "_embedded")
from embedded_host import Host, Listener
class Slow(Listener):
    had = 0
    def on_open(self, *_):
        self.idle = memory("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")
        self.until = time.monotonic() + 6
    def on_message(self, websocket, data):
        time.sleep(0.05)
        self.had += 1
        if time.monotonic() > self.until:
            print(self.had, memory("VmHWM") - self.idle, flush=True)
            sys.stdin.read()
            over.set()
            self.until += 3600
def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1])
over = threading.Event()
with Host() as host:
    websocket = host.create(sys.argv[2], Slow())
    over.wait()
    websocket.close(timeout=0)
""",
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resets the peak in /proc")
@pytest.mark.parametrize("program", SLOW.values(), ids=SLOW)
def test_a_flood_that_is_taken_slowly_stays_with_its_server(program: str) -> None:
    command = [sys.executable, "-c", program, str(EXAMPLES / "python")]
    with Listener() as listener:
        command += [listener.url, *PLUGIN]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as host:
            try:
                with listener.accept() as peer:
                    peer.handshake()
                    flood = Flood(peer, itertools.repeat(MESSAGE, 100_000_000 // 65_536))
                    assert host.stdout
                    assert host.stdin
                    had, grown = map(int, host.stdout.readline().split())
                    waiting = flood.sent - had * len(MESSAGE)
                    host.stdin.close()
                    host.wait(TIMEOUT)
                    peer.end_threads()
            finally:
                host.kill()
    log.info("%d had, %d KiB more, %d bytes on the way", had, grown, waiting)
    assert host.returncode == 0
    assert had > 60
    assert grown <= 8 * 1024
    assert waiting <= 16_000_000


def test_the_close_of_a_connection_comes_behind_what_was_held_back() -> None:
    async def story() -> None:
        with Listener() as listener:
            async with Host(*PLUGIN, queue_messages=4) as host:
                websocket = await host.create(listener.url)
                with await asyncio.to_thread(listener.accept) as peer:
                    await asyncio.to_thread(peer.handshake)
                    Flood(peer, itertools.repeat(MESSAGE, 100))
                    events = []
                    async for event in websocket:
                        events.append(event)
                        if len(events) == 50:
                            peer.end_threads()
                assert isinstance(events[-1], Close)
                assert len([event for event in events if isinstance(event, Message)]) >= 49

    play(story())
