"""``wsplugin certify``: a host that keeps its promises passes, and each that breaks one is caught.

The hosts that break one are the same host with a line of it changed.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from harness import PLUGIN, TIMEOUT, Plugin
from wsplugin.certify.fake import description
from wsplugin.certify.running import SITUATIONS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the kit needs a POSIX system")

HERE = Path(__file__).parent
HOST = HERE / "certified_host.py"
CERTIFY = [*PLUGIN, "certify"]
# Some that need no time, and in which a host with one fault is to go on.
OTHERS = {"binary-both-ways", "create-refused", "restart-after-stop"}


def certify(
    *options: str, host: Sequence[str] | None = None, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Certify a host; return what came of it."""
    command = [*CERTIFY, *options, "--", *(host or [sys.executable, str(HOST)])]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=9 * TIMEOUT,
        env=os.environ | (environment or {}),
        check=False,
    )


def verdicts(stdout: str) -> dict[str, Any]:
    """Return the lines of a report by the situation; the summary by an empty name."""
    return {line.get("situation", ""): line for line in map(json.loads, stdout.splitlines())}


@pytest.mark.slow
def test_a_host_that_keeps_its_promises_passes() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = certify("--json", environment={"TMPDIR": folder})
        left = [*Path(folder).iterdir()]
    found = verdicts(result.stdout)
    summary = found.pop("")
    assert [line for line in found.values() if line["result"] != "passed"] == []
    assert found.keys() == SITUATIONS.keys()
    assert summary["passed"] == len(SITUATIONS) >= 40
    assert summary["seconds"] <= 120
    assert (result.returncode, result.stderr, left) == (0, "", [])


def test_the_stand_in_says_of_itself_what_the_plugin_does() -> None:
    with Plugin() as plugin:
        assert plugin.request("plugin-describe")["response"] == description()


# --- hosts that break a promise -----------------------------------------------------------------

