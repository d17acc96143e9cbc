"""The C host's promises: apps of a few lines (``c/promises.c``) with plugins of a few lines.

Built once with address and undefined-behaviour sanitizers, which also see what is left in memory,
and once without, for what is measured.
"""

import contextlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from demos import EXAMPLES, SANITIZED
from harness import BINARY, PLUGIN, TIMEOUT, Peer, environment, frame

HERE = Path(__file__).parent / "c"
HOST = EXAMPLES / "c"
CC = shutil.which("cc")
JANSSON = Path("/usr/include/jansson.h")
pytestmark = pytest.mark.skipif(
    not CC or not JANSSON.exists(), reason="not on this machine: a C compiler, or libjansson-dev"
)
slow = pytest.mark.slow
FAST = "cc -std=c11 -Wall -Wextra -Wpedantic -Werror -O2"

PRELUDE = """
import json, os, signal, subprocess, sys, threading, time
def read():
    return json.loads(sys.stdin.readline() or "null")
def write(*lines):
    sys.stdout.write("".join(json.dumps(line) + "\\n" for line in lines))
    sys.stdout.flush()
def answer(response={}):
    request = read()
    write({"id": request["id"], "response": response})
    return request
def event(name, id="ws-1", **payload):
    return {"event": "websocket-event", "payload": {"id": id, "name": name, "payload": payload}}
def text(data, id="ws-1"):
    return event("message", id, type="text", data=data)
def describe(**more):
    answer({"name": "wsplugin", "protocol": 1, "features": ["pause"],
        "arguments": " ".join(sys.argv[1:]), **more})
def create(id="ws-1"):
    answer({"id": id})
    write(event("open", id, headers={}))
def to_end():
    while sys.stdin.readline():
        pass
"""


