"""The demos of the host examples, built and run by the commands of their head comments.

Each is built in a copy of the folder. One whose toolchain is missing is skipped.
"""

import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import TIMEOUT

EXAMPLES = Path(__file__).parent.parent / "host_examples"

# Stands between a host and the plugin: records what passes, and hands the plugin's output on
# byte by byte, so that every line and every character is split over several reads.
COPY = """
import os, runpy, subprocess, sys, threading
def copy(mark, source, sink, size):
    for line in source:
        record.write(mark + line)
        for start in range(0, len(line), size):
            sink.write(line[start : start + size])
            sink.flush()
def copy_in(source, sink):
    copy(b"> ", source, sink, 65536)
    record.write(b"@end-of-stdin\\n")
    sink.close()
def copy_out(source, sink):
    copy(b"< ", source, sink, 1)
def start(*args):
    thread = threading.Thread(target=args[0], args=args[1:], daemon=True)
    thread.start()
    return thread
"""
TEE = f"""{COPY}
record, *command = sys.argv[1:]
record = open(record, "ab", 0)
plugin = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
start(copy_in, sys.stdin.buffer, plugin.stdin)
copy_out(plugin.stdout, sys.stdout.buffer)
status = plugin.wait()
record.write(b"@exit %d\\n" % status)
sys.exit(status)
"""
# The same within the process of an embedded host; or a plugin that is another process after all.
EMBEDDED = f"""{COPY}
import wsplugin
demo, url, *plugin = sys.argv[1:]
real_serve = wsplugin.serve
def recorded_serve(stdin, stdout, settings):
    their_in, in_ = os.pipe()
    out, their_out = os.pipe()
    with open(stdin, "rb", closefd=False) as source, open(stdout, "wb", closefd=False) as sink:
        start(copy_in, source, open(in_, "wb", 0))
        copying = start(copy_out, open(out, "rb"), sink)
        status = real_serve(their_in, their_out, settings)
        os.close(their_out)
        copying.join()
    record.write(b"@exit %d\\n" % status)
    return status
def other_serve(stdin, stdout, settings):
    result = subprocess.run(plugin, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
    if result.stderr:
        raise RuntimeError(result.stderr.decode().strip())
    return result.returncode
if plugin[0] == "record":
    record = open(plugin[1], "ab", 0)
    wsplugin.serve = recorded_serve
else:
    wsplugin.serve = other_serve
sys.path.insert(0, os.path.dirname(demo))
sys.argv = [demo, url]
runpy.run_path(demo, run_name="__main__")
"""

# Stands in for the plugin: answers each line with the next of the lists in a file, then does
# what it is told to.
FAKE = """
import json, os, signal, sys, time
answers, then, *options = sys.argv[1:]  # the last are those that a host appends
for lines in json.load(open(answers, encoding="utf-8")):
    sys.stdin.readline()
    for line in lines:
        sys.stdout.buffer.write(json.dumps(line, ensure_ascii=False).encode() + b"\\n")
    sys.stdout.flush()
match then:
    case "end":
        sys.stdin.read()
    case "stay":
        sys.stdin.read()
        while True:
            time.sleep(60)
    case "fail":
        sys.stdin.readline()
        sys.exit("the last words of a plugin")
    case "die":
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
    case "babble":
        sys.stdin.readline()
        print("no JSON", flush=True)
        sys.stdin.read()
"""

DESCRIPTION: dict[str, Any] = {
    "name": "wsplugin",
    "version": "1.1.0",
    "protocol": 1,
    "actions": [],
    "features": [],
    "limits": {},
}
"""What a fake says of itself: nothing beyond what a host has to know."""


@dataclass(frozen=True)
class Example:
    """A demo, and what has to be there to build and run it."""

    demo: str
    commands: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    # Put in place of a part of the commands.
    instead: tuple[str, str] = ("", "")
    # The plugin runs within the demo's own process.
    embedded: bool = False