WAIT_OR_KILL = """\
            status = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
"""
WAIT = """\
            status = self.process.wait()
        finally:
            pass
"""
WAIT_FOR_WRITER = """\
        while not self.outgoing.empty():
            time.sleep(0.01)
"""
# What is replaced in the host, what by, and the situation that shows it.
MUTANTS: dict[str, tuple[str, str, str]] = {
    "no parent": ('"--parent-pid", str(os.getpid()), ', "", "options-appended"),
    "any time to end": (', "--exit-timeout=1.5"]', "]", "options-appended"),
    "any protocol": (' and described["protocol"] == 1', "", "protocol-2"),
    "any name": ('described["name"] == "wsplugin"', "True", "other-name"),
    "any time to start": (".result(GRACE)", ".result(60)", "command-silent"),
    "leaves what is no plugin": (
        "        self.process.kill()\n        self.over.wait()\n",
        "        self.ended = why\n",
        "command-silent",
    ),
    "no words for 1.0": ("returncode == 2", "returncode == 99", "plugin-of-1-0"),
    "no command": ("except OSError as exc:", "except KeyError as exc:", "command-missing"),
    "no last words": (": {self.errors}", "", "last-words"),
    "id last": (
        '{"id": id, "action": action, "payload": payload} | more',
        '{"action": action, "payload": payload, "id": id} | more',
        "id-first",
    ),
    "no app": ('{"app": call["app"]} if "app" in call else {}', "{}", "background"),
    "no host headers": ('"hostHeaders" in call', "False", "create-with-everything"),
    "none for zero": (
        "if key in call}\n        if",
        "if call.get(key)}\n        if",
        "close-at-once",
    ),
    "unknown field": ("payload | given)", 'payload | given | {"x": 1})', "ping"),
    "no round trip": ('("rtt", "status")', '("status",)', "ping"),
    "dies of a text": (
        "(Ended, ValueError, LookupError)",
        "(Ended, KeyError)",
        "not-to-be-encoded",
    ),
    "reads text by reads": (
        "*ends, rest = chunk.split",
        '*ends, rest = chunk.decode(errors="replace").encode().split',
        "split-characters",
    ),
    "a read is a line": (
        "parts.append(rest)",
        "self.take(json.loads(rest)) if rest else None",
        "split-characters",
    ),
    "connects late": (
        "self.connections[id] = Connection(self, id, *new)",
        "threading.Timer(0.2, self.connections.update, [{id: Connection(self, id, *new)}]).start()",
        "events-with-the-answer",
    ),
    "one answer each": ('["id"], (None, None))', '["id"])', "answer-twice"),
    "knows all who ask": ('["id"], (None, None))', '["id"])', "answer-to-nobody"),
    "content in every answer": (
        'line.get("response", {}))',
        'line["response"])',
        "answer-without-content",
    ),
    "an id in every create": (
        'elif new and "id" not in',
        'elif 0 and "id" not in',
        "create-without-id",
    ),
    "knows all events": (
        'if name not in ("open", "message", "error", "close"):',
        "if False:",
        "unknown-events",
    ),
    "knows all types": ('not in ("text", "base64")', "is None", "unknown-message-type"),
    "knows all lines": ('elif "id" in line:', "else:", "lines-of-no-kind"),
    "knows all connections": (
        'self.connections.get(event["id"])',
        'self.connections[event["id"]]',
        "events-of-nobody",
    ),
    "leaves calls pending": (
        "answer.set_exception(Ended(self.ended))",
        "pass",
        "death-while-pending",
    ),
    "leaves connections open": (
        'connection.take("close", FAILURE',
        'connection.take("lost", FAILURE',
        "death-while-idle",
    ),
    "takes half a line": (
        "        self.outgoing.put(None)\n        self.finish(why)",
        '        self.take({"id": 3, "response": {}})\n        self.finish(why)',
        "half-a-line",
    ),
    "reader dies": (
        "except (ValueError, LookupError, TypeError, AttributeError) as exc:",
        "except ZeroDivisionError as exc:",
        "babble-amid",
    ),
    "waits for a dumb plugin": (
        f"{WAIT_OR_KILL}        self.errors_end",
        f"{WAIT}        self.errors_end",
        "stdout-closed",
    ),
    "kills at once": ("GRACE = 5.0", "GRACE = 1.0", "stop-with-a-silent-server"),
    "kills soon": ("GRACE = 5.0", "GRACE = 3.0", "stop-kills"),
    "never kills": (f"{WAIT_OR_KILL}        if not", f"{WAIT}        if not", "stop-kills"),
    "waits for whoever holds stdout": (
        "if not self.over.wait(1):",
        "if not self.over.wait():",
        "stop-with-a-grandchild",
    ),
    "waits for the dead's stdout": (
        "if not self.over.wait(1):",
        "if not self.over.wait():",
        "death-with-a-grandchild",
    ),
    "leaves pending at its stop": (
        "if not self.over.wait(1):",
        "if False:",
        "death-with-a-grandchild",
    ),
    "reads no stderr": (
        "while chunk := self.process.stderr.read(65_536):",
        "if chunk := self.process.stderr.read(65_536):",
        "stderr-flooded",
    ),
    "waits for its stderr": ("self.errors_end.join(1)", "self.errors_end.join()", "stderr-blocked"),
    "dies with its stderr": (
        "    demo = Demo()\n",
        "    import signal\n    signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n    demo = Demo()\n",
        "stderr-broken",
    ),
    "reads when it has written": (
        '        if line.get("event")',
        f'{WAIT_FOR_WRITER}        if line.get("event")',
        "stdin-unread",
    ),
    "stops when it has written": (
        "        self.outgoing.put(None)\n        try:",
        f"{WAIT_FOR_WRITER}        try:",
        "stdin-unread-at-stop",
    ),
    "never full": ("self.size >= FULL or len(self.events) >= MANY", "False", "pause-when-full"),
    "takes the flood": (
        "self.size >= FULL or len(self.events) >= MANY",
        "False",
        "flood-held-back",
    ),
    "counts no messages": (" or len(self.events) >= MANY", "", "pause-at-many-messages"),
    "resumes at once": ("self.size <= FULL // 2", "True", "pause-when-full"),
    "resumes when empty": ("self.size <= FULL // 2", "self.size == 0", "pause-when-full"),
    "never resumes": ('self.ask("websocket-resume")', "pass", "pause-at-many-messages"),
    "resumes for the app": ("if not self.held and not", "if not", "pause-of-the-app-wins"),
    "asks for what is unknown": (' and "pause" in self.host.features', "", "pause-unknown"),
    "drops at the close": (
        '            self.closed |= name == "close"\n',
        (
            '            self.closed |= name == "close"\n'
            '            while name == "close" and len(self.events) > 1:\n'
            "                self.events.popleft()\n"
        ),
        "close-behind-a-queue",
    ),
    "all wait for one": (
        "            time.sleep(self.delay",
        "            with PRINTING:\n                time.sleep(self.delay",
        "slow-listener-alone",
    ),
    "one host for ever": (
        "self.host = Host()",
        'self.host = getattr(self, "host", None) or Host()',
        "restart-after-death",
    ),
    "keeps the plugin": (
        "        demo.host.stop()\n",
        "        time.sleep(90)\n",
        "end-of-the-app",
    ),
}
# Which of the others cannot be played to such a host.
UNPLAYABLE = {
    "connects late": OTHERS,
    "takes half a line": OTHERS,
    "stops when it has written": OTHERS,
    "one host for ever": {"restart-after-stop"},
    "keeps the plugin": OTHERS,
}


