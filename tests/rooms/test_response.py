"""The head of an HTTP response, read as it comes (``network/response.py``)."""

import itertools
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.http11 import Response

from wsplugin.network.response import (
    LONGEST_HEADS,
    LONGEST_LINE,
    MOST_FIELDS,
    BadResponse,
    ResponseReader,
    fields,
)

OK = b"HTTP/1.1 200 OK\r\n"
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\n"
NO_HTTP = "the response is not one of HTTP"
TOO_LONG = "the response's head is too long"
TOO_MANY = "the response's head has too many fields"


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


DELIVERIES: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "whole": lambda data: iter([data]),
    "byte by byte": lambda data: pieces(data, 1),
    "by three bytes": lambda data: pieces(data, 3),
    "in two": lambda data: pieces(data, max(1, len(data) // 2)),
}
each_delivery = pytest.mark.parametrize("deliver", DELIVERIES.values(), ids=DELIVERIES)
Deliver = Callable[[bytes], Iterator[bytes]]


def read(deliver: Deliver, data: bytes) -> tuple[Response | None, ResponseReader]:
    """Return the response, and its reader, which must have been given no more than needed."""
    reader = ResponseReader()
    for piece in deliver(data):
        response = reader.feed(piece)
        if response is not None:
            return response, reader
    return None, reader


# --- what is read ---

GOOD: dict[str, tuple[bytes, int, str, dict[str, str]]] = {
    # head, status, reason, fields
    "the usual": (
        UPGRADE + b"Upgrade: websocket\r\n",
        101,
        "Switching Protocols",
        {"upgrade": "websocket"},
    ),
    "no fields": (OK, 200, "OK", {}),
    "no reason": (b"HTTP/1.1 101 \r\n", 101, "", {}),
    "no blank before the reason": (b"HTTP/1.1 101\r\n", 101, "", {}),
    "HTTP/1.0": (b"HTTP/1.0 404 Not Found\r\n", 404, "Not Found", {}),
    "a reason beyond ASCII": (b"HTTP/1.1 403 verbot\xe9n\r\n", 403, "verbot\xe9n", {}),
    "a reason of blanks": (b"HTTP/1.1 403 \t \r\n", 403, "\t ", {}),
    "a status of its own": (b"HTTP/1.1 599 x\r\n", 599, "x", {}),
    "names in any case": (OK + b"X-Y: 1\r\nx-z: 2\r\n", 200, "OK", {"x-y": "1", "x-z": "2"}),
    "all characters of names": (
        OK + b"!#$%&'*+-.^_`|~09azAZ: v\r\n",
        200,
        "OK",
        {"!#$%&'*+-.^_`|~09azaz": "v"},
    ),
    "no blank behind the colon": (OK + b"a:b\r\n", 200, "OK", {"a": "b"}),
    "blanks around": (OK + b"a: \t b \t \r\n", 200, "OK", {"a": "b"}),
    "blanks within": (OK + b"a: b \t c\r\n", 200, "OK", {"a": "b \t c"}),
    "an empty value": (OK + b"a:\r\nb: \r\n", 200, "OK", {"a": "", "b": ""}),
    "a value beyond ASCII": (OK + b"a: \x80\xff\r\n", 200, "OK", {"a": "\x80\xff"}),
    "colons in a value": (OK + b"a: b:c: d\r\n", 200, "OK", {"a": "b:c: d"}),
    "a field twice": (
        OK + b"a: 1\r\nA: 2\r\nb: 3\r\na: 4\r\n",
        200,
        "OK",
        {"a": "1, 2, 4", "b": "3"},
    ),
    "cookies": (
        OK + b"Set-Cookie: a=1, b\r\nset-cookie: c\r\n",
        200,
        "OK",
        {"set-cookie": "a=1, b\nc"},
    ),
    "an interim response": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, "OK", {}),
    "interim responses with fields": (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102\r\na: b\r\n\r\n"
        + UPGRADE
        + b"c: d\r\n",
        101,
        "Switching Protocols",
        {"c": "d"},
    ),
    "HTTP/1.0 before HTTP/1.1": (b"HTTP/1.0 100 x\r\n\r\n" + OK, 200, "OK", {}),
}


