"""Mutation fuzzer of the host's side, and the reference that it and the property tests share.

The invariant it defends: every line is answered as the contract says or ignored as the contract
says, and the process lives. What "as the contract says" means is :func:`expect`, written from the
contract with the standard library alone and without a look at the plugin's own decoder.

Run as ``python tests/fuzz_input.py --seconds 60``; a failure prints the seed and the line.
"""

import argparse
import json
import random
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from harness import Plugin

Json = Any

ACTIONS = (
    "websocket-create",
    "websocket-send",
    "websocket-close",
    "app-background",
    "plugin-describe",
)
# How deep values may nest is not laid down; up to here it must work, beyond it may be refused.
SURELY_NOT_TOO_DEEP = 500


class Expectation(NamedTuple):
    """What may come back for one line."""

    codes: frozenset[str]
    """Error codes, any of which would be right."""
    success: bool
    """Whether success would be right."""
    id: Json
    """The id to be echoed, or :data:`ANY`."""
    deferred: bool = False
    """Whether a success may be told later."""


ANY = object()
LOOSE = Expectation(
    frozenset(
        {
            "invalid-json",
            "invalid-request",
            "unknown-action",
            "invalid-payload",
            "forbidden",
            "unknown-id",
            "not-open",
            "buffer-full",
        }
    ),
    success=True,
    id=ANY,
    deferred=True,
)
"""For lines about which the contract says no more than that they are answered once."""


class _Number:
    """A number that is no integer, or an integer too long to be of interest."""


class _Ambiguous(Exception):
    """A key is given twice."""


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Ambiguous
    return value


def _refuse(constant: str) -> Json:
    raise ValueError(constant)


def _parse(text: str) -> Json:
    return json.loads(
        text,
        parse_int=lambda digits: int(digits) if len(digits) <= 25 else _Number(),
        parse_float=lambda _: _Number(),
        parse_constant=_refuse,
        object_pairs_hook=_object,
    )


def _depth(line: bytes) -> int:
    depth = deepest = 0
    for byte in re.sub(rb'"(?:[^"\\]|\\.)*"', b"", line):
        depth += (byte in b"[{") - (byte in b"]}")
        deepest = max(deepest, depth)
    return deepest


def _is_int(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Json) -> bool:
    return value is None or isinstance(value, str) or (_is_int(value) and -(2**63) <= value < 2**63)


def _has_lone_surrogate(value: Json) -> bool:
    match value:
        case str():
            return re.search("[\ud800-\udfff]", value) is not None
        case list():
            return any(map(_has_lone_surrogate, value))
        case dict():
            return any(map(_has_lone_surrogate, [*value, *value.values()]))
    return False


def expect(line: bytes, max_line: int = 64 * 2**20) -> Expectation | None:
    """Return what may come back for a line, without its LF; None if it is to be ignored."""
    if len(line) > max_line:
        return Expectation(frozenset({"line-too-long"}), success=False, id=ANY)
    if not line.strip(b" \t\r\n"):
        return None
    invalid_json = frozenset({"invalid-json"})
    if _depth(line) > SURELY_NOT_TOO_DEEP:
        return LOOSE
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Expectation(invalid_json, success=False, id=ANY)
    try:
        value = _parse(text)
    except _Ambiguous:
        return LOOSE
    except ValueError:
        return Expectation(invalid_json, success=False, id=None)
    if not isinstance(value, dict):
        code = "invalid-json" if _has_lone_surrogate(value) else "invalid-request"
        return Expectation(frozenset({code}), success=False, id=None)
    id = value.get("id")
    if not _is_id(id) or _has_lone_surrogate(id):
        id = None
    if _has_lone_surrogate(value):
        return Expectation(invalid_json, success=False, id=id)
    return _expect_request(value, id)


def _expect_request(value: dict[str, Json], id: Json) -> Expectation:
    wrong = set()
    action = value.get("action")
    if not value.keys() <= {"id", "action", "payload"} or not _is_id(value.get("id")):
        wrong.add("invalid-request")
    if not isinstance(action, str):
        wrong.add("invalid-request")
    elif action not in ACTIONS:
        wrong.add("unknown-action")
    elif not _PAYLOADS[action](value.get("payload")):
        wrong.add("invalid-payload")
    if wrong:
        return Expectation(frozenset(wrong), success=False, id=id)
    match action:
        case "websocket-create":
            # Which URL, header and subprotocol may pass is the subject of test_policy.py.
            codes = frozenset({"invalid-payload", "forbidden"})
            return Expectation(codes, success=True, id=id)
        case "websocket-send":
            codes = frozenset({"unknown-id", "not-open", "buffer-full"})
            return Expectation(codes, success=True, id=id, deferred=True)
        case "websocket-close":
            return Expectation(frozenset({"unknown-id"}), success=True, id=id)
    return Expectation(frozenset(), success=True, id=id, deferred=action == "app-background")


# --- payloads ---------------------------------------------------------------------------------

