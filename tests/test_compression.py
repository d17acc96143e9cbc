"""Compressed messages in both directions (RFC 7692), with zlib as the judge.

What is not about compression, every frame there is, has its tests in ``test_frames.py``.
"""

import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

import conversations
from conversations import LIMIT
from deflate import DEFLATE, RSV1, TAIL, Compressor, compressed
from harness import BINARY, CLOSE, CONT, PING, PONG, TEXT, Listener, Plugin, close_frame, frame
from host_lines import close, done, send

RANDOM = random.Random(7692)


class Outcome(NamedTuple):
    """What comes of a conversation: messages and the rest of the events, the Close frame's code."""

    messages: list[str | bytes]
    events: list[tuple[str, Any]]
    code: int
    pongs: list[bytes]


def converse(plugin: Plugin, server: Listener, data: bytes, extension: str = DEFLATE) -> Outcome:
    """Accept compression, send `data` as the server, and end TCP after the plugin's Close frame."""
    sent, events = conversations.converse(plugin, server, data, headers=(extension,))
    *frames, (_, payload) = sent
    assert events.pop(0)[0] == "open"
    messages = [payload["data"] for name, payload in events if name == "message"]
    return Outcome(
        [data if isinstance(data, str) else bytes(data) for data in messages],
        [event for event in events if event[0] != "message"],
        struct.unpack("!H", payload[:2])[0],
        [payload for head, payload in frames if head == 0x80 | PONG],
    )


def check_messages(outcome: Outcome, messages: Sequence[str | bytes]) -> None:
    """Check that the messages have arrived, and that nothing has failed before the Close frame."""
    assert outcome.events == [("close", {"code": 4000, "reason": "", "cause": "server"})]
    assert outcome.messages == list(messages)


def check_failed(outcome: Outcome, code: int, error: str, messages: Sequence[str] = ()) -> None:
    """Check that the plugin has failed the connection with this code and error."""
    (name, why), (close, end) = outcome.events
    assert (name, close) == ("error", "close")
    assert (why["code"], outcome.code) == (error, code)
    assert (end["code"], end["cause"]) == (1006, "failure")
    assert outcome.messages == list(messages)


END = close_frame(4000)

# --- what a server may send ---

# Section 7.2.3, with the numbers of its examples; all say "Hello".
HELLO = {
    "7.2.3.1": [compressed(TEXT, bytes.fromhex("f248cdc9c90700"))],
    "7.2.3.1 fragmented": [compressed(TEXT, bytes.fromhex("f248cd"), bytes.fromhex("c9c90700"))],
    "7.2.3.2": [
        compressed(TEXT, bytes.fromhex("f248cdc9c90700")),
        compressed(TEXT, bytes.fromhex("f200110000")),
    ],
    "7.2.3.3": [compressed(TEXT, bytes.fromhex("000500faff48656c6c6f00"))],
    "7.2.3.4": [compressed(TEXT, bytes.fromhex("f348cdc9c9070000"))],
    "7.2.3.5": [compressed(TEXT, bytes.fromhex("f248050000 00ffffcac9c9 0700"))],
    "not compressed": [frame(TEXT, b"Hello")],
    "not compressed between compressed": [
        compressed(TEXT, bytes.fromhex("f248cdc9c90700")),
        frame(TEXT, b"Hello"),
        frame(TEXT, b"He", fin=False) + frame(CONT, b"llo"),
        compressed(TEXT, bytes.fromhex("f200110000")),
    ],
    # "The DEFLATE block with BFINAL set to 1" ends a stream for zlib, but not the connection.
    "7.2.3.4 twice": [compressed(TEXT, bytes.fromhex("f348cdc9c9070000"))] * 2,
    "7.2.3.4, then 7.2.3.1": [
        compressed(TEXT, bytes.fromhex("f348cdc9c9070000")),
        compressed(TEXT, bytes.fromhex("f248cdc9c90700")),
    ],
    # The window slides on over a final block (section 7.2.3.2).
    "7.2.3.4, then referred to": [
        compressed(TEXT, bytes.fromhex("f348cdc9c9070000")),
        compressed(TEXT, bytes.fromhex("f200110000")),
    ],
    "7.2.3.4, fragmented behind its end": [
        compressed(TEXT, bytes.fromhex("f348cdc9c907"), b"\0", b"\0"),
        compressed(TEXT, bytes.fromhex("f248cdc9c90700")),
    ],
}


