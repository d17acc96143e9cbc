"""Situations of pipes that nobody empties: the plugin's stdin, its stderr, the app's stderr."""

from typing import Final

from wsplugin.certify.fake import Fake
from wsplugin.certify.script import Closed, Done, Ended, Message
from wsplugin.certify.situation import situation
from wsplugin.certify.stage import Stage
from wsplugin.certify.watch import Broken

NOISE: Final = b"WARNING the \xff\xfe sky is falling, once more and once again\n" * 2**16
"""Some megabytes of stderr, far more than a pipe holds, and not all of it UTF-8."""
SENT: Final = 8
LONG: Final = "y" * 2**18
"""A message of which some do not fit into a pipe."""


@situation(process=True, seconds=2)
async def stderr_flooded(stage: Stage) -> None:
    """What the plugin writes to stderr is read, however much, and whether or not a line ends."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    fake.write(NOISE, "stderr")
    fake.write(b"z" * 2**20, "stderr")
    await fake.flushed()
    await stage.works(fake, "a", id)


@situation(process=True)
async def stderr_blocked(stage: Stage) -> None:
    """An app whose own stderr nobody reads goes on, and can be stopped."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    stage.hold_stderr()
    fake.write(NOISE, "stderr")
    await stage.stderr_full()
    await stage.works(fake, "a", id)
    fake.close(id, 1000, "", "server")
    await stage.event("a", Closed, code=1000)
    if status := await stage.stop():
        raise Broken("status 0 when stopped", f"status {status}")
    stage.release_stderr()


@situation(process=True)
async def stderr_broken(stage: Stage) -> None:
    """An app whose own stderr is closed goes on, and can be stopped."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    stage.break_stderr()
    fake.write(NOISE, "stderr")
    await stage.works(fake, "a", id)


async def send_much(stage: Stage, fake: Fake) -> list[int]:
    """Have more sent than a plugin takes that does not read."""
    await fake.hold_stdin()
    calls = [stage.call("send", to="a", text=f"{number}{LONG}") for number in range(SENT)]
    await fake.filled()
    return calls


@situation(seconds=2)
async def stdin_unread(stage: Stage) -> None:
    """While the plugin does not read, what it writes is told; when it does, all goes out."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    id = await stage.connect(fake, "b")
    calls = await send_much(stage, fake)
    for number in range(500):
        fake.lines(fake.text(id, f"{number}{'x' * 1_000}"))
    for number in range(500):
        await stage.event("b", Message, text=f"{number}{'x' * 1_000}")
    fake.release_stdin()
    sent = set()
    for _ in calls:
        request = await fake.request("websocket-send")
        sent.add(request.payload["data"])
        fake.answer(request)
    if sent != {f"{number}{LONG}" for number in range(SENT)}:
        raise Broken("each message as it was sent", f"{len(sent)} different ones")
    for call in calls:
        await stage.outcome(call, Done)
    await stage.works(fake, "b", id)


@situation()
async def stdin_unread_at_death(stage: Stage) -> None:
    """When the plugin dies without having read, what waited to be written fails."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    calls = await send_much(stage, fake)
    fake.lines(fake.text("ws-1", "the last"))
    await stage.event("a", Message, text="the last")
    fake.die()
    for call in calls:
        await stage.outcome(call, Ended)
    await stage.lose("a")


@situation(process=True, seconds=6)
async def stdin_unread_at_stop(stage: Stage) -> None:
    """A plugin that does not read is killed when it is stopped, and all fails that waited."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    calls = await send_much(stage, fake)
    fake.at_end = fake.stay
    if not await stage.stop(12):
        raise Broken("the status of a killed process", "status 0")
    for call in calls:
        await stage.outcome(call, Ended)
    await stage.lose("a")
    await fake.end()
