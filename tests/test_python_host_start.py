"""How the host in Python starts: what is no plugin is told as such, and leaves no process."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from fake_plugin import NO_PLUGINS, fake, play
from harness import PLUGIN, TIMEOUT, within
from host import Host, PluginEnded

pytestmark = pytest.mark.skipif(os.name != "posix", reason="statuses are those of POSIX")

SOON = 0.5
"""Seconds that a command has to describe itself where the test is that it does not."""


async def failure(host: Host) -> str:
    """Start what fails to start; return the words, and check that nothing is left."""
    with pytest.raises(PluginEnded) as caught:
        await host.start()
    process = host._process
    assert process
    assert process.transport is None or process.transport.get_returncode() is not None
    assert not host._pending
    with pytest.raises(PluginEnded):
        await host.describe()
    return str(caught.value)


WRONG = NO_PLUGINS | {
    "ends": ("", r"^the plugin ended with status 0 \(started as: "),
    "fails": ("sys.exit('the last words')", "^the plugin ended with status 1: the last words "),
    "dies": ("os.kill(os.getpid(), signal.SIGKILL)", "^the plugin was killed by signal 9 "),
    "writes a list": ("write([1]); to_end()", r"no line of its protocol: b'\[1\]'"),
    "never ends a line": (
        "os.set_blocking(1, True)\nwhile True: os.write(1, b'x' * 65536)",
        "no line of its protocol: b'xxxxx",
    ),
    "is silent": ("to_end(); time.sleep(3600)", "^the plugin did not describe itself in 0.5 s "),
    "floods": ("while True: write({})", "^the plugin did not describe itself in 0.5 s "),
}


@pytest.mark.parametrize(("program", "words"), WRONG.values(), ids=WRONG)
def test_a_command_that_is_no_plugin(program: str, words: str) -> None:
    async def story() -> None:
        waits = SOON if "0.5 s" in words else TIMEOUT
        with within(waits):
            text = await failure(Host(*fake(program), start_timeout=waits, stderr="discard"))
        assert re.search(words, text), text
        assert "(started as: " in text

    play(story())


def test_a_command_that_does_not_exist_or_cannot_be_run(tmp_path: Path) -> None:
    async def story() -> None:
        missing = tmp_path / "missing"
        words = await failure(Host(str(missing)))
        assert words.startswith("the plugin cannot be started: [Errno 2] ")
        assert f"(started as: {missing} --parent-pid " in words
        plain = tmp_path / "plain"
        plain.touch()
        words = await failure(Host(str(plain)))
        assert words.startswith("the plugin cannot be started: [Errno 13] ")

    play(story())


def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    async def story() -> None:
        host = Host(*fake("to_end(); time.sleep(3600)"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await host.start()
        assert host._process
        assert host._process.status == -9
        with pytest.raises(PluginEnded):
            await host.describe()

    play(story())


def test_a_host_starts_once() -> None:
    async def story() -> None:
        async with Host(*PLUGIN) as host:
            with pytest.raises(RuntimeError):
                await host.start()
            assert (await host.describe())["name"] == "wsplugin"

    play(story())


# --- the description and the options --------------------------------------------------------------


def test_the_description_is_kept() -> None:
    async def story() -> None:
        async with Host(*PLUGIN) as host:
            assert host.description == await host.describe()
            assert {"pause", "ping"} <= host.features

    play(story())


APPENDED = ["--parent-pid", str(os.getpid()), "--exit-timeout", "1.5"]
OPTIONS: dict[str, tuple[list[str], bool, list[str]]] = {
    "both": ([], True, APPENDED),
    "one, in two words": (["--exit-timeout", "9"], True, ["--exit-timeout", "9", *APPENDED[:2]]),
    "one, in one": (["--parent-pid=1"], True, ["--parent-pid=1", *APPENDED[2:]]),
    "none": (["--parent-pid=1", "--exit-timeout=9"], True, ["--parent-pid=1", "--exit-timeout=9"]),
    "left out": (["--linger", "1"], False, ["--linger", "1"]),
}


@pytest.mark.parametrize(("options", "appends", "expected"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_are_appended(options: list[str], appends: bool, expected: list[str]) -> None:
    async def story() -> None:
        command = [*fake("describe(); to_end()"), *options]
        async with Host(*command, appends_options=appends) as host:
            assert host.description["argv"] == expected

    play(story())


OLD = "print('usage: wsplugin', 'wsplugin: error: unrecognized arguments: ' + ' '.join({}), "
OLD += "sep='\\n', file=sys.stderr); sys.exit(2)"


def test_a_plugin_of_1_0_is_told_as_such() -> None:
    async def story() -> None:
        advice = "this wsplugin is of 1.0; update it or start it without these options"
        old = fake(OLD.format("sys.argv[1:]"))
        assert advice in await failure(Host(*old, stderr="discard"))
        one_option = Host(*old, "--parent-pid=1", stderr="discard")
        assert advice in await failure(one_option)
        # What the host has not appended is the app's own mistake.
        mistaken = fake(OLD.format("['--no-such-option']"))
        words = await failure(Host(*mistaken, stderr="discard"))
        assert "unrecognized arguments: --no-such-option" in words
        assert "1.0" not in words
        words = await failure(Host(*PLUGIN, "--exit-timeout=-1", stderr="discard"))
        assert "ended with status 2: " in words
        assert "1.0" not in words

    play(story())


def test_a_plugin_of_1_0_without_the_options_is_one_that_cannot_pause() -> None:
    async def story() -> None:
        program = "answer(name='wsplugin', version='1.0.0', protocol=1); to_end()"
        async with Host(*fake(program), appends_options=False) as host:
            assert host.features == frozenset()
            with within(2):
                assert await host.stop() == 0

    play(story())
