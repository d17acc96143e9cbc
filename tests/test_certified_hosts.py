"""The hosts of the examples keep their promises: the kit's situations, played to each."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from demos import SANITIZED, build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="the kit's stand-ins are those of POSIX"),
]
CEILING = 600.0
"""Seconds for one host; on a quiet machine it takes half a minute."""
C = "-o build/c-scripted host_examples/c/scripted.c host_examples/c/host.c -ljansson"
# Of each demo: what is built beside it, and what the kit is told.
HOSTS = {
    "python": ("", f"-- {sys.executable} host_examples/python/scripted.py"),
    "python, embedded": (
        "",
        f"--socket-pair -- {sys.executable} host_examples/python_embedded/embedded_scripted.py",
    ),
    "node": ("", "-- node host_examples/node/js/scripted.js"),
    "go": (
        "go build -C host_examples/go -o scripted ./cmd/scripted",
        "-- host_examples/go/scripted",
    ),
    "rust": ("", "-- host_examples/rust/target/debug/scripted"),
    "java": ("", "-- java -cp 'build/java:build/java/dependency/*' Scripted"),
    "c, sanitized": (f"{SANITIZED} {C}", "-- build/c-scripted"),
}


@pytest.mark.parametrize("name", HOSTS)
def test_the_kit_finds_no_broken_promise(name: str, tmp_path: Path) -> None:
    demo = build(name, tmp_path)
    prepare, arguments = HOSTS[name]
    if prepare:
        subprocess.run(prepare, shell=True, cwd=demo.folder, check=True, timeout=CEILING)
    command = [sys.executable, "-m", "wsplugin", "certify", *shlex.split(arguments)]
    done = subprocess.run(command, cwd=demo.folder, capture_output=True, text=True, timeout=CEILING)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " 0 failed" in done.stdout.splitlines()[-1]
