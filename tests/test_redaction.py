"""A recording holds what is known to be harmless in its place and of its type, and nothing else."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness import Plugin
from wsplugin.messages import ACTIONS
from wsplugin.recording.placeholders import difference, example
from wsplugin.recording.redaction import (
    event_or_answer_text,
    redacted_url,
    redacted_words,
    request_text,
)

S = "sw0rdf1sh"
MORE = {"<more>": ""}
HIDDEN = "<redacted>"

# What stands in a recording for each payload.
CREATE: list[tuple[Any, Any]] = [
    ({"url": "wss://a/b?c"}, {"url": "wss://a/b?<redacted>"}),
    ({"url": [S]}, MORE),
    ({"url": f"{S}://a/b"}, {"url": HIDDEN}),
    ({"headers": {}}, {"headers": {}}),
    ({"headers": {"Authorization": S}}, {"headers": {"Authorization": HIDDEN}}),
    ({"headers": {"AUTHORIZATION": S, S: "x"}}, {"headers": {"AUTHORIZATION": HIDDEN, **MORE}}),
    ({"headers": {"Cookie": [S]}}, {"headers": MORE}),
    ({"headers": {"Cookie": {"a": S}, "Origin": 1}}, {"headers": MORE}),
    ({"headers": [S]}, MORE),
    ({"headers": S}, {"headers": HIDDEN}),
    ({"protocols": ["a", "<b>"]}, {"protocols": ["a", "<=<b>>"]}),
    ({"protocols": {"Authorization": S}}, MORE),
    ({"protocols": ["a", {"b": S}]}, MORE),
    ({"protocols": [["a", S]]}, MORE),
    ({"protocols": S}, {"protocols": HIDDEN}),
    ({"timeout": 3_600_000}, {"timeout": 3_600_000}),
    ({"timeout": {"Authorization": S}}, MORE),
    ({"timeout": S}, {"timeout": HIDDEN}),
    # A number may be secret, too.
    ({"timeout": 4_111_111_111_111_111}, MORE),
    ({"timeout": 1.5}, MORE),
    ({"timeout": True}, MORE),
    ({"perMessageDeflate": False}, {"perMessageDeflate": False}),
    ({"perMessageDeflate": S}, {"perMessageDeflate": HIDDEN}),
    ({"perMessageDeflate": 0}, MORE),
    ({"binaryType": "base64"}, {"binaryType": "base64"}),
    ({"binaryType": S}, {"binaryType": HIDDEN}),
    ({"binaryType": [S]}, MORE),
    ({"Headers": {"a": S}}, MORE),
    ({S: 1}, MORE),
    (
        {"headers": None, "timeout": None, "url": None},
        {"url": None, "headers": None, "timeout": None},
    ),
    # Harmless elsewhere.
    ({"data": S, "reason": S, "id": S, "code": 1000}, MORE),
]
SEND: list[tuple[Any, Any]] = [
    (
        {"id": "ws-1", "type": "text", "data": "kept"},
        {"id": "ws-1", "type": "text", "data": "kept"},
    ),
    ({"data": [1, 2, 300]}, {"data": [1, 2, 300]}),
    ({"data": {"Authorization": S}}, MORE),
    ({"data": [1, S]}, MORE),
    ({"data": [[1, 2]]}, MORE),
    ({"id": {"Authorization": S}}, MORE),
    ({"id": 5}, MORE),
    ({"type": S}, {"type": HIDDEN}),
    ({"type": {"a": S}}, MORE),
    ({"reason": S, "url": S, "protocols": [S]}, MORE),
]
CLOSE: list[tuple[Any, Any]] = [
    (
        {"id": "ws-1", "code": 4999, "reason": "kept"},
        {"id": "ws-1", "code": 4999, "reason": "kept"},
    ),
    ({"code": S}, {"code": HIDDEN}),
    ({"code": 47110815}, MORE),
    ({"code": [S]}, MORE),
    ({"reason": [S]}, MORE),
    ({"reason": {"a": S}}, MORE),
    ({"data": S}, MORE),
]
PAYLOADS = [
    *(("websocket-create", *case) for case in CREATE),
    *(("websocket-send", *case) for case in SEND),
    *(("websocket-close", *case) for case in CLOSE),
    ("app-background", None, None),
    ("app-background", {}, {}),
    ("plugin-describe", {S: S}, MORE),
    *((action, [S], "<more>") for action in ACTIONS),
    *((action, S, HIDDEN) for action in ACTIONS),
]


@pytest.mark.parametrize(("action", "payload", "recorded"), PAYLOADS)
def test_payloads(action: str, payload: Any, recorded: Any) -> None:
    request = {"id": 1, "action": action, "payload": payload}
    text = request_text(msgspec.json.encode(request), redact_data=False)
    shown = {"id": 1, "action": action, "payload": recorded}
    if recorded == "<more>":
        shown = {"id": 1, "action": action, **MORE}
    assert msgspec.json.decode(text) == shown
    assert difference(shown, request) is None
    assert S not in text


@pytest.mark.parametrize(
    ("request_", "recorded"),
    [
        ({"action": S, "payload": {"url": S}}, {"action": HIDDEN, "payload": MORE}),
        ({"action": [S], "payload": {"data": S}}, {"payload": MORE, **MORE}),
        ({"payload": {"reason": S}}, {"payload": MORE}),
        ({"id": "<kept>"}, {"id": "<=<kept>>"}),
        (
            {"id": None, "action": None, "payload": None},
            {"id": None, "action": None, "payload": None},
        ),
        ({"id": 2**63 - 1}, {"id": 2**63 - 1}),
        ({"id": 2**63}, MORE),
        ({"id": {"a": S}}, MORE),
        ({"id": [S]}, MORE),
        ({"id": True}, MORE),
        ({"id": 1.5}, MORE),
        ({"id": 1, S: 1}, {"id": 1, **MORE}),
        (
            {"id": 1, "headers": {"Authorization": S}},
            {"id": 1, "headers": {"Authorization": HIDDEN}},
        ),
        ({"id": 1, "headers": {"Host": S, S: S}}, {"id": 1, "headers": {"Host": HIDDEN, **MORE}}),
        ({"id": 1, "app": "shop"}, {"id": 1, "app": "shop"}),
        ({"id": 1, "app": [S]}, {"id": 1, **MORE}),
        ({"id": 1, "token": S}, {"id": 1, **MORE}),
    ],
)
def test_envelopes(request_: Any, recorded: Any) -> None:
    text = request_text(msgspec.json.encode(request_), redact_data=False)
    assert msgspec.json.decode(text) == recorded
    assert difference(recorded, request_) is None
    assert S not in text


@pytest.mark.parametrize(
    "line",
    [
        *(b"S", b'"S"', b'["S"]', b"1", b"null", b'{"id":1,"action":"S"', b'{"S":1}x'),
        *(b'{"id":"S\\ud800"}', b'{"id":"S\xff"}', b'{"x":"S\xff"}', b'{"id":"S\x01"}'),
        *(b'{"x":' + b"[" * 100_000 + b'"S"' + b"]" * 100_000 + b"}", b"\xef\xbb\xbf{}S"),
    ],
    ids=range(13),
)
def test_lines_that_are_no_request(line: bytes) -> None:
    line = line.replace(b"S", S.encode())
    text = request_text(line, redact_data=False)
    assert text == f"<{len(line)} bytes that are no request>"


@pytest.mark.parametrize(
    ("line", "recorded"),
    [
        (b'{"payload":{"headers":{"a":"S"}},"payload":{}}', {"payload": {}}),
        (b'{"id":1,"id":{"a":"S"}}', MORE),
        (b'{"id":{"a":"S"},"id":1}', {"id": 1}),
        (b'{"\\u0069d":"S","id":1}', {"id": 1}),
        (b' { "id" : 1 , "x" : { "a" : "S" } } ', {"id": 1, **MORE}),
    ],
)
def test_of_members_given_twice_the_last_one_counts(line: bytes, recorded: Any) -> None:
    line = line.replace(b"S", S.encode())
    text = request_text(line, redact_data=False)
    assert msgspec.json.decode(text) == recorded
    assert difference(recorded, msgspec.json.decode(line)) is None


@pytest.mark.parametrize(
    ("words", "recorded"),
    [
        ("payload.url: the scheme must be ws or wss", None),
        ("payload.url: user information is not allowed: give credentials in a header", None),
        ("payload.data[3]: expected an integer 0 to 255", None),
        ("payload.timeout: Expected `int` <= 3600000", None),
        ("payload.protocols[0]: Expected `str`, got `object`", None),
        ('payload.headers["Authorization"]: this header cannot be set', None),
        ("payload.url: missing", None),
        ("payload: Expected `object`, got `array`", None),
        ("id: expected a 64-bit integer or a string", None),
        ("expected an object of id, action and payload", None),
        ("internal error, see the log", None),
        (f"action: there is no '{S}'", "action: <redacted>"),
        (f'action: there is no "{S}\'s"', "action: <redacted>"),
        (f"payload.type: Invalid value '{S}'", "payload.type: <redacted>"),
        (f"{S}: unknown field", HIDDEN),
        (f"payload.{S}: unknown field", HIDDEN),
        (f"payload.headers: {S}: unknown field", "payload.headers: <redacted>"),
        (f"payload: Object contains unknown field `{S}`", "payload: <redacted>"),
        (f'payload.headers["{S}"]: this header cannot be set', HIDDEN),
        (f'payload.headers["a\\"]: {S}"]: the name is not an HTTP token', HIDDEN),
    ],
)
def test_words_of_errors(words: str, recorded: str | None) -> None:
    assert redacted_words(words) == (recorded or words)
    assert difference(recorded or words, words) is None


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("wss://host", "wss://host"),
        ("wss://host:1/a/b", "wss://host:1/a/b"),
        ("wss://host/a@b", "wss://host/a@b"),
        ("WS://[::1]:80/", "WS://[::1]:80/"),
        ("wss://host/a?k=secret", "wss://host/a?<redacted>"),
        ("wss://host?k=secret@x", "wss://host?<redacted>"),
        ("wss://host/?a@secret", "wss://host/?<redacted>"),
        ("wss://host/#secret", "wss://host/#<redacted>"),
        ("wss://user:secret@host/", "wss://<redacted>@host/"),
        ("wss://us@er:secret@host/", "wss://<redacted>@host/"),
        # These are no URLs, or not what was meant.
        ("wss://user:secret?1@host/", "<redacted>"),
        ("wss://user:secret/1@host/", "<redacted>"),
        ("//user:secret@host/", "<redacted>"),
        ("secret", "<redacted>"),
        ("wss://<secret>/", "<redacted>"),
        ("wss:\\\\user:secret@host", "<redacted>"),
    ],
)
def test_urls(url: str, redacted: str) -> None:
    assert redacted_url(url) == redacted
    assert "secret" not in redacted
    assert difference(redacted, url) is None


@pytest.mark.parametrize(
    ("payload", "recorded"),
    [
        ({"type": "text", "data": "secret"}, {"type": "text", "data": "<redacted>"}),
        ({"type": "base64", "data": "secret=="}, {"type": "base64", "data": "<redacted>"}),
        ({"type": "arraybuffer", "data": [1, 2]}, {"type": "arraybuffer", "<more>": ""}),
    ],
)
def test_data_in(payload: Any, recorded: Any) -> None:
    line = msgspec.json.encode({"id": 1, "action": "websocket-send", "payload": payload})
    text = request_text(line, redact_data=True)
    assert msgspec.json.decode(text)["payload"] == recorded
    assert difference(msgspec.json.decode(text), msgspec.json.decode(line)) is None
    kept = request_text(line, redact_data=False)
    assert msgspec.json.decode(kept) == msgspec.json.decode(line)


@pytest.mark.parametrize(
    ("name", "payload", "played"),
    [
        ("message", {"type": "text", "data": "secret"}, {"type": "text", "data": "redacted"}),
        ("message", {"type": "arraybuffer", "data": [7]}, {"type": "arraybuffer", "data": [0]}),
        (
            "open",
            {"headers": {"set-cookie": "secret", "upgrade": "websocket"}},
            {"headers": {"set-cookie": "redacted", "upgrade": "websocket"}},
        ),
        (
            "error",
            {"errMsg": "<b>", "code": "x", "status": 302, "headers": {"location": "secret"}},
            {"errMsg": "<b>", "code": "x", "status": 302, "headers": {"location": "redacted"}},
        ),
    ],
)
def test_events(name: str, payload: Any, played: Any) -> None:
    event = {"id": "ws-1", "name": name, "payload": payload}
    line = msgspec.json.encode({"event": "websocket-event", "payload": event})
    text = event_or_answer_text(line, redact_data=True)
    assert "secret" not in text
    assert example(msgspec.json.decode(text))["payload"]["payload"] == played


# --- a secret anywhere ----------------------------------------------------------------------------

REQUESTS: list[Any] = [
    {
        "id": 1,
        "action": "websocket-create",
        "payload": {
            "url": "ws://127.0.0.1:1/",
            "headers": {"Authorization": "x", "X-Own": "y"},
            "protocols": ["a", "b"],
            "timeout": 1000,
            "perMessageDeflate": True,
            "binaryType": "base64",
        },
    },
    {"id": "x", "action": "websocket-send", "payload": {"id": "ws-1", "type": "text", "data": "x"}},
    {"action": "websocket-send", "payload": {"id": "ws-1", "type": "arraybuffer", "data": [1, 2]}},
    {"id": 2, "action": "websocket-close", "payload": {"id": "ws-1", "code": 1000, "reason": "x"}},
    {"id": 3, "action": "app-background", "payload": {}},
    {"id": 4, "action": "plugin-describe"},
]
URLS = [
    *(f"ws://127.0.0.1:1/?{S}", f"ws://127.0.0.1:1/#{S}", f"ws://{S}@127.0.0.1:1/", f"{S}://h/"),
    *(f"ws://a:{S}@127.0.0.1:1/", f"ws://127.0.0.1:{S}/", f"ws://127.0.0.1:1/ ?{S}", f"//{S}:b@h"),
    *(f"ws://127.0.0.1:1\\@{S}@h/", f"ws:{S}", f"ws://127.0.0.1:1/?a#{S}", f"?{S}", f"ws://h?{S}/"),
]
NAMES = st.sampled_from(("id", "url", "headers", "data", "reason", "code", "token", "payload", S))
# Values with the secret somewhere in them.
HIDING = st.recursive(
    st.just(S),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=2)
        | st.dictionaries(NAMES, inner, min_size=1, max_size=2)
        | st.just({S: 1})
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in a JSON value, itself included."""
    yield path
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[name], (*path, name))


