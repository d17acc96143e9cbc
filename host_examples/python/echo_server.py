"""An echo server on the loopback: answers every message with itself, frame by frame.

    $ python3 host_examples/python/echo_server.py 8765

It is complete enough to try a host against, and needs nothing but the standard library. A server
built on a WebSocket library would do as well; most, though, drop what waits to be echoed when a
Close frame comes behind it.
"""

import asyncio
import base64
import hashlib
import re
import sys

# RFC 6455 section 5.2.
CLOSE, PING, PONG = 0x8, 0x9, 0xA


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    try:
        await opening_handshake(reader, writer)
        opcode = 0
        while opcode != CLOSE:
            head, payload = await read_frame(reader)
            opcode = head & 0x0F
            if opcode == PING:
                head = head & 0xF0 | PONG
            elif opcode == PONG:
                continue
            writer.write(bytes([head]) + payload_length(len(payload)) + payload)
            await writer.drain()
    except (ConnectionError, EOFError, asyncio.LimitOverrunError):
        pass  # the client has gone, or is none
    finally:
        writer.close()


async def opening_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the opening handshake (RFC 6455 section 4.2.2), without any extension."""
    request = await reader.readuntil(b"\r\n\r\n")
    key = re.search(rb"\r\nsec-websocket-key: *(\S+)", request, re.IGNORECASE)
    if key is None:
        raise EOFError
    accept = key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    digest = hashlib.sha1(accept, usedforsecurity=False).digest()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read a frame from a client (RFC 6455 section 5.2); return its first byte and payload."""
    head, size = await reader.readexactly(2)
    size &= 0x7F
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    masks = (mask * (size // 4 + 1))[:size]
    unmasked = int.from_bytes(payload, "big") ^ int.from_bytes(masks, "big")
    return head, unmasked.to_bytes(size, "big")


def payload_length(size: int) -> bytes:
    """Return the second byte of an unmasked frame and the extended length."""
    if size < 126:
        return bytes([size])
    if size < 65_536:
        return bytes([126]) + size.to_bytes(2, "big")
    return bytes([127]) + size.to_bytes(8, "big")


async def main() -> None:
    """Serve on the port given, or on a free one, until interrupted."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = await asyncio.start_server(echo, "127.0.0.1", port)
    port = server.sockets[0].getsockname()[1]
    print(f"ws://127.0.0.1:{port}/", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