@each_delivery
@pytest.mark.parametrize(
    "rest", [b"", b"\r\n", b"\x81\x02hi", b"HTTP/1.1 500 no\r\n\r\n", bytes(1000)]
)
@pytest.mark.parametrize(("head", "status", "reason", "wanted"), GOOD.values(), ids=GOOD)
def test_heads(
    head: bytes, status: int, reason: str, wanted: dict[str, str], rest: bytes, deliver: Deliver
) -> None:
    data = head + b"\r\n"
    response, reader = read(deliver, data + rest)
    assert response is not None
    assert (response.status_code, response.reason_phrase) == (status, reason)
    assert fields(response.headers) == wanted
    assert reader.version == head.rpartition(b"HTTP/")[1] + head.rpartition(b"HTTP/")[2][:3]
    assert rest.startswith(reader.rest)
    if deliver is DELIVERIES["whole"]:
        assert reader.rest == rest


@pytest.mark.parametrize("head", [good[0] for good in GOOD.values()], ids=GOOD)
def test_no_response_before_the_last_byte(head: bytes) -> None:
    response, _ = read(DELIVERIES["byte by byte"], head + b"\r")
    assert response is None
    whole = head + b"\r\n"
    for at in range(len(whole)):
        reader = ResponseReader()
        assert reader.feed(whole[:at]) is None
        assert reader.feed(whole[at:] + b"rest") is not None
        assert reader.rest == b"rest"


# --- what is no response ---

BAD: dict[str, bytes] = {
    "another version": b"HTTP/2.0 200 OK\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n",
    "HTTP/1.11": b"HTTP/1.11 200 OK\r\n",
    "lower case": b"http/1.1 200 OK\r\n",
    "another protocol": b"SSH-2.0-x\r\n",
    "a blank first": b" HTTP/1.1 200 OK\r\n",
    "an empty line first": b"\r\n" + OK,
    "a request": b"GET / HTTP/1.1\r\n",
    "two blanks": b"HTTP/1.1  200 OK\r\n",
    "a tab": b"HTTP/1.1\t200 OK\r\n",
    "no status": b"HTTP/1.1 \r\n",
    "no blank": b"HTTP/1.1200 OK\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\n",
    "status 0": b"HTTP/1.1 000 OK\r\n",
    "status 99": b"HTTP/1.1 099 OK\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\n",
    "a sign": b"HTTP/1.1 +20 OK\r\n",
    "letters for digits": b"HTTP/1.1 2OO OK\r\n",
    "digits that are none of ASCII": "HTTP/1.1 ²00 OK\r\n".encode(),
    "a control character in the reason": b"HTTP/1.1 200 O\0K\r\n",
    "DEL in the reason": b"HTTP/1.1 200 O\x7fK\r\n",
    "LF alone": b"HTTP/1.1 200 OK\n",
    "CR in the reason": b"HTTP/1.1 200 O\rK\r\n",
    "CR twice": b"HTTP/1.1 200 OK\r\r\n",
    "no colon": OK + b"name\r\n",
    "no name": OK + b": value\r\n",
    "a blank before the colon": OK + b"name : value\r\n",
    "a folded line": OK + b"a: b\r\n c\r\n",
    "a folded line with a tab": OK + b"a: b\r\n\tc\r\n",
    "a name beyond ASCII": OK + b"n\xe9: v\r\n",
    "a bracket in a name": OK + b"a(b: v\r\n",
    "a quote in a name": OK + b'"a": v\r\n',
    "NUL in a value": OK + b"a: b\0\r\n",
    "CR in a value": OK + b"a: b\rc\r\n",
    "ESC in a value": OK + b"a: \x1b[31m\r\n",
    "DEL in a value": OK + b"a: \x7f\r\n",
    "LF alone behind a field": OK + b"a: b\n",
    "LF alone behind the head": OK + b"\n",
    "garbage behind an interim response": b"HTTP/1.1 100 x\r\n\r\nGARBAGE\r\n",
}


