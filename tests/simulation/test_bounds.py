"""The contract's bounds on time, reached to the tick by servers that do nothing.

Each scenario has one server, unless said otherwise, on a network without delays; the times are in
seconds since the beginning.
"""

import errno
import math
from collections.abc import Iterator

import pytest

from harness import TEXT, frame
from simulation import behaviours
from simulation.network import Host, Place
from simulation.scenes import (
    CLOSE,
    EXACTLY,
    LATE,
    OPEN,
    OPEN_TIMEOUT,
    end,
    place,
    play,
    vanish,
    when,
    why,
)
from simulation.script import Script
from simulation.servers import Course, Server
from simulation.world import START


@pytest.mark.parametrize(
    "where",
    [
        place(behaviours.silence),
        place(host=Host(-1, 0.0)),
        place(host=Host(0, OPEN)),
        place(behaviours.refuse, host=Host(0, OPEN)),
    ],
    ids=["no answer", "no TCP", "late TCP", "late refusal"],
)
def test_an_opening_handshake_has_its_time(where: Place) -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(where)
        script.create_at(where, timeout=700)
        yield OPEN
        end(script)

    run = play(steps)
    assert when(run, "ws-1", "close") == pytest.approx(OPEN_TIMEOUT, abs=EXACTLY)
    assert when(run, "ws-2", "close") == pytest.approx(0.7, abs=EXACTLY)


def test_a_silent_name_server_costs_the_time_of_the_opening() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(name_delay=math.inf), "silent.test")
        yield OPEN
        end(script)

    run = play(steps)
    assert when(run, "ws-1", "error") == pytest.approx(OPEN_TIMEOUT, abs=EXACTLY)


def test_the_time_of_an_opening_begins_with_its_place() -> None:
    """The first two leave a second after the creates that wait for their places."""

    def steps(script: Script) -> Iterator[float]:
        for _ in range(2):
            script.create_at(place())
        yield 1.0
        for _ in range(2):
            script.create_at(place(behaviours.silence))
        yield OPEN
        end(script)

    run = play(steps)
    assert [when(run, f"ws-{n}", "close") for n in (1, 2)] == pytest.approx([2.0, 2.0], abs=EXACTLY)
    assert why(run, "ws-1") == (1006, "limit")
    times = [when(run, f"ws-{n}", "close") for n in (3, 4)]
    assert times == pytest.approx([2.0 + OPEN_TIMEOUT] * 2, abs=EXACTLY)


def test_addresses_are_tried_a_quarter_of_a_second_apart() -> None:
    def steps(script: Script) -> Iterator[float]:
        addresses = {"::1": Host(-1, 0.0), "127.0.0.1": Host(0, 0.0)}
        script.create_at(place()._replace(addresses=addresses), "localhost")
        yield OPEN
        end(script)

    assert when(play(steps), "ws-1", "open") == pytest.approx(0.25, abs=EXACTLY)


def test_a_refused_address_is_followed_by_the_next_at_once() -> None:
    def steps(script: Script) -> Iterator[float]:
        addresses = {"::1": Host(errno.ECONNREFUSED, 0.01), "127.0.0.1": Host(0, 0.0)}
        script.create_at(place()._replace(addresses=addresses), "localhost")
        yield OPEN
        end(script)

    assert when(play(steps), "ws-1", "open") == pytest.approx(0.01, abs=EXACTLY)


def test_a_close_is_cut_when_its_time_is_over() -> None:
    """Nothing of it is taken, as the network has gone before."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(life=vanish))
        yield 1.0
        script.write("websocket-close", {"id": "ws-1"})
        yield OPEN
        end(script)

    run = play(steps)
    assert when(run, "ws-1", "close") == pytest.approx(1.0 + CLOSE, abs=EXACTLY)
    assert why(run, "ws-1") == (1006, "host")


def test_what_the_server_takes_prolongs_a_close_by_its_time() -> None:
    """The system of a server that never answers takes the Close frame, and nothing more."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place())
        yield 1.0
        script.write("websocket-close", {"id": "ws-1"})
        yield OPEN
        end(script)

    assert 1.0 + CLOSE < when(play(steps), "ws-1", "close") <= 1.0 + CLOSE * (1 + LATE) + EXACTLY


