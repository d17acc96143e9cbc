"""The wire contract as types: every line in both directions.

A line from the host is one of the five of :data:`HostLine`; a line to the host is an answer or an
event. ``decoding.py`` and ``encoding.py`` turn them from and to JSON, and ``wsplugin --schema`` is
generated from them (``schema.py``), so what is decoded, what is encoded and what is documented
cannot differ. A line that has been decoded is a :data:`Request`.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

PROTOCOL: Final = 1

# Lists longer than this are decoded and encoded slice by slice: a list needs eight bytes for
# every byte of the message, so an 8 MiB message would need 64 MiB more at once.
SLICE: Final = 65_536

# How much of one line a create may ask for, so that what it costs is known before it is done.
MAX_URL: Final = 8_192
MAX_HEADERS: Final = 256
MAX_PROTOCOLS: Final = 64

# Opcodes of messages (RFC 6455 section 11.8).
TEXT: Final = 1
BINARY: Final = 2

# What JSON calls white space (RFC 8259 section 2); a line of nothing else is blank.
WHITE_SPACE: Final = b" \t\r\n"

Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | str | None
"""A request's id. None stands for a request without one (JSON ``null`` or absent)."""
GivenId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | str

# --- host to plugin ---------------------------------------------------------------------------

# The grammar of header names and of subprotocols (RFC 9110 section 5.6.2).
TOKEN_PATTERN: Final = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$"  # noqa: S105 - no password


def _documented(max_length: int | None = None, **schema: Any) -> Meta:
    # What policy.py checks with better messages, and the schema tells too.
    return Meta(max_length=max_length, extra_json_schema=schema)


BinaryType = Literal["arraybuffer", "base64"]


