"""The Java host: what it promises beyond the situations of the kit.

tests/java/Probe.java does with the host what a test names, against a fake plugin or the real one.
Everything is skipped where there is no JDK.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness import BINARY, PLUGIN, Listener, echo_server, frame
from java_probe import CEILING, JAVA, Java, build, fake, needs_java

pytestmark = needs_java


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> Java:
    """Return what runs the probe."""
    return Java(build(tmp_path_factory.mktemp("java")), "Probe")


@pytest.mark.slow
def test_the_host_uses_nothing_that_android_api_level_26_has_not(tmp_path: Path) -> None:
    if not shutil.which("mvn"):
        pytest.skip("not on this machine: mvn")
    folder = tmp_path / "host_examples" / "java"
    shutil.copytree(JAVA, folder)
    maven = ["mvn", "-q", "-B", "-f", str(folder / "pom.xml"), "process-classes"]
    result = subprocess.run(maven, capture_output=True, text=True, timeout=5 * CEILING)
    assert result.returncode == 0, result.stdout


# --- starting ---------------------------------------------------------------------------------


def test_a_start_asks_what_the_command_is_and_appends_the_options(java: Java) -> None:
    script = "describe(version=json.dumps(sys.argv[1:]), features=['pause'])\nask()"
    pid, described, features, *statuses = java.run("start", fake(script))
    options = f'["--parent-pid", "{pid.removeprefix("pid ")}", "--exit-timeout", "1.5"]'
    assert described == f"described {options}"
    assert features == "features [pause]"
    assert statuses == ["status 0", "status 0"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (["--parent-pid=1"], '["--parent-pid=1", "--exit-timeout", "1.5"]'),
        (["--parent-pid", "1", "--exit-timeout=9"], '["--parent-pid", "1", "--exit-timeout=9"]'),
    ],
)
def test_options_that_the_command_names_are_not_appended(
    java: Java, own: list[str], expected: str
) -> None:
    script = "describe(version=json.dumps(sys.argv[1:]))\nask()"
    assert java.run("start", [*fake(script), *own])[1] == f"described {expected}"


def test_an_app_can_leave_the_options_out(java: Java) -> None:
    script = "describe(version=json.dumps(sys.argv[1:]))\nask()"
    assert java.run("start", fake(script), BARE="1")[1] == "described []"


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (["/nonexistent/plugin"], "the plugin cannot be started: .*/nonexistent/plugin"),
        (fake("sys.exit('words\\n\\n')"), "the plugin ended with status 1: words"),
        (fake("print('Hello'); print('there')"), "no line of its protocol: Hello "),
        (fake("print('[1]', flush=True); ask(); time.sleep(60)"), r"its protocol: \[1\]"),
        (fake("print('why', file=sys.stderr); ask(); ask()"), "in 1500 ms: why"),
        (fake("describe(protocol=2); ask()"), "protocol 2, the host 1"),
        (fake("describe(name='other'); ask()"), 'no wsplugin: {"name":"other"'),
        (fake("say({'id': ask()['id'], 'error': {'code': 'x', 'errMsg': 'y'}}); ask()"), "x: y"),
        (fake("os.close(1); sys.stdin.read(); time.sleep(60)"), "in 1500 ms"),
        (
            fake(
                "print('p: error: unrecognized arguments: --parent-pid', file=sys.stderr)\nexit(2)"
            ),
            "of 1.0; update it or start it without these options",
        ),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_no_process(
    java: Java, plugin: list[str], words: str
) -> None:
    failed, children = java.run("start", plugin)
    assert re.search(f"^failed .*{words}", failed), failed
    assert plugin[0] in failed
    assert children == "children 0"


def test_an_interrupted_start_leaves_no_process(java: Java) -> None:
    assert java.run("interruptedStart", fake("ask(); ask()")) == ["interrupted, children 0"]


# --- ending -----------------------------------------------------------------------------------


def test_a_stop_is_bounded_though_a_grandchild_holds_all_pipes(java: Java, tmp_path: Path) -> None:
    # The grandchild ends with the test, whatever comes: it reads what the test holds open.
    fifo = tmp_path / "until-the-end"
    os.mkfifo(fifo)
    script = f"""
