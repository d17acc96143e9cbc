"""Places of each app, and creates that are refused, in virtual time."""

from collections.abc import Iterator

import pytest

from simulation.scenes import EXACTLY, OPEN, end, place, play, vanish, when, why
from simulation.script import Script

SHOP, GAME = "shop", "game"


def test_a_create_ends_the_oldest_of_its_app() -> None:
    """Whoever else is older, and whoever else waits for its place."""

    def steps(script: Script) -> Iterator[float]:
        for app in (None, GAME, GAME, SHOP, SHOP, None):
            script.create_at(place(), app=app)
        yield 1.0
        script.create_at(place(), app=SHOP)
        yield OPEN
        end(script)

    run = play(steps, (None, SHOP, GAME))
    assert when(run, "ws-4", "close") == pytest.approx(2.0, abs=EXACTLY)
    assert why(run, "ws-4") == (1006, "limit")
    assert when(run, "ws-7", "open") == pytest.approx(2.0, abs=EXACTLY)
    others = [when(run, id, "close") for id in ("ws-1", "ws-2", "ws-3", "ws-5", "ws-6")]
    assert min(others) > 1.0 + OPEN


def test_who_waits_for_a_place_hurries_nobody_of_another_app() -> None:
    def steps(script: Script) -> Iterator[float]:
        script.create_at(place(life=vanish), app=GAME)
        script.create_at(place(life=vanish), app=SHOP)
        yield 1.0
        script.write("websocket-close", {"id": "ws-1"}, app=GAME)
        script.write("websocket-close", {"id": "ws-2"})
        script.create_at(place(), app=SHOP)
        yield OPEN
        end(script)

    run = play(steps, (SHOP, GAME), max_connections=1)
    assert when(run, "ws-1", "close") == pytest.approx(5.0, abs=EXACTLY)
    assert when(run, "ws-2", "close") == pytest.approx(2.0, abs=EXACTLY)
    assert when(run, "ws-3", "open") == pytest.approx(2.0, abs=EXACTLY)


@pytest.mark.parametrize("app", [None, SHOP])
def test_background_takes_a_second_of_its_app(app: str | None) -> None:
    """Without a name it is that of all."""

    def steps(script: Script) -> Iterator[float]:
        script.create_at(place())
        script.create_at(place(), app=SHOP)
        script.create_at(place(), app=GAME)
        yield 1.0
        script.write("app-background", app=app)
        yield OPEN
        end(script)

    run = play(steps, (None, SHOP, GAME))
    ended = [when(run, id, "close") < 1.0 + OPEN for id in ("ws-1", "ws-2", "ws-3")]
    assert ended == [app is None, True, app is None]
    assert when(run, "ws-2", "close") == pytest.approx(2.0, abs=EXACTLY)


def test_a_create_is_refused_as_long_as_there_is_no_place() -> None:
    """A connection that closes leaves its place to the next, which has the next number."""

    def steps(script: Script) -> Iterator[float]:
        for app in (SHOP, SHOP, SHOP, GAME):
            script.create_at(place(), app=app)
        yield 1.0
        script.create_at(place(), app=SHOP)
        script.write("websocket-close", {"id": "ws-1"}, app=SHOP)
        script.create_at(place(), app=SHOP)
        yield OPEN
        end(script)

    run = play(steps, (SHOP, GAME), at_limit="refuse")
    assert run.bounds.apps.refused == 2
    assert run.host.checker.created == ["ws-1", "ws-2", "ws-3", "ws-4"]
    assert run.host.checker.apps["ws-4"] == SHOP
    assert when(run, "ws-4", "open") == pytest.approx(2.0, abs=EXACTLY)
    assert why(run, "ws-2") == (1006, "shutdown")
