"""The head of an HTTP response (RFC 9112), read as it comes: a server's, or a proxy's.

Not by the library's ``Response.parse``, which waits for the body of a refusal, for ever if need
be, and refuses what user agents take.
"""

import string
from typing import Final

from websockets.datastructures import Headers
from websockets.http11 import Response

# RFC 9110 sections 5.5 and 5.6.2. Not as regular expressions, of which two cost the start 0.5 %.
_VALUE: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
_TOKEN: Final = b"!#$%&'*+-.^_`|~" + (string.digits + string.ascii_letters).encode()
_BEGINNING: Final = b"HTTP/1."
# Without the end of the line; what follows is with it.
LONGEST_LINE: Final = 32 * 2**10
LONGEST_HEADS: Final = 128 * 2**10
MOST_FIELDS: Final = 500
SWITCHING_PROTOCOLS: Final = 101


class BadResponse(Exception):
    """What comes is no response, or one beyond the limits; the words repeat nothing of it."""


class ResponseReader:
    """Takes bytes until the head of the final response is whole.

    Interim responses (RFC 9110 section 15.2) are passed over. The limits hold for all heads
    together, so that endless interim responses end.
    """

    def __init__(self) -> None:
        self.rest = b""
        """What came behind the head."""
        self.version = b""
        """``HTTP/1.1``, or ``HTTP/1.0`` as some proxies still say."""
        self._buffer = bytearray()
        self._searched = 0
        self._size = 0
        self._fields = 0
        self._status: int | None = None
        self._reason = b""
        self._headers = Headers()

    def feed(self, data: bytes) -> Response | None:
        """Take more bytes; return the final response when its head is whole.

        Raises:
            BadResponse: at the first line that cannot be one of a response.

        """
        self._buffer += data
        start = 0
        while (end := self._buffer.find(b"\n", max(start, self._searched))) >= 0:
            line = bytes(self._buffer[start:end])
            start = end + 1
            self._count(len(line))
            if not line.endswith(b"\r"):
                raise BadResponse("the response is not one of HTTP")
            if self._line(line[:-1]):
                assert self._status is not None
                self.rest = bytes(self._buffer[start:])
                return Response(self._status, self._reason.decode("latin-1"), self._headers)
        del self._buffer[:start]
        self._searched = len(self._buffer)
        if self._status is None and not _BEGINNING.startswith(self._buffer[: len(_BEGINNING)]):
            # Something else than a web server, which may never send the end of a line.
            raise BadResponse("the response is not one of HTTP")
        if (
            self._searched > LONGEST_LINE + len(b"\r")
            or self._size + self._searched > LONGEST_HEADS
        ):
            raise BadResponse("the response's head is too long")
        return None

    def _count(self, size: int) -> None:
        self._size += size + 1
        if size > LONGEST_LINE + len(b"\r") or self._size > LONGEST_HEADS:
            raise BadResponse("the response's head is too long")

    def _line(self, line: bytes) -> bool:
        """Take one line; tell whether the final response's head ends with it."""
        if self._status is None:
            self._status_line(line)
            return False
        if line:
            self._field(line)
            return False
        if self._status >= 200 or self._status == SWITCHING_PROTOCOLS:
            return True
        self._status, self._headers = None, Headers()
        return False

    def _status_line(self, line: bytes) -> None:
        # RFC 9112 section 4: the reason may be empty, and many leave out the blank before it, too.
        version, code, blank, reason = line[:9], line[9:12], line[12:13], line[13:]
        if (
            version not in (b"HTTP/1.1 ", b"HTTP/1.0 ")
            or len(code) != 3
            or not code.isdigit()
            or code[0] not in b"12345"
            or blank not in (b"", b" ")
            or reason.translate(None, _VALUE)
        ):
            raise BadResponse("the response is not one of HTTP")
        self.version, self._status, self._reason = version[:-1], int(code), reason

    def _field(self, line: bytes) -> None:
        # Folded lines (RFC 9112 section 5.2) are refused.
        name, colon, value = line.partition(b":")
        if not name or not colon or name.translate(None, _TOKEN) or value.translate(None, _VALUE):
            raise BadResponse("the response is not one of HTTP")
        self._fields += 1
        if self._fields > MOST_FIELDS:
            raise BadResponse("the response's head has too many fields")
        self._headers[name.decode()] = value.strip(b"\t ").decode("latin-1")


def fields(headers: Headers) -> dict[str, str]:
    """Return the fields of a response, names in lower case, repeated ones joined (RFC 9110 5.3)."""
    joined: dict[str, str] = {}
    for name, value in headers.raw_items():
        name = name.lower()
        if name in joined:
            value = joined[name] + ("\n" if name == "set-cookie" else ", ") + value
        joined[name] = value
    return joined
