"""What the plugin makes of a server's frames, and the frames it sends (RFC 6455 sections 5 to 8).

The server is played by hand, so that every byte is chosen here. Each conversation of the tables
is also held byte by byte, in one write with the response of the opening handshake, and with more
data behind its end. Compression (RFC 7692) has its own file.
"""

import json
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from harness import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Listener,
    Peer,
    Plugin,
    close_frame,
    frame,
    unmask,
)
from pool import Pool

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


# --- what a server may send ---


class Good(NamedTuple):
    """Frames, and the messages and Pong frames that come of them."""

    name: str
    frames: bytes
    messages: Sequence[str | bytes] = ()
    pongs: Sequence[bytes] = ()


def fragments(opcode: int, *parts: bytes, between: bytes = b"") -> bytes:
    """Serialize a message in fragments, with whole frames between them."""
    frames = [
        frame(opcode if index == 0 else CONT, part, fin=index == len(parts) - 1)
        for index, part in enumerate(parts)
    ]
    return between.join(frames)


GOOD = [
    Good("nothing", b""),
    Good("text", frame(TEXT, b"hello"), ["hello"]),
    Good("binary", frame(BINARY, b"\x00\xff"), [b"\x00\xff"]),
    Good("empty text", frame(TEXT), [""]),
    Good("empty binary", frame(BINARY), [b""]),
    *(
        Good(f"text of {size} bytes", frame(TEXT, b"*" * size), ["*" * size])
        for size in (1, 124, 125, 126, 127, 128)
    ),
    *(
        Good(f"binary of {size} bytes", frame(BINARY, b"\xfe" * size), [b"\xfe" * size])
        for size in (1, 124, 125, 126, 127, 128)
    ),
    Good(
        "many messages", frame(TEXT, b"a") * 50 + frame(BINARY, b"b") * 50, ["a"] * 50 + [b"b"] * 50
    ),
    Good(
        "what JSON escapes",
        frame(TEXT, b'"\\/\b\f\n\r\t\x00\x1f\x7f'),
        ['"\\/\b\f\n\r\t\x00\x1f\x7f'],
    ),
    Good("line separators", frame(TEXT, "\u0085\u2028\u2029".encode()), ["\u0085\u2028\u2029"]),
    Good("byte-order mark", frame(TEXT, "\ufeffa".encode()), ["\ufeffa"]),
    # 5.4: fragmentation.
    Good("two fragments", fragments(TEXT, b"hel", b"lo"), ["hello"]),
    Good("two fragments, binary", fragments(BINARY, b"hel", b"lo"), [b"hello"]),
    Good("fragments of a byte", fragments(TEXT, *(bytes([byte]) for byte in b"hello")), ["hello"]),
    Good("empty fragments", fragments(TEXT, b"", b"", b""), [""]),
    Good("empty fragments, binary", fragments(BINARY, b"", b""), [b""]),
    Good("empty first fragment", fragments(TEXT, b"", b"hello"), ["hello"]),
    Good("empty last fragment", fragments(TEXT, b"hello", b""), ["hello"]),
    Good("empty middle fragment", fragments(TEXT, b"hel", b"", b"lo"), ["hello"]),
    Good(
        "fragmented twice",
        fragments(TEXT, b"a", b"b") + fragments(BINARY, b"c", b"d"),
        ["ab", b"cd"],
    ),
    Good("whole after fragmented", fragments(TEXT, b"a", b"b") + frame(TEXT, b"c"), ["ab", "c"]),
    Good("longer than it began", fragments(TEXT, b"a", b"*" * 126, b"*" * 65), ["a" + "*" * 191]),
    # 5.5.2, 5.5.3: Ping and Pong.
    Good("ping", frame(PING), [], [b""]),
    Good("ping with payload", frame(PING, b"hello"), [], [b"hello"]),
    Good("ping of bytes that are no text", frame(PING, b"\x00\xff\xfe"), [], [b"\x00\xff\xfe"]),
    Good("ping of 125 bytes", frame(PING, b"\xfe" * 125), [], [b"\xfe" * 125]),
    Good(
        "ten pings",
        b"".join(frame(PING, bytes([n])) for n in range(10)),
        [],
        [bytes([n]) for n in range(10)],
    ),
    Good("unsolicited pong", frame(PONG)),
    Good("unsolicited pong with payload", frame(PONG, b"hello")),
    Good("unsolicited pong of 125 bytes", frame(PONG, b"\xfe" * 125)),
    Good("unsolicited pong, then a ping", frame(PONG, b"a") + frame(PING, b"b"), [], [b"b"]),
    Good(
        "ping between messages",
        frame(TEXT, b"a") + frame(PING, b"p") + frame(TEXT, b"b"),
        ["a", "b"],
        [b"p"],
    ),
    Good(
        "ping between fragments",
        fragments(TEXT, b"hel", b"lo", between=frame(PING, b"p")),
        ["hello"],
        [b"p"],
    ),
    Good(
        "pings between fragments",
        fragments(BINARY, b"a", b"b", b"c", between=frame(PING, b"p") * 2),
        [b"abc"],
        [b"p"] * 4,
    ),
    Good(
        "pong between fragments",
        fragments(TEXT, b"hel", b"lo", between=frame(PONG, b"p")),
        ["hello"],
    ),
]


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_good_frames(plugin: Plugin, server: Listener, case: Good, delivery: str) -> None:
    outcome = converse(plugin, server, case.frames + close_frame(1000, "done"), delivery)
    check_good(outcome, case.messages, case.pongs, 1000, "done")


