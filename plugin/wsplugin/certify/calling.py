"""Situations of what the host asks for: each call as the line that the plugin takes."""

import base64
from typing import Any, Final

import msgspec

from wsplugin.certify.fake import Request
from wsplugin.certify.script import Closed, Done, Failed, Invalid, Message, Opened, Refused
from wsplugin.certify.situation import situation
from wsplugin.certify.stage import FIRST_START, Stage
from wsplugin.certify.watch import Broken, Unplayable, shown

BYTES: Final = bytes(range(256)) * 3 + b"\0"


def has(request: Request, **expected: Any) -> None:
    """Check some members of a payload; None stands for absent and null, which are the same."""
    for name, value in expected.items():
        if request.payload.get(name) != value:
            wanted = msgspec.json.encode(value).decode() if value is not None else "nothing"
            raise Broken(f"payload.{name} to be {wanted}", shown(request.line))


@situation()
async def id_first(stage: Stage) -> None:
    """The id is the first member of every line, so that one too long for the plugin has it."""
    fake = await stage.fake(FIRST_START)
    described = await stage.begin_with(fake)
    call, created = await stage.create(fake, "a", app="shop")
    id = fake.new_connection(created)
    fake.lines(fake.answer_to(created, {"id": id}), fake.opening(id))
    await stage.outcome(call, Done)
    await stage.event("a", Opened)
    calls = [stage.call("send", to="a", text="x"), stage.call("ping", to="a")]
    requests = [await fake.any_request() for _ in calls]
    for request in requests:
        fake.answer(request, {"rtt": 1} if request.action == "websocket-ping" else {})
    for call in calls:
        await stage.outcome(call, Done)
    for request in (described, created, *requests):
        if not request.line.replace(b" ", b"").startswith(b'{"id":'):
            raise Broken("the id first in the line", shown(request.line))
    ids = [request.id for request in (described, created, *requests)]
    if len({*ids}) != len(ids):
        raise Broken("an id of its own for every request", repr(ids))


@situation()
async def create_with_everything(stage: Stage) -> None:
    """App, host headers, the app's own headers, subprotocols and a time are passed on."""
    fake = await stage.begin()
    headers = {"Authorization": "Bearer Grüße", "X-Empty": ""}
    host_headers = {"Referer": "https://shop.example/", "Origin": "https://shop.example"}
    call, request = await stage.create(
        fake,
        "a",
        headers=headers,
        protocols=["chat.v2", "chat"],
        app="Laden 店",
        hostHeaders=host_headers,
        timeout=4321,
    )
    has(
        request,
        url="ws://127.0.0.1:9/a",
        headers=headers,
        protocols=["chat.v2", "chat"],
        timeout=4321,
    )
    for name, value in [("app", "Laden 店"), ("headers", host_headers)]:
        if request.envelope.get(name) != value:
            raise Broken(f"{name} in the envelope to be {value}", shown(request.line))
    id = fake.new_connection(request)
    fake.lines(fake.answer_to(request, {"id": id}), fake.opening(id, protocol="chat"))
    await stage.outcome(call, Done)
    await stage.event("a", Opened, protocol="chat")
    await stage.works(fake, "a", id)
    fake.close(id, 1000, "", "server")
    await stage.event("a", Closed, code=1000)


@situation()
async def create_with_nothing(stage: Stage) -> None:
    """A create that leaves all open says no more than its URL, and names no app."""
    fake = await stage.begin()
    call, request = await stage.create(fake, "a")
    for name in ("app", "headers"):
        if name in request.envelope and request.envelope[name] is not None:
            raise Broken(f"no {name} in the envelope", shown(request.line))
    has(request, url="ws://127.0.0.1:9/a", timeout=None)
    for name in ("headers", "protocols"):
        if request.payload.get(name):
            raise Broken(f"no payload.{name}", shown(request.line))
    fake.refuse(request, "forbidden", "plain ws:// is refused")
    await stage.outcome(call, Refused)


