"""Situations of what comes from the plugin: how it is cut, and what nobody has asked for."""

import asyncio
import time
from typing import Final

import msgspec

from wsplugin.certify.script import Closed, Done, Failed, Message, Opened, Refused
from wsplugin.certify.situation import situation
from wsplugin.certify.stage import Stage
from wsplugin.certify.watch import Broken

MINUTE: Final = 60.0
WIDE: Final = "Grüße, 世界! 👋🏽"
"""Characters of one to four bytes."""


@situation()
async def events_with_the_answer(stage: Stage) -> None:
    """The answer of a create and a connection's whole life come in one read."""
    fake = await stage.begin()
    call, request = await stage.create(fake, "a")
    id = fake.new_connection(request)
    fake.lines(
        fake.answer_to(request, {"id": id}),
        fake.opening(id, headers={"upgrade": "websocket"}, protocol="chat", extensions="x; y=1"),
        fake.text(id, "one"),
        fake.text(id, ""),
        fake.event(id, "close", code=4000, reason="gone", cause="server"),
    )
    await stage.outcome(call, Done)
    await stage.event(
        "a", Opened, headers={"upgrade": "websocket"}, protocol="chat", extensions="x; y=1"
    )
    await stage.event("a", Message, text="one")
    await stage.event("a", Message, text="")
    await stage.event("a", Closed, code=4000, reason="gone", cause="server")


@situation()
async def split_characters(stage: Stage) -> None:
    """A line that comes in pieces, cut within characters, is put together."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    line = msgspec.json.encode(fake.text(id, WIDE)) + b"\n"
    start = 0
    for end in (*(i for i, byte in enumerate(line) if byte >= 0x80), len(line)):
        fake.write(line[start:end])
        # So that the host reads one piece before there is the next.
        fake.wait(0.01)
        start = end
    await stage.event("a", Message, text=WIDE)
    await stage.works(fake, "a", id)


@situation(busy=True)
async def long_line(stage: Stage) -> None:
    """A line of 64 MiB is read within a minute."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    text = "0123456789abcdef" * 2**22
    fake.lines(fake.text(id, text))
    message = await stage.event("a", Message, MINUTE)
    if message.text != text:
        raise Broken("the message of 64 MiB as it was sent", "another one")
    await stage.works(fake, "a", id)


@situation()
async def answer_twice(stage: Stage) -> None:
    """An answer that comes twice is taken once."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(fake, "send", to="a", text="x")
    fake.lines(fake.answer_to(request), fake.answer_to(request))
    await stage.outcome(call, Done)
    await stage.works(fake, "a", id)


@situation()
async def answer_to_nobody(stage: Stage) -> None:
    """Answers to what was never asked are ignored, whatever their id."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    error = {"code": "invalid-json", "errMsg": "the line is not JSON"}
    fake.lines(
        *({"id": other, "response": {}} for other in (987_654_321, -1, 2**62, "never", "")),
        {"id": 987_654_321, "error": error},
        {"id": None, "error": error},
    )
    await stage.works(fake, "a", id)


@situation()
async def answer_without_content(stage: Stage) -> None:
    """An answer with neither response nor error completes its call."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(fake, "ping", to="a")
    fake.lines({"id": request.id})
    await stage.any_outcome(call)
    await stage.works_or_is_lost(fake, "a", id)


@situation()
async def create_without_id(stage: Stage) -> None:
    """An answer to a create that names no connection completes its call as a failure."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.create(fake, "b")
    fake.answer(request, {})
    if isinstance(outcome := await stage.any_outcome(call), Done):
        raise Broken("a failure of the create that was answered without an id", repr(outcome))
    await stage.works_or_is_lost(fake, "a", id)


@situation()
async def event_without_content(stage: Stage) -> None:
    """A known event that lacks what it must have leaves no call without its outcome."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(fake, "ping", to="a")
    fake.lines(
        {"event": "websocket-event", "payload": {"id": id, "name": "close", "payload": None}},
        fake.answer_to(request, {"rtt": 1.0}),
    )
    await stage.any_outcome(call)
    # Whether the connection is closed now, or the plugin taken for broken, is the host's affair.
    stage.no_matter("a")
    stage.lost()


@situation(seconds=2)
async def late_answer(stage: Stage) -> None:
    """An answer that is long in coming holds up nothing else."""
    fake = await stage.begin()
    a, b = [await stage.connect(fake, name) for name in ("a", "b")]
    late, request = await stage.ask(fake, "ping", to="a")
    for number in range(20):
        fake.wait(0.05)
        fake.lines(fake.text(a, str(number)))
        await stage.event("a", Message, text=str(number))
        await stage.works(fake, "b", b)
    if stage.has_outcome(late):
        raise Broken("no outcome before the answer", repr(await stage.any_outcome(late)))
    fake.answer(request, {"rtt": 1000.5})
    await stage.outcome(late, Done)


@situation()
async def unknown_events(stage: Stage) -> None:
    """Events of later plugins are ignored: names of lines, names of a connection's events."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    fake.lines(
        {"event": "weather-event", "payload": {"id": id, "name": "message", "payload": {}}},
        {"event": "weather-event", "payload": ["rain", 1, None]},
        {"event": "weather-event"},
        fake.event(id, "half-open", why="because"),
        fake.event(id, "half-open"),
    )
    await stage.works(fake, "a", id)


