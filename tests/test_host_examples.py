"""The host examples against the real plugin and against plugins that fail.

Every demo is built and run by the commands of its head comment, in a copy of the folder. A demo
whose toolchain is missing is skipped.
"""

import asyncio
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent / "host_examples" / "python"))
sys.path.append(str(Path(__file__).parent.parent / "host_examples" / "python_embedded"))

import embedded_host

import test_transcripts
from harness import PLUGIN, TIMEOUT, Plugin, echo_server
from host import Close, Host, PluginEnded

# The fixtures of the transcripts.
from test_transcripts import PLAYABLE, TRANSCRIPTS, names, play, tls  # noqa: F401
from wsplugin import Settings
from wsplugin.recording import transcript
from wsplugin.schema import schema_text

EXAMPLES = Path(__file__).parent.parent / "host_examples"
GSON = "/usr/share/java/gson.jar"
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

# Stands between a host and the plugin: records what passes, and hands the plugin's output on
# byte by byte, so that every line and every character is split over several reads.
COPY = """
import os, runpy, subprocess, sys, threading
def copy(mark, source, sink, size):
    for line in source:
        record.write(mark + line)
        for start in range(0, len(line), size):
            sink.write(line[start : start + size])
            sink.flush()
def copy_in(source, sink):
    copy(b"> ", source, sink, 65536)
    record.write(b"@end-of-stdin\\n")
    sink.close()
def copy_out(source, sink):
    copy(b"< ", source, sink, 1)
def start(*args):
    thread = threading.Thread(target=args[0], args=args[1:], daemon=True)
    thread.start()
    return thread
"""
TEE = f"""{COPY}
record, *command = sys.argv[1:]
record = open(record, "ab", 0)
plugin = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
start(copy_in, sys.stdin.buffer, plugin.stdin)
copy_out(plugin.stdout, sys.stdout.buffer)
status = plugin.wait()
record.write(b"@exit %d\\n" % status)
sys.exit(status)
"""
# The same within the process of an embedded host; or a plugin that is another process after all.
EMBEDDED = f"""{COPY}
import wsplugin
demo, url, *plugin = sys.argv[1:]
real_serve = wsplugin.serve
def recorded_serve(stdin, stdout, settings):
    their_in, in_ = os.pipe()
    out, their_out = os.pipe()
    with open(stdin, "rb", closefd=False) as source, open(stdout, "wb", closefd=False) as sink:
        start(copy_in, source, open(in_, "wb", 0))
        copying = start(copy_out, open(out, "rb"), sink)
        status = real_serve(their_in, their_out, settings)
        os.close(their_out)
        copying.join()
    record.write(b"@exit %d\\n" % status)
    return status
def other_serve(stdin, stdout, settings):
    result = subprocess.run(plugin, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
    if result.stderr:
        raise RuntimeError(result.stderr.decode().strip())
    return result.returncode
if plugin[0] == "record":
    record = open(plugin[1], "ab", 0)
    wsplugin.serve = recorded_serve
else:
    wsplugin.serve = other_serve
sys.path.insert(0, os.path.dirname(demo))
sys.argv = [demo, url]
runpy.run_path(demo, run_name="__main__")
"""

# Stands in for the plugin: answers each line with the next of the lists in a file, then does
# what it is told to.
FAKE = """
import json, os, signal, sys, time
answers, then = sys.argv[1:]
for lines in json.load(open(answers, encoding="utf-8")):
    sys.stdin.readline()
    for line in lines:
        sys.stdout.buffer.write(json.dumps(line, ensure_ascii=False).encode() + b"\\n")
    sys.stdout.flush()
match then:
    case "end":
        sys.stdin.read()
    case "stay":
        sys.stdin.read()
        while True:
            time.sleep(60)
    case "fail":
        sys.stdin.readline()
        sys.exit("the last words of a plugin")
    case "die":
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
    case "babble":
        sys.stdin.readline()
        print("no JSON", flush=True)
        sys.stdin.read()
"""


def event(name: str, **payload: Any) -> Any:
    """Return an event of the only connection."""
    payload = {"id": "ws-1", "name": name, "payload": payload}
    return {"event": "websocket-event", "payload": payload}


KILLED = "was killed by signal 9|ended with status (137|-9)"
CREATED = [{"id": 1, "response": {"id": "ws-1"}}, event("open", headers={})]


@dataclass(frozen=True)
class Example:
    """A demo, and what has to be there to build and run it."""

    demo: str
    commands: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    # Put in place of a part of the commands.
    instead: tuple[str, str] = ("", "")
    # The plugin runs within the demo's own process.
    embedded: bool = False


SANITIZED = (
    "cc -std=c11 -Wall -Wextra -Wpedantic -Werror -g"
    " -fsanitize=address,undefined -fno-sanitize-recover=undefined"
)
DEMOS = {
    "python": Example("python/demo.py"),
    "python, embedded": Example("python_embedded/embedded_demo.py", embedded=True),
    "node": Example("node/demo.ts", ("node",)),
    "java": Example("java/Demo.java", ("java", "javac"), (GSON,)),
    "c": Example("c/demo.c", ("cc",), ("/usr/include/jansson.h",)),
    "c, sanitized": Example(
        "c/demo.c", ("cc",), ("/usr/include/jansson.h",), ("cc -std=c11", SANITIZED)
    ),
}