@pytest.mark.parametrize("frames", HELLO.values(), ids=HELLO)
def test_hello(plugin: Plugin, server: Listener, frames: list[bytes]) -> None:
    outcome = converse(plugin, server, b"".join(frames) + END)
    check_messages(outcome, ["Hello"] * len(frames))


def test_final_blocks_without_end(plugin: Plugin, server: Listener) -> None:
    """Some are RFC 7692's, a frame full of them would keep the plugin busy for minutes."""
    some = compressed(TEXT, b"\x03\x00" * 50 + bytes.fromhex("f248cdc9c90700"))
    check_messages(converse(plugin, server, some + END), ["Hello"])
    outcome = converse(plugin, server, compressed(TEXT, b"\x03\x00" * 500_000))
    check_failed(outcome, 1002, "protocol-error")


@pytest.mark.parametrize("extra", ["", "; server_no_context_takeover"])
def test_final_block_in_the_middle_of_a_message(
    plugin: Plugin, server: Listener, extra: str
) -> None:
    """Any sequence of DEFLATE blocks may make a message (section 7.2.1)."""
    payload = bytes.fromhex("f348cdc9c90700") + bytes.fromhex("f248cdc9c90700")
    outcome = converse(plugin, server, compressed(TEXT, payload) + END, DEFLATE + extra)
    check_messages(outcome, ["HelloHello"])


