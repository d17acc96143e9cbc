"""Lines from the host to requests (``messages.py``)."""

import re
from collections.abc import Callable

import msgspec
from msgspec import Raw

from wsplugin.messages import SLICE, WHITE_SPACE, Request, RequestError, ShortRequest

_decode_long: Callable[[bytes | bytearray], Request] = msgspec.json.Decoder(Request).decode
_decode_short: Callable[[bytes | bytearray], ShortRequest] = msgspec.json.Decoder(
    ShortRequest
).decode
_decode_numbers = msgspec.json.Decoder(list[int]).decode


def decode_request(line: bytes | bytearray) -> Request | ShortRequest | None:
    """Decode one line from the host, without its LF; None for a blank line.

    Leaving the numbers of a message undecoded at first bounds the memory of long lines; for
    1 KiB it would take 38 microseconds in place of 28.

    Raises:
        RequestError: with the id of the request wherever one can be read.

    """
    try:
        return _decode_short(line) if len(line) <= SLICE else _decode_long(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        if not line.strip(WHITE_SPACE):
            return None
        from wsplugin.mistakes import explain

        raise explain(line, exc) from None


def decode_bytes(data: Raw) -> bytearray:
    """Decode the JSON array of an ``arraybuffer`` message, :data:`SLICE` characters at a time.

    Raises:
        RequestError: ``invalid-payload``, naming the element.

    """
    try:
        return _decode_bytes(memoryview(data))
    except RequestError:
        from wsplugin.mistakes import not_utf8

        if not_utf8(data):  # which msgspec does not see in what it leaves undecoded
            raise RequestError("invalid-json", "the line is not UTF-8") from None
        raise


def _decode_bytes(text: memoryview) -> bytearray:
    if len(text) <= SLICE:
        return _decode_slice(text, 0)
    message = bytearray()
    start = 0
    while start < len(text):
        # Cut behind a comma: without nesting and strings, which are errors anyway, every comma
        # stands between two elements.
        stop = start + SLICE
        comma = -1
        while stop < len(text) and comma < 0:
            comma = bytes(text[stop - SLICE : stop]).rfind(b",")
            stop += SLICE if comma < 0 else comma + 1 - SLICE
        piece = bytes(text[start:stop])
        if start:
            piece = b"[" + piece
        if comma >= 0:
            piece = piece[:-1] + b"]"
        message += _decode_slice(piece, len(message))
        start = stop
    return message


def _decode_slice(text: memoryview | bytes, offset: int) -> bytearray:
    """Decode a JSON array of bytes; `offset` is the index of its first element."""
    try:
        numbers = _decode_numbers(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        index = re.search(r"`\$\[(\d+)\]", str(exc))
        where = f"payload.data[{int(index[1]) + offset}]" if index else "payload.data"
        raise RequestError(
            "invalid-payload", f"{where}: expected an array of integers 0 to 255"
        ) from None
    return to_bytes(numbers, offset)


def to_bytes(numbers: list[int], offset: int = 0) -> bytearray:
    """Make bytes of numbers, the first of which is element `offset` of ``payload.data``.

    Raises:
        RequestError: ``invalid-payload``, naming the element.

    """
    try:
        # It checks the range, for 3 ns a number; bytes() takes 8, constraints on the type 8 too.
        return bytearray(numbers)
    except (ValueError, OverflowError):
        at = next(i for i, number in enumerate(numbers) if not 0 <= number <= 255)
    raise RequestError(
        "invalid-payload", f"payload.data[{at + offset}]: expected an integer 0 to 255"
    )
