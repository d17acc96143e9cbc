"""Streams that are fuller than they are read: floods, deaf servers, and how to see a standstill."""

import contextlib
import select
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from harness import TEXT, TIMEOUT, Listener, Peer, Plugin, frame
from host_lines import describe, send
from tls_servers import Authority, secure

MIB = 2**20
IDLE_MARGIN = 24 * MIB
"""What the plugin may need beyond its idle memory, whoever has stopped reading."""

STILL = 0.5
"""Seconds without progress after which something counts as stopped."""

MESSAGE = frame(TEXT, b"x" * 65536)
"""For floods of which only the amount matters."""


def wait_until_still(progress: Callable[[], int]) -> int:
    """Wait until a figure has not changed for some time, and return it."""
    value, since = progress(), time.monotonic()
    end = since + TIMEOUT
    while time.monotonic() - since < STILL:
        assert time.monotonic() < end, f"still growing: {value}"
        time.sleep(0.05)
        if (now := progress()) != value:
            value, since = now, time.monotonic()
    return value


def wait_until_full(stream: FileIO | socket.socket) -> None:
    """Wait until a stream that nobody reads takes no more for a while."""
    while select.select([], [stream], [], 0.5)[1]:
        time.sleep(0.05)


class Flood(threading.Thread):
    """Sends frames as fast as they are taken."""

    def __init__(self, peer: Peer, frames: Iterable[bytes]) -> None:
        super().__init__(daemon=True)
        self.peer = peer
        self.frames = frames
        self.sent = 0
        peer.threads.append(self)
        self.start()

    def run(self) -> None:
        """Send; a connection that ends, ends the flood."""
        with contextlib.suppress(OSError):
            for data in self.frames:
                view = memoryview(data)
                while view:
                    count = self.peer.sock.send(view)
                    self.sent += count
                    view = view[count:]

    def taken(self) -> int:
        """Return how many bytes the plugin has read: sent, and in no buffer of the kernel."""
        return self.sent - sum(in_kernel(self.peer))


NO_CONTEXT = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
"""The header of a server each of whose compressed frames stands for itself."""


def inflating(opcode: int, data: bytes) -> bytes:
    """Return a compressed frame (RFC 7692) that inflates to `data`."""
    compressor = zlib.compressobj(wbits=-15)
    compressed = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return frame(opcode, compressed.removesuffix(b"\x00\x00\xff\xff"), rsv=4)


def in_kernel(peer: Peer) -> tuple[int, int]:
    """Return how many bytes to the plugin have not been received, and how many not been read."""
    here, there = peer.sock.getsockname()[1], peer.sock.getpeername()[1]
    unreceived = unread = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        ports = int(local[-4:], 16), int(remote[-4:], 16)
        to_send, to_read = (int(queue, 16) for queue in queues.split(":"))
        if ports == (here, there):
            unreceived += to_send
        elif ports == (there, here):
            unread += to_read
    return unreceived, unread


def numbered(opcode: int, size: int, count: int) -> Iterator[bytes]:
    """Yield so many frames; every message begins with its number."""
    for number in range(count):
        yield frame(opcode, b"%08d" % number + b"\x40" * (size - 8))


def number_of(payload: Any) -> int:
    """Return the number that the message of an event begins with."""
    start = payload["data"][:8]
    return int(start if isinstance(start, str) else bytes(start))


@contextlib.contextmanager
def deaf_server() -> Iterator[Listener]:
    """Listen with small buffers in the kernel, so that what is not read is soon noticed."""
    with Listener() as listener:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        yield listener


def read_messages(peer: Peer, count: int) -> list[str]:
    """Read so many messages, of one frame each."""
    return [peer.read_frame()[1].decode() for _ in range(count)]


def stall(plugin: Plugin, ws: str, *, size: int = MIB, most: int = 50) -> tuple[int, int]:
    """Send messages until one is refused; return how many were answered, and how many wait."""
    plugin.send(*(send(ws, f"{number:08}".ljust(size, "."), number) for number in range(most)))
    plugin.send(describe("all"))
    answered: list[int | None] = []
    while (line := plugin.read())["id"] != "all":
        if "error" in line:
            assert line["error"]["code"] == "buffer-full"
            answered.append(None)
        else:
            assert None not in answered, "sent although an earlier one was refused"
            answered.append(line["id"])
    done = [id for id in answered if id is not None]
    refused = len(answered) - len(done)
    assert done == list(range(len(done)))
    assert refused, "nothing was refused"
    return len(done), most - refused - len(done)


@contextlib.contextmanager
def open_to_server(
    authority: Authority | None, *options: str, deaf: bool = False
) -> Iterator[tuple[Plugin, str, Peer]]:
    """Open a connection, over TLS where wanted, to a server with small buffers where wanted."""
    if authority:
        options += ("--ca-file", authority.file)
    with deaf_server() if deaf else Listener() as listener, Plugin(*options) as plugin:
        ws = plugin.create(listener.url.replace("ws:", "wss:") if authority else listener.url)
        with listener.accept() as peer:
            if authority:
                secure(peer, authority.context("127.0.0.1"))
            peer.handshake()
            plugin.event(ws, "open")
            yield plugin, ws, peer