class Demo:
    """A demo that has been built in a copy of the folder."""

    def __init__(self, example: Example, folder: Path) -> None:
        self.folder = folder
        self.embedded = example.embedded
        shutil.copytree(
            EXAMPLES,
            folder / "host_examples",
            ignore=shutil.ignore_patterns("node_modules", "__pycache__"),
        )
        *build, self.command = head_commands(EXAMPLES / example.demo)
        for command in build:
            command = command.replace(*example.instead)
            subprocess.run(command, shell=True, cwd=folder, check=True, timeout=6 * TIMEOUT)

    def start(self, url: str, plugin: Sequence[str]) -> "subprocess.Popen[str]":
        """Start it with the plugin's command line."""
        command = self.command
        if self.embedded:
            _, path, placeholder = shlex.split(command)
            command = shlex.join([sys.executable, "-c", EMBEDDED, path, placeholder, *plugin])
        command = command.replace("ws://127.0.0.1:8765/", url)
        command = command.replace(".venv/bin/wsplugin", shlex.join(plugin))
        return subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def run(self, url: str, plugin: Sequence[str]) -> tuple[str, str, int]:
        """Run it to its end; return its stdout, its stderr and its exit status."""
        with self.start(url, plugin) as process:
            try:
                stdout, stderr = process.communicate(timeout=TIMEOUT)
            finally:
                process.kill()
        return stdout, stderr, process.returncode

    def run_with(self, answers: Any, then: str) -> tuple[str, str, int]:
        """Run it with a plugin that gives these answers."""
        return self.run("ws://127.0.0.1:1/", self.fake(answers, then))

    def fake(self, answers: Any, then: str) -> list[str]:
        """Return the command line of a plugin that gives these answers."""
        file = self.folder / "answers.json"
        file.write_text(json.dumps(answers), encoding="utf-8")
        return [sys.executable, "-c", FAKE, str(file), then]


def head_commands(path: Path) -> list[str]:
    """Return the commands in a head comment that build and run the demo."""
    text = path.read_text(encoding="utf-8")
    commands = re.findall(r"^(?:| \*|//) *\$ (.+)$", text, re.MULTILINE)
    assert "pip install ." in commands[0]
    assert commands[1] == "python3 host_examples/python/echo_server.py 8765 &"
    python = f"{shlex.quote(sys.executable)} "
    return [re.sub(r"^(python3|\.venv/bin/python) ", python, command) for command in commands[2:]]


@functools.cache
def missing(example: Example) -> str:
    """Say what of the toolchain is missing."""
    missing = [command for command in example.commands if not shutil.which(command)]
    missing += [file for file in example.files if not Path(file).exists()]
    return ", ".join(missing)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Return a folder whose name needs quotes in a shell."""
    with tempfile.TemporaryDirectory(prefix="host examples ") as name:
        yield Path(name)


@pytest.fixture(scope="module", params=DEMOS)
def demo(request: pytest.FixtureRequest, folder: Path) -> Demo:
    """Return each of the demos, built."""
    return build(request.param, folder)


@functools.cache
def build(name: str, folder: Path) -> Demo:
    """Build a demo."""
    if what := missing(DEMOS[name]):
        pytest.skip(f"{name}: not on this machine: {what}")
    return Demo(DEMOS[name], folder / name)


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
                assert transcript.difference(expected, json.loads(line[2:])) is None, line
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
        [{"id": 2, "response": {}}, event("message", type="text", data=text)],
        [{"id": 3, "response": {}}, event("message", type="base64", data="AA==")],
        [
            {"id": 4, "response": {}},
            event("error", code="network-error", errMsg="gone"),
            event("close", code=1006, reason="gone", cause="failure"),
        ],
        [{"id": 5, "error": {"code": "not-open", "errMsg": "closed"}}],
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
    refused = {"id": 3, "error": {"code": "not-open", "errMsg": "closed"}}
    answers = [CREATED, [{"id": 2, "response": {}}, close], [refused]]
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
    for name in ("host.js", "demo.js"):
        assert (copy / "js" / name).read_bytes() == (NODE / "js" / name).read_bytes()


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
                payloads = [{"id": "ws-1", "type": "text", "data": text} for text in texts]
                sends = [{"action": "websocket-send", "payload": payload} for payload in payloads]
                plugin.send({"action": "websocket-create", "payload": {"url": url}}, *sends)
                lines, status = plugin.finish()
        finally:
            process.kill()
    assert status == 0
    events = [line["payload"] for line in lines]
    assert [event["name"] for event in events] == ["open", *["message"] * 100, "close"]
    assert [event["payload"]["data"] for event in events[1:-1]] == texts


# --- the plugin within a process --------------------------------------------------------------

# Bridges its own stdin and stdout to a plugin on a thread, over a socket pair.
BRIDGE = """
import os, socket, sys, threading, wsplugin
from wsplugin.options import parse
settings, _ = parse(sys.argv[1:])
ours, theirs = socket.socketpair()
status = []
def serve():
    with theirs:
        status.append(wsplugin.serve(theirs.fileno(), theirs.fileno(), settings))
