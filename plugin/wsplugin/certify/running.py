"""Plays the situations side by side and reports on each."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from wsplugin.certify import answering, blocking, calling, dying, pausing, starting, stopping
from wsplugin.certify.script import Summary, Verdict
from wsplugin.certify.situation import Situation
from wsplugin.certify.stage import Stage
from wsplugin.certify.watch import PATIENCE, Broken, Unplayable

SITUATIONS: Final = {
    value.name: value
    for module in (starting, calling, answering, pausing, blocking, dying, stopping)
    for value in vars(module).values()
    if isinstance(value, Situation)
}
"""Every situation by its name, in the order of the report."""

AT_ONCE: Final = 2 * (os.cpu_count() or 1)
"""Situations at the same time: most of them wait for most of their time."""

Report = Callable[[Verdict | Summary], None]


async def certify(
    command: Sequence[str],
    situations: Iterable[Situation],
    expected_failures: frozenset[str],
    report: Report,
    *,
    socket_pair: bool = False,
    patience: float = PATIENCE,
) -> bool:
    """Play the situations to a host; return whether all went as expected.

    Args:
        command: the host's demo.
        situations: which.
        expected_failures: names of those that are to fail.
        report: called with each verdict as it is reached, and with the summary.
        socket_pair: see :class:`Stage`.
        patience: the same.

    Raises:
        CannotStart: the command itself cannot be started.

    """
    begun = time.monotonic()
    gate = asyncio.Semaphore(AT_ONCE)
    verdicts: list[Verdict] = []

    async def play_in_turn(situation: Situation) -> None:
        async with gate:
            verdict = await play(command, situation, socket_pair=socket_pair, patience=patience)
        if situation.name in expected_failures:
            result = {"failed": "expected-failure", "passed": "unexpected-pass"}
            verdict = msgspec.structs.replace(
                verdict, result=result.get(verdict.result, verdict.result)
            )
        verdicts.append(verdict)
        report(verdict)

    situations = sorted(situations, key=lambda situation: -situation.seconds)
    for situation in situations:
        if situation.busy:
            await play_in_turn(situation)
    try:
        async with asyncio.TaskGroup() as group:
            for situation in situations:
                if not situation.busy:
                    group.create_task(play_in_turn(situation))
    except BaseExceptionGroup as exc:
        # Each has failed in the same way.
        raise exc.exceptions[0] from None
    results = [verdict.result for verdict in verdicts]
    failed = results.count("failed") + results.count("unexpected-pass")
    report(
        Summary(
            passed=results.count("passed"),
            failed=failed,
            expected_failures=results.count("expected-failure"),
            skipped=results.count("skipped"),
            seconds=round(time.monotonic() - begun, 1),
        )
    )
    return not failed


async def play(
    command: Sequence[str], situation: Situation, *, socket_pair: bool, patience: float
) -> Verdict:
    """Play one situation."""
    begun = time.monotonic()

    def verdict(result: str, **words: str) -> Verdict:
        seconds = round(time.monotonic() - begun, 1)
        fields = {"situation": situation.name, "result": result, "seconds": seconds} | words
        return msgspec.convert(fields, Verdict)

    if socket_pair and situation.process:
        return verdict("skipped", why="over a socket pair there is no process")
    with tempfile.TemporaryDirectory(prefix="certify-") as folder:
        stage = Stage(command, Path(folder), socket_pair=socket_pair, patience=patience)
        plugin = None if situation.exists else str(Path(folder) / "none" / stage.executable.name)
        try:
            async with stage.open(plugin):
                await situation.scene(stage)
                await stage.finish()
        except Broken as exc:
            return verdict("failed", expected=exc.expected, came=exc.came)
        except Unplayable as exc:
            return verdict("skipped", why=str(exc))
    return verdict("passed")


def in_words(line: Verdict | Summary) -> str:
    """Return a line of the report for people."""
    if isinstance(line, Summary):
        return (
            f"{line.passed} passed, {line.failed} failed, {line.expected_failures} expected "
            f"failures, {line.skipped} skipped in {line.seconds} s"
        )
    broken = f"expected {line.expected}, came {line.came}"
    match line.result:
        case "passed":
            result = "passed"
        case "failed":
            promise = SITUATIONS[line.situation].promise
            result = f"FAILED: {broken}\n    {promise}"
        case "expected-failure":
            result = f"expected failure: {broken}"
        case "unexpected-pass":
            result = "FAILED: passed, though its failure is expected"
        case "skipped":
            result = f"skipped: {line.why}"
    return f"{line.situation}: {result}"


def print_line(line: Verdict | Summary, *, json: bool) -> None:
    """Print a line of the report at once."""
    text = msgspec.json.encode(line).decode() if json else in_words(line)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