def fake(program: str) -> list[str]:
    """Return the command of a plugin that runs a program with the functions above."""
    return [sys.executable, "-S", "-c", PRELUDE + program]


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Return where the programs are built."""
    with tempfile.TemporaryDirectory(prefix="c host ") as name:
        yield Path(name)


def build(folder: Path, name: str, compiler: str, *source: str) -> str:
    """Build a program with the host; once, as the name says."""
    program = folder / name
    if not program.exists():
        sources = [str(HERE / file) for file in source]
        command = [*compiler.split(), f"-I{HOST}", *sources, str(HOST / "host.c")]
        subprocess.run([*command, "-ljansson", "-o", str(program)], check=True, timeout=6 * TIMEOUT)
    return str(program)


@pytest.fixture(scope="session")
def sanitized(folder: Path) -> str:
    """Return the program with address and undefined-behaviour sanitizers."""
    return build(folder, "sanitized", SANITIZED, "promises.c")


@pytest.fixture(scope="session", params=["sanitizers", pytest.param("valgrind", marks=slow)])
def checked(folder: Path, sanitized: str, request: pytest.FixtureRequest) -> str:
    """Return the program whose every step is looked at."""
    if request.param == "sanitizers":
        return sanitized
    if not shutil.which("valgrind"):
        pytest.skip("not on this machine: valgrind")
    program = build(folder, "plain", f"{FAST} -g", "promises.c")
    valgrind = folder / "valgrind"
    options = "--quiet --leak-check=full --errors-for-leak-kinds=all --error-exitcode=99"
    log = shlex.quote(str(folder / "valgrind.log"))
    valgrind.write_text(
        f'#!/bin/sh\nexec valgrind {options} --log-file={log} {shlex.quote(program)} "$@"\n',
        encoding="utf-8",
    )
    valgrind.chmod(0o755)
    return str(valgrind)


@pytest.fixture(scope="session")
def fast(folder: Path) -> str:
    """Return the program that is measured."""
    return build(folder, "fast", FAST, "promises.c")


def play(
    program: str, case: str, plugin: list[str], stderr: str = "", **variables: str
) -> list[str]:
    """Play a case to its end, and return the lines that it printed."""
    result = subprocess.run(
        [program, case, *plugin],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=environment(**variables),
        timeout=3 * TIMEOUT,
    )
    assert (result.stderr, result.returncode) == (stderr, 0), result.stdout
    return result.stdout.splitlines()


# --- starting ---------------------------------------------------------------------------------


UNRECOGNIZED = "wsplugin: error: unrecognized arguments: "


@pytest.mark.parametrize(
    ("program", "words", "status"),
    [
        ("describe(); to_end()", "ready", 0),
        ("describe(protocol=2)", 'no wsplugin of protocol 1, but {.*"protocol":2.*; was', -1),
        ("describe(name='other')", 'no wsplugin of protocol 1, but {"name":"other".*; was', -1),
        ("print('Hello', flush=True); to_end()", "no line of its protocol: Hello; was", -1),
        ("print('[1]', flush=True); to_end()", r"no line of its protocol: \[1\]; was", -1),
        ("sys.exit('last words')", "ended with status 1: last words; was", 1),
        ("os.kill(os.getpid(), 11)", "killed by signal 11; was", 139),
        (
            "answer(None); to_end()",
            "refused plugin-describe: the plugin answered with no.*; was",
            -1,
        ),
        (
            "read(); write({'id': 1, 'error': {'code': 'x', 'errMsg': 'not today'}}); to_end()",
            "refused plugin-describe: not today; was",
            -1,
        ),
        (
            f"sys.stderr.write('{UNRECOGNIZED}--parent-pid 1'); sys.exit(2)",
            f"ended with status 2: {UNRECOGNIZED}--parent-pid 1; was.*; this wsplugin is of 1.0",
            2,
        ),
        (
            f"sys.stderr.write('{UNRECOGNIZED}--bogus'); sys.exit(2)",
            f"ended with status 2: {UNRECOGNIZED}--bogus; was:\n",
            2,
        ),
    ],
)
def test_a_start_finds_a_plugin_or_fails_with_words(
    checked: str, program: str, words: str, status: int
) -> None:
    stderr = re.search("last words|wsplugin: error: [^']*", program)
    said = stderr[0] if stderr else ""
    said += "\n" if said == "last words" else ""
    lines = play(checked, "start", fake(program), said, START_MS="60000")
    # In the words is the command, which is the program above.
    text = re.sub(
        r"it was started as: .*?(?=; this wsplugin is of|\nstatus -?\d+\Z|\Z)",
        "was:",
        "\n".join(lines),
        flags=re.DOTALL,
    )
    assert re.search(words, text), text
    # Given up, it is killed, unless it has seen the end of its stdin before.
    assert lines[-1] in ([f"status {status}"] if status >= 0 else ["status 137", "status 0"])


def test_a_start_that_takes_too_long_is_given_up(checked: str) -> None:
    lines = play(checked, "start", ["/bin/sh", "-c", "exec sleep 60", "sh"], START_MS="200")
    words, status = lines
    assert words.startswith(
        "the plugin did not answer plugin-describe in time;"
        " it was started as: /bin/sh -c exec sleep 60 sh --parent-pid "
    )
    assert status == "status 137"


def test_calls_may_be_made_before_the_answer_and_fail_with_the_start(checked: str) -> None:
    first, second, status = play(checked, "start_with_calls", ["/bin/sh", "-c", "exit 3", "sh"])
    assert first.startswith(
        "create: plugin-ended: the plugin ended with status 3; it was started as: /bin/sh -c exit 3"
    )
    assert (second, status) == ("sent: 0 Transport endpoint is not connected", "status 3")


def test_a_command_that_does_not_exist_is_no_process(sanitized: str) -> None:
    lines = play(sanitized, "start", ["/no/such/command"], START_MS="60000")
    assert lines == ["no process: No such file or directory"]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ([], r"--parent-pid \d+ --exit-timeout 1\.5"),
        (["--parent-pid", "5"], r"--parent-pid 5 --exit-timeout 1\.5"),
        (["--exit-timeout=9"], r"--exit-timeout=9 --parent-pid \d+"),
        (["--parent-pid=5", "--exit-timeout", "9"], "--parent-pid=5 --exit-timeout 9"),
        (["--parent-pids"], r"--parent-pids --parent-pid \d+ --exit-timeout 1\.5"),
    ],
)
def test_options_are_appended_unless_the_command_names_them(
    checked: str, options: list[str], arguments: str
) -> None:
    line, status = play(checked, "arguments", [*fake("describe(); to_end()"), *options])
    assert re.fullmatch(arguments, line)
    assert status == "status 0"


def test_a_command_is_left_as_it_is_if_the_app_says_so(checked: str) -> None:
    lines = play(checked, "plain_arguments", [*fake("describe(); to_end()"), "--linger", "1"])
    assert lines == ["--linger 1", "pause 1, nonsense 0", "status 0"]


# --- requests ---------------------------------------------------------------------------------


def test_what_cannot_be_encoded_is_refused_at_once_and_nuls_pass(checked: str) -> None:
    program = """
