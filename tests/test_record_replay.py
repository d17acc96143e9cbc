"""Recordings, and what replays them: against the golden transcripts and against real hosts."""

import base64
import contextlib
import errno
import io
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import PLUGIN, TIMEOUT, Plugin, echo_server
from systems import posix_only
from test_transcripts import TRANSCRIPTS, converse
from wsplugin.options import parse_all
from wsplugin.recording.placeholders import difference, example, literal
from wsplugin.recording.record import Recorder
from wsplugin.recording.replay import Replay
from wsplugin.recording.transcript import (
    Continue,
    Expected,
    LineIn,
    LinesOut,
    Mismatch,
    Signal,
    Transcript,
    parse,
    whole_lines,
)

posix = pytest.mark.skipif(os.name != "posix", reason="files have no owner and mode")

EXAMPLES = Path(__file__).parent.parent / "host_examples"
TRANSCRIPT_FILES = Path(__file__).parent / "transcripts"
PORTS = {
    server.name: "4711" for transcript in TRANSCRIPTS.values() for server in transcript.servers
}
WITHOUT_SIGNALS = [
    name
    for name, transcript in TRANSCRIPTS.items()
    if not any(isinstance(step, Signal) for step in transcript.steps)
]


def replaying(path: Path, *options: str) -> Plugin:
    return Plugin("replay", str(path), *options)


def play_host(transcript: Transcript, path: Path, *options: str) -> None:
    """Play the host's part of a transcript against its replay, which must be content."""
    steps = tuple(step for step in transcript.steps if not isinstance(step, Continue))
    host = msgspec.structs.replace(transcript, steps=steps)
    with replaying(path, *options) as plugin:
        for _ in converse(host, plugin, {}, PORTS):
            pass
        assert (plugin.wait(), plugin.stderr) == (0, b"")


# --- the golden transcripts -------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_every_transcript_replays(name: str) -> None:
    play_host(TRANSCRIPTS[name], TRANSCRIPT_FILES / f"{name}.txt")


class Collecting(Replay):
    """A replay whose lines go nowhere, to a host that has said all that it will say."""

    def __init__(self, transcript: Transcript, said: bytes, speed: float = 0) -> None:
        super().__init__(transcript, speed, io.BytesIO(said), -1)
        self.written: list[bytes] = []

    def _write_all(self, data: bytes) -> None:
        self.written.append(data)


def replay_lines(transcript: Transcript, lines: list[bytes]) -> list[Any]:
    """Replay within this process; return the lines written."""
    player = Collecting(transcript, b"".join(lines))
    player.run()
    return [msgspec.json.decode(line) for line in player.written]


def host_lines(transcript: Transcript) -> tuple[list[int], list[bytes]]:
    """Return the host's whole lines, and where in the transcript each begins."""
    expected = [step for step in whole_lines(transcript) if isinstance(step, Expected)]
    data = [step.data for step in expected]
    for name, port in PORTS.items():
        data = [line.replace(f"<{name}>".encode(), port.encode()) for line in data]
    return [step.number for step in expected], [line + b"\n" for line in data]


def changed(line: bytes) -> bytes:
    """Return a line that says something else."""
    if line.startswith(b"{") and line.endswith(b"}\n"):
        return b'{"changed":1,' + line[1:]
    return b"x" + line


@pytest.mark.parametrize("name", WITHOUT_SIGNALS)
def test_a_changed_missing_or_additional_line_is_a_difference_that_names_it(name: str) -> None:
    transcript = TRANSCRIPTS[name]
    numbers, lines = host_lines(transcript)
    replay_lines(transcript, lines)
    for index, number in enumerate(numbers):
        other = changed(lines[index])
        with pytest.raises(Mismatch, match=f"^line {number}: ") as caught:
            replay_lines(transcript, [*lines[:index], other, *lines[index + 1 :]])
        assert f"\n  received: {other.decode(errors='backslashreplace').rstrip()}" in str(
            caught.value
        )
        with pytest.raises(Mismatch, match=f"^line {number}: stdin has ended\n  expected: "):
            replay_lines(transcript, lines[:index])
        with pytest.raises(Mismatch, match=f"^line {number}: "):
            replay_lines(transcript, [*lines[:index], b'{"more":1}\n', *lines[index:]])
    if not transcript.exit_status:
        with pytest.raises(Mismatch, match=r"^(line [0-9]+|at the end): a line too many"):
            replay_lines(transcript, [*lines, b'{"more":1}\n'])


