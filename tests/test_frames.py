"""What the plugin makes of a server's frames (RFC 6455 sections 5 to 7).

The server is played by hand, so that every byte is chosen here. Each conversation of the tables
is also held byte by byte, in one write with the response of the opening handshake, and with more
data behind its end. Text, the limit of messages and compression have files of their own.
"""

import pytest

from conversations import DELIVERIES, check_failed, check_good, converse, fragments
from frame_cases import BAD, CLOSES, GOOD, Bad, Good
from harness import BINARY, PING, TEXT, Listener, Plugin, close_frame, frame

# --- what a server may send ---


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


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_frames(plugin: Plugin, server: Listener, case: Bad, delivery: str) -> None:
    outcome = converse(plugin, server, case.frames, delivery)
    check_failed(outcome, case.messages, case.code)


# --- Close frames ---


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
