"""An exception that nobody foresaw ends what it concerns, and nothing else."""

import sys

from harness import Plugin
from host_lines import describe, encode

# A bug, once.
BUG = """
from wsplugin.manager import Manager
handle = Manager.handle
def stumble(self, line):
    if line == b"stumble":
        raise ZeroDivisionError
    handle(self, line)
Manager.handle = stumble
from wsplugin.cli import main
main()
"""


def test_a_bug_does_not_silence_the_plugin() -> None:
    with Plugin(command=[sys.executable, "-c", BUG]) as plugin:
        plugin.write(encode(describe(1)) + b"stumble\n")
        assert plugin.read()["id"] == 1
        assert "response" in plugin.request("plugin-describe")
        assert plugin.finish() == ([], 0)