describe(); create()
sent = answer()
assert sent["payload"]["data"] == "a\\0b\\u00e9", sent
write(text("\\0" + sent["payload"]["data"]))
sent = answer()
assert sent["payload"] == {"id": "ws-1", "type": "base64", "data": ""}, sent
write(event("message", type="base64", data="AAEC"), event("close", code=1000, reason="", cause="x"))
to_end()
"""
    lines = play(checked, "text_as_it_is", fake(program))
    illegal = "Invalid or incomplete multibyte or wide character"
    assert lines == [
        "before its id: 0 Transport endpoint is not connected",
        "create: ok",
        f"not UTF-8: 0 {illegal}",
        f"half a pair: 0 {illegal}",
        "header: 0",
        "host header: 0",
        "protocol: 0",
        "reason: 0",
        "text: ok",
        "nothing: ok",
        "a: close 1000  (x)",
        "received 9 in 2",
        "status 0",
    ]


def test_any_request_can_be_made_and_an_answer_without_content_is_one(checked: str) -> None:
    program = """
describe()
request = read()
assert request == {"id": 2, "action": "later-action", "payload": {"x": 1}}, request
write({"id": 2, "more": 1e300, "new": [123456789012345678901234567890], "response": {}})
request = read()
assert request == {"id": 3, "action": "app-background", "app": "shop"}, request
write({"id": 2, "response": {}}, {"id": 77, "response": {}}, {"id": "3"}, {"kind": "of later"})
write({"event": "later", "payload": 1}, {"event": "websocket-event", "payload": {"id": None}})
write({"id": 3})
to_end()
"""
    lines = play(checked, "any_request", fake(program))
    assert lines == [
        "later: ok",
        "background: invalid-answer: the plugin answered with no response and no error",
        "status 0",
    ]


def test_requests_that_are_made_again_and_again_do_not_keep_a_stop_from_ending(
    checked: str,
) -> None:
    lines = play(checked, "retry_for_ever", fake("describe(); to_end()"))
    assert lines == ["status 0", "retried 1, in time 1"]


def test_interrupted_system_calls_go_on(checked: str) -> None:
    program = """
describe(); create()
for number in range(20):
    answer()
    write(text("x"))
to_end()
"""
    lines = play(checked, "interrupted", fake(program))
    assert lines == [
        "create: ok",
        "messages 20",
        "a: close 1006 the host has stopped the plugin (failure)",
        "status 0",
    ]


# --- connections ------------------------------------------------------------------------------


def test_a_connection_forgotten_in_its_listener_is_closed_and_silent(checked: str) -> None:
    program = """
describe(); create()
write(text("x"), text("x"), event("error", code="x", errMsg="y"))
request = answer()
assert request["action"] == "websocket-close", request
assert request["payload"] == {"id": "ws-1", "code": 1000, "reason": ""}, request
write(text("x"), event("close", code=1000, reason="", cause="host"))
"""
    lines = play(checked, "forget", fake(program))
    assert lines == ["create: ok", "messages 1 closes 0", "status 0"]


def test_a_connection_forgotten_before_its_answer_is_closed_after_it(checked: str) -> None:
    program = """
describe(); create()
request = answer()
assert request["action"] == "websocket-close", request
write(event("close", code=1000, reason="", cause="host"))
"""
    lines = play(checked, "forget_before_the_answer", fake(program))
    assert lines == ["create: ok", "opened 0 closes 0", "status 0"]


def test_connections_are_forgotten_in_their_last_calls(checked: str) -> None:
    program = """
describe(); create(); create("ws-2")
write(event("close", code=1000, reason="bye", cause="server"))
"""
    lines = play(checked, "forget_at_the_end", fake(program))
    # The two in whatever order.
    assert sorted(lines) == [
        "a: close 1000 bye (server)",
        "a: close 1006 the plugin ended with status 0 (failure)",
        "create: ok",
        "create: ok",
        "status 0",
    ]


def test_a_listener_that_blocks_delays_others_by_a_message_or_two(checked: str) -> None:
    program = """
