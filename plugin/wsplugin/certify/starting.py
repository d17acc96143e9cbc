"""Situations of the start: commands that are no plugin, and plugins of other versions."""

from typing import Final

from wsplugin.certify.fake import description, option
from wsplugin.certify.script import Ended
from wsplugin.certify.situation import situation
from wsplugin.certify.stage import EXECUTABLE, FIRST_START, Stage
from wsplugin.certify.watch import Broken

START_LIMIT: Final = 8.0
"""Seconds from the start of the command to words: the host's five, and some for a busy machine."""


async def fails(stage: Stage, *words: str, seconds: float = START_LIMIT, id: int = 0) -> None:
    """Check that a start fails with words that hold all of these, and that the demo reads on."""
    message = (await stage.outcome(id, Ended, seconds)).message
    for word in words:
        if word not in message:
            raise Broken(f"words with {word!r} for the failed start", repr(message))
    # Whoever tells of the failure is alive and answers.
    await stage.outcome(stage.call("background"), Ended)


@situation(process=True, exists=False)
async def command_missing(stage: Stage) -> None:
    """A command that does not exist is told by its name."""
    await fails(stage, EXECUTABLE, seconds=FIRST_START)


@situation(process=True)
async def command_exits(stage: Stage) -> None:
    """A command that ends is told with its status and its last line on stderr."""
    fake = await stage.fake(FIRST_START)
    fake.write(b"some words before\nno room left on the device\n", "stderr")
    await fake.flushed()
    fake.exit(3)
    await fails(stage, EXECUTABLE, "3", "no room left on the device")


@situation()
async def command_dies(stage: Stage) -> None:
    """A command that dies before it has said what it is fails the start."""
    fake = await stage.fake(FIRST_START)
    await fake.request("plugin-describe")
    fake.die()
    await fails(stage)


@situation()
async def command_babbles(stage: Stage) -> None:
    """A command that writes something else is told with what it writes, and does not go on."""
    fake = await stage.fake(FIRST_START)
    if not stage.socket_pair:
        fake.at_end = fake.stay
    fake.write(b"Welcome to the frobnicator\nReady.\n")
    await fails(stage, "Welcome to the frobnicator")
    await fake.end()


@situation(seconds=5)
async def command_silent(stage: Stage) -> None:
    """A command that says nothing fails the start within five seconds, and does not go on."""
    fake = await stage.fake(FIRST_START)
    if not stage.socket_pair:
        fake.at_end = fake.stay
    await fake.request("plugin-describe")
    await fails(stage)
    await fake.end()


@situation(process=True)
async def plugin_of_1_0(stage: Stage) -> None:
    """A plugin of 1.0, which ends with status 2 on the newer options, is told as one."""
    fake = await stage.fake(FIRST_START)
    unknown = " ".join(fake.argv)
    fake.write(
        b"usage: wsplugin [-h] [--max-connections N]\n"
        b"wsplugin: error: unrecognized arguments: %s\n" % unknown.encode(),
        "stderr",
    )
    await fake.flushed()
    fake.exit(2)
    await fails(stage, "1.0")


@situation()
async def describe_refused(stage: Stage) -> None:
    """A plugin that refuses to describe itself fails the start, and does not go on."""
    fake = await stage.fake(FIRST_START)
    fake.refuse(await fake.request("plugin-describe"), "unknown-action", "no such action")
    await fails(stage)
    await fake.end()


@situation(seconds=2)
async def describe_slow(stage: Stage) -> None:
    """A plugin that takes two seconds to describe itself is one all the same."""
    fake = await stage.fake(FIRST_START)
    fake.wait(2)
    await stage.begin_with(fake)
    id = await stage.connect(fake, "a")
    await stage.works(fake, "a", id)


@situation()
async def protocol_2(stage: Stage) -> None:
    """A plugin that speaks another protocol fails the start with words, and does not go on."""
    fake = await stage.fake(FIRST_START)
    fake.answer(await fake.request("plugin-describe"), description() | {"protocol": 2})
    await fails(stage, "protocol", "2")
    await fake.end()


@situation()
async def other_name(stage: Stage) -> None:
    """A program of another name fails the start with words, and does not go on."""
    fake = await stage.fake(FIRST_START)
    fake.answer(await fake.request("plugin-describe"), description() | {"name": "frobnicator"})
    await fails(stage, "frobnicator")
    await fake.end()


@situation()
async def describe_of_later(stage: Stage) -> None:
    """A later plugin of the same protocol, which says more of itself, is taken."""
    later = description()
    later["version"] = "1.99.0"
    later["features"] += ["telepathy"]
    later["actions"] += ["websocket-think"]
    later["limits"]["maxThoughts"] = 7
    later["mood"] = {"today": "good"}
    fake = await stage.begin(described=later)
    id = await stage.connect(fake, "a")
    await stage.works(fake, "a", id)


@situation(process=True)
async def options_appended(stage: Stage) -> None:
    """The plugin is told whom not to outlive, and to end within 1.5 s of its stdin."""
    fake = await stage.begin()
    for name, expected in [("--parent-pid", str(fake.parent)), ("--exit-timeout", "1.5")]:
        if (value := option(fake.argv, name)) != expected:
            came = f"{name} {value}" if value else "the command line " + " ".join(fake.argv)
            raise Broken(f"{name} {expected} on the plugin's command line", came)
