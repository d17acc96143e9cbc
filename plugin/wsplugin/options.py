"""The options of the command line, for humans and for ``--help``.

From text to values only: what values are good is decided by :class:`Settings`.
Imported only if there are any: argparse takes time that a bare start does not have to spend.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from wsplugin.settings import Settings
from wsplugin.version import __version__

if TYPE_CHECKING:
    from wsplugin.recording.record import Recorder

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
REPEATABLE = {"allow_hosts": "--allow-host", "client_certs": "--client-cert", "pins": "--pin"}
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse(argv: Sequence[str]) -> tuple[Settings, str]:
    """Return settings and log level; as :func:`parse_all` otherwise."""
    settings, level, *_ = parse_all(argv)
    return settings, level


def parse_all(argv: Sequence[str]) -> tuple[Settings, str, "Recorder | None", int | None]:
    """Return settings, log level, and what concerns the process alone.

    That is what records the conversation, and the id of the process to end with, if any.

    Raises:
        SystemExit: status 2 for a wrong option, 0 after ``--help``, ``--version``, ``--schema``.

    """
    parser = make_parser()
    arguments = vars(parser.parse_args(argv))
    if arguments.pop("schema"):
        from wsplugin.schema import schema_text

        try:
            # Not sys.stdout, whose encoding is the terminal's.
            with open(1, "wb", closefd=False) as stdout:
                stdout.write(schema_text().encode())
        except OSError as exc:
            parser.exit(1, f"wsplugin: cannot write the schema: {exc.strerror}\n")
        sys.exit(0)
    level, parent_pid = arguments.pop("log_level"), arguments.pop("parent_pid")
    record, redact_data = arguments.pop("record"), arguments.pop("record_redact_data")
    try:
        settings = Settings(**arguments)
    except ValueError as exc:
        field, _, why = str(exc).partition(": ")
        parser.error(f"argument {option_of(field)}: {why}")
    recorder = None
    if record is not None:
        from wsplugin.recording.record import Recorder

        try:
            recorder = Recorder(record, redact_data=redact_data)
        except OSError as exc:
            parser.error(f"argument --record: cannot write {record}: {exc.strerror}")
    return settings, level, recorder, parent_pid


def parse_replay(argv: Sequence[str]) -> tuple[str, float]:
    """Return the file and the speed of ``wsplugin replay``.

    Raises:
        SystemExit: status 2 for a wrong argument, 0 after ``--help``.

    """
    parser = argparse.ArgumentParser(
        prog="wsplugin replay",
        description="Stand in for the plugin: check a host's lines against a recording, and "
        "answer as it says.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="what --record has written, or a transcript")
    parser.add_argument(
        "--speed",
        help="1 keeps the recorded pauses, 0 drops them (default 0)",
        type=float,
        choices=(0, 1),
        metavar="1|0",
        default=0,
    )
    for option in ("--parent-pid", "--exit-timeout"):
        # Hosts append them to whatever they start. What stands in ends with its stdin anyway.
        parser.add_argument(option, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    return arguments.file, arguments.speed


def make_parser() -> argparse.ArgumentParser:
    """Describe every option; the defaults are those of :class:`Settings`."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="wsplugin",
        description="WebSockets for a native host: JSON lines in on stdin, out on stdout.",
        allow_abbrev=False,
    )

    def add(name: str, help: str, **options: Any) -> None:
        parser.add_argument(name, help=help, **options)

    def option(name: str, type: Any, metavar: str, help: str, shown: str | None = None) -> None:
        value = getattr(default, name.lstrip("-").replace("-", "_"))
        shown = shown or f"default {value:g}" if isinstance(value, int | float) else shown
        help = f"{help} ({shown})" if shown else help
        add(name, help, type=type, metavar=metavar, default=value)

    option("--max-connections", whole, "N", "connections at the same time")
    add(
        "--at-limit",
        "what becomes of one connection too many: the oldest ends, or the new one is refused",
        choices=("evict", "refuse"),
        default=default.at_limit,
    )
    option("--open-timeout", seconds, "S", "seconds for the opening handshake")
    option("--close-timeout", seconds, "S", "seconds for the closing handshake")
    option("--ping-interval", seconds, "S", "seconds between keepalive pings, 0 for none")
    option("--ping-timeout", seconds, "S", "seconds for the answer to a ping, 0 for no pings")
    sized = "bytes, or with KiB, MiB, GiB; default "
    option("--max-message-size", size, "SIZE", "longest message received", sized + "16MiB")
    option("--max-line", size, "SIZE", "longest line read", sized + "64MiB")
    option("--max-send-buffer", size, "SIZE", "bytes waiting to be sent", sized + "16MiB")
    add(
        "--allow-host",
        "connect to these hosts only: a host name, or *. and a domain for its subdomains "
        "(repeatable)",
        action="append",
        metavar="PATTERN",
        dest="allow_hosts",
        default=[],
    )
    add("--allow-insecure", "allow plain ws:// beyond loopback hosts", action="store_true")
    add(
        "--block-private",
        "refuse loopback, private, link-local and other non-public addresses",
        action="store_true",
    )
    option("--ca-file", str, "FILE", "certificates trusted in addition to the system's")
    add(
        "--no-system-ca",
        "trust the certificates of --ca-file alone",
        action="store_true",
    )
    add(
        "--client-cert",
        "a PEM file with certificate chain and key, shown to servers that match the pattern, or, "
        "with --allow-host, to all (repeatable; the first match counts)",
        action="append",
        metavar="[PATTERN=]FILE",
        dest="client_certs",
        default=[],
    )
    add(
        "--pin",
        "a public key, by the SHA-256 of its SPKI, that servers that match the pattern must have "
        "in their verified chain (repeatable; one of several is enough)",
        action="append",
        metavar="PATTERN=sha256/BASE64",
        dest="pins",
        default=[],
    )
    option("--proxy", str, "URL", "proxy to use, or none", "default the system's")
    option("--linger", seconds, "S", "seconds to stay connected after the end of stdin")
    at_most = "seconds from the end of stdin to that of the process, at most"
    option("--exit-timeout", seconds, "S", at_most, "default none")
    add(
        "--parent-pid",
        "end when this process does, whoever holds the pipes (default none)",
        type=process,
        metavar="PID",
    )
    add(
        "--record",
        "write the conversation to a file as it happens, without header values, URL queries and "
        "other secrets; for 'wsplugin replay FILE'",
        metavar="FILE",
    )
    add("--record-redact-data", "leave the messages' payloads out too", action="store_true")
    add(
        "--log-level",
        "of what goes to stderr (default warning)",
        choices=LOG_LEVELS,
        default="warning",
        metavar="LEVEL",
    )
    add("--schema", "print the JSON Schema of every line in both directions", action="store_true")
    add("--version", "print the version", action="version", version=f"wsplugin {__version__}")
    return parser


def option_of(field: str) -> str:
    """Return the option that sets a field of :class:`Settings`."""
    return REPEATABLE.get(field) or f"--{field.replace('_', '-')}"


def whole(text: str) -> int:
    """Parse a whole number."""
    if not re.fullmatch(r"[0-9]{1,15}", text):
        fail("expected a whole number")
    return int(text)


def seconds(text: str) -> float:
    """Parse a time in seconds."""
    try:
        return float(text)
    except ValueError:
        fail("expected a number of seconds")


def process(text: str) -> int:
    """Parse the id of a process."""
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 1 <= int(text) < 2**31:
        fail("expected the id of a process")
    return int(text)


def size(text: str) -> int:
    """Parse a size: bytes, or with a unit."""
    match = re.fullmatch(r"([0-9]{1,15})(|KiB|MiB|GiB)", text)
    if match is None:
        fail("expected a number of bytes, or one with KiB, MiB or GiB")
    return int(match[1]) * UNITS[match[2]]


def fail(message: str) -> NoReturn:
    """Refuse a value, without repeating it: it may be a secret."""
    raise argparse.ArgumentTypeError(message)