describe(); create(); create("ws-2")
write(*[text("x")] * 40, text("x", "ws-2"))
to_end()
"""
    lines = play(checked, "turns", fake(program))
    assert lines[2] == "other: soon"


def test_a_full_queue_pauses_the_server_and_half_of_it_resumes(checked: str) -> None:
    program = """
describe(); create()
go = read()
write(*[text("x")] * 4)
request = read()
assert request["action"] == "websocket-pause", request
write({"id": request["id"], "response": {}}, text("x"), text("x"), {"id": go["id"], "response": {}})
request = read()
assert request["action"] == "websocket-resume", request
write({"id": request["id"], "response": {}})
request = answer()
assert request["action"] == "resumed", request
to_end()
"""
    lines = play(checked, "queue", fake(program))
    assert lines[:4] == ["create: ok", "go: ok", "held: messages 0", "resumed: ok"]


# --- the process ------------------------------------------------------------------------------


def test_stderr_comes_line_by_line(checked: str) -> None:
    program = """
describe()
sys.stderr.write("one\\n\\ntw")
sys.stderr.flush()
sys.stderr.write("o\\n" + "x" * 2000 + "\\nlast words")
"""
    lines = play(checked, "stderr_by_line", fake(program))
    x = "x" * 60
    assert lines == [
        "stderr: 3 one",
        "stderr: 3 two",
        f"stderr: 999 {x}",
        f"stderr: 999 {x}",
        "stderr: 2 xx",
        "stderr: 10 last words",
        "the plugin ended with status 0: last words",
        "status 0",
    ]


@pytest.mark.parametrize("case", ["stderr_blocked", "stderr_broken"])
def test_an_app_whose_stderr_is_blocked_or_broken_goes_on(checked: str, case: str) -> None:
    program = """
describe()
sys.stderr.write("x\\n" * 1_000_000)
create()
sys.stderr.write("last words\\n")
"""
    lines = play(checked, case, fake(program))
    assert lines == [
        "create: ok",
        "opened 1",
        "a: close 1006 the plugin ended with status 0: last words (failure)",
        "the plugin ended with status 0: last words",
        "status 0",
    ]


def test_writing_to_a_plugin_that_reads_no_more_does_not_end_the_app(checked: str) -> None:
    program = """
describe(); create()
os.close(0)
time.sleep(0.5)
os._exit(4)
"""
    lines = play(checked, "sigpipe", fake(program))
    assert lines == [
        "create: ok",
        "last: plugin-ended: the plugin ended with status 4",
        "a: close 1006 the plugin ended with status 4 (failure)",
        "status 4",
    ] or lines == [
        "create: ok",
        "a: close 1006 the plugin ended with status 4 (failure)",
        "last: plugin-ended: the plugin ended with status 4",
        "status 4",
    ]


@pytest.mark.parametrize("variables", [{}, {"WITHOUT_STANDARD_STREAMS": "1"}])
def test_no_other_child_of_the_app_inherits_the_pipes(
    sanitized: str, variables: dict[str, str]
) -> None:
    lines = play(sanitized, "descriptors", fake("describe(); to_end()"), **variables)
    *descriptors, status = lines
    assert len(descriptors) >= 3
    assert {line.split()[-1] for line in descriptors} == {"private"}
    assert status == "status 0"


def seconds_of_stop(lines: list[str], statuses: str) -> int:
    """Return how long a stop has taken that gave these statuses, the second time too."""
    found = re.fullmatch(rf"status {statuses} after (\d+) s, closes 1", lines[2])
    assert found, lines
    return int(found[1])


def test_a_stop_is_bounded_while_a_grandchild_holds_the_pipes(checked: str) -> None:
    program = """
describe(); create()
child = subprocess.Popen(["sleep", "3"])
to_end()
"""
    lines = play(checked, "stop", fake(program))
    assert 1 <= seconds_of_stop(lines, "0 0") < 3  # when the child lets go
    del lines[2]
    assert lines == [
        "create: ok",
        "a: close 1006 the host has stopped the plugin (failure)",
        "later: plugin-ended: the host has stopped the plugin",
    ]


@slow
def test_a_plugin_that_does_not_end_is_killed_after_the_grace(checked: str) -> None:
    program = """
