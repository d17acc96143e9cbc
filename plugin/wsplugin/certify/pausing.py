"""Situations of slow listeners: each holds back its own server, and nobody else."""

import time
from typing import Final

from wsplugin.certify.calling import has
from wsplugin.certify.fake import Fake, description
from wsplugin.certify.script import Closed, Done, Message, Refused
from wsplugin.certify.situation import situation
from wsplugin.certify.stage import Stage
from wsplugin.certify.watch import Broken, shown

SIZE: Final = 2**16
"""Bytes of a message: sixteen of them fill a queue of the default bound, 1 MiB."""
FULL: Final = 32
"""Messages of which a listener that has taken some while they came leaves more than the bound."""
AFTER: Final = 4
"""Messages that are under way when the pause is asked for."""
MUCH: Final = 2**24 // SIZE
"""Messages that a host may have taken and its listener not: 16 MiB."""


def large(number: int) -> str:
    """Return the text of a message that tells its number."""
    return f"{number:08d}" + "x" * (SIZE - 8)


async def hear(stage: Stage, name: str, numbers: range) -> None:
    """Check that these messages come, in order."""
    for number in numbers:
        message = await stage.event(name, Message)
        if message.text != large(number):
            raise Broken(f"on {name} message {number}", repr(message.text)[:20])


def flood(fake: Fake, id: str, numbers: range) -> None:
    """Write these messages."""
    for number in numbers:
        fake.lines(fake.text(id, large(number)))


@situation(seconds=4)
async def pause_when_full(stage: Stage) -> None:
    """A full queue pauses its server; what is under way is taken, half of it read on."""
    fake = await stage.begin()
    fake.automatic.clear()
    id = await stage.connect(fake, "a", delay=100)
    flood(fake, id, range(FULL))
    request = await fake.request("websocket-pause")
    has(request, id=id)
    # A plugin that has much to write answers behind it.
    flood(fake, id, range(FULL, FULL + AFTER))
    fake.answer(request)
    request = await fake.request("websocket-resume")
    heard = stage.waiting_events("a")
    has(request, id=id)
    # Eight messages are half of the bound; the listener may have told of some more meanwhile.
    if not FULL + AFTER - 12 <= heard < FULL + AFTER:
        raise Broken("the resume when half of the queue is told", f"it after {heard} messages")
    fake.answer(request)
    flood(fake, id, range(FULL + AFTER, FULL + AFTER + 2))
    await hear(stage, "a", range(FULL + AFTER + 2))
    fake.nothing_asked("once the queue is empty")


@situation(seconds=5)
async def flood_held_back(stage: Stage) -> None:
    """A flood for a slow listener waits in the server, not in the app."""
    fake = await stage.begin()
    fake.automatic.clear()
    id = await stage.connect(fake, "a", delay=50)
    most = sent = 0
    end = time.monotonic() + 4
    while time.monotonic() < end:
        if request := fake.next_at_once():
            has(request, id=id)
            if request.action != "websocket-pause":
                raise Broken("a pause for the flood", shown(request.line))
            fake.answer(request)
            fake.answer(await fake.request("websocket-resume"))
        flood(fake, id, range(sent, sent + 1))
        await fake.flushed()
        sent += 1
        most = max(most, sent - stage.waiting_events("a"))
    if most > MUCH:
        raise Broken(f"at most {MUCH} messages of 64 KiB ahead of the listener", str(most))
    fake.automatic = {"websocket-pause", "websocket-resume"}
    await hear(stage, "a", range(sent))


@situation(seconds=5)
async def pause_at_many_messages(stage: Stage) -> None:
    """1,024 messages are a full queue too, however short they are."""
    fake = await stage.begin()
    fake.automatic.clear()
    id = await stage.connect(fake, "a", delay=2)
    count = 2_000
    fake.lines(*(fake.text(id, str(number)) for number in range(count)))
    fake.answer(await fake.request("websocket-pause"))
    fake.answer(await fake.request("websocket-resume"))
    for number in range(count):
        await stage.event("a", Message, text=str(number))


