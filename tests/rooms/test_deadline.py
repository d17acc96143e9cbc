"""When a connection that is to end is cut (``deadline.py``), as a table."""

import math

import pytest

from wsplugin.deadline import Deadline


def test_it_is_open_at_first() -> None:
    deadline = Deadline()
    deadline.look(100, 5)
    assert deadline.when == deadline.next_look(100) == math.inf


@pytest.mark.parametrize(
    ("first", "then", "when"),
    [
        # A time that has been set may only come sooner.
        (("set", 0, 1), ("set", 0.5, 1), 1),
        (("set", 0, 10), ("set", 5, 1), 6),
        (("patient", 0, 10), ("set", 5, 1), 6),
        (("patient", 0, 10), ("set", 9.5, 1), 10),
        (("set", 0, 1), ("patient", 0, 10), 1),
        (("patient", 0, 10), ("patient", 5, 10), 10),
    ],
)
def test_what_is_sooner_counts(
    first: tuple[str, float, float], then: tuple[str, float, float], when: float
) -> None:
    deadline = Deadline()
    for kind, now, seconds in (first, then):
        if kind == "set":
            deadline.set(now, seconds)
        else:
            deadline.set_patient(now, seconds, 0)
    assert deadline.when == when


def test_progress_starts_a_patient_time_anew() -> None:
    deadline = Deadline()
    assert deadline.set_patient(0, 2, taken=100)
    assert deadline.next_look(0) == 0.25  # an eighth of it
    deadline.look(0.25, 100)
    assert deadline.when == 2
    deadline.look(1.5, 101)
    assert deadline.when == 3.5
    assert deadline.next_look(3.4) == 3.5
    deadline.look(3, 101)
    assert (deadline.when, deadline.seconds) == (3.5, 2)


def test_progress_prolongs_no_other_time() -> None:
    deadline = Deadline()
    deadline.set_patient(0, 10, taken=0)
    assert deadline.set(1, 1)
    deadline.look(1.5, 1000)
    assert (deadline.when, deadline.seconds, deadline.next_look(1.5)) == (2, 1, 2)


def test_a_long_time_is_looked_at_often_enough() -> None:
    deadline = Deadline()
    deadline.set_patient(0, 3600, taken=0)
    assert deadline.next_look(0) == 0.5


@pytest.mark.parametrize(("late", "spare"), [(0, 0), (0.01, 0.01), (5, 1)])
def test_what_has_come_during_a_stop_is_read_first(late: float, spare: float) -> None:
    deadline = Deadline()
    deadline.set_patient(0, 10, 0)
    assert deadline.reading_until(10 + late) == pytest.approx(10 + late + spare)
    # But for nobody whose end others wait for.
    deadline.set(0, 5)
    assert deadline.reading_until(5 + late) == 5 + late
