"""A line costs a small multiple of its length, in time and memory, whatever it says.

Everything is a ratio within one process: one line against eight lines of an eighth of its length,
and against a message of numbers, which costs more than anything else that is right.
``pytest tests/test_line_costs.py --log-cli-level=info`` shows the figures.
"""

import json
import logging
import math
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import wsplugin
from harness import Plugin
from wsplugin.messages import RequestError
from wsplugin.policy import parse_url

log = logging.getLogger(__name__)

MIB = 2**20


def fill(unit: bytes, size: int) -> bytes:
    return unit * (size // len(unit))


def count(unit: bytes, size: int) -> bytes:
    """As :func:`fill`, with a number of its own in each."""
    return b"".join(unit % i for i in range(size // len(unit % size)))


def create(fields: bytes) -> bytes:
    return b'{"id":7,"action":"websocket-create","payload":{%b}}' % fields


def at(url: bytes) -> bytes:
    return create(b'"url":"wss://%b"' % url)


def on(fields: bytes) -> bytes:
    return create(b'"url":"wss://h/",' + fields)


def send(kind: bytes, data: bytes) -> bytes:
    payload = b'{"id":"ws-1","type":"%b","data":%b}' % (kind, data)
    return b'{"id":7,"action":"websocket-send","payload":%b}' % payload


def text(data: bytes) -> bytes:
    return send(b"text", b'"%b"' % data)


def numbers(data: bytes) -> bytes:
    return send(b"arraybuffer", b"[%b]" % data)


def close(fields: bytes) -> bytes:
    return b'{"id":7,"action":"websocket-close","payload":{"id":"ws-1",%b}}' % fields


def describe(members: bytes) -> bytes:
    return b'{"id":7,"action":"plugin-describe",%b}' % members


class Kind(NamedTuple):
    """Lines of one kind."""

    code: str
    """The code of the error that answers them."""
    line: Callable[[int], bytes]
    """Makes one of about so many bytes."""
    id: Any = 7
    """The id that is told, or None; ``...`` if it is as long as the line."""
    memory: float = 6
    """How many times its length it may take; one wide character makes a string four times that."""


# A digit between quotes does for a name, a value and an element.
MEMBER, ELEMENT = b'"%d":"",', b'"%d",'
# Each is different, so IDNA would go through all of them for every one.
HAN = "".join(map(chr, range(0x4E00, 0x9E00))).encode()
# How deep is too deep is the interpreter's affair.
DEEP = b"[" * 100_000 + b"]" * 100_000
BACKSLASH = b"\\"
MAX_LINE = 1000  # of the lines that are too long

KINDS: dict[str, Kind] = {
    # Right, but for the connection, which does not exist, or the host, which is not allowed.
    "text": Kind("unknown-id", lambda n: text(fill(b"x", n))),
    "text, one wide character": Kind(
        "unknown-id", lambda n: text("😀".encode() + fill(b"x", n)), memory=12
    ),
    "text, wide characters": Kind("unknown-id", lambda n: text(fill("😀".encode(), n)), memory=8),
    "text, escapes": Kind("unknown-id", lambda n: text(fill(rb"\u00e9", n))),
    "text, surrogate pairs": Kind("unknown-id", lambda n: text(fill(rb"\ud83d\ude00", n))),
    "text, quotes": Kind("unknown-id", lambda n: text(fill(rb"\"", n))),
    "numbers": Kind("unknown-id", lambda n: numbers(fill(b"1,", n) + b"1")),
    "numbers, far apart": Kind("unknown-id", lambda n: numbers(b"1," + fill(b" ", n) + b"1")),
    "base64": Kind("unknown-id", lambda n: send(b"base64", b'"%b"' % fill(b"aGVs", n))),
    "data given often": Kind(
        "unknown-id", lambda n: close(fill(b'"reason":"",', n) + b'"code":1000')
    ),
    "connection's id": Kind("unknown-id", lambda n: close(b'"id":"ws-%b"' % fill(b"9", n))),
    "blanks": Kind("forbidden", lambda n: on(fill(b" ", n) + b'"protocols":[]')),
    "header": Kind("forbidden", lambda n: on(b'"headers":{"a":"%b"}' % fill(b"x", n))),
    "header's name": Kind("forbidden", lambda n: on(b'"headers":{"%b":""}' % fill(b"x", n))),
    "subprotocol": Kind("forbidden", lambda n: on(b'"protocols":["%b"]' % fill(b"x", n))),
    # Beyond a bound.
    "host": Kind("invalid-payload", lambda n: at(HAN[: n // 3 * 3])),
    "host, marks": Kind(
        "invalid-payload",
        lambda n: at(b"a" + fill("\u0301".encode(), n // 2) + fill("\u0316".encode(), n // 2)),
    ),
    "path": Kind("invalid-payload", lambda n: at(b"h/" + fill("é".encode(), n))),
    "headers": Kind("invalid-payload", lambda n: on(b'"headers":{%b"a":""}' % count(MEMBER, n))),
    "headers, the first one wrong": Kind(
        "invalid-payload", lambda n: on(b'"headers":{"a":1,%b"a":""}' % count(MEMBER, n))
    ),
    "headers given twice": Kind(
        "forbidden", lambda n: on(b'"headers":{%b"a":""},"headers":{}' % count(MEMBER, n))
    ),
    "subprotocols": Kind(
        "invalid-payload", lambda n: on(b'"protocols":[%b""]' % count(ELEMENT, n))
    ),
    "empty subprotocols": Kind(
        "invalid-payload", lambda n: on(b'"protocols":[%b""]' % fill(b'"",', n))
    ),
    "reason": Kind("invalid-payload", lambda n: close(b'"reason":"%b"' % fill(b"x", n))),
    # A field that is wrong.
    "last number": Kind("invalid-payload", lambda n: numbers(fill(b"1,", n) + b"256")),
    "number of digits": Kind("invalid-payload", lambda n: numbers(fill(b"1", n))),
    "number with a fraction": Kind("invalid-payload", lambda n: numbers(b"1." + fill(b"1", n))),
    "number in quotes": Kind("invalid-payload", lambda n: numbers(b'"%b"' % fill(b"1,", n))),
    "arrays for numbers": Kind("invalid-payload", lambda n: numbers(fill(b"[],", n) + b"1")),
    "base64 of another alphabet": Kind(
        "invalid-payload", lambda n: send(b"base64", b'"%b!"' % fill(b"aGVs", n))
    ),
    "code of digits": Kind("invalid-payload", lambda n: close(b'"code":%b' % fill(b"9", n))),
    "timeout with an exponent": Kind(
        "invalid-payload", lambda n: on(b'"timeout":1e%b' % fill(b"9", n))
    ),
    "binaryType": Kind("invalid-payload", lambda n: on(b'"binaryType":"%b"' % fill(b"x", n))),
    "type": Kind("invalid-payload", lambda n: send(fill(b"x", n), b'""')),
    "header's name, no token": Kind(
        "invalid-payload", lambda n: on(b'"headers":{"%b":""}' % fill(b" ", n))
    ),
    "unknown field": Kind("invalid-payload", lambda n: close(b'"%b":1' % fill(b"x", n))),
    "unknown field, wide": Kind(
        "invalid-payload", lambda n: close(b'"%b":1' % ("😀".encode() + fill(b"x", n))), memory=12
    ),
    "payload": Kind("invalid-payload", lambda n: describe(b'"payload":[%b1]' % fill(b"[],", n))),
    # No request.
    "action": Kind("unknown-action", lambda n: b'{"id":7,"action":"%b"}' % fill(b"x", n)),
    "id": Kind("unknown-action", lambda n: b'{"action":"x","id":"%b"}' % fill(b"x", n), ...),
    "id of digits": Kind("invalid-request", lambda n: b'{"id":%b}' % fill(b"9", n), None),
    "id of arrays": Kind("invalid-request", lambda n: b'{"id":[%b1]}' % fill(b"[],", n), None),
    "unknown member": Kind("invalid-request", lambda n: describe(b'"%b":1' % fill(b"x", n))),
    "unknown members": Kind("invalid-request", lambda n: describe(count(MEMBER, n) + b'"a":1')),
    "unknown arrays": Kind("invalid-request", lambda n: describe(b'"a":[%b1]' % fill(b"[],", n))),
    "array": Kind("invalid-request", lambda n: b"[%b1]" % fill(b"{},", n), None),
    # No text, or no JSON.
    "lone surrogate": Kind("invalid-json", lambda n: text(rb"\ud800" + fill(b"x", n))),
    "lone surrogate, arrays": Kind(
        "invalid-json", lambda n: describe(rb'"a":"\ud800","b":[%b1]' % fill(b"[],", n))
    ),
    "lone surrogate, members": Kind(
        "invalid-json", lambda n: describe(count(MEMBER, n) + rb'"\ud800":1')
    ),
    "lone surrogates": Kind("invalid-json", lambda n: text(fill(rb"\ud800", n))),
    "lone surrogates apart": Kind("invalid-json", lambda n: text(fill(rb"x\uDFFF", n))),
    "lone surrogate, no JSON": Kind(
        "invalid-json", lambda n: text(fill(rb"\ud800", n)) + b"}", None
    ),
    "no UTF-8": Kind("invalid-json", lambda n: text(fill(b"x", n) + b"\xff")),
    "no UTF-8, wide": Kind(
        "invalid-json", lambda n: text("😀".encode() + fill(b"x", n) + b"\xff"), memory=8
    ),
    "no end": Kind("invalid-json", lambda n: describe(b'"a":"' + fill(b"x", n))[:-1], None),
    "no end, backslashes": Kind("invalid-json", lambda n: b'"' + fill(BACKSLASH * 2, n), None),
    "quotes": Kind("invalid-json", lambda n: fill(b'"', n), None),
    "open brackets": Kind("invalid-json", lambda n: describe(b'"a":' + fill(b"[", n))),
    "brackets": Kind(
        "invalid-json",
        lambda n: describe(b'"a":%b%b' % (fill(b"[", n // 2), fill(b"]", n // 2))),
    ),
    "nested behind arrays": Kind(
        "invalid-json", lambda n: describe(b'"a":[%b1],"b":%b' % (fill(b"[],", n), DEEP))
    ),
    "nested behind quotes": Kind(
        "invalid-json", lambda n: describe(b'"a":"%b","b":%b' % (fill(rb"\"", n), DEEP))
    ),
    "nested behind members": Kind(
        "invalid-json", lambda n: describe(b'%b"b":%b' % (fill(b'"\\n":1,', n), DEEP))
    ),
    # Longer than --max-line.
    "long": Kind("line-too-long", lambda n: describe(b'"a":"%b"' % fill(b"x", n))),
    "long, members": Kind("line-too-long", lambda n: describe(fill(b'"":1,', n) + b'"":1')),
    "long, arrays": Kind("line-too-long", lambda n: describe(b'"a":[%b1]' % fill(b"[],", n))),
    "long, numbers": Kind("line-too-long", lambda n: describe(b'"a":[%b1]' % fill(b"1,", n))),
    "long, strings": Kind("line-too-long", lambda n: describe(b'"a":[%b1]' % fill(b'"",', n))),
    "long, nested": Kind("line-too-long", lambda n: describe(b'"a":' + fill(b'[1,{"":', n))),
    "long, quotes": Kind("line-too-long", lambda n: describe(b'"a":"%b"' % fill(rb"\"", n))),
    "long, digits": Kind("line-too-long", lambda n: b'{"id":%b}' % fill(b"9", n), None),
    "long, blanks": Kind("line-too-long", lambda n: fill(b" ", n) + b"x", None),
}


class Run(NamedTuple):
    """What lines have cost."""

    seconds: float
    """Of the processor."""
    memory: int
    """Bytes that were allocated at the most, all at once; 0 if they were not counted."""


def run(path: Path, kind: Kind, lines: list[bytes], *, count_memory: bool = False) -> Run:
    """Serve lines of one kind from a file, in this process, and check their answers."""
    too_long = kind.code == "line-too-long"
    settings = wsplugin.Settings(
        allow_hosts=("nowhere.test",), max_line=MAX_LINE if too_long else 64 * MIB
    )
    path.write_bytes(b"\n".join(lines))
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    stdin, stdout = os.open(path, os.O_RDONLY), os.open(path.with_suffix(".out"), flags)
    if count_memory:
        tracemalloc.start()
    start = time.process_time()
    try:
        assert wsplugin.serve(stdin, stdout, settings) == 0
        seconds = time.process_time() - start
        memory = tracemalloc.get_traced_memory()[1] if count_memory else 0
    finally:
        tracemalloc.stop()
        os.close(stdin)
        os.close(stdout)
    answers = [json.loads(line) for line in path.with_suffix(".out").read_bytes().splitlines()]
    assert [answer["error"]["code"] for answer in answers] == [kind.code] * len(lines)
    for answer in answers:
        assert len(answer["error"]["errMsg"]) < 400
        if kind.id is ...:
            assert isinstance(answer["id"], str)
        else:
            assert answer["id"] == kind.id
    return Run(seconds, memory)


@pytest.fixture(scope="module", name="yardstick")
def _yardstick(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that 1 MiB of numbers takes."""
    path = tmp_path_factory.mktemp("yardstick") / "lines"
    kind = KINDS["numbers"]
    return min(run(path, kind, [kind.line(MIB)]).seconds for _ in range(5))


@pytest.mark.parametrize("name", KINDS)
def test_cost_of_a_line(name: str, tmp_path: Path, yardstick: float) -> None:
    kind = KINDS[name]
    path = tmp_path / "lines"
    one, eight = [kind.line(MIB)], [kind.line(MIB // 8)] * 8
    memory = run(path, kind, one, count_memory=True).memory / len(one[0])
    times, times_numbers, seconds, seconds_of_eight = math.inf, math.inf, math.inf, math.inf
    # The least of some runs, as other processes and the collector take their share of any.
    for _ in range(5):
        seconds = min(seconds, run(path, kind, one).seconds)
        seconds_of_eight = min(seconds_of_eight, run(path, kind, eight).seconds)
        times, times_numbers = 8 * seconds / seconds_of_eight, seconds / yardstick
        if times < 12 and times_numbers < 2:
            break
    log.info(
        "%-30s %5.1f ms, %4.1f times that of an eighth, %4.2f times numbers, memory %4.1f times",
        *(name, seconds * 1000, times, times_numbers, memory),
    )
    # It would be 64 if the time grew with the square.
    assert times < 16
    assert times_numbers < 4
    assert memory < kind.memory


# Of no more characters than are allowed: what IDNA can make of them.
HOSTS = {
    "another character everywhere": HAN.decode()[:253],
    "eighteen characters each": "\ufdfa" * 253,
    "eighteen characters each, labels": "\ufdfa\ufdfa\ufdfa." * 63,
    "many labels": "".join(f"{character}." for character in HAN.decode()[:126]),
    "labels as long as they may be": ".".join([HAN.decode()[:62]] * 4),
    "marks in the wrong order": "a" + "\u0301" * 126 + "\u0316" * 126,
}


@pytest.mark.parametrize("idna", [True, False], ids=["with idna", "without idna"])
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_cost_of_a_host(
    host: str, idna: bool, yardstick: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some took four times as long as a MiB of numbers."""
    if not idna:
        monkeypatch.setitem(sys.modules, "idna", None)
    assert len(host) <= 253
    seconds = math.inf
    for _ in range(5):
        start = time.process_time()
        with pytest.raises(RequestError):
            parse_url(f"wss://{host}/")
        seconds = min(seconds, time.process_time() - start)
    assert seconds < yardstick / 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_lone_surrogate_before_millions_of_brackets() -> None:
    """What a standard parser makes of this takes twenty times the line, in memory."""
    line = rb'{"id":1,"x":"\ud800","y":[[]' + b",[]" * (16 * 10**6) + b"]}"
    with Plugin() as plugin:
        plugin.request("plugin-describe")
        plugin.reset_peak()
        idle = plugin.memory()
        plugin.write(line + b"\n")
        answer = plugin.read()
        assert (answer["id"], answer["error"]["code"]) == (1, "invalid-json")
        assert plugin.peak_memory() - idle < 4 * len(line)
