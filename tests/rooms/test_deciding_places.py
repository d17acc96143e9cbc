"""Who may have a place and who must go (``places.py``), decided on plain values."""

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wsplugin.places import MAX_WAITING, Places

LIMIT = 3
ALLOWED = 1000


class Candidate:
    """As much of a connection as counts."""

    def __init__(self, name: str, *, ending: bool = False, held: int = 0) -> None:
        self.name = name
        self.ending = ending
        self.held = held
        self.deadline = math.inf

    def __repr__(self) -> str:
        return self.name


def places(limit: int = LIMIT) -> Places[Candidate]:
    return Places(limit, ALLOWED)


def arrive(places: Places[Candidate], *names: str, **options: Any) -> list[Candidate]:
    """Let connections arrive."""
    arrived = [Candidate(name, **options) for name in names]
    for candidate in arrived:
        places.arrive(candidate)
    return arrived


def give_all(places: Places[Candidate]) -> list[Candidate]:
    """Give all places that are free."""
    given = []
    while (candidate := places.give()) is not None:
        given.append(candidate)
    return given


# --- who gets a place ---


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_as_many_places_as_there_are(limit: int) -> None:
    table = places(limit)
    arrived = arrive(table, *"abcdefgh"[: limit + 2])
    assert give_all(table) == arrived[:limit]
    assert table.give() is None
    assert list(table) == arrived
    assert len(table) == limit + 2


def test_a_place_goes_to_who_has_waited_longest() -> None:
    table = places()
    a, b, c, d, e, f = arrive(table, *"abcdef")
    give_all(table)
    table.leave(b)
    assert give_all(table) == [d]
    table.leave(e)  # while it waits
    table.leave(a)
    table.leave(c)
    assert give_all(table) == [f]
    assert list(table) == [d, f]


def test_a_place_of_who_waits_is_none() -> None:
    table = places()
    *_, d = arrive(table, *"abcd")
    give_all(table)
    table.leave(d)
    arrive(table, "e")
    assert table.give() is None


def test_all_may_leave_while_they_are_looked_at() -> None:
    """An end may be done at once, and then takes the connection out."""
    table = places()
    arrived = arrive(table, *"abcde")
    give_all(table)
    for candidate in table:
        table.leave(candidate)
    assert list(table) == []
    assert len(table) == 0
    assert table.give() is None
    assert arrived


# --- whom the sixth evicts ---


def test_nobody_is_evicted_as_long_as_there_are_places() -> None:
    table = places()
    assert table.evicted() is None
    arrive(table, *"abc")
    assert table.evicted() is None


def test_the_oldest_is_evicted_with_or_without_a_place() -> None:
    table = places()
    a, *_ = arrive(table, *"abcd")
    assert table.evicted() is a
    give_all(table)
    assert table.evicted() is a


def test_those_that_end_do_not_count() -> None:
    table = places()
    a, b, c, _ = arrive(table, *"abcd")
    a.ending = True
    assert table.evicted() is None
    (_,) = arrive(table, "e")
    assert table.evicted() is b
    b.ending = True
    assert table.evicted() is None
    c.ending = True
    arrive(table, "f", "g")
    assert table.evicted() is not None
    assert str(table.evicted()) == "d"


# --- who waits with its end behind it and holds too much ---


def wait(*held: int, ending: bool = True) -> tuple[Places[Candidate], list[Candidate]]:
    """Return places that are taken, and connections that wait for them."""
    table = places()
    arrive(table, *"abc")
    give_all(table)
    waiting = [
        Candidate(f"w{number}", ending=ending, held=size) for number, size in enumerate(held)
    ]
    for candidate in waiting:
        table.arrive(candidate)
    return table, waiting


@pytest.mark.parametrize(
    ("held", "gone"),
    [
        ((), 0),
        # As many as there are places may always wait.
        ((10**9,) * LIMIT, 0),
        ((0,) * (LIMIT + 1), 0),
        ((250, 250, 250, 250), 0),
        ((250, 250, 250, 251), 1),
        ((1, 1, 1, 10**9), 1),
        ((10**9, 1, 1, 1), 1),
        ((500, 500, 500, 500), 1),
        ((500, 0, 0, 501, 0), 1),
        ((1, 0, 0, 1000, 0), 1),
        ((1, 1, 1, 1000, 1), 2),
        ((400,) * 10, 7),
    ],
)
def test_too_many_waiting(held: tuple[int, ...], gone: int) -> None:
    table, waiting = wait(*held)
    assert table.too_many_waiting() == waiting[:gone]


