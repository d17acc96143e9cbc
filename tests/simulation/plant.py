"""Runs the simulation on a copy of the plugin with a fault, to see whether it is found."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import wsplugin

HERE: Final = Path(__file__).resolve().parent
SOURCE: Final = Path(wsplugin.__file__).resolve().parent
FOUND: Final = 1
"""The exit status of a simulation that has found something."""


def plant(change: Callable[[Path], None], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the simulation on a changed copy; its exit status is :data:`FOUND` if it finds it.

    Args:
        change: is given a folder in which ``plugin/wsplugin`` is the copy.
        arguments: of the command.

    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "plugin", "wsplugin")
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        change(Path(folder))
        return subprocess.run(
            [sys.executable, str(HERE), "--expect-package", str(copy), *arguments],
            env={**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )


def apply(patch: Path) -> Callable[[Path], None]:
    """Return what applies a diff with paths as in this repository (``git diff``).

    Raises:
        subprocess.CalledProcessError: on application, if it does not fit.

    """

    def change(folder: Path) -> None:
        # Within a repository of its own: else git takes the paths for those of one around it.
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        subprocess.run(["git", "apply", str(patch.resolve())], cwd=folder, check=True)

    return change


def replace(file: str, old: str, new: str) -> Callable[[Path], None]:
    """Return what replaces a piece of text that stands in a file of the package exactly once.

    Raises:
        LookupError: on application, if it does not.

    """

    def change(folder: Path) -> None:
        path = folder / "plugin" / "wsplugin" / file
        text = path.read_text()
        if text.count(old) != 1:
            raise LookupError(f"{file} holds {text.count(old)} times: {old}")
        path.write_text(text.replace(old, new))

    return change