describe()
subprocess.Popen([sys.executable, "-c", "open({str(fifo)!r}).read()"])
sys.stdin.read()
"""
    command = java.command("stopTimed", fake(script))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
    with process, fifo.open("w"):
        try:
            stdout, _ = process.communicate(timeout=CEILING)
        finally:
            process.kill()
    status, seconds, call = stdout.splitlines()
    assert status == "status 0"
    assert float(seconds.split()[1]) < 5
    assert call.startswith("call: PluginEnded the plugin ended with status 0")


def test_a_stop_is_bounded_though_the_plugin_never_reads(java: Java) -> None:
    script = "describe()\nsignal.pause()"
    status, _, call = java.run("stopTimed", fake(script))
    assert status == "status 137"
    assert call.startswith("call: PluginEnded the plugin ended with status 137")


def test_an_idle_plugin_does_not_keep_the_jvm(java: Java) -> None:
    script = "describe()\nsay(answer(ask()))\nask()"
    assert java.run("leaveIdle", fake(script)) == ["described: yes"]


def test_a_pending_call_keeps_the_jvm_though_a_daemon_made_it(java: Java) -> None:
    # Much longer than a JVM takes to end behind its main.
    script = "describe()\nrequest = ask()\ntime.sleep(1.5)\nsay(answer(request))\nask()"
    assert java.run("leavePending", fake(script)) == ["main returns", "answered"]


def test_an_open_connection_keeps_the_jvm_until_its_close_is_told(java: Java) -> None:
    script = """
describe()
say(answer(ask(), id="ws-1"))
time.sleep(1.5)
say(closed())
ask()
"""
    assert java.run("leaveOpen", fake(script)) == ["main returns", "close 1000 server "]


# --- faults -----------------------------------------------------------------------------------

THROWING = """
describe()
say(answer(ask(), id="ws-1"), event("open"))
say({**closed(), "event": "of a later plugin"}, event("unknown"), event("message", type="new"))
say(*(text(str(n)) for n in range(5)), closed())
say(answer(ask()))
ask()
"""
HEARD = ["open", *(f"text {number}" for number in range(5)), "close 1000 server "]


def test_what_a_listener_throws_is_told_and_ends_nothing(java: Java) -> None:
    lines = java.run("listenerThrows", fake(THROWING), TOLD="1")
    assert [line for line in lines if not line.startswith("told ")] == [*HEARD, "host: alive"]
    assert [line for line in lines if line.startswith("told ")] == [
        "told java.lang.Exception: checked",
        "told java.lang.IllegalStateException: unchecked",
        "told java.lang.OutOfMemoryError: as it were",
        "told java.lang.StackOverflowError",
        "told java.lang.IllegalStateException: the last",
    ]


def test_what_a_listener_throws_goes_to_the_handler_of_the_thread_by_default(java: Java) -> None:
    assert java.run("listenerThrows", fake(THROWING)) == [*HEARD, "host: alive"]
    told = re.findall(r'^Exception in thread "wsplugin ws-1" (.*)', java.stderr, re.MULTILINE)
    assert len(told) == 5


def test_an_error_in_the_reader_fails_what_is_pending(java: Java) -> None:
    # A line that does not fit into the heap, from a plugin that would live on.
    script = """
describe()
say(answer(ask(), id="ws-1"))
[ask() for _ in range(3)]
try:
    for _ in range(200):
        sys.stdout.write("x" * 2**20)
except BrokenPipeError:
    os._exit(0)
"""
    *told, later, status = java.run("readerFails", fake(script), "-Xmx24m")
    *calls, close = sorted(told)  # the listener has a thread of its own
    words = "the host could not read what the plugin wrote .java.lang.OutOfMemoryError"
    assert len(calls) == 3
    for line in calls:
        assert re.match(f"call: PluginEnded {words}", line)
    assert re.match(f"close 1006 failure {words}", close)
    assert re.match(f"later: PluginEnded {words}", later)
    assert status in ("status 137", "status 0")


def test_a_plugin_that_closes_its_output_and_lives_on_fails_what_is_pending(java: Java) -> None:
    script = """
