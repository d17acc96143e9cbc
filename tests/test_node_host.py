"""What every host promises, of the one in TypeScript; ``test_host_examples.py`` tells the story."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import fake_plugin
from harness import PLUGIN, TEXT, TIMEOUT, Listener, close_frame, echo_server, frame, within
from pressure import MESSAGE, MIB, Flood
from situations import linux

pytestmark = [
    pytest.mark.skipif(not shutil.which("node"), reason="not on this machine: node"),
    pytest.mark.skipif(os.name != "posix", reason="the fakes' ends are those of POSIX"),
]

SCENES = Path(__file__).parent / "node" / "host_scenes.mjs"

# At the start of every fake. What it has to show the test goes to stderr, which the host hands on.
MORE = """
def say(*words):
    print(*words, file=sys.stderr, flush=True)
done = answer
closed = event("close", code=1000, reason="", cause="server")
"""


def fake(body: str) -> list[str]:
    """Return the command of a fake plugin."""
    return fake_plugin.fake(MORE + body)


DESCRIBED = "describe()\n"
CREATED = f"{DESCRIBED}done(id='ws-1')\n"


def start(
    scene: str, command: Sequence[str], *arguments: str, node: Sequence[str] = (), **popen: Any
) -> subprocess.Popen[str]:
    """Start a scene."""
    return subprocess.Popen(
        ["node", *node, str(SCENES), scene, json.dumps(command), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=popen.pop("stderr", subprocess.PIPE),
        encoding="utf-8",
        **popen,
    )


def finish(process: subprocess.Popen[str]) -> tuple[list[Any], list[str]]:
    """Wait for its end; return what it has printed, and the lines of its stderr."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=2 * TIMEOUT)
        finally:
            process.kill()
    assert process.returncode == 0, (stdout, stderr)
    return [json.loads(line) for line in stdout.splitlines()], (stderr or "").splitlines()


def play(
    scene: str, command: Sequence[str], *arguments: str, **popen: Any
) -> tuple[list[Any], list[str]]:
    """Play a scene to its end; return what it has printed, and the lines of its stderr."""
    return finish(start(scene, command, *arguments, **popen))


# --- start ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("say('no\\nlicence'); sys.exit(3)", "the plugin ended with status 3: licence"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the plugin was killed by signal 9"),
        ("print('hello', flush=True); read()", "no line of its protocol: hello "),
        ("describe(name='other'); read()", 'it calls itself "other"'),
        ("describe(protocol=2); read()", "it speaks protocol 2, this host 1"),
        (
            "write({'id': read()['id'], 'error': {'code': 'unknown-action', 'errMsg': 'none'}})",
            "it does not say what it is (unknown-action: none)",
        ),
        ("time.sleep(60)", "it has not said what it is within 900 ms"),
        ("read(); write({'id': 1}); read()", "an answer without response or error"),
        (
            "say('wsplugin: error: unrecognized arguments:', *sys.argv[1:]); sys.exit(2)",
            "this wsplugin is of 1.0; update it or start it without these options",
        ),
    ],
)
def test_a_command_that_is_no_plugin_is_told_with_words_and_leaves_no_process(
    body: str, words: str
) -> None:
    command = fake(f"say(os.getpid())\n{body}")
    printed, stderr = play("start", command, '{"startTimeout": 900}')
    ((kind, message),) = printed
    assert kind == "PluginEnded"
    assert words in message
    assert sys.executable in message
    with pytest.raises(ProcessLookupError):
        os.kill(int(stderr[0]), 0)


def test_a_command_that_cannot_be_started_is_told_with_words() -> None:
    for command in (["/nowhere/wsplugin"], [str(SCENES)], [""], ["/bin/true", "a\0b"]):
        (((kind, message),), _) = play("start", command)
        assert kind == "PluginEnded"
        assert message.startswith(f"cannot start {command[0]}: ")


@pytest.mark.parametrize(
    ("more", "options", "expected"),
    [
        ([], {}, "--parent-pid PID --exit-timeout 1.5"),
        ([], {"exitTimeout": 800}, "--parent-pid PID --exit-timeout 0.8"),
        (["--parent-pid", "7"], {}, "--parent-pid 7 --exit-timeout 1.5"),
        (["--exit-timeout=3", "--x"], {}, "--exit-timeout=3 --x --parent-pid PID"),
        ([], {"appendOptions": False}, ""),
    ],
)
def test_the_host_appends_its_options_unless_they_are_there_or_unwanted(
    more: list[str], options: dict[str, Any], expected: str
) -> None:
    command = fake("say(*sys.argv[1:])\nsay(os.getppid())\ndescribe()\nread()")
    printed, (arguments, pid) = play("start", [*command, *more], json.dumps(options))
    assert printed == [["ok", "wsplugin"], [0]]
    assert arguments == expected.replace("PID", pid)


