"""Some hundred seeds; and that a seed is the same run whenever and wherever it is played."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from simulation.faults import TARGETS, Fault
from simulation.plan import Plan, drawn
from simulation.run import Run, play
from simulation.world import Digest, Violation, World

CHUNK = 50


@pytest.mark.parametrize("first", range(0, 400, CHUNK))
def test_seeds(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            play(seed)
        except Violation as violation:
            pytest.fail(f"python tests/simulation --seed {seed}  # {violation}", pytrace=False)


def test_everything_happens() -> None:
    """Runs in which something never happens would prove little about it."""
    causes: Counter[tuple[str, bool]] = Counter()
    seen: Counter[str] = Counter()
    behind = 0
    ends: Counter[str] = Counter()
    pauses: Counter[str] = Counter()
    apps: Counter[str] = Counter()
    for seed in range(1000, 1200):
        run = play(seed)
        behind += run.host.stdout.held_at > 0
        for events in run.host.checker.events.values():
            seen.update(name for name, _ in events)
            seen.update(payload["code"] for name, payload in events if name == "error")
            causes.update(
                (payload["cause"], payload["code"] != 1006)
                for name, payload in events
                if name == "close"
            )
        seen["answered"] += sum(map(len, run.script.done.values()))
        seen["refused after waiting"] += sum(map(len, run.script.waited.values()))
        seen["fault"] += run.injection.happened
        pauses["of open connections"] += run.bounds.pauses
        pauses["that held something back"] += run.quiet.held_back > 0
        seen["ping answered"] += run.bounds.pongs
        apps["strangers turned away"] += run.bounds.apps.strangers
        apps["creates refused"] += run.bounds.apps.refused
        apps["connections cut"] += run.bounds.cuts
        apps["closes with less time"] += run.bounds.hurried
        apps["with names and without"] += len(set(run.host.checker.apps.values())) > 1
        ends["told after the host has gone"] += len(run.script.left)
        ends["exit timeout"] += run.bounds.exit_at <= run.world.now
        ends["exit timeout, not all read"] += run.bounds.exit_at <= run.world.now and (
            run.host.stdin.ended_at < run.host.stdout.held_at
        )
    assert set(causes) >= {
        *((cause, True) for cause in ("host", "server", "limit", "background", "shutdown")),
        *((cause, False) for cause in ("host", "limit", "background", "shutdown", "failure")),
    }
    assert set(seen) >= {
        "network-error",
        "proxy-error",
        "handshake-failed",
        "open-timeout",
        "protocol-error",
        "ping-timeout",
        "message-too-big",
        "forbidden",
        "internal-error",
    }
    assert min(seen[name] for name in ("open", "answered", "message", "ping answered")) > 100
    assert min(pauses.values()) > 20, pauses
    assert min(apps.values()) > 10, apps
    assert min(seen["fault"], seen["refused after waiting"], behind) > 5
    assert min(ends.values()) > 1, ends


DIGESTS = """
from simulation.run import play
from simulation.world import Digest
for seed in range(25):
    digest = Digest()
    play(seed, digest)
    print(digest.value())
"""


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """However strings hash and wherever objects lie."""
    here = [digest(seed) for seed in range(25)]
    tests = Path(__file__).parent.parent
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", DIGESTS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(tests)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert there.stdout.split() == here


def digest(seed: int) -> str:
    """Play a seed; return the digest of its trace."""
    trace = Digest()
    play(seed, trace)
    return trace.value()


def play_with_fault(seed: int, target: str) -> bool:
    """Play a seed with a fault of this kind; return whether it has happened."""
    world = World(seed)
    conditions: Plan = drawn(world.random("plan"))
    nth = 1 + int(world.random("nth").expovariate(0.3))
    run = Run(seed, None, conditions._replace(fault=Fault(target, nth)))
    run.play()
    return run.injection.happened


@pytest.mark.parametrize("target", TARGETS)
def test_a_fault_costs_one_connection(target: str) -> None:
    happened = sum(play_with_fault(seed, target) for seed in range(2000, 2040))
    assert happened >= 2


def test_a_failure_names_its_seed(monkeypatch: Any, capsys: Any) -> None:
    from simulation.__main__ import failures

    def fail(seed: int, trace: Any) -> None:
        if seed == 3:
            raise Violation("why")

    monkeypatch.setattr("simulation.__main__.play", fail)
    assert list(failures(range(5), keep_going=True)) == [3]
    assert capsys.readouterr().out == "python tests/simulation --seed 3  # why\n"