@situation()
async def unknown_fields(stage: Stage) -> None:
    """Fields that a later plugin adds to answers and events are ignored."""
    fake = await stage.begin()
    more = {"mood": {"today": ["good"]}, "weather": None}
    call, request = await stage.create(fake, "a")
    id = fake.new_connection(request)

    def richer(line: dict[str, object]) -> dict[str, object]:
        """Add fields to a line, on every level."""
        for name in ("payload", "response", "error"):
            if isinstance(inner := line.get(name), dict):
                line = line | {name: richer(inner)}
        return more | line | {"zone": 1}

    fake.lines(
        richer(fake.answer_to(request, {"id": id})),
        richer(fake.opening(id)),
        richer(fake.text(id, "rich")),
    )
    await stage.outcome(call, Done)
    await stage.event("a", Opened)
    await stage.event("a", Message, text="rich")
    ping, request = await stage.ask(fake, "ping", to="a")
    error = {"code": "not-open", "errMsg": "the connection is closing"}
    fake.lines(richer({"id": request.id, "error": error}))
    await stage.outcome(ping, Refused)
    fake.lines(
        richer(fake.event(id, "error", code="network-error", errMsg="lost")),
        richer(fake.event(id, "close", code=1006, reason="lost", cause="failure")),
    )
    await stage.event("a", Failed, code="network-error", message="lost")
    await stage.event("a", Closed, code=1006, reason="lost", cause="failure")


@situation()
async def unknown_message_type(stage: Stage) -> None:
    """A message of a type that only later hosts know is ignored."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    fake.lines(
        fake.event(id, "message", type="hologram", data={"width": 3}),
        fake.event(id, "message", type="hologram"),
    )
    await stage.works(fake, "a", id)


@situation()
async def unknown_codes(stage: Stage) -> None:
    """An unknown code or cause is a failure of no special kind."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    ping, request = await stage.ask(fake, "ping", to="a")
    fake.refuse(request, "out-of-luck", "no luck today")
    outcome = await stage.outcome(ping, Refused)
    if outcome.message != "no luck today":
        raise Broken("the plugin's words for the refusal", repr(outcome.message))
    fake.lines(
        fake.event(id, "error", code="cosmic-ray", errMsg="a bit has flipped"),
        fake.event(id, "close", code=1006, reason="a bit has flipped", cause="fate"),
    )
    await stage.event("a", Failed, message="a bit has flipped")
    await stage.event("a", Closed, code=1006, reason="a bit has flipped")


@situation()
async def lines_of_no_kind(stage: Stage) -> None:
    """Lines without id and event, of a later plugin, are ignored."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    fake.lines(
        {},
        {"notice": "a new version is there"},
        {"payload": {"id": id, "name": "message", "payload": {"type": "text", "data": "no"}}},
        {"response": {"id": "ws-77"}},
    )
    await stage.works(fake, "a", id)


@situation()
async def events_of_nobody(stage: Stage) -> None:
    """Events of connections that are unknown, or have had their close, are ignored."""
    fake = await stage.begin()
    a = await stage.connect(fake, "a")
    b = await stage.connect(fake, "b")
    fake.close(a, 1000, "", "server")
    await stage.event("a", Closed, code=1000, reason="", cause="server")
    for id in (a, "ws-99", ""):
        fake.lines(
            fake.text(id, "nobody hears this"),
            fake.event(id, "close", code=1000, reason="", cause="server"),
        )
    await stage.works(fake, "b", b)


@situation(busy=True)
async def many_events(stage: Stage) -> None:
    """200,000 messages are told in order within a minute."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    count = 200_000
    for start in range(0, count, 1_000):
        fake.lines(*(fake.text(id, str(number)) for number in range(start, start + 1_000)))
        await fake.flushed(MINUTE)
    end = time.monotonic() + MINUTE
    for number in range(count):
        await stage.event("a", Message, end - time.monotonic(), text=str(number))
        if number % 1_000 == 0:
            await asyncio.sleep(0)  # other situations are timed meanwhile
    await stage.works(fake, "a", id)