@pytest.mark.parametrize("name", WITHOUT_SIGNALS)
def test_answers_carry_the_ids_of_the_host(name: str) -> None:
    transcript = TRANSCRIPTS[name]
    _, lines = host_lines(transcript)
    answered = [line.get("id") for line in replay_lines(transcript, lines)]
    names: dict[Any, str] = {}
    for index, line in enumerate(lines):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            request = msgspec.json.decode(line)
            if type(request) is dict and request.get("id") in [id for id in answered if id]:
                names[request["id"]] = request["id"] = f"host-{index}"
                lines[index] = msgspec.json.encode(request) + b"\n"
    received = [line.get("id") for line in replay_lines(transcript, lines)]
    assert received == [names.get(id, id) for id in answered]


def test_whole_lines() -> None:
    text = (TRANSCRIPT_FILES / "lines.txt").read_text(encoding="utf-8")
    lines = [step for step in whole_lines(parse(text)) if isinstance(step, Expected)]
    assert lines == [
        Expected(2, b'{"id": 1, "action": "app-background"}'),
        Expected(4, b'{"id": 2, "action": "app-background"}'),
        Expected(5, b'{"id": 3, "action": "app-background"}'),
        Expected(9, b'{"id": 4, "action": "app-background"}'),
    ]


def test_an_id_that_is_used_twice() -> None:
    text = '> {"id": 1}\n' * 2 + '< {"id": 1, "error": "a"}\n< {"id": 1, "error": "b"}\n'
    assert replay_lines(parse(text), [b'{"id": "x"}\n', b'{"id": "y"}\n']) == [
        {"id": "x", "error": "a"},
        {"id": "y", "error": "b"},
    ]


@pytest.mark.parametrize("given", [b"{}", b'{"id": null}'])
@pytest.mark.parametrize("recorded", ["{}", '{"id": null}'])
def test_null_is_the_same_as_no_id(given: bytes, recorded: str) -> None:
    assert replay_lines(parse(f"> {recorded}"), [given]) == []
    with pytest.raises(Mismatch, match=r"^line 1: id: "):
        replay_lines(parse(f"> {recorded}"), [b'{"id": 1}'])
    with pytest.raises(Mismatch, match=r"^line 1: id: missing"):
        replay_lines(parse('> {"id": 1}'), [given])


def demo(url: str, *options: str) -> str:
    """Run the example in Python and return what it prints."""
    command = [sys.executable, str(EXAMPLES / "python" / "demo.py"), url, *PLUGIN, *options]
    return subprocess.run(
        command,
        check=True,
        timeout=TIMEOUT,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
    ).stdout


# --- faults -----------------------------------------------------------------------------------