# --- stop -------------------------------------------------------------------------------------


def test_a_stop_beside_a_silent_server_ends_with_status_0_within_two_seconds() -> None:
    with Listener() as server:
        process = start("stop", PLUGIN, server.url)
        with server.accept() as peer:
            peer.handshake()
            peer.expect_close()  # and no answer to it
            (both, elapsed), (again, *refused) = finish(process)[0]
    assert both == [0, 0]
    assert again == 0
    assert elapsed < 2000 + 1000
    assert refused == ["PluginEnded", "the plugin ended with status 0"]


def test_a_stop_has_a_bound_though_a_grandchild_holds_the_pipes() -> None:
    command = fake(
        "child = subprocess.Popen(['sleep', '600'], stdin=subprocess.DEVNULL)\n"
        "say(child.pid)\ndescribe()\nread()"
    )
    # Not a pipe: the grandchild does not hold it, but the plugin's own stderr.
    (((status, _), elapsed), *_), stderr = play("stop", command)
    os.kill(int(stderr[0]), 9)
    assert status == 0
    assert elapsed < 1000 + 1500


# --- back-pressure ----------------------------------------------------------------------------


def test_a_slow_loop_holds_up_its_own_server_alone_and_loses_nothing() -> None:
    count = 400
    with Listener() as server, echo_server() as echo:
        process = start("slow", PLUGIN, server.url, echo.url)
        with server.accept() as peer:
            peer.handshake()
            flood = Flood(peer, [MESSAGE] * count)
            assert process.stdout
            # It is printed while the flood's loop stands still.
            assert json.loads(process.stdout.readline()) == ["echoes", 100]
            assert flood.sent < count * len(MESSAGE)  # 26 MB, and somebody holds it back
            flood.join(TIMEOUT)
            peer.send(close_frame(1000))
            peer.expect_close()
            peer.close()
            printed, _ = finish(process)
    assert printed == [["close", 1000, count * 65536]]


@linux
@pytest.mark.slow
def test_a_flood_does_not_become_memory() -> None:
    with Listener() as server:
        process = start("flood", PLUGIN, server.url, node=["--expose-gc"])
        with server.accept() as peer:
            peer.handshake()
            flood = Flood(peer, [MESSAGE] * 1600)
            assert process.stdout
            rss = []
            for line in process.stdout:
                word, messages, most, *more = json.loads(line)
                rss += more
                ahead = flood.sent - messages * 65536
                assert ahead < 16e6
                if word == "all":
                    break
            peer.end_threads()
            finish(process)
    assert messages > 60
    assert most < 8 * MIB
    assert rss[-1] - rss[0] < 40 * MIB


QUEUE = {"queueBytes": 1000, "queueLength": 10}


@pytest.mark.parametrize(
    ("messages", "held"),
    [
        ("[text('x' * 499)] * 2", []),
        ("[text('x' * 500)] * 2", ["websocket-pause", "websocket-resume"]),
        ("[text('ü' * 250)] * 2", ["websocket-pause", "websocket-resume"]),
        (
            "[event('message', type='base64', data='AAAA' * 167)] * 2",
            ["websocket-pause", "websocket-resume"],
        ),
        ("[text('')] * 8", []),
        ("[text('')] * 10", ["websocket-pause", "websocket-resume"]),
        ("[text('')] * 60", ["websocket-pause", "websocket-resume"]),
    ],
)
def test_a_full_queue_pauses_and_a_half_empty_one_resumes(messages: str, held: list[str]) -> None:
    body = f"""
ends = {[] if held else "[closed]"}
write(*{messages}, *ends, {{"id": read()["id"], "response": {{}}}})
while line := read():
    say(line["action"])
    write({{"id": line["id"], "response": {{}}}})
    if line["action"] == "websocket-resume":
        write(closed)
"""
    printed, said = play("queue", fake(CREATED + body), json.dumps(QUEUE))
    assert printed[0][0] == int(messages.rpartition("*")[2])
    assert said == held


def test_the_other_half_of_the_queue_is_there_before_a_server_may_send_again() -> None:
    body = """
write(*[text("")] * 10, {"id": read()["id"], "response": {}})
while line := read():
    say(line["action"].partition("-")[2])
    write({"id": line["id"], "response": {}})
"""
    _, said = play("half", fake(CREATED + body))
    assert said == ["pause", *["describe"] * 4, "resume", *["describe"] * 6]


def test_a_plugin_that_cannot_pause_is_not_asked_to() -> None:
    body = """
describe(features=[])
done(id="ws-1")
write(*[text("")] * 60, {"id": read()["id"], "response": {}}, closed)
while line := read():
    say(line["action"])
"""
    printed, said = play("queue", fake(body), json.dumps(QUEUE))
    assert printed[0][0] == 60
    assert said == []


