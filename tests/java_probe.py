"""Builds the Java host, and runs the programs of tests/java with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import TIMEOUT, environment

needs_java = [
    pytest.mark.skipif(not shutil.which("javac"), reason="not on this machine: javac"),
    pytest.mark.skipif(os.name != "posix", reason="the class path is that of a POSIX system"),
]

JAVA = Path(__file__).parent.parent / "host_examples" / "java"
GSON = Path("/usr/share/java/gson.jar")
CEILING = 6 * TIMEOUT
"""Seconds for what takes a JVM, on a busy machine."""

FAKE = """
import json, os, signal, subprocess, sys, time
def ask():
    line = sys.stdin.readline()
    return json.loads(line) if line else sys.exit(0)
def say(*lines):
    sys.stdout.write("".join(json.dumps(line) + "\\n" for line in lines))
    sys.stdout.flush()
def answer(request, **response):
    return {"id": request["id"], "response": response}
def describe(name="wsplugin", protocol=1, version="9", features=()):
    say(answer(ask(), name=name, protocol=protocol, version=version, features=features))
def event(name, **payload):
    return {"event": "websocket-event", "payload": {"id": "ws-1", "name": name, "payload": payload}}
def text(data):
    return event("message", type="text", data=data)
def closed():
    return event("close", code=1000, reason="", cause="server")
"""


def fake(script: str) -> list[str]:
    """Return the command of a plugin that does this; options follow in ``sys.argv``."""
    return [sys.executable, "-c", FAKE + script]


def build(folder: Path) -> str:
    """Build the host, its programs and those of the tests; return their class path."""
    gson = GSON
    if not gson.exists():
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
        maven = ["mvn", "-q", "-B", "-f", str(JAVA / "pom.xml"), *goal]
        subprocess.run(maven, check=True, timeout=5 * CEILING)
        gson = folder / "gson.jar"
    sources = [*JAVA.glob("*.java"), *(Path(__file__).parent / "java").glob("*.java")]
    subprocess.run(
        [
            *["javac", "--release", "17", "-Xlint:all,-serial", "-Werror", "-encoding", "UTF-8"],
            *["-cp", str(gson), "-d", str(folder), *map(str, sources)],
        ],
        check=True,
        timeout=CEILING,
    )
    return f"{folder}:{gson}"


class Java:
    """Runs one of the programs of tests/java."""

    def __init__(self, class_path: str, program: str) -> None:
        self.class_path = class_path
        self.program = program
        self.stderr = ""

    def command(self, name: str, plugin: list[str], *options: str) -> list[str]:
        """Return the command that does what is called so with this plugin."""
        return ["java", *options, "-cp", self.class_path, self.program, name, *plugin]

    def run(self, name: str, plugin: list[str], *options: str, **variables: str) -> list[str]:
        """Run it to its end, which must be a good one, and return its lines."""
        process = subprocess.Popen(
            self.command(name, plugin, *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=environment(**variables),
        )
        with process:
            try:
                stdout, self.stderr = process.communicate(timeout=CEILING)
            finally:
                process.kill()
        assert process.returncode == 0, (stdout, self.stderr)
        return stdout.splitlines()