SANITIZED = (
    "cc -std=c11 -Wall -Wextra -Wpedantic -Werror -g"
    " -fsanitize=address,undefined -fno-sanitize-recover=undefined"
)
DEMOS = {
    "python": Example("python/demo.py"),
    "python, embedded": Example("python_embedded/embedded_demo.py", embedded=True),
    "node": Example("node/demo.ts", ("node",)),
    "go": Example("go/cmd/demo/main.go", ("go",)),
    "rust": Example("rust/src/bin/demo.rs", ("cargo",)),
    "java": Example("java/Demo.java", ("java", "javac", "mvn")),
    "c": Example("c/demo.c", ("cc",), ("/usr/include/jansson.h",)),
    "c, sanitized": Example(
        "c/demo.c", ("cc",), ("/usr/include/jansson.h",), ("cc -std=c11", SANITIZED)
    ),
}


class Demo:
    """A demo that has been built in a copy of the folder."""

    def __init__(self, example: Example, folder: Path) -> None:
        self.folder = folder
        self.embedded = example.embedded
        shutil.copytree(
            EXAMPLES,
            folder / "host_examples",
            ignore=shutil.ignore_patterns("node_modules", "__pycache__", "target"),
        )
        *build, self.command = head_commands(EXAMPLES / example.demo)
        for command in build:
            command = command.replace(*example.instead)
            subprocess.run(command, shell=True, cwd=folder, check=True, timeout=20 * TIMEOUT)

    def start(self, url: str, plugin: Sequence[str]) -> "subprocess.Popen[str]":
        """Start it with the plugin's command line."""
        command = self.command
        if self.embedded:
            _, path, placeholder = shlex.split(command)
            command = shlex.join([sys.executable, "-c", EMBEDDED, path, placeholder, *plugin])
        command = command.replace("ws://127.0.0.1:8765/", url)
        command = command.replace(".venv/bin/wsplugin", shlex.join(plugin))
        return subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def run(self, url: str, plugin: Sequence[str]) -> tuple[str, str, int]:
        """Run it to its end; return its stdout, its stderr and its exit status."""
        with self.start(url, plugin) as process:
            try:
                stdout, stderr = process.communicate(timeout=TIMEOUT)
            finally:
                process.kill()
        return stdout, stderr, process.returncode

    def run_with(self, answers: Any, then: str) -> tuple[str, str, int]:
        """Run it with a plugin that gives these answers."""
        return self.run("ws://127.0.0.1:1/", self.fake(answers, then))

    def fake(self, answers: Any, then: str) -> list[str]:
        """Return the command line of a plugin that says who it is, then gives these answers."""
        file = self.folder / "answers.json"
        described = [{"id": 1, "response": DESCRIPTION}]
        file.write_text(json.dumps([described, *answers]), encoding="utf-8")
        return [sys.executable, "-c", FAKE, str(file), then]


def head_commands(path: Path) -> list[str]:
    """Return the commands in a head comment that build and run the demo."""
    text = path.read_text(encoding="utf-8")
    commands = re.findall(r"^(?:| \*|//) *\$ (.+)$", text, re.MULTILINE)
    assert "pip install ." in commands[0]
    assert commands[1] == "python3 host_examples/python/echo_server.py 8765 &"
    python = f"{shlex.quote(sys.executable)} "
    return [re.sub(r"^(python3|\.venv/bin/python) ", python, command) for command in commands[2:]]


@functools.cache
def missing(example: Example) -> str:
    """Say what of the toolchain is missing."""
    missing = [command for command in example.commands if not shutil.which(command)]
    missing += [file for file in example.files if not Path(file).exists()]
    return ", ".join(missing)


@functools.cache
def build(name: str, folder: Path) -> Demo:
    """Build a demo."""
    if what := missing(DEMOS[name]):
        pytest.skip(f"{name}: not on this machine: {what}")
    return Demo(DEMOS[name], folder / name)
