"""``--max-message-size``: what counts is the message, whatever its frames."""

import struct

import pytest

from conversations import DELIVERIES, LIMIT, check_failed, check_good, converse, fragments
from frame_cases import OVER
from harness import BINARY, PING, PONG, TEXT, Listener, Plugin, close_frame, frame
from pool import Pool


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
