"""What is wrong with a line, in the contract's words.

A mistake costs no more than the line it is found in: nothing is built of it but the names and
values that are told. Imported with the session, since no file may be left to open when the first
mistake is made; patterns are compiled only then.
"""

import codecs
import re
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from wsplugin.messages import ACTIONS, SLICE, Id, RequestError, shorten

# How much of a line is searched for its id where the line as a whole cannot be decoded.
ID_WITHIN: Final = 65_536

# Parts of JSON (RFC 8259) as patterns. None of them ever goes back (++, *+): they would have to
# remember each character passed, in many times the memory of the line.
BLANKS: Final = rb"[ \t\r\n]*+"
COLON: Final = BLANKS + b":" + BLANKS
STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR = STRING + rb"|[-+.0-9A-Za-z]++"
# A member, its name and its value, or as much of that as its bracket if it is an array or object.
# Members that are surely none of interest are passed over with it: this is the fastest loop.
_MEMBER = rb'(?:%b"(?!id")[^"\\]*+"%b(?:%b)%b,)*+%b(%b)%b(?:(%b)|[\[{])' % (
    *(BLANKS, COLON, _SCALAR, BLANKS),
    *(BLANKS, STRING, COLON, _SCALAR),
)
_BEHIND_MEMBER = BLANKS + rb"([,}])"
# What is nested, up to brackets, which open or close.
_NESTED = rb'(?:[^"\[\]{}]++|%b|[\[{][^"\[\]{}]*+[\]}])*+(?:([\[{]++)|([\]}]++))' % STRING
# The name of the first member of an object whose value is no string.
_NO_STRING = rb"\{(?:%b%b%b%b%b,)*+%b(%b)%b[^\"]" % (
    *(BLANKS, STRING, COLON, STRING, BLANKS),
    *(BLANKS, STRING, COLON),
)

_decode_id: Callable[[bytes | bytearray | Raw], Id] = msgspec.json.Decoder(Id).decode


class _IdAlone(Struct):
    id: Raw = Raw(b"null")


class _Envelope(_IdAlone, forbid_unknown_fields=True):
    action: Raw | UnsetType = UNSET
    app: Raw | UnsetType = UNSET
    headers: Raw | UnsetType = UNSET
    payload: Raw | UnsetType = UNSET


class _Headers(Struct):
    headers: Raw = Raw(b"{}")


