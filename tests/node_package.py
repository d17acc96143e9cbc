"""The npm package of host_examples/node, and the packages that its tests need beside it."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demos import EXAMPLES
from harness import TIMEOUT

PROGRAMS = Path(__file__).parent / "node"
SOURCES = EXAMPLES / "node"

# One path, as the package wants it; it tells its process id where a test asks for it.
PLUGIN = """#!/bin/sh
[ -z "$PIDFILE" ] || echo $$ >"$PIDFILE"
exec "{python}" -m wsplugin $MORE "$@"
"""


def run(folder: Path, *command: str) -> str:
    """Run a command that must succeed; return its stdout."""
    result = subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", timeout=15 * TIMEOUT
    )
    assert result.returncode == 0, f"{' '.join(command)}: {result.stdout}{result.stderr}"
    return result.stdout


@functools.cache
def packages() -> Path:
    """Install what tests/node/package-lock.json names, into the clone; return the node_modules.

    Where npm is missing, or has no registry, the test is skipped; on a machine of which .ci/run
    says that all has been installed that can be, it fails.
    """
    installed = PROGRAMS / "node_modules" / ".package-lock.json"
    lock = PROGRAMS / "package-lock.json"
    if not shutil.which("npm") or run(PROGRAMS, "node", "--version") < "v20":
        pytest.skip("not on this machine: npm and Node 20, which the tests' packages want")
    with _one_at_a_time():
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            command = ["npm", "ci", "--ignore-scripts", "--no-fund", "--no-audit"]
            result = subprocess.run(
                command, cwd=PROGRAMS, capture_output=True, text=True, timeout=15 * TIMEOUT
            )
            if result.returncode:
                assert os.environ.get("INTEROP") != "installed", result.stderr
                pytest.skip(f"npm cannot install: {result.stderr.strip().splitlines()[-1]}")
            installed.touch()
    return PROGRAMS / "node_modules"


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep the other processes of a test run from installing the same meanwhile."""
    import fcntl

    build = PROGRAMS / "build"
    build.mkdir(exist_ok=True)
    with (build / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def pack(folder: Path) -> Path:
    """Build the package from its sources; return the tarball."""
    copy = folder / "sources"
    ignored = shutil.ignore_patterns("node_modules", "js", "dist")
    shutil.copytree(SOURCES, copy, ignore=ignored)
    (copy / "node_modules").symlink_to(packages())
    (packed,) = json.loads(run(copy, "npm", "pack", "--json", "--foreground-scripts=false"))
    tarball = copy / str(packed["filename"])
    assert tarball.exists()
    return tarball


class App:
    """An app in a folder of its own, with the package from its tarball, and the tests' programs."""

    def __init__(self, folder: Path) -> None:
        self.tarball = pack(folder)
        # What the tests need is found one folder further up, and not what the package needs.
        (folder / "node_modules").symlink_to(packages())
        self.folder = folder / "app"
        self.folder.mkdir()
        (self.folder / "package.json").write_text('{"name": "app", "private": true}')
        run(
            self.folder,
            "npm",
            "install",
            "--offline",
            "--no-audit",
            "--no-fund",
            self.tarball.as_posix(),
        )
        for program in PROGRAMS.glob("*.mjs"):
            shutil.copy(program, self.folder)
        self.plugin = folder / "wsplugin"
        self.plugin.write_text(PLUGIN.format(python=sys.executable))
        self.plugin.chmod(0o755)

    def start(self, program: str, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
        """Start a program of the tests; `variables` are put into its environment."""
        variables = {"WSPLUGIN": str(self.plugin), **popen.pop("variables", {})}
        rest = {name: value for name, value in os.environ.items() if name not in variables}
        return subprocess.Popen(
            ["node", program, *arguments],
            cwd=self.folder,
            env=rest | {name: value for name, value in variables.items() if value},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            **popen,
        )

    def run(self, program: str, *arguments: str, **popen: Any) -> str:
        """Run a program of the tests to its end, which must be a good one; return its stdout."""
        with self.start(program, *arguments, **popen) as process:
            try:
                stdout, stderr = process.communicate(timeout=6 * TIMEOUT)
            finally:
                process.kill()
        assert process.returncode == 0, stdout + stderr
        return stdout
