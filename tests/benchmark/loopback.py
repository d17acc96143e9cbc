"""The cheap WebSocket server: raw sockets, frames built beforehand, no extensions, loopback only.

`/NAME` is the path for a workload. In a flood, a message `COUNT` is answered with that many
messages; elsewhere every message comes back. The server is a process of its own, which prints
its port and ends with its stdin.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

from workloads import WORKLOADS, Workload

TEXT, BINARY, CLOSE, PING, PONG, FIN = 1, 2, 8, 9, 10, 0x80  # RFC 6455 §5.2
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
BLOCK = 1 << 20  # bytes of frames handed to one send


class LoopbackServer:
    """The server as a child process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout
        self.url = f"ws://127.0.0.1:{int(self._process.stdout.readline())}"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def frame(first_byte: int, payload: bytes) -> bytes:
    """An unmasked frame, as servers send them."""
    size = len(payload)
    if size < 126:
        return bytes((first_byte, size)) + payload
    if size < 65536:
        return bytes((first_byte, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first_byte, 127)) + size.to_bytes(8, "big") + payload


def flood_block(workload: Workload) -> tuple[bytes, int]:
    """The frame that a flood repeats, often enough for BLOCK, and how often that is."""
    repeated = frame(FIN | (TEXT if workload.kind == "text" else BINARY), workload.payload())
    repeats = BLOCK // len(repeated) + 1
    return repeated * repeats, repeats


def unmask(mask: bytes, masked: bytes) -> bytes:
    """The payload without its mask: one exclusive-or of two long integers."""
    size = len(masked)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(masked, "little") ^ key).to_bytes(size, "little")


def client_frames(connection: socket.socket) -> Iterator[list[tuple[int, bytes]]]:
    """The client's frames as (first byte, payload): all that one read has completed."""
    data = b""
    while chunk := connection.recv(1 << 18):
        data += chunk
        frames = []
        start = 0
        while len(data) >= start + 2:
            mask = start + 2
            size = data[start + 1] & 0x7F
            if size >= 126:
                mask += 2 if size == 126 else 8
                size = int.from_bytes(data[start + 2 : mask], "big")
            end = mask + 4 + size
            if len(data) < end:  # true of an incomplete size, too, which `mask` lies behind
                break
            frames.append((data[start], unmask(data[mask : mask + 4], data[mask + 4 : end])))
            start = end
        data = data[start:]
        yield frames


def open_handshake(connection: socket.socket) -> str:
    """Answers the opening handshake; returns the path without its slash."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError("no handshake")
        request += chunk
    lines = [line.partition(b":") for line in request.split(b"\r\n")]
    key = next(value.strip() for name, _, value in lines if name.lower() == b"sec-websocket-key")
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %s\r\n\r\n" % base64.b64encode(hashlib.sha1(key + GUID).digest())
    )
    return request.split()[1].decode()[1:]


def serve(connection: socket.socket) -> None:
    """One connection, from the opening to the closing handshake."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    name = open_handshake(connection)
    workload = next(workload for workload in WORKLOADS if workload.name == name)
    block, repeats = flood_block(workload)
    for frames in client_frames(connection):
        answers = []
        for first_byte, payload in frames:
            opcode = first_byte & 0x0F
            if opcode == PING:
                answers.append(frame(FIN | PONG, payload))
            elif opcode != PONG and (opcode == CLOSE or workload.measure != "flood"):
                answers.append(frame(first_byte, payload))
            elif opcode == TEXT:
                blocks, rest = divmod(int(payload), repeats)
                for _ in range(blocks):
                    connection.sendall(block)
                connection.sendall(block[: len(block) // repeats * rest])
        connection.sendall(b"".join(answers))
        if frames and frames[-1][0] & 0x0F == CLOSE:
            return


def accept(listener: socket.socket) -> None:
    def serve_and_close(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):  # a plugin may have been killed
            serve(connection)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_and_close, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    sys.stdin.buffer.read()