def not_utf8(data: bytes | bytearray | Raw) -> bool:
    """Tell whether bytes are no UTF-8."""
    view = memoryview(data)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(view), SLICE):
            decoder.decode(view[start : start + SLICE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return True
    return False


def decode_id(raw: bytes | bytearray | Raw) -> Id:
    """Read an id on its own; None for what is none."""
    try:
        return _decode_id(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


# --- lines that are not looked at as a whole ----------------------------------------------------


def too_long(start: bytes | bytearray, limit: int) -> RequestError:
    """Say that a line exceeds `limit` bytes; `start` is its beginning, searched for its id."""
    words = f"the line is longer than {limit} bytes (--max-line)"
    return RequestError("line-too-long", words, find_id(start))


def find_id(start: bytes | bytearray) -> Id:
    """Read the id at the top level of a line of which there is only the beginning.

    Members are passed over as long as they are whole. Of an id that is given twice the last
    counts, as in lines that can be decoded.
    """
    id: Id = None
    member, behind_member = re.compile(_MEMBER), re.compile(_BEHIND_MEMBER)
    behind = re.match(BLANKS + rb"([{])", start)
    while behind and behind[1] != b"}" and (found := member.match(start, behind.end())):
        end = found.end() if found[2] is not None else _end_of_nested(start, found.end())
        behind = behind_member.match(start, end)
        # A number without anything behind it may go on.
        if behind and decode_id(found[1]) == "id":
            id = decode_id(found[2] or b"")
    return id


def _end_of_nested(text: bytes | bytearray, at: int) -> int:
    """Return where an object or array ends whose bracket is before `at`; if not, the text's end."""
    nested = re.compile(_NESTED)
    depth = 1
    # Not finditer(), which would try again at every later place where there is no match at one.
    while found := nested.match(text, at):
        at = found.end()
        if found[1]:
            depth += len(found[1])
        elif len(found[2]) < depth:
            depth -= len(found[2])
        else:
            return found.start(2) + depth
    return len(text)


# --- lines that cannot be decoded ---------------------------------------------------------------


def explain(line: bytes | bytearray, words: str) -> RequestError:
    """Turn a failed decoding into the contract's error, reading the line a second time.

    The first decoding stops at the first thing wrong, loses the id, and tells what was wrong in
    `words` that a name chosen by the host can imitate. Leaving values undecoded (``Raw``) checks
    that all of the line is JSON without building it.
    """
    try:
        return _explain(line, words)
    except RecursionError:
        id = find_id(line[:ID_WITHIN])
        return RequestError("invalid-json", "the JSON is nested too deep", id)


def _explain(line: bytes | bytearray, words: str) -> RequestError:
    readable = line
    try:
        try:
            msgspec.json.decode(line, type=Raw)
        except msgspec.DecodeError:
            # A lone surrogate is JSON, though no text. msgspec refuses it as if it were neither, so
            # all surrogates become what is both.
            msgspec.json.decode(_replace(line, _OTHER_ESCAPES), type=Raw)
            readable = _replace(line, _NO_ESCAPES)
    except msgspec.DecodeError as exc:
        return RequestError("invalid-json", f"the line is not JSON: {exc}")
    try:
        raw_id = msgspec.json.decode(readable, type=_IdAlone).id
    except msgspec.DecodeError:
        raw_id = Raw(b"null")  # the line is no object
    if not_utf8(line):
        return RequestError("invalid-json", "the line is not UTF-8", decode_id(raw_id))
    if readable is not line:
        id = decode_id(_replace(bytes(raw_id), [(new, old) for old, new in _NO_ESCAPES]))
        return RequestError("invalid-json", "a lone surrogate escape is no text", id)
    return _explain_request(line, decode_id(raw_id), words)


# What begins the escape of a surrogate (d800 to dfff), and what can stand there in its place, be
# it an escape or behind a backslash that is one: some other character's escape, and what no line
# in UTF-8 has, so that it can be taken back.
_OTHER_ESCAPES = [(rb"\ud", rb"\ue"), (rb"\uD", rb"\ue")]
_NO_ESCAPES = [(rb"\ud", b"\\/\xfe"), (rb"\uD", b"\\/\xff")]


def _replace(text: bytes | bytearray, changes: list[tuple[bytes, bytes]]) -> bytes | bytearray:
    for old, new in changes:
        text = text.replace(old, new)
    return text


def _explain_request(line: bytes | bytearray, id: Id, words: str) -> RequestError:
    """Say what makes a JSON text no request; its members are undecoded but for three."""
    try:
        envelope = msgspec.json.decode(line, type=_Envelope)
    except msgspec.DecodeError as exc:
        unknown = re.fullmatch("Object contains unknown field `(.*)`", shorten(str(exc)), re.DOTALL)
        why = "expected an object of id, action and payload"
        return RequestError(
            "invalid-request", f"{unknown[1]}: unknown field" if unknown else why, id
        )
    if id is None and envelope.id != Raw(b"null"):
        return RequestError("invalid-request", "id: expected a 64-bit integer or a string", id)
    if envelope.action is UNSET:
        return RequestError("invalid-request", "action: missing", id)
    action = decode_id(envelope.action)  # a string, or nothing that could be an action
    if not isinstance(action, str):
        return RequestError("invalid-request", "action: expected a string", id)
    if action not in ACTIONS:
        return RequestError("unknown-action", f"action: there is no {shorten(action)!r}", id)
    path, detail = _split(words)
    if path == "payload.headers[...]" and isinstance(envelope.payload, Raw):
        path = f"payload.headers[{_wrong_header(envelope.payload)}]"
    if path == "headers[...]":
        path = f"headers[{_wrong_header(line)}]"
    if path == "headers" and action != "websocket-create":
        detail = "unknown field"
    if path.startswith("payload"):
        return RequestError("invalid-payload", f"{path}: {detail}", id)
    # Of a member that is given twice the first one is wrong, and the last one is looked at here.
    return RequestError("invalid-request", f"{path}: {detail}", id)


def _split(words: str) -> tuple[str, str]:
    """Split msgspec's words about a request into the path of a field and what is wrong with it."""
    detail, _, path = words.rpartition(" - at `$.")
    if not detail:
        detail, path = words, "payload"
    path = path.rstrip("`")
    field = re.fullmatch(
        r"Object (missing required|contains unknown) field `(.*)`", detail, re.DOTALL
    )
    if field is None:
        return path, detail
    if field[1] == "missing required":
        return path if field[2] == "payload" else f"{path}.{field[2]}", "missing"
    return f"{path}.{field[2]}", "unknown field"


def _wrong_header(payload: Raw | bytes | bytearray) -> str:
    """Name the header that is no string, which msgspec does not."""
    try:
        headers = msgspec.json.decode(payload, type=_Headers).headers
    except msgspec.DecodeError:
        return "..."  # payload was given twice, and only one of the two is an object
    found = re.match(_NO_STRING, headers)
    name = decode_id(found[1]) if found else None
    return msgspec.json.encode(shorten(name)).decode() if isinstance(name, str) else "..."
