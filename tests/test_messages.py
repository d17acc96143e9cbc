"""Every line in, and what it is answered with: tables of wrong lines, and the encoders.

The tables run through one plugin process: each row is followed by a good line, which must work.
"""

import base64
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from harness import PLUGIN, Plugin
from systems import posix_only
from wsplugin import encoding, messages, requests
from wsplugin.decoding import decode_bytes, decode_request
from wsplugin.encoding import MessageEncoder
from wsplugin.messages import SLICE, BinaryType, RequestError

# How long an example takes depends on who else uses the machine.
settings.register_profile("wsplugin", deadline=None)
settings.load_profile("wsplugin")

URL = "ws://127.0.0.1:1/"


@pytest.fixture(scope="module", name="plugin")
def _plugin() -> Iterator[Plugin]:
    with Plugin() as plugin:
        yield plugin
        _, status = plugin.finish()
        assert status == 0
        assert plugin.stderr == b""


def answers(plugin: Plugin, line: bytes) -> list[Any]:
    """Write one line; return all that comes out before the answer to the next line."""
    plugin.write(line + b'\n{"id":"next","action":"plugin-describe"}\n')
    lines = []
    while (answer := plugin.read()).get("id") != "next":
        lines.append(answer)
    assert "response" in answer
    return lines


def failure(plugin: Plugin, line: bytes) -> tuple[str, Any, str]:
    """Write one line, which must fail; return code, id and errMsg."""
    (answer,) = answers(plugin, line)
    assert answer.keys() == {"id", "error"}
    assert answer["error"].keys() == {"code", "errMsg"}
    return answer["error"]["code"], answer["id"], answer["error"]["errMsg"]


# Lines longer than SLICE are decoded in a way of their own.
LENGTHS = pytest.mark.parametrize("blanks", [b"", b" " * SLICE], ids=["short", "long"])


def request(action: Any, payload: Any, blanks: bytes = b"") -> bytes:
    return blanks + json.dumps({"id": 7, "action": action, "payload": payload}).encode()


# --- payloads: what each field refuses, and the path by which it is named -----------------------

NO_STRING: tuple[Any, ...] = (None, 1, 1.5, True, [], {})
NO_OBJECT: tuple[Any, ...] = (None, 1, "x", True, [])
NO_LIST: tuple[Any, ...] = (None, 1, "x", True, {})
NO_INT: tuple[Any, ...] = (None, "1", 1.5, 1000.0, True, [], {})
# What is optional may be null.
GIVEN_STRING, GIVEN_OBJECT, GIVEN_LIST, GIVEN_INT = (
    values[1:] for values in (NO_STRING, NO_OBJECT, NO_LIST, NO_INT)
)
WRONG_NUMBERS: tuple[Any, ...] = (
    -1, 256, 10**9, 2**64, 10**400, 1.5, 2.0, None, True, "1", "", [], {}, [1],
)  # fmt: skip
CREATE: dict[str, Any] = {"url": URL}
TEXT: dict[str, Any] = {"id": "ws-1", "type": "text", "data": "x"}
NUMBERS: dict[str, Any] = {"id": "ws-1", "type": "arraybuffer", "data": [1]}
BASE64: dict[str, Any] = {"id": "ws-1", "type": "base64", "data": "aGk="}
CLOSE: dict[str, Any] = {"id": "ws-1"}

WRONG_VALUES: list[tuple[str, dict[str, Any], str, tuple[Any, ...], str]] = [
    # action, payload that is right otherwise, field, wrong values of it, path in errMsg
    ("websocket-create", CREATE, "url", NO_STRING, "payload.url"),
    ("websocket-create", CREATE, "headers", GIVEN_OBJECT, "payload.headers"),
    (
        "websocket-create",
        CREATE,
        "headers",
        ({"A": None}, {"A": 1}, {"A": ["x"]}, {"A": {}}, {"B": "x", "A": True}),
        'payload.headers["A"]',
    ),
    ("websocket-create", CREATE, "headers", ({"Referer": "x"},), 'payload.headers["Referer"]'),
    ("websocket-create", CREATE, "headers", ({'a"b': "x"},), 'payload.headers["a\\"b"]'),
    ("websocket-create", CREATE, "headers", ({'a"b': 1},), 'payload.headers["a\\"b"]'),
    ("websocket-create", CREATE, "protocols", GIVEN_LIST, "payload.protocols"),
    (
        "websocket-create",
        CREATE,
        "protocols",
        (["a", None], ["a", 1], ["a", ["b"]], ["a", ""], ["a", "b c"], ["a", "a"]),
        "payload.protocols[1]",
    ),
    ("websocket-create", CREATE, "timeout", GIVEN_INT, "payload.timeout"),
    (
        "websocket-create",
        CREATE,
        "timeout",
        (0, -1, 3_600_001, 2**31, 2**63, 2**64, -(2**64), 10**400),
        "payload.timeout",
    ),
    (
        "websocket-create",
        CREATE,
        "perMessageDeflate",
        (0, 1, "true", [], {}),
        "payload.perMessageDeflate",
    ),
    (
        "websocket-create",
        CREATE,
        "binaryType",
        (1, True, "", "blob", "Base64", "text", [], {}, " - at `$.action`"),
        "payload.binaryType",
    ),
    ("websocket-send", TEXT, "id", NO_STRING, "payload.id"),
    (
        "websocket-send",
        TEXT,
        "type",
        (None, 1, True, "", "blob", "Text", [], {}, "x - at `$.id`"),
        "payload.type",
    ),
    ("websocket-send", TEXT, "data", NO_STRING, "payload.data"),
    ("websocket-send", NUMBERS, "id", NO_STRING, "payload.id"),
    ("websocket-send", NUMBERS, "data", NO_LIST, "payload.data"),
    (
        "websocket-send",
        NUMBERS,
        "data",
        tuple([0, 255, value] for value in WRONG_NUMBERS),
        "payload.data[2]",
    ),
    ("websocket-send", BASE64, "id", NO_STRING, "payload.id"),
    ("websocket-send", BASE64, "data", (None, 1, True, [1], {}), "payload.data"),
    (
        "websocket-send",
        BASE64,
        "data",
        # Standard base64 (RFC 4648 section 4) alone: padded, no other alphabet, no line ends.
        ("aGk", "aGk==", "a", "=", "====", "aG k=", "aGk=\n", "a-_=", "aGk=aGk=", "é+++", "aGk=\0"),
        "payload.data",
    ),
    ("websocket-close", CLOSE, "id", NO_STRING, "payload.id"),
    ("websocket-close", CLOSE, "code", GIVEN_INT, "payload.code"),
    (
        "websocket-close",
        CLOSE,
        "code",
        (0, -1000, 999, 1004, 1006, 1015, 1016, 2999, 5000, 65536 + 1000, 2**64 + 1000),
        "payload.code",
    ),
    ("websocket-close", CLOSE, "reason", GIVEN_STRING, "payload.reason"),
    ("websocket-close", {**CLOSE, "code": 1005}, "reason", ("x",), "payload.reason"),
    ("websocket-close", CLOSE, "timeout", GIVEN_INT, "payload.timeout"),
    ("websocket-close", CLOSE, "timeout", (-1, 3_600_001, 2**64), "payload.timeout"),
    ("websocket-create", CREATE, "tcpNoDelay", (0, 1, "true", [], {}), "payload.tcpNoDelay"),
    ("websocket-ping", CLOSE, "id", NO_STRING, "payload.id"),
    ("websocket-ping", CLOSE, "timeout", GIVEN_INT, "payload.timeout"),
    ("websocket-ping", CLOSE, "timeout", (0, -1, 3_600_001, 2**64), "payload.timeout"),
    ("websocket-pause", CLOSE, "id", NO_STRING, "payload.id"),
    ("websocket-resume", CLOSE, "id", NO_STRING, "payload.id"),
    ("websocket-close", CLOSE, "reason", ("x" * 124, "é" * 62, "😀" * 31), "payload.reason"),
]