@pytest.mark.parametrize("size", [65_534, 65_535, 65_536, 65_537, 200_000, 1_000_001])
@pytest.mark.parametrize("chop", [None, 997, 65_536])
def test_long_messages(plugin: Plugin, server: Listener, size: int, chop: int | None) -> None:
    """The receive buffer holds 64 KiB: messages around that, in frames of every length."""
    text = "".join(chr(0x21 + n % 90) for n in range(size))
    data = text.encode()
    parts = [data[at : at + chop] for at in range(0, size, chop)] if chop else [data]
    frames = fragments(TEXT, *parts) + fragments(BINARY, *parts) + frame(TEXT, b"last")
    outcome = converse(plugin, server, frames + close_frame(1000, "done"))
    check_good(outcome, [text, data, "last"], [], 1000, "done")


@pytest.mark.parametrize("step", [1, 2, 3, 61, 4093])
def test_buffer_borders(plugin: Plugin, server: Listener, step: int) -> None:
    """Frames of growing length, so that the ends of reads fall everywhere in a frame."""
    sizes = [n * step for n in range(100)]
    frames = b"".join(frame(BINARY, bytes([n % 256]) * size) for n, size in enumerate(sizes))
    outcome = converse(plugin, server, frames + close_frame(1000, "done"))
    check_good(outcome, [bytes([n % 256]) * size for n, size in enumerate(sizes)], [], 1000, "done")


# --- what a server must not send ---


class Bad(NamedTuple):
    """Frames that fail the connection, the code it fails with, and the messages before that."""

    name: str
    frames: bytes
    code: int = 1002
    messages: Sequence[str | bytes] = ()


MASK = b"\x01\x02\x03\x04"

