r"""Transcripts: conversations between a host and the plugin as plain text, to be read in a diff.

Text in, values out; whoever plays a transcript does the I/O. One looks like this::

    # A message goes out and comes back, then the host closes.
    @server chat
      accept
      echo
    > {"id": 1, "action": "websocket-create", "payload": {"url": "ws://127.0.0.1:<chat>/"}}
    < {"id": 1, "response": {"id": "ws-1"}}
    < {"event": "websocket-event", "payload": {"id": "ws-1", "name": "open", "payload": …}}

Lines, in the order in which things happen:

``> text``
    The host writes this line; it need not be JSON. Several in a row go out in one write.
``>| text``
    The host writes these bytes, with no LF behind them; ``\xNN`` is the byte NN.
``< json``
    The plugin writes this line, and nothing else before it.
``<~ json``
    Lines marked so, one below the other, may come in any order, except that the events of one
    connection keep theirs.
``# text``
    A comment. ``# +1.25s`` says how much time passed here when the conversation was recorded.
``@options …``
    The plugin's command line, quoted as in a shell. Before everything else.
``@server NAME [tls | absent | untouched]``
    A server on 127.0.0.1: with TLS and a certificate for ``localhost``; one that does not listen;
    one that nobody may connect to.
    The indented lines below it are its script, played for every connection that it accepts.
    What they may say is up to the one who plays them; whoever stands in for the plugin skips
    them. Before everything else too.
``@continue NAME``
    The server goes on with its script, which has come to ``wait``.
``@end-of-stdin``, ``@signal NAME``, ``@exit STATUS``
    The host closes the plugin's stdin, or sends a signal; the exit status expected at the end.
    A transcript that says nothing of its end ends with the end of stdin and status 0.
``@die``, ``@late SECONDS``, ``@split``
    For tests of a host: here the plugin dies, or is so late with its next line, or splits that
    line over two writes. The real plugin cannot play these.

Lines out are compared as JSON values. What truly varies is written as a placeholder:

``<text>``
    Inside a string: any text there. What is between the brackets is an example for readers, and
    what someone standing in for the plugin writes. A string that does have brackets is written
    whole as ``"<=string>"``.
``"<number>"``
    In place of a value: any number.
``"<more>": ""``
    As a member of an object: any members beyond those written are allowed.
``<NAME>``
    In a line in, in options and in scripts: the port of that server. Whoever plays a transcript
    may define further names, such as ``<ca>`` for the file of a certificate authority.

Whoever stands in for the plugin compares lines in the same way, as text where they are no JSON,
and takes any id for that of a request.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn

import msgspec
from msgspec import Struct

from wsplugin.recording.placeholders import difference, substitute

BOM: Final = b"\xef\xbb\xbf"

_NAME: Final = r"[a-z][a-z0-9-]*"

ServerKind = Literal["plain", "tls", "absent", "untouched"]


class LineIn(Struct, frozen=True):
    """The host writes: a line, or bytes as they are."""

    number: int
    text: str
    raw: bool = False

    def data(self, names: Mapping[str, str]) -> bytes:
        """Return what is written, with `names` put in."""
        data = substitute(self.text, names).encode()
        if not self.raw:
            return data + b"\n"
        return re.sub(rb"\\x([0-9a-fA-F]{2})", lambda m: bytes.fromhex(m[1].decode()), data)


class LineOut(Struct, frozen=True):
    """The plugin writes a line."""

    number: int
    text: str
    value: Any


class LinesOut(Struct, frozen=True):
    """The plugin writes lines that may come in any order; mostly it is only one."""

    number: int
    lines: tuple[LineOut, ...]


class Elapsed(Struct, frozen=True):
    """So much time passed in the recording."""

    number: int
    seconds: float


class Continue(Struct, frozen=True):
    """A server that waits goes on."""

    number: int
    server: str


class EndOfStdin(Struct, frozen=True):
    """The host closes the plugin's stdin."""

    number: int


class Signal(Struct, frozen=True):
    """The host sends a signal, ``SIGTERM`` or the like."""

    number: int
    name: str


class Die(Struct, frozen=True):
    """Fault: the plugin dies."""

    number: int