def test_a_server_that_closes_has_a_second_to_end_tcp() -> None:
    def close_at_one(server: Server) -> Course:
        yield 1.0
        server.peer.send(server.close(4000))

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(life=close_at_one, lingers=True))
        yield OPEN
        end(script)

    run = play(steps)
    assert when(run, "ws-1", "close") == pytest.approx(2.0, abs=EXACTLY)
    assert why(run, "ws-1") == (4000, "server")


def test_a_server_that_answers_a_close_has_a_second_to_end_tcp() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(closing=behaviours.answer_and_stay))
        yield 1.0
        script.write("websocket-close", {"id": "ws-1"})
        yield OPEN
        end(script)

    run = play(steps)
    assert when(run, "ws-1", "close") == pytest.approx(2.0, abs=EXACTLY)
    assert why(run, "ws-1") == (1000, "host")


def test_a_failed_connection_ends_within_a_second() -> None:
    def break_rules(server: Server) -> Course:
        server.peer.send(frame(TEXT, b"\xff"))
        server.broke = True
        yield 0.0

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(life=break_rules))
        yield OPEN
        end(script)

    assert when(play(steps), "ws-1", "close") == pytest.approx(1.0, abs=EXACTLY)


def test_background_takes_a_second() -> None:
    """One is open, the other still connecting; what is created afterwards stays."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place())
        script.create_at(place(behaviours.silence))
        yield 1.0
        script.write("app-background")
        script.create_at(place())
        yield 3.0
        end(script)

    run = play(steps)
    assert when(run, "ws-1", "close") == pytest.approx(2.0, abs=EXACTLY)
    assert when(run, "ws-2", "close") == pytest.approx(1.0, abs=EXACTLY)
    assert when(run, "ws-3", "close") > 4.0


def test_a_signal_takes_a_second() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(place())
        script.create_at(place(behaviours.silence))
        yield 1.0
        yield from script.stop()

    run = play(steps)
    assert when(run, "ws-1", "close") == pytest.approx(2.0, abs=EXACTLY)
    assert when(run, "ws-2", "close") == pytest.approx(1.0, abs=EXACTLY)
    assert run.ended_at == pytest.approx(2.0, abs=EXACTLY)


def test_a_signal_ends_within_two_seconds_though_the_host_does_not_read() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(life=behaviours.flood))
        script.host.stdout.pause()
        yield 1.0
        for _ in range(300):
            script.write("plugin-describe")
        yield 1.0
        yield from script.stop()

    run = play(steps)
    assert run.host.missing
    assert 3.0 <= run.ended_at <= 4.0


def test_the_loss_of_the_host_takes_a_second() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(place())
        yield 1.0
        yield from script.go()

    assert play(steps).ended_at == pytest.approx(2.0, abs=EXACTLY)


def test_the_end_of_the_host_s_process_takes_a_second() -> None:
    """Nobody hangs up, and nobody reads what the plugin has to say."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(life=behaviours.flood))
        script.create_at(place())
        yield 1.0
        for _ in range(300):
            script.write("plugin-describe")
        yield from script.die()

    run = play(steps)
    assert run.ended_at == pytest.approx(2.0, abs=EXACTLY)
    served = [server for servers in run.network.servers.values() for server in servers]
    assert [bool(server.close_received) for server in served] == [True, True]


@pytest.mark.parametrize("linger", [0.0, 60.0])
def test_the_exit_timeout_cuts_whatever_is_left(linger: float) -> None:
    """Servers that are silent, in an opening and in a closing handshake, and one that is open."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(behaviours.silence), timeout=60_000)
        script.create_at(place())
        script.create_at(place())
        yield 1.0
        script.write("websocket-close", {"id": "ws-2"})
        end(script)

    run = play(steps, linger=linger, exit_timeout=2.0, max_connections=3)
    for id in ("ws-1", "ws-2", "ws-3"):
        assert when(run, id, "close") == pytest.approx(3.0, abs=EXACTLY)
        assert why(run, id) == (1006, "shutdown")
    assert run.ended_at == pytest.approx(3.0, abs=EXACTLY)


def test_at_the_exit_timeout_the_host_has_a_moment_to_read() -> None:
    """And does not use it."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(life=behaviours.flood))
        script.host.stdout.pause()
        yield 1.0
        for _ in range(300):
            script.write("plugin-describe")
        end(script)

    run = play(steps, exit_timeout=2.0)
    assert run.host.missing
    assert when(run, "ws-1", "close") == pytest.approx(3.0, abs=EXACTLY)
    assert run.ended_at == pytest.approx(3.3, abs=EXACTLY)


