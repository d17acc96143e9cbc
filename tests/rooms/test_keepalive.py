"""When a Ping goes and when a server is given up (``network/keepalive.py``), as a table."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsplugin.network.keepalive import Act, Keepalive, Progress

INTERVAL, TIMEOUT, OPENED = 20.0, 4.0, 100.0
NOTHING, PING, READ_FIRST, GIVE_UP = Act.NOTHING, Act.PING, Act.READ_FIRST, Act.GIVE_UP
LOOK = 0.5
"""Seconds between two looks at progress: an eighth of TIMEOUT."""

# Each step: when, what happens, and when the keepalive is due then. An Act is what it says is to be
# done. "taken" and "received" tell how far the server has come; a Ping stands at bytes 1,000 to
# 1,010 of what is sent.
Step = tuple[float, Any, float]

COURSES: dict[str, Sequence[Step]] = {
    "a server that answers": [
        (100, "opened", 120),
        (119.9, NOTHING, 120),
        (120, PING, 120),
        (120, "pinged a", 120.5),
        (120.5, NOTHING, 121),
        (121, "ponged a", 141),
        (140.9, NOTHING, 141),
        (141, PING, 141),
        (141, "pinged b", 141.5),
        (141.2, "ponged b", 161.2),
    ],
    "a server that does not": [
        (120, "pinged a", 120.5),
        (123.7, NOTHING, 124),
        (124, READ_FIRST, 124),
        (124, GIVE_UP, 124),
    ],
    "a timer that is late": [
        (135, PING, 120),
        (135, "pinged a", 135.5),
        (160, READ_FIRST, 139),
        (160, GIVE_UP, 139),
    ],
    "what has arrived while the process was stopped": [
        (120, "pinged a", 120.5),
        (900, READ_FIRST, 124),
        (900, "ponged a", 920),
    ],
    "a byte that has arrived and is not read yet": [
        (120, "pinged a", 120.5),
        (900, "received 1", 120.5),
        (900, NOTHING, 900.5),
        (904, READ_FIRST, 904),
        (904, GIVE_UP, 904),
    ],
    "a long message that comes slowly": [
        (120, "pinged a", 120.5),
        (123, "received 1", 120.5),
        (123.5, NOTHING, 124),
        (127, "received 2", 124),
        (127.4, NOTHING, 127.9),
        (131.4, READ_FIRST, 131.4),
        (131.4, GIVE_UP, 131.4),
    ],
    "a long message that the server takes slowly": [
        (120, "pinged a", 120.5),
        (123, "taken 500", 120.5),
        (123.5, NOTHING, 124),
        (127, "taken 1000", 124),
        (127.4, NOTHING, 127.9),
        (131.4, READ_FIRST, 131.4),
        (131.4, GIVE_UP, 131.4),
    ],
    "that the ping itself has arrived is no sign of life": [
        (120, "pinged a", 120.5),
        (120.1, "taken 1000", 120.5),
        (120.5, NOTHING, 121),
        (123, "taken 1010", 121),
        (123, NOTHING, 123.5),
        (124.5, READ_FIRST, 124.5),
        (124.5, GIVE_UP, 124.5),
    ],
    "what was sent behind the ping is one": [
        (120, "pinged a", 120.5),
        (120.5, "taken 1010", 120.5),
        (120.5, NOTHING, 121),
        (124, "taken 1011", 121),
        (124, NOTHING, 124.5),
        (128, READ_FIRST, 128),
    ],
    "pongs that answer nothing": [
        (110, "ponged x", 120),
        (120, "pinged a", 120.5),
        (120.2, "ponged x", 120.5),
        (120.2, "ponged ", 120.5),
        (122, "ponged a", 142),
        # The same once more answers nothing either.
        (130, "ponged a", 142),
        (142, "pinged b", 142.5),
        (142.3, "ponged a", 142.5),
        (146, READ_FIRST, 146),
        (146, GIVE_UP, 146),
    ],
    "a host that stops before the ping": [
        (110, "hold", 120),
        # A Ping may go, but nobody can read the answer.
        (120, PING, 120),
        (120, "pinged a", math.inf),
        (900, NOTHING, math.inf),
        (900, "go on", 900.5),
        (904, READ_FIRST, 904),
        (904, GIVE_UP, 904),
    ],
    "a host that stops and goes on before the ping": [
        (110, "hold", 120),
        (115, "go on", 120),
        (120, PING, 120),
    ],
    "a host that stops while a pong is due": [
        (120, "pinged a", 120.5),
        (123, "hold", math.inf),
        (130, NOTHING, math.inf),
        (130, "hold", math.inf),
        # What has arrived meanwhile is still to be read: the whole time anew.
        (200, "go on", 200.5),
        (201, "ponged a", 221),
    ],
    "a pong that is read while held": [
        (120, "pinged a", 120.5),
        (120.2, "hold", math.inf),
        (122, "ponged a", 142),
        (130, "go on", 142),
        (142, PING, 142),
    ],
    "going on without having been held prolongs nothing": [
        (120, "pinged a", 120.5),
        (123, "go on", 120.5),
        (124, READ_FIRST, 124),
        (124, GIVE_UP, 124),
    ],
    "the end": [
        (120, "pinged a", 120.5),
        (120.2, "stop", math.inf),
        (500, NOTHING, math.inf),
        (500, "ponged a", math.inf),
        (500, "hold", math.inf),
        (600, "go on", math.inf),
        (700, NOTHING, math.inf),
    ],
    "the end while held": [
        (120, "pinged a", 120.5),
        (121, "hold", math.inf),
        (122, "stop", math.inf),
        (123, "go on", math.inf),
        (700, NOTHING, math.inf),
    ],
}


def do(keepalive: Keepalive, now: float, event: Any, progress: Progress) -> Progress:
    """Let something happen; return how far the server has come."""
    if isinstance(event, Act):
        assert keepalive.act(now, progress) is event
        return progress
    name, _, payload = event.partition(" ") if event != "go on" else (event, "", "")
    match name:
        case "opened":
            pass
        case "pinged":
            keepalive.pinged(payload.encode(), now, progress, before=1000, behind=1010)
        case "ponged":
            keepalive.ponged(payload.encode(), now)
        case "taken":
            return Progress(int(payload), progress.received)
        case "received":
            return Progress(progress.taken, int(payload))
        case "hold":
            keepalive.hold()
        case "go on":
            keepalive.go_on(now)
        case "stop":
            keepalive.stop()
        case _:
            pytest.fail(f"no event {event}")
    return progress


@pytest.mark.parametrize("steps", COURSES.values(), ids=COURSES)
def test_courses(steps: Sequence[Step]) -> None:
    keepalive = Keepalive(INTERVAL, TIMEOUT, OPENED)
    progress = Progress()
    for number, (now, event, due) in enumerate(steps):
        progress = do(keepalive, now, event, progress)
        assert keepalive.due == pytest.approx(due), f"after step {number}, {event} at {now}"


@pytest.mark.parametrize(("interval", "timeout"), [(0, 0), (0, 5), (5, 0)])
def test_either_option_as_0_turns_pings_off(interval: float, timeout: float) -> None:
    keepalive = Keepalive(interval, timeout, OPENED)
    assert keepalive.due == math.inf
    assert keepalive.act(10**9, Progress()) is NOTHING
    keepalive.hold()
    keepalive.go_on(200)
    keepalive.ponged(b"", 300)
    assert keepalive.due == math.inf


events = st.lists(
    st.tuples(
        st.floats(0, 30),
        st.sampled_from(["ponged x", "answer", "byte", "hold", "go on", "stop", "tick", "tick"]),
    )
)


@given(events)
def test_the_same_as_told_in_words(events: list[tuple[float, str]]) -> None:
    """A Ping goes `INTERVAL` after the last answer, and has `TIMEOUT` from the last life seen."""
    keepalive = Keepalive(INTERVAL, TIMEOUT, OPENED)
    progress = seen = Progress()
    now, pings = OPENED, 0
    answered: float = OPENED
    life = math.inf  # the last sign of it, once a Ping has gone
    held = stopped = warned = False
    for later, event in events:
        now += later
        match event:
            case "tick" if stopped or (held and life < math.inf):
                assert keepalive.act(now, progress) is NOTHING
            case "tick" if life == math.inf:
                expected = PING if now >= answered + INTERVAL else NOTHING
                assert keepalive.act(now, progress) is expected
                if expected is PING:
                    pings += 1
                    keepalive.pinged(b"%d" % pings, now, progress, 0, 0)
                    life, seen, warned = now, progress, False
            case "tick":
                due = now >= keepalive.due
                if due and progress != seen:
                    life, seen, warned = now, progress, False
                over = due and now >= life + TIMEOUT
                expected = NOTHING if not over else GIVE_UP if warned else READ_FIRST
                assert keepalive.act(now, progress) is expected
                warned = warned or expected is READ_FIRST
            case "byte":
                progress = Progress(progress.taken, progress.received + 1)
            case "answer":
                keepalive.ponged(b"%d" % pings, now)
                if life < math.inf:
                    life, answered = math.inf, now
            case "stop":
                keepalive.stop()
                stopped = True
            case _:
                do(keepalive, now, event, progress)
                if event == "go on" and held and life < math.inf:
                    life, warned = now, False
                if event in ("hold", "go on"):
                    held = event == "hold"
