"""Every golden transcript, played by the real process over real pipes against real servers."""

import itertools
import queue
import re
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from jsonschema import Draft202012Validator

from harness import PLUGIN, TIMEOUT, Plugin, environment
from scripted_server import ScriptedServer
from tls_servers import Authority
from wsplugin.messages import ACTIONS, Cause, ConnectionErrorCode, RequestErrorCode
from wsplugin.recording.transcript import (
    Continue,
    Die,
    Elapsed,
    EndOfStdin,
    Late,
    LineIn,
    LineOut,
    LinesOut,
    Mismatch,
    ScriptLine,
    Server,
    Signal,
    Split,
    Transcript,
    TranscriptError,
    difference,
    example,
    parse,
    substitute,
    take,
)

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
TRANSCRIPTS: Mapping[str, Transcript] = {
    path.stem: parse(path.read_text(encoding="utf-8")) for path in FILES
}
PLAYABLE = [name for name, transcript in TRANSCRIPTS.items() if not transcript.has_faults]


@pytest.fixture(scope="session")
def names(authority: Authority) -> Mapping[str, str]:
    """Return what transcripts may refer to besides the ports of their servers."""
    return {"ca": authority.file}


@pytest.fixture(scope="session")
def tls(authority: Authority) -> ssl.SSLContext:
    return authority.context("localhost")


@pytest.fixture(scope="session")
def plugin_line() -> Draft202012Validator:
    printed = subprocess.run([*PLUGIN, "--schema"], check=True, capture_output=True).stdout
    schema = msgspec.json.decode(printed)
    return Draft202012Validator({"$ref": "#/$defs/PluginLine", "$defs": schema["$defs"]})


@pytest.mark.parametrize("name", PLAYABLE)
def test_transcript(
    name: str,
    names: Mapping[str, str],
    tls: ssl.SSLContext,
    plugin_line: Draft202012Validator,
) -> None:
    for line in play(TRANSCRIPTS[name], names, tls):
        plugin_line.validate(msgspec.json.decode(line))


# --- playing ----------------------------------------------------------------------------------


def play(transcript: Transcript, names: Mapping[str, str], tls: ssl.SSLContext) -> list[bytes]:
    """Play a transcript; return the lines that came out.

    Raises:
        AssertionError: something is not as the transcript says.

    """
    with ExitStack() as stack:
        servers = {
            server.name: stack.enter_context(ScriptedServer(server, tls))
            for server in transcript.servers
        }
        names = {**names, **{name: str(server.port) for name, server in servers.items()}}
        for server in servers.values():
            server.start(names)
        options = [substitute(option, names) for option in transcript.options]
        plugin = stack.enter_context(Plugin(*options, env=environment()))
        received: list[bytes] = []
        failures: list[str] = []
        try:
            for line in converse(transcript, plugin, servers, names):
                received.append(line)  # noqa: PERF402 - to be kept when it raises
        except Mismatch as exc:
            failures.append(str(exc))
        else:
            status = plugin.wait()
            if status != transcript.exit_status:
                failures.append(f"exit status {status}, expected {transcript.exit_status}")
            # A wrong option is explained there, and nothing else is.
            if bool(plugin.stderr) != (status == 2):
                failures.append(f"stderr: {plugin.stderr.decode()}")
            for server in servers.values():
                server.finish()
    failures += [failure for server in servers.values() for failure in server.failures]
    if failures:
        before = b"".join(received).decode()
        pytest.fail("\n".join([*failures, "Received before:", before]), pytrace=False)
    return received