@situation()
async def create_refused(stage: Stage) -> None:
    """A create that the plugin refuses fails with its code and words, and the host goes on."""
    fake = await stage.begin()
    for code in ("limit-reached", "forbidden", "invalid-payload"):
        call, request = await stage.create(fake, "a")
        fake.refuse(request, code, f"because of {code}")
        outcome = await stage.outcome(call, Refused)
        if (outcome.code, outcome.message) != (code, f"because of {code}"):
            raise Broken(f"the refusal {code}, because of {code}", repr(outcome))
    id = await stage.connect(fake, "a")
    await stage.works(fake, "a", id)


@situation()
async def opening_fails(stage: Stage) -> None:
    """A connection that never opens has its error, with the response's status, and its close."""
    fake = await stage.begin()
    call, request = await stage.create(fake, "a")
    id = fake.new_connection(request)
    failure = {"code": "handshake-failed", "errMsg": "403 Forbidden", "status": 403}
    fake.lines(
        fake.answer_to(request, {"id": id}),
        fake.event(id, "error", **failure, headers={"server": "x"}),
        fake.event(id, "close", code=1006, reason="403 Forbidden", cause="failure"),
    )
    await stage.outcome(call, Done)
    await stage.event("a", Failed, code="handshake-failed", message="403 Forbidden", status=403)
    await stage.event("a", Closed, code=1006, reason="403 Forbidden", cause="failure")


@situation()
async def binary_both_ways(stage: Stage) -> None:
    """Bytes arrive as they were sent, in both directions, the empty message too."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    for data in (BYTES, b""):
        encoded = base64.b64encode(data).decode()
        call, request = await stage.ask(fake, "send", to="a", base64=encoded)
        sent = request.payload["data"]
        sent = base64.b64decode(sent) if request.payload["type"] == "base64" else bytes(sent)
        if sent != data:
            raise Broken(f"{len(data)} bytes as they were sent", shown(request.line))
        fake.lines(fake.answer_to(request), fake.binary(id, data))
        await stage.outcome(call, Done)
        await stage.event("a", Message, base64=data)


@situation()
async def text_as_it_is(stage: Stage) -> None:
    """Text arrives as it was sent, in both directions, whatever its characters."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    for text in ("Grüße 👋🏽", "\0\x01\x1f\x7f\u2028\ufeff\uffff\U0010ffff", '"\\/\r\n\t<>', ""):
        call, request = await stage.ask(fake, "send", to="a", text=text)
        has(request, type="text", data=text)
        fake.lines(fake.answer_to(request), fake.text(id, text))
        await stage.outcome(call, Done)
        await stage.event("a", Message, text=text)


@situation()
async def send_refused(stage: Stage) -> None:
    """A send that the plugin refuses fails alone."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(fake, "send", to="a", text="too much")
    fake.refuse(request, "buffer-full", "the buffer is full")
    if (outcome := await stage.outcome(call, Refused)).code != "buffer-full":
        raise Broken("the refusal buffer-full", repr(outcome))
    await stage.works(fake, "a", id)


@situation()
async def not_to_be_encoded(stage: Stage) -> None:
    """A text that cannot be sent, half a surrogate pair, fails alone and leaves nothing pending."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    fake.encodes = False
    fake.automatic.add("websocket-send")
    call = stage.next_id()
    stage.write_script(b'{"id":%d,"call":"send","to":"a","text":"half \\ud83d a pair"}' % call)
    outcome = await stage.outcome_or_end(call)
    if outcome is None:
        raise Unplayable("the demo's JSON carries no half of a surrogate pair")
    if isinstance(outcome, Done):
        raise Unplayable("the demo's JSON makes another text of it")
    if isinstance(outcome, Refused) and outcome.code != "invalid-json":
        raise Broken("the host's own refusal, or the plugin's invalid-json", repr(outcome))
    if not isinstance(outcome, Invalid | Refused):
        raise Broken("the host's own refusal, or the plugin's invalid-json", repr(outcome))
    fake.encodes = True
    fake.automatic.remove("websocket-send")
    await stage.works(fake, "a", id)


