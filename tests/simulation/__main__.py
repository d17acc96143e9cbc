"""Plays whole runs of the plugin on virtual time, each decided by its seed."""

import argparse
import concurrent.futures
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import wsplugin
from simulation.plant import FOUND, apply, plant
from simulation.run import play
from simulation.world import Stale, Violation

CHUNK: Final = 50
"""How many seeds a process plays before it tells."""


def main() -> int:
    """Do what the command line says; return the exit status: 1 if a seed has failed."""
    parser = argparse.ArgumentParser(prog="python tests/simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one seed")
    parser.add_argument("--trace", action="store_true", help="show its lines and bytes in time")
    parser.add_argument("--runs", type=int, default=300, help="how many seeds (default: 300)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--keep-going", action="store_true", help="do not end with a failure")
    parser.add_argument(
        "--plant",
        type=Path,
        metavar="PATCH",
        help="run on a copy of the plugin with this diff: 0 if the seeds find it, 1 if not",
    )
    parser.add_argument("--expect-package", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    package = Path(wsplugin.__file__).resolve().parent
    if options.expect_package and package != options.expect_package.resolve():
        parser.error(f"would run on {package}")
    seeds = range(options.first, options.first + options.runs)
    if options.plant:
        done = plant(apply(options.plant), f"--runs={options.runs}", f"--first={options.first}")
        say(done.stdout + done.stderr.rstrip())
        return 1 - done.returncode if done.returncode in (0, FOUND) else done.returncode
    try:
        if options.seed is not None:
            return FOUND if list(failures([options.seed], trace=options.trace)) else 0
        return run(seeds, options.jobs, options.keep_going)
    except Stale as exc:
        parser.error(str(exc))


def failures(
    seeds: Sequence[int], *, trace: bool = False, keep_going: bool = False
) -> Iterator[int]:
    """Play seeds; print and yield those that fail."""
    for seed in seeds:
        try:
            play(seed, say if trace else None)
        except Stale:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever comes out of a run is a finding
            what = str(exc) if isinstance(exc, Violation) else f"{type(exc).__name__}: {exc}"
            say(f"python tests/simulation --seed {seed}  # {what[:300]}")
            if trace and not isinstance(exc, Violation):
                traceback.print_exc(file=sys.stdout)
            yield seed
            if not keep_going:
                return


def run(seeds: range, jobs: int, keep_going: bool) -> int:
    """Play many seeds; return the exit status."""
    started = time.perf_counter()
    played, failed = 0, 0
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    with concurrent.futures.ProcessPoolExecutor(jobs) if jobs > 1 else Here() as pool:
        results = pool.map(play_chunk, chunks, [keep_going] * len(chunks))
        for chunk, found in zip(chunks, results, strict=True):
            played = chunk.stop - seeds.start if not found else found[0] - seeds.start + 1
            failed += len(found)
            if found and not keep_going:
                pool.shutdown(cancel_futures=True)
                break
    seconds = time.perf_counter() - started
    say(f"{failed} failures, {played} seeds in {seconds:.1f} s")
    return FOUND if failed else 0


def say(line: str) -> None:
    """Write a line to whoever has started this."""
    sys.stdout.write(line.rstrip("\n") + "\n")
    sys.stdout.flush()


def play_chunk(chunk: range, keep_going: bool) -> list[int]:
    """Play some seeds; return those that failed."""
    return list(failures(chunk, keep_going=keep_going))


class Here(concurrent.futures.Executor):
    """Plays in this process, one chunk after another."""

    def map(self, fn, *iterables, timeout=None, chunksize=1):  # type: ignore[no-untyped-def]
        """Call at once, as results are asked for."""
        return map(fn, *iterables)


if __name__ == "__main__":
    sys.exit(main())
