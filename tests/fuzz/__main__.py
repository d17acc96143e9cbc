"""Fuzzes one target, guided by coverage: `python tests/fuzz TARGET --seconds 600`.

Needs atheris. What it finds is printed as one line of base64, for a test; with --update the inputs
that reach something new are written back into the corpus.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.corpus import FOLDER, load, store

TARGET: Final = "FUZZ_TARGET"
WORKER: Final = "FUZZ_WORKER"
LONGEST: Final = 1024
"""Bytes of the longest input."""


def main() -> int:
    """Do what the command line says; return the exit status of the fuzzer."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(path.stem for path in FOLDER.glob("*.txt")))
    parser.add_argument("--seconds", type=int, default=60, help="default: 60")
    parser.add_argument("--update", action="store_true", help="write the corpus, minimised")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, found = folder / "corpus", folder / "found"
        corpus.mkdir()
        found.mkdir()
        for number, data in enumerate(load(options.target)):
            (corpus / f"{number:05}").write_bytes(data)
        # When it minimises, the fuzzer starts itself again, as one command and with options of its
        # own.
        worker = folder / "worker"
        command = shlex.join([sys.executable, __file__])
        worker.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        worker.chmod(0o700)
        environment = {**os.environ, TARGET: options.target, WORKER: str(worker)}
        limits = [f"-max_len={LONGEST}", "-timeout=10", "-rss_limit_mb=2048"]
        status = subprocess.run(
            [
                *(
                    str(worker),
                    *limits,
                    f"-max_total_time={options.seconds}",
                    "-print_final_stats=1",
                ),
                *(f"-artifact_prefix={found}/", str(corpus)),
            ],
            check=False,
            env=environment,
        ).returncode
        for path in found.iterdir():
            data = path.read_bytes()
            store(folder / "one.txt", [data])
            words = (folder / "one.txt").read_text()
            sys.stdout.write(f"found: {path.name}: {data!r}\nfor a test: {words}")
        if options.update and not any(found.iterdir()):
            smaller = folder / "smaller"
            smaller.mkdir()
            subprocess.run(
                [str(worker), "-merge=1", f"-max_len={LONGEST}", str(smaller), str(corpus)],
                check=True,
                env=environment,
            )
            inputs = sorted((path.read_bytes() for path in smaller.iterdir()), key=by_size)
            store(FOLDER / f"{options.target}.txt", inputs)
    return status


def by_size(data: bytes) -> tuple[int, bytes]:
    """Sort the short ones first."""
    return len(data), data


def fuzz(name: str) -> None:
    """Be the fuzzer's process, which ends by itself."""
    import atheris

    with atheris.instrument_imports(include=["wsplugin"]):
        from fuzz.targets import TARGETS
    atheris.Setup([os.environ[WORKER], *sys.argv[1:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    if TARGET in os.environ:
        fuzz(os.environ[TARGET])
    sys.exit(main())
