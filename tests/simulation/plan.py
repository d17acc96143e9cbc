"""What a seed decides of a run before it begins: options, limits, pipes, faults."""

import random
from typing import Final, NamedTuple

from simulation import faults, proxies
from simulation.faults import Fault
from simulation.life import App
from wsplugin.settings import Settings

SCALES: Final[list[dict[str, float]]] = [
    {},
    {
        "HIGH_WATER": 2000,
        "LOW_WATER": 500,
        "BATCH": 400,
        "WRITE_HIGH_WATER": 600,
        "FIRST_ROOM": 64,
        "ROOM": 256,
        "SLICE": 100,
        "TURN": 0.001,
        "TURN_SIZE": 300,
    },
    {
        "HIGH_WATER": 10_000,
        "LOW_WATER": 2500,
        "BATCH": 2500,
        "WRITE_HIGH_WATER": 2000,
        "FIRST_ROOM": 600,
        "ROOM": 4000,
        "SLICE": 1000,
        "TURN_SIZE": 2000,
    },
]
"""What the plugin's limits of flow control are set to, so that small runs reach them."""


APPS: Final[list[tuple[App, ...]]] = [
    *[(None,)] * 3,
    ("shop",),
    (None, "shop"),
    ("shop", "game"),
    (None, "shop", "game"),
]


class Plan(NamedTuple):
    """One run's conditions; those of a scenario, if not said otherwise."""

    settings: Settings
    apps: tuple[App, ...] = (None,)
    """Those that the host serves."""
    scale: dict[str, float] = SCALES[0]
    creep: float = 0.0
    """Seconds that pass whenever the plugin looks at the clock, as on a busy machine."""
    chunk: int = 65_536
    """How many bytes the plugin reads of stdin at a time."""
    room: int = 65_536
    """How many bytes the pipe of stdout holds."""
    pace: float = 0.0
    """Seconds until the host reads what is there."""
    restless: float = 0.0
    """The chance that the thread that writes has got on whenever the plugin looks."""
    splits: float = 0.0
    """The chance that the host writes its lines in two pieces."""
    tells: bool = True
    """Whether the system tells how much of what was sent has been acknowledged."""
    fault: Fault | None = None


def drawn(draw: random.Random) -> Plan:
    """Draw a run's conditions."""
    room, pace = draw.choice(((65_536, 0.0), (4096, 0.0), (300, 0.0), (300, 0.003), (1500, 0.1)))
    return Plan(
        draw_settings(draw),
        draw.choice(APPS),
        draw.choice((*SCALES, *SCALES[1:])),
        draw.choice((0.0, 0.0, 0.0, 0.0, 0.0003)),
        draw.choice((65_536, 65_536, 100)),
        room,
        pace,
        draw.choice((0.0, 0.0, 0.3)),
        0.2,
        draw.random() < 0.8,
        faults.drawn(draw),
    )


def draw_settings(draw: random.Random) -> Settings:
    """Draw the options of a run."""
    return Settings(
        max_connections=draw.choice((1, 2, 3, 5, 5)),
        open_timeout=draw.choice((0.3, 2.0, 10.0, 10.0)),
        close_timeout=draw.choice((0.1, 1.0, 2.0, 10.0)),
        ping_interval=draw.choice((0.0, 0.5, 2.0, 20.0)),
        ping_timeout=draw.choice((0.5, 2.0, 20.0)),
        max_message_size=draw.choice((200, 3000, 16 * 2**20)),
        max_line=draw.choice((4000, 64 * 2**20)),
        max_send_buffer=draw.choice((100, 2000, 16 * 2**20)),
        allow_insecure=True,
        block_private=draw.random() < 0.15,
        linger=draw.choice((0.0, 0.0, 0.0, 0.5, 3.0)),
        proxy=proxies.URL if draw.random() < 0.15 else "none",
        exit_timeout=draw.choice((None, None, None, 0.1, 1.5, 4.0)),
        at_limit=draw.choice(("evict", "evict", "evict", "refuse")),
    )