@pytest.mark.parametrize(
    ("action", "payload", "wrong", "path"),
    [
        pytest.param(action, {**payload, field: value}, value, path, id=f"{path}={value!r:.40}")
        for action, payload, field, values, path in WRONG_VALUES
        for value in values
    ],
)
@LENGTHS
def test_wrong_value(
    plugin: Plugin, action: str, payload: dict[str, Any], wrong: Any, path: str, blanks: bytes
) -> None:
    code, id, message = failure(plugin, request(action, payload, blanks))
    assert (code, id) == ("invalid-payload", 7)
    assert message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("action", "payload", "field"),
    [
        (action, payload, field)
        for action, payload in [
            ("websocket-create", CREATE),
            ("websocket-send", TEXT),
            ("websocket-send", NUMBERS),
            ("websocket-send", BASE64),
            ("websocket-close", CLOSE),
        ]
        for field in payload
    ],
)
@LENGTHS
def test_missing_field(
    plugin: Plugin, action: str, payload: dict[str, Any], field: str, blanks: bytes
) -> None:
    rest = {name: value for name, value in payload.items() if name != field}
    assert failure(plugin, request(action, rest, blanks)) == (
        "invalid-payload",
        7,
        f"payload.{field}: missing",
    )


STRANGE_NAMES = (
    "extra", "Url", "URL", " url", "per_message_deflate", "", "id.x", "a b", "a`b", "a\nb", "a\0b",
    "é", "x - at `$.id`", "x` - at `$", "[0]", "payload", "action", "__proto__",
)  # fmt: skip


@pytest.mark.parametrize("name", STRANGE_NAMES)
@pytest.mark.parametrize(
    ("action", "payload"),
    [
        ("websocket-create", CREATE),
        ("websocket-send", TEXT),
        ("websocket-send", NUMBERS),
        ("websocket-send", BASE64),
        ("websocket-close", CLOSE),
        ("app-background", {}),
        ("plugin-describe", {}),
    ],
)
@LENGTHS
def test_unknown_field_of_a_payload(
    plugin: Plugin, action: str, payload: dict[str, Any], name: str, blanks: bytes
) -> None:
    code, id, message = failure(plugin, request(action, {**payload, name: 1}, blanks))
    assert (code, id) == ("invalid-payload", 7)
    assert message == f"payload.{name}: unknown field"


@pytest.mark.parametrize(
    "name", [*sorted(set(STRANGE_NAMES) - {"", "payload", "action"}), "Id", "payload,"]
)
def test_unknown_field_of_the_envelope(plugin: Plugin, name: str) -> None:
    line = json.dumps({"id": 7, "action": "plugin-describe", name: 1}).encode()
    code, id, message = failure(plugin, line)
    assert (code, id) == ("invalid-request", 7)
    assert message == f"{name}: unknown field"


@pytest.mark.parametrize("action", ["websocket-create", "websocket-send", "websocket-close"])
@pytest.mark.parametrize("payload", NO_OBJECT)
def test_payload_that_is_none(plugin: Plugin, action: str, payload: Any) -> None:
    code, id, message = failure(plugin, request(action, payload))
    assert (code, id) == ("invalid-payload", 7)
    assert message.startswith("payload: ")


@pytest.mark.parametrize("action", ["websocket-create", "websocket-send", "websocket-close"])
def test_missing_payload(plugin: Plugin, action: str) -> None:
    line = json.dumps({"id": 7, "action": action}).encode()
    assert failure(plugin, line) == ("invalid-payload", 7, "payload: missing")