def converse(
    transcript: Transcript,
    plugin: Plugin,
    servers: Mapping[str, ScriptedServer],
    names: Mapping[str, str],
) -> Iterator[bytes]:
    """Play the host's part; yield the lines that come out.

    Raises:
        Mismatch: something else comes out than the transcript says.

    """
    stdin_is_open = True
    for kind, steps in itertools.groupby(transcript.steps, type):
        if kind is LineIn:
            # All in one write, as a host that does not wait would do it.
            plugin.write(b"".join(step.data(names) for step in steps if isinstance(step, LineIn)))
            continue
        for step in steps:
            match step:
                case LinesOut():
                    yield from read(plugin, step)
                case Continue():
                    servers[step.server].go_on()
                case EndOfStdin():
                    plugin.close_stdin()
                    stdin_is_open = False
                case Signal():
                    plugin.process.send_signal(signal.Signals[step.name])
                    stdin_is_open = False  # it ends on its own
                case Elapsed():
                    pass
                case _:
                    raise AssertionError(step)
    if stdin_is_open:
        plugin.close_stdin()
    if line := read_line(plugin, "the end of stdout"):
        raise Mismatch(f"at the end: not expected, but received: {line.decode()}")


def read(plugin: Plugin, step: LinesOut) -> Iterator[bytes]:
    expected = list(step.lines)
    while expected:
        line = read_line(plugin, f"line {expected[0].number}: {expected[0].text}")
        if not line:
            raise Mismatch(
                f"line {expected[0].number}: stdout has ended\n  expected: {expected[0].text}\n"
                f"  stderr: {plugin.stderr.decode()}"
            )
        if not line.endswith(b"\n") or line.endswith(b"\r\n"):
            raise Mismatch(f"line {expected[0].number}: no LF at the end of {line!r}")
        expected.remove(take(expected, line))
        yield line


def read_line(plugin: Plugin, expected: str) -> bytes:
    try:
        return plugin.read_line()
    except queue.Empty:
        raise Mismatch(f"nothing within {TIMEOUT:g} seconds, expected {expected}") from None


CONVERSATION = """
@server chat
  accept
  expect text "hi"
  send close 1000
  expect close 1000
> {"id": 1, "action": "websocket-create", "payload": {"url": "ws://127.0.0.1:<chat>/"}}
< {"id": 1, "response": {"id": "ws-1"}}
< {"event": "websocket-event", "payload": {"id": "ws-1", "name": "open", "payload": {"<more>": ""}}}
> {"id": 2, "action": "websocket-send", "payload": {"id": "ws-1", "type": "text", "data": "hi"}}
< {"id": 2, "response": {}}
< {"event": "websocket-event", "payload": {"id": "ws-1", "name": "close", "payload": {"code": 1000, "<more>": ""}}}
@exit 0
"""  # noqa: E501


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        ('"code": 1000, "<more>": ""', '"code": 1001, "<more>": ""', "line 12: payload.payload.co"),
        ('< {"id": 2, "response": {}}\n', "", "line 11: event: missing"),
        ('< {"id": 2,', '> {"id": 3, "action": "app-background"}\n< {"id": 4,', "line 12: id: exp"),
        ("@exit 0", '@end-of-stdin\n< {"id": 3, "response": {}}', "line 14: stdout has ended"),
        ("@exit 0", "@exit 1", "exit status 0, expected 1"),
        ('"name": "open", "payload": {"<more>": ""}', '"name": "open", "payload": {}', "line 9: "),
        ('expect text "hi"', 'expect text "ho"', "line 4: expect text"),
        ("expect text", "await text", "line 4: await text"),
        ("chat\n", "chat untouched\n", "line 2: somebody has connected"),
        ("> {", "> {}\n> {", "line 9: "),
    ],
)
def test_what_differs_is_seen(
    old: str, new: str, message: str | None, names: Mapping[str, str], tls: ssl.SSLContext
) -> None:
    transcript = parse(CONVERSATION.replace(old, new, 1))
    if message is None:
        play(transcript, names, tls)
        return
    with pytest.raises(pytest.fail.Exception, match=f"(?m)^{re.escape(message)}"):
        play(transcript, names, tls)


# --- what the transcripts show ----------------------------------------------------------------

