"""The command ``wsplugin``: descriptors, signals, logging, exit status.

Little is imported before :func:`main` has seen to signals, since imports are most of the start.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from wsplugin.lazy import defer_imports

if TYPE_CHECKING:
    from wsplugin.parent import Parent
    from wsplugin.recording.record import Recorder
    from wsplugin.session import Session

# Windows has no SIGTERM that another process could send; Ctrl+Break is its like.
SIGNALS = [
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if (number := getattr(signal, name, None)) is not None
    # Under nohup the plugin is to outlive its terminal.
    and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN)
]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the plugin, or what stands in for it, over stdin and stdout; ends the process."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] == "certify":
        # It starts processes, which must not outlive it, and needs what is put off below.
        from wsplugin.certify.command import main as certify

        certify(arguments[1:])
    for number in SIGNALS:
        # Nothing has begun yet that would have to be ended.
        signal.signal(number, lambda *_: os._exit(0))
    defer_imports()
    # Importing makes many objects and no garbage, but the collector would look for some: with all
    # imports it takes an eighth of the instructions (358 for 313 million).
    gc.disable()
    # A block that glibc gives back at once raises its thresholds (mallopt(3), M_MMAP_THRESHOLD) for
    # what it keeps: else page faults take an eighth of the CPU of a flood of 64 KiB messages.
    bytes(2**20)
    recorder: Recorder | None = None
    parent_pid: int | None = None
    if arguments:
        speak_utf8()
    if arguments and arguments[0] == "replay":
        stand_in(arguments[1:])
    if arguments:
        from wsplugin.options import parse_all

        settings, level, recorder, parent_pid = parse_all(arguments)
    else:
        from wsplugin.settings import Settings

        settings, level = Settings(), "warning"
    stdin, stdout = take_descriptors()
    # Not sooner: one of the three standard streams may be closed, and its number free.
    parent = None if parent_pid is None else find_parent(parent_pid)
    from wsplugin.log import configure_logging, log_start

    log = configure_logging(level)
    log_start(settings)
    from wsplugin.session import serve

    gc.freeze()
    gc.enable()

    def on_start(session: "Session") -> None:
        handle_signals(session, recorder)
        if recorder is not None:
            session.record(recorder)
        if parent is not None:
            session.watch(parent)

    status = serve(stdin, stdout, settings, on_start)
    if recorder is not None:
        recorder.exit(status)
    log.drain()
    # Not sys.exit(): it would wait for threads that may be stuck, in a name server's silence or
    # in a write to a host that does not read.
    os._exit(status)


def speak_utf8() -> None:
    """Print in UTF-8, as the log is, whatever a console of Windows or the locale would have."""
    for stream in (sys.stdout, sys.stderr):
        # None where the descriptor is closed.
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace")


def stand_in(arguments: Sequence[str]) -> NoReturn:
    """Replay a recording; ends the process."""
    from wsplugin.options import parse_replay

    path, speed = parse_replay(arguments)
    stdin, stdout = take_descriptors()
    from wsplugin.recording.replay import replay

    os._exit(replay(path, speed, stdin, stdout))


def find_parent(pid: int) -> "Parent":
    """Find the process that the plugin must not outlive; status 2 if it cannot be watched."""
    from wsplugin.parent import Parent, Unwatchable

    try:
        return Parent(pid)
    except Unwatchable as exc:
        sys.stderr.write(f"wsplugin: error: argument --parent-pid: {exc}\n")
        sys.exit(2)


def handle_signals(session: "Session", recorder: "Recorder | None" = None) -> None:
    """End the session in order on the first signal, the process at once on the second."""
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if recorder is not None:
            recorder.signal(signal.Signals(number).name)
        if received:
            if recorder is not None:
                recorder.exit(128 + number)
            os._exit(128 + number)
        received.append(number)
        session.stop_soon()

    for number in SIGNALS:
        signal.signal(number, on_signal)


def take_descriptors() -> tuple[int, int]:
    """Move stdin and stdout to private descriptors, out of reach of everything else.

    After this, descriptor 0 is the null device and descriptor 1 is stderr: a stray ``print`` or
    a child process can neither read the host's lines nor write between ours.

    Raises:
        SystemExit: there is no stdout to write to.

    """
    null = os.open(os.devnull, os.O_RDWR)
    while null < 3:
        # One of the three is closed: what is opened next would take its number, a socket even.
        if null == 1:
            sys.exit("wsplugin: stdout is closed")
        null = os.open(os.devnull, os.O_RDWR)
    stdin, stdout = os.dup(0), os.dup(1)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    if sys.platform == "win32":
        import msvcrt

        # Text mode would turn LF into CRLF and end the input at Ctrl+Z.
        msvcrt.setmode(stdin, os.O_BINARY)
        msvcrt.setmode(stdout, os.O_BINARY)
    return stdin, stdout
