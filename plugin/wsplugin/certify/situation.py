"""What a situation is: a scene that the kit plays to a host, and what it needs of the host."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from wsplugin.certify.stage import Stage

Scene = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Situation:
    """One line of the report."""

    name: str
    promise: str
    """What the host promises, in a sentence."""
    scene: Scene
    process: bool
    """Whether it is about what only a host that starts a process can do."""
    seconds: float
    """How long it takes with a host that keeps the promise; the longest are begun first."""
    exists: bool
    """Whether the plugin's command exists."""
    busy: bool
    """Whether it takes so much of the processors that it is played alone, lest others be late."""


def situation(
    *, process: bool = False, seconds: float = 1, exists: bool = True, busy: bool = False
) -> Callable[[Scene], Situation]:
    """Make a situation of a function, which plays it; its docstring is the promise."""

    def make(scene: Scene) -> Situation:
        name = scene.__name__.replace("_", "-")
        assert scene.__doc__
        promise = scene.__doc__.splitlines()[0]
        return Situation(name, promise, scene, process, seconds, exists, busy)

    return make
