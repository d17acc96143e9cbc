"""Situations of what comes from the plugin: how it is cut, and what nobody has asked for."""

from typing import Final

import msgspec

from wsplugin.certify.script import Closed, Done, Message, Opened
from wsplugin.certify.situation import situation
from wsplugin.certify.stage import Stage
from wsplugin.certify.watch import Broken

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


@situation(seconds=8)
async def long_line(stage: Stage) -> None:
    """A line of 64 MiB is read, in time that grows with its length."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    text = "0123456789abcdef" * 2**22
    fake.lines(fake.text(id, text))
    message = await stage.event("a", Message, 60)
    if message.text != text:
        raise Broken("the message of 64 MiB as it was sent", "another one")
    await stage.works(fake, "a", id)


@situation()
async def answer_twice(stage: Stage) -> None:
    """An answer that comes twice is taken once."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call = stage.call("send", to="a", text="x")
    request = await fake.request("websocket-send")
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
