"""The floor: the work of a flood done by the two libraries alone, inside one process.

`websockets` (Sans-I/O) parses the same frames from memory, in chunks of 256 KiB, and `msgspec`
encodes each message event into a buffer that is used again: no socket, no pipe, no asyncio.
"""

from __future__ import annotations

import time

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import OPEN
from websockets.uri import parse_uri

CHUNK = 1 << 18  # bytes


class Message(msgspec.Struct):
    """The payload of a message event."""

    type: str
    data: str | list[int] | bytes  # msgspec writes bytes as base64


class ConnectionEvent(msgspec.Struct):
    """The event of one connection."""

    id: str
    name: str
    payload: Message


class Event(msgspec.Struct):
    """A line of output."""

    event: str
    payload: ConnectionEvent


def cpu_per_message(kind: str, block: bytes, count: int) -> float:
    """Seconds of CPU time for one message of a flood.

    `block` holds whole frames, and is parsed until they are `count`; `kind` is the type of event.
    """
    chunks = [block[start : start + CHUNK] for start in range(0, len(block), CHUNK)]
    protocol = ClientProtocol(parse_uri("ws://localhost"), state=OPEN)
    encoder = msgspec.json.Encoder()
    line = bytearray()
    messages = 0
    start = time.process_time()
    while messages < count:
        for chunk in chunks:
            protocol.receive_data(chunk)
            for frame in protocol.events_received():
                assert isinstance(frame, Frame)
                data: str | list[int] | bytes
                if kind == "text":
                    data = str(frame.data, "utf-8")
                else:
                    data = list(frame.data) if kind == "arraybuffer" else bytes(frame.data)
                event = ConnectionEvent("ws-1", "message", Message(kind, data))
                encoder.encode_into(Event("websocket-event", event), line)
                messages += 1
    return (time.process_time() - start) / messages