# The examples of the specification, with the fields that we add to them.
SEED_EXAMPLES = [
    {"id": "<string>", "name": "open", "payload": {"headers": {"<more>": ""}}},
    {"id": "<string>", "name": "close", "payload": {"code": 1006, "reason": "<string>"}},
    {"id": "<string>", "name": "error", "payload": {"errMsg": "<string>"}},
    {"id": "<string>", "name": "message", "payload": {"type": "text", "data": "string"}},
    {
        "id": "<string>",
        "name": "message",
        "payload": {"type": "arraybuffer", "data": [10, 0, 0, 0, 0, 0, 0, 0]},
    },
]
DESCRIPTION = "name version protocol actions limits"


def lines_out() -> Iterator[Any]:
    """Return all that comes out in one transcript or another, as values without placeholders."""
    for transcript in TRANSCRIPTS.values():
        for step in transcript.steps:
            if isinstance(step, LinesOut):
                yield from (example(line.value) for line in step.lines)


@pytest.mark.parametrize("payload", SEED_EXAMPLES, ids=lambda payload: payload["name"])
def test_example_of_the_specification_is_shown(payload: Any) -> None:
    with_more = {**payload, "payload": {**payload["payload"], "<more>": ""}}
    assert any(
        line.get("event") == "websocket-event" and difference(with_more, line["payload"]) is None
        for line in lines_out()
    )


def test_every_word_of_the_contract_is_shown() -> None:
    expected = {
        *(("response", response) for response in ("", "id", DESCRIPTION)),
        *(("request error", code) for code in get_args(RequestErrorCode)),
        *(("connection error", code) for code in get_args(ConnectionErrorCode)),
        *(("cause", cause) for cause in get_args(Cause)),
        *(("event", name) for name in ("open", "message", "error", "close")),
        *(("message", type) for type in ("text", "arraybuffer", "base64")),
    }
    shown = set()
    for line in lines_out():
        match line:
            case {"response": response}:
                shown.add(("response", " ".join(response)))
            case {"error": {"code": code}}:
                shown.add(("request error", code))
            case {"payload": {"name": name, "payload": payload}}:
                shown.add(("event", name))
                kinds = {"error": "code", "close": "cause", "message": "type"}
                words = {"error": "connection error", "close": "cause", "message": "message"}
                if name in kinds:
                    shown.add((words[name], payload[kinds[name]]))
    # No conversation brings a fault of the plugin about: test_faults.py does.
    assert expected - shown == {("connection error", "internal-error")}


def test_every_action_is_shown() -> None:
    lines = [
        step.text
        for transcript in TRANSCRIPTS.values()
        for step in transcript.steps
        if isinstance(step, LineIn)
    ]
    for action in ACTIONS:
        assert any(f'"action": "{action}"' in line for line in lines), action


def test_every_option_is_shown() -> None:
    printed = subprocess.run([*PLUGIN, "--help"], check=True, capture_output=True, text=True)
    options = set(re.findall(r"^  (--[a-z-]+)", printed.stdout, re.MULTILINE))
    assert len(options) > 10
    shown = {option for transcript in TRANSCRIPTS.values() for option in transcript.options}
    # What goes to stderr, or is no conversation, is no transcript.
    assert options - shown == {
        "--log-level",
        "--schema",
        "--version",
        "--record",
        "--record-redact-data",
    }


# --- the format -------------------------------------------------------------------------------


