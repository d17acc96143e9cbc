"""The harness sees an end that is not orderly: what every test asks of the plugin can fail."""

import sys

import pytest

import harness
from harness import Plugin
from systems import posix_only

pytestmark = posix_only("SIGTERM")

PROCESS = """
import os, signal
def end(*_):
    {}
    os._exit(0)
signal.signal(signal.SIGTERM, end)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""
ENDS = {
    # what happens on SIGTERM, and what the harness says of it
    "never": ("return", "no end"),
    "another status": ("os._exit(3)", "3: b''"),
    "a signal that is not handled": ("os.kill(os.getpid(), signal.SIGKILL)", "-9: b''"),
    "a traceback": ("os.write(2, b'Traceback (most recent call last):')", "Traceback"),
    "half a line": ("os.write(1, b'{\"event\":')", "event"),
}


@pytest.mark.parametrize(("on_signal", "words"), ENDS.values(), ids=ENDS)
def test_disorderly_ends_are_seen(
    on_signal: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "END_TIMEOUT", 0.5)
    plugin = Plugin(command=[sys.executable, "-c", PROCESS.format(on_signal)])
    assert plugin.read_line() == b"ready\n"
    with pytest.raises(AssertionError, match=words):
        plugin.end()
    assert plugin.process.returncode is not None


def test_an_end_that_has_come_before_the_signal_is_seen() -> None:
    plugin = Plugin(command=[sys.executable, "-c", "raise SystemExit(3)"])
    assert plugin.read_line() == b""
    with pytest.raises(AssertionError, match="3: b''"):
        plugin.end()


def test_a_test_that_has_failed_is_not_hidden_by_the_end() -> None:
    never = [sys.executable, "-c", PROCESS.format("return")]
    plugin = Plugin(command=never)
    assert plugin.read_line() == b"ready\n"
    with pytest.raises(ZeroDivisionError), plugin:
        raise ZeroDivisionError
    assert plugin.process.returncode == -9
