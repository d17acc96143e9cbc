"""What of a line goes into a recording: what is known to be harmless in its place and of its type.

All else becomes a placeholder, which matches whatever a host says there, because a host that
misspells ``headers``, or puts them where a timeout belongs, has secrets too. Of a line that is no
JSON nothing can be told. Pure: lines in, text out.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from wsplugin.messages import ACTIONS, BinaryType, Id
from wsplugin.recording.placeholders import literal

REDACTED: Final = "<redacted>"

# Names that say nothing; of others not even the name is kept.
HEADERS: Final = frozenset(
    (
        *("accept", "accept-encoding", "accept-language", "authorization", "cache-control"),
        *("content-type", "cookie", "date", "dnt", "from", "if-none-match", "origin", "pragma"),
        *("referer", "traceparent", "tracestate", "user-agent", "via", "x-api-key"),
        *("x-auth-token", "x-correlation-id", "x-csrf-token", "x-forwarded-for", "x-request-id"),
        *("connection", "content-length", "expect", "host", "keep-alive", "te", "trailer"),
        *("proxy-authorization", "sec-websocket-extensions", "sec-websocket-key"),
        *("sec-websocket-protocol", "sec-websocket-version", "transfer-encoding", "upgrade"),
    )
)
# Fields of the server's response whose values are kept too; others may be cookies, or tell where
# they lead.
PUBLIC_HEADERS: Final = frozenset(
    (
        *("connection", "content-length", "content-type", "date", "server", "upgrade"),
        *("sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol"),
        "sec-websocket-version",
    )
)
# Scheme, user information, host and port, path, the rest. What does not fit is no URL.
_URL: Final = re.compile(
    r"((?:ws|http)s?://)([^/?#]*@)?((?:\[[^]@/?#<>]*\]|[^]\[:@/?#<>]*)(?::[0-9]{0,5})?)"
    r"(/[^?#<>]*)?([?#].*)?",
    re.IGNORECASE | re.DOTALL,
)

Show = Callable[[Raw], Any]
"""Returns what stands for a value in the recording.

Raises ``msgspec.ValidationError`` for a value that is not of its place's type.
"""


def of_type(type: Any, show: Callable[[Any], Any] = literal) -> Show:
    """Show what has a type, in the way of `show`; null is the same as nothing, and harmless."""
    decode = msgspec.json.Decoder(type | None).decode

    def show_value(raw: Raw) -> Any:
        value = decode(raw)
        return None if value is None else show(value)

    return show_value


class Members:
    """Shows an object of which the members of these names are known."""

    def __init__(self, **members: Show) -> None:
        self._members = members
        fields = [(name, Raw | UnsetType, UNSET) for name in members]
        # What is not known is passed over, so that it costs no more than its length.
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Known", fields)).decode
        exact = msgspec.defstruct("Exact", fields, forbid_unknown_fields=True)
        self._decode_exact = msgspec.json.Decoder(exact).decode

    def __call__(self, raw: Raw | bytes | bytearray) -> Any:
        """Return what stands for the object."""
        if raw == _NULL:
            return None
        known = self._decode(raw)
        shown: dict[str, Any] = {}
        more = False
        for name, show in self._members.items():
            value: Raw | UnsetType = getattr(known, name)
            if value is UNSET:
                continue
            try:
                shown[name] = show(value)
            except msgspec.ValidationError:
                if is_string(value):
                    shown[name] = REDACTED
                else:
                    more = True  # there are no placeholders but for strings
        try:
            self._decode_exact(raw)
        except msgspec.ValidationError:
            more = True
        return shown | {"<more>": ""} if more else shown


_NULL: Final = Raw(b"null")


def is_string(raw: Raw) -> bool:
    """Tell whether a JSON value is a string."""
    return bytes(memoryview(raw)[:1]) == b'"'


def redacted_url(url: str) -> str:
    """Replace what of a URL may be a secret: user information and query."""
    parts = _URL.fullmatch(url)
    if parts is None:
        return REDACTED
    scheme, user, host, path, rest = parts.groups(default="")
    return f"{scheme}{user and '<redacted>@'}{host}{path}{rest and rest[0] + REDACTED}"


def redacted_headers(headers: dict[str, Raw]) -> dict[str, str]:
    """Keep the names that are known, and no value."""
    shown = {
        name: REDACTED
        for name, value in headers.items()
        if name.lower() in HEADERS and is_string(value)
    }
    return shown if len(shown) == len(headers) else shown | {"<more>": ""}


def hidden(raw: Raw) -> Any:
    """Show nothing of any value."""
    raise msgspec.ValidationError


def _lines(data: Show) -> dict[str | None, Members]:
    """Return what is known of each action's line, and under None of those of no action."""
    id = of_type(str)
    headers = of_type(dict[str, Raw], redacted_headers)
    timeout = of_type(Annotated[int, Meta(ge=0, le=3_600_000)])
    payloads = {
        "websocket-create": Members(
            url=of_type(str, redacted_url),
            headers=headers,
            protocols=of_type(list[str]),
            timeout=timeout,
            perMessageDeflate=of_type(bool),
            binaryType=of_type(BinaryType),
            tcpNoDelay=of_type(bool),
        ),
        "websocket-send": Members(
            id=id, type=of_type(Literal["text", "arraybuffer", "base64"]), data=data
        ),
        "websocket-close": Members(
            id=id,
            code=of_type(Annotated[int, Meta(ge=1000, le=4999)]),
            reason=of_type(str),
            timeout=timeout,
        ),
        "websocket-pause": Members(id=id),
        "websocket-resume": Members(id=id),
        "websocket-ping": Members(id=id, timeout=timeout),
    }
    action = of_type(Literal[ACTIONS])
    return {
        name: Members(
            id=of_type(Id),
            action=action,
            app=of_type(str),
            headers=headers,
            payload=payloads.get(name or "", Members()),
        )
        for name in (*ACTIONS, None)
    }