def texts() -> list[str]:
    """Return messages of all lengths that repeat each other and themselves."""
    words = [
        "".join(RANDOM.choices("abcdefghij é€😀\x00", k=RANDOM.randint(1, 20))) for _ in range(60)
    ]
    lengths = [0, 1, 2, 10, 100, 400, 1000, 3000, 6000, 20_000]
    return [" ".join(RANDOM.choices(words, k=k // 8)) for k in lengths] * 2


TEXTS = texts()


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("bits", [None, *range(9, 16)])
@pytest.mark.parametrize("level", [1, 9])
def test_server_windows(
    plugin: Plugin, server: Listener, bits: int | None, takeover: bool, level: int
) -> None:
    extension = DEFLATE
    if bits is not None:
        extension += f"; server_max_window_bits={bits}"
    if not takeover:
        extension += "; server_no_context_takeover"
    compress = Compressor(bits or 15, takeover=takeover, level=level)
    frames = [compressed(TEXT, compress(text.encode())) for text in TEXTS]
    outcome = converse(plugin, server, b"".join(frames) + END, extension)
    check_messages(outcome, TEXTS)


def test_server_window_of_8_bits(plugin: Plugin, server: Listener) -> None:
    """No zlib compresses with it; less than 256 bytes a stream refer no further back than that."""
    compress = Compressor(9, takeover=False)
    data = [b"abc" * n for n in range(80)]
    frames = [compressed(BINARY, compress(d)) for d in data]
    extension = DEFLATE + "; server_max_window_bits=8; server_no_context_takeover"
    check_messages(converse(plugin, server, b"".join(frames) + END, extension), data)


def test_server_ignores_that_it_may_keep_its_context(plugin: Plugin, server: Listener) -> None:
    """A server may begin anew at any time."""
    compress = Compressor(takeover=False)
    frames = [compressed(TEXT, compress(text.encode())) for text in TEXTS]
    check_messages(converse(plugin, server, b"".join(frames) + END), TEXTS)


def test_split_at_every_byte(plugin: Plugin, server: Listener) -> None:
    compress = Compressor(takeover=False)
    text = "κόσμε 😀 " * 4
    payload = compress(text.encode())
    splits = [compressed(TEXT, payload[:at], payload[at:]) for at in range(len(payload) + 1)]
    outcome = converse(plugin, server, b"".join(splits) + END)
    check_messages(outcome, [text] * len(splits))


def test_control_frames_between_fragments(plugin: Plugin, server: Listener) -> None:
    """They are not compressed (section 6.1), and change nothing for what is."""
    compress = Compressor()
    frames = [
        compressed(
            TEXT, *(bytes([byte]) for byte in compress(text.encode())), between=frame(PING, b"p")
        )
        for text in TEXTS[:6]
    ]
    outcome = converse(plugin, server, b"".join(frames) + END)
    check_messages(outcome, TEXTS[:6])
    assert set(outcome.pongs) == {b"p"}


def test_empty_fragments(plugin: Plugin, server: Listener) -> None:
    compress = Compressor()
    frames = [compressed(TEXT, b"", compress(b"a"), b""), compressed(BINARY, b"", compress(b"b"))]
    check_messages(converse(plugin, server, b"".join(frames) + END), ["a", b"b"])


NOTHING = {
    "whole": (compressed(TEXT, b""), compressed(BINARY, b"")),
    "two fragments": (compressed(TEXT, b"", b""), compressed(BINARY, b"", b"")),
    "pings between": (
        compressed(TEXT, b"", b"", b"", between=frame(PING, b"p")),
        compressed(BINARY, b"", b"", between=frame(PING, b"p")),
    ),
}


@pytest.mark.parametrize("extra", ["", "; server_no_context_takeover"])
@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
def test_no_byte_at_all_is_an_empty_message(
    plugin: Plugin, server: Listener, nothing: tuple[bytes, bytes], extra: str
) -> None:
    """Mojolicious sends it; the context must be for the next message what it was before."""
    text, binary = nothing
    compress = Compressor(takeover=not extra)
    frames = [compressed(TEXT, compress(b"Hello" * 100)), text, binary]
    frames += [compressed(TEXT, compress(b"Hello" * 101)), binary, text, frame(TEXT)]
    outcome = converse(plugin, server, b"".join(frames) + END, DEFLATE + extra)
    check_messages(outcome, ["Hello" * 100, "", b"", "Hello" * 101, b"", "", ""])


@pytest.mark.parametrize("size", [1, 2000, 2043, 2044, 2045, 65_535, 65_536, 200_000])
def test_what_does_not_compress(plugin: Plugin, server: Listener, size: int) -> None:
    data = RANDOM.randbytes(size)
    compress = Compressor()
    frames = compressed(BINARY, compress(data)) + compressed(BINARY, compress(data))
    check_messages(converse(plugin, server, frames + END), [data, data])


@pytest.mark.parametrize("place", ["first", "middle"])
def test_close_within_a_compressed_message(plugin: Plugin, server: Listener, place: str) -> None:
    payload = Compressor()(b"hello" * 10)
    frames = compressed(TEXT, payload[:3], payload[3:5], b"")[: -len(frame(CONT))]
    if place == "first":
        frames = compressed(TEXT, payload, b"")[: -len(frame(CONT))]
    check_messages(converse(plugin, server, frames + END), [])


# --- what a server must not send ---

BROKEN = {
    "a reserved block type": compressed(TEXT, b"\x07"),
    "garbage": compressed(TEXT, b"\xff" * 20),
    "a reference to nothing": compressed(TEXT, bytes.fromhex("f200110000")),
    "a stored block whose lengths differ": compressed(
        BINARY, bytes.fromhex("000500fffe48656c6c6f00")
    ),
    "RSV1 on a continuation": frame(TEXT, b"\xf2\x48", fin=False, rsv=RSV1)
    + frame(CONT, bytes.fromhex("cdc9c90700"), rsv=RSV1),
    "RSV1 on an empty continuation of nothing": frame(TEXT, fin=False, rsv=RSV1)
    + frame(CONT, rsv=RSV1),
    "RSV2 on no byte": frame(TEXT, rsv=0b110),
    "RSV1 on a continuation of what is not compressed": frame(TEXT, b"a", fin=False)
    + frame(CONT, b"b", rsv=RSV1),
    "RSV1 on a ping": frame(PING, b"", rsv=RSV1),
    "RSV1 on a close frame": frame(CLOSE, b"\x03\xe8", rsv=RSV1),
    "RSV2 beside RSV1": frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv=0b110),
    "RSV3 beside RSV1": frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv=0b101),
    "RSV2 alone": frame(TEXT, b"Hello", rsv=0b010),
}


@pytest.mark.parametrize("frames", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("more", [b"", frame(TEXT, b"too late") * 20])
def test_broken_compression(plugin: Plugin, server: Listener, frames: bytes, more: bytes) -> None:
    outcome = converse(plugin, server, frame(TEXT, b"ok") + frames + more)
    check_failed(outcome, 1002, "protocol-error", ["ok"])


def test_compression_that_was_not_negotiated(plugin: Plugin, server: Listener) -> None:
    hello = HELLO["7.2.3.1"][0]
    check_failed(converse(plugin, server, hello, "X-None: 0"), 1002, "protocol-error")


def test_reference_beyond_the_window(plugin: Plugin, server: Listener) -> None:
    compress = Compressor(15)
    data = RANDOM.randbytes(4000)
    frames = compressed(BINARY, compress(data)) + compressed(BINARY, compress(data))
    outcome = converse(plugin, server, frames, DEFLATE + "; server_max_window_bits=9")
    assert outcome.code == 1002
    assert outcome.events[0][1]["code"] == "protocol-error"


@pytest.mark.parametrize("text", [b"\xff", b"ok \xed\xa0\x80", b"\xe2\x82"])
def test_broken_text_in_compression(plugin: Plugin, server: Listener, text: bytes) -> None:
    payload = Compressor()(text)
    for frames in (compressed(TEXT, payload), compressed(TEXT, payload[:2], payload[2:])):
        check_failed(converse(plugin, server, frames), 1007, "protocol-error")


# --- --max-message-size: what counts is the message, not the frame ---


def halves(data: bytes) -> list[bytes]:
    """Cut a payload into two fragments."""
    return [data[: len(data) // 2], data[len(data) // 2 :]]


SPLITS = {
    "whole": lambda data: [data],
    "halves": halves,
    "all but the last byte": lambda data: [data[:-1], data[-1:]],
    "empty last fragment": lambda data: [data, b""],
    "empty first fragment": lambda data: [b"", data],
    "a byte a fragment": lambda data: [bytes([byte]) for byte in data],
}


def content(kind: str, size: int) -> bytes:
    """Return so many bytes that do or do not compress."""
    return b"*" * size if kind == "repeats" else random.Random(size).randbytes(size)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("kind", ["repeats", "is random"])
def test_messages_at_the_limit(limited: Plugin, server: Listener, kind: str, split: Any) -> None:
    compress = Compressor()
    messages = [content(kind, size) for size in (LIMIT - 1, LIMIT, LIMIT)]
    frames = [compressed(BINARY, *split(compress(data))) for data in messages]
    check_messages(converse(limited, server, b"".join(frames) + END), messages)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, LIMIT + more) for kind in ("repeats", "is random") for more in (1, 2, 4000)),
        ("repeats", 2**20),
    ],
)
def test_messages_over_the_limit(
    limited: Plugin, server: Listener, kind: str, size: int, split: Any
) -> None:
    payload = Compressor()(content(kind, size))
    outcome = converse(limited, server, frame(TEXT, b"ok") + compressed(BINARY, *split(payload)))
    check_failed(outcome, 1009, "message-too-big", ["ok"])


