"""Lines from the host to requests (``messages.py``), each finished in one go."""

import functools
import re
from collections.abc import Callable

import msgspec
from msgspec import Raw

from wsplugin.encoding import encode
from wsplugin.messages import (
    BINARY,
    MAX_HEADERS,
    MAX_PROTOCOLS,
    SLICE,
    TEXT,
    WHITE_SPACE,
    Id,
    RequestError,
    shorten,
)
from wsplugin.mistakes import BLANKS, COLON, STRING, explain, not_utf8
from wsplugin.requests import (
    Create,
    LongCreate,
    LongLine,
    NewConnection,
    OutgoingMessage,
    Request,
    Send,
    SendArrayBuffer,
    SendNumbers,
    SendText,
    ShortLine,
    ShortSend,
    too_many_headers,
)

_decode_short: Callable[[bytes | bytearray], ShortLine] = msgspec.json.Decoder(ShortLine).decode
_decode_numbers = msgspec.json.Decoder(list[int]).decode

# More members than are allowed, each with a comma behind it.
_MANY_HEADERS = rb"\{(?:%b%b%b%b%b,){%d}" % (
    *(BLANKS, STRING, COLON, STRING, BLANKS),
    MAX_HEADERS,
)
_MANY_PROTOCOLS = rb"\[(?:%b%b%b,){%d}" % (BLANKS, STRING, BLANKS, MAX_PROTOCOLS)


@functools.cache
def _long_decoder() -> Callable[[bytes | bytearray], LongLine]:
    # Made with the first long line, since most sessions have none and all have a start.
    return msgspec.json.Decoder(LongLine).decode


def decode_request(line: bytes | bytearray) -> Request | None:
    """Decode one line from the host, without its LF; None for a blank line.

    Raises:
        RequestError: with the id of the request wherever one can be read.

    """
    try:
        if len(line) > SLICE:
            return _decode_long_line(line)
        request = _decode_short(line)
        if not isinstance(request, ShortSend):
            return _finish(request) if isinstance(request, Create) else request
        id, app, payload = request.id, request.app, request.payload
        if isinstance(payload, SendText):
            return OutgoingMessage(id, app, payload.id, TEXT, payload.data.encode())
        if isinstance(payload, SendNumbers):
            return OutgoingMessage(id, app, payload.id, BINARY, to_bytes(payload.data, id))
        return OutgoingMessage(id, app, payload.id, BINARY, payload.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        words = shorten(str(exc))
    # Only now, when the exception is gone: what it holds of the line may be as long as that.
    if not line.strip(WHITE_SPACE):
        return None
    raise explain(line, words)


def _decode_long_line(line: bytes | bytearray) -> Request:
    """Decode a line that may hold more than should be made objects of.

    Leaving the numbers of a message undecoded at first bounds the memory of long lines; for
    1 KiB it would take 38 microseconds in place of 28.
    """
    request = _long_decoder()(line)
    if isinstance(request, LongCreate):
        _check_counts(request)
        # Written anew, it is what has been counted: a name given twice stands in it once.
        return _finish(msgspec.json.decode(encode(request), type=Create))
    if not isinstance(request, Send):
        return request
    id, app, payload = request.id, request.app, request.payload
    if isinstance(payload, SendText):
        return OutgoingMessage(id, app, payload.id, TEXT, payload.data.encode())
    if isinstance(payload, SendArrayBuffer):
        return OutgoingMessage(id, app, payload.id, BINARY, decode_bytes(payload.data, id))
    return OutgoingMessage(id, app, payload.id, BINARY, payload.data)


def _finish(create: Create) -> NewConnection:
    """Fill in what the host has left open, or has left to the plugin by a null."""
    payload = create.payload
    return NewConnection(
        create.id,
        create.app,
        payload.url,
        payload.headers or {},
        create.headers or {},
        payload.protocols or [],
        payload.timeout,
        payload.per_message_deflate is not False,
        payload.binary_type or "arraybuffer",
        payload.tcp_no_delay is not False,
    )


def _check_counts(create: LongCreate) -> None:
    """Refuse too many headers or subprotocols before an object is made of each.

    Raises:
        RequestError: ``invalid-payload``, or ``invalid-request`` for the host's own headers.

    """
    payload = create.payload
    if re.match(_MANY_HEADERS, payload.headers):
        error = too_many_headers("payload.headers")
    elif re.match(_MANY_PROTOCOLS, payload.protocols):
        words = f"payload.protocols: expected at most {MAX_PROTOCOLS}"
        error = RequestError("invalid-payload", words)
    elif re.match(_MANY_HEADERS, create.headers):
        error = too_many_headers("headers")
    else:
        return
    error.id = create.id
    raise error


def decode_bytes(data: Raw, id: Id = None) -> bytearray:
    """Decode the JSON array of an ``arraybuffer`` message, :data:`SLICE` characters at a time.

    Args:
        data: the array.
        id: of the request, for the error.

    Raises:
        RequestError: ``invalid-payload``, naming the element.

    """
    text = memoryview(data)
    message = bytearray()
    start = 0
    try:
        while start < len(text):
            # Cut behind a comma: without nesting and strings, which are errors anyway, every
            # comma stands between two elements.
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
            message += to_bytes(_decode_numbers(piece), id, len(message))
            start = stop
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        index = re.search(r"`\$\[(\d+)\]", str(exc))
        where = f"payload.data[{int(index[1]) + len(message)}]" if index else "payload.data"
        error = RequestError(
            "invalid-payload", f"{where}: expected an array of integers 0 to 255", id
        )
    except RequestError as exc:
        error = exc
    else:
        return message
    if not_utf8(data):  # which msgspec does not see in what it leaves undecoded
        error = RequestError("invalid-json", "the line is not UTF-8", id)
    raise error


def to_bytes(numbers: list[int], id: Id = None, offset: int = 0) -> bytearray:
    """Make bytes of numbers, the first of which is element `offset` of ``payload.data``.

    Raises:
        RequestError: ``invalid-payload``, naming the element; `id` is that of the request.

    """
    try:
        # It checks the range, for 3 ns a number; bytes() takes 8, constraints on the type 8 too.
        return bytearray(numbers)
    except (ValueError, OverflowError):
        at = next(i for i, number in enumerate(numbers) if not 0 <= number <= 255)
    raise RequestError(
        "invalid-payload", f"payload.data[{at + offset}]: expected an integer 0 to 255", id
    )