def is_slow(name: str) -> bool:
    """Tell whether it takes many seconds to find out."""
    return SITUATIONS[MUTANTS[name][2]].seconds >= 4 or "stdout" in name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * is_slow(name)) for name in MUTANTS]
)
def test_a_broken_promise_is_found(name: str, tmp_path: Path) -> None:
    old, new, situation = MUTANTS[name]
    source = HOST.read_text(encoding="utf-8")
    assert old in source
    mutant = tmp_path / "mutant.py"
    mutant.write_text(source.replace(old, new), encoding="utf-8")
    names = {situation, *OTHERS} - UNPLAYABLE.get(name, set())
    only = [option for name in names for option in ("--only", name)]
    result = certify("--json", "--patience", "3", *only, host=[sys.executable, str(mutant)])
    found = verdicts(result.stdout)
    assert result.returncode == 1, result
    failed = {name for name, line in found.items() if line.get("result") == "failed"}
    assert failed == {situation}, result.stdout
    assert found[situation]["expected"]
    assert found[situation]["came"]


# --- the report ---------------------------------------------------------------------------------

BROKEN = ("--only", "ping", "--only", "send-refused")
"""Of these two the first fails with the host below, and the second does not."""


@pytest.fixture
def host_without_rtt(tmp_path: Path) -> list[str]:
    """Return the command of a host that breaks one promise."""
    old, new, _ = MUTANTS["no round trip"]
    path = tmp_path / "host.py"
    path.write_text(HOST.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return [sys.executable, str(path)]


def test_the_report_says_what_was_expected_and_what_came(host_without_rtt: list[str]) -> None:
    result = certify(*BROKEN, host=host_without_rtt)
    assert result.returncode == 1
    lines = sorted(result.stdout.splitlines())
    assert re.fullmatch("    A ping .*", lines[0])
    assert re.fullmatch(r"1 passed, 1 failed, 0 expected failures, 0 skipped in [\d.]+ s", lines[1])
    assert re.fullmatch("ping: FAILED: expected an rtt of 12.5 ms, came Done.*", lines[2])
    assert lines[3] == "send-refused: passed"


@pytest.mark.parametrize(
    ("names", "status", "results"),
    [
        ("ping\n", 0, {"ping": "expected-failure", "send-refused": "passed"}),
        ("# none\n\n", 1, {"ping": "failed", "send-refused": "passed"}),
        (
            "ping # later\nsend-refused\n",
            1,
            {"ping": "expected-failure", "send-refused": "unexpected-pass"},
        ),
    ],
)
def test_failures_can_be_expected(
    host_without_rtt: list[str], tmp_path: Path, names: str, status: int, results: dict[str, str]
) -> None:
    file = tmp_path / "expected"
    file.write_text(names, encoding="utf-8")
    options = ("--json", "--expected-failures", str(file))
    result = certify(*options, *BROKEN, host=host_without_rtt)
    found = verdicts(result.stdout)
    summary = found.pop("")
    assert {name: line["result"] for name, line in found.items()} == results
    assert summary["expected-failures"] == [*results.values()].count("expected-failure")
    assert result.returncode == status


def test_what_a_socket_pair_cannot_show_is_skipped() -> None:
    result = certify("--socket-pair", "--only", "command-exits")
    assert result.stdout.splitlines()[0] == (
        "command-exits: skipped: over a socket pair there is no process"
    )
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("host", "came"),
    [
        (["echo", "hello"], "hello"),
        (["echo", '{"id": 0, "outcome": "fine"}'], "fine"),
        (["sh", "-c", "echo the last words >&2; exit 3"], "its end with status 3: the last words"),
    ],
)
def test_what_is_no_demo_fails(host: list[str], came: str) -> None:
    result = certify("--json", "--only", "ping", host=host)
    verdict = verdicts(result.stdout)["ping"]
    assert verdict["result"] == "failed"
    assert came in verdict["came"]
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the host's command is missing"),
        (["--only", "nap", "--", "true"], "there is no situation 'nap'"),
        (
            ["--expected-failures", "/none/at/all", "--", "true"],
            "cannot read /none/at/all: No such",
        ),
        (["--", "/none/at/all"], "/none/at/all: No such file or directory"),
        (["--patience", "x", "--", "true"], "invalid float value"),
    ],
)
def test_what_is_wrong_is_told_with_status_2(arguments: list[str], words: str) -> None:
    result = subprocess.run(
        [*CERTIFY, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # It starts the stand-in as a host does, tells who is there, and does nothing further.
    host = f'"$WSPLUGIN" <&3 & echo $$ $! > {fifo}; exec sleep 300'
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = [*CERTIFY, "--only", "ping", "--", "sh", "-c", f"exec 3<&0; {host}"]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(folder)}) as kit:
        pids = [int(pid) for pid in fifo.read_text().split()]
        assert len([*folder.iterdir()]) == 1
        kit.send_signal(number)
        assert kit.wait(TIMEOUT) == 1
    assert [*folder.iterdir()] == []
    for pid in pids:
        # Of the stand-in nobody may have taken the status yet.
        status = Path(f"/proc/{pid}/stat")
        assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