def test_messages_at_the_limit_in_many_blocks(limited: Plugin, server: Listener) -> None:
    """A stream flushed all the time: the frame is half as long again as its message."""
    stream = zlib.compressobj(wbits=-15)
    data = random.Random(1).randbytes(LIMIT)
    payload = b"".join(
        stream.compress(data[at : at + 20]) + stream.flush(zlib.Z_SYNC_FLUSH)
        for at in range(0, LIMIT, 20)
    ).removesuffix(TAIL)
    assert len(payload) > LIMIT * 1.2
    for parts in ([payload], halves(payload)):
        check_messages(converse(limited, server, compressed(BINARY, *parts) + END), [data])


# --- what the plugin sends ---


def send_and_read(
    plugin: Plugin, server: Listener, extension: str, messages: Sequence[str]
) -> list[tuple[int, bytes]]:
    """Have the plugin send messages; return its frames."""
    id, peer = server.open(plugin, extension)
    frames = []
    with peer:
        for n, text in enumerate(messages):
            plugin.send(send(id, text, n))
            assert plugin.read() == done(n)
            frames.append(peer.read_frame())
        peer.send(END)
        peer.expect_close(4000)
    plugin.event(id, "close")
    return frames


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("bits", [None, *range(9, 16)])
def test_client_windows(plugin: Plugin, server: Listener, bits: int | None, takeover: bool) -> None:
    extension = DEFLATE
    if bits is not None:
        extension += f"; client_max_window_bits={bits}"
    if not takeover:
        extension += "; client_no_context_takeover"
    inflate = zlib.decompressobj(-(bits or 15))
    smaller = False
    for text, (head, payload) in zip(
        TEXTS, send_and_read(plugin, server, extension, TEXTS), strict=True
    ):
        if head == 0x80 | TEXT:
            assert payload.decode() == text
            continue
        assert head == 0x80 | RSV1 << 4 | TEXT
        if not takeover:
            inflate = zlib.decompressobj(-(bits or 15))
        assert inflate.decompress(payload + TAIL).decode() == text
        smaller |= len(payload) < len(text.encode()) // 2
    assert smaller


