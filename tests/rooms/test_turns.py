"""Apps take turns, and the connections of one app."""

from collections.abc import Callable

from msgspec import UNSET

from wsplugin.messages import App
from wsplugin.turns import TURN, TURN_SIZE, Turns


class Rounds:
    """Plays the event loop: connections that always have something to read."""

    def __init__(self, *apps: App) -> None:
        self.taken: list[str] = []
        self._next: list[Callable[[], None]] = []
        self.turns = Turns(self._next.append, set(apps))

    def read(self, app: App, name: str, seconds: float = 0, size: int = TURN_SIZE) -> None:
        """Take what has come, or wait for the app's turn, as a wire does."""

        def take() -> None:
            self.taken.append(name)
            self.turns.use(app, seconds, size)

        if self.turns.is_over(app):
            self.turns.wait(app, take)
        else:
            take()

    def next_round(self) -> list[str]:
        """Begin the next round; return who has had a turn since the last one."""
        taken, self.taken = self.taken, []
        scheduled, self._next[:] = list(self._next), []
        assert len(scheduled) <= 1
        for call in scheduled:
            call()
        return taken


def test_one_app_needs_no_turns() -> None:
    rounds = Rounds(UNSET)
    for name in "abc":
        rounds.read(UNSET, name, TURN)
    assert rounds.next_round() == ["a", "b", "c"]


def test_each_app_has_one_turn_a_round_and_its_connections_take_turns() -> None:
    rounds = Rounds("A", "B")
    for name in ("a1", "a2", "a3"):
        rounds.read("A", name)
    rounds.read("B", "b1")
    rounds.read("B", "b2")
    assert rounds.next_round() == ["a1", "b1"]
    # Who comes only now goes behind those of its app that wait, and before no other's turn.
    rounds.read("A", "a1")
    rounds.read("B", "b1")
    assert rounds.next_round() == ["a2", "b2"]
    assert rounds.next_round() == ["a3", "b1"]
    assert rounds.next_round() == ["a1"]
    assert rounds.next_round() == []


def test_a_turn_is_over_by_time_or_by_size() -> None:
    rounds = Rounds("A", "B")
    rounds.read("A", "short", TURN / 2, 0)
    rounds.read("A", "long", TURN / 2, 0)
    rounds.read("A", "late", TURN / 2, 0)
    rounds.read("B", "small", 0, TURN_SIZE - 1)
    rounds.read("B", "large", 0, 1)
    rounds.read("B", "late", 0, 1)
    assert rounds.next_round() == ["short", "long", "small", "large"]
    assert rounds.next_round() == ["late", "late"]


def test_who_yields_within_its_turn_waits_for_the_next() -> None:
    rounds = Rounds("A")
    rounds.turns.wait("A", lambda: rounds.read("A", "went on"))
    assert rounds.next_round() == []
    assert rounds.next_round() == ["went on"]


def test_a_turn_that_several_connections_share_has_a_rest() -> None:
    rounds = Rounds("A", "B")
    assert rounds.turns.left("A") == 1
    rounds.read("A", "a1", 0, TURN_SIZE // 4)
    assert rounds.turns.left("A") == 0.75
    rounds.read("A", "a2", 2 * TURN, 0)
    assert rounds.turns.left("A") == 0
    assert rounds.turns.left("B") == 1
    rounds.next_round()
    assert rounds.turns.left("A") == 1


def test_who_has_had_less_goes_first_and_idleness_is_owed_one_turn() -> None:
    rounds = Rounds("A", "B")
    rounds.read("A", "cut short by a full output", 0, TURN_SIZE // 2)
    assert rounds.turns.had("B") < rounds.turns.had("A")
    rounds.read("B", "a whole turn")
    assert rounds.turns.had("A") < rounds.turns.had("B")
    for _ in range(9):
        rounds.next_round()
        rounds.read("A", "a whole turn")
    assert rounds.turns.had("A") - rounds.turns.had("B") == 1
    rounds.turns.forget("A")
    rounds.turns.forget("B")
    assert rounds.turns.had("A") == rounds.turns.had("B")