# --- the schema ---------------------------------------------------------------------------------


def test_every_line_is_as_the_schema_says(tmp_path: Path) -> None:
    printed = subprocess.run([*CERTIFY, "--schema"], check=True, capture_output=True).stdout
    schema = json.loads(printed)
    Draft202012Validator.check_schema(schema)
    script, output = tmp_path / "script", tmp_path / "output"
    python = f"{shlex.quote(sys.executable)} {shlex.quote(str(HOST))}"
    host = ["sh", "-c", f"tee -a {script} | {python} | tee -a {output}"]
    situations = (
        *("create-with-everything", "close-with-everything", "binary-both-ways", "background"),
        *("pause-by-the-app", "ping", "opening-fails", "not-to-be-encoded", "death-while-idle"),
        *("restart-after-stop", "text-as-it-is", "command-missing"),
    )
    only = [option for name in situations for option in ("--only", name)]
    report = certify("--json", *only, host=host)
    assert report.returncode == 0, report.stdout
    texts = {
        "ScriptLine": script.read_text(encoding="utf-8"),
        "PrintedLine": output.read_text(encoding="utf-8"),
        "ReportLine": report.stdout,
    }
    kinds = set()
    for name, text in texts.items():
        validator = Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]})
        for line in map(json.loads, filter(None, text.split("\n"))):
            validator.validate(line)
            kinds |= {line.get("call"), line.get("outcome"), line.get("event"), line.get("result")}
    assert kinds - {None} == {
        *("create", "send", "close", "pause", "resume", "ping", "background", "stop", "start"),
        *("ok", "refused", "ended", "invalid"),
        *("open", "message", "error", "close"),
        "passed",
    }


# --- the page -----------------------------------------------------------------------------------


def test_the_page_names_every_situation_with_its_promise() -> None:
    page = (HERE.parent / "host_examples" / "certify.md").read_text(encoding="utf-8")
    table = page.partition("## The situations")[2]
    rows = re.findall(r"^\| `([a-z0-9-]+)`(\*?) \| (.+) \|$", table, re.MULTILINE)
    assert rows == [
        (name, "*" * situation.process, situation.promise) for name, situation in SITUATIONS.items()
    ]