class Late(Struct, frozen=True):
    """Fault: the plugin is late with its next line."""

    number: int
    seconds: float


class Split(Struct, frozen=True):
    """Fault: the plugin splits its next line over two writes."""

    number: int


Fault = Die | Late | Split
Step = LineIn | LinesOut | Elapsed | Continue | EndOfStdin | Signal | Fault


class Expected(Struct, frozen=True):
    """A whole line that the host writes, wherever the transcript's pieces of it begin and end."""

    number: int
    data: bytes


class ScriptLine(Struct, frozen=True):
    """One line of what a server does."""

    number: int
    text: str


class Server(Struct, frozen=True):
    """A server and what it does on every connection."""

    number: int
    name: str
    kind: ServerKind
    script: tuple[ScriptLine, ...]


class Transcript(Struct, frozen=True):
    """A whole conversation and its surroundings."""

    options: tuple[str, ...]
    servers: tuple[Server, ...]
    steps: tuple[Step, ...]
    exit_status: int

    @property
    def has_faults(self) -> bool:
        """Whether only a stand-in for the plugin can play it."""
        return any(isinstance(step, Fault) for step in self.steps)


class TranscriptError(ValueError):
    """The text is no transcript; the message names the line."""


class Mismatch(Exception):
    """The plugin has not written what the transcript says; the message names the line."""


# --- parsing ----------------------------------------------------------------------------------


def parse(text: str) -> Transcript:
    """Parse the text of a transcript.

    Raises:
        TranscriptError: it is none.

    """
    parser = _Parser()
    for number, line in enumerate(text.split("\n"), 1):
        parser.number = number
        parser.take(line.removesuffix("\r"))
    return parser.finish()


