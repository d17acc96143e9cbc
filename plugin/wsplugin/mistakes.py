"""What is wrong with a line, in the contract's words: loaded with the first such line."""

import re
from collections.abc import Callable

import msgspec
from msgspec import Raw, Struct

from wsplugin.messages import ACTIONS, Id, RequestError

_decode_raw = msgspec.json.Decoder(Raw).decode
_decode_id: Callable[[bytes | Raw], Id] = msgspec.json.Decoder(Id).decode


class _IdAlone(Struct):
    id: Raw = Raw(b"null")


class _Headers(Struct):
    headers: dict[str, Raw]


class _HeadersEnvelope(Struct):
    payload: _Headers


_decode_id_alone = msgspec.json.Decoder(_IdAlone).decode
_decode_envelope = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_headers = msgspec.json.Decoder(_HeadersEnvelope).decode


def not_utf8(data: bytes | bytearray | Raw) -> bool:
    """Tell whether bytes are no UTF-8."""
    try:
        str(memoryview(data), "utf-8")
    except UnicodeDecodeError:
        return True
    return False


def decode_id(raw: bytes | Raw) -> Id:
    """Read an id on its own; None for what is none."""
    try:
        return _decode_id(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


_LEADING_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*(-?\d+|"(?:[^"\\]|\\.)*")\s*,')


def too_long(start: bytes | bytearray, limit: int) -> RequestError:
    """Say that a line exceeds `limit` bytes; `start` is its beginning, read for a leading id."""
    leading = _LEADING_ID.match(start)
    id = decode_id(leading[1]) if leading else None
    return RequestError("line-too-long", f"the line is longer than {limit} bytes (--max-line)", id)


def explain(line: bytes | bytearray, exc: Exception) -> RequestError:
    """Turn a failed decoding into the contract's error, reading the line a second time.

    The first decoding stops at the first thing wrong, loses the id, and tells what was wrong in
    words that a name chosen by the host can imitate. Leaving values undecoded (``Raw``) checks
    that all of the line is JSON without building it.
    """
    try:
        _decode_raw(line)
    except RecursionError:
        return RequestError("invalid-json", "the JSON is nested too deep")
    except msgspec.DecodeError as error:
        if re.search(rb"\\u[dD][89a-fA-F]", line):
            return _explain_surrogates(line, error)
        return RequestError("invalid-json", f"the line is not JSON: {error}")
    try:
        id = decode_id(_decode_id_alone(line).id)
    except (msgspec.DecodeError, RecursionError):
        id = None
    if not_utf8(line):
        return RequestError("invalid-json", "the line is not UTF-8", id)
    try:
        envelope = _decode_envelope(line)
    except (msgspec.DecodeError, RecursionError):
        return RequestError("invalid-request", "expected an object of id, action and payload", id)
    for name in envelope:
        if name not in ("id", "action", "payload"):
            return RequestError("invalid-request", f"{name}: unknown field", id)
    if id is None and bytes(envelope.get("id", b"null")).strip() != b"null":
        return RequestError("invalid-request", "id: expected a 64-bit integer or a string", id)
    if "action" not in envelope:
        return RequestError("invalid-request", "action: missing", id)
    action = decode_id(envelope["action"])  # a string, or nothing that could be an action
    if not isinstance(action, str):
        return RequestError("invalid-request", "action: expected a string", id)
    if action not in ACTIONS:
        return RequestError("unknown-action", f"action: there is no {action!r}", id)
    return RequestError("invalid-payload", _explain_payload(line, str(exc)), id)


def _explain_payload(line: bytes | bytearray, message: str) -> str:
    """Put msgspec's words about a payload as ``path: what is wrong``."""
    detail, _, path = message.rpartition(" - at `$.")
    if not detail:
        detail, path = message, "payload"
    path = path.rstrip("`")
    field = re.fullmatch(
        r"Object (missing required|contains unknown) field `(.*)`", detail, re.DOTALL
    )
    if field:
        missing = field[1] == "missing required"
        path = f"{path}.{field[2]}" if field[2] != "payload" or not missing else "payload"
        detail = "missing" if missing else "unknown field"
    if path == "payload.headers[...]":
        try:
            headers = _decode_headers(line).payload.headers
        except (msgspec.DecodeError, RecursionError):
            headers = {}  # given twice, and only one of them is an object
        for name, value in headers.items():
            if bytes(value)[:1] != b'"':
                path = f"payload.headers[{msgspec.json.encode(name).decode()}]"
    return f"{path}: {detail}"


def _explain_surrogates(line: bytes | bytearray, error: Exception) -> RequestError:
    """Tell a lone surrogate escape, which is JSON but no text, from what is not JSON.

    msgspec refuses both with the same words; the standard library reads surrogates.
    """
    import json

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        # Numbers are of no interest, and must neither overflow nor take long.
        value = json.loads(
            line.decode(errors="replace"),
            parse_constant=refuse,
            parse_float=lambda digits: None,
            parse_int=lambda digits: decode_id(digits.encode()),
        )
    except (ValueError, RecursionError):
        return RequestError("invalid-json", f"the line is not JSON: {error}")
    id = value.get("id") if isinstance(value, dict) else None
    if isinstance(id, bool) or not isinstance(id, int | str):
        id = None
    if isinstance(id, str) and not _is_text(id):
        id = None
    return RequestError("invalid-json", "a lone surrogate escape is no text", id)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