@situation()
async def close_plain(stage: Stage) -> None:
    """A close that says nothing is one with 1000, and its end comes with the event."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(fake, "close", to="a")
    if request.payload.get("code", 1000) not in (1000, None):
        raise Broken("payload.code to be 1000 or nothing", shown(request.line))
    has(request, id=id, timeout=None)
    if request.payload.get("reason"):
        raise Broken("no payload.reason", shown(request.line))
    fake.answer(request)
    await stage.outcome(call, Done)
    fake.lines(fake.text(id, "on the way"))
    fake.close(id, 1000, "", "host")
    await stage.event("a", Message, text="on the way")
    await stage.event("a", Closed, code=1000, reason="", cause="host")


@situation()
async def close_with_everything(stage: Stage) -> None:
    """Code, reason and time of a close are passed on."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(
        fake, "close", to="a", code=4321, reason="Schluß 👋", timeout=1500
    )
    has(request, id=id, code=4321, reason="Schluß 👋", timeout=1500)
    fake.answer(request)
    fake.close(id, 1006, "the server did not answer", "host")
    await stage.outcome(call, Done)
    await stage.event("a", Closed, code=1006, reason="the server did not answer", cause="host")


@situation()
async def close_at_once(stage: Stage) -> None:
    """A time of 0, which cuts the connection, is passed on and not taken for none."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(fake, "close", to="a", timeout=0)
    has(request, id=id, timeout=0)
    fake.answer(request)
    fake.close(id, 1006, "cut by the host", "host")
    await stage.outcome(call, Done)
    await stage.event("a", Closed, code=1006, cause="host")


@situation()
async def close_without_code(stage: Stage) -> None:
    """1005 asks for a Close frame without a code, and takes no reason."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(fake, "close", to="a", code=1005)
    has(request, id=id, code=1005)
    if request.payload.get("reason"):
        raise Broken("no payload.reason", shown(request.line))
    fake.answer(request)
    fake.close(id, 1005, "", "host")
    await stage.outcome(call, Done)
    await stage.event("a", Closed, code=1005, reason="", cause="host")


@situation()
async def ping(stage: Stage) -> None:
    """A ping asks with its time, and tells the round trip."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(fake, "ping", to="a", timeout=2345)
    has(request, id=id, timeout=2345)
    fake.answer(request, {"rtt": 12.5})
    outcome = await stage.outcome(call, Done)
    if outcome.rtt is msgspec.UNSET or abs(outcome.rtt - 12.5) > 0.01:
        raise Broken("an rtt of 12.5 ms", repr(outcome))


@situation()
async def ping_refused(stage: Stage) -> None:
    """A ping without a Pong fails before its connection does."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a")
    call, request = await stage.ask(fake, "ping", to="a")
    fake.refuse(request, "not-open", "no Pong has come")
    fake.lines(fake.event(id, "error", code="ping-timeout", errMsg="no Pong has come"))
    fake.close(id, 1006, "no Pong has come", "failure")
    if (outcome := await stage.outcome(call, Refused)).code != "not-open":
        raise Broken("the refusal not-open", repr(outcome))
    await stage.event("a", Failed, code="ping-timeout")
    await stage.event("a", Closed, code=1006, cause="failure")


@situation()
async def background(stage: Stage) -> None:
    """Background is for one app or for all, and completes when the plugin says so."""
    fake = await stage.begin()
    id = await stage.connect(fake, "a", app="shop")
    for app in ("shop", None):
        call = stage.call("background", **({"app": app} if app else {}))
        request = await fake.request("app-background")
        if request.envelope.get("app") != app:
            raise Broken(f"the app {app} in the envelope", shown(request.line))
        if app:
            fake.close(id, 1001, "application entered background", "background")
            await stage.event("a", Closed, code=1001, cause="background")
        if stage.has_outcome(call):
            raise Broken("no outcome before the answer", f"that of call {call}")
        fake.answer(request)
        await stage.outcome(call, Done)
