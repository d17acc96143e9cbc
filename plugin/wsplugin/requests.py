"""What the host may ask for: its lines as types, and what of them is left when they are decoded.

A line from the host is one of :data:`HostLine`; ``decoding.py`` turns it into a :data:`Request`,
in which what the host left open is filled in. What is optional may be null, which is the same as
absent.
"""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Raw, Struct

from wsplugin.messages import (
    MAX_HEADERS,
    MAX_PROTOCOLS,
    MAX_URL,
    NO_CODE,
    App,
    BinaryType,
    Id,
    Nothing,
    RequestError,
    RequestErrorCode,
)

# The grammar of header names and of subprotocols (RFC 9110 section 5.6.2).
TOKEN_PATTERN: Final = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$"  # noqa: S105 - no password


Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]


def _documented(max_length: int | None = None, **schema: Any) -> Meta:
    # What policy.py checks with better messages, and the schema tells too.
    return Meta(max_length=max_length, extra_json_schema=schema)


HeaderFields = Annotated[
    dict[str, Annotated[str, _documented(pattern="^[ -~\u00a0-\u00ff]*$")]],
    _documented(MAX_HEADERS, propertyNames={"pattern": TOKEN_PATTERN}),
]


class CreatePayload(Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    """Payload of ``websocket-create``. ``timeout`` is in milliseconds."""

    url: Annotated[str, _documented(MAX_URL, pattern=r"^[wW][sS]{1,2}://[^\s#@/?]+([/?][^\s#]*)?$")]
    headers: HeaderFields | None = None
    protocols: (
        Annotated[
            list[Annotated[str, _documented(pattern=TOKEN_PATTERN)]],
            _documented(MAX_PROTOCOLS, uniqueItems=True),
        ]
        | None
    ) = None
    timeout: Milliseconds | None = None
    per_message_deflate: bool | None = True
    binary_type: BinaryType | None = "arraybuffer"
    tcp_no_delay: bool | None = True


class LongCreatePayload(CreatePayload, frozen=True):
    """The same as :class:`CreatePayload` for long lines: what may be many is left undecoded."""

    headers: Raw = Raw(b"null")  # type: ignore[assignment]
    protocols: Raw = Raw(b"null")  # type: ignore[assignment]


class SendText(
    Struct, tag_field="type", tag="text", forbid_unknown_fields=True, frozen=True, gc=False
):
    """Payload of ``websocket-send`` for a text message."""

    id: str
    data: str


ByteArray = Annotated[
    Raw,
    _documented(type="array", items={"type": "integer", "minimum": 0, "maximum": 255}),
]
"""A JSON array of integers 0 to 255, left undecoded: see :func:`decode_bytes`."""


class SendArrayBuffer(
    Struct, tag_field="type", tag="arraybuffer", forbid_unknown_fields=True, frozen=True
):
    """Payload of ``websocket-send`` for a binary message given as numbers."""

    id: str
    data: ByteArray


class SendNumbers(
    Struct, tag_field="type", tag="arraybuffer", forbid_unknown_fields=True, frozen=True
):
    """The same as :class:`SendArrayBuffer`, decoded: for lines that are not long."""

    id: str
    data: list[int]


class SendBase64(
    Struct, tag_field="type", tag="base64", forbid_unknown_fields=True, frozen=True, gc=False
):
    """Payload of ``websocket-send`` for a binary message given as standard base64."""

    id: str
    data: Annotated[
        bytes,
        _documented(pattern="^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"),
    ]


class ClosePayload(Struct, forbid_unknown_fields=True, frozen=True):
    """Payload of ``websocket-close``. ``timeout`` is in milliseconds."""

    id: str
    code: (
        Annotated[
            int,
            _documented(
                anyOf=[
                    {"minimum": 1000, "maximum": 1003},
                    {"const": NO_CODE},
                    {"minimum": 1007, "maximum": 1014},
                    {"minimum": 3000, "maximum": 4999},
                ]
            ),
        ]
        | None
    ) = 1000
    reason: (
        Annotated[str, _documented(maxLength=123, description="at most 123 bytes of UTF-8")] | None
    ) = ""
    timeout: Annotated[int, Meta(ge=0, le=3_600_000)] | None = None


class ConnectionPayload(Struct, forbid_unknown_fields=True, frozen=True):
    """Payload of ``websocket-pause`` and ``websocket-resume``."""

    id: str


class PingPayload(Struct, forbid_unknown_fields=True, frozen=True):
    """Payload of ``websocket-ping``. ``timeout`` is in milliseconds."""

    id: str
    timeout: Milliseconds | None = None


class Envelope(Struct, tag_field="action", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What every request may have beside its payload: the host's own word."""

    id: Id = None
    app: App = UNSET


class Plain(Envelope, frozen=True, kw_only=True):
    """A request that takes no headers of the host's."""

    headers: None = None


class Create(Envelope, tag="websocket-create", frozen=True, kw_only=True):
    """Request: open a connection."""

    payload: CreatePayload
    headers: HeaderFields | None = None


class LongCreate(Envelope, tag="websocket-create", frozen=True, kw_only=True):
    """The same as :class:`Create`, for long lines."""

    payload: LongCreatePayload
    headers: Raw = Raw(b"null")


class Send(Plain, tag="websocket-send", frozen=True, kw_only=True):
    """Request: send one message."""

    payload: SendText | SendArrayBuffer | SendBase64


class ShortSend(Plain, tag="websocket-send", frozen=True, kw_only=True):
    """The same as :class:`Send`, for lines that are not long."""

    payload: SendText | SendNumbers | SendBase64


class Close(Plain, tag="websocket-close", frozen=True, kw_only=True):
    """Request: start the closing handshake."""

    payload: ClosePayload


class Pause(Plain, tag="websocket-pause", frozen=True, kw_only=True):
    """Request: read no more from the server for now."""

    payload: ConnectionPayload


class Resume(Plain, tag="websocket-resume", frozen=True, kw_only=True):
    """Request: read on from the server."""

    payload: ConnectionPayload


class Ping(Plain, tag="websocket-ping", frozen=True, kw_only=True):
    """Request: ask the server for a sign of life."""

    payload: PingPayload


class Background(Plain, tag="app-background", frozen=True, kw_only=True):
    """Request: end every connection, because the application leaves the screen."""

    payload: Nothing | None = None


class Describe(Plain, tag="plugin-describe", frozen=True, kw_only=True):
    """Request: tell version, actions, features and limits."""

    payload: Nothing | None = None


class NewConnection(Struct, frozen=True):
    """What a ``websocket-create`` asks for, with what it leaves open filled in."""

    id: Id
    app: App
    url: str
    headers: dict[str, str]
    host_headers: dict[str, str]
    """What the host itself adds, in place of the app's header of that name."""
    protocols: list[str]
    timeout: int | None
    """Milliseconds; None for ``--open-timeout``."""
    per_message_deflate: bool
    binary_type: BinaryType
    tcp_no_delay: bool


class OutgoingMessage(Struct, frozen=True, gc=False):
    """What a ``websocket-send`` asks for, ready to go down to the server."""

    id: Id
    app: App
    connection: str
    opcode: int
    data: bytes | bytearray


HostLine = Create | Send | Close | Pause | Resume | Ping | Background | Describe
ShortLine = Create | ShortSend | Close | Pause | Resume | Ping | Background | Describe
LongLine = LongCreate | Send | Close | Pause | Resume | Ping | Background | Describe
Request = NewConnection | OutgoingMessage | Close | Pause | Resume | Ping | Background | Describe


def too_many_headers(path: str) -> RequestError:
    """Say that there are more than are allowed, the app's and the host's together."""
    code: RequestErrorCode = "invalid-payload" if path == "payload.headers" else "invalid-request"
    return RequestError(code, f"{path}: expected at most {MAX_HEADERS}")
