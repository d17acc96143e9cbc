"""Faults planted in a copy of the plugin, one after another: each is found within 1,000 seeds."""

import subprocess
from pathlib import Path

import pytest

from simulation.plant import FOUND, SOURCE, apply, plant, replace

SEEDS = "--runs=1000"

PLANTS = {
    "lose a wake-up": replace(
        "connection.py",
        "        self._sending.taken()\n        if self.state is State.OPEN:\n",
        "        self._sending.taken()\n        if False:\n",
    ),
    "take bytes twice": replace(
        "network/frames.py",
        "            inbox.start = start\n",
        "            inbox.start = start if len(batch) <= limit else inbox.start\n",
    ),
    "forget a timer": replace(
        "connection.py",
        "        self._countdown.cancel()\n        close",
        "        close",
    ),
    "answer twice": replace(
        "sending.py",
        "            self._answer(self._written[0])\n",
        "            self._answer(self._written[0])\n" * 2,
    ),
    "keep a place": replace(
        "places.py",
        "        self._holding.pop(connection, None)\n",
        "        self._kept = [*getattr(self, '_kept', []), connection]\n"
        "        if len(self._kept) != 2:\n"
        "            self._holding.pop(connection, None)\n",
    ),
    "pause and never resume": replace(
        "session.py",
        "            self._input.resume()\n        self._manager.resume()",
        "            pass",
    ),
    "tell what comes though paused": replace(
        "network/wire.py",
        "        if self._reading is Reading.PAUSED:\n            return",
        "        if False:\n            return",
    ),
    "stay paused when the end is decided": replace(
        "connection.py",
        "        self.unpause()\n        if self.state is State.CLOSED",
        "        if self.state is State.CLOSED",
    ),
    "time pings while paused": replace(
        "network/heartbeat.py",
        "        self._keepalive.hold()\n",
        "",
    ),
    "answer one ping a Pong": replace(
        "network/keepalive.py",
        "            if ping.payload == payload:\n                break\n",
        "            break\n",
    ),
    "let a ping wait for the end": replace(
        "network/keepalive.py",
        "            if now >= self._over:\n",
        "            if now >= self._over and self._own is not None:\n",
    ),
    "be a moment late": replace("connection.py", "GRACE: Final = 1.0", "GRACE: Final = 1.001"),
    "be late at the exit timeout": replace(
        "session.py", "LAST_FLUSH_TIMEOUT = 0.3", "LAST_FLUSH_TIMEOUT = 0.4"
    ),
    "overlook an end of stdin that is not read": replace(
        "session.py", "self._input.watch_end(self._stdin_ended)", "pass"
    ),
    "leave without a word": replace(
        "manager.py",
        "            connection.end(SHUTDOWN, GRACE, at_once=True)",
        "            connection.cut(SHUTDOWN)",
    ),
    "reach another app's connection": replace(
        "manager.py",
        "        elif app is not UNSET and connection.app != app:\n",
        "        elif False:\n",
    ),
    "end all for one app's background": replace(
        "manager.py", "if app is UNSET or each.app == app)", "if True)"
    ),
    "let apps share their places": replace(
        "manager.py",
        "self._places.get(request.app)",
        "next(iter(self._places.values()), None)",
    ),
    "forget whose end it is": replace(
        "encoding.py", 'b"" if app is UNSET else', 'b"" if name == "close" or app is UNSET else'
    ),
    "keep the places of an app that has gone": replace(
        "manager.py", "                del self._places[connection.app]\n", ""
    ),
    "close what is to be cut": replace(
        "manager.py", "if payload.timeout == 0:", "if payload.timeout == -1:"
    ),
    "start a closing handshake on what has been cut": replace(
        "connection.py",
        "            self._enter(State.CLOSING)\n        elif self.state < State.OPEN:",
        "            pass\n        elif self.state < State.OPEN:",
    ),
    "be late with a close that has its own time": replace(
        "manager.py", "min(payload.timeout / 1000,", "min(payload.timeout / 999,"
    ),
    "bring no end forward": replace(
        "countdown.py",
        "if self._deadline.bring_forward(self._loop.time(), seconds):",
        "if seconds < 0:",
    ),
    "refuse one too few": replace("places.py", "return staying >= self", "return staying > self"),
    "evict though creates are to be refused": replace(
        "manager.py", 'if self.settings.at_limit == "refuse" and places.is_full:', "if False:"
    ),
    "take a number for what is refused": replace(
        "manager.py",
        '            raise RequestError("limit-reached"',
        '            self._created += 1\n            raise RequestError("limit-reached"',
    ),
    "give each connection of an app a turn": replace(
        "network/wire.py",
        "self._reading is ON and self._turns.is_over(self._app)",
        "False",
    ),
    "count no bytes of a turn": replace(
        "turns.py", "max(seconds / TURN, size / TURN_SIZE)", "seconds / TURN"
    ),
    "give a whole turn for the rest of one": replace(
        "network/wire.py", "left = self._turns.left(self._app)", "left = 1.0"
    ),
    "let turns be as long as batches": replace(
        "network/wire.py",
        "limit = min(BATCH, len(output.batch) + inbox.size - rest)",
        "limit = BATCH",
    ),
    "let the same app go first": replace(
        "manager.py", "sorted(behind, key=self.turns.had)", "list(behind)"
    ),
    "let a round go on": replace(
        "turns.py", "while those and not self.is_over(app):", "while those:"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found(name: str) -> None:
    done = plant(PLANTS[name], SEEDS)
    assert done.returncode == FOUND, done.stdout + done.stderr
    assert "python tests/simulation --seed " in done.stdout


def test_a_diff_is_applied(tmp_path: Path) -> None:
    """The package is the changed copy and nothing else."""
    path = SOURCE / "connection.py"
    old = path.read_text()
    new = old.replace("GRACE: Final = 1.0\n", "GRACE: Final = 1.5\n")
    assert new != old
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_text(old)
    after.write_text(new)
    diff = subprocess.run(
        ["git", "diff", "--no-index", str(before), str(after)], stdout=subprocess.PIPE, check=False
    ).stdout.decode()
    name = "plugin/wsplugin/connection.py"
    for side, file in (("a", before), ("b", after)):
        diff = diff.replace(f"{side}{file}", f"{side}/{name}")
    patch = tmp_path / "patch"
    patch.write_text(diff)
    done = plant(apply(patch), "--runs=100")
    assert done.returncode == FOUND, done.stdout + done.stderr
    assert "too late" in done.stdout


def test_a_plant_that_does_not_fit_is_no_find() -> None:
    with pytest.raises(LookupError, match="holds 0 times"):
        plant(replace("connection.py", "no such text", ""))