@pytest.mark.parametrize("action", ["app-background", "plugin-describe"])
@pytest.mark.parametrize("payload", [1, "x", True, []])
def test_payload_that_is_no_object_where_none_is_needed(
    plugin: Plugin, action: str, payload: Any
) -> None:
    code, id, message = failure(plugin, request(action, payload))
    assert (code, id) == ("invalid-payload", 7)
    assert message.startswith("payload: ")


@pytest.mark.parametrize("action", ["app-background", "plugin-describe"])
@pytest.mark.parametrize("payload", ["", ',"payload":null', ',"payload":{}'])
def test_payload_absent_null_or_empty(plugin: Plugin, action: str, payload: str) -> None:
    (answer,) = answers(plugin, f'{{"id":7,"action":"{action}"{payload}}}'.encode())
    assert answer["id"] == 7
    assert "response" in answer


# --- bounds: beyond them nothing is made of what there is too much of ---------------------------

BOUNDS: list[tuple[str, Any, int]] = [
    # field, what makes a value of so many, how many there may be
    ("url", lambda n: "ws://h/" + "x" * (n - 7), 8192),
    ("url", lambda n: "ws://h/" + "é" * (n - 7), 8192),
    ("url", lambda n: f"ws://{('a' * 49 + '.') * 5}{'a' * (n - 250)}/", 253),
    ("url", lambda n: f"ws://{('a' * 49 + '.') * 5}{'a' * (n - 250)}.:80/", 253),
    ("headers", lambda n: {f"X-{i}": "" for i in range(n)}, 256),
    ("headers", lambda n: {f"X-{i}": "x" * 1000 for i in range(n)}, 256),
    ("protocols", lambda n: [f"v{i}" for i in range(n)], 64),
]


@pytest.mark.parametrize(("field", "make", "limit"), BOUNDS)
@LENGTHS
def test_bounds_of_a_create(
    plugin: Plugin, field: str, make: Callable[[int], Any], limit: int, blanks: bytes
) -> None:
    for size, code in ((limit, "forbidden"), (limit + 1, "invalid-payload")):
        payload = {"url": "ws://h.example/", field: make(size)}
        found = failure(plugin, request("websocket-create", payload, blanks))
        assert found[:2] == (code, 7)
        assert code == "forbidden" or found[2].startswith(f"payload.{field}: ")


@LENGTHS
def test_the_wrong_one_of_as_many_as_there_may_be_is_named(plugin: Plugin, blanks: bytes) -> None:
    headers: dict[str, Any] = {f"X-{i}": "" for i in range(255)}
    protocols: list[Any] = [f"v{i}" for i in range(63)]
    for field, value, path in [
        ("headers", {**headers, "Y": 1}, 'payload.headers["Y"]'),
        ("headers", {**headers, "x-1": ""}, 'payload.headers["x-1"]'),
        ("protocols", [*protocols, 1], "payload.protocols[63]"),
        ("protocols", [*protocols, "v1"], "payload.protocols[63]"),
    ]:
        payload = {"url": "wss://h/", field: value}
        code, id, message = failure(plugin, request("websocket-create", payload, blanks))
        assert (code, id) == ("invalid-payload", 7)
        assert message.startswith(f"{path}: ")


# --- a send, finished ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3, 3 * SLICE + 1])
@pytest.mark.parametrize("id", [7, "é", None])
@LENGTHS
def test_decoded_send_is_ready_to_go_down(size: int, id: Any, blanks: bytes) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    text = ("aé€😀\n\0" * (size // 6 + 1))[:size]
    kinds: list[tuple[str, Any, int, bytes]] = [
        ("text", text, messages.TEXT, text.encode()),
        ("arraybuffer", list(data), messages.BINARY, data),
        ("base64", base64.b64encode(data).decode(), messages.BINARY, data),
    ]
    for kind, value, opcode, message in kinds:
        payload = {"id": "ws-1", "type": kind, "data": value}
        envelope = {"id": id, "action": "websocket-send", "payload": payload}
        for ascii in (True, False):
            line = json.dumps(envelope, ensure_ascii=ascii).encode()
            decoded = decode_request(blanks + line)
            assert decoded == requests.OutgoingMessage(id, UNSET, "ws-1", opcode, message)
            assert decode_request(bytearray(line)) == decoded


# --- envelope -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    ["", "x", "websocket-open", "Websocket-Create", "websocket-create ", "x - at `$.payload`", "é"],
)
@pytest.mark.parametrize("payload", [None, {}, 5, {"url": 1}])
def test_unknown_action(plugin: Plugin, action: str, payload: Any) -> None:
    code, id, message = failure(plugin, request(action, payload))
    assert (code, id) == ("unknown-action", 7)
    assert message.startswith("action: ")


@pytest.mark.parametrize("action", [None, 1, 1.5, True, [], {}])
def test_action_of_a_wrong_type(plugin: Plugin, action: Any) -> None:
    code, id, message = failure(plugin, request(action, None))
    assert (code, id) == ("invalid-request", 7)
    assert message.startswith("action: ")


def test_missing_action(plugin: Plugin) -> None:
    assert failure(plugin, b'{"id":7}') == ("invalid-request", 7, "action: missing")


@pytest.mark.parametrize("line", [b"[]", b"{}", b"1", b"-0.5e3", b'"x"', b"null", b"true", b"[{}]"])
def test_json_that_is_no_request(plugin: Plugin, line: bytes) -> None:
    code, id, _ = failure(plugin, line)
    assert (code, id) == ("invalid-request", None)


@pytest.mark.parametrize(
    "id",
    [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), "", "1", "a" * 1000, 'é😀\0\n"\\', "\ufeff", "null"],
)
@pytest.mark.parametrize("action", ["plugin-describe", "nope"])
@pytest.mark.parametrize("ascii", [True, False])
def test_id_is_echoed(plugin: Plugin, id: Any, action: str, ascii: bool) -> None:
    line = json.dumps({"id": id, "action": action}, ensure_ascii=ascii)
    (answer,) = answers(plugin, line.encode())
    assert type(answer["id"]) is type(id)
    assert answer["id"] == id


