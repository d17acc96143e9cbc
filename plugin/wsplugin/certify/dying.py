"""Situations of a plugin that is lost: every call completes, every connection gets its close."""

import msgspec

from wsplugin.certify.script import Closed, Ended, Message
from wsplugin.certify.situation import situation
from wsplugin.certify.stage import Stage
from wsplugin.certify.watch import Broken, shown


@situation()
async def death_while_pending(stage: Stage) -> None:
    """When the plugin dies, whatever waits for an answer fails, and every connection closes."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    await stage.connect(fake, "b")
    ping, _ = await stage.ask(fake, "ping", to="a")
    send, _ = await stage.ask(fake, "send", to="b", text="x")
    create, _ = await stage.create(fake, "c")
    fake.die()
    for call in (ping, send, create):
        await stage.outcome(call, Ended)
    await stage.lose("a", "b")
    await stage.outcome(stage.call("background"), Ended)


@situation()
async def death_while_idle(stage: Stage) -> None:
    """When the plugin dies and nothing waits, connections close and later calls fail at once."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    fake.die()
    await stage.lose("a")
    await stage.outcome(stage.call("create", **{"as": "b"}, url="ws://127.0.0.1:9/"), Ended)
    await stage.outcome(stage.call("background"), Ended)


@situation(seconds=2)
async def death_while_flooding(stage: Stage) -> None:
    """When the plugin dies in a flood, what came whole is told, in order, and then the close."""
    fake = await stage.begin()
    ids = {name: await stage.connect(fake, name) for name in ("a", "b")}
    for number in range(2_000):
        fake.lines(*(fake.text(id, f"{number} {'x' * 2_000}") for id in ids.values()))
    await stage.event("a", Message)
    fake.die()
    for name in ids:
        number = 1 if name == "a" else 0
        while isinstance(event := await stage.any_event(name), Message):
            if event.text != f"{number} {'x' * 2_000}":
                raise Broken(f"on {name} message {number}", shown(repr(event.text)))
            number += 1
        if not isinstance(event, Closed) or (event.code, event.cause) != (1006, "failure"):
            raise Broken(f"on {name} a close with 1006 for a failure", repr(event))
    stage.lost()


@situation()
async def half_a_line(stage: Stage) -> None:
    """When the plugin dies within a line, half a line is no line."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(fake, "ping", to="a")
    fake.lines(fake.text(id, "whole"))
    fake.write(b'{"id":%s,"response":{"rtt":' % msgspec.json.encode(request.id))
    await stage.event("a", Message, text="whole")
    await fake.flushed()
    fake.die()
    await stage.outcome(call, Ended)
    await stage.lose("a")


@situation(process=True)
async def last_words(stage: Stage) -> None:
    """What waits when the plugin ends is told with its status and its last line on stderr."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    call, _ = await stage.ask(fake, "ping", to="a")
    fake.write(b"first words\nwsplugin: error: the moon is full\n", "stderr")
    await fake.flushed()
    fake.exit(7)
    message = (await stage.outcome(call, Ended)).message
    for word in ("7", "the moon is full"):
        if word not in message:
            raise Broken(f"words with {word!r} for the lost plugin", repr(message))
    await stage.lose("a")


@situation()
async def babble_amid(stage: Stage) -> None:
    """When the plugin writes what is no JSON, all fails with it, and it is ended."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    call, _ = await stage.ask(fake, "ping", to="a")
    fake.write(b"Traceback (most recent call last):\n")
    await stage.outcome(call, Ended)
    await stage.lose("a")
    await fake.end()


@situation(seconds=6)
async def stdout_closed(stage: Stage) -> None:
    """A plugin that closes stdout and lives on is ended, and all fails that waits for it."""
    fake = await stage.begin()
    await stage.connect(fake, "a")
    if not stage.socket_pair:
        fake.at_end = fake.stay
    call, _ = await stage.ask(fake, "ping", to="a")
    fake.close_stdout()
    await fake.end_of_stdin()
    await stage.outcome(call, Ended, 10)
    await stage.lose("a")
    await fake.end()