FAULTY = """\
> {"id": 1, "action": "app-background"}
@split
< {"id": 1, "response": {"text": "ä"}}
@late 0.3
< {"event": "x"}
> {"id": 2, "action": "app-background"}
@die
< {"id": 2, "response": {}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "conversation ä.txt"


def test_faults_as_a_host_sees_them(file: Path) -> None:
    file.write_text(FAULTY, encoding="utf-8")
    with subprocess.Popen(
        [*PLUGIN, "replay", str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin
        assert process.stdout
        fd = process.stdout.fileno()
        process.stdin.write(b'{"id": 8, "action": "app-background"}\n')
        # Split within the character.
        first = os.read(fd, 65536)
        assert first == '{"id":8,"response":{"text":"ä'.encode()[:-1]
        assert os.read(fd, 65536) == 'ä"}}\n'.encode()[1:]
        assert os.read(fd, 65536) == b'{"event":"x"}\n'
        process.stdin.write(b'{"id": 9, "action": "app-background"}\n')
        assert os.read(fd, 65536) == b""
        assert process.wait(TIMEOUT) == (-9 if os.name == "posix" else signal.SIGTERM)


def test_a_host_takes_lines_that_are_split_and_late(file: Path) -> None:
    text = (EXAMPLES / "scenario.txt").read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    story = demo("ws://127.0.0.1:1/", "replay", str(file))
    assert story.endswith("exit status: 0\n")
    file.write_text(text.replace("\n< ", "\n@split\n@late 0.01\n< "), encoding="utf-8")
    assert demo("ws://127.0.0.1:1/", "replay", str(file)) == story


@pytest.mark.parametrize("lines", range(0, 9, 2))
def test_a_host_sees_the_plugin_die(lines: int, file: Path) -> None:
    text = (EXAMPLES / "scenario.txt").read_text(encoding="utf-8")
    before = text.split("\n< ")[: lines + 1]
    file.write_text("\n< ".join(before) + "\n@die\n", encoding="utf-8")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        demo("ws://127.0.0.1:1/", "replay", str(file))
    assert caught.value.stderr.startswith("PluginEnded: the plugin was killed by signal 9")


@pytest.mark.parametrize(
    ("text", "speed", "slept"),
    [
        ("< 1\n# +0.25s\n< 2\n< 3\n", 0, [0, 0, 0]),
        ("< 1\n# +0.25s\n< 2\n< 3\n", 1, [0, 0.25, 0]),
        # The host takes its time by itself.
        ("# +0.25s\n> 1\n< 2\n", 1, [0]),
        ("@late 2\n< 2\n< 3\n", 0, [2, 0]),
        ("@late 2\n> 1\n< 2\n", 0, [2]),
        ("@late 2\n# +0.5s\n< 2\n", 1, [2.5]),
    ],
)
def test_pauses(text: str, speed: float, slept: list[float], monkeypatch: Any) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("wsplugin.recording.replay.time.sleep", pauses.append)
    Collecting(parse(text), b"1\n"[: 2 * text.count("> ")], speed).run()
    assert pauses == slept


# --- the command ------------------------------------------------------------------------------


def test_a_difference_is_readable(file: Path) -> None:
    file.write_text('# A story.\n> {"id": 1, "action": "app-background"}\n', encoding="utf-8")
    with replaying(file) as plugin:
        plugin.send({"id": 1, "action": "app-foreground"})
        assert plugin.wait() == 1
    assert plugin.stderr.decode() == (
        f'wsplugin: replay: {file}: line 2: action: expected "app-background", '
        'not "app-foreground"\n'
        '  expected: {"id": 1, "action": "app-background"}\n'
        '  received: {"id": 1, "action": "app-foreground"}\n'
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "No such file"), ("hello\n", "line 1: expected a line that begins with")],
)
def test_what_cannot_be_replayed(file: Path, text: str | None, said: str) -> None:
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with replaying(file) as plugin:
        assert plugin.wait() == 2
    assert said in plugin.stderr.decode()


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--speed", "2"], ["--spee", "1", "a"]])
def test_wrong_arguments(arguments: list[str]) -> None:
    with Plugin("replay", *arguments) as plugin:
        assert plugin.wait() == 2
    assert plugin.stderr.startswith(b"usage: wsplugin replay ")


@posix_only("no other process can send a signal on Windows")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_is_not_in_the_recording(name: str, file: Path) -> None:
    file.write_text("< 1\n> 1\n", encoding="utf-8")
    with replaying(file) as plugin:
        assert plugin.read() == 1
        plugin.process.send_signal(signal.Signals[name])
        assert plugin.wait() == 1
    assert f"{name} has come, which is not expected".encode() in plugin.stderr


# --- recordings -------------------------------------------------------------------------------

SECRET = "swordfish"
LINES_WITH_SECRETS = [
    (b"no JSON SECRET", "invalid-json"),
    (b'{"id": 1, "action": "app-background", "token": "SECRET"}', "invalid-request"),
    (b'{"action":"websocket-create","payload":{"url":"ws://SECRET:1@h/"}}', "invalid-payload"),
    (b'{"action":"websocket-create","payload":{"Headers":{"a":"SECRET"}}}', "invalid-payload"),
    (
        b'{"action":"websocket-create","payload":{"url":"ws://h","headers":{"a":["SECRET"]}}}',
        "invalid-payload",
    ),
    (b'{"action":"app-background","payload":["SECRET"]}', "invalid-payload"),
    (b'["SECRET"]', "invalid-request"),
    (b'"SECRET"', "invalid-request"),
    (b'{"action":"\\ud800","payload":"SECRET"}', "invalid-json"),
    (b'{"headers": {"a": "SECRET"}, "headers": {}}', "invalid-request"),
]


def converse_with_echo(plugin: Plugin, url: str) -> None:
    """Tell a story with secrets and brackets in it."""
    id = plugin.create(f"{url}a/b?token={SECRET}", headers={"Authorization": SECRET, "X": "y"})
    plugin.event(id, "open")
    for text in ("<b>bold</b>", "<=", "<=>", "", "two\nlines\r\u2028", "< 1 >"):
        payload = {"id": id, "type": "text", "data": text}
        assert plugin.request("websocket-send", payload, id="<send>") == {
            "id": "<send>",
            "response": {},
        }
        assert plugin.event(id, "message") == {"type": "text", "data": text}
    numbers = {"id": id, "type": "arraybuffer", "data": [1, 2, 255]}
    plugin.request("websocket-send", numbers, id=4)
    plugin.event(id, "message")
    for line, code in LINES_WITH_SECRETS:
        line = line.replace(b"SECRET", SECRET.encode())
        plugin.write(b"\r\n" + line + b"\r\n")
        assert plugin.read()["error"]["code"] == code, line
    plugin.write(b'{"id": 5, "action": "websocket-close", "payload": {"id": "ws-1"}}')
    plugin.close_stdin()
    assert plugin.read() == {"id": 5, "response": {}}
    assert plugin.events_to_close(id)[-1][1]["code"] == 1000
    assert plugin.read_line() == b""


def test_a_recording_replays(file: Path) -> None:
    with echo_server() as server:
        with Plugin("--record", str(file)) as plugin:
            converse_with_echo(plugin, server.url)
            assert (plugin.wait(), plugin.stderr) == (0, b"")
        with replaying(file) as plugin:
            converse_with_echo(plugin, server.url)
            assert (plugin.wait(), plugin.stderr) == (0, b"")
    text = file.read_text(encoding="utf-8")
    assert SECRET not in text
    assert "<=<b>bold</b>>" in text
    before, mark, _ = text.partition("@end-of-stdin\n")
    assert mark
    assert '"id":5' in before
    assert text.endswith("@exit 0\n")


def test_a_recording_says_when_the_host_differs(file: Path) -> None:
    with echo_server() as server:
        with Plugin("--record", str(file)) as plugin:
            id = plugin.create(server.url)
            plugin.event(id, "open")
            plugin.finish()
        with replaying(file) as plugin:
            plugin.send({"action": "websocket-create", "payload": {"url": "ws://other/"}})
            assert plugin.wait() == 1
    assert b'line 1: id: missing, expected "create"' in plugin.stderr


def test_a_recording_of_an_example_replays_against_it(file: Path) -> None:
    with echo_server() as server:
        story = demo(server.url, "--record", str(file))
        url = server.url
    assert story.endswith("exit status: 0\n")
    # The server is gone.
    assert demo(url, "replay", str(file)) == story
    # And what was recorded is the story that all the examples tell.
    scenario = parse((EXAMPLES / "scenario.txt").read_text(encoding="utf-8"))
    recorded = parse(file.read_text(encoding="utf-8"))
    assert recorded.exit_status == scenario.exit_status
    lines = [step for step in recorded.steps if isinstance(step, LinesOut | LineIn)]
    expected = [step for step in scenario.steps if isinstance(step, LinesOut | LineIn)]
    assert [values(step) for step in lines if isinstance(step, LineIn)]
    for one, other in zip(expected, lines, strict=True):
        assert difference(values(one), example(values(other))) is None


def test_a_recording_without_data_replays_too(file: Path) -> None:
    with echo_server() as server:
        story = demo(server.url, "--record", str(file), "--record-redact-data")
        url = server.url
    text = file.read_text(encoding="utf-8")
    assert "Grüße" not in text
    assert "AAF/gP8=" not in text
    data = base64.b64decode("redacted").hex(" ")
    story = story.replace("Grüße 👋", "redacted").replace("00 01 7f 80 ff", data)
    assert demo(url, "replay", str(file)) == story


def values(step: LineIn | LinesOut) -> Any:
    match step:
        case LineIn():
            return msgspec.json.decode(step.text)
        case LinesOut():
            return [line.value for line in step.lines]


@posix_only("no other process can send a signal on Windows")
def test_signals_are_recorded(file: Path) -> None:
    with Plugin("--record", str(file)) as plugin:
        plugin.request("plugin-describe")
        plugin.process.send_signal(signal.SIGTERM)
        assert plugin.wait() == 0
    transcript = parse(file.read_text(encoding="utf-8"))
    assert [step.name for step in transcript.steps if isinstance(step, Signal)] == ["SIGTERM"]
    play_host(transcript, file, "--speed", "1")


def test_a_plugin_that_is_killed_leaves_what_was_recorded(file: Path) -> None:
    with Plugin("--record", str(file)) as plugin:
        answer = plugin.request("plugin-describe")
        plugin.process.kill()
        plugin.wait()
    (line,) = (s for s in parse(file.read_text(encoding="utf-8")).steps if isinstance(s, LinesOut))
    assert example(line.lines[0].value) == answer


def test_a_recording_begins_anew(file: Path) -> None:
    for id in (1, 2):
        with Plugin("--record", str(file)) as plugin:
            plugin.request("app-background", id=id)
            plugin.finish()
    text = file.read_text(encoding="utf-8")
    assert '"id":2' in text
    assert '"id":1' not in text


def test_pauses_are_recorded(file: Path, monkeypatch: Any) -> None:
    times = iter([10.0, 10.005, 11.255])
    monkeypatch.setattr("wsplugin.recording.record.time.monotonic", lambda: next(times))
    recorder = Recorder(str(file))
    for id in (b"1", b"2", b"3"):
        recorder.line_in(b'{"id":%s}' % id)
    assert file.read_text(encoding="utf-8") == ('> {"id":1}\n> {"id":2}\n# +1.250s\n> {"id":3}\n')


# --- who can read a recording -----------------------------------------------------------------

OLD = "what was there before\n"


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


@posix
@pytest.mark.parametrize("before", [None, 0o600, 0o644, 0o666, 0o200])
def test_a_recording_can_be_read_by_its_owner_only(file: Path, before: int | None) -> None:
    if before is not None:
        file.write_text(OLD, encoding="utf-8")
        file.chmod(before)
    with Plugin("--record", str(file)) as plugin:
        plugin.request("app-background")
        assert mode(file) == 0o600
        plugin.finish()
    assert mode(file) == 0o600
    assert OLD not in file.read_text(encoding="utf-8")


@posix
def test_a_link_is_followed(file: Path) -> None:
    target = file.with_name("target")
    target.write_text(OLD, encoding="utf-8")
    target.chmod(0o644)
    file.symlink_to(target)
    Recorder(str(file)).end_of_stdin()
    assert file.is_symlink()
    assert target.read_text(encoding="utf-8") == "@end-of-stdin\n"
    assert mode(target) == 0o600


@posix
def test_a_pipe_is_opened_once_and_left_as_it_is(file: Path) -> None:
    os.mkfifo(file, 0o640)
    file.chmod(0o640)
    with subprocess.Popen(["cat", str(file)], stdout=subprocess.PIPE, text=True) as reader:
        with Plugin("--record", str(file)) as plugin:
            plugin.request("app-background")
            plugin.finish()
        text, _ = reader.communicate(timeout=TIMEOUT)
    assert text.endswith("@end-of-stdin\n@exit 0\n")
    assert mode(file) == 0o640


def refuse(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@posix
@pytest.mark.parametrize(
    ("name", "fake", "why"),
    [
        ("geteuid", lambda: 12345, "it belongs to another user"),
        ("fchmod", refuse, "Operation not permitted"),
        # As on some file systems.
        ("fchmod", lambda *_: None, "others could read it, whatever its mode"),
    ],
)
def test_a_file_that_cannot_be_kept_from_others_is_refused(
    file: Path,
    name: str,
    fake: Any,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file.write_text(OLD, encoding="utf-8")
    file.chmod(0o644)
    descriptors = list(Path("/dev/fd").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fake)
        with pytest.raises(SystemExit) as caught:
            parse_all(["--record", str(file)])
    assert caught.value.code == 2
    assert f"error: argument --record: cannot write {file}: {why}\n" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == OLD
    assert list(Path("/dev/fd").iterdir()) == descriptors


@posix
@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-"])
def test_a_recording_takes_no_standard_stream_s_place(file: Path, closed: str) -> None:
    command = [*PLUGIN, "--record", str(file)]
    shell = f"exec {shlex.join(command)} {closed}"
    assert subprocess.run(["sh", "-c", shell], timeout=TIMEOUT, check=False).returncode == 0
    assert file.read_text(encoding="utf-8") == "@end-of-stdin\n@exit 0\n"


def test_a_file_that_cannot_be_opened(file: Path) -> None:
    with Plugin("--record", str(file / "none")) as plugin:
        assert plugin.wait() == 2
    assert "argument --record: cannot write" in plugin.stderr.decode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_full_disk_ends_the_recording_and_nothing_else() -> None:
    with Plugin("--record", "/dev/full") as plugin:
        for id in range(3):
            assert plugin.request("app-background", id=id) == {"id": id, "response": {}}
        assert plugin.finish() == ([], 0)
    assert plugin.stderr.count(b"\n") == 1
    assert b"Z WARNING wsplugin.recording.record: recording has ended: " in plugin.stderr


TEXT = st.text() | st.text("<=> m", max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(JSON)
def test_any_value_can_be_written_as_it_is(value: Any) -> None:
    assert difference(literal(value), value) is None
    assert example(literal(value)) == value
