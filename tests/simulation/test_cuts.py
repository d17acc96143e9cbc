"""Closes that have a time of their own, 0 among them, in virtual time."""

from collections.abc import Callable, Iterator

import pytest

from simulation import behaviours
from simulation.network import Host, Place
from simulation.scenes import CLOSE, EXACTLY, LATE, OPEN, end, place, play, vanish, when, why
from simulation.script import Script
from simulation.servers import Course, Server


def sent(script: Script, id: str, count: int) -> None:
    """Send a few messages."""
    for number in range(count):
        script.sent.setdefault(id, {})[number] = b"%d:" % number
        script.senders.setdefault(id, {})[number] = None
        script.write("websocket-send", {"id": id, "type": "text", "data": f"{number}:"})


@pytest.mark.parametrize(
    ("timeouts", "ends_at"),
    [
        ([700], 1.7),
        ([1], 1.001),
        ([60_000], 1.0 + CLOSE),
        ([None, 500], 2.5),
        ([500, 60_000], 1.5),
        ([None, 60_000], 1.0 + CLOSE),
        ([None, 0], 2.0),
        ([0], 1.0),
    ],
)
def test_a_close_has_its_own_time(timeouts: list[int | None], ends_at: float) -> None:
    """Nothing is taken, as the network has gone; a second close comes a second later."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(life=vanish))
        yield 1.0
        for timeout in timeouts:
            own = {} if timeout is None else {"timeout": timeout}
            script.write("websocket-close", {"id": "ws-1", **own})
            yield 1.0
        yield OPEN
        end(script)

    run = play(steps)
    assert when(run, "ws-1", "close") == pytest.approx(ends_at, abs=EXACTLY)
    assert why(run, "ws-1") == (1006, "host")


def test_what_the_server_takes_prolongs_a_close_by_its_own_time() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(place())
        yield 1.0
        script.write("websocket-close", {"id": "ws-1", "timeout": 800})
        yield OPEN
        end(script)

    assert 1.8 < when(play(steps), "ws-1", "close") <= 1.0 + 0.8 * (1 + LATE) + EXACTLY


def stop_reading(server: Server) -> Course:
    """Open, and read nothing."""
    server.peer.pause()
    yield 0.0


def ask_nothing(script: Script) -> None:
    pass


@pytest.mark.parametrize(
    ("where", "before"),
    [
        (place(), ask_nothing),
        (place(life=behaviours.flood), ask_nothing),
        (place(life=stop_reading), lambda script: sent(script, "ws-1", 9)),
        (place(life=stop_reading), lambda script: script.write("websocket-ping", {"id": "ws-1"})),
        (
            place(life=behaviours.flood),
            lambda script: script.write("websocket-pause", {"id": "ws-1"}),
        ),
        (place(behaviours.silence), lambda script: sent(script, "ws-1", 3)),
        (place(host=Host(-1, 0.0)), lambda script: sent(script, "ws-1", 3)),
    ],
    ids=["idle", "flood", "sends", "ping", "paused", "no answer", "no TCP"],
)
def test_a_cut_takes_no_time(where: Place, before: Callable[[Script], None]) -> None:
    """Whatever the connection is at; in which order its lines come, the bounds check."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(where)
        yield 0.0
        before(script)
        yield 1.0
        script.write("websocket-close", {"id": "ws-1", "timeout": 0})
        yield OPEN
        end(script)

    run = play(steps)
    assert when(run, "ws-1", "close") == pytest.approx(1.0, abs=EXACTLY)
    assert why(run, "ws-1") == (1006, "host")
    assert not any(server.close_received for server in run.network.of("ws-1"))


def test_a_cut_spares_whoever_waits_for_the_place_its_second() -> None:
    """And one that waits for a place itself ends at once."""

    def steps(script: Script) -> Iterator[float]:
        for _ in range(2):
            script.create_at(place())
        yield 0.2
        script.create_at(place())
        script.write("websocket-close", {"id": "ws-3", "timeout": 0})
        script.write("websocket-close", {"id": "ws-1", "timeout": 0})
        script.create_at(place())
        yield OPEN
        end(script)

    run = play(steps)
    times = [when(run, "ws-3", "close"), when(run, "ws-1", "close"), when(run, "ws-4", "open")]
    assert times == pytest.approx([0.2] * 3, abs=EXACTLY)