@each_delivery
@pytest.mark.parametrize("more", [b"", b"\r\n", OK + b"\r\n"], ids=["", "its end", "a response"])
@pytest.mark.parametrize("head", BAD.values(), ids=BAD)
def test_what_is_no_response(head: bytes, more: bytes, deliver: Deliver) -> None:
    with pytest.raises(BadResponse) as refused:
        read(deliver, head + more)
    assert str(refused.value) == NO_HTTP


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 100 x\r\n\r\n"])
@pytest.mark.parametrize(
    "garbage", [b"S", b"h", b"\0", b"\x81", b"HTTPS", b"HTTP/2", b"HTTP/0", b" "]
)
def test_what_cannot_become_http_is_refused_at_once(start: bytes, garbage: bytes) -> None:
    """A server of another protocol may never send the end of a line."""
    reader = ResponseReader()
    assert reader.feed(start) is None
    for byte in garbage[:-1]:
        assert reader.feed(bytes([byte])) is None
    with pytest.raises(BadResponse):
        reader.feed(garbage[-1:])


# --- limits ---


def padded(size: int, name: bytes = b"a") -> bytes:
    """Return a field of so many bytes, without the end of its line."""
    return name + b":" + b"v" * (size - len(name) - 1)


@each_delivery
@pytest.mark.parametrize("blanks", [False, True])
def test_the_longest_field(blanks: bool, deliver: Deliver) -> None:
    field = padded(LONGEST_LINE)
    if blanks:
        field = b"a:" + b" " * (LONGEST_LINE - 3) + b"v"
    response, _ = read(deliver, OK + field + b"\r\n\r\n")
    assert response is not None
    assert fields(response.headers) == {"a": "v" if blanks else "v" * (LONGEST_LINE - 2)}
    with pytest.raises(BadResponse, match=TOO_LONG):
        read(deliver, OK + field + b"v\r\n\r\n")


@each_delivery
def test_the_longest_reason(deliver: Deliver) -> None:
    line = OK[:-2] + b"x" * (LONGEST_LINE - len(OK) + 2)
    assert read(deliver, line + b"\r\n\r\n")[0] is not None
    with pytest.raises(BadResponse, match=TOO_LONG):
        read(deliver, line + b"x\r\n\r\n")


@pytest.mark.parametrize("start", [b"", OK])
def test_a_line_without_end_is_refused_as_soon_as_it_is_too_long(start: bytes) -> None:
    reader = ResponseReader()
    line = b"HTTP/1.1 200 " if not start else b"a:"
    assert reader.feed(start + line + b"x" * (LONGEST_LINE - len(line))) is None
    with pytest.raises(BadResponse, match=TOO_LONG):
        # One more may be the CR.
        reader.feed(b"xx")


INTERIM = b"HTTP/1.1 103 x\r\n"


