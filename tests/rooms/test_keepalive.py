"""When a Ping goes and when a server is given up (``network/keepalive.py``), as a table."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsplugin.network.keepalive import Act, Answered, Keepalive, Progress

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
    "a ping of the host's, answered": [
        (105, "asked b 2", 105.25),
        (105.2, "ponged b", 120),
        (120, PING, 120),
    ],
    "a ping of the host's, not answered": [
        (105, "asked b 2", 105.25),
        (106.9, NOTHING, 107),
        (107, READ_FIRST, 107),
        (107, GIVE_UP, 107),
    ],
    "the shortest time counts": [
        (105, "asked b 8", 105.5),
        (106, "asked c 1", 106.125),
        (106.9, NOTHING, 107),
        (107, READ_FIRST, 107),
        (107, GIVE_UP, 107),
    ],
    "the later of two is answered, and with it the earlier": [
        (105, "asked b 8", 105.5),
        (106, "asked c 1", 106.125),
        (106.5, "ponged c", 120),
    ],
    "the earlier of two is answered alone": [
        (105, "asked b 8", 105.5),
        (106, "asked c 2", 106.25),
        (106.1, "ponged b", 106.25),
        (107.9, NOTHING, 108),
        (108, READ_FIRST, 108),
        (108, GIVE_UP, 108),
    ],
    "signs of life start the time of each anew": [
        (105, "asked b 8", 105.5),
        (105, "asked c 2", 105.25),
        (106, "received 1", 105.25),
        (106, NOTHING, 106.25),
        (107.9, "taken 999", 106.25),
        (107.9, NOTHING, 108.15),
        (109.9, READ_FIRST, 109.9),
        (109.9, GIVE_UP, 109.9),
    ],
    "that the pings themselves have arrived is no sign of life": [
        (105, "asked b 2", 105.25),
        (105, "asked c 2", 105.25),
        (105.2, "taken 1010", 105.25),
        (105.3, NOTHING, 105.55),
        # The two, at 1,010 to 1,030.
        (106, "taken 1030", 105.55),
        (106, NOTHING, 106.25),
        (107.3, READ_FIRST, 107.3),
        (107.3, GIVE_UP, 107.3),
    ],
    "a ping more is no sign of life": [
        (105, "asked b 2", 105.25),
        (106, "asked c 2", 106.25),
        (107, READ_FIRST, 107),
        (107, GIVE_UP, 107),
    ],
    "a pong to the host's is one of the connection's own, sent before": [
        (120, "pinged a", 120.5),
        (121, "asked b 9", 121.5),
        (122, "ponged b", 142),
    ],
    "and none of that sent after it": [
        (119, "asked b 9", 119.5),
        (120, PING, 120),
        (120, "pinged c", 120.5),
        (121, "ponged b", 120.5),
        (124, READ_FIRST, 124),
        (124, GIVE_UP, 124),
    ],
    "a ping of the host's while held": [
        (105, "hold", 120),
        (105, "asked b 2", 120),
        (119, NOTHING, 120),
        (119, "go on", 119.25),
        (120, PING, 120),
        (120, "pinged c", 120.25),
        (121, READ_FIRST, 121),
        (121, GIVE_UP, 121),
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
            keepalive.pinged(payload.encode(), now, progress, before=1000, behind=1010, given=0)
        case "asked":
            ping, _, seconds = payload.partition(" ")
            before = 1000 + 10 * (ord(ping) - ord("a"))
            keepalive.pinged(ping.encode(), now, progress, before, before + 10, 0, float(seconds))
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


def test_a_pong_answers_its_ping_and_all_earlier_ones() -> None:
    keepalive = Keepalive(INTERVAL, TIMEOUT, OPENED)
    for number, now in enumerate((100.0, 101.0, 102.0, 103.0)):
        timeout = None if number == 1 else 9.0
        keepalive.pinged(b"%d" % number, now, Progress(), 0, 0, 0, timeout)
        keepalive.left(now, 0)
    assert keepalive.ponged(b"none", 104) == []
    # Those of the connection's own are told, too; whoever asked for none of them knows.
    assert keepalive.ponged(b"2", 104) == [
        Answered(b"0", 4.0),
        Answered(b"1", 3.0),
        Answered(b"2", 2.0),
    ]
    assert keepalive.ponged(b"1", 105) == []
    assert keepalive.awaits
    assert keepalive.ponged(b"3", 105) == [Answered(b"3", 2.0)]
    assert not keepalive.awaits


def test_its_time_is_from_when_it_has_left() -> None:
    """Where that was not seen, from when it was last seen waiting."""
    keepalive = Keepalive(INTERVAL, TIMEOUT, OPENED)
    for number in range(4):
        keepalive.pinged(b"%d" % number, 100, Progress(), 0, 0, given=10 * (number + 1), timeout=9)
    keepalive.left(100, 10)
    keepalive.left(102, 19)
    keepalive.left(103, 20)
    keepalive.left(104, 30, just_now=True)
    keepalive.left(105, 39, just_now=True)
    keepalive.left(106, 41, just_now=True)
    keepalive.left(107, 40, just_now=True)
    assert [answered.seconds for answered in keepalive.ponged(b"3", 108)] == [8, 6, 4, 3]


def test_a_pong_counts_when_nothing_is_timed_any_more() -> None:
    keepalive = Keepalive(INTERVAL, TIMEOUT, OPENED)
    keepalive.pinged(b"a", 100, Progress(), 0, 0, 0, 9)
    keepalive.left(100, 0)
    keepalive.stop()
    assert keepalive.ponged(b"a", 101) == [Answered(b"a", 1)]
    assert keepalive.due == math.inf


@pytest.mark.parametrize(("interval", "timeout"), [(0, 0), (0, 5), (5, 0)])
def test_where_own_pings_are_off_the_hosts_have_their_time(interval: float, timeout: float) -> None:
    keepalive = Keepalive(interval, timeout, OPENED)
    keepalive.pinged(b"a", 100, Progress(), 0, 0, 0, 4)
    assert keepalive.due == 100 + LOOK
    assert keepalive.act(104, Progress()) is READ_FIRST
    assert keepalive.act(104, Progress()) is GIVE_UP
    keepalive.ponged(b"a", 104)
    assert keepalive.due == math.inf


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
                    keepalive.pinged(b"%d" % pings, now, progress, 0, 0, 0)
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
