"""How the host's stream is cut into lines: line ends, over-long lines, bounded memory."""

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Plugin
from wsplugin.input import CHUNK
from wsplugin.lines import BOM, Lines
from wsplugin.messages import RequestError
from wsplugin.mistakes import ID_WITHIN, find_id

# How long an example takes depends on who else uses the machine.
settings.register_profile("wsplugin", deadline=None)
settings.load_profile("wsplugin")

Line = bytes | tuple[str, Any]


def plain(line: bytes | bytearray | RequestError) -> Line:
    return (line.code, line.id) if isinstance(line, RequestError) else bytes(line)


def split(chunks: list[bytes], max_line: int) -> list[Line]:
    lines = Lines(max_line)
    taken = [plain(line) for chunk in chunks for line in lines.feed(chunk)]
    return taken + [plain(line) for line in lines.end()]


def reference(stream: bytes, max_line: int) -> list[Line]:
    """Split a whole stream as the contract says; ids of over-long lines are null here."""
    *ended, last = stream.split(b"\n")
    lines: list[Line] = [*ended, last] if last else [*ended]
    return [
        ("line-too-long", None)
        if len(line) > max_line
        else line.removeprefix(BOM)
        if at == 0 and isinstance(line, bytes)
        else line
        for at, line in enumerate(lines)
    ]


streams = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"a", b"{}", b" ", b"\xef", b"\xbb", b"\xbf", BOM, b"x" * 20]),
    max_size=40,
).map(b"".join)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(at % (len(stream) + 1) for at in cuts)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


@given(streams, st.lists(st.integers(0, 1000), max_size=20), st.sampled_from([10, 21, 30, 1000]))
def test_however_the_stream_is_cut_the_lines_are_the_same(
    stream: bytes, cuts: list[int], max_line: int
) -> None:
    expected = reference(stream, max_line)
    assert split([stream], max_line) == expected
    assert split(cut(stream, cuts), max_line) == expected
    assert split([stream[at : at + 1] for at in range(len(stream))], max_line) == expected


@pytest.mark.parametrize("size", [15, 16, 17, 18, 100])
@pytest.mark.parametrize("step", [1, 7, 16, 17, 1000])
def test_the_limit_counts_bytes_without_the_line_end(size: int, step: int) -> None:
    stream = b"\xc3\xa9".ljust(size, b"x") + b"\nnext\n"
    first: Line = stream[:size] if size <= 16 else ("line-too-long", None)
    assert split([stream[at : at + step] for at in range(0, len(stream), step)], 16) == [
        first,
        b"next",
    ]


LONG = b"x" * 200

IDS_AT_THE_START: list[tuple[bytes, Any]] = [
    (b'{"id":1,', 1),
    (b' {\t"id" :\r -17 , ', -17),
    (b'{"id":"a\\"b\\n\xc3\xa9",', 'a"b\né'),
    (b'{"id":"",', ""),
    (b'{"id":9223372036854775807,', 2**63 - 1),
    (b'{"id":null,', None),
    (b'{"id":1 }', 1),
    (b'{"\\u0069\\u0064":1,', 1),
    # Behind whole values, as libraries write that sort the names.
    (b'{"action":"x","id":1,', 1),
    (b'{"a":true,"b":-1.5e+3,"c":null,"d":"","id":1,', 1),
    (b'{"a":{},"b":[],"c":[[1,{"d":[]}]],"id":"x",', "x"),
    (b'{ "a" : [ "]" , "}" , "\\"]" ] , "id" : 1 , ', 1),
    (b'{"a":{"id":2},"id":1,"b":{"id":3},', 1),
    (b'{"a":"\\\\","id":1,', 1),
    (b'{"a":"\\"id\\":2","id":1,', 1),
    (b'{"id":1,"id":"x","a":[', "x"),
    (b'{"id":1,"id":[],', None),
    # An id that is none.
    (b'{"id":9223372036854775808,', None),
    (b'{"id":01,', None),
    (b'{"id":1.5,', None),
    (b'{"id":true,', None),
    (b'{"id":[1],', None),
    (b'{"id":"\\ud800",', None),
    (b'{"id":"\xff",', None),
    (b'{"id":"a\tb",', None),
    # No id before the limit, or not surely one.
    (b'{"x":{"id":1,', None),
    (b'{"x":{"y":1},"z":["id",1,', None),
    (b'{"x":"id","y":{"id":1},', None),
    (b'{"x":"\\"id\\":1,', None),
    (b'{"x":[[1],"id":1,', None),
    (b'{"x":[1]],"id":1,', None),
    (b'{"x":y z,"id":1,', None),
    (b'{"x":,"id":1,', None),
    (b'{"x""id":1,', None),
    (b'{"x":1}"id":1,', None),
    (b'{"x":1},{"id":1,', None),
    (b'{,"id":1,', None),
    (b'{"Id":1,"ID":1,"id ":1,', None),
    (b'[{"id":1,', None),
    (b'{"id":1', None),
    (b'{"id":"', None),
    (b'{"id":12345', None),
    (b"", None),
]


