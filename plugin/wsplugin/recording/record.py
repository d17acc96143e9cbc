"""Records the conversation as it happens, as a transcript that ``wsplugin replay`` plays.

What may be a secret becomes a placeholder, which matches whatever a host says in its place. Of a
request that is what is not known to be harmless: a host that misspells ``headers`` has secrets
too, and of a line that is no JSON nothing can be told.
"""

import logging
import os
import re
import time
from typing import Any, Final

import msgspec

from wsplugin.messages import WHITE_SPACE, RequestError
from wsplugin.recording.placeholders import literal

logger = logging.getLogger(__name__)

# Shorter pauses are not worth a line.
SHORTEST_PAUSE: Final = 0.01

REDACTED: Final = "<redacted>"
HARMLESS: Final = frozenset(
    ("id", "type", "code", "reason", "protocols", "timeout", "perMessageDeflate", "binaryType")
)
# Fields of the server's response that are kept; others may be cookies, or tell where they lead.
PUBLIC_HEADERS: Final = frozenset(
    (
        *("connection", "content-length", "content-type", "date", "server", "upgrade"),
        *("sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol"),
        "sec-websocket-version",
    )
)
# Scheme, user information, host and port, path, the rest. What does not fit is no URL.
_URL: Final = re.compile(
    r"([a-z][a-z0-9+.-]*://)([^/?#]*@)?((?:\[[^]@/?#<>]*\]|[^]\[:@/?#<>]*)(?::[0-9]*)?)"
    r"(/[^?#<>]*)?([?#].*)?",
    re.IGNORECASE | re.DOTALL,
)


class Recorder:
    """Appends to a file; a file that fails ends the recording and nothing else.

    Raises:
        OSError: the file cannot be written.

    """

    def __init__(self, path: str, *, redact_data: bool = False) -> None:
        self._path = path
        self._redact_data = redact_data
        self._fd: int | None = None
        self._last = 0.0
        # Opened for good by start(): here one of the numbers 0 to 2 may still be free.
        os.close(self._open(os.O_CREAT | os.O_TRUNC))

    def _open(self, flags: int) -> int:
        flags |= os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
        return os.open(self._path, flags, 0o600)

    def start(self) -> None:
        """Record from now on."""
        self._last = time.monotonic()
        try:
            self._fd = self._open(0)
        except OSError as exc:
            self._fail(exc)

    def line_in(self, line: bytes | bytearray | RequestError) -> None:
        """Record one of the host's lines, before it is carried out."""
        if isinstance(line, RequestError):
            self._write("> <a line that is too long>")
        elif line.strip(WHITE_SPACE):
            self._write("> " + request_text(line, redact_data=self._redact_data))

    def lines_out(self, lines: bytes | bytearray) -> None:
        """Record lines to the host, before they are written."""
        texts = (
            event_or_answer_text(line, redact_data=self._redact_data)
            for line in lines.splitlines()  # on bytes: LF and CR only, and JSON has neither
        )
        self._write(*("< " + text for text in texts))

    def end_of_stdin(self) -> None:
        """Record that the host has closed the plugin's stdin."""
        self._write("@end-of-stdin")

    def signal(self, name: str) -> None:
        """Record that a signal has come; may be called by its handler."""
        self._write(f"@signal {name}")

    def exit(self, status: int) -> None:
        """Record the exit status."""
        self._write(f"@exit {status}")

    def _write(self, *lines: str) -> None:
        if self._fd is None:
            return
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        if elapsed >= SHORTEST_PAUSE:
            lines = (f"# +{elapsed:.3f}s", *lines)
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as exc:
            self._fail(exc)

    def _fail(self, exc: OSError) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        logger.warning("recording has ended: %s", exc.strerror)


def request_text(line: bytes | bytearray, *, redact_data: bool) -> str:
    """Return what stands for a host's line in the transcript."""
    try:
        value = msgspec.json.decode(line)
        if isinstance(value, dict):
            return _encode(_request(value, redact_data=redact_data))
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        pass
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
    return _encode(value)


def redacted_url(url: str) -> str:
    """Replace what of a URL may be a secret: user information and query."""
    parts = _URL.fullmatch(url)
    if parts is None:
        return REDACTED
    scheme, user, host, path, rest = parts.groups(default="")
    return f"{scheme}{user and '<redacted>@'}{host}{path}{rest and rest[0] + REDACTED}"


def _request(members: dict[str, Any], *, redact_data: bool) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, value in members.items():
        match name, value:
            case "payload", dict():
                known[name] = _payload(value, redact_data=redact_data)
            case ("id" | "action", _) | ("payload", None):
                known[name] = literal(value)
    return known | _hidden({n: v for n, v in members.items() if n not in known})


def _payload(members: dict[str, Any], *, redact_data: bool) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, value in members.items():
        match name, value:
            case "url", str():
                known[name] = redacted_url(value)
            case "headers", dict():
                known[name] = _hidden(value)
            case "data", _ if not redact_data:
                known[name] = literal(value)
            case _ if name in HARMLESS:
                known[name] = literal(value)
    return known | _hidden({n: v for n, v in members.items() if n not in known})


def _hidden(members: dict[str, Any]) -> dict[str, str]:
    """Replace strings by placeholders; leave out what has none, and say so."""
    hidden = {name: REDACTED for name, value in members.items() if isinstance(value, str)}
    return hidden if len(hidden) == len(members) else hidden | {"<more>": ""}


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