@pytest.mark.parametrize(
    "id",
    [
        *("true", "false", "1.5", "1.0", "1e2", "-0.0", "[]", "{}", "[1]", '{"id":1}'),
        *(str(2**63), str(-(2**63) - 1), "9" * 30, "9" * 5000, "1e999", "-1e999"),
    ],
)
def test_id_of_a_wrong_form(plugin: Plugin, id: str) -> None:
    line = f'{{"id":{id},"action":"plugin-describe"}}'.encode()
    code, echoed, message = failure(plugin, line)
    assert (code, echoed) == ("invalid-request", None)
    assert message.startswith("id: ")


@pytest.mark.parametrize("id", ["", '"id":null,'])
def test_request_without_id(plugin: Plugin, id: str) -> None:
    assert answers(plugin, f'{{{id}"action":"plugin-describe"}}'.encode()) == []
    assert answers(plugin, f'{{{id}"action":"app-background"}}'.encode()) == []
    assert failure(plugin, f'{{{id}"action":"nope"}}'.encode())[:2] == ("unknown-action", None)
    assert failure(plugin, f'{{{id}"action":"websocket-close"}}'.encode())[1] is None


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ('"action":"nope"', "unknown-action"),
        ('"action":"websocket-create"', "invalid-payload"),
        ('"action":"plugin-describe","x":1', "invalid-request"),
        ('"action":"plugin-describe","x":"\\ud800"', "invalid-json"),
        ('"action":"websocket-create","payload":{"url":"http://x"}', "invalid-payload"),
        ('"action":"websocket-create","payload":{"url":"ws://example.com"}', "forbidden"),
        (
            '"action":"websocket-send","payload":{"id":"ws-1","type":"arraybuffer","data":[256]}',
            "invalid-payload",
        ),
        ('"action":"websocket-close","payload":{"id":"ws-9999"}', "unknown-id"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_id_is_echoed_whatever_else_is_wrong(
    plugin: Plugin, rest: str, code: str, last: bool
) -> None:
    line = f'{{{rest},"id":"é"}}' if last else f'{{"id":"é",{rest}}}'
    assert failure(plugin, line.encode())[:2] == (code, "é")


@pytest.mark.parametrize("id", ["ws-0", "ws-01", "ws-99", "ws--1", "ws-", "ws-1 ", "WS-1", "1", ""])
@pytest.mark.parametrize("action", ["websocket-send", "websocket-close"])
def test_unknown_id(plugin: Plugin, action: str, id: str) -> None:
    payload = {"id": id} if action == "websocket-close" else {**TEXT, "id": id}
    assert failure(plugin, request(action, payload))[:2] == ("unknown-id", 7)


@pytest.mark.parametrize(
    "id", ["ws-٣", "ws-" + "9" * 18, "ws-" + "9" * 19, "ws-" + "9" * 20, "ws-" + "9" * 5000]
)
def test_unknown_id_with_a_large_or_strange_number(plugin: Plugin, id: str) -> None:
    assert failure(plugin, request("websocket-close", {"id": id}))[:2] == ("unknown-id", 7)


# --- JSON ---------------------------------------------------------------------------------------

OK = b'{"id":7,"action":"plugin-describe"'

NOT_JSON = [
    *(b"x", b"{", b"}", b"[", b"]", b'"', b",", b"\\", b"\0", b"-", b"'x'", b"{]", b"//"),
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"nul",
        b"True",
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"1e",
        b"0x1",
    ),
    *(b"\xef\xbb\xbf" + OK + b"}", b"\x1e" + OK + b"}", b"\x00" + OK + b"}"),
    *(OK + b"}}", OK + b"} x", OK + b"}" + OK + b"}", OK + b"},", OK + b",}", OK, OK + b"]"),
    *(OK + b',"x":NaN}', OK + b',"x":01}', OK + b',"x":1e}', OK + b",'x':1}", OK + b",x:1}"),
    *(OK + b',"x":"a\tb"}', OK + b',"x":"a\0b"}', OK + b',"x":"\x1f"}', OK + b',"a\rb":1}'),
    *(OK + b',"x":"\\x41"}', OK + b',"x":"\\u12"}', OK + b',"x":"\\u12g4"}', OK + b',"x":"\\'),
    *(OK + b',"x":"\\ud800\\ud8"}', OK + b',"x":"\\ud800\\uD8zz"}', OK + b',"x":"\\ud800\\x"}'),
    *(OK + b',"x":"\\ud83d\\ude00",}', OK + b',"x":"\\ud800"', b'"\\ud800', OK + b"/**/}"),
    *(b"\xa0" + OK + b"}", OK + "}\u2028".encode(), OK + b"\x0b}", b"{" * 300, b'{"":' * 300),
]


@pytest.mark.parametrize("line", NOT_JSON)
def test_not_json(plugin: Plugin, line: bytes) -> None:
    assert failure(plugin, line)[:2] == ("invalid-json", None)


