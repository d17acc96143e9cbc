"""What the echo servers understand, beside what they echo.

The servers in `node/` and `go/` say the same in their languages.
"""

from typing import Final

PROTOCOL: Final = "interop.v2"
"""The subprotocol that the servers choose."""

ECHOED: Final = "X-Interop"
"""The request's field whose value comes back as `X-Interop-Echo`."""

LONG: Final = "long"
"""Asks for :data:`LONG_TEXT`, in fragments where the server's library can send them."""

LONG_TEXT: Final = "é0123456789" * 2**18
"""3 MiB in UTF-8."""

QUIET: Final = "quiet"
"""Asks for silence, but for Pings, and for the answer :data:`STILL_HERE` after it."""

STILL_HERE: Final = "still here"

QUIET_TIME: Final = 2.5
"""Seconds: more than the interval and the timeout of keepalive on both sides together."""

PING_INTERVAL: Final = 0.3
"""Seconds, of keepalive on both sides."""

PING_TIMEOUT: Final = 1.5
"""Seconds, of keepalive on both sides."""

CLOSE: Final = "close "
"""Asks for a close with the code and the reason that follow."""

MAX_SIZE: Final = 8 * 2**20
"""Bytes of the longest message that a server must take."""


def close_arguments(text: str) -> tuple[int, str]:
    """Return the code and the reason that a message beginning with :data:`CLOSE` names."""
    _, code, reason = text.split(" ", 2)
    return int(code), reason


def tell_port(port: int) -> None:
    """Tell the test where this server listens."""
    print(f"listening {port}", flush=True)  # noqa: T201 - this is how the test is told


def tell_close(code: int | None, reason: str | None) -> None:
    """Tell the test how a connection was closed."""
    print(f"closed {code} {reason or ''}".rstrip(), flush=True)  # noqa: T201 - as above