def test_a_queue_that_runs_empty_does_not_resume_what_the_app_has_paused() -> None:
    body = """
done()
write({"id": read()["id"], "response": {}}, *[text("")] * 4)
while line := read():
    say(line["action"])
    write({"id": line["id"], "response": {}})
"""
    _, said = play("holds", fake(CREATED + body))
    assert said == ["plugin-describe", "websocket-resume", "plugin-describe"]


def test_leaving_the_loop_closes_the_connection_and_a_second_loop_ends_at_once() -> None:
    body = """
write(text("first"), text("second"))
say(read()["action"])
write({"id": 3, "response": {}}, closed)
done()
read()
"""
    printed, said = play("loops", fake(CREATED + body))
    assert printed == [["message"], ["of the app"], [0]]
    assert said == ["websocket-close"]


def test_200_000_queued_events_drain_in_linear_time() -> None:
    body = """
describe(features=[])
done(id="ws-1")
sys.stdout.buffer.write((json.dumps(text("x")).encode() + b"\\n") * 200_000)
write({"id": read()["id"], "response": {}}, closed)
read()
"""
    (((count, elapsed),), _) = play("queue", fake(body), "{}")
    assert count == 200_000
    assert elapsed < 3000  # half a second; taken from the front of an array it would be a minute


# --- pending calls ----------------------------------------------------------------------------


def test_what_the_host_does_not_know_is_ignored() -> None:
    body = """
id = read()["id"]
write(
    {"id": 99, "response": {}},
    {"id": None, "error": {"code": "invalid-json", "errMsg": "?"}},
    {"id": str(id), "response": {}},
    {"greeting": "hello"},
    [],
    {"event": "other", "payload": 5},
    event("later", x=1),
    {**event("message", type="text", data="for nobody"), "payload": {
        "id": "ws-9", "name": "message", "payload": {"type": "text", "data": "x"}}},
    event("message", type="later", data=5),
    event("message", type="text", data="a text", more=True),
    {"id": id, "error": {"code": "later", "errMsg": "words"}, "more": 1},
    {"id": id, "response": {}},
)
done(more=1)
write(event("close", code=1000, reason="", cause="later"))
read()
"""
    printed, _ = play("pending", fake(CREATED + body))
    # In which order answers and events come to the app, beyond each of them, is Node's affair.
    assert sorted(printed, key=str) == [
        ["RequestError", "later: words"],
        ["close", 1000, "later", ""],
        ["message", "a text", None, None],
        ["ok", None],
        [0],
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": 3}', "an answer without response or error"),
        ('{"id": 3, "response": 0}', "an answer without response or error"),
        ('{"id": 3, "error": null}', "no line of its protocol"),
        ('{"id": 3, "resp', "the plugin ended with status 0"),
        ("null", "no line of its protocol"),
        ('{"event": "websocket-event"}', "no line of its protocol"),
    ],
)
def test_a_line_that_is_none_fails_what_is_pending_and_closes_what_is_open(
    line: str, words: str
) -> None:
    end = "" if line.endswith("resp") else "\\n"
    body = f"read(); sys.stdout.write('{line}{end}'); sys.stdout.flush()"
    body += "\nif not sys.argv: read()" if not end else "\ntime.sleep(60)"
    printed, _ = play("pending", fake(f"{CREATED}{body}"))
    *outcomes, (status,) = printed
    assert status == (137 if end else 0)
    assert len(outcomes) == 3
    assert all(words in " ".join(map(str, outcome)) for outcome in outcomes)
    close = ["close", 1006, "failure"]
    assert [outcome[:3] for outcome in outcomes if outcome[0] == "close"] == [close]


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stdin"])
def test_a_plugin_that_closes_a_stream_and_lives_on_is_brought_to_its_end(stream: str) -> None:
    body = f"read()\nsay('deaf or dumb')\nos.close(sys.{stream}.fileno())\ntime.sleep(60)"
    if stream == "stdin":
        # It is noticed by the next one to write.
        body = body.replace("read()\n", "done()\n")
    with within(5):
        printed, _ = play("pending", fake(CREATED + body))
    words = "the plugin was killed by signal 9: deaf or dumb"
    assert ["close", 1006, "failure", words] in printed
    assert ["PluginEnded", words] in printed
    assert printed[-1] == [137]


# --- stderr -----------------------------------------------------------------------------------

TALKS = "describe()\nread()\nsay('ü' * 200_000); say('short'); say(); say('last'); sys.exit(1)"
ENDED = ["PluginEnded", "the plugin ended with status 1: last"]