BAD_UTF8 = (
    b"\x80", b"\xff", b"\xc3", b"\xc0\xaf", b"\xe2\x82", b"\xed\xa0\x80", b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80",
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD_UTF8)
@pytest.mark.parametrize(
    "line",
    [
        b'{"id":7,"action":"%s"}',
        b'{"id":7,"action":"plugin-describe","payload":{"%s":1}}',
        b'{"id":7,"%s":1,"action":"plugin-describe"}',
        b'{"id":7,"action":"websocket-create","payload":{"url":"%s"}}',
        b'{"id":7,"action":"websocket-create","payload":{"url":"ws://x","headers":{"a":"%s"}}}',
        b'{"id":7,"action":"websocket-create","payload":{"url":"ws://x","headers":{"%s":"a"}}}',
        b'{"id":7,"action":"websocket-create","payload":{"url":"ws://x","protocols":["%s"]}}',
        b'{"id":7,"action":"websocket-send","payload":{"id":"ws-1","type":"%s","data":"x"}}',
        b'{"id":7,"action":"websocket-send","payload":{"id":"ws-1","type":"text","data":"%s"}}',
        b'{"id":7,"action":"websocket-send","payload":{"id":"a","type":"arraybuffer","data":["%s"]}}',
        b'{"id":7,"action":"websocket-send","payload":{"id":"ws-1","type":"base64","data":"%s"}}',
        b'{"id":7,"action":"websocket-close","payload":{"id":"ws-1","reason":"%s"}}',
    ],
)
def test_not_utf8(plugin: Plugin, line: bytes, bad: bytes) -> None:
    assert failure(plugin, line % bad)[:2] == ("invalid-json", 7)


@pytest.mark.parametrize(
    "line", [b'{"id":"\xff","action":"plugin-describe"}', b'"\xff"', b'["\xff"]', b'[{"\xff":1}]']
)
def test_not_utf8_and_no_id_to_be_read(plugin: Plugin, line: bytes) -> None:
    assert failure(plugin, line)[:2] == ("invalid-json", None)


