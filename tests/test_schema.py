"""``--schema`` and the golden transcripts agree on every line in both directions.

That the lines of the real plugin are valid is seen where the transcripts are played.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from harness import PLUGIN
from wsplugin.recording.placeholders import example, substitute
from wsplugin.recording.transcript import LineIn, LinesOut, Transcript, parse

TRANSCRIPTS = {
    path.stem: parse(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
}

# What the line itself is refused for, whatever the state of things.
REFUSED = {"invalid-request", "unknown-action", "invalid-payload"}
# What is wrong there is more than a JSON Schema can say, or can say so that it can be read.
BEYOND = {
    *("invalid-payload-beyond-schema", "invalid-payload-reserved-headers"),
    *("invalid-payload-close", "host-headers"),
}


@pytest.fixture(scope="module")
def schema() -> Any:
    printed = subprocess.run([*PLUGIN, "--schema"], check=True, capture_output=True)
    assert printed.stderr == b""
    return msgspec.json.decode(printed.stdout)


@pytest.fixture(scope="module")
def host_line(schema: Any) -> Draft202012Validator:
    return Draft202012Validator({"$ref": "#/$defs/HostLine", "$defs": schema["$defs"]})


@pytest.fixture(scope="module")
def plugin_line(schema: Any) -> Draft202012Validator:
    return Draft202012Validator({"$ref": "#/$defs/PluginLine", "$defs": schema["$defs"]})


def requests(transcript: Transcript) -> Iterator[tuple[LineIn, str | None]]:
    """Return each line in that is JSON with the code of the error that answers it, if one does."""
    for position, step in enumerate(transcript.steps):
        if not isinstance(step, LineIn) or step.raw or not step.text:
            continue
        rest = transcript.steps[position + 1 :]
        answers = [
            line.value
            for out in rest
            if isinstance(out, LinesOut)
            for line in out.lines
            if "event" not in line.value
        ]
        try:
            request = msgspec.json.decode(step.text)
        except msgspec.DecodeError:
            continue
        id = request.get("id") if isinstance(request, dict) else None
        answer = None if id is None else next((a for a in answers if a["id"] == id), None)
        if answer is None and isinstance(rest[0], LinesOut):
            # Without an id that can be one, an error right below is the answer.
            first = rest[0].lines[0].value
            answer = first if "error" in first and first["id"] is None else None
        yield step, answer["error"]["code"] if answer and "error" in answer else None


def test_schema_is_valid(schema: Any) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


def test_every_definition_is_described_and_used(schema: Any) -> None:
    used = set()

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            used.add(value.get("$ref"))
            for member in value.values():
                visit(member)
        elif isinstance(value, list):
            for element in value:
                visit(element)

    visit(schema)
    for name, definition in schema["$defs"].items():
        assert f"#/$defs/{name}" in used
        if name not in ("HostLine", "PluginLine"):
            assert definition["description"]


def test_requests_take_no_fields_beyond_theirs(schema: Any) -> None:
    """What the plugin says may grow; what it is told is checked to the letter."""
    todo = [schema["$defs"]["HostLine"]]
    seen = []
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        if not isinstance(value, dict):
            continue
        if value.get("type") == "object" and "properties" in value:
            assert value["additionalProperties"] is False, value["title"]
        reference = value.get("$ref")
        if reference and reference not in seen:
            seen.append(reference)
            todo.append(schema["$defs"][reference.rpartition("/")[2]])
        todo += value.values()
    assert len(seen) >= 10


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_lines_of_a_transcript(
    name: str, host_line: Draft202012Validator, plugin_line: Draft202012Validator
) -> None:
    transcript = TRANSCRIPTS[name]
    ports = {server.name: "8080" for server in transcript.servers}
    for step, code in requests(transcript):
        if code == "line-too-long":
            continue
        request = msgspec.json.decode(substitute(step.text, ports))
        if code not in REFUSED:
            host_line.validate(request)
        elif name not in BEYOND:
            assert not host_line.is_valid(request), step.text
    for out in transcript.steps:
        if isinstance(out, LinesOut):
            for line in out.lines:
                # Where not all members are written there is nothing to validate.
                if '"<more>"' not in line.text or '"open"' in line.text:
                    plugin_line.validate(example(line.value))


def test_it_is_the_same_on_every_python(schema: Any) -> None:
    """From 3.13 on docstrings come without their indentation."""
    assert "\\n\\n" in json.dumps(schema)
    assert "\\n " not in json.dumps(schema)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "ws://h/" + "x" * 8185),
        ("headers", {f"X-{i}": "" for i in range(256)}),
        ("protocols", [f"v{i}" for i in range(64)]),
    ],
)
def test_bounds_of_a_create_are_told(
    field: str, value: Any, host_line: Draft202012Validator
) -> None:
    request = {"action": "websocket-create", "payload": {"url": "ws://h/", field: value}}
    assert host_line.is_valid(request)
    match value:
        case str():
            value += "x"
        case dict():
            value["X"] = ""
        case list():
            value.append("v")
    request = {"action": "websocket-create", "payload": {"url": "ws://h/", field: value}}
    assert not host_line.is_valid(request)


CLOSE: dict[str, Any] = {
    "event": "websocket-event",
    "payload": {
        "id": "ws-1",
        "name": "close",
        "payload": {"code": 1000, "reason": "", "cause": "host"},
    },
}


@pytest.mark.parametrize(
    ("line", "valid"),
    [
        (CLOSE, True),
        ({**CLOSE, "event": "window-event"}, False),
        ({"event": "websocket-event"}, False),
        ({"event": "websocket-event", "payload": {**CLOSE["payload"], "name": "end"}}, False),
        ({"event": "websocket-event", "payload": {**CLOSE["payload"], "name": "message"}}, False),
        ({"event": "websocket-event", "payload": {**CLOSE["payload"], "payload": {}}}, False),
        ({"id": 1, "response": {}}, True),
        ({"id": 1, "response": {"id": "ws-1"}}, True),
        ({"id": 1, "response": {"id": 1}}, False),
        ({"id": 1, "response": None}, False),
        ({"id": 1.5, "response": {}}, False),
        # A request without an id gets no answer when it succeeds.
        ({"id": None, "response": {}}, False),
        ({"response": {}}, False),
        ({"id": None, "error": {"code": "invalid-json", "errMsg": ""}}, True),
        ({"error": {"code": "invalid-json", "errMsg": ""}}, False),
        ({"id": 1, "error": {"code": "network-error", "errMsg": ""}}, False),
        ({"id": 1, "error": {"code": "invalid-json"}}, False),
        ({"id": 1}, False),
        ({}, False),
        ([], False),
    ],
)
def test_plugin_lines(line: Any, valid: bool, plugin_line: Draft202012Validator) -> None:
    assert plugin_line.is_valid(line) is valid