@pytest.mark.parametrize(("start", "id"), IDS_AT_THE_START)
@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nnext\n"])
def test_id_of_a_line_that_is_too_long(start: bytes, id: Any, step: int, end: bytes) -> None:
    stream = start + LONG + end
    chunks = [stream[at : at + step] for at in range(0, len(stream), step)]
    rest: list[Line] = [b"next"] if b"next" in end else []
    assert split(chunks, 60) == [("line-too-long", id), *rest]


@pytest.mark.parametrize("bom", [b"", BOM])
@pytest.mark.parametrize("max_line", [10, ID_WITHIN, 3 * ID_WITHIN])
@pytest.mark.parametrize("step", [999, CHUNK, 10**6])
@pytest.mark.parametrize("value", [b'"a"', b"17", b"-9223372036854775808"])
@pytest.mark.parametrize("before", [b'{"x":"%b",', b'{"x":[%b],', b'{%b"x":1,'])
def test_how_far_an_id_is_looked_for(
    before: bytes, value: bytes, step: int, max_line: int, bom: bytes
) -> None:
    member = b'"id":' + value
    blank = ID_WITHIN - len(before % b"") - len(member)
    stream = bom + before % (b" " * blank) + member + b"," + b"x" * 4 * ID_WITHIN + b"\n"
    assert stream.index(value) + len(value) == len(bom) + ID_WITHIN
    (line,) = split([stream[at : at + step] for at in range(0, len(stream), step)], max_line)
    assert line == ("line-too-long", json.loads(value))
    # What is too far away is not held.
    far = b'{"x":"' + b" " * ID_WITHIN * 2 + b'","id":1,' + b"x" * 4 * ID_WITHIN
    assert split([far], max_line) == [("line-too-long", None)]


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
).map(json.dumps)
name = st.one_of(st.text(), st.sampled_from(["Id", "action", 'x"id', "\\"])).filter("id".__ne__)
others = st.lists(st.tuples(name.map(json.dumps), values), max_size=4)