describe()
say(answer(ask(), id="ws-1"))
[ask() for _ in range(3)]
os.close(1)
signal.pause()
"""
    *told, later, status = java.run("readerFails", fake(script))
    *calls, close = sorted(told)  # the listener has a thread of its own
    words = "the plugin closed its output, and did not end"
    assert calls == [f"call: PluginEnded {words}"] * 3
    assert (close, later) == (f"close 1006 failure {words}", f"later: PluginEnded {words}")
    assert status == "status 137"


def test_a_fault_is_told_though_a_grandchild_keeps_the_writer_waiting(
    java: Java, tmp_path: Path
) -> None:
    # Nobody reads the plugin's stdin, and the grandchild holds it, until the test lets it go.
    fifo = tmp_path / "until-the-end"
    os.mkfifo(fifo)
    script = f"""
describe()
subprocess.Popen([sys.executable, "-c", "open({str(fifo)!r}).read()"])
sys.stdin.read(1)
print("no JSON", flush=True)
signal.pause()
"""
    command = java.command("stuckWriter", fake(script))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
    with process, fifo.open("w"):
        try:
            stdout, _ = process.communicate(timeout=CEILING)
        finally:
            process.kill()
    assert stdout == "call: PluginEnded the plugin wrote what is no line of its protocol: no JSON\n"


def test_what_cannot_be_encoded_leaves_nothing_pending(java: Java) -> None:
    # That the JVM ends shows that nothing is.
    script = "describe()\nrequest = ask()\nsay(answer(request, id=request['id']))\nask()"
    number, header, app, following = java.run("unencodable", fake(script))
    for line in (number, header, app):
        assert re.match(r"\w+: IllegalArgumentException ", line)
    assert following == "next: answered"


def test_answers_and_lines_of_other_kinds(java: Java) -> None:
    script = """
describe()
request = ask()
say({"id": request["id"]}, answer(request))
request = ask()
say({}, {"id": None, "error": {"code": "x", "errMsg": "y"}}, {"id": 99, "response": {}},
    {"id": "a", "response": {}}, {"note": 1}, {"event": "other", "payload": {"id": 1}},
    {"event": "websocket-event", "payload": {"id": "ws-9", "name": "close"}},
    {"id": request["id"], "error": {"code": "new-code", "errMsg": "words", "more": 1}})
request = ask()
depth = 200_000
sys.stdout.write('{"deep": ' + "[" * depth + "]" * depth + "}\\n")
say(answer(request))
ask()
"""
    assert java.run("answers", fake(script)) == [
        "call: RequestError internal-error: an answer without response and error",
        "call: RequestError new-code: words",
        "call: {}",
        "status 0",
    ]


# --- connections ------------------------------------------------------------------------------


def test_what_a_send_takes(java: Java) -> None:
    with echo_server() as server:
        lines = java.run("buffers", PLUGIN, URL=server.url)
    assert "positions 1 4 0" in lines
    assert [line for line in lines if line.startswith("binary ")] == [
        "binary [0, 1, 2, 3, 4, 5, 6, 7]",
        "binary [3, 4, 5]",
        "binary [3, 4, 5]",
        "binary [5, 6, 7]",
        "binary []",
    ]


def test_everything_of_the_contract_by_its_name(java: Java) -> None:
    with Listener() as server:
        lines: list[str] = []
        thread = threading.Thread(
            target=lambda: lines.extend(java.run("everything", PLUGIN, URL=server.url))
        )
        thread.start()
        with server.accept() as peer:
            peer.handshake("Sec-WebSocket-Protocol: chat")
            assert (peer.header("X-App"), peer.header("X-Host")) == ("a", "h")
            assert peer.header("Sec-WebSocket-Extensions") is None
            head, payload = peer.read_frame()
            assert head & 0x0F == 0x9
            peer.send(frame(0xA, payload))
            thread.join(CEILING)
    assert lines == [
        "open chat '' websocket true",
        "ping: true",
        "pause: null",
        "resume: null",
        "background of another: null",
        "close: null",
        lines[6],
        "too late: RequestError not-open: ws-1 is closing or closed",
        "background: null",
        "status 0",
    ]
    assert lines[6].startswith("close 1006 host ")


def test_listeners_run_where_the_app_says_and_after_it_has_shut_that_down(java: Java) -> None:
    script = """