class CreatePayload(Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    """Payload of ``websocket-create``. ``timeout`` is in milliseconds."""

    url: Annotated[str, _documented(MAX_URL, pattern=r"^[wW][sS]{1,2}://[^\s#@/?]+([/?][^\s#]*)?$")]
    headers: Annotated[
        dict[str, Annotated[str, _documented(pattern="^[ -~\u00a0-\u00ff]*$")]],
        _documented(MAX_HEADERS, propertyNames={"pattern": TOKEN_PATTERN}),
    ] = {}
    protocols: Annotated[
        list[Annotated[str, _documented(pattern=TOKEN_PATTERN)]],
        _documented(MAX_PROTOCOLS, uniqueItems=True),
    ] = []
    timeout: Annotated[int, Meta(ge=1, le=3_600_000)] | UnsetType = UNSET
    per_message_deflate: bool = True
    binary_type: BinaryType = "arraybuffer"


class LongCreatePayload(CreatePayload, frozen=True):
    """The same as :class:`CreatePayload` for long lines: what may be many is left undecoded."""

    headers: Raw = Raw(b"{}")  # type: ignore[assignment]
    protocols: Raw = Raw(b"[]")  # type: ignore[assignment]


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
    """Payload of ``websocket-close``."""

    id: str
    code: Annotated[
        int,
        _documented(
            anyOf=[
                {"minimum": 1000, "maximum": 1003},
                {"minimum": 1007, "maximum": 1014},
                {"minimum": 3000, "maximum": 4999},
            ]
        ),
    ] = 1000
    reason: Annotated[str, _documented(maxLength=123, description="at most 123 bytes of UTF-8")] = (
        ""
    )


class Nothing(Struct, forbid_unknown_fields=True, frozen=True):
    """An object without fields: the payload, or the response, of actions that have none."""


class Create(
    Struct, tag_field="action", tag="websocket-create", forbid_unknown_fields=True, frozen=True
):
    """Request: open a connection."""

    payload: CreatePayload
    id: Id = None


class LongCreate(
    Struct, tag_field="action", tag="websocket-create", forbid_unknown_fields=True, frozen=True
):
    """The same as :class:`Create`, for long lines."""

    payload: LongCreatePayload
    id: Id = None


class Send(
    Struct, tag_field="action", tag="websocket-send", forbid_unknown_fields=True, frozen=True
):
    """Request: send one message."""

    payload: SendText | SendArrayBuffer | SendBase64
    id: Id = None


class ShortSend(
    Struct, tag_field="action", tag="websocket-send", forbid_unknown_fields=True, frozen=True
):
    """The same as :class:`Send`, for lines that are not long."""

    payload: SendText | SendNumbers | SendBase64
    id: Id = None


class Close(
    Struct, tag_field="action", tag="websocket-close", forbid_unknown_fields=True, frozen=True
):
    """Request: start the closing handshake."""

    payload: ClosePayload
    id: Id = None


class Background(
    Struct, tag_field="action", tag="app-background", forbid_unknown_fields=True, frozen=True
):
    """Request: end every connection, because the application leaves the screen."""

    payload: Nothing | None = None
    id: Id = None


class Describe(
    Struct, tag_field="action", tag="plugin-describe", forbid_unknown_fields=True, frozen=True
):
    """Request: tell version, actions and limits."""

    payload: Nothing | None = None
    id: Id = None


class OutgoingMessage(Struct, frozen=True, gc=False):
    """What a ``websocket-send`` asks for, ready to go down to the server."""

    id: Id
    connection: str
    opcode: int
    data: bytes | bytearray


HostLine = Create | Send | Close | Background | Describe
ShortLine = Create | ShortSend | Close | Background | Describe
LongLine = LongCreate | Send | Close | Background | Describe
Request = Create | OutgoingMessage | Close | Background | Describe
ACTIONS: Final = (
    "websocket-create",
    "websocket-send",
    "websocket-close",
    "app-background",
    "plugin-describe",
)

# --- plugin to host ---------------------------------------------------------------------------

RequestErrorCode = Literal[
    "invalid-json",
    "line-too-long",
    "invalid-request",
    "unknown-action",
    "invalid-payload",
    "forbidden",
    "unknown-id",
    "not-open",
    "buffer-full",
    "shutting-down",
]
ConnectionErrorCode = Literal[
    "forbidden",
    "network-error",
    "tls-error",
    "proxy-error",
    "handshake-failed",
    "open-timeout",
    "protocol-error",
    "message-too-big",
    "ping-timeout",
    "internal-error",
]
Cause = Literal["host", "server", "limit", "background", "shutdown", "failure"]


class Created(Struct, frozen=True):
    """Response of ``websocket-create``: the id of the connection."""

    id: str


class Limits(Struct, rename="camel", frozen=True):
    """The limits in force; sizes in bytes, times in milliseconds."""

    max_connections: int
    max_message_size: int
    max_line: int
    max_send_buffer: int
    open_timeout: int
    close_timeout: int


class Description(Struct, frozen=True):
    """Response of ``plugin-describe``."""

    name: str
    version: str
    protocol: int
    actions: tuple[str, ...]
    limits: Limits


class DoneAnswer(Struct, frozen=True):
    """The answer to a request that succeeded and has nothing to tell."""

    id: GivenId
    response: Nothing


class CreateAnswer(Struct, frozen=True):
    """The answer to ``websocket-create``."""

    id: GivenId
    response: Created


class DescribeAnswer(Struct, frozen=True):
    """The answer to ``plugin-describe``."""

    id: GivenId
    response: Description


class Problem(Struct, rename="camel", frozen=True):
    """Why a request failed. ``code`` is stable, ``errMsg`` is for people."""

    code: RequestErrorCode
    err_msg: str


class ErrorAnswer(Struct, frozen=True):
    """The answer to a request that failed; its id is null where none could be read."""

    id: Id
    error: Problem


class OpenPayload(Struct, frozen=True):
    """Payload of the event ``open``: the fields of the HTTP response, names in lower case."""

    headers: dict[str, str]


class TextMessage(Struct, tag_field="type", tag="text", frozen=True):
    """Payload of the event ``message`` for a text message."""

    data: str


class ArrayBufferMessage(Struct, tag_field="type", tag="arraybuffer", frozen=True):
    """Payload of the event ``message`` for a binary message, as numbers."""

    data: list[Annotated[int, Meta(ge=0, le=255)]]


class Base64Message(Struct, tag_field="type", tag="base64", frozen=True):
    """Payload of the event ``message`` for a binary message, with ``binaryType: "base64"``."""

    data: bytes


class ErrorPayload(Struct, rename="camel", omit_defaults=True, frozen=True):
    """Payload of the event ``error``; status and headers where HTTP refused the handshake."""

    err_msg: str
    code: ConnectionErrorCode
    status: int | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET


class CloseEventPayload(Struct, frozen=True):
    """Payload of the event ``close``."""

    code: int
    reason: str
    cause: Cause


class OpenEvent(Struct, tag_field="name", tag="open", frozen=True):
    """The connection is open."""

    id: str
    payload: OpenPayload


class MessageEvent(Struct, tag_field="name", tag="message", frozen=True):
    """A message has arrived."""

    id: str
    payload: TextMessage | ArrayBufferMessage | Base64Message


class ErrorEvent(Struct, tag_field="name", tag="error", frozen=True):
    """The connection has failed; its ``close`` event follows."""

    id: str
    payload: ErrorPayload


class CloseEvent(Struct, tag_field="name", tag="close", frozen=True):
    """The connection has ended; nothing of its id comes after this."""

    id: str
    payload: CloseEventPayload


class Event(Struct, tag_field="event", tag="websocket-event", frozen=True):
    """The line that carries an event."""

    payload: OpenEvent | MessageEvent | ErrorEvent | CloseEvent


def shorten(text: str) -> str:
    """Cut the middle out of what an error message repeats of a line, which may be all of it."""
    return text if len(text) <= 256 else f"{text[:127]}…{text[-128:]}"


class RequestError(Exception):
    """A request cannot be carried out: becomes the ``error`` of its answer.

    Args:
        code: the stable code of the contract.
        message: for people; names the field as a path where a field is wrong.
        id: the request's id, where the line's decoder was the one to read it.

    """

    def __init__(self, code: RequestErrorCode, message: str, id: Id = None) -> None:
        super().__init__(message)
        self.code: RequestErrorCode = code
        self.message = message
        self.id = id