def test_client_window_of_8_bits(plugin: Plugin, server: Listener) -> None:
    """A legal answer to our offer (section 7.1.2.2), and no zlib compresses with it."""
    frames = send_and_read(plugin, server, DEFLATE + "; client_max_window_bits=8", TEXTS)
    inflate = zlib.decompressobj(-8)
    for text, (head, payload) in zip(TEXTS, frames, strict=True):
        if head != 0x80 | TEXT:
            assert head == 0x80 | RSV1 << 4 | TEXT
            payload = inflate.decompress(payload + TAIL)
        assert payload.decode() == text


def test_binary_is_compressed_too(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin, DEFLATE)
    with peer:
        plugin.send(send(id, [7] * 1000, "binary", "arraybuffer"))
        assert plugin.read() == done("binary")
        head, data = peer.read_frame()
        assert head == 0x80 | RSV1 << 4 | BINARY
        assert zlib.decompressobj(-15).decompress(data + TAIL) == b"\x07" * 1000
        plugin.send(close(id, reason="x" * 123))
        assert plugin.read() == done("close")
        # Control frames are never compressed.
        assert peer.read_frame() == (0x80 | CLOSE, b"\x03\xe8" + b"x" * 123)
        peer.send(close_frame(1000))
    plugin.event(id, "close")


def test_echo_of_all_messages(plugin: Plugin, server: Listener) -> None:
    """Both directions at once, each with its own context."""
    id, peer = server.open(plugin, DEFLATE)
    compress, inflate = Compressor(), zlib.decompressobj(-15)
    with peer:
        for text in TEXTS:
            plugin.send(send(id, text))
            assert plugin.read() == done(text)
            _, data = peer.read_frame()
            received = inflate.decompress(data + TAIL)
            peer.send(compressed(TEXT, compress(received)))
            assert plugin.event(id, "message") == {"type": "text", "data": text}
        peer.send(END)
        peer.expect_close(4000)
    plugin.event(id, "close")


def test_per_message_deflate_off(plugin: Plugin, server: Listener) -> None:
    """Nothing is offered then."""
    id = plugin.create(server.url, perMessageDeflate=False)
    with server.accept() as peer:
        peer.read_request()
        assert peer.header("Sec-WebSocket-Extensions") is None
    plugin.events_to_close(id)
    id = plugin.create(server.url, perMessageDeflate=True)
    with server.accept() as peer:
        peer.read_request()
        offer = peer.header("Sec-WebSocket-Extensions")
        assert offer is not None
        assert offer.startswith("permessage-deflate")
    plugin.events_to_close(id)
