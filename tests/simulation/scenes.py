"""Scenarios: the plain ones of a network without delays, in which a run's times are exact."""

from collections.abc import Callable, Iterator
from typing import Any

from simulation import behaviours
from simulation.life import App
from simulation.network import Host, Place
from simulation.plan import Plan
from simulation.run import Run
from simulation.script import Script
from simulation.servers import Behaviour, Course, Server
from simulation.sockets import Weather
from wsplugin.settings import Settings

STILL = Weather(latency=0.0, jitter=0.0, segment=2**30, gap=0.0, room=70_000)
OPEN, CLOSE, OPEN_TIMEOUT, LATE = 10.0, 4.0, 3.0, 1 / 8
EXACTLY = 1e-6
READY = Host(0, 0.0)

Steps = Callable[[Script], Iterator[float]]


def place(
    opening: Callable[[Server], Course] = behaviours.accept,
    life: Callable[[Server], Course] = behaviours.nothing,
    closing: Callable[[Server], Course] = behaviours.nothing,
    host: Host = READY,
    name_delay: float = 0.0,
    **more: Any,
) -> Place:
    """Return a server on the loopback that does nothing that is not said."""
    behaviour = Behaviour(opening, life, closing, **more)
    return Place(True, name_delay, {"127.0.0.1": host}, STILL, behaviour)


def vanish(server: Server) -> Course:
    """Be open for a moment, then let the network drop everything."""
    yield 0.5
    yield from behaviours.vanish(server)


def play(steps: Steps, apps: tuple[App, ...] = (None,), **settings: Any) -> Run:
    """Play a scenario of these apps."""
    defaults: dict[str, Any] = {
        "open_timeout": OPEN_TIMEOUT,
        "close_timeout": CLOSE,
        "ping_interval": 0.0,
        "max_connections": 2,
        "allow_insecure": True,
        "proxy": "none",
    }
    run = Run(0, None, Plan(Settings(**(defaults | settings)), apps), steps)
    run.play()
    return run


def when(run: Run, id: str, name: str) -> float:
    """Return when the plugin wrote an event."""
    (time,) = (time for time, other, event, _ in run.times if (other, event) == (id, name))
    return time


def why(run: Run, id: str) -> tuple[int, str]:
    """Return code and cause of a `close` event."""
    (payload,) = (
        payload for _, other, name, payload in run.times if (other, name) == (id, "close")
    )
    return payload["code"], payload["cause"]


def end(script: Script) -> None:
    """End stdin."""
    script.host.stdin.end()