class _Parser:
    def __init__(self) -> None:
        self.number = 0
        self._options: tuple[str, ...] = ()
        self._servers: dict[str, Server] = {}
        self._steps: list[Step] = []
        self._exit_status: int | None = None
        # What the line before was, for those that go on with it.
        self._in_script = False
        self._in_group = False

    def take(self, line: str) -> None:
        in_script, self._in_script = self._in_script, False
        in_group, self._in_group = self._in_group, False
        if not line.strip():
            return
        marker, _, rest = line.partition(" ")
        if marker == "" and in_script:
            self._in_script = True
            if not line.lstrip().startswith("#"):
                self._script_line(line.strip())
        elif marker == "#":
            self._in_script = in_script
            if elapsed := re.fullmatch(r"\+([0-9.]+)s", rest.strip()):
                self._add(Elapsed(self.number, self._seconds(elapsed[1])))
        elif marker in (">", ">|"):
            if any(isinstance(step, EndOfStdin) for step in self._steps):
                self._fail("a line in after the end of stdin")
            self._add(LineIn(self.number, rest, raw=marker == ">|"))
        elif marker == "<":
            self._add(LinesOut(self.number, (self._line_out(rest),)))
        elif marker == "<~":
            self._in_group = True
            self._group_line(rest, go_on=in_group)
        elif line.startswith("@"):
            self._directive(marker, rest.strip())
        else:
            self._fail("expected a line that begins with '> ', '< ', '# ' or '@'")

    def finish(self) -> Transcript:
        return Transcript(
            self._options,
            tuple(self._servers.values()),
            tuple(self._steps),
            self._exit_status or 0,
        )

    def _add(self, step: Step) -> None:
        if self._exit_status is not None:
            self._fail("nothing can follow @exit")
        self._steps.append(step)

    def _script_line(self, text: str) -> None:
        name, server = self._servers.popitem()
        line = ScriptLine(self.number, text)
        self._servers[name] = msgspec.structs.replace(server, script=(*server.script, line))

    def _line_out(self, text: str) -> LineOut:
        try:
            return LineOut(self.number, text, msgspec.json.decode(text))
        except msgspec.DecodeError as exc:
            self._fail(f"the line out is not JSON: {exc}")

    def _group_line(self, text: str, *, go_on: bool) -> None:
        line = self._line_out(text)
        before = self._steps[-1] if go_on else None
        if isinstance(before, LinesOut):
            self._steps[-1] = LinesOut(before.number, (*before.lines, line))
        else:
            self._add(LinesOut(self.number, (line,)))

    def _directive(self, name: str, rest: str) -> None:
        if name in ("@options", "@server") and (self._steps or self._exit_status is not None):
            self._fail(f"{name} comes before everything else")
        match name, rest.split():
            case "@options", _:
                try:
                    self._options += tuple(shlex.split(rest))
                except ValueError as exc:
                    self._fail(str(exc))
            case "@server", [server, *kind]:
                self._server(server, kind)
            case "@continue", [server]:
                if server not in self._servers:
                    self._fail(f"there is no server {server!r}")
                self._add(Continue(self.number, server))
            case "@end-of-stdin", []:
                self._add(EndOfStdin(self.number))
            case "@signal", [signal] if re.fullmatch(r"SIG[A-Z0-9]+", signal):
                self._add(Signal(self.number, signal))
            case "@exit", [status] if re.fullmatch(r"[0-9]{1,3}", status):
                if self._exit_status is not None:
                    self._fail("nothing can follow @exit")
                self._exit_status = int(status)
            case "@die", []:
                self._add(Die(self.number))
            case "@late", [seconds]:
                self._add(Late(self.number, self._seconds(seconds)))
            case "@split", []:
                self._add(Split(self.number))
            case _:
                self._fail(f"no such directive: {name} {rest}".rstrip())

    def _server(self, name: str, kind: list[str]) -> None:
        if not re.fullmatch(_NAME, name) or name in ("more", "ca"):
            self._fail(f"a server cannot be called {name!r}: lower case letters, digits, hyphens")
        if name in self._servers:
            self._fail(f"there is a server {name!r} already")
        self._in_script = True
        match kind:
            case []:
                self._servers[name] = Server(self.number, name, "plain", ())
            case ["tls" | "absent" | "untouched" as known]:
                self._servers[name] = Server(self.number, name, known, ())
            case _:
                self._fail("a server is tls, absent, untouched, or nothing of this")

    def _seconds(self, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            self._fail(f"not a number of seconds: {text!r}")

    def _fail(self, why: str) -> NoReturn:
        raise TranscriptError(f"line {self.number}: {why}")


def whole_lines(transcript: Transcript) -> Iterator[Step | Expected]:
    """Yield the steps of a transcript with whole lines in place of what the host writes."""
    held = b""
    number = 0
    at_start = True
    for step in (*transcript.steps, None):
        if isinstance(step, LineIn):
            number = number if held else step.number
            *ends, held = (held + step.data({})).split(b"\n")
        elif held and (step is None or isinstance(step, EndOfStdin)):
            ends, held = [held], b""  # the last line, without LF
        else:
            ends = []
        for line in ends:
            line = line.removeprefix(BOM) if at_start else line
            at_start = False
            if line.strip():
                yield Expected(number, line.strip())
            number = step.number if step is not None else number
        if step is not None and not isinstance(step, LineIn):
            yield step


# --- matching ---------------------------------------------------------------------------------


def take(expected: Sequence[LineOut], line: bytes) -> LineOut:
    """Return the one of the `expected` lines that the plugin's `line` is.

    Args:
        expected: those of one :class:`LinesOut` that have not come yet.
        line: as read, with its LF.

    Raises:
        Mismatch: it is none of them.

    """
    try:
        received = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise _mismatch(expected[0], line, f"not JSON: {exc}") from None
    sequence = _sequence(received)
    # An event of a connection can only be the connection's next one.
    candidates = [out for out in expected if _sequence(out.value) == sequence][:1] or expected[:1]
    (candidate,) = candidates
    if found := difference(candidate.value, received):
        raise _mismatch(candidate, line, found)
    return candidate


def _mismatch(expected: LineOut, line: bytes, why: str) -> Mismatch:
    text = line.decode(errors="backslashreplace").rstrip("\n")
    return Mismatch(
        f"line {expected.number}: {why}\n  expected: {expected.text}\n  received: {text}"
    )


def _sequence(value: Any) -> tuple[str, Any]:
    """Return what a line keeps its order with: its connection's events, or nothing else."""
    match value:
        case {"event": _, "payload": {"id": id}}:
            return "event", id
        case {"id": id}:
            return "answer", id
        case _:
            return "", None