def test_parsing() -> None:
    transcript = parse(
        r"""
# A story.
@options --linger 5 --ca-file "a b"
@options --proxy none
@server chat tls
  accept X: 1
  # not a step
# nor this
  echo
@server quiet

# +0.5s
> {"id": 1, "url": "ws://127.0.0.1:<chat>/<other>"}
>| \x41\x0a<chat>
>
< {"id": "<1>"}
<~ 1
<~ 2

<~ 3
@continue chat
@late 2
@split
@signal SIGTERM
@end-of-stdin
@die
@exit 3
"""
    )
    assert transcript.options == ("--linger", "5", "--ca-file", "a b", "--proxy", "none")
    assert transcript.servers == (
        Server(5, "chat", "tls", (ScriptLine(6, "accept X: 1"), ScriptLine(9, "echo"))),
        Server(10, "quiet", "plain", ()),
    )
    assert transcript.steps == (
        Elapsed(12, 0.5),
        LineIn(13, '{"id": 1, "url": "ws://127.0.0.1:<chat>/<other>"}'),
        LineIn(14, r"\x41\x0a<chat>", raw=True),
        LineIn(15, ""),
        LinesOut(16, (LineOut(16, '{"id": "<1>"}', {"id": "<1>"}),)),
        LinesOut(17, (LineOut(17, "1", 1), LineOut(18, "2", 2))),
        LinesOut(20, (LineOut(20, "3", 3),)),
        Continue(21, "chat"),
        Late(22, 2.0),
        Split(23),
        Signal(24, "SIGTERM"),
        EndOfStdin(25),
        Die(26),
    )
    assert transcript.exit_status == 3
    assert transcript.has_faults
    assert [step.data({"chat": "80"}) for step in transcript.steps if isinstance(step, LineIn)] == [
        b'{"id": 1, "url": "ws://127.0.0.1:80/<other>"}\n',
        b"A\n80",
        b"\n",
    ]


def test_empty_transcript() -> None:
    assert parse("\n# nothing\n") == Transcript((), (), (), 0)


def test_line_ends_of_windows() -> None:
    assert parse("> 1\r\n@exit 1\r\n") == parse("> 1\n@exit 1\n")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hello", "line 1: expected a line that begins with"),
        (">hello", "line 1: expected a line that begins with"),
        ("#hello", "line 1: expected a line that begins with"),
        ("  accept", "line 1: expected a line that begins with"),
        ("@server a\n\n  accept", "line 3: expected a line that begins with"),
        ("\n< {", "line 2: the line out is not JSON"),
        ("<~", "line 1: the line out is not JSON"),
        ("> 1\n@options --linger 5", "line 2: @options comes before everything else"),
        ("@exit 1\n@server a", "line 2: @server comes before everything else"),
        ("@options 'a", "line 1: No closing quotation"),
        ("@server", "line 1: no such directive: @server"),
        ("@server A", "line 1: a server cannot be called 'A'"),
        ("@server ca", "line 1: a server cannot be called 'ca'"),
        ("@server a\n@server a", "line 2: there is a server 'a' already"),
        ("@server a udp", "line 1: a server is tls, absent, untouched"),
        ("@server a tls absent", "line 1: a server is tls, absent, untouched"),
        ("@continue a", "line 1: there is no server 'a'"),
        ("@signal TERM", "line 1: no such directive: @signal TERM"),
        ("@exit", "line 1: no such directive: @exit"),
        ("@exit -1", "line 1: no such directive: @exit -1"),
        ("@exit 1\n> 1", "line 2: nothing can follow @exit"),
        ("@exit 1\n@exit 1", "line 2: nothing can follow @exit"),
        ("@late soon", "line 1: not a number of seconds: 'soon'"),
        ("# +1.2.3s", "line 1: not a number of seconds: '1.2.3'"),
        ("@end-of-stdin\n> 1", "line 2: a line in after the end of stdin"),
        ("@end-of-stdin now", "line 1: no such directive: @end-of-stdin now"),
        ("@jump", "line 1: no such directive: @jump"),
    ],
)
def test_no_transcript(text: str, error: str) -> None:
    with pytest.raises(TranscriptError, match="^" + re.escape(error)):
        parse(text)


