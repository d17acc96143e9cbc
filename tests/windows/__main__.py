"""`python tests/windows FOLDER`: the tests against a folder for Windows, by Wine on Linux.

FOLDER is what ``build.py --target windows-x64`` has made. Wine (Debian: ``wine``) runs Windows' own
Python, in a prefix of its own, which is left behind by nobody. Further arguments go to pytest.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
# What makes a connection, ends it, and passes between: the rest is about POSIX, or needs no system.
SUITES = (
    "test_transcripts",
    "test_messages",
    "test_schema",
    "test_frames",
    "test_frames_sent",
    "test_compression",
    "test_opening_handshake",
    "test_opening_failures",
    "test_policy",
    "test_tls",
    "test_proxies",
    "test_closing_handshake",
    "test_lost_connections",
    "test_end_of_stdin",
    "test_background",
    "test_places",
    "test_storm",
    "test_model",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/windows", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="so many runs in a row")
    options, pytest_options = parser.parse_known_args()
    executable = options.folder.resolve() / "wsplugin.exe"
    if not executable.exists():
        parser.error(f"there is no {executable}")
    if not shutil.which("wine"):
        parser.error("there is no wine here")
    with tempfile.TemporaryDirectory(prefix="wine-") as prefix:
        os.environ |= {
            "WINEPREFIX": prefix,
            "WINEDEBUG": "-all",
            "WSPLUGIN_COMMAND": json.dumps(["wine", str(executable)]),
        }
        os.environ.pop("DISPLAY", None)
        try:
            # Else Wine would end, and start again, between any two tests. It must come first.
            quietly("wineserver", "-p")
            quietly("wine", "winecfg", "-v", "win10")
            for _ in range(options.times):
                if status := run(pytest_options):
                    return status
        finally:
            quietly("wineserver", "-k", "-w")
    return 0


def quietly(*command: str) -> None:
    """Run a command with no stream of ours: services.exe would keep it open for long."""
    nothing = subprocess.DEVNULL
    subprocess.run(command, check=True, stdin=nothing, stdout=nothing, stderr=nothing)


def run(options: list[str]) -> int:
    """Run the suites; return pytest's exit status."""
    suites = [TESTS / f"{name}.py" for name in SUITES]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *options, *map(str, suites)]
    return subprocess.run(command, cwd=TESTS.parent, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
