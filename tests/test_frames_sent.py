"""The frames that the plugin sends (RFC 6455 section 5), and the lines it makes of what comes."""

import json
import struct
from typing import Any

import pytest

from conversations import CHARACTERS
from harness import BINARY, CLOSE, PING, PONG, TEXT, Listener, Plugin, close_frame, frame
from host_lines import close, done, send

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


def test_messages_sent(plugin: Plugin, server: Listener) -> None:
    """One masked frame each, in order, with a new masking key (section 5.3)."""
    id, peer = server.open(plugin)
    with peer:
        masks = set()
        for type, data, opcode, payload in SENT:
            plugin.send(send(id, data, 1, type))
            assert plugin.read() == done(1)
            assert peer.read_frame() == (0x80 | opcode, payload)
            masks.add(peer.mask)
        # Three equal ones among so many would be no accident.
        assert len(masks) > len(SENT) - 2
        peer.send(close_frame(1000, ""))
        peer.expect_close(1000, "")
    plugin.event(id, "close")


def test_messages_sent_in_one_go(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send(
            *(send(id, data, n, type) for n, (type, data, _, _) in enumerate(SENT)),
            close(id, 4999),
        )
        for _, _, opcode, payload in SENT:
            assert peer.read_frame() == (0x80 | opcode, payload)
        assert peer.read_frame() == (0x80 | CLOSE, struct.pack("!H", 4999))
        peer.send(close_frame(4999))
    for n in range(len(SENT)):
        assert plugin.read() == done(n)
    assert plugin.read() == done("close")
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
        assert peer.read_frame() == (0x80 | CLOSE, sent)
        peer.send(frame(CLOSE, sent))
    code, reason = payload.get("code", 1000), payload.get("reason", "")
    assert plugin.event(id, "close") == {"code": code, "reason": reason, "cause": "host"}


def test_pongs_do_not_overtake_and_are_not_lost(plugin: Plugin, server: Listener) -> None:
    """Messages and Pings in both directions at once: each kind arrives whole and in order."""
    id, peer = server.open(plugin)
    with peer:
        for n in range(100):
            plugin.send(send(id, f"{n}"))
            peer.send(frame(PING, b"%d" % n))
        texts: list[bytes] = []
        pongs: list[bytes] = []
        while len(texts) + len(pongs) < 200:
            head, payload = peer.read_frame()
            (texts if head == 0x80 | TEXT else pongs).append(payload)
            assert head in (0x80 | TEXT, 0x80 | PONG)
        assert texts == pongs == [b"%d" % n for n in range(100)]
        peer.send(close_frame(1000))
        peer.expect_close(1000)
    assert [plugin.read() for _ in range(100)] == [done(f"{n}") for n in range(100)]
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