@pytest.mark.parametrize("shift", range(5))
def test_not_utf8_wherever_it_is(plugin: Plugin, shift: int) -> None:
    """What is looked at in slices may have a character that is cut in two."""
    start = b'{"id":7,"x":"' + b"a" * shift
    text = "é€😀".encode() * SLICE
    assert failure(plugin, start + text + b'"}')[:2] == ("invalid-request", 7)
    for at in (SLICE, 2 * SLICE, len(text) // 9 * 9):
        for place in range(at - 8, at + 1):
            wrong = start + text[:place] + b"\xff" + text[place:] + b'"}'
            assert failure(plugin, wrong)[:2] == ("invalid-json", 7)


SURROGATES = (
    "\\ud800",
    "\\uDFFF",
    "\\ude00\\ud83d",
    "\\ud83d",
    "a\\ud83dx",
    "\\ud83d\\ud83d\\ude00",
)


@pytest.mark.parametrize("lone", SURROGATES)
@pytest.mark.parametrize(
    ("line", "id"),
    [
        ('{"id":7,"action":"%s"}', 7),
        ('{"action":"plugin-describe","x":"%s","id":"7"}', "7"),
        ('{"id":"%s","action":"plugin-describe"}', None),
        ('{"id":7,"%s":1}', 7),
        ('{"id":7,"x":[[{"%s":1}]]}', 7),
        ('{"id":7,"action":"websocket-create","payload":{"url":"%s"}}', 7),
        ('{"id":7,"action":"websocket-create","payload":{"url":"x","headers":{"%s":"x"}}}', 7),
        ('{"id":7,"action":"websocket-create","payload":{"url":"x","headers":{"x":"%s"}}}', 7),
        ('{"id":7,"action":"websocket-create","payload":{"url":"x","protocols":["%s"]}}', 7),
        ('{"id":7,"action":"websocket-send","payload":{"id":"%s","type":"text","data":""}}', 7),
        ('{"id":7,"action":"websocket-send","payload":{"id":"a","type":"text","data":"%s"}}', 7),
        (
            '{"id":7,"action":"websocket-send","payload":{"id":"","type":"arraybuffer","data":["%s"]}}',
            7,
        ),
        ('{"id":7,"action":"websocket-close","payload":{"id":"a","reason":"%s"}}', 7),
        ('{"id":7,"x":"%s","y":1e999,"z":[1,-0,1.5]}', 7),
        ('{"id":null,"x":"%s"}', None),
        ('{"id":true,"x":"%s"}', None),
        ('{"id":1.5,"x":"%s"}', None),
        ('{"id":1e2,"x":"%s"}', None),
        ('{"id":[1],"x":"%s"}', None),
        ('{"id":9223372036854775807,"x":"%s"}', 2**63 - 1),
        ('{"id":9223372036854775808,"x":"%s"}', None),
        ('{"id":-9223372036854775808,"x":"%s"}', -(2**63)),
        ('{"id":' + "9" * 5000 + ',"x":"%s"}', None),
        # An id that has surrogates of its own, and what only looks like some.
        ('{"id":"\\ud83d\\ude00","x":"%s"}', "😀"),
        ('{"x":"%s","id":"\\uD83D\\uDE00"}', "😀"),
        ('{"id":"\\\\ud800\\\\\\\\uDfff","x":"%s"}', "\\ud800\\\\uDfff"),
        ('{"id":"\\/\\ud7ff\\ue800\\uE000","x":"%s"}', "/\ud7ff\ue800\ue000"),
        ('{"id":"ud800/ud","x":"\\\\ud8zz%s"}', "ud800/ud"),
        ('{"\\u0069d":7,"\\ud83d\\ude00":"%s"}', 7),
        ('["%s"]', None),
        ('"%s"', None),
    ],
)
def test_lone_surrogate(plugin: Plugin, line: str, id: Any, lone: str) -> None:
    assert failure(plugin, (line % lone).encode())[:2] == ("invalid-json", id)


def test_surrogate_pairs_and_escaped_backslashes_are_text(plugin: Plugin) -> None:
    for id, text in [('"\\ud83d\\ude00"', "😀"), ('"\\\\ud800"', "\\ud800")]:
        (answer,) = answers(plugin, f'{{"id":{id},"action":"plugin-describe"}}'.encode())
        assert answer["id"] == text
        assert "response" in answer


NESTINGS = [
    # before, one level, innermost, end of the level, after
    (b"", b"[", b"", b"]", b""),
    (b"", b"[", b"", b"", b""),
    (b"", b'{"a":', b"1", b"}", b""),
    (b'{"id":7,"x":', b"[", b"", b"]", b"}"),
    (b'{"id":', b"[", b"", b"]", b"}"),
    (b'{"id":7,"action":', b'{"a":', b"1", b"}", b"}"),
    (b'{"id":7,"action":"plugin-describe","payload":', b'{"a":', b"1", b"}", b"}"),
    (b'{"id":7,"action":"websocket-create","payload":{"headers":{"A":', b"[", b"", b"]", b"}}}"),
    (
        b'{"id":7,"action":"websocket-send","payload":{"id":"","type":"arraybuffer","data":',
        b"[",
        b"",
        b"]",
        b"}}",
    ),
    (b'{"id":7,"y":"\\ud800","x":', b"[", b"", b"]", b"}"),
    (b'{"id":7,"y":"\xff","x":', b"[", b"", b"]", b"}"),
]


@pytest.mark.parametrize("depths", [range(2, 1500, 97), range(900, 1101), (10**4, 10**5, 10**6)])
@pytest.mark.parametrize("nesting", NESTINGS)
def test_deep_nesting(plugin: Plugin, nesting: tuple[bytes, ...], depths: tuple[int, ...]) -> None:
    before, opening, inner, closing, after = nesting
    usual: set[str] = set()
    for depth in depths:
        line = before + opening * depth + inner + closing * depth + after
        code, id, _ = failure(plugin, line)
        assert id in (None, 7)
        usual.add(code)
    # How deep is too deep is not laid down; whatever is not, fails for its own reason.
    assert len(usual) <= 2
    if len(usual) == 2 or min(depths) >= 10**4:
        assert "invalid-json" in usual


@pytest.mark.parametrize(
    ("line", "id"),
    [
        ('{"id":7,"x":%s}', 7),
        ('{"action":"x","id":"é","x":%s}', "é"),
        ('{"action":"x","x":%s,"id":7}', 7),
        ('{"action":"x","x":[%s,{"id":1}]}', None),
        ('[{"id":7,"x":%s}]', None),
        ('{"id":7,"x":"\\ud800","y":%s}', 7),
    ],
)
@pytest.mark.parametrize("inner", ['"]}"', '{"a":"\\\\"}'])
def test_id_of_a_line_that_is_nested_too_deep(
    plugin: Plugin, line: str, id: Any, inner: str
) -> None:
    deep = "[" * 20_000 + '{"id":5,"x":[' * 1000 + inner + "]}" * 1000 + "]" * 20_000
    code, found, _ = failure(plugin, (line % deep).encode())
    assert found == id
    # From 3.14 on what is too deep depends on the size of the stack.
    assert code == "invalid-json" or sys.version_info >= (3, 14)


@pytest.mark.parametrize(
    "line",
    [
        '{"id":7,"id":7,"action":"nope"}',
        '{"id":7,"action":"nope","action":1}',
        '{"id":7,"action":"websocket-create","payload":{"url":1,"url":"ws://x"}}',
        '{"id":7,"action":"websocket-create","payload":{"url":"x","headers":{"A":1,"A":"x"}}}',
        '{"id":7,"action":"websocket-create","payload":{"url":"x","headers":{"A":"x","A":1}}}',
        '{"id":7,"action":"websocket-create","payload":{"url":"x","headers":{"A":1},"headers":{}}}',
        '{"id":7,"action":"websocket-create","payload":{"url":"x","headers":{"A":1},"headers":5}}',
        '{"id":7,"action":"websocket-create","payload":{"url":"x","headers":{"A":1}},"payload":5}',
        '{"id":7,"action":"websocket-create","payload":{"url":"x","headers":{"A":1}},"payload":{}}',
        '{"id":7,"action":"websocket-create","payload":{"headers":{"A":1}},"payload":{"headers":[]}}',
        '{"id":7,"action":"websocket-create","payload":5,"payload":{"url":"x","headers":{"A":1}}}',
        '{"id":7,"action":"websocket-close","payload":{"id":"a","id":1}}',
    ],
)
def test_a_key_given_twice_is_one_error(plugin: Plugin, line: str) -> None:
    """Which of the two counts is not laid down; in none of these lines are both right."""
    assert failure(plugin, line.encode())[1] == 7


@pytest.mark.parametrize(
    "number", ["1e999", "-1e999", "1e-999", "9" * 100_000, "0." + "1" * 100_000]
)
@pytest.mark.parametrize("field", ["x", "action", "payload"])
def test_huge_numbers(plugin: Plugin, number: str, field: str) -> None:
    line = f'{{"id":7,"action":"plugin-describe","payload":null,"{field}":{number}}}'
    code, id, _ = failure(plugin, line.encode())
    # "action" is a duplicate here: either of the two may count.
    assert code in ("invalid-request", "invalid-payload")
    assert id == 7


@pytest.mark.parametrize("space", [" ", "\t", "\r", " \t\r " * 1000])
def test_white_space_between_tokens(plugin: Plugin, space: str) -> None:
    tokens = ["", "{", '"id"', ":", "7", ",", '"action"', ":", '"plugin-describe"', "}", ""]
    (answer,) = answers(plugin, space.join(tokens).encode())
    assert answer["id"] == 7
    assert "response" in answer


@pytest.mark.parametrize("line", [b"", b" ", b"\r", b"\t \r", b" " * 100_000])
def test_blank_lines_are_ignored(plugin: Plugin, line: bytes) -> None:
    assert answers(plugin, line) == []


@pytest.mark.parametrize("line", [b"\v", b"\f", b" \f ", b"\x00"])
def test_what_json_does_not_call_white_space(plugin: Plugin, line: bytes) -> None:
    (answer,) = answers(plugin, line)
    assert answer["error"]["code"] == "invalid-json"


# --- without a descriptor -----------------------------------------------------------------------

MISTAKES: list[tuple[bytes, str, Any]] = [
    (b'{"id":1,"action":"nope"}', "unknown-action", 1),
    (b"x", "invalid-json", None),
    (b'{"id":2,"action":"\\ud800"}', "invalid-json", 2),
    (b'{"id":3,"action":"\xff"}', "invalid-json", 3),
    (b'{"id":4,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid-json", 4),
    (b'{"action":"x","id":5,"payload":"' + b"x" * 300_000 + b'"}', "line-too-long", 5),
    (b'{"id":6,"x":1}', "invalid-request", 6),
    (request("websocket-create", {"url": URL, "headers": {"a": 1}}), "invalid-payload", 7),
    (request("websocket-create", {"url": URL}, b" " * SLICE)[:-2], "invalid-json", None),
    (request("websocket-send", NUMBERS | {"data": [256]}, b" " * SLICE), "invalid-payload", 7),
    (request("websocket-create", {"url": "ws://h.example/"}), "forbidden", 7),
]


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
@posix_only("limits of processes")
@pytest.mark.parametrize("limited", ["from the start", "later"])
def test_mistakes_are_explained_when_no_file_can_be_opened(limited: str) -> None:
    """What explains them is there before it is needed."""
    import resource  # not on Windows

    options = ["--max-line", "300000"]
    shell = ["sh", "-c", 'ulimit -n 10; exec "$@"', "sh", *PLUGIN]
    with Plugin(*options, command=shell if limited == "from the start" else PLUGIN) as plugin:
        if limited == "later":
            plugin.request("plugin-describe")
            # Not 0: poll() refuses to look at more descriptors than a process may have.
            pid = plugin.process.pid
            used = max(int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()) + 1
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, used))
        for line, code, id in MISTAKES:
            assert failure(plugin, line)[:2] == (code, id)
        assert plugin.finish() == ([], 0)
    assert plugin.stderr == b""