describe(); create()
to_end()
time.sleep(60)
"""
    lines = play(checked, "stop", fake(program))
    assert 5 <= seconds_of_stop(lines, "137 137") <= 10


def test_an_app_that_ignores_its_children_learns_of_the_end(checked: str) -> None:
    lines = play(checked, "children_are_ignored", fake("describe(); create(); sys.exit(3)"))
    assert lines == [
        "create: ok",
        "a: close 1006 the plugin ended with status -1 (failure)",
        "status -1",
    ]


# --- must hold --------------------------------------------------------------------------------


def cpu(program: str, case: str, plugin: list[str], count: int) -> float:
    """Return the seconds of processor time that the app took."""
    lines = play(program, case, plugin, COUNT=str(count))
    [line] = [line for line in lines if line.startswith("cpu ")]
    return float(line.split()[1])


MANY_EVENTS = """
describe(features=[]); create()
go = read()
for _ in range(int(os.environ["COUNT"]) // 100):
    sys.stdout.write((json.dumps(text("x")) + "\\n") * 100)
write({"id": go["id"], "response": {}})
to_end()
"""
MANY_REQUESTS = """
describe(); create()
ids = [read()["id"] for _ in range(int(os.environ["COUNT"]))]
for id in reversed(ids):
    sys.stdout.write('{"id": %d, "response": {}}\\n' % id)
sys.stdout.flush()
to_end()
"""
LONG_LINE = """
describe(); create()
write(text(answer()["payload"]["data"]))
to_end()
"""


@pytest.mark.parametrize(
    ("case", "program", "count"),
    [
        ("many_events", MANY_EVENTS, 200_000),
        ("many_requests", MANY_REQUESTS, 200_000),
        ("long_line", LONG_LINE, 64 << 20),
    ],
)
def test_what_is_many_or_long_takes_linear_time(
    fast: str, case: str, program: str, count: int
) -> None:
    # Sixteen times in quadratic time.
    assert cpu(fast, case, fake(program), count) < 10 * cpu(fast, case, fake(program), count // 4)


@contextlib.contextmanager
def flooding_server() -> Iterator[tuple[str, list[int]]]:
    """Send messages of 64 KiB, 100 MB in all; tell how many bytes the system has taken."""
    message = frame(BINARY, bytes(65536))
    sent = [0]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(ConnectionError):
                peer = Peer(sock)
                peer.handshake()
                while sent[0] < 100_000_000:
                    sent[0] += sock.send(message[sent[0] % len(message) :])
                peer.expect_end()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/", sent
        thread.join(TIMEOUT)
        assert not thread.is_alive()


@slow
@pytest.mark.parametrize("variables", [{}, {"BLOCKING": "1"}])
def test_a_flood_stays_with_its_server(fast: str, variables: dict[str, str]) -> None:
    with flooding_server() as (url, sent):
        app = subprocess.Popen(
            [fast, "flood", *PLUGIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(URL=url, **variables),
        )
        with app:
            assert app.stdout
            assert app.stdout.readline() == "create: ok\n"
            line = app.stdout.readline()
            told = sent[0]  # and not later: without its host the plugin reads on, for the Close
            rest, _ = app.communicate("\n", TIMEOUT)
        assert (rest.splitlines()[-1], app.returncode) == ("status 0", 0)
    match = re.fullmatch(r"grown (\d+) received (\d+) messages (\d+)\n", line)
    assert match, line
    grown, received, messages = map(int, match.groups())
    assert 60 <= messages <= 121
    assert grown <= 8 << 10
    assert told - received <= 16_000_000


@slow
def test_whatever_allocation_fails_every_call_completes(folder: Path) -> None:
    wrapped = ",".join(f"--wrap={name}" for name in ("malloc", "calloc", "realloc"))
    program = build(folder, "memory", f"{SANITIZED} -Wl,{wrapped}", "memory.c")
    result = subprocess.run([program], capture_output=True, text=True, timeout=12 * TIMEOUT)
    assert (result.stderr, result.returncode) == ("", 0), result.stdout
    assert re.fullmatch(r"rounds \d{3}\nrounds \d{3}\n", result.stdout)
