"""How the host in Python ends, and its plugin: every wait has a bound, and every call an end."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import host as module
from demos import EXAMPLES
from fake_plugin import fake, play
from harness import PLUGIN, TIMEOUT, Listener, within
from host import Close, Host, Message, Open, PluginEnded, WebSocket
from pressure import MESSAGE, Flood

pytestmark = pytest.mark.skipif(os.name != "posix", reason="statuses are those of POSIX")


# --- stop -----------------------------------------------------------------------------------------


def test_a_stop_ends_within_two_seconds_whatever_the_servers_do() -> None:
    async def story() -> None:
        with Listener() as listener:
            async with Host(*PLUGIN) as host:
                silent = await host.create(listener.url)
                with await asyncio.to_thread(listener.accept) as peer:
                    await asyncio.to_thread(peer.handshake)
                    assert isinstance(await anext(aiter(silent)), Open)
                    flooding = await host.create(listener.url)
                    with await asyncio.to_thread(listener.accept) as flooder:
                        await asyncio.to_thread(flooder.handshake)
                        Flood(flooder, itertools.repeat(MESSAGE))
                        loop = aiter(flooding)
                        assert isinstance(await anext(loop), Open)
                        assert isinstance(await anext(loop), Message)
                        connecting = await host.create(listener.url)
                        with within(2):
                            assert await host.stop() == 0
                        flooder.end_threads()
                assert await host.stop() == 0
                [close] = [event async for event in connecting if isinstance(event, Close)]
                assert close.code == 1006
                with pytest.raises(PluginEnded, match="the plugin ended with status 0"):
                    await host.describe()

    play(story())


def test_two_stops_at_once() -> None:
    async def story() -> None:
        async with Host(*fake("describe(); to_end(); sys.exit(3)")) as host:
            stops = [*await asyncio.gather(host.stop(), host.stop())]
            assert stops == [3, 3]

    play(story())


def test_a_stop_has_a_bound_although_somebody_else_holds_stdout() -> None:
    program = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], stdin=-3)
describe(child=child.pid)
to_end()
os._exit(0)
"""

    async def story() -> None:
        async with Host(*fake(program)) as host:
            child = host.description["child"]
            try:
                with within(2):
                    assert await host.stop() == 0
                os.kill(child, 0)  # it is still there, and nobody's business
            finally:
                os.kill(child, signal.SIGKILL)

    play(story())


def test_a_plugin_that_hangs_is_killed_after_the_grace() -> None:
    async def story() -> None:
        async with Host(*fake("describe(); read(); time.sleep(3600)")) as host:
            pending = asyncio.create_task(host.describe())
            await asyncio.sleep(0)
            with within(2):
                assert await host.stop(grace=0.2) == -9
            with pytest.raises(PluginEnded, match="was killed by signal 9"):
                await pending

    play(story())


def test_a_stop_of_what_was_never_started() -> None:
    async def story() -> None:
        with pytest.raises(PluginEnded, match="the plugin has not been started"):
            await Host(*PLUGIN).stop()

    play(story())


# --- the end of the plugin ------------------------------------------------------------------------


async def expect_end(host: Host, websocket: WebSocket, pending: Any, words: str) -> None:
    """Check that what is pending fails, and what is open closes."""
    with pytest.raises(PluginEnded, match=words):
        await pending
    *_, close = [event async for event in websocket]
    assert isinstance(close, Close)
    assert (close.code, close.cause) == (1006, "failure")
    assert words in close.reason
    assert not host._pending
    with pytest.raises(PluginEnded, match=words):
        await host.describe()


ENDS = {
    "exits": ("sys.exit('the last words')", "ended with status 1: the last words"),
    "dies": ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by signal 9"),
    "dies amid a line": ("os.write(1, b'{\"id\": 3, '); sys.exit(5)", "ended with status 5"),
    "babbles": ("print('no JSON', flush=True); to_end()", "no line of its protocol: b'no JSON'"),
    "answers with an error of no kind": (
        "write({'id': read()['id'], 'error': 5}); to_end()",
        "no line of its protocol: ",
    ),
    "closes without a code": ("write(event('close')); to_end()", "no line of its protocol: "),
    "creates nothing": ("answer(); to_end()", "no line of its protocol: "),
}


@pytest.mark.parametrize(("program", "words"), ENDS.values(), ids=ENDS)
def test_every_call_and_connection_ends_with_the_plugin(program: str, words: str) -> None:
    async def story() -> None:
        async with Host(*fake(f"describe(); create(); {program}"), stderr="discard") as host:
            websocket = await host.create("ws://127.0.0.1/")
            await expect_end(host, websocket, host.create("ws://127.0.0.1/"), words)

    play(story())


def test_a_plugin_that_closes_stdout_and_lives_on_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.3)

    async def story() -> None:
        program = "describe(); create(); read(); os.close(1); to_end(); time.sleep(3600)"
        async with Host(*fake(program)) as host:
            websocket = await host.create("ws://127.0.0.1/")
            pending = host.request("websocket-ping")
            await expect_end(host, websocket, pending, "was killed by signal 9")
            assert await host.stop() == -9

    play(story())


