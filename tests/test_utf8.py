"""Text that is UTF-8, and text that is not, however it is cut up (RFC 6455 section 8.1)."""

import pytest

from conversations import CHARACTERS, DELIVERIES, check_failed, check_good, converse, fragments
from harness import BINARY, CONT, PING, PONG, TEXT, Listener, Plugin, close_frame, frame

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