def copy_in():
    while data := os.read(0, 65536):
        ours.sendall(data)
    ours.shutdown(socket.SHUT_WR)
plugin = threading.Thread(target=serve)
plugin.start()
threading.Thread(target=copy_in, daemon=True).start()
while data := ours.recv(65536):
    while data:
        data = data[os.write(1, data):]
plugin.join()
sys.exit(status[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYABLE)
def test_the_embedded_plugin_holds_the_same_conversations(
    name: str,
    names: Mapping[str, str],  # noqa: F811
    tls: ssl.SSLContext,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conversation = TRANSCRIPTS[name]
    if any(isinstance(step, transcript.Signal) for step in conversation.steps):
        pytest.skip("a thread has no signals")
    bridge = functools.partial(Plugin, command=[sys.executable, "-c", BRIDGE])
    monkeypatch.setattr(test_transcripts, "Plugin", bridge)
    play(conversation, names, tls)


def test_two_embedded_plugins_at_once_and_one_after_them() -> None:
    before = [(number, signal.getsignal(number)) for number in signal.valid_signals()]
    standard = [os.fstat(fd) for fd in (0, 1, 2)]
    with echo_server() as server:
        hosts = [embedded_host.Host(), embedded_host.Host()]
        listeners = [Recorder(), Recorder()]
        for host, listener in zip(hosts, listeners, strict=True):
            assert host.create(server.url, listener).id == "ws-1"
            listener.opened.result(TIMEOUT)
        assert [host.stop() for host in hosts] == [0, 0]
        with embedded_host.Host(Settings(allow_hosts=("example.com",))) as host:
            with pytest.raises(embedded_host.RequestError, match=r"^forbidden: "):
                host.create(server.url, embedded_host.Listener())
            assert host.stop() == 0
            with pytest.raises(embedded_host.PluginEnded, match="the plugin ended with status 0"):
                host.describe()
    for listener in listeners:
        assert listener.closed.result(TIMEOUT) == (1001, "plugin shutting down", "shutdown")
    assert [(number, signal.getsignal(number)) for number in signal.valid_signals()] == before
    assert [os.fstat(fd).st_ino for fd in (0, 1, 2)] == [stat.st_ino for stat in standard]


class Recorder(embedded_host.Listener):
    """Keeps when a connection opens and how it closes."""

    def __init__(self) -> None:
        self.opened: Future[None] = Future()
        self.closed: Future[tuple[int, str, str]] = Future()

    def on_open(self, *_: object) -> None:
        self.opened.set_result(None)

    def on_close(self, websocket: object, code: int, reason: str, cause: str) -> None:
        self.closed.set_result((code, reason, cause))


# --- what only the Python host can be asked -----------------------------------------------------


def test_requests_do_not_wait_for_each_other_and_all_fail_with_the_plugin() -> None:
    async def play() -> None:
        async with Host(sys.executable, "-c", FAKE, os.devnull, "die") as host:
            # A fake that cannot read its answers has ended at once; the next is alive.
            with pytest.raises(PluginEnded, match=r"ended with status 1: .*JSONDecodeError"):
                await host.describe()
        async with Host(*PLUGIN) as host:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                port = silent.getsockname()[1]
                websocket = await host.create(f"ws://127.0.0.1:{port}/")
                # They wait for an opening handshake that never comes.
                sends = [asyncio.create_task(websocket.send("x")) for _ in range(10)]
                assert (await host.describe())["name"] == "wsplugin"
                assert not any(send.done() for send in sends)
                host._process.kill()
                for send in sends:
                    with pytest.raises(PluginEnded, match="the plugin was killed by signal 9"):
                        await send
                assert [event async for event in websocket] == [
                    Close(1006, "the plugin was killed by signal 9", "failure")
                ]
            assert await host.stop() == -9

    asyncio.run(asyncio.wait_for(play(), TIMEOUT))


def test_a_connection_whose_creation_is_cancelled_is_closed() -> None:
    async def play() -> None:
        lines: list[tuple[str, str]] = []
        closed = asyncio.Event()

        def on_line(direction: str, line: str) -> None:
            lines.append((direction, line))
            if '"name":"close"' in line:
                closed.set()

        with echo_server() as server:
            async with Host(*PLUGIN, on_line=on_line) as host:
                creating = asyncio.create_task(host.create(server.url))
                await asyncio.sleep(0)  # it has written its line
                creating.cancel()
                await closed.wait()
                assert await host.stop() == 0
        assert any("websocket-close" in line for direction, line in lines if direction == ">")

    asyncio.run(asyncio.wait_for(play(), TIMEOUT))