@pytest.mark.parametrize("exc", [MemoryError, RecursionError, RuntimeError, AssertionError])
def test_a_fault_in_the_reader_fails_all_and_leaves_no_process(
    exc: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = WebSocket.take

    def stumble(self: WebSocket, name: str, payload: Any) -> None:
        if name == "message":
            raise exc
        take(self, name, payload)

    monkeypatch.setattr(WebSocket, "take", stumble)

    async def story() -> None:
        program = "describe(); create(); read(); write(text('x')); to_end(); time.sleep(3600)"
        async with Host(*fake(program)) as host:
            websocket = await host.create("ws://127.0.0.1/")
            pending = host.request("websocket-ping")
            words = f"the host could not take a line of the plugin's ({exc.__name__}())"
            with pytest.raises(PluginEnded) as caught:
                await pending
            assert str(caught.value) == words
            assert [event async for event in websocket] == [Open({}), Close(1006, words, "failure")]
            assert await host.stop() == -9

    play(story())


def test_a_fault_of_the_app_s_own_function_is_told_as_such_and_ends_nothing() -> None:
    async def story() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

        def stumble(*_: str) -> None:
            raise LookupError("the app's")

        program = "describe(); print('a line', file=sys.stderr, flush=True); answer(n=1); to_end()"
        async with Host(*fake(program), on_line=stumble, stderr=stumble) as host:
            assert await host.describe() == {"n": 1}
            assert await host.stop() == 0
        messages = [context["message"] for context in told]
        assert messages.count("on_line has failed") == 4
        assert messages.count("what was given for the plugin's stderr has failed") == 1
        assert {repr(context["exception"]) for context in told} == {'LookupError("the app\'s")'}

    play(story())


def test_an_event_loop_that_ends_earlier_leaves_no_process() -> None:
    pids: list[int] = []

    async def story() -> None:
        host = Host(*fake("describe(pid=os.getpid()); to_end()"))
        await host.start()
        pids.append(host.description["pid"])

    asyncio.run(story())
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


# --- stderr ---------------------------------------------------------------------------------------

LOUD = """
describe()
read()
for number in range(200_000):
    print("line", number, file=sys.stderr)
print("the last words", file=sys.stderr)
sys.exit(3)
"""


def test_a_function_is_called_with_each_line_of_stderr() -> None:
    async def story() -> None:
        lines: list[str] = []
        program = """
describe()
os.write(2, "Grü".encode()[:-1]); os.write(2, "Grüße\\r\\n\\nand ".encode()[3:])
os.write(2, b"\\xff half a line")
sys.exit(1)
"""
        async with Host(*fake(program), stderr=lines.append) as host:
            await host.stop()
        assert lines == ["Grüße", "", "and \ufffd half a line"]

    play(story())


def test_a_long_line_of_stderr_does_not_stay() -> None:
    async def story() -> None:
        lines: list[str] = []
        program = "describe(); print('x' * 1_000_000, file=sys.stderr); sys.exit(1)"
        async with Host(*fake(program), stderr=lines.append) as host:
            await host.stop()
        assert sum(map(len, lines)) == 1_000_000
        assert len(lines) > 1

    play(story())


# An app with a host, whose stderr is what the test gives it; the plugin floods it.
APP = """
import asyncio, sys, threading
threading.excepthook = lambda args: print("a thread has failed:", args, flush=True)
sys.path.insert(0, sys.argv[1])
from host import Host, PluginEnded
async def main():
    async with Host(*sys.argv[2:]) as host:
        try:
            await host.describe()
        except PluginEnded as ended:
            print(ended, flush=True)
asyncio.run(main())
"""


@pytest.fixture
def app() -> list[str]:
    """Return the command of the app."""
    return [sys.executable, "-c", APP, str(EXAMPLES / "python"), *fake(LOUD)]


def outcome(app: list[str], stderr: int) -> str:
    """Run the app with this stderr; return what it printed."""
    with subprocess.Popen(app, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            stdout, _ = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    assert process.returncode == 0
    return stdout


WORDS = "the plugin ended with status 3: the last words\n"


def test_stderr_is_passed_on(app: list[str], tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as file:
        assert outcome(app, file.fileno()) == WORDS
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert lines == [*(f"line {number}" for number in range(200_000)), "the last words"]


def test_a_stderr_that_is_stuck_stops_nothing(app: list[str]) -> None:
    reading, writing = os.pipe()
    try:
        assert outcome(app, writing) == WORDS
    finally:
        os.close(reading)
        os.close(writing)


def test_a_stderr_that_is_broken_stops_nothing(app: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert outcome(app, writing) == WORDS
    finally:
        os.close(writing)


@pytest.mark.parametrize("stderr", ["None", "__import__('io').StringIO()"])
def test_a_stderr_that_is_no_file_stops_nothing(app: list[str], stderr: str) -> None:
    app[2] = f"import sys; sys.stderr = {stderr}\n{APP}"
    assert outcome(app, subprocess.DEVNULL) == WORDS
