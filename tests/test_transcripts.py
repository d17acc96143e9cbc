"""Every golden transcript, played by the real process over real pipes against real servers."""

import itertools
import queue
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from jsonschema import Draft202012Validator

from harness import PLUGIN, TIMEOUT, Plugin, environment
from scripted_server import ScriptedServer
from systems import not_under_wine, posix_only
from tls_servers import Authority
from wsplugin.messages import ACTIONS, Cause, ConnectionErrorCode, RequestErrorCode
from wsplugin.recording.placeholders import difference, example, substitute
from wsplugin.recording.transcript import (
    Continue,
    Elapsed,
    EndOfStdin,
    LineIn,
    LinesOut,
    Mismatch,
    Signal,
    Transcript,
    parse,
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
    return {"ca": authority.file, "client": authority.client_cert()}


@pytest.fixture(scope="session")
def tls(authority: Authority) -> ssl.SSLContext:
    return authority.context("localhost")


@pytest.fixture(scope="session")
def plugin_line() -> Draft202012Validator:
    printed = subprocess.run([*PLUGIN, "--schema"], check=True, capture_output=True).stdout
    schema = msgspec.json.decode(printed)
    return Draft202012Validator({"$ref": "#/$defs/PluginLine", "$defs": schema["$defs"]})


def needs(transcript: Transcript) -> list[pytest.MarkDecorator]:
    """Return what a transcript needs of the system."""
    if any(isinstance(step, Signal) for step in transcript.steps):
        return [posix_only("it sends a signal")]
    if "--parent-pid" in transcript.options:
        return [not_under_wine("it does not know the system's processes")]
    return []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(TRANSCRIPTS[name])) for name in PLAYABLE]
)
def test_transcript(
    name: str,
    names: Mapping[str, str],
    tls: ssl.SSLContext,
    plugin_line: Draft202012Validator,
) -> None:
    for line in play(TRANSCRIPTS[name], names, tls):
        plugin_line.validate(msgspec.json.decode(line))


# --- those of release 1.0 ------------------------------------------------------------------------

RELEASE_1_0 = Path(__file__).parent / "release_1_0"
SCHEMA_1_0 = msgspec.json.decode((RELEASE_1_0 / "schema.json").read_bytes())
TRANSCRIPTS_1_0 = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((RELEASE_1_0 / "transcripts").glob("*.txt"))
}
# What 1.1 lifts: how the lines begin that are left out of a transcript, and why.
LIFTED = {
    "describe": (['{"id": "who"'], "the lists of a description grow"),
    "invalid-payload": (['{"id": 7,'], "an optional field may be null"),
    "invalid-payload-close": (['{"id": 3,'], "1005 stands for a Close frame without a code"),
    "line-too-long": (
        ['{"action": "app-background", "id": 2,', '{"id": null,'],
        "the id of a line that is too long is found behind other members",
    ),
}


# One of them tells that the package is missing.
WITHOUT_SOCKS = (
    sys.executable,
    "-c",
    "import sys; sys.modules['python_socks'] = None; from wsplugin.cli import main; main()",
)


def without(text: str, beginnings: list[str]) -> str:
    """Leave lines out of a transcript."""
    return "".join(
        line
        for line in text.splitlines(keepends=True)
        if not any(line[2:].startswith(beginning) for beginning in beginnings)
    )


def known_to_1_0(value: Any, schemas: list[Any]) -> Any:
    """Leave out of a line from the plugin the members that 1.0 did not have at their place."""
    alternatives: list[Any] = []
    for schema in schemas:
        name = schema.get("$ref", "").rpartition("/")[2]
        resolved = SCHEMA_1_0["$defs"][name] if name else schema
        alternatives += resolved.get("anyOf", [resolved])
    if any("$ref" in schema or "anyOf" in schema for schema in alternatives):
        return known_to_1_0(value, alternatives)
    if isinstance(value, list):
        return [
            known_to_1_0(each, [schema["items"] for schema in alternatives if "items" in schema])
            for each in value
        ]
    objects = [schema for schema in alternatives if "properties" in schema]
    if not isinstance(value, dict) or not objects:
        return value
    places: dict[str, list[Any]] = {}
    for schema in objects:
        for name, place in schema["properties"].items():
            places.setdefault(name, []).append(place)
    return {n: known_to_1_0(each, places[n]) for n, each in value.items() if n in places}


@pytest.mark.parametrize("name", TRANSCRIPTS_1_0)
def test_transcript_of_release_1_0(
    name: str, names: Mapping[str, str], tls: ssl.SSLContext
) -> None:
    """A host written for 1.0 finds all that it knew, where it was."""
    transcript = parse(without(TRANSCRIPTS_1_0[name], LIFTED.get(name, ([], ""))[0]))
    if transcript.has_faults:
        pytest.skip("for those who stand in for the plugin")
    line_of_1_0 = [{"$ref": "#/$defs/PluginLine"}]

    def see(line: bytes) -> bytes:
        return msgspec.json.encode(known_to_1_0(msgspec.json.decode(line), line_of_1_0)) + b"\n"

    play(transcript, names, tls, see, WITHOUT_SOCKS)


def test_what_1_0_had_is_compared() -> None:
    """Members that are new are passed over wherever they stand, and all others kept."""
    facts: dict[str, Any] = {"headers": {"x-new": "1"}}
    event: dict[str, Any] = {"id": "ws-1", "name": "open"}
    old: dict[str, Any] = {"event": "websocket-event", "payload": {**event, "payload": facts}}
    new = {
        **old,
        "app": "shop",
        "payload": {**event, "payload": {**facts, "protocol": "v1"}, "new": [1]},
    }
    assert known_to_1_0(new, [{"$ref": "#/$defs/PluginLine"}]) == old


# --- playing ----------------------------------------------------------------------------------


def play(
    transcript: Transcript,
    names: Mapping[str, str],
    tls: ssl.SSLContext,
    see: Callable[[bytes], bytes] = lambda line: line,
    command: Sequence[str] = tuple(PLUGIN),
) -> list[bytes]:
    """Play a transcript; return the lines that came out, as `see` makes of them what is compared.

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
        plugin = stack.enter_context(Plugin(*options, env=environment(), command=command))
        received: list[bytes] = []
        failures: list[str] = []
        try:
            for line in converse(transcript, plugin, servers, names, see):
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
    see: Callable[[bytes], bytes] = lambda line: line,
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
                    yield from read(plugin, step, see)
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


def read(plugin: Plugin, step: LinesOut, see: Callable[[bytes], bytes]) -> Iterator[bytes]:
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
        expected.remove(take(expected, see(line)))
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
DESCRIPTION = "name version protocol actions features limits"


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
