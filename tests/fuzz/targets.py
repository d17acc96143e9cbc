"""What is done with the bytes of one input, and what must hold of it whatever they are.

A target returns, or raises :class:`Found`. Any other exception is a fault as well.
"""

import codecs
import ipaddress
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import ada_url
from websockets.exceptions import InvalidHeader
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import CLIENT, Protocol, State
from websockets.streams import StreamReader

from wsplugin.decoding import decode_request
from wsplugin.lines import Lines
from wsplugin.log import SILENT
from wsplugin.messages import ACTIONS, RequestError
from wsplugin.network.compression import Deflate
from wsplugin.network.frames import Frames, Taken, Violation
from wsplugin.network.inbox import Inbox
from wsplugin.network.response import BadResponse, ResponseReader
from wsplugin.policy import parse_url
from wsplugin.recording.transcript import parse

MAX_LINE: Final = 4_096
MAX_SIZE: Final = 4_096


class Found(Exception):
    """Something that must hold does not."""


def cut(data: bytes) -> Iterator[bytes]:
    """Cut an input into pieces; its first byte says how long they are."""
    if not data:
        return
    size, data = data[0] % 32 + 1, data[1:]
    for start in range(0, len(data), size):
        yield data[start : start + size]


# --- lines from the host ---


def lines(data: bytes) -> None:
    """The host's stream: lines are the same however they come, and each is judged as JSON is."""
    in_pieces, whole = Lines(MAX_LINE), Lines(MAX_LINE)
    split = [line for piece in cut(data) for line in in_pieces.feed(piece)]
    split += in_pieces.end()
    at_once = [*whole.feed(data[1:]), *whole.end()]
    if [outcome(line) for line in split] != [outcome(line) for line in at_once]:
        raise Found("lines differ with how they come")
    for line in at_once:
        if not isinstance(line, RequestError):
            judge(bytes(line))


def outcome(line: bytes | bytearray | RequestError) -> Any:
    """What a line has become, in a form that can be compared."""
    return (line.code, line.id) if isinstance(line, RequestError) else bytes(line)