@given(others, st.one_of(st.integers(-(2**63), 2**63 - 1), st.text()), others, st.integers(0, 100))
def test_id_is_found_as_soon_as_it_is_whole(
    before: list[tuple[str, str]], id: int | str, behind: list[tuple[str, str]], cut: int
) -> None:
    members = [*before, ('"id"', json.dumps(id)), *behind]
    blank = " " * (cut % 3)
    texts = [f"{blank}{name}{blank}:{blank}{value}{blank}" for name, value in members]
    line = ("{" + ",".join(texts) + "}").encode()
    whole = len(("{" + ",".join(texts[: len(before) + 1]) + ",").encode())
    assert find_id(line) == id
    for end in {whole, whole - 1, cut * len(line) // 100}:
        assert find_id(line[:end]) == (id if end >= whole else None)


def test_byte_order_mark_before_a_line_that_is_too_long() -> None:
    assert split([BOM + b'{"id":1,' + LONG + b"\n{}"], 60) == [("line-too-long", 1), b"{}"]
    # And the one that starts the second line is none.
    assert split([LONG + b"\n" + BOM + b"{}\n"], 60)[1] == BOM + b"{}"


def test_message_names_the_option_and_the_limit() -> None:
    (error,) = Lines(10).feed(b"x" * 11 + b"\n")
    assert isinstance(error, RequestError)
    assert error.message == "the line is longer than 10 bytes (--max-line)"


# --- the process ------------------------------------------------------------------------------

DESCRIBE = b'{"id":%d,"action":"plugin-describe"}'


def ids(lines: list[Any]) -> list[Any]:
    return [line["id"] for line in lines]


@pytest.mark.parametrize(
    "stream",
    [
        b"%s\n%s\n",
        b"%s\n%s",
        b"%s\r\n%s\r\n",
        b"%s\r\n%s\r",
        b"\n\n%s\n\r\n \n%s\n\n",
        BOM + b"%s\n%s\n",
        BOM + b"\r\n%s\n%s\n",
    ],
)
def test_line_ends(stream: bytes) -> None:
    with Plugin() as plugin:
        plugin.write(stream % (DESCRIBE % 1, DESCRIBE % 2))
        lines, status = plugin.finish()
    assert ids(lines) == [1, 2]
    assert all("response" in line for line in lines)
    assert (status, plugin.stderr) == (0, b"")


def test_byte_order_mark_within_the_stream_is_no_json() -> None:
    with Plugin() as plugin:
        plugin.write(DESCRIBE % 1 + b"\n" + BOM + DESCRIBE % 2 + b"\n" + DESCRIBE % 3 + b"\n")
        lines, _ = plugin.finish()
    assert ids(lines) == [1, None, 3]
    assert lines[1]["error"]["code"] == "invalid-json"


def test_output_ends_lines_with_lf_alone() -> None:
    with Plugin() as plugin:
        plugin.write(DESCRIBE % 1 + b"\r\nx\r\n")
        plugin.close_stdin()
        lines = [plugin.read_line(), plugin.read_line()]
        assert plugin.read_line() == b""
    for line in lines:
        assert re.fullmatch(rb"\{[^\r\n]*\}\n", line)


def test_unfinished_last_line_that_is_wrong_or_too_long() -> None:
    for last, code in [(b"{", "invalid-json"), (b"x" * 101, "line-too-long")]:
        with Plugin("--max-line", "100") as plugin:
            plugin.write(last)
            lines, status = plugin.finish()
        assert [line["error"]["code"] for line in lines] == [code]
        assert status == 0


@pytest.mark.parametrize("limit", [100, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_lines_around_the_limit(limit: int) -> None:
    def line(id: int, size: int) -> bytes:
        return (DESCRIBE % id)[:-1] + b" " * (size - len(DESCRIBE % id)) + b"}\n"

    sizes = [limit - 1, limit, limit + 1, limit + 2, limit, 2 * limit, limit]
    with Plugin("--max-line", str(limit)) as plugin:
        plugin.write(b"".join(line(id, size) for id, size in enumerate(sizes)))
        lines, _ = plugin.finish()
    assert ids(lines) == list(range(len(sizes)))
    for answer, size in zip(lines, sizes, strict=True):
        assert ("response" in answer) == (size <= limit)
        assert size <= limit or answer["error"]["code"] == "line-too-long"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_line_that_is_too_long_takes_no_more_memory_than_the_limit() -> None:
    mib = 2**20

    def peak(plugin: Plugin) -> int:
        status = Path(f"/proc/{plugin.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    with Plugin("--max-line", "1MiB") as plugin:
        plugin.request("plugin-describe")
        before = peak(plugin)
        plugin.write(b'{"id":5,"action":"')
        for _ in range(128):
            plugin.write(b"x" * mib)
        plugin.write(b'"}\n')
        answer = plugin.read()
        assert (answer["id"], answer["error"]["code"]) == (5, "line-too-long")
        plugin.request("plugin-describe")
        # The line held, grown once by copying, and what the reader has in hand.
        assert peak(plugin) - before < 4 * mib


def test_bytes_that_come_one_by_one() -> None:
    stream = BOM + json.dumps({"id": "é😀", "action": "plugin-describe"}).encode() + b"\r\n"
    with Plugin() as plugin:
        for byte in stream:
            plugin.write(bytes([byte]))
        assert plugin.read()["id"] == "é😀"