def stands_where_all_is_kept(request: Any) -> bool:
    """Tell whether the secret is a message, a reason, a subprotocol or an id."""
    match request:
        case {"id": str(id)} if id == S:
            return True
        case {"action": "websocket-create", "payload": {"protocols": list(protocols)}}:
            return S in protocols
        case {"action": "websocket-send", "payload": dict(payload)}:
            return S in (payload.get("id"), payload.get("data"))
        case {"action": "websocket-close", "payload": dict(payload)}:
            return S in (payload.get("id"), payload.get("reason"))
    return False


@st.composite
def lines_with_secrets(draw: st.DrawFn) -> bytes:
    """Make a request and plant the secret in it, where it should be recorded as it is not."""
    request = json.loads(json.dumps(draw(st.sampled_from(REQUESTS))))
    *above, last = draw(st.sampled_from(list(places(request))[1:]))
    parent: Any = request
    for name in above:
        parent = parent[name]
    how = draw(st.sampled_from(("value", "member", "name", "url", "all")))
    if how == "member" and isinstance(parent[last], dict):
        parent[last][draw(NAMES)] = draw(HIDING)
    elif how == "name" and isinstance(parent, dict):
        parent[S] = parent.pop(last)
    elif how == "url" and "url" in request.get("payload", ()):
        request["payload"]["url"] = draw(st.sampled_from(URLS))
    elif how == "all":
        request = draw(HIDING)
    else:
        parent[last] = draw(HIDING)
    assume(not stands_where_all_is_kept(request))
    line = json.dumps(request).encode()
    if draw(st.integers(0, 4)):
        return line
    # Or in what is no JSON, so that nothing stands in its place.
    at = draw(st.integers(0, len(line)))
    wrong = draw(st.sampled_from((b"\xff", b"\\ud800", b"}", b"\0", S.encode())))
    rest = line[at:] if draw(st.booleans()) else b""
    try:
        json.loads(line[:at] + wrong + rest)
    except ValueError:
        return line[:at] + wrong + rest
    return line