BAD = [
    # 5.2: reserved bits, opcodes, masking, lengths.
    *(
        Bad(f"reserved bits {rsv:03b} on {name}", before + frame(opcode, payload, rsv=rsv))
        for rsv in range(1, 8)
        for name, before, opcode, payload in [
            ("text", b"", TEXT, b"hello"),
            ("ping", b"", PING, b"hello"),
            ("close", b"", CLOSE, b"\x03\xe8"),
            ("continuation", frame(TEXT, b"a", fin=False), CONT, b"b"),
        ]
    ),
    Bad("reserved bit on a fragment", frame(BINARY, b"a", fin=False, rsv=2)),
    *(Bad(f"opcode {op:#x}", frame(op)) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    *(Bad(f"opcode {op:#x} with payload", frame(op, b"hello")) for op in (3, 7, 11, 15)),
    Bad("opcode 3, fragmented", frame(3, b"a", fin=False)),
    Bad("opcode 3 between fragments", fragments(TEXT, b"a", b"b", between=frame(3))),
    *(
        Bad(f"masked frame of opcode {op} and {size} bytes", frame(op, b"\x20" * size, mask=mask))
        for op, sizes in {
            TEXT: (0, 1, 5, 125, 126, 65_536),
            BINARY: (5,),
            PING: (0, 5),
            CLOSE: (2,),
        }.items()
        for size in sizes
        for mask in (MASK, b"\0\0\0\0")
    ),
    Bad("masked continuation", frame(TEXT, b"a", fin=False) + frame(CONT, b"b", mask=MASK)),
    Bad("length in two bytes that fits in seven bits", b"\x81\x7e\x00\x7d" + b"*" * 125),
    Bad(
        "length in eight bytes that fits in two", b"\x81\x7f" + struct.pack("!Q", 126) + b"*" * 126
    ),
    Bad("length 0 in two bytes", b"\x82\x7e\x00\x00"),
    Bad("length 0 in eight bytes", b"\x82\x7f" + bytes(8)),
    # 5.4: fragmentation.
    Bad("continuation of nothing", frame(CONT, b"a")),
    Bad("continuation of nothing, not the last", frame(CONT, b"a", fin=False)),
    Bad("empty continuation of nothing", frame(CONT)),
    Bad("continuation of a whole message", frame(TEXT, b"a") + frame(CONT, b"b"), messages=["a"]),
    Bad(
        "continuation of a finished message",
        fragments(TEXT, b"a", b"b") + frame(CONT, b"c"),
        messages=["ab"],
    ),
    *(
        Bad(
            f"opcode {op} within a fragmented message",
            frame(TEXT, b"a", fin=False) + frame(op, b"b", fin=fin),
        )
        for op in (TEXT, BINARY)
        for fin in (False, True)
    ),
    Bad(
        "text within a fragmented message after a ping",
        frame(BINARY, b"a", fin=False) + frame(PONG) + frame(TEXT),
    ),
    # 5.5: control frames.
    *(
        Bad(f"control frame {op:#x} of {size} bytes", frame(op, b"\x03\xe8".ljust(size, b"*")))
        for op in (CLOSE, PING, PONG)
        for size in (126, 65_536)
    ),
    *(
        Bad(f"fragmented control frame {op:#x}", frame(op, b"\x03\xe8", fin=False))
        for op in (CLOSE, PING, PONG)
    ),
    Bad("ping in two fragments", frame(PING, b"a", fin=False) + frame(CONT, b"b")),
    Bad(
        "ping of 126 bytes between fragments",
        frame(TEXT, b"a", fin=False) + frame(PING, b"*" * 126),
    ),
    # What came before is delivered.
    Bad("after messages", frame(TEXT, b"a") + frame(BINARY, b"b") + frame(3), messages=["a", b"b"]),
    Bad(
        "after a fragment",
        frame(TEXT, b"a") + frame(TEXT, b"b", fin=False) + frame(3),
        messages=["a"],
    ),
    # 7.4, 5.5.1: Close frames.
    Bad("close frame of one byte", frame(CLOSE, b"\x03")),
    *(
        Bad(f"close code {code}", close_frame(code))
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    ),
    Bad("close code 1005 with a reason", close_frame(1005, "reason")),
    Bad("close reason that is no text", frame(CLOSE, b"\x03\xe8\xff"), 1007),
    Bad("close reason cut within a character", frame(CLOSE, b"\x03\xe8" + "é".encode()[:1]), 1007),
    Bad("close reason with a surrogate", frame(CLOSE, b"\x03\xe8\xed\xa0\x80"), 1007),
]


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_frames(plugin: Plugin, server: Listener, case: Bad, delivery: str) -> None:
    outcome = converse(plugin, server, case.frames, delivery)
    check_failed(outcome, case.messages, case.code)


# --- Close frames ---

CLOSES = [
    *((f"code {code}", b"", code, "") for code in (1000, 1001, 1002, 1003, *range(1007, 1015))),
    *((f"code {code}", b"", code, "") for code in (3000, 3999, 4000, 4999)),
    ("no code", b"", None, ""),
    ("a reason", b"", 1000, "good bye"),
    ("a reason beyond ASCII", b"", 4000, "Grüße 😀"),
    ("the longest reason", b"", 4000, "é" * 61 + "!"),
    ("what JSON escapes", b"", 4000, '"\\\n\x00'),
    ("after a message", frame(TEXT, b"hello"), 1000, ""),
    # 5.4: "Control frames themselves ... MAY be injected in the middle of a fragmented message."
    ("within a fragmented message", frame(TEXT, b"hel", fin=False), 1000, "bye"),
    ("within a fragmented message, no code", frame(BINARY, b"hel", fin=False), None, ""),
    ("within a character", frame(TEXT, "é".encode()[:1], fin=False), 1000, "bye"),
    (
        "after a ping within a fragmented message",
        frame(TEXT, b"a", fin=False) + frame(PONG),
        1001,
        "",
    ),
]


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("case", CLOSES, ids=lambda case: f"{case[0]} {case[2]}")
def test_close_frames(
    plugin: Plugin, server: Listener, case: tuple[str, bytes, int | None, str], delivery: str
) -> None:
    name, before, code, reason = case
    outcome = converse(plugin, server, before + close_frame(code, reason), delivery)
    messages: list[str | bytes] = ["hello"] if name == "after a message" else []
    check_good(outcome, messages, [], 1005 if code is None else code, reason)


@pytest.mark.parametrize(
    "behind",
    [frame(TEXT, b"late"), frame(PING, b"late"), close_frame(1001, "again"), frame(3), b"\xff" * 9],
)
def test_nothing_counts_after_a_close_frame(
    plugin: Plugin, server: Listener, behind: bytes
) -> None:
    outcome = converse(plugin, server, close_frame(4000, "end") + behind)
    check_good(outcome, [], [], 4000, "end")


# --- UTF-8 (section 8.1) ---

CHARACTERS = "$é€😀\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffff"

BROKEN = [
    # Continuation bytes without a start, starts without continuation bytes.
    *("80", "bf", "80 bf", "80 bf 80 bf 80", "c3 20", "e2 20", "e2 82 20", "f0 20", "f0 9f 98 20"),
    # Bytes that never occur.
    *("c0", "c1", "f5", "f8", "fc", "fe", "ff", "fe fe ff ff"),
    # Longer than need be.
    *("c0 af", "c1 bf", "e0 80 af", "e0 9f bf", "f0 80 80 af", "f0 8f bf bf"),
    *("f8 80 80 80 af", "fc 80 80 80 80 af", "c0 80", "e0 80 80", "f0 80 80 80"),
    # Surrogates, alone and in pairs.
    *("ed a0 80", "ed ad bf", "ed ae 80", "ed af bf", "ed b0 80", "ed bf bf", "ed a0 80 ed b0 80"),
    # Beyond U+10FFFF.
    *("f4 90 80 80", "f7 bf bf bf", "f8 88 80 80 80", "fb bf bf bf bf", "fd bf bf bf bf bf"),
]


def test_text_split_at_every_byte(plugin: Plugin, server: Listener) -> None:
    text = CHARACTERS.encode()
    splits = [fragments(TEXT, text[:at], text[at:]) for at in range(len(text) + 1)]
    outcome = converse(plugin, server, b"".join(splits) + close_frame(1000, "done"))
    check_good(outcome, [CHARACTERS] * len(splits), [], 1000, "done")


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_text_split_at_all_bytes(plugin: Plugin, server: Listener, delivery: str) -> None:
    parts = [bytes([byte]) for byte in CHARACTERS.encode()]
    frames = fragments(TEXT, *parts, between=frame(PING, b"\xff") + frame(CONT, b"", fin=False))
    outcome = converse(plugin, server, frames + close_frame(1000, "done"), delivery)
    check_good(outcome, [CHARACTERS], [b"\xff"] * (len(parts) - 1), 1000, "done")


@pytest.mark.parametrize("code", BROKEN)
def test_broken_text(plugin: Plugin, server: Listener, code: str) -> None:
    broken = bytes.fromhex(code)
    text = b"\xce\xba" + broken + b"a"
    splits = [fragments(TEXT, text[:at], text[at:]) for at in range(len(text) + 1)]
    for frames in [frame(TEXT, broken + b"a"), frame(TEXT, text), *splits]:
        check_failed(converse(plugin, server, frame(TEXT, b"ok") + frames), ["ok"], 1007)


@pytest.mark.parametrize("byte", [0xFF, 0x80, 0xC3])
def test_text_broken_at_every_place(plugin: Plugin, server: Listener, byte: int) -> None:
    text = "κόσμε".encode()
    for at in range(len(text) + 1):
        broken = text[:at] + bytes([byte]) + text[at:]
        for frames in (frame(TEXT, broken), fragments(TEXT, broken[: at + 1], broken[at + 1 :])):
            check_failed(converse(plugin, server, frames), [], 1007)


@pytest.mark.parametrize("character", ["é", "€", "😀", "\U0010ffff"])
def test_text_that_ends_within_a_character(
    plugin: Plugin, server: Listener, character: str
) -> None:
    encoded = character.encode()
    for size in range(1, len(encoded)):
        part = encoded[:size]
        for frames in (
            frame(TEXT, b"a" + part),
            fragments(TEXT, b"a", part),
            fragments(TEXT, b"a" + part, b""),
            fragments(TEXT, part, b"", between=frame(PONG)),
            # The next message does not continue the last.
            frame(TEXT, part) + frame(TEXT, encoded[size:]),
        ):
            check_failed(converse(plugin, server, frames), [], 1007)


@pytest.mark.parametrize("code", BROKEN)
def test_broken_text_fails_before_its_message_ends(
    plugin: Plugin, server: Listener, code: str
) -> None:
    """No bytes to come can mend it (section 8.1), so nothing more is waited for."""
    broken = bytes.fromhex(code) + b"a"
    frames = fragments(TEXT, b"\xce", b"\xba" + broken, b"")[: -len(frame(CONT))]
    outcome = converse(plugin, server, frames)
    check_failed(outcome, [], 1007)


def test_binary_is_not_text(plugin: Plugin, server: Listener) -> None:
    data = [bytes.fromhex(code) for code in BROKEN]
    frames = b"".join(frame(BINARY, d) + fragments(BINARY, d, d) for d in data)
    outcome = converse(plugin, server, frames + close_frame(1000, "done"))
    check_good(outcome, [x for d in data for x in (d, d + d)], [], 1000, "done")


# --- --max-message-size ---

LIMIT = 1000
OVER = [
    ("one frame", frame(TEXT, b"*" * (LIMIT + 1))),
    ("header alone", frame(TEXT, length=LIMIT + 1)),
    ("header alone of a fragment", frame(TEXT, fin=False, length=LIMIT + 1)),
    ("two fragments", fragments(TEXT, b"*" * LIMIT, b"*")),
    ("two fragments, unfinished", fragments(BINARY, b"*" * LIMIT, b"*", b"")[:-2]),
    ("a byte a fragment", fragments(BINARY, *[b"*"] * (LIMIT + 1))),
    ("lengths that add up", fragments(TEXT, b"*" * 600, b"*" * 401)),
    ("32 bits", frame(BINARY, length=2**32)),
    ("62 bits", frame(BINARY, length=2**62)),
    ("63 bits", frame(TEXT, length=2**63 - 1)),
    ("63 bits in a continuation", frame(TEXT, b"a", fin=False) + frame(CONT, length=2**63 - 1)),
]


@pytest.fixture
def limited(pool: Pool) -> Iterator[Plugin]:
    with pool.lend("--max-message-size", str(LIMIT)) as plugin:
        yield plugin


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize(("name", "frames"), OVER, ids=[name for name, _ in OVER])
def test_messages_over_the_limit(
    limited: Plugin, server: Listener, name: str, frames: bytes, delivery: str
) -> None:
    outcome = converse(limited, server, frame(TEXT, b"ok") + frames, delivery)
    check_failed(outcome, ["ok"], 1009)


def test_default_limit(plugin: Plugin, server: Listener) -> None:
    """16 MiB, judged by the header alone."""
    outcome = converse(plugin, server, frame(TEXT, length=16 * 2**20 + 1))
    check_failed(outcome, [], 1009)


def test_length_with_its_highest_bit_set(plugin: Plugin, server: Listener) -> None:
    """Too big and malformed (section 5.2) at once: either may be said, but at once."""
    outcome = converse(plugin, server, frame(BINARY, length=2**64 - 1))
    (_, payload) = outcome.sent[-1]
    check_failed(outcome, [], struct.unpack("!H", payload[:2])[0])


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_messages_at_the_limit(limited: Plugin, server: Listener, delivery: str) -> None:
    text = "é" * (LIMIT // 2)
    data = text.encode()
    frames = [
        frame(TEXT, data),
        frame(BINARY, data),
        fragments(TEXT, data, b""),
        fragments(BINARY, b"", data),
        fragments(TEXT, data[:1], data[1:]),
        fragments(BINARY, *(data[at : at + 1] for at in range(LIMIT))),
    ]
    outcome = converse(limited, server, b"".join(frames) + close_frame(1000, "done"), delivery)
    check_good(outcome, [text, data] * 3, [], 1000, "done")


@pytest.mark.parametrize("ping", [b"", b"ping", b"*" * 125])
def test_control_frames_do_not_count_as_message(
    limited: Plugin, server: Listener, ping: bytes
) -> None:
    data = b"*" * LIMIT
    frames = fragments(TEXT, data[:-1], data[-1:], between=frame(PING, ping) + frame(PONG, ping))
    outcome = converse(limited, server, frames + close_frame(1000, "done"))
    check_good(outcome, [data.decode()], [ping], 1000, "done")


def test_control_frames_are_not_limited(pool: Pool, server: Listener) -> None:
    with pool.lend("--max-message-size", "10") as plugin:
        frames = frame(TEXT, b"*" * 9, fin=False) + frame(PING, b"p" * 125)
        outcome = converse(plugin, server, frames + close_frame(1000, "r" * 123))
        check_good(outcome, [], [b"p" * 125], 1000, "r" * 123)


# --- what the plugin sends ---

SENT: list[tuple[str, Any, int, bytes]] = [
    ("text", "", TEXT, b""),
    ("text", "hello", TEXT, b"hello"),
    ("text", CHARACTERS, TEXT, CHARACTERS.encode()),
    ("arraybuffer", [], BINARY, b""),
    ("arraybuffer", list(range(256)), BINARY, bytes(range(256))),
    ("base64", "", BINARY, b""),
    ("base64", "AP8=", BINARY, b"\x00\xff"),
    *(
        ("text", "*" * size, TEXT, b"*" * size)
        for size in (124, 125, 126, 127, 65_535, 65_536, 70_000)
    ),
    *(
        ("arraybuffer", [7] * size, BINARY, bytes([7]) * size)
        for size in (125, 126, 65_535, 65_536)
    ),
]


def read_raw_frame(peer: Peer) -> tuple[int, bytes, bytes]:
    """Read a frame; check that it is masked and its length encoded in the fewest bytes."""
    head, second = peer.read_exact(2)
    assert second & 0x80
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", peer.read_exact(2))
        assert size > 125
    elif size == 127:
        (size,) = struct.unpack("!Q", peer.read_exact(8))
        assert size > 65_535
    mask = peer.read_exact(4)
    return head, mask, unmask(peer.read_exact(size), mask)


def test_messages_sent(plugin: Plugin, server: Listener) -> None:
    """One masked frame each, in order, with a new masking key (section 5.3)."""
    id, peer = server.open(plugin)
    with peer:
        masks = set()
        for type, data, opcode, payload in SENT:
            send = {"id": id, "type": type, "data": data}
            assert plugin.request("websocket-send", send)["response"] == {}
            head, mask, received = read_raw_frame(peer)
            assert (head, received) == (0x80 | opcode, payload)
            masks.add(mask)
        # Three equal ones among so many would be no accident.
        assert len(masks) > len(SENT) - 2
        peer.send(close_frame(1000, ""))
        peer.expect_close(1000, "")
    plugin.event(id, "close")


def test_messages_sent_in_one_go(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send(
            *(
                {
                    "id": n,
                    "action": "websocket-send",
                    "payload": {"id": id, "type": type, "data": data},
                }
                for n, (type, data, _, _) in enumerate(SENT)
            ),
            {"id": "c", "action": "websocket-close", "payload": {"id": id, "code": 4999}},
        )
        for _, _, opcode, payload in SENT:
            head, _, received = read_raw_frame(peer)
            assert (head, received) == (0x80 | opcode, payload)
        assert read_raw_frame(peer)[::2] == (0x80 | CLOSE, struct.pack("!H", 4999))
        peer.send(close_frame(4999))
    for n in range(len(SENT)):
        assert plugin.read() == {"id": n, "response": {}}
    assert plugin.read() == {"id": "c", "response": {}}
    assert plugin.event(id, "close") == {"code": 4999, "reason": "", "cause": "host"}


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        ({}, b"\x03\xe8"),
        ({"code": 1001}, b"\x03\xe9"),
        ({"reason": "bye"}, b"\x03\xe8bye"),
        ({"code": 4999, "reason": "é" * 61 + "!"}, b"\x13\x87" + ("é" * 61 + "!").encode()),
        *(
            ({"code": code}, struct.pack("!H", code))
            for code in (1000, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000)
        ),
    ],
)
def test_close_frames_sent(
    plugin: Plugin, server: Listener, payload: dict[str, Any], sent: bytes
) -> None:
    id, peer = server.open(plugin)
    with peer:
        assert plugin.request("websocket-close", {"id": id, **payload})["response"] == {}
        assert read_raw_frame(peer)[::2] == (0x80 | CLOSE, sent)
        peer.send(frame(CLOSE, sent))
    code, reason = payload.get("code", 1000), payload.get("reason", "")
    assert plugin.event(id, "close") == {"code": code, "reason": reason, "cause": "host"}


def test_pongs_do_not_overtake_and_are_not_lost(plugin: Plugin, server: Listener) -> None:
    """Messages and Pings in both directions at once: each kind arrives whole and in order."""
    id, peer = server.open(plugin)
    with peer:
        for n in range(100):
            plugin.send(
                {
                    "id": n,
                    "action": "websocket-send",
                    "payload": {"id": id, "type": "text", "data": f"{n}"},
                }
            )
            peer.send(frame(PING, b"%d" % n))
        texts: list[bytes] = []
        pongs: list[bytes] = []
        while len(texts) + len(pongs) < 200:
            head, _, payload = read_raw_frame(peer)
            (texts if head == 0x80 | TEXT else pongs).append(payload)
            assert head in (0x80 | TEXT, 0x80 | PONG)
        assert texts == pongs == [b"%d" % n for n in range(100)]
        peer.send(close_frame(1000))
        peer.expect_close(1000)
    assert [plugin.read() for _ in range(100)] == [{"id": n, "response": {}} for n in range(100)]
    plugin.event(id, "close")


def test_every_event_is_one_line_of_json(plugin: Plugin, server: Listener) -> None:
    """Nothing that a server sends can end a line or start another."""
    id = plugin.create(server.url)
    with server.accept() as peer:
        peer.handshake("X-Odd: \xff\x80 \"\\ {}'")
        evil = 'x"}}}\n{"event":"websocket-event"}\r\n\u2028'
        peer.send(frame(TEXT, evil.encode()) + close_frame(4000, evil[:20]))
        peer.expect_close()
    lines = [plugin.read_line() for _ in range(3)]
    for line in lines:
        assert line.count(b"\n") == 1
        assert json.dumps(json.loads(line))
    opened, received, closed = (json.loads(line)["payload"] for line in lines)
    assert opened["payload"]["headers"]["x-odd"] == "\xff\x80 \"\\ {}'"
    assert received["payload"]["data"] == evil
    assert closed["id"] == id
    assert closed["payload"]["reason"] == evil[:20]
