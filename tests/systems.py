"""What the plugin's command is, on which system it runs, and what a test needs of that system."""

import json
import os
import signal
import sys
from typing import Final

import pytest

PLUGIN: Final[list[str]] = json.loads(os.environ.get("WSPLUGIN_COMMAND", "null")) or [
    sys.executable,
    "-m",
    "wsplugin",
]
"""What starts the plugin: a list in JSON from the environment, such as ["dist/…/wsplugin"]."""

WINDOWS: Final = sys.platform == "win32" or any(word.endswith(".exe") for word in PLUGIN)
"""Whether the plugin runs on Windows."""

WINE: Final = WINDOWS and sys.platform != "win32"
"""Whether it does so under Wine, which then answers the system calls of Windows' own Python."""

TERMINATED: Final = (-signal.SIGTERM, 0) if WINE else (1,) if WINDOWS else (0,)
"""Statuses of a plugin that a host has ended with SIGTERM.

Windows has no SIGTERM: there the process is ended from outside, with status 1; under Wine, whose
processes are the system's, with the signal, or in order.
"""


def posix_only(reason: str) -> pytest.MarkDecorator:
    """Skip a test on Windows, for what it takes for granted."""
    return pytest.mark.skipif(WINDOWS, reason=f"POSIX only: {reason}")


def not_under_wine(reason: str) -> pytest.MarkDecorator:
    """Skip a test where Wine differs from Windows."""
    return pytest.mark.skipif(WINE, reason=f"not under Wine: {reason}")
