"""What a server may send in frames, and what it must not (RFC 6455 sections 5 to 7), as tables."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from conversations import LIMIT, fragments
from harness import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_frame, frame


class Good(NamedTuple):
    """Frames, and the messages and Pong frames that come of them."""

    name: str
    frames: bytes
    messages: Sequence[str | bytes] = ()
    pongs: Sequence[bytes] = ()


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
"""What, what comes before the Close frame, its code or None for none, its reason."""

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
"""What is longer than :data:`~conversations.LIMIT`."""
