"""The host examples against the real plugin and against plugins that fail."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demos import DEMOS, EXAMPLES, TEE, Demo, build, missing
from harness import PLUGIN, TIMEOUT, Plugin, echo_server
from host_lines import create, done, send
from wsplugin.recording import transcript
from wsplugin.recording.placeholders import difference
from wsplugin.schema import schema_text

posix = pytest.mark.skipif(os.name != "posix", reason="the commands are those of a POSIX shell")
pytestmark = posix

STORY = """\
open
text: Grüße 👋
binary: 00 01 7f 80 ff
close: 1000 done (host)
refused: not-open
exit status: 0
"""


def event(name: str, **payload: Any) -> Any:
    """Return an event of the only connection."""
    payload = {"id": "ws-1", "name": name, "payload": payload}
    return {"event": "websocket-event", "payload": payload}


KILLED = "was killed by signal 9|ended with status (137|-9)"
CREATED = [{"id": 2, "response": {"id": "ws-1"}}, event("open", headers={})]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Return a folder whose name needs quotes in a shell."""
    with tempfile.TemporaryDirectory(prefix="host examples ") as name:
        yield Path(name)


@pytest.fixture(scope="module", params=DEMOS)
def demo(request: pytest.FixtureRequest, folder: Path) -> Demo:
    """Return each of the demos, built."""
    return build(request.param, folder)


# --- the story --------------------------------------------------------------------------------


def test_every_demo_tells_the_same_story_in_the_same_lines(demo: Demo) -> None:
    record = demo.folder / "record.txt"
    with echo_server() as server:
        tee = [sys.executable, "-c", TEE, str(record), *PLUGIN]
        tee = ["record", str(record)] if demo.embedded else tee
        assert demo.run(server.url, tee) == (STORY, "", 0)
        names = {"echo": str(server.port)}
    scenario = transcript.parse((EXAMPLES / "scenario.txt").read_text(encoding="utf-8"))
    lines = record.read_bytes().splitlines(keepends=True)
    for step in scenario.steps:
        line = lines.pop(0)
        match step:
            case transcript.LineIn():
                assert line.startswith(b"> "), line
                expected = json.loads(step.data(names))
                assert difference(expected, json.loads(line[2:])) is None, line
            case transcript.LinesOut():
                assert line.startswith(b"< "), line
                transcript.take(step.lines, line[2:])
            case transcript.EndOfStdin():
                assert line == b"@end-of-stdin\n"
            case _:
                raise AssertionError(step)
    assert lines == [b"@exit %d\n" % scenario.exit_status]


def test_a_line_of_tens_of_megabytes(demo: Demo) -> None:
    text = "ü👋" * 3_500_000  # 21 MB of UTF-8
    answers = [
        CREATED,
        [done(3), event("message", type="text", data=text)],
        [done(4), event("message", type="base64", data="AA==")],
        [
            done(5),
            event("error", code="network-error", errMsg="gone"),
            event("close", code=1006, reason="gone", cause="failure"),
        ],
        [{"id": 6, "error": {"code": "not-open", "errMsg": "closed"}}],
    ]
    stdout, stderr, status = demo.run_with(answers, "end")
    assert stdout.splitlines() == [
        "open",
        f"text: {text}",
        "binary: 00",
        "error: network-error: gone",
        "close: 1006 gone (failure)",
        "refused: not-open",
        "exit status: 0",
    ]
    assert (stderr, status) == ("", 0)


# --- a plugin that fails ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "then", "why"),
    [
        ([], "fail", "ended with status 1: the last words of a plugin"),
        ([], "die", KILLED),
        ([CREATED], "die", KILLED),
        ([CREATED], "babble", "wrote what is no line of its protocol"),
    ],
)
def test_every_pending_call_fails_when_the_plugin_ends(
    demo: Demo, answers: Any, then: str, why: str
) -> None:
    stdout, stderr, status = demo.run_with(answers, then)
    assert re.search(f"^PluginEnded: the plugin ({why})", stderr, re.MULTILINE), stderr
    assert status == 1
    events = ["open"] * len(answers)
    # Whether there is time left to print the close event, before the call fails, may differ.
    assert stdout.splitlines()[: len(events)] == events
    for line in stdout.splitlines()[len(events) :]:
        assert re.match(f"close: 1006 the plugin ({why}).* \\(failure\\)$", line)