def judge(line: bytes) -> None:
    """Compare what becomes of a line with what the standard library makes of it."""
    try:
        request = decode_request(line)
    except RequestError as error:
        request, id = None, error.id
        code: str = error.code
    else:
        code, id = "", None
        if request is None:
            if line.strip(b" \t\r\n"):
                raise Found("a line is passed over")
            return
    doubled = False

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal doubled
        doubled |= len(dict(members)) != len(members)
        return dict(members)

    try:
        value = json.loads(line.decode(), object_pairs_hook=pairs, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
    except (ValueError, RecursionError):
        if code != "invalid-json":
            raise Found(f"no JSON, and not refused as such, but {code or request}") from None
        return
    if doubled:
        return
    if not code:
        if not isinstance(value, dict) or value["action"] not in ACTIONS:
            raise Found("what is no request has been taken for one")
        if request is not None and request.id != value.get("id"):
            raise Found("another id")
    elif (
        isinstance(value, dict)
        and is_id(value.get("id"))
        and id != value.get("id")
        # Nested too deep: then it is looked for no further than msgspec goes.
        and code != "invalid-json"
    ):
        raise Found(f"{code} with the id {id!r}")


def refuse(constant: str) -> Any:
    """Refuse NaN and its like, which are no JSON."""
    raise ValueError(constant)


def is_id(value: Any) -> bool:
    """Tell whether this can be the id of a request."""
    if isinstance(value, bool):
        return False
    return isinstance(value, str) or (isinstance(value, int) and -(2**63) <= value < 2**63)


# --- frames from the server ---


class Receiver:
    """Takes messages, and what else comes of frames, as things to be compared."""

    def __init__(self, extension: Deflate | None) -> None:
        self.protocol = opened(extension)
        self.inbox = Inbox()
        self.frames = Frames(self.protocol, MAX_SIZE, self)
        self.got: list[Any] = []
        self.is_over = False

    def append_text(self, buffer: bytearray, text: str) -> None:
        """Take a text message."""
        self.got.append(text)

    def append_binary(self, buffer: bytearray, data: memoryview | bytes | bytearray) -> None:
        """Take a binary message."""
        self.got.append(bytes(data))

    def receive(self, data: bytes) -> None:
        """Take bytes as the wire does."""
        self.inbox.put(data)
        taken: Taken | None = None
        while not self.is_over and taken is not Taken.ALL:
            try:
                taken = self.frames.take(self.inbox, bytearray(), 0)
            except Violation:
                self.is_over = True
                self.got.append("violation")
                return
            if taken is Taken.PONG:
                self.got.append(("pong", self.frames.pong))
            if taken is Taken.PING:
                self.got.append(("ping", b"".join(self.protocol.data_to_send())[6:] != b""))
            if taken is Taken.CLOSE:
                self.is_over = True
                close = self.protocol.close_rcvd
                assert close
                self.got.append(("close", close.code, close.reason))


def negotiated() -> Deflate:
    """Return the extension as a server negotiates it in most cases.

    Ours for both: the library's reads no further than a final block (RFC 7692 section 7.2.3.5).
    """
    theirs = PerMessageDeflate(
        remote_no_context_takeover=False,
        local_no_context_takeover=False,
        remote_max_window_bits=15,
        local_max_window_bits=15,
    )
    return Deflate(theirs, compress=False)


def opened(extension: Any) -> Any:
    """Return a client's protocol, open."""
    protocol = Protocol(CLIENT, state=State.OPEN, max_size=MAX_SIZE, logger=SILENT)
    protocol.extensions = [extension] if extension else []
    return protocol


def by_the_library(data: bytes, extension: Any) -> list[Any]:
    """Return what the library's parser makes of the same bytes."""
    protocol = opened(extension)
    # The library takes a length that is longer than need be.
    long_length = first_long_length(data)
    protocol.receive_data(data[:long_length])
    got: list[Any] = []
    message, is_text, texts = bytearray(), False, ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        match event.opcode:
            case Opcode.PING:
                got.append(("ping", bool(event.data)))
            case Opcode.PONG:
                got.append(("pong", bytes(event.data)))
            case Opcode.CLOSE:
                close = protocol.close_rcvd
                assert close
                return [*got, ("close", close.code, close.reason)]
            case opcode:
                if opcode is not Opcode.CONT:
                    is_text = opcode is Opcode.TEXT
                message += event.data
                if len(message) > MAX_SIZE:
                    return [*got, "violation"]
                try:
                    text = decoder.decode(event.data, event.fin) if is_text else ""
                except UnicodeDecodeError:
                    return [*got, "violation"]
                texts += text
                if event.fin:
                    got.append(texts if is_text else bytes(message))
                    message, texts = bytearray(), ""
    match protocol.parser_exc:
        case None:
            return got if long_length is None else [*got, "violation"]
        case exc if str(exc) == "incomplete fragmented message":
            return [*got, "close between fragments"]  # which RFC 6455 section 5.4 allows
    return [*got, "violation"]


def frames(data: bytes) -> None:
    """The server's stream: our way and the library's parser find the same, however it comes."""
    if not data:
        return
    compressed = data[0] & 0x80
    receiver = Receiver(negotiated() if compressed else None)
    for piece in cut(data):
        receiver.receive(piece)
    theirs = by_the_library(data[1:], negotiated() if compressed else None)
    if receiver.got == theirs[:-1] and theirs[-1:] == ["violation"]:
        # The library judges an opcode by the header; we do with the whole frame.
        receiver.receive(bytes(MAX_SIZE * 2))
    ours = receiver.got
    if ours[:-1] == theirs and ours[-1:] == ["violation"]:
        # We judge a length by the header, and a text inside its frame; the library does with the
        # whole frame.
        stream = data[1:] + bytes(MAX_SIZE * 2)
        theirs = by_the_library(stream, negotiated() if compressed else None)
    if theirs[-1:] == ["close between fragments"]:
        theirs[-1:] = ours[-1:]
    if ours != theirs:
        raise Found(f"ours {ours!r}, the library's {theirs!r}")


def first_long_length(stream: bytes) -> int | None:
    """Return where a frame begins whose length could be written shorter (RFC 6455 section 5.2)."""
    at = 0
    while at + 2 <= len(stream):
        length, size = stream[at + 1] & 0x7F, 0
        if length >= 126:
            size = 2 if length == 126 else 8
            if at + 2 + size > len(stream):
                return None
            shortest = 126 if length == 126 else 65536
            length = int.from_bytes(stream[at + 2 : at + 2 + size])
            if length < shortest:
                return at
        at += 2 + size + length
    return None


# --- the head of a response ---


def response(data: bytes) -> None:
    """A head is the same however it comes, and the same as the library's if that takes it."""
    split, at_once = read_head(cut(data)), read_head(iter([data[1:]]))
    if split != at_once:
        raise Found(f"in pieces {split!r}, at once {at_once!r}")
    theirs = by_the_library_head(data[1:])
    if theirs is not None and at_once != theirs:
        raise Found(f"ours {at_once!r}, the library's {theirs!r}")


def read_head(pieces: Iterator[bytes]) -> Any:
    """Return status and fields; None while they are not whole, "bad" for what is none."""
    reader = ResponseReader()
    for piece in pieces:
        try:
            if (head := reader.feed(piece)) is not None:
                return head.status_code, list(head.headers.raw_items())
        except BadResponse:
            return "bad"
    return None


def by_the_library_head(data: bytes) -> Any:
    """Return what the library makes of the head of a response that accepts a WebSocket."""
    stream = StreamReader()
    stream.feed_data(data)
    parser = Response.parse(stream.read_line, stream.read_exact, stream.read_to_eof)
    try:
        next(parser)
    except StopIteration as exc:
        head: Response = exc.value
        if head.status_code == 101:
            return head.status_code, list(head.headers.raw_items())
    except (ValueError, EOFError, RuntimeError, InvalidHeader):
        pass  # ours takes more than the library does, which its own tests hold
    return None


# --- URLs ---


def urls(data: bytes) -> None:
    """What we take for a URL a WHATWG parser takes for the same one.

    | difference | why it is none to worry about |
    | --- | --- |
    | dot segments stay | RFC 6455 has the path as it is given; the server resolves them |
    | escapes | more or fewer for the same: compared without them |
    | a backslash | WHATWG takes it for a slash, we escape it: never does it end our host |
    | IPv6 with a dotted end | another spelling of one address |
    """
    try:
        text = data.decode()
        target = parse_url(text)
    except (UnicodeDecodeError, RequestError):
        return
    try:
        theirs = ada_url.URL(text)
    except ValueError:
        raise Found(f"a WHATWG parser refuses {text!r}") from None
    if same_host(theirs.hostname) != same_host(target.host):
        raise Found(f"host {target.host!r}, by WHATWG {theirs.hostname!r}")
    if int(theirs.port or (443 if target.secure else 80)) != target.port:
        raise Found(f"port {target.port}, by WHATWG {theirs.port!r}")
    ours, _, query = target.url.partition("://")[2].partition("?")
    path = ours.partition("/")[2]
    if "\\" in text or any(is_dots(segment) for segment in path.split("/")):
        return
    if plain("/" + path) != plain(theirs.pathname):
        raise Found(f"path /{path!r}, by WHATWG {theirs.pathname!r}")
    if plain(query) != plain(theirs.search.removeprefix("?")):
        raise Found(f"query {query!r}, by WHATWG {theirs.search!r}")


def same_host(host: str) -> str:
    """Bring an IPv6 address into one form."""
    if ":" not in host:
        return host
    return ipaddress.IPv6Address(host.strip("[]")).compressed


def is_dots(segment: str) -> bool:
    """Tell whether WHATWG would resolve a segment of the path."""
    return segment.lower().replace("%2e", ".") in (".", "..")


def plain(text: str) -> str:
    """Undo escapes, which may be more or fewer."""
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(text).decode("latin-1")


# --- transcripts ---


def transcripts(data: bytes) -> None:
    """A transcript is one, or its mistake has a line and words."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        parse(text)
    except ValueError as exc:
        if not str(exc):
            raise Found("a mistake without words") from None


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "lines": lines,
    "frames": frames,
    "response": response,
    "urls": urls,
    "transcripts": transcripts,
}
