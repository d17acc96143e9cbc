"""The wire contract as types: its words, and every line to the host.

A line from the host is in ``requests.py``; a line to the host is an answer or an event.
``decoding.py`` and ``encoding.py`` turn them from and to JSON, and ``wsplugin --schema`` is
generated from them (``schema.py``), so what is decoded, what is encoded and what is documented
cannot differ.
"""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

PROTOCOL: Final = 1
FEATURES: Final = (
    "nulls",
    "apps",
    "host-headers",
    "no-delay",
    "open-facts",
    "close-1005",
    "close-timeout",
    "pause",
    "ping",
    "at-limit",
    "exit-timeout",
    "parent-pid",
)
"""What has been added since release 1.0; the list only grows."""

# Lists longer than this are decoded and encoded slice by slice: a list needs eight bytes for
# every byte of the message, so an 8 MiB message would need 64 MiB more at once.
SLICE: Final = 65_536

# How much of one line a create may ask for, so that what it costs is known before it is done.
MAX_URL: Final = 8_192
MAX_HEADERS: Final = 256
MAX_PROTOCOLS: Final = 64
MAX_APP: Final = 256

# Opcodes of messages (RFC 6455 section 11.8).
TEXT: Final = 1
BINARY: Final = 2

# The code of a Close frame that has none (RFC 6455 section 7.4.1).
NO_CODE: Final = 1005

# What JSON calls white space (RFC 8259 section 2); a line of nothing else is blank.
WHITE_SPACE: Final = b" \t\r\n"

Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | str | None
"""A request's id. None stands for a request without one (JSON ``null`` or absent)."""
GivenId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | str
App = Annotated[str, Meta(min_length=1, max_length=MAX_APP)] | UnsetType
"""The app that a request is for, in Unicode code points; never null, as a forgotten name would
reach the connections of all."""

ACTIONS: Final = (
    "websocket-create",
    "websocket-send",
    "websocket-close",
    "websocket-pause",
    "websocket-resume",
    "websocket-ping",
    "app-background",
    "plugin-describe",
)

BinaryType = Literal["arraybuffer", "base64"]

RequestErrorCode = Literal[
    "invalid-json",
    "line-too-long",
    "invalid-request",
    "unknown-action",
    "invalid-payload",
    "forbidden",
    "unknown-id",
    "not-open",
    "limit-reached",
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


class Nothing(Struct, forbid_unknown_fields=True, frozen=True):
    """An object without fields: the payload, or the response, of actions that have none."""


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
    features: tuple[str, ...]
    limits: Limits


class DoneAnswer(Struct, frozen=True):
    """The answer to a request that succeeded and has nothing to tell."""

    id: GivenId
    response: Nothing


class RoundTrip(Struct, frozen=True):
    """Response of ``websocket-ping``: how long the Pong took, in milliseconds."""

    rtt: float


class PingAnswer(Struct, frozen=True):
    """The answer to ``websocket-ping``."""

    id: GivenId
    response: RoundTrip


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


class Profile(Struct, rename="camel", frozen=True):
    """The times of the opening, in milliseconds, as mini-app containers tell them to apps.

    A step that did not happen has the time of the step before; `connect` is the winning socket's,
    through the proxy if there is one, and TLS is part of it.
    """

    fetch_start: float
    """When the connection was given its place; this and the next four since 1970."""
    domain_look_up_start: float
    domain_look_up_end: float
    connect_start: float
    connect_end: float
    rtt: float
    """From ``connectStart`` to ``connectEnd``."""
    handshake_cost: float
    """From ``connectEnd`` to the response that opens the connection."""
    cost: float
    """From the reading of the request to the same."""


class OpenPayload(Struct, frozen=True):
    """Payload of the event ``open``: the fields of the HTTP response, names in lower case."""

    headers: dict[str, str]
    protocol: str
    """The subprotocol that the server has chosen; empty if none."""
    extensions: str
    """As negotiated (RFC 6455 section 9.1); empty if none."""
    profile: Profile


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
    app: App = UNSET
    """The app that the connection was created for, if the host has named one."""


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
