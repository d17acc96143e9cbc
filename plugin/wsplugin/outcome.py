"""How a connection ends, and what of it the host is told: decided in one place."""

from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from wsplugin.encoding import encode_error
from wsplugin.messages import Cause, CloseEventPayload, ErrorPayload, Id, RequestError

FAULT: Final = ErrorPayload(
    "a fault of the plugin has ended the connection, see its log", "internal-error"
)


class Ending(Struct, frozen=True):
    """How a connection is to end on purpose: the Close frame to send, and on whose behalf."""

    code: int
    reason: str
    cause: Cause


class Outcome(Struct, frozen=True):
    """How a connection has ended: its last events."""

    error: ErrorPayload | None
    close: CloseEventPayload


class Closing(Struct, frozen=True):
    """The Close frame that started a closing handshake which has been completed."""

    code: int
    reason: str
    by_server: bool


if TYPE_CHECKING:
    # For the checker alone: a Protocol that is made costs every start half a million instructions.
    class Handshakes(Protocol):
        """What is to be known of a wire."""

        @property
        def closing(self) -> Closing | None:
            """The closing handshake, if both Close frames were seen and ours has left."""

        @property
        def close_received(self) -> bool:
            """Whether the server's Close frame has come."""


def decide(
    failure: ErrorPayload | None, ending: Ending | None, cut: str | None, wire: "Handshakes | None"
) -> Outcome:
    """Say how it ended: with the Close frame that started it, if both frames were seen.

    Args:
        failure: that of a connection which has failed.
        ending: the end that was decided on purpose.
        cut: why the closing handshake has not been completed, in words.
        wire: None if it has never opened.

    """
    if failure:
        return Outcome(failure, CloseEventPayload(1006, failure.err_msg, "failure"))
    closing = wire.closing if wire else None
    cause: Cause = "server" if wire and wire.close_received else "failure"
    if ending is not None and not (closing and closing.by_server):
        cause = ending.cause
    if closing is None:
        return Outcome(None, CloseEventPayload(1006, cut or "the connection was lost", cause))
    return Outcome(None, CloseEventPayload(closing.code, closing.reason, cause))


def not_open(id: str) -> RequestError:
    """Say that a connection takes no more messages."""
    return RequestError("not-open", f"{id} is closing or closed")


def not_open_yet(id: str) -> RequestError:
    """Say that a connection cannot be pinged before its opening handshake is done."""
    return RequestError("not-open", f"{id} is not open yet")


def encode_not_open(connection: str, request: Id) -> bytes:
    """Encode the answer to a message that has not been sent."""
    return encode_error(not_open(connection), request)
