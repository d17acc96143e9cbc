"""Stands in for the plugin: plays a transcript to a host, and checks what the host says.

One step after the other, without an event loop: waits for each of the host's lines, writes each
of the plugin's. Faults are for tests of the host's own error paths.
"""

import collections
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from wsplugin.messages import WHITE_SPACE
from wsplugin.recording.placeholders import difference, example
from wsplugin.recording.transcript import (
    BOM,
    Die,
    Elapsed,
    EndOfStdin,
    Expected,
    Late,
    LineOut,
    LinesOut,
    Mismatch,
    Signal,
    Split,
    Transcript,
    parse,
    whole_lines,
)

# What lies between the two halves of a line, for the host to read them apart.
SPLIT_SECONDS: Final = 0.05
# A host that has died sends no signal.
SIGNAL_TIMEOUT: Final = 30


def replay(path: str, speed: float, stdin: int, stdout: int) -> int:
    """Play the transcript in a file; return the exit status, after a word on stderr if not 0.

    0 if the host has said what it should, 1 if not, 2 if the file is no transcript.
    """
    try:
        transcript = parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        sys.stderr.write(f"wsplugin: replay: {path}: {reason}\n")
        return 2
    try:
        with open(stdin, "rb", closefd=False) as lines:
            player = Replay(transcript, speed, lines, stdout)
            player.catch_signals()
            player.run()
    except Mismatch as exc:
        sys.stderr.write(f"wsplugin: replay: {path}: {exc}\n")
        return 1
    return 0


class Replay:
    """Plays one transcript to one host."""

    def __init__(self, transcript: Transcript, speed: float, stdin: BinaryIO, stdout: int) -> None:
        self._transcript = transcript
        self._speed = speed
        self._stdin = stdin
        self._stdout = stdout
        self._at_start = True
        # Ids of the recording that wait for their answer, and what the host calls them.
        self._ids: dict[Any, collections.deque[Any]] = {}
        # Of the next line out.
        self._pause = self._late = 0.0
        self._split = False
        self._signals: list[str] = []

    def run(self) -> None:
        """Play it to its end.

        Raises:
            Mismatch: the host says something else, or is gone.

        """
        ends_itself = self._transcript.exit_status != 0
        for step in whole_lines(self._transcript):
            match step:
                case Expected():
                    self._pause = 0
                    self._read(step)
                case LinesOut():
                    for line in step.lines:
                        self._write(line)
                case Elapsed():
                    self._pause = step.seconds * self._speed
                case EndOfStdin():
                    self._read_end(f"line {step.number}")
                    ends_itself = True
                case Signal():
                    self._await_signal(step)
                    ends_itself = True
                case Late():
                    self._late = step.seconds
                case Split():
                    self._split = True
                case Die():
                    # As abruptly as the system can: Windows knows no SIGKILL.
                    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        if not ends_itself:
            self._read_end("at the end")

    # --- the host's lines ---

    def _read_line(self) -> bytes:
        """Return the host's next line that is not blank, without its LF; ``b""`` at the end."""
        for line in self._stdin:
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(BOM)
            if line := line.strip(WHITE_SPACE):
                return line
        return b""

    def _read(self, expected: Expected) -> None:
        line = self._read_line()
        if not line:
            raise Mismatch(
                f"line {expected.number}: stdin has ended\n  expected: {_text(expected.data)}"
            )
        if found := self._difference(expected.data, line):
            raise Mismatch(
                f"line {expected.number}: {found}\n"
                f"  expected: {_text(expected.data)}\n"
                f"  received: {_text(line)}"
            )

    def _read_end(self, where: str) -> None:
        if line := self._read_line():
            raise Mismatch(
                f"{where}: a line too many\n  expected: the end of stdin\n  received: {_text(line)}"
            )

    def _difference(self, expected: bytes, received: bytes) -> str | None:
        try:
            value = msgspec.json.decode(expected)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return difference(_text(expected), _text(received))
        try:
            line = msgspec.json.decode(received)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return f"not JSON: {exc}"
        if not isinstance(value, dict) or not isinstance(line, dict):
            return difference(value, line)
        for request in (value, line):
            if request.get("id", "") is None:
                del request["id"]  # the same as none
        id, others = value.get("id"), line.get("id")
        if _is_id(id) and _is_id(others):
            value["id"] = line["id"] = ""
            self._ids.setdefault(example(id), collections.deque()).append(others)
        return difference(value, line)

    # --- the plugin's lines ---

    def _write(self, line: LineOut) -> None:
        value = example(line.value)
        if isinstance(value, dict) and _is_id(id := value.get("id")) and self._ids.get(id):
            value["id"] = self._ids[id].popleft()
        data = msgspec.json.encode(value) + b"\n"
        time.sleep(self._pause + self._late)
        try:
            if self._split:
                # Within a character, if there is one to be split.
                within = re.search(rb"[\x80-\xbf]", data)
                middle = within.start() if within else len(data) // 2
                self._write_all(data[:middle])
                time.sleep(SPLIT_SECONDS)
                data = data[middle:]
            self._write_all(data)
        except OSError as exc:
            raise Mismatch(
                f"line {line.number}: the host does not read: {exc.strerror}\n"
                f"  written: {line.text}"
            ) from None
        self._pause = self._late = 0
        self._split = False

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._stdout, data) :]

    # --- signals ---

    def catch_signals(self) -> None:
        """Have signals noted: those of the transcript as its steps, others as a difference."""
        steps = self._transcript.steps
        expected = {step.name for step in steps if isinstance(step, Signal)}

        def take(number: int, frame: object) -> None:
            name = signal.Signals(number).name
            if name not in expected:
                raise Mismatch(f"{name} has come, which is not expected")
            self._signals.append(name)

        for name in expected | {"SIGINT", "SIGTERM", "SIGHUP"}:
            number = getattr(signal, name, None)
            # What the host has the plugin ignore, as under nohup, the plugin does not see either.
            if number and (name in expected or signal.getsignal(number) is not signal.SIG_IGN):
                signal.signal(number, take)

    def _await_signal(self, step: Signal) -> None:
        deadline = time.monotonic() + SIGNAL_TIMEOUT
        while step.name not in self._signals:
            if time.monotonic() > deadline:
                raise Mismatch(f"line {step.number}: {step.name} has not come")
            time.sleep(0.01)
        self._signals.remove(step.name)


def _is_id(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, str)


def _text(line: bytes) -> str:
    return line.decode(errors="backslashreplace")
