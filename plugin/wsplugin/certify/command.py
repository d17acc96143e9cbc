"""The command ``wsplugin certify``: its arguments, its signals, its exit status."""

import argparse
import asyncio
import functools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from wsplugin.certify.running import SITUATIONS, certify, print_line
from wsplugin.certify.script import schema_text
from wsplugin.certify.stage import CannotStart
from wsplugin.certify.watch import PATIENCE


def main(arguments: Sequence[str]) -> NoReturn:
    """Certify a host; ends the process.

    Status 0 if all went as expected, 1 if a promise is not kept, 2 for a wrong argument or a
    command that cannot be started.
    """
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    if parsed.schema:
        sys.stdout.buffer.write(schema_text().encode())
        sys.exit(0)
    if not parsed.command:
        parser.error("the host's command is missing: -- HOST COMMAND")
    if os.name != "posix":
        parser.error("it needs a POSIX system")
    for name in {*parsed.only, *parsed.expected_failures} - SITUATIONS.keys():
        parser.error(f"there is no situation {name!r}")
    situations = [
        situation
        for name, situation in SITUATIONS.items()
        if not parsed.only or name in parsed.only
    ]
    performance = certify(
        parsed.command,
        situations,
        parsed.expected_failures,
        functools.partial(print_line, json=parsed.json),
        socket_pair=parsed.socket_pair,
        patience=parsed.patience,
    )

    async def perform() -> bool:
        task = asyncio.current_task()
        assert task
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # What has been started is ended, what has been made is removed.
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await performance

    try:
        kept = asyncio.run(perform())
    except asyncio.CancelledError:
        sys.exit("wsplugin certify: ended by a signal")
    except CannotStart as exc:
        parser.error(str(exc))
    except BrokenPipeError:
        os._exit(1)  # whoever read the report has seen enough; Python would say so at its end
    sys.exit(0 if kept else 1)


def make_parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    parser = argparse.ArgumentParser(
        prog="wsplugin certify",
        description="Play a faulty plugin to a host, and tell which promises the host keeps. "
        "See host_examples/certify.md.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", help="report in lines of JSON", action="store_true")
    parser.add_argument(
        "--expected-failures",
        help="names of situations that are to fail, one a line; # begins a comment",
        metavar="FILE",
        type=read_names,
        default=frozenset(),
    )
    parser.add_argument(
        "--only",
        help="play this situation (repeatable)",
        action="append",
        default=[],
        metavar="NAME",
    )
    parser.add_argument(
        "--socket-pair",
        help="the host starts no process: its demo gives the stand-in an end of a socket pair",
        action="store_true",
    )
    parser.add_argument(
        "--patience",
        help="seconds to wait for what should come at once: more where the host runs under a tool "
        f"that slows it down (default {PATIENCE:g})",
        metavar="S",
        type=float,
        default=PATIENCE,
    )
    parser.add_argument(
        "--schema",
        help="print the JSON Schema of the script, of what a demo prints, and of the report",
        action="store_true",
    )
    parser.add_argument("command", help="the host's scripted demo", nargs="*", metavar="COMMAND")
    return parser


def read_names(path: str) -> frozenset[str]:
    """Read names of situations from a file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise argparse.ArgumentTypeError(f"cannot read {path}: {reason}") from None
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return frozenset(line for line in lines if line)