def test_the_end_of_stdin_waits_for_what_was_asked_for() -> None:
    """One opens, with a message and a close behind it; another does not."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(host=Host(0, 2.0), closing=behaviours.answer))
        script.write("websocket-send", {"id": "ws-1", "type": "text", "data": "0:"})
        script.sent["ws-1"], script.senders["ws-1"] = {0: b"0:"}, {0: None}
        script.create_at(place(behaviours.silence))
        end(script)
        yield 0.0

    run = play(steps)
    assert when(run, "ws-1", "close") == pytest.approx(2.0, abs=EXACTLY)
    assert why(run, "ws-1") == (1001, "shutdown")
    assert run.ended_at == pytest.approx(OPEN_TIMEOUT, abs=EXACTLY)


def test_lingering_ends_when_its_time_is_over() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(closing=behaviours.answer))
        end(script)
        yield 0.0

    assert play(steps, linger=7.0).ended_at == pytest.approx(7.0, abs=EXACTLY)


def test_a_silent_server_is_given_up_after_interval_and_timeout() -> None:
    """Its end is told a second later: it does not end TCP."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(pongs=0.0))
        script.create_at(place(life=vanish))
        yield 60.0
        end(script)

    run = play(steps, ping_interval=5.0, ping_timeout=4.0)
    for id in ("ws-1", "ws-2"):
        late = when(run, id, "error") - (5.0 + 4.0 + 1.0)
        assert -EXACTLY <= late <= 4.0 * LATE + EXACTLY


def test_a_server_that_answers_pings_lives() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(closing=behaviours.answer))
        yield 60.0
        end(script)

    run = play(steps, ping_interval=5.0, ping_timeout=4.0)
    assert why(run, "ws-1") == (1001, "shutdown")


def test_whoever_closes_leaves_a_second_after_another_waits_for_its_place() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(life=vanish))
        yield 1.0
        script.write("websocket-close", {"id": "ws-1"})
        yield 1.0
        script.create_at(place())
        yield OPEN
        end(script)

    run = play(steps, max_connections=1)
    assert when(run, "ws-1", "close") == pytest.approx(3.0, abs=EXACTLY)
    assert when(run, "ws-2", "open") == pytest.approx(3.0, abs=EXACTLY)


def test_without_descriptors_a_connection_fails_and_the_next_opens() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.world.exhausted_until = START + 1.0
        script.create_at(place())
        yield 1.0
        script.create_at(place())
        yield 1.0
        end(script)

    run = play(steps)
    assert when(run, "ws-1", "error") == pytest.approx(0.0, abs=EXACTLY)
    assert when(run, "ws-2", "open") == pytest.approx(1.0, abs=EXACTLY)


def test_after_a_stop_of_the_process_what_has_arrived_comes_first() -> None:
    """All times are over when it goes on: those of an opening, of a close and of a Ping."""

    def answer_a_second_later(server: Server) -> Course:
        yield from behaviours.request(server)
        yield 1.0
        server.accept()

    def close_a_second_later(server: Server) -> Course:
        yield 1.0
        server.peer.send(server.close(1000))
        server.peer.finish()

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(answer_a_second_later, closing=behaviours.answer))
        script.create_at(place(closing=close_a_second_later))
        script.create_at(place(closing=behaviours.answer))
        yield 0.5
        script.write("websocket-close", {"id": "ws-2"})
        yield 0.1
        script.world.frozen_until = script.world.now + 60.0
        yield 70.0
        end(script)

    run = play(steps, max_connections=3, ping_interval=5.0, ping_timeout=4.0)
    assert why(run, "ws-1") == (1001, "shutdown")
    assert why(run, "ws-2") == (1000, "host")
    assert why(run, "ws-3") == (1001, "shutdown")