def test_at_most_a_thousand_wait() -> None:
    table, waiting = wait(*(0,) * (MAX_WAITING + 3))
    assert table.too_many_waiting() == waiting[:3]
    table.leave(waiting[5])
    assert table.too_many_waiting() == waiting[:2]


def test_those_that_stay_do_not_count() -> None:
    table, _ = wait(*(10**9,) * (LIMIT + 5), ending=False)
    assert table.too_many_waiting() == []


def test_those_that_have_a_place_do_not_count() -> None:
    table = places()
    arrive(table, *"abc", ending=True, held=10**9)
    give_all(table)
    arrive(table, *"defg", ending=True, held=ALLOWED // 4)
    assert table.too_many_waiting() == []


# --- who is hurried ---


def test_nobody_is_hurried_for_nobody() -> None:
    table = places()
    for candidate in arrive(table, *"abc"):
        candidate.deadline = 1
    give_all(table)
    assert table.hurried() == []


def test_as_many_as_wait_are_hurried_and_the_next_to_go_first() -> None:
    table = places()
    a, b, c = arrive(table, *"abc")
    give_all(table)
    a.deadline, b.deadline, c.deadline = 30, 10, 20
    arrive(table, "d")
    assert table.hurried() == [b]
    arrive(table, "e")
    assert table.hurried() == [b, c]
    arrive(table, "f", "g")
    assert table.hurried() == [b, c, a]


def test_those_without_a_deadline_are_not_hurried() -> None:
    """With the end of stdin a connection may end when it is open, however long that takes."""
    table = places()
    a, b, _ = arrive(table, *"abc")
    give_all(table)
    a.ending = True
    b.deadline = 5
    arrive(table, "d", "e")
    assert table.hurried() == [b]


def test_those_that_wait_are_not_hurried() -> None:
    table = places()
    arrive(table, *"abc")
    give_all(table)
    d, _ = arrive(table, *"de")
    d.deadline = 1
    assert table.hurried() == []


# --- any course of events ---


class Course(RuleBasedStateMachine):
    """The same decisions as a model that keeps one list and looks at all of it each time."""

    def __init__(self) -> None:
        super().__init__()
        self.places = places()
        self.all: list[Candidate] = []
        self.holding: set[Candidate] = set()
        self.created = 0

    @property
    def waiting(self) -> list[Candidate]:
        return [candidate for candidate in self.all if candidate not in self.holding]

    @rule(held=st.sampled_from([0, 1, 333, 334, 1000]))
    def arrive(self, held: int) -> None:
        self.created += 1
        candidate = Candidate(f"c{self.created}", held=held)
        self.all.append(candidate)
        self.places.arrive(candidate)

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        candidate = data.draw(st.sampled_from(self.all))
        self.all.remove(candidate)
        self.holding.discard(candidate)
        self.places.leave(candidate)

    @precondition(lambda self: self.all)
    @rule(data=st.data(), deadline=st.sampled_from([1.0, 2.0, 2.0, math.inf]))
    def end(self, data: st.DataObject, deadline: float) -> None:
        candidate = data.draw(st.sampled_from(self.all))
        candidate.ending = True
        candidate.deadline = min(candidate.deadline, deadline)

    @rule()
    def give(self) -> None:
        first = self.waiting[0] if self.waiting and len(self.holding) < LIMIT else None
        assert self.places.give() is first
        if first is not None:
            self.holding.add(first)

    @invariant()
    def all_are_there(self) -> None:
        assert list(self.places) == self.all
        assert len(self.places) == len(self.all)
        assert len(self.holding) <= LIMIT

    @invariant()
    def evicted(self) -> None:
        staying = [candidate for candidate in self.all if not candidate.ending]
        assert self.places.evicted() is (staying[0] if len(staying) > LIMIT else None)

    @invariant()
    def too_many_waiting(self) -> None:
        closing = [candidate for candidate in self.waiting if candidate.ending]
        kept = list(closing)
        while sum(candidate.held for candidate in kept) > ALLOWED and len(kept) > LIMIT:
            kept.pop(0)
        assert self.places.too_many_waiting() == closing[: len(closing) - len(kept)]

    @invariant()
    def hurried(self) -> None:
        hurried = self.places.hurried()
        leaving = [c for c in self.all if c in self.holding and c.deadline < math.inf]
        assert len(hurried) == min(len(leaving), len(self.waiting))
        assert set(hurried) <= set(leaving)
        rest = set(leaving) - set(hurried)
        assert all(a.deadline <= b.deadline for a in hurried for b in rest)
        assert [c.deadline for c in hurried] == sorted(c.deadline for c in hurried)


test_any_course = Course.TestCase
test_any_course.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
