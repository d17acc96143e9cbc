"""When a Ping goes and when a server is given up (``network/keepalive.py``), as a table."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsplugin.network.keepalive import Act, Keepalive

INTERVAL, TIMEOUT, OPENED = 20.0, 5.0, 100.0
NOTHING, PING, GIVE_UP = Act.NOTHING, Act.PING, Act.GIVE_UP

# Each step: when, what happens, and when the keepalive is due then. "act" says what is to be done.
Step = tuple[float, Any, float]

COURSES: dict[str, Sequence[Step]] = {
    "a server that answers": [
        (100, "opened", 120),
        (119.9, NOTHING, 120),
        (120, PING, 120),
        (120, "pinged a", 125),
        (124.9, NOTHING, 125),
        (121, "ponged a", 141),
        (140.9, NOTHING, 141),
        (141, PING, 141),
        (141, "pinged b", 146),
        (145.99, "ponged b", 165.99),
    ],
    "a server that does not": [
        (120, PING, 120),
        (120, "pinged a", 125),
        (125, GIVE_UP, 125),
    ],
    "a timer that is late": [
        (135, PING, 120),
        (135, "pinged a", 140),
        (160, GIVE_UP, 140),
    ],
    "pongs that answer nothing": [
        (110, "ponged x", 120),
        (120, "pinged a", 125),
        (121, "ponged x", 125),
        (121, "ponged ", 125),
        (122, "ponged a", 142),
        # The same once more answers nothing either.
        (130, "ponged a", 142),
        (142, "pinged b", 147),
        (143, "ponged a", 147),
        (147, GIVE_UP, 147),
    ],
    "a host that stops before the ping": [
        (110, "hold", 120),
        # A Ping may go, but nobody can read the answer.
        (120, PING, 120),
        (120, "pinged a", math.inf),
        (900, NOTHING, math.inf),
        (900, "go on", 905),
        (904.9, NOTHING, 905),
        (905, GIVE_UP, 905),
    ],
    "a host that stops and goes on before the ping": [
        (110, "hold", 120),
        (115, "go on", 120),
        (120, PING, 120),
    ],
    "a host that stops while a pong is due": [
        (120, "pinged a", 125),
        (124, "hold", math.inf),
        (130, NOTHING, math.inf),
        (130, "hold", math.inf),
        # What has arrived meanwhile is still to be read: the whole time anew.
        (200, "go on", 205),
        (201, "ponged a", 221),
    ],
    "a pong that is read while held": [
        (120, "pinged a", 125),
        (121, "hold", math.inf),
        (122, "ponged a", 142),
        (130, "go on", 142),
        (142, PING, 142),
    ],
    "going on without having been held prolongs nothing": [
        (120, "pinged a", 125),
        (123, "go on", 125),
        (125, GIVE_UP, 125),
    ],
    "the end": [
        (120, "pinged a", 125),
        (121, "stop", math.inf),
        (500, NOTHING, math.inf),
        (500, "ponged a", math.inf),
        (500, "hold", math.inf),
        (600, "go on", math.inf),
        (700, NOTHING, math.inf),
    ],
    "the end while held": [
        (120, "pinged a", 125),
        (121, "hold", math.inf),
        (122, "stop", math.inf),
        (123, "go on", math.inf),
        (700, NOTHING, math.inf),
    ],
}


def do(keepalive: Keepalive, now: float, event: Any) -> None:
    """Let something happen."""
    if isinstance(event, Act):
        assert keepalive.act(now) is event
        return
    name, _, payload = event.rpartition(" ") if "ed " in event else (event, "", "")
    match name:
        case "opened":
            pass
        case "pinged":
            keepalive.pinged(payload.encode(), now)
        case "ponged":
            keepalive.ponged(payload.encode(), now)
        case "hold":
            keepalive.hold()
        case "go on":
            keepalive.go_on(now)
        case "stop":
            keepalive.stop()
        case _:
            pytest.fail(f"no event {event}")


@pytest.mark.parametrize("steps", COURSES.values(), ids=COURSES)
def test_courses(steps: Sequence[Step]) -> None:
    keepalive = Keepalive(INTERVAL, TIMEOUT, OPENED)
    for number, (now, event, due) in enumerate(steps):
        do(keepalive, now, event)
        assert keepalive.due == pytest.approx(due), f"after step {number}, {event} at {now}"


@pytest.mark.parametrize(("interval", "timeout"), [(0, 0), (0, 5), (5, 0)])
def test_either_option_as_0_turns_pings_off(interval: float, timeout: float) -> None:
    keepalive = Keepalive(interval, timeout, OPENED)
    assert keepalive.due == math.inf
    assert keepalive.act(10**9) is NOTHING
    keepalive.hold()
    keepalive.go_on(200)
    keepalive.ponged(b"", 300)
    assert keepalive.due == math.inf


events = st.lists(
    st.tuples(
        st.floats(0, 30),
        st.sampled_from(["ponged x", "answer", "hold", "go on", "stop", "tick", "tick"]),
    )
)


@given(events)
def test_the_same_as_told_in_words(events: list[tuple[float, str]]) -> None:
    """A Ping goes `INTERVAL` after the last answer, and has `TIMEOUT` in which we read."""
    keepalive = Keepalive(INTERVAL, TIMEOUT, OPENED)
    now, pings = OPENED, 0
    answered: float = OPENED
    listening_since = math.inf  # since when an answer could have been read
    held = stopped = False
    for later, event in events:
        now += later
        match event:
            case "tick" if stopped:
                assert keepalive.act(now) is NOTHING
            case "tick" if listening_since == math.inf:
                expected = PING if now >= answered + INTERVAL else NOTHING
                assert keepalive.act(now) is expected
                if expected is PING:
                    pings += 1
                    keepalive.pinged(b"%d" % pings, now)
                    listening_since = now
            case "tick":
                given_up = not held and now >= listening_since + TIMEOUT
                assert keepalive.act(now) is (GIVE_UP if given_up else NOTHING)
            case "answer":
                keepalive.ponged(b"%d" % pings, now)
                if listening_since < math.inf:
                    listening_since, answered = math.inf, now
            case "stop":
                keepalive.stop()
                stopped = True
            case _:
                do(keepalive, now, event)
                if event == "go on" and held and listening_since < math.inf:
                    listening_since = now
                if event in ("hold", "go on"):
                    held = event == "hold"