@settings(max_examples=400, deadline=None)
@given(lines_with_secrets(), st.booleans())
def test_a_secret_anywhere_in_a_line_is_not_recorded(line: bytes, redact_data: bool) -> None:
    text = request_text(line, redact_data=redact_data)
    assert S not in text
    with contextlib.suppress(ValueError):
        request = json.loads(line)
        # A host that says the same again finds that the recording matches.
        if isinstance(request, dict) and "bytes that are no request" not in text:
            assert difference(json.loads(text), request) is None


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plugin, Path]]:
    """A plugin that records and logs all that it can."""
    file = tmp_path_factory.mktemp("recording") / "recording.txt"
    with Plugin("--record", str(file), "--log-level", "debug", "--max-line", "2000") as plugin:
        yield plugin, file
        plugin.finish()
    assert S not in file.read_text(encoding="utf-8")
    assert S.encode() not in plugin.stderr
    assert b" DEBUG wsplugin" in plugin.stderr


@settings(max_examples=200, deadline=None)
@given(line=lines_with_secrets(), much=st.booleans())
def test_nor_does_it_come_into_the_log_or_into_what_is_recorded_of_the_answer(
    line: bytes, much: bool, recorded: tuple[Plugin, Path]
) -> None:
    plugin, file = recorded
    if much:
        line = line.ljust(2001)  # more than --max-line
    plugin.write(line + b"\n")
    plugin.send({"id": "end", "action": "plugin-describe"})
    while plugin.read().get("id") != "end":
        pass
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 10_000))
        assert S.encode() not in stream.read()