describe()
say(answer(ask(), id="ws-1"), *(text(str(n)) for n in range(3)), closed())
ask()
"""
    assert java.run("executors", fake(script)) == [
        "0 on ui",
        "1 on ui",
        "2 on wsplugin ws-1",
        "close 1000 server ",
    ]


def test_many_queued_events_drain_in_linear_time(java: Java) -> None:
    script = """
describe()
request = ask()
count = int(request["payload"]["url"].rpartition("/")[2])
say(answer(request, id="ws-1"), event("open"), *(text("x") for _ in range(count)))
say(answer(ask()), closed())
ask()
"""
    lines = java.run("drain", fake(script))
    found = [line.split(" in ") for line in lines if " in " in line]
    assert [int(count) for count, _ in found] == [50_000, 50_000, 200_000]
    # Four times as many take four times as long; where all were copied for each, sixteen times.
    assert float(found[2][1]) < 10 * float(found[1][1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_slow_listener_holds_back_a_flood(java: Java) -> None:
    size, count = 65_536, 1_600  # 100 MB
    sent = 0

    def flood(server: Listener) -> None:
        nonlocal sent
        with server.accept() as peer:
            peer.handshake()
            peer.sock.settimeout(CEILING)
            try:
                for _ in range(count):
                    peer.send(frame(BINARY, bytes(size)))
                    sent += size
            except OSError:
                pass  # the probe has seen enough

    with Listener() as server:
        thread = threading.Thread(target=flood, args=(server,))
        thread.start()
        options = ["-Xmx24m", "-XX:+UseSerialGC"]
        lines = java.run("flood", PLUGIN, *options, URL=server.url)
        thread.join(CEILING)
    (resident,) = [int(line.split()[1]) for line in lines if line.startswith("resident ")]
    (found,) = [re.match(r"heard (\d+) grown (-?\d+)", line) for line in lines if "grown" in line]
    assert found
    heard, grown = map(int, found.groups())
    assert grown <= 8 * 2**20
    assert resident <= 40 * 2**20
    assert sent - heard * size <= 16_000_000


# --- stderr -----------------------------------------------------------------------------------

LOUD = """
describe()
request = ask()
for number in range(5_000):
    print("line", number, file=sys.stderr)
say(answer(request))
ask()
sys.exit("last words")
"""


def test_the_app_gets_every_line_of_stderr(java: Java) -> None:
    answer, death, lines = java.run("stderrLines", fake(LOUD), STDERR="count")
    assert answer == "answer: yes"
    assert death == "death: PluginEnded the plugin ended with status 1: last words"
    assert lines == "lines 5001"


@pytest.mark.parametrize("kind", ["throw", "block"])
def test_an_app_that_takes_no_stderr_stops_nothing(java: Java, kind: str) -> None:
    answer, death, _ = java.run("stderrLines", fake(LOUD), STDERR=kind)
    assert answer == "answer: yes"
    assert death == "death: PluginEnded the plugin ended with status 1: last words"


def test_a_blocked_stderr_of_the_app_stops_nothing(java: Java) -> None:
    reading, writing = os.pipe()
    command = java.command("answers", fake(LOUD))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writing, encoding="utf-8")
    os.close(writing)
    with process:
        try:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(3)]
        finally:
            process.send_signal(signal.SIGKILL)
            os.close(reading)
    assert lines[0] == "call: {}\n"
    assert lines[1] == "call: PluginEnded the plugin ended with status 1: last words\n"
    assert lines[2] == lines[1]