def test_stderr_goes_where_the_app_says() -> None:
    lines = [[5, "short"], [0, ""], [4, "last"]]
    printed, said = play("stderr", fake(TALKS), "take")
    assert printed[0] == ENDED
    status, told = printed[1]
    assert status == 1
    assert told[-3:] == lines
    assert sum(length for length, _ in told[:-3]) == 200_000  # in pieces: no line has no bound
    assert said == []
    assert play("stderr", fake(TALKS), "ignore") == ([ENDED, [1, []]], [])
    # What waits for a slow reader at the end of the app is lost: no more than a pipe holds.
    printed, said = play("stderr", fake(TALKS.replace("200_000", "20_000")), "inherit")
    assert printed == [ENDED, [1, []]]
    assert said[-3:] == ["short", "", "last"]


def test_a_listener_for_stderr_that_throws_is_told_and_ends_nothing() -> None:
    printed, said = play("stderr", fake(TALKS), "fail")
    assert printed == [ENDED, [1, []]]
    assert re.search(r"Error: the app's: short$", "\n".join(said), re.MULTILINE)


@pytest.mark.parametrize("state", ["broken", "blocked"])
def test_neither_a_broken_nor_a_blocked_stderr_of_the_app_stops_anything(state: str) -> None:
    read_end, write_end = os.pipe()
    try:
        if state == "broken":
            os.close(read_end)
        talks = TALKS.replace("read()\n", "read()\nfor _ in range(100): say('x' * 10_000)\n")
        process = start("stderr", fake(talks), "inherit", stderr=write_end)
        assert finish(process)[0] == [ENDED, [1, []]]
    finally:
        os.close(write_end)
        if state == "blocked":
            os.close(read_end)


# --- the app's process ------------------------------------------------------------------------


def test_an_idle_plugin_does_not_keep_the_process_alive() -> None:
    assert play("idle", PLUGIN) == ([["exit"]], [])


def test_what_cannot_be_encoded_leaves_nothing_pending() -> None:
    (unencodable, surrogate, end), _ = play("idle", PLUGIN, "unencodable", "surrogate")
    assert unencodable[0] == surrogate[0] == "TypeError"
    assert end == ["exit"]


def test_a_pending_call_keeps_the_process_alive() -> None:
    body = (
        "describe(); id = read()['id']; time.sleep(0.5); write({'id': id, 'response': {}})\nread()"
    )
    assert play("idle", fake(body), "call")[0] == [["answered"], ["exit"]]


def test_an_open_connection_keeps_the_process_alive_until_its_close() -> None:
    with Listener() as server:
        process = start("idle", PLUGIN, server.url)
        with server.accept() as peer:
            peer.handshake()
            assert process.stdout
            assert json.loads(process.stdout.readline()) == ["open"]
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            peer.send(frame(TEXT, b"x") + close_frame())
            peer.expect_close()
            peer.close()
            assert finish(process)[0] == [["message"], ["close"], ["exit"]]


# --- calls ------------------------------------------------------------------------------------


def test_send_takes_what_people_have_in_the_order_of_the_calls() -> None:
    with echo_server() as server:
        printed, _ = play("data", PLUGIN, server.url)
    three = [[0, 1, 255]]
    assert [value[0] for value in printed[0]] == ["TypeError", "TypeError"]
    assert printed[1:] == [
        ["open", None],
        ["text"],
        [[97, 98, 0]],
        three,
        ["behind a Blob"],
        [[]],
        three,
        three,
        three,
        [[1, 0, 0, 255]],
        three,
        ["last"],
        ["close", 1005],
    ]


def test_what_1_1_has_added_is_there() -> None:
    body = """
while line := read():
    say(json.dumps({key: value for key, value in line.items() if key != "id"}))
    response = {"websocket-create": {"id": "ws-1"}, "websocket-ping": {"rtt": 1.5}}
    write({"id": line["id"], "response": response.get(line["action"], {})})
"""
    printed, said = play("calls", fake(f"{DESCRIBED}{body}"))
    assert printed == [[1.5]]
    lines = [json.loads(line) for line in said]
    ours = {"app": "shop"}
    ws = {"id": "ws-1"}
    create = {
        "url": "ws://127.0.0.1:1/",
        "binaryType": "base64",
        "headers": {"A": "b"},
        "tcpNoDelay": False,
    }
    referer = {"Referer": "https://example.com"}
    close = {**ws, "code": 3000, "reason": "done", "timeout": 0}
    assert lines == [
        {"action": "websocket-create", **ours, "headers": referer, "payload": create},
        {"action": "websocket-send", **ours, "payload": {**ws, "type": "text", "data": "x"}},
        {"action": "websocket-pause", **ours, "payload": ws},
        {"action": "websocket-resume", **ours, "payload": ws},
        {"action": "websocket-ping", **ours, "payload": {**ws, "timeout": 300}},
        {"action": "websocket-close", **ours, "payload": close},
        {"action": "app-background", **ours, "payload": {}},
        {"action": "app-background", "payload": {}},
    ]
