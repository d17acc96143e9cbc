"""Conversations held in frames: what a server sends, in every delivery, and what comes of it."""

import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness import CLOSE, CONT, PONG, TEXT, Listener, Plugin, frame

LIMIT = 1000
"""What ``--max-message-size`` says to the plugin of the fixture `limited`."""

CHARACTERS = "$é€😀\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffff"
"""Characters of every length in UTF-8, first and last ones, and some that JSON escapes."""

DELIVERIES = ("whole", "byte by byte", "glued to the response", "with more behind it")
# Would be a message, and is long enough for whatever a bad header may have promised.
MORE = frame(TEXT, b"too late") * 40

ERROR_CODES = {1002: "protocol-error", 1007: "protocol-error", 1009: "message-too-big"}
"""The `error` event's code for the code of the Close frame that fails the connection."""


class Outcome(NamedTuple):
    """What comes of a conversation: the plugin's frames up to its Close frame, and its events."""

    sent: list[tuple[int, bytes]]
    events: list[tuple[str, Any]]


def converse(
    plugin: Plugin,
    server: Listener,
    data: bytes,
    delivery: str = "whole",
    headers: tuple[str, ...] = (),
) -> Outcome:
    """Open a connection, send `data` as the server, and end TCP after the plugin's Close frame."""
    id = plugin.create(server.url)
    with server.accept() as peer:
        if delivery == "glued to the response":
            peer.handshake(*headers, glued=data)
        else:
            peer.handshake(*headers)
        if delivery == "byte by byte":
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in data[:1000]:
                peer.send(bytes([byte]))
            peer.send(data[1000:])
        elif delivery == "with more behind it":
            peer.send(data + MORE)
        elif delivery == "whole":
            peer.send(data)
        sent = peer.read_to_close()
    return Outcome(sent, plugin.events_to_close(id))


def message(data: str | bytes) -> tuple[str, Any]:
    """Return the event of a message."""
    if isinstance(data, str):
        return "message", {"type": "text", "data": data}
    return "message", {"type": "arraybuffer", "data": list(data)}


def check_good(
    outcome: Outcome,
    messages: Sequence[str | bytes],
    pongs: Sequence[bytes],
    code: int,
    reason: str,
) -> None:
    """Check a conversation that the server has ended with a Close frame."""
    echo = b"" if code == 1005 else struct.pack("!H", code) + reason.encode()
    assert outcome.sent == [*((0x80 | PONG, pong) for pong in pongs), (0x80 | CLOSE, echo)]
    (opened, _), *events, close = outcome.events
    assert opened == "open"
    assert events == [message(data) for data in messages]
    assert close == ("close", {"code": code, "reason": reason, "cause": "server"})


def check_failed(outcome: Outcome, messages: Sequence[str | bytes], code: int) -> None:
    """Check a conversation that the plugin has failed with a Close frame of this code."""
    (head, payload) = outcome.sent[-1]
    assert head == 0x80 | CLOSE
    assert struct.unpack("!H", payload[:2])[0] == code
    payload[2:].decode()
    (opened, _), *events, (error, why), (close, end) = outcome.events
    assert (opened, error, close) == ("open", "error", "close")
    assert events == [message(data) for data in messages]
    assert why["code"] == ERROR_CODES[code]
    assert why["errMsg"]
    assert end["reason"]
    assert end == {"code": 1006, "reason": end["reason"], "cause": "failure"}


def fragments(opcode: int, *parts: bytes, between: bytes = b"", rsv: int = 0) -> bytes:
    """Serialize a message in fragments, `rsv` on the first, with whole frames between them."""
    first, *others = parts
    frames = [frame(opcode, first, fin=not others, rsv=rsv)]
    frames += [frame(CONT, part, fin=False) for part in others[:-1]]
    frames += [frame(CONT, part) for part in others[-1:]]
    return between.join(frames)