@situation(seconds=3)
async def pause_unknown(stage: Stage) -> None:
    """A plugin that has no pause among its features is asked for none."""
    described = description()
    described["features"].remove("pause")
    described["actions"].remove("websocket-pause")
    described["actions"].remove("websocket-resume")
    fake = await stage.begin(described=described)
    fake.automatic.clear()
    id = await stage.connect(fake, "a", delay=70)
    flood(fake, id, range(FULL))
    await hear(stage, "a", range(FULL))
    await stage.works(fake, "a", id)


@situation(seconds=3)
async def pause_refused(stage: Stage) -> None:
    """A pause that comes too late and is refused loses nothing."""
    fake = await stage.begin()
    fake.automatic.clear()
    id = await stage.connect(fake, "a", delay=70)
    flood(fake, id, range(FULL))
    request = await fake.request("websocket-pause")
    fake.automatic = {"websocket-resume"}
    fake.close(id, 1000, "", "server")
    fake.refuse(request, "not-open", "the connection is closed")
    await hear(stage, "a", range(FULL))
    await stage.event("a", Closed, code=1000, cause="server")


@situation(seconds=3)
async def close_behind_a_queue(stage: Stage) -> None:
    """What waits for a slow listener when its connection closes is told first."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a", delay=70)
    flood(fake, id, range(FULL))
    fake.close(id, 4001, "bye", "server")
    await hear(stage, "a", range(FULL))
    await stage.event("a", Closed, code=4001, reason="bye", cause="server")


@situation(seconds=7)
async def slow_listener_alone(stage: Stage) -> None:
    """A slow listener holds up neither other connections nor calls on its own."""
    fake = await stage.begin()
    slow = await stage.connect(fake, "slow", delay=200)
    quick = await stage.connect(fake, "quick")
    flood(fake, slow, range(FULL))
    await stage.event("slow", Message, text=large(0))
    for _ in range(10):
        await stage.works(fake, "quick", quick)
        call, request = await stage.ask(fake, "ping", to="slow")
        fake.answer(request, {"rtt": 1.0})
        await stage.outcome(call, Done)
    # Three seconds, where a few milliseconds are enough.
    if (heard := 1 + stage.waiting_events("slow")) > FULL // 2:
        raise Broken("ten rounds on another connection meanwhile", f"{heard} slow messages first")
    await hear(stage, "slow", range(1, FULL))


@situation()
async def pause_by_the_app(stage: Stage) -> None:
    """The app's own pause and resume are passed on, and so is what refuses them."""
    fake = await stage.begin()
    fake.automatic.clear()
    id = await stage.connect(fake, "a")
    for name in ("pause", "resume"):
        call = stage.call(name, to="a")
        request = await fake.request(f"websocket-{name}")
        has(request, id=id)
        fake.answer(request)
        await stage.outcome(call, Done)
    call, request = await stage.ask(fake, "pause", to="a")
    fake.refuse(request, "shutting-down", "the plugin is ending")
    await stage.outcome(call, Refused)


@situation(seconds=4)
async def pause_of_the_app_wins(stage: Stage) -> None:
    """While the app has paused a connection, an empty queue does not resume it."""
    fake = await stage.begin()
    fake.automatic.clear()
    id = await stage.connect(fake, "a", delay=100)
    flood(fake, id, range(FULL))
    request = await fake.request("websocket-pause")
    call = stage.call("pause", to="a")
    # It may ask once more, or know that the plugin has been asked.
    fake.automatic = {"websocket-pause"}
    fake.answer(request)
    await stage.outcome(call, Done)
    await hear(stage, "a", range(FULL))
    call = stage.call("ping", to="a")
    # Not a resume.
    fake.answer(await fake.request("websocket-ping"), {"rtt": 1.0})
    await stage.outcome(call, Done)
    call, request = await stage.ask(fake, "resume", to="a")
    has(request, id=id)
    fake.answer(request)
    await stage.outcome(call, Done)
    await stage.works(fake, "a", id)