@pytest.mark.parametrize(
    ("expected", "received", "found"),
    [
        ({"a": 1, "b": [1, None]}, {"b": [1, None], "a": 1}, None),
        ({"a": 1}, {"a": 2}, "a: expected 1, not 2"),
        ({"a": {"b": [0, 1]}}, {"a": {"b": [0, 2]}}, "a.b[1]: expected 1, not 2"),
        ({"a": 1}, {}, "a: missing, expected 1"),
        ({}, {"a": 1}, "a: not expected, but is 1"),
        ({"a": {}}, {"a": {"b": 1}}, "a.b: not expected, but is 1"),
        ({"<more>": ""}, {"a": 1}, None),
        ({"a": 1, "<more>": ""}, {"b": 1}, "a: missing, expected 1"),
        ([1], [1, 2], "the line: expected [1], not [1,2]"),
        # Python's equality is not JSON's.
        (1, True, "the line: expected 1, not true"),
        (True, 1, "the line: expected true, not 1"),
        (1, 1.0, "the line: expected 1, not 1.0"),
        (None, 0, "the line: expected null, not 0"),
        (0, False, "the line: expected 0, not false"),
        ({}, [], "the line: expected {}, not []"),
        ("1", 1, 'the line: expected "1", not 1'),
        # Placeholders.
        ("<text>", "anything", None),
        ("<text>", "", None),
        ("<text>", "two\nlines", None),
        ("<text>", 1, 'the line: expected "<text>", not 1'),
        ("a: <b> (--c)", "a: x (--c)", None),
        ("a: <b> (--c)", "a: x (--d)", 'the line: expected "a: <b> (--c)", not "a: x (--d)"'),
        ("a.<b>", "aXb", 'the line: expected "a.<b>", not "aXb"'),
        ("ws://h:<chat>/", "ws://h:80/", None),
        ("<=<b>bold</b>>", "<b>bold</b>", None),
        ("<=<b>bold</b>>", "<i>bold</i>", 'the line: expected "<=<b>bold</b>>", not'),
        ("1 < 2", "1 < 2", None),
        ("<>", "<>", None),
    ],
)
def test_difference(expected: Any, received: Any, found: str | None) -> None:
    if found is None:
        assert difference(expected, received) is None
    else:
        assert (difference(expected, received) or "").startswith(found)


def test_example_matches_what_it_is_an_example_of() -> None:
    for transcript in TRANSCRIPTS.values():
        for step in transcript.steps:
            if isinstance(step, LinesOut):
                for line in step.lines:
                    assert difference(line.value, example(line.value)) is None
    assert example({"a": ["<b>", "<=<c>>", "d: <e>"], "<more>": "", "f": 1}) == {
        "a": ["b", "<c>", "d: e"],
        "f": 1,
    }


def group(*values: Any) -> list[LineOut]:
    texts = [msgspec.json.encode(value).decode() for value in values]
    return [LineOut(number, text, msgspec.json.decode(text)) for number, text in enumerate(texts)]


def event(id: str, name: str) -> Any:
    return {"event": "websocket-event", "payload": {"id": id, "name": name, "payload": {}}}


def test_lines_in_any_order() -> None:
    lines = group(event("ws-1", "error"), event("ws-1", "close"), {"id": 1}, event("ws-2", "close"))
    for number in (3, 2, 0):
        assert take(lines, lines[number].text.encode() + b"\n") is lines[number]
    with pytest.raises(Mismatch, match=r'^line 0: payload.name: expected "error", not "close"\n'):
        take(lines, lines[1].text.encode())
    with pytest.raises(Mismatch, match=r"^line 0: "):
        take(lines, b'{"id":2}\n')


def test_mismatch_shows_both_lines() -> None:
    with pytest.raises(Mismatch) as caught:
        take(group({"id": 1}), b'{"id":2}\n')
    assert str(caught.value) == (
        'line 0: id: expected 1, not 2\n  expected: {"id":1}\n  received: {"id":2}'
    )
    with pytest.raises(Mismatch, match=r"^line 0: not JSON"):
        take(group({"id": 1}), b"Traceback\n")
