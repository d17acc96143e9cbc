"""How much memory the plugin needs for what is large, above that of the same process idle.

The figures: ``pytest tests/test_memory.py --log-cli-level=info``.
"""

import base64
import contextlib
import logging
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import BINARY, CONT, TEXT, TIMEOUT, Listener, Plugin, frame
from host_lines import done, send

log = logging.getLogger(__name__)

MIB = 2**20

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads memory from /proc"
)


class Growth:
    """What the peak of a plugin's memory has grown by."""

    peak = 0


@contextlib.contextmanager
def growth(plugin: Plugin, of: str) -> Iterator[Growth]:
    """Measure by how much the peak of memory grows in the block."""
    plugin.reset_peak()
    idle = plugin.memory()
    measured = Growth()
    yield measured
    measured.peak = plugin.peak_memory() - idle
    log.info("%s: %.1f MiB above %.1f MiB idle", of, measured.peak / MIB, idle / MIB)


# --- compression bombs (RFC 7692) ---

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
TAIL = b"\x00\x00\xff\xff"


def inflating(mebibytes: int) -> bytes:
    """Return compressed data of a message that inflates to so many MiB."""
    compressor = zlib.compressobj(wbits=-15)
    # A full flush leaves no reference to what came before: the piece can be repeated.
    piece = compressor.compress(b"x" * MIB) + compressor.flush(zlib.Z_FULL_FLUSH)
    return (piece * mebibytes).removesuffix(TAIL)


def in_fragments(data: bytes, size: int) -> bytes:
    """Cut compressed data into frames of one message."""
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(
        frame(CONT if i else TEXT, piece, rsv=0 if i else 4, fin=i == len(pieces) - 1)
        for i, piece in enumerate(pieces)
    )


BOMBS = {
    "one frame": frame(TEXT, inflating(1024), rsv=4),
    "fragments": in_fragments(inflating(1024), 4096),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_message_that_inflates_to_1_gib_is_refused(bomb: bytes) -> None:
    with Listener() as listener, Plugin() as plugin:
        id, peer = listener.open(plugin, DEFLATE)
        with peer, growth(plugin, "1 GiB compressed to 1 MiB") as grown:
            with contextlib.suppress(ConnectionError):
                peer.send(bomb)
            assert plugin.event(id, "error")["code"] == "message-too-big"
            assert plugin.event(id, "close")["code"] == 1006
        assert grown.peak < 40 * MIB


@pytest.mark.slow
def test_a_read_full_of_messages_that_inflate_is_no_more_than_one_at_a_time() -> None:
    bomb = frame(TEXT, inflating(1), rsv=4)
    count = 8 * (65536 // len(bomb))
    with Listener() as listener, Plugin() as plugin:
        id, peer = listener.open(plugin, DEFLATE)
        with peer, growth(plugin, f"{count} messages of 1 MiB compressed") as grown:
            plugin.stop_reading()
            # All of it fits into the kernel's buffers, so the plugin could read and inflate it.
            peer.send(bomb * count)
            for _ in range(count):
                # A slow host: it reads on when the last message has been looked at.
                plugin.resume_reading()
                payload = msgspec.json.decode(plugin.read_line())["payload"]
                plugin.stop_reading()
                assert (payload["id"], payload["name"]) == (id, "message")
                assert payload["payload"]["data"] == "x" * MIB
            plugin.resume_reading()
        assert grown.peak < 40 * MIB


# --- large messages ---

SIZE = 8 * MIB
DATA = bytes(range(256)) * (SIZE // 256)
# Characters of one, two, three and four bytes of UTF-8, and what JSON has to escape.
CHARACTERS = 'aé€😀"\\\n\x01'
LONG_TEXT = CHARACTERS * (SIZE // len(CHARACTERS.encode()))

# What is sent in either direction: opcode, payload, `type`, `data`, and how many times its bytes
# the peak may grow by.
LARGE: dict[str, tuple[int, bytes, str, Any, int]] = {
    "arraybuffer": (BINARY, DATA, "arraybuffer", list(DATA), 12),
    "base64": (BINARY, DATA, "base64", base64.b64encode(DATA).decode(), 6),
    "ascii text": (TEXT, b"x" * SIZE, "text", "x" * SIZE, 12),
    "any text": (TEXT, LONG_TEXT.encode(), "text", LONG_TEXT, 12),
}


@pytest.mark.parametrize(("opcode", "payload", "kind", "data", "times"), LARGE.values(), ids=LARGE)
def test_a_large_message_in(opcode: int, payload: bytes, kind: str, data: Any, times: int) -> None:
    with Listener() as listener, Plugin() as plugin:
        options = {"binaryType": kind} if opcode == BINARY else {}
        id, peer = listener.open(plugin, **options)
        with peer, growth(plugin, f"8 MiB in as {kind}") as grown:
            peer.send(frame(opcode, payload))
            message = msgspec.json.decode(plugin.read_line())["payload"]
            assert (message["id"], message["name"]) == (id, "message")
            assert message["payload"] == {"type": kind, "data": data}
        assert grown.peak <= times * len(payload)


@pytest.mark.parametrize(("opcode", "payload", "kind", "data", "times"), LARGE.values(), ids=LARGE)
def test_a_large_message_out(opcode: int, payload: bytes, kind: str, data: Any, times: int) -> None:
    with Listener() as listener, Plugin() as plugin:
        id, peer = listener.open(plugin)
        with peer, growth(plugin, f"8 MiB out as {kind}") as grown:
            line = msgspec.json.encode(send(id, data, 1, kind)) + b"\n"
            writer = threading.Thread(target=plugin.write, args=(line,), daemon=True)
            writer.start()
            head, received = peer.read_frame()
            writer.join(TIMEOUT)
            assert head & 0x0F == opcode
            assert received == payload
            assert plugin.read() == done(1)
        assert grown.peak <= times * len(payload)


def test_large_fragments_are_put_together_within_the_same_bounds() -> None:
    with Listener() as listener, Plugin() as plugin:
        _, peer = listener.open(plugin, binaryType="base64")
        with peer, growth(plugin, "8 MiB in fragments of 64 KiB as base64") as grown:
            pieces = [DATA[i : i + 65536] for i in range(0, SIZE, 65536)]
            for i, piece in enumerate(pieces):
                last = i == len(pieces) - 1
                peer.send(frame(CONT if i else BINARY, piece, fin=last))
            message = msgspec.json.decode(plugin.read_line())["payload"]
            assert base64.b64decode(message["payload"]["data"]) == DATA
        assert grown.peak <= 6 * SIZE


def test_a_header_that_claims_much_costs_nothing() -> None:
    with Listener() as listener, Plugin("--max-message-size", "1GiB") as plugin:
        _, peer = listener.open(plugin)
        with peer, growth(plugin, "a frame that claims 1 GiB") as grown:
            peer.send(frame(BINARY, b"\x00" * 10, length=2**30))
            plugin.request("plugin-describe")
            peer.close()
            assert plugin.event("ws-1", "error")["code"] == "network-error"
        assert grown.peak < 4 * MIB


def test_a_line_that_is_too_long_is_skipped_at_bounded_memory() -> None:
    with Plugin("--max-line", "1MiB") as plugin:
        plugin.request("plugin-describe")
        with growth(plugin, "a line of 100 MiB with --max-line 1MiB") as grown:
            plugin.write(b'{"id": 1, "action": "' + b"x" * 100 * MIB + b'"}\n')
            answer = plugin.read()
            assert (answer["id"], answer["error"]["code"]) == (1, "line-too-long")
        assert grown.peak < 8 * MIB