_LINES: Final = _lines(of_type(str | list[int]))
_LINES_WITHOUT_DATA: Final = _lines(hidden)


class _Action(msgspec.Struct):
    action: Raw = Raw()


_decode_action = msgspec.json.Decoder(_Action).decode
_decode_name = msgspec.json.Decoder(str).decode


def request_text(line: bytes | bytearray, *, redact_data: bool) -> str:
    """Return what stands for a host's line in the transcript."""
    lines = _LINES_WITHOUT_DATA if redact_data else _LINES
    try:
        # What msgspec passes over it does not look at so closely.
        str(memoryview(line), "utf-8")
        raw = _decode_action(line).action
        action = _decode_name(raw) if is_string(raw) else None
        return _encode(lines.get(action, lines[None])(line))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"<{len(line)} bytes that are no request>"


def event_or_answer_text(line: bytes | bytearray, *, redact_data: bool) -> str:
    """Return what stands for a line to the host in the transcript."""
    value = literal(msgspec.json.decode(line))
    match value:
        case {"event": _, "payload": {"payload": dict(detail)}}:
            if "headers" in detail:
                detail["headers"] = {
                    name: text if name in PUBLIC_HEADERS else REDACTED
                    for name, text in detail["headers"].items()
                }
            if redact_data and "data" in detail:
                data = detail["data"]
                # Something of its kind, for the host to read: "redacted" is good base64.
                detail["data"] = REDACTED if isinstance(data, str) else [0] * len(data)
        case {"error": {"code": code, "errMsg": words} as error} if code in QUOTING:
            error["errMsg"] = redacted_words(words)
    return _encode(value)


# Codes of errors whose words may quote the line that they are about.
QUOTING: Final = frozenset(("invalid-request", "unknown-action", "invalid-payload"))
# Paths of fields that are known, and words about them that quote nothing of the line.
_PATH: Final = re.compile(
    rf'id|action|app|(payload\.)?headers(\["({"|".join(HEADERS)})"\])?|payload'
    r"(\.(url|protocols|timeout|perMessageDeflate|binaryType|tcpNoDelay|id|type|data|code|reason)"
    r"(\[[0-9]+\])?)?",
    re.IGNORECASE,
)
_PLAIN: Final = re.compile(r"(?!.*unknown field)([^'\"`]|`[a-z]+`)*", re.DOTALL)


def redacted_words(words: str) -> str:
    """Replace what in an error's words may be a name or value of the line that it is about."""
    path, colon, why = words.partition(": ")
    if not colon and _PLAIN.fullmatch(words):
        return str(literal(words))
    if not _PATH.fullmatch(path):
        return REDACTED
    return str(literal(words)) if _PLAIN.fullmatch(why) else f"{path}: {REDACTED}"


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