# --- arraybuffer data ---------------------------------------------------------------------------

WRONG_ELEMENTS = (
    *("-1", "256", "1.0", "1e1", "-0.0", "1e999", "null", "true", '"1"', '"1,2"', "[]", "[1,2]"),
    *('{"a":1,"b":2}', "9" * 30, "18446744073709551616", '"],[1,"', '"' + "a,b" * SLICE + '"'),
)
# Some numbers, and how many of them: repeated rather than drawn, as long arrays are slow to draw.
arrays = st.tuples(
    st.lists(st.integers(0, 255), min_size=1, max_size=50),
    st.one_of(st.integers(0, 40), st.integers(SLICE // 4, SLICE)),
)


def repeat(numbers: list[int], count: int) -> list[int]:
    return (numbers * (count // len(numbers) + 1))[:count]


def blank(size: int) -> str:
    return (" \t\r\n" * (size // 4 + 1))[:size]


def join(tokens: list[str], gaps: list[tuple[int, int, int]], lead: int) -> str:
    """Write an array: `lead` blanks inside its brackets, and some before and after some commas."""
    between = [","] * len(tokens)
    for at, before, after in gaps:
        if tokens:
            between[at % len(tokens)] = blank(before) + "," + blank(after)
    text = "".join(a + b for a, b in zip(tokens, [*between[1:], ""], strict=False))
    return f"[{blank(lead)}{text}{blank(lead)}]"


blanks = st.sampled_from([0, 1, 2, 3, 100, SLICE - 1, SLICE, SLICE + 1, 3 * SLICE])
gaps = st.lists(st.tuples(st.integers(0, SLICE), blanks, blanks), max_size=4)


@given(arrays, gaps, blanks)
def test_arraybuffer_equals_a_plain_reference(
    array: tuple[list[int], int], gaps: list[tuple[int, int, int]], lead: int
) -> None:
    numbers = repeat(*array)
    text = join([str(number) for number in numbers], gaps, lead)
    assert json.loads(text) == numbers
    assert bytes(decode_bytes(msgspec.Raw(text.encode()))) == bytes(numbers)


@given(arrays, gaps, blanks, st.integers(0, SLICE), st.sampled_from(WRONG_ELEMENTS))
def test_arraybuffer_names_the_wrong_element(
    array: tuple[list[int], int], gaps: list[tuple[int, int, int]], lead: int, at: int, wrong: str
) -> None:
    tokens = [str(number) for number in repeat(*array)]
    at %= len(tokens) + 1
    tokens.insert(at, wrong)
    data = msgspec.Raw(join(tokens, gaps, lead).encode())
    with pytest.raises(RequestError) as caught:
        decode_bytes(data)
    assert caught.value.code == "invalid-payload"
    # An element that holds a comma itself may be cut in two, and is then not named by its index.
    if "," in wrong:
        assert re.match(r"payload\.data(\[\d+\])?: ", caught.value.message)
    else:
        assert caught.value.message.startswith(f"payload.data[{at}]: ")


@pytest.mark.parametrize("count", [SLICE // 2 - 1, SLICE // 2, SLICE // 2 + 1, SLICE, SLICE + 1])
def test_arraybuffer_at_every_place_around_the_border_of_a_slice(count: int) -> None:
    """A comma and a digit an element: the border falls on every kind of byte."""
    for lead in range(4):
        for ending in ("7", "77", "256"):
            tokens = ["1"] * count + [ending, "5"]
            data = msgspec.Raw(join(tokens, [], lead).encode())
            if ending == "256":
                with pytest.raises(RequestError, match=re.escape(f"payload.data[{count}]: ")):
                    decode_bytes(data)
            else:
                assert bytes(decode_bytes(data)) == b"\1" * count + bytes([int(ending), 5])


@pytest.mark.parametrize(
    "array",
    [
        '{"a":1' + ',"a":1' * SLICE + "}",
        '"' + "1," * SLICE + '"',
        "[" + "[1]," * SLICE + "1]",
        "[[" + "1," * SLICE + "1]]",
        '["' + "1," * SLICE + '"]',
        "[" + "1," * SLICE + '"' + ",1" * SLICE + '"]',
        "[" + "1," * (SLICE // 2) + "[2]" + ",1" * SLICE + "]",
        '[{"a":[' + "1," * SLICE + "1]}]",
    ],
)
def test_no_cut_makes_something_wrong_right(plugin: Plugin, array: str) -> None:
    payload = f'{{"id":"ws-1","type":"arraybuffer","data":{array}}}'
    line = f'{{"id":7,"action":"websocket-send","payload":{payload}}}'
    code, id, message = failure(plugin, line.encode())
    assert (code, id) == ("invalid-payload", 7)
    assert message.startswith("payload.data")


# --- encoding -----------------------------------------------------------------------------------


def encoded(event: messages.Event) -> Any:
    return json.loads(msgspec.json.encode(event))


@given(st.text())
def test_text_message_equals_the_types(text: str) -> None:
    buffer = bytearray(b"before")
    MessageEncoder("ws-1", UNSET, "arraybuffer").append_text(buffer, text)
    line = bytes(buffer.removeprefix(b"before"))
    assert line.index(b"\n") == len(line) - 1
    payload = messages.MessageEvent("ws-1", messages.TextMessage(text))
    assert json.loads(line) == encoded(messages.Event(payload))
    assert json.loads(line)["payload"]["payload"] == {"type": "text", "data": text}


def test_text_of_every_plane() -> None:
    for plane in range(17):
        text = "".join(
            chr(code)
            for code in range(plane << 16, (plane + 1) << 16)
            if not 0xD800 <= code < 0xE000
        )
        buffer = bytearray()
        MessageEncoder("ws-1", UNSET, "base64").append_text(buffer, text)
        assert json.loads(buffer)["payload"]["payload"]["data"] == text
        assert buffer.count(b"\n") == 1


@pytest.mark.parametrize("binary_type", ["arraybuffer", "base64"])
@pytest.mark.parametrize(
    "size",
    [0, 1, 2, 3, 256, *(slices * SLICE + more for slices in (1, 2, 3) for more in (-1, 0, 1))],
)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_binary_message_equals_the_types(binary_type: BinaryType, size: int, kind: Any) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    buffer = bytearray(b"before")
    MessageEncoder("ws-12", UNSET, binary_type).append_binary(buffer, kind(data))
    line = bytes(buffer.removeprefix(b"before"))
    assert line.index(b"\n") == len(line) - 1
    message: messages.ArrayBufferMessage | messages.Base64Message
    if binary_type == "base64":
        message = messages.Base64Message(data)
    else:
        message = messages.ArrayBufferMessage(list(data))
    assert json.loads(line) == encoded(messages.Event(messages.MessageEvent("ws-12", message)))


@given(st.binary(max_size=2000), st.sampled_from(["arraybuffer", "base64"]))
def test_binary_comes_back_as_it_went(data: bytes, binary_type: BinaryType) -> None:
    """What one side encodes, the other decodes: a host may send an event's payload on."""
    buffer = bytearray()
    MessageEncoder("ws-1", UNSET, binary_type).append_binary(buffer, data)
    payload = {"id": "ws-1", **json.loads(buffer)["payload"]["payload"]}
    decoded = decode_request(request("websocket-send", payload))
    assert decoded == requests.OutgoingMessage(7, UNSET, "ws-1", messages.BINARY, data)


@given(
    st.text(),
    st.one_of(
        st.builds(messages.OpenPayload, st.dictionaries(st.text(), st.text())),
        st.builds(messages.ErrorPayload, st.text(), st.just("tls-error")),
        st.builds(
            messages.ErrorPayload,
            st.text(),
            st.just("handshake-failed"),
            st.integers(100, 999),
            st.dictionaries(st.text(), st.text()),
        ),
        st.builds(messages.CloseEventPayload, st.integers(1000, 4999), st.text(), st.just("host")),
    ),
)
def test_other_events_equal_the_types(id: str, payload: Any) -> None:
    events: dict[type[Any], type[Any]] = {
        messages.OpenPayload: messages.OpenEvent,
        messages.ErrorPayload: messages.ErrorEvent,
        messages.CloseEventPayload: messages.CloseEvent,
    }
    line = encoding.encode_event(id, UNSET, payload)
    assert line.index(b"\n") == len(line) - 1
    event = messages.Event(events[type(payload)](id, payload))
    assert json.loads(line) == encoded(event)
    # The seed's order: id, name, payload.
    assert list(json.loads(line)["payload"]) == ["id", "name", "payload"]


@given(st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1)))
def test_answers_equal_the_types(id: int | str) -> None:
    nothing = messages.Nothing()
    created = messages.CreateAnswer(id, messages.Created("ws-1"))
    error = RequestError("forbidden", "é\n")
    failed = messages.ErrorAnswer(id, messages.Problem("forbidden", "é\n"))
    for line, answer in [
        (encoding.encode_answer(created), created),
        (encoding.encode_done(id), messages.DoneAnswer(id, nothing)),
        (encoding.encode_error(error, id), failed),
    ]:
        assert line.index(b"\n") == len(line) - 1
        assert json.loads(line) == json.loads(msgspec.json.encode(answer))