@pytest.mark.slow
def test_a_plugin_that_does_not_end_is_killed_after_the_grace(folder: Path) -> None:
    close = event("close", code=1000, reason="", cause="server")
    refused = {"id": 4, "error": {"code": "not-open", "errMsg": "closed"}}
    answers = [CREATED, [done(3), close], [refused]]
    found = [name for name, example in DEMOS.items() if not missing(example)]
    # A thread cannot be killed: the embedded host ends the stream, which the plugin obeys.
    demos = [demo for name in found if not (demo := build(name, folder)).embedded]
    # All at once, because each takes the five seconds of the grace.
    processes = [demo.start("ws://127.0.0.1:1/", demo.fake(answers, "stay")) for demo in demos]
    for process in processes:
        with process:
            try:
                stdout, stderr = process.communicate(timeout=TIMEOUT)
            finally:
                process.kill()
        assert re.search(r"^exit status: (-9|137)$", stdout, re.MULTILINE), (stdout, stderr)
        assert (stderr, process.returncode) == ("", 0)


# --- TypeScript -------------------------------------------------------------------------------

NODE = EXAMPLES / "node"


def test_the_types_are_those_of_the_schema() -> None:
    types = (NODE / "lines.d.ts").read_text(encoding="utf-8")
    digest = hashlib.sha256(schema_text().encode()).hexdigest()
    assert digest in types.splitlines()[1], "run: npm run types, in host_examples/node"


@pytest.mark.slow
def test_types_and_javascript_are_what_the_generators_make_of_their_sources(folder: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("not on this machine: npm")
    copy = folder / "typescript"
    shutil.copytree(NODE, copy, ignore=shutil.ignore_patterns("node_modules", "js", "lines.d.ts"))
    install = ["npm", "install", "--no-fund", "--no-audit"]
    result = subprocess.run(install, cwd=copy, capture_output=True, text=True, timeout=9 * TIMEOUT)
    if result.returncode:
        pytest.skip(f"npm cannot install: {result.stderr.strip().splitlines()[-1]}")
    lines = subprocess.run(
        ["node", "generate_lines.js"],
        cwd=copy,
        input=schema_text().encode(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=3 * TIMEOUT,
    ).stdout
    assert lines == (NODE / "lines.d.ts").read_bytes()
    (copy / "lines.d.ts").write_bytes(lines)
    # Under strict, and more: see tsconfig.json.
    assert (
        subprocess.run(
            ["npx", "tsc"], cwd=copy, stdout=subprocess.PIPE, text=True, timeout=3 * TIMEOUT
        ).stdout
        == ""
    )
    made, kept = (
        {f.name: f.read_bytes() for f in (folder / "js").iterdir()} for folder in (copy, NODE)
    )
    assert made == kept, "run: npm run build, in host_examples/node"


# --- the quickstart ---------------------------------------------------------------------------


def test_the_quickstart_shows_an_event_of_each_name() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "python" / "quickstart.py")],
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    assert (result.stderr, result.returncode) == ("", 0)
    lines = [line for line in result.stdout.splitlines() if not line.startswith("# ")]
    assert {line[:2] for line in lines} == {"> ", "< "}
    messages = [json.loads(line[2:]) for line in lines if line.startswith("< ")]
    events = [message["payload"] for message in messages if "event" in message]
    assert [(event["id"], event["name"], event["payload"].get("type")) for event in events] == [
        ("ws-1", "open", None),
        ("ws-1", "message", "text"),
        ("ws-1", "message", "base64"),
        ("ws-1", "close", None),
        ("ws-2", "error", None),
        ("ws-2", "close", None),
    ]


def test_the_echo_server_echoes_what_came_before_a_close() -> None:
    server = [sys.executable, str(EXAMPLES / "python" / "echo_server.py")]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().strip()
            with Plugin() as plugin:
                texts = [f"{number}" * 300 * (number % 3) for number in range(100)]
                sends = [send("ws-1", text, None) for text in texts]
                plugin.send(create(url, None), *sends)
                lines, status = plugin.finish()
        finally:
            process.kill()
    assert status == 0
    events = [line["payload"] for line in lines]
    assert [event["name"] for event in events] == ["open", *["message"] * 100, "close"]
    assert [event["payload"]["data"] for event in events[1:-1]] == texts