Check = Callable[[Json], bool]
# RFC 4648 section 4.
_BASE64 = re.compile("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def _fields(payload: Json, required: dict[str, Check], optional: dict[str, Check]) -> bool:
    known = required | optional
    return (
        isinstance(payload, dict)
        and required.keys() <= payload.keys() <= known.keys()
        and all(known[name](value) for name, value in payload.items())
    )


def _is_str(value: Json) -> bool:
    return isinstance(value, str)


def _is_create(payload: Json) -> bool:
    return _fields(
        payload,
        {"url": _is_str},
        {
            "headers": lambda v: isinstance(v, dict) and all(map(_is_str, v.values())),
            "protocols": lambda v: isinstance(v, list) and all(map(_is_str, v)),
            "timeout": lambda v: _is_int(v) and 1 <= v <= 3_600_000,
            "perMessageDeflate": lambda v: isinstance(v, bool),
            "binaryType": lambda v: v in ("arraybuffer", "base64"),
        },
    )


def _is_send(payload: Json) -> bool:
    data: dict[Json, Check] = {
        "text": _is_str,
        "arraybuffer": lambda v: (
            isinstance(v, list) and all(_is_int(n) and 0 <= n <= 255 for n in v)
        ),
        "base64": _is_base64,
    }
    kind = payload.get("type") if isinstance(payload, dict) else None
    return (
        isinstance(kind, str)
        and kind in data
        and _fields(payload, {"id": _is_str, "type": _is_str, "data": data[kind]}, {})
    )


def _is_base64(value: Json) -> bool:
    return isinstance(value, str) and _BASE64.fullmatch(value) is not None


def _is_close(payload: Json) -> bool:
    return _fields(
        payload,
        {"id": _is_str},
        {
            "code": lambda v: (
                _is_int(v) and (1000 <= v <= 1003 or 1007 <= v <= 1014 or 3000 <= v <= 4999)
            ),
            "reason": lambda v: isinstance(v, str) and len(v.encode()) <= 123,
        },
    )


def _is_nothing(payload: Json) -> bool:
    return payload is None or payload == {}


_PAYLOADS: dict[str, Check] = {
    "websocket-create": _is_create,
    "websocket-send": _is_send,
    "websocket-close": _is_close,
    "app-background": _is_nothing,
    "plugin-describe": _is_nothing,
}

# --- the process against the reference --------------------------------------------------------


class Judge:
    """Writes lines to a plugin and holds what comes back against :func:`expect`."""

    def __init__(self, plugin: Plugin, max_line: int = 64 * 2**20) -> None:
        self.plugin = plugin
        self._max_line = max_line
        self._count = 0
        # Ids of requests whose success may still be told, as JSON.
        self._owed: list[str] = []
        # How many requests without an id may still fail.
        self._owed_silently = 0

    def try_line(self, line: bytes) -> None:
        """Write one line, without its LF, and check what comes back before the next one's."""
        self._count += 1
        mark = f"next {self._count} of {id(self)}"
        following = json.dumps({"id": mark, "action": "plugin-describe"}).encode()
        self.plugin.write(line + b"\n" + following + b"\n")
        answers = []
        while (answer := self._read()).get("id") != mark:
            answers.append(answer)
        assert "response" in answer, f"the line after {line[:300]!r} got {answer}"
        self._check(line, answers)

    def finish(self) -> None:
        """End the plugin; everything owed must be told."""
        lines, status = self.plugin.finish()
        for line in lines:
            if "event" not in line:
                self._pay(line)
        assert not self._owed, f"never answered: {self._owed}"
        assert status == 0
        assert b"Traceback" not in self.plugin.stderr, self.plugin.stderr.decode()

    def _read(self) -> Json:
        while True:
            line = self.plugin.read()
            if "event" not in line:
                return line

    def _pay(self, answer: Json) -> bool:
        id = json.dumps(answer["id"])
        if id in self._owed:
            self._owed.remove(id)
            return True
        if id == "null" and "error" in answer and self._owed_silently:
            self._owed_silently -= 1
            return True
        return False

    def _check(self, line: bytes, answers: list[Json]) -> None:
        expected = expect(line, self._max_line)
        shown = f"{line[:300]!r} got {answers}, expected {expected}"
        own: list[Json] = []
        # Its own answer, if it has one already, comes after what was owed before.
        for answer in reversed(answers):
            if not own and expected is not None and _fits(answer, expected):
                own.append(answer)
            else:
                assert self._pay(answer), shown
        if own or expected is None:
            return
        assert expected.success, shown
        if expected.id is None or expected.id is ANY:
            self._owed_silently += expected.deferred
        else:
            assert expected.deferred, shown
            self._owed.append(json.dumps(expected.id))


def _fits(answer: Json, expected: Expectation) -> bool:
    if expected.id is not ANY and json.dumps(answer["id"]) != json.dumps(expected.id):
        return False
    if "error" in answer:
        return answer["error"]["code"] in expected.codes
    return expected.success


# --- mutation ---------------------------------------------------------------------------------

INTERESTING: tuple[Json, ...] = (
    None, True, False, 0, 1, -1, 255, 256, 1000, 1005, 3600000, 3600001, 2**31, 2**63 - 1, 2**63,
    -(2**63), -(2**63) - 1, 10**40, 1.0, 0.5, -0.0, 1e300, "", "x", "ws-1", "ws-01", "ws-99",
    "text", "arraybuffer", "base64", "aGk=", "aGk", "é", "😀", "\0", "\ud800", " - at `$.payload`",
    "a\nb", "`", "a" * 130, [], [0], [1, 2, 255], [256], [1.5], ["a"], [[]], {}, {"a": 1},
    {"Referer": "x"}, {"A": "b"}, "websocket-send", "app-background",
)  # fmt: skip
TOKENS = (
    b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"0", b"-", b"1e9", b"1e999", b"NaN",
    b"Infinity", b"null", b"true", b" ", b"\t", b"\r", b"\x00", b"\x1f", b"\x7f", b"\x80", b"\xff",
    b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\\u0000", b"\n",
    b"/*", b"'", b'"id":1,', b'"payload":', b"[" * 600, b'{"a":' * 1200, b" " * 70_000,
)  # fmt: skip


def seeds(url: str) -> list[bytes]:
    """Return valid lines to start from."""
    requests: list[Json] = [
        {"id": 1, "action": "plugin-describe"},
        {"id": "a", "action": "app-background", "payload": {}},
        {"id": 2, "action": "websocket-create", "payload": {"url": url}},
        {
            "id": 3,
            "action": "websocket-create",
            "payload": {
                "url": url + "?q=1",
                "headers": {"Authorization": "Bearer x", "X-A": "é"},
                "protocols": ["a", "b"],
                "timeout": 5000,
                "perMessageDeflate": False,
                "binaryType": "base64",
            },
        },
        {
            "id": 4,
            "action": "websocket-send",
            "payload": {"id": "ws-1", "type": "text", "data": "😀"},
        },
        {
            "id": 5,
            "action": "websocket-send",
            "payload": {"id": "ws-1", "type": "arraybuffer", "data": [0, 10, 255] * 9},
        },
        {
            "id": 6,
            "action": "websocket-send",
            "payload": {"id": "ws-1", "type": "base64", "data": "aGVsbG8="},
        },
        {
            "id": None,
            "action": "websocket-close",
            "payload": {"id": "ws-1", "code": 4000, "reason": "bye"},
        },
    ]
    return [json.dumps(r, ensure_ascii=bool(i % 2)).encode() for i, r in enumerate(requests)]


def mutate(chance: random.Random, corpus: list[bytes]) -> bytes:
    """Return a line made from one of `corpus`."""
    line = chance.choice(corpus)
    if chance.random() < 0.5:
        line = _mutate_value(chance, line)
    for _ in range(chance.choice((0, 0, 1, 1, 1, 2, 4))):
        line = _mutate_bytes(chance, line, corpus)
    return line


def _mutate_value(chance: random.Random, line: bytes) -> bytes:
    value = json.loads(line)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return line
        key = chance.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
            place = place[key]
            continue
        break
    match chance.randrange(4):
        case 0:
            del place[key]
        case 1 if isinstance(place, dict):
            place[str(chance.choice(INTERESTING))] = place.pop(key)
        case 2 if isinstance(place, dict):
            place[chance.choice(("extra", "id", "type", "Url", "a - at `$.payload.b`"))] = 1
        case _:
            place[key] = chance.choice(INTERESTING)
    return json.dumps(value, ensure_ascii=True).encode()


def _mutate_bytes(chance: random.Random, line: bytes, corpus: list[bytes]) -> bytes:
    at = chance.randrange(len(line) + 1)
    to = min(len(line), at + chance.choice((1, 1, 2, 8, 40)))
    match chance.randrange(6):
        case 0:
            return line[:at] + line[to:]
        case 1:
            return line[:at] + chance.choice(TOKENS) + line[at:]
        case 2:
            return line[:at] + chance.choice(TOKENS) + line[to:]
        case 3:
            return line[:at] + bytes([chance.randrange(256)]) + line[to:]
        case 4:
            return line[:to] + line[at:]
        case _:
            other = chance.choice(corpus)
            return line[:at] + other[chance.randrange(len(other)) :]


def fuzz(seconds: float, seed: int, max_line: int = 60_000) -> int:
    """Try mutated lines for so long; return how many.

    Raises:
        AssertionError: the invariant does not hold.

    """
    chance = random.Random(seed)
    tried = 0
    deadline = time.monotonic() + seconds
    # A port that refuses: bound, but not listening.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        corpus = seeds(f"ws://127.0.0.1:{closed.getsockname()[1]}/")
        while time.monotonic() < deadline:
            with Plugin("--max-line", str(max_line)) as plugin:
                judge = Judge(plugin, max_line)
                for _ in range(2000):
                    for line in mutate(chance, corpus).split(b"\n"):
                        judge.try_line(line)
                        tried += 1
                    if time.monotonic() >= deadline:
                        break
                judge.finish()
    return tried


def main() -> None:
    """Run the fuzzer as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    arguments = parser.parse_args()
    sys.stdout.write(f"seed {arguments.seed}\n")
    tried = fuzz(arguments.seconds, arguments.seed)
    sys.stdout.write(f"{tried} lines, all answered as the contract says\n")


if __name__ == "__main__":
    main()