def test_heads_are_refused_as_soon_as_they_are_too_long() -> None:
    reader = ResponseReader()
    data = OK + (padded(LONGEST_LINE // 2 - 2) + b"\r\n") * 7
    assert reader.feed(data + padded(LONGEST_HEADS - len(data))) is None
    with pytest.raises(BadResponse, match=TOO_LONG):
        reader.feed(b"v")


@pytest.mark.parametrize("size", [1, 1000, LONGEST_LINE])
@pytest.mark.parametrize("interim", [False, True])
def test_the_longest_heads(size: int, interim: bool) -> None:
    """What counts is all of them, with the ends of their lines."""

    def heads(total: int) -> bytes:
        data = INTERIM + padded(1000) + b"\r\n\r\n" if interim else b""
        data += OK
        while total - len(data) > LONGEST_LINE:
            data += padded(LONGEST_LINE // 2 - 2) + b"\r\n"
        return data + padded(total - len(data) - 4) + b"\r\n\r\n"

    longest = heads(LONGEST_HEADS)
    assert len(longest) == LONGEST_HEADS
    assert read(lambda data: pieces(data, size), longest)[0] is not None
    with pytest.raises(BadResponse, match=TOO_LONG):
        read(lambda data: pieces(data, size), heads(LONGEST_HEADS + 1))


@pytest.mark.parametrize("size", [1, 100_000])
def test_the_most_fields(size: int) -> None:
    """Of all heads together: else endless interim responses would have endless fields."""
    field = b"a: b\r\n"

    def heads(first: int, second: int) -> bytes:
        return INTERIM + field * first + b"\r\n" + OK + field * second + b"\r\n"

    for first, second in ((0, MOST_FIELDS), (MOST_FIELDS, 0), (200, MOST_FIELDS - 200)):
        response, _ = read(lambda data: pieces(data, size), heads(first, second))
        assert response is not None
        assert len(list(response.headers.raw_items())) == second
        with pytest.raises(BadResponse, match=TOO_MANY):
            read(lambda data: pieces(data, size), heads(first, second + 1))


def test_endless_interim_responses_end() -> None:
    reader = ResponseReader()
    size = 0
    with pytest.raises(BadResponse, match=TOO_LONG):  # noqa: PT012 - the last of many
        for _ in itertools.repeat(None):
            size += len(INTERIM) + 2
            assert reader.feed(INTERIM + b"\r\n") is None
    assert size <= LONGEST_HEADS + len(INTERIM) + 2


HOSTILE: dict[str, Callable[[int], bytes]] = {
    # of about so many bytes
    "blanks in a value": lambda n: OK + (b"a:" + b" " * 4_000 + b"\r\n") * (n // 4_000),
    "blanks and a letter": lambda n: OK + (b"a:" + b" " * 4_000 + b"b\r\n") * (n // 4_000),
    "blanks and tabs": lambda n: OK + (b"a:" + b" \t" * 2_000 + b"\r\n") * (n // 4_000),
    "blanks that end badly": lambda n: OK + b"a:" + b" " * (n // 4) + b"\0\r\n",
    "blanks in the reason": lambda n: b"HTTP/1.1 200 " + b" " * (n // 4) + b"\0\r\n",
    "a long name": lambda n: OK + b"a" * (n // 4) + b"\r\n",
    "a line without end": lambda n: OK + b"a" * (n // 4),
    "the same name again and again": lambda n: OK + (b"a:" + b"b" * 300 + b"\r\n") * (n // 304),
    "short lines": lambda n: (INTERIM + b"\r\n") * (n // 18),
}


@pytest.mark.parametrize("size", [1, 10_000_000])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_time_is_in_proportion_to_length(make: Callable[[int], bytes], size: int) -> None:
    def seconds(length: int) -> float:
        data = make(length)
        best = 10.0
        for _ in range(3):
            reader = ResponseReader()
            start = time.process_time()
            try:
                for piece in pieces(data, size):
                    if (response := reader.feed(piece)) is not None:
                        fields(response.headers)
            except BadResponse:
                pass
            best = min(best, time.process_time() - start)
        return best

    # Eight times the length; a quadratic step would take 64 times as long.
    assert seconds(128_000) < 24 * max(seconds(16_000), 2e-4)


# --- whatever comes ---

lines = st.one_of(
    st.sampled_from(
        [OK, UPGRADE, INTERIM, b"\r\n", b"\n", b"a: b\r\n", b"a:\r\n", b" c\r\n", b":\r\n"]
    ),
    st.binary(max_size=8),
)


@settings(max_examples=300)
@given(st.lists(lines, max_size=8).map(b"".join), st.lists(st.integers(0, 60), max_size=4))
def test_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    def outcome(edges: list[int]) -> object:
        reader = ResponseReader()
        fed = 0
        try:
            for start, stop in itertools.pairwise([0, *edges, len(data)]):
                fed = stop
                response = reader.feed(data[start:stop])
                if response is not None:
                    rest = reader.rest + data[fed:]
                    return response.status_code, fields(response.headers), rest, reader.version
        except BadResponse as exc:
            return str(exc)
        return None

    whole = outcome([])
    assert outcome(sorted(min(cut, len(data)) for cut in cuts)) == whole
    assert outcome([*range(len(data))]) == whole


def test_joined_fields() -> None:
    headers = Headers()
    for value in ("1", "", "3"):
        headers["X"] = value
    assert fields(headers) == {"x": "1, , 3"}
    assert fields(Headers()) == {}
