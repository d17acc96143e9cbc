"""The npm package `wsplugin`, as it is installed: from its tarball, in an empty folder."""

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness import TEXT, TIMEOUT, Listener, close_frame, echo_server, frame
from node_package import SOURCES, App, packages, run
from pressure import MIB, deaf_server

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("node"), reason="not on this machine: node"),
    pytest.mark.skipif(os.name != "posix", reason="the command of the plugin is a POSIX shell's"),
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    """An app with the package."""
    return App(tmp_path_factory.mktemp("npm"))


def play(app: App, program: str, *arguments: str, **variables: str) -> list[Any]:
    """Play a scene to its end; return the lines that it has printed."""
    stdout = app.run(program, *arguments, variables=variables)
    return [json.loads(line) for line in stdout.splitlines()]


# --- the package ------------------------------------------------------------------------------


def test_import_and_require_give_the_same_classes(app: App) -> None:
    main, main_of_require, mini, mini_of_require = play(app, "package_scenes.mjs", "same")
    assert main == [main_of_require[0], True]
    assert mini == [mini_of_require[0], True]
    assert {"Host", "Connection", "WebSocket", "configure", "shutdown", "Supervisor"} < {*main[0]}
    assert mini[0] == ["MiniApp", "SocketTask", "connectSocket"]


def test_the_tarball_has_what_is_needed_and_no_more(app: App) -> None:
    with tarfile.open(app.tarball) as tar:
        names = sorted(name.removeprefix("package/") for name in tar.getnames())
        files = {name: tar.extractfile(f"package/{name}") for name in ("package.json", "LICENSE")}
        texts = {name: file.read() for name, file in files.items() if file}
    manifest = json.loads(texts["package.json"])
    assert texts["LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert all(
        re.match(r"(package\.json|README\.md|LICENSE|dist/[a-z-]+\.(d\.m?ts|m?js|json))$", name)
        for name in names
    ), names
    assert "dependencies" not in manifest
    modules = {"host", "supervisor", "shared", "websocket", "index", "mini-app"}
    assert {name for name in names if name.endswith(".js")} == {
        f"dist/{name}.js" for name in modules
    }


def test_the_host_of_the_readme_works(app: App) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```js\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    with echo_server() as server:
        for written, instead in (
            (".venv/bin/wsplugin", str(app.plugin)),
            ("ws://127.0.0.1:8765/", server.url),
        ):
            assert written in program
            program = program.replace(written, instead)
        (app.folder / "readme.mjs").write_text(program, encoding="utf-8")
        assert app.run("readme.mjs") == "hello\nclosed 1005 \n"


USE = """
import { configure, Connection, Host, RequestError, Supervisor, WebSocket } from "wsplugin";
import { shutdown } from "wsplugin";
import type { CloseEvent, Data, HostEvent } from "wsplugin";
import { connectSocket, MiniApp, type SocketTask } from "wsplugin/mini-app";

configure({ args: ["--allow-host", "example.com"], stderr: (line: string) => line.length });
const websocket: WebSocket = new WebSocket(new URL("wss://example.com"), ["chat"], { timeout: 5 });
websocket.binaryType = "arraybuffer";
websocket.onclose = ({ code, reason, wasClean }) => [code + 1, reason.length, wasClean === true];
websocket.addEventListener("error", ({ error }) => error.message.length);
websocket.addEventListener("message", (event: MessageEvent) => event.data, { once: true });
websocket.addEventListener("close", { handleEvent: (event: CloseEvent) => event.code });
const states: 0 | 1 | 2 | 3 = websocket.readyState;
if (states === WebSocket.OPEN) websocket.send(new Uint8Array(2));
const round: Promise<number> = websocket.ping(5);

async function host(data: Data): Promise<void> {
  const host = await Host.spawn(["wsplugin"], { queueBytes: 5 });
  const connection: Connection = await host.create("ws://x", { app: "a", hostHeaders: { a: "b" } });
  await connection.send(data);
  for await (const event of connection) {
    const known: HostEvent = event;
    if (known.name === "close") known.code.toFixed();
    if (event.name === "open") event.profile.rtt.toFixed();
  }
  const supervisor = new Supervisor(() => Host.spawn());
  await supervisor.stop();
}
const task: SocketTask = connectSocket({ url: "wss://x", success: ({ errMsg }) => errMsg.length });
task.onOpen(({ header, profile }) => [header["x"], profile.cost]);
new MiniApp({ app: "x" }).dispose();
export { host, RequestError, round, shutdown };
// @ts-expect-error: there are types
websocket.send(5);
"""


@pytest.mark.parametrize("kind", ["mts", "cts"])
@pytest.mark.parametrize("libraries", ["node", "dom"])
def test_the_types_are_those_of_both_ways_to_load_it(app: App, kind: str, libraries: str) -> None:
    file = f"use-{libraries}.{kind}"
    (app.folder / file).write_text(USE)
    lib = (
        ["--lib", "es2022,dom", "--types", ""]
        if libraries == "dom"
        else ["--lib", "es2022", "--types", "node"]
    )
    tsc = packages() / ".bin" / "tsc"
    run(app.folder, str(tsc), "--strict", "--noEmit", "--module", "nodenext", *lib, file)


# --- how the plugin is found ------------------------------------------------------------------


def test_the_plugin_is_found_in_the_order_that_the_readme_has(app: App, tmp_path: Path) -> None:
    def find(option: str = "", **variables: str) -> Any:
        (((found,),)) = play(app, "package_scenes.mjs", "find", option, **variables)
        return found["path"], found["found"]

    none = {"WSPLUGIN": ""}
    assert find("/an/option", WSPLUGIN="/variable") == ("/an/option", True)
    assert find(WSPLUGIN="/variable") == ("/variable", True)
    assert find(**none) == ("wsplugin", False)
    name = run(tmp_path, "node", "-p", "`@wsplugin/${process.platform}-${process.arch}`").strip()
    package = app.folder / "node_modules" / name
    package.mkdir(parents=True)
    try:
        manifest = {"name": name, "exports": {"./package.json": "./package.json"}}
        (package / "package.json").write_text(json.dumps(manifest))
        assert find(**none) == (str(package / "bin" / "wsplugin"), True)
    finally:
        shutil.rmtree(package.parent)


def test_the_plugin_is_found_on_the_path(app: App) -> None:
    path = f"{app.plugin.parent}{os.pathsep}{os.environ['PATH']}"
    with echo_server() as server:
        printed = play(app, "package_scenes.mjs", "ends", server.url, "", WSPLUGIN="", PATH=path)
    assert printed == [["exit"]]


def test_a_missing_plugin_is_told_with_what_to_do(app: App) -> None:
    node = Path(shutil.which("node") or "").parent
    ((words, code, clean),) = play(
        app, "package_scenes.mjs", "missing", WSPLUGIN="", PATH=str(node)
    )
    assert (code, clean) == (1006, False)
    assert words.startswith("cannot start wsplugin: ")
    assert "pip install wsplugin" in words
    assert "npm install @wsplugin/" in words
    assert "WSPLUGIN" in words


def test_configure_comes_before_the_first_connection(app: App) -> None:
    with echo_server() as server:
        command = str(app.plugin)
        failed, same, other, anew = play(
            app, "package_scenes.mjs", "configured", server.url, command
        )
    assert "--allow-host" in failed[0]
    assert same == anew == [""]
    assert "configure comes before the first connection" in other[0]


# --- the process ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["", "shutdown"])
def test_an_app_without_an_open_connection_ends_by_itself(app: App, how: str) -> None:
    with echo_server() as server:
        assert play(app, "package_scenes.mjs", "ends", server.url, how) == [["exit"]]


def test_an_open_connection_keeps_the_app_alive(app: App) -> None:
    with Listener() as server:
        process = app.start("package_scenes.mjs", "stays", server.url)
        with process, server.accept() as peer:
            try:
                peer.handshake()
                assert process.stdout
                assert json.loads(process.stdout.readline()) == ["open"]
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.5)
                peer.send(frame(TEXT, b"x") + close_frame())
                peer.expect_close()
                peer.close()
                stdout, _ = process.communicate(timeout=TIMEOUT)
            finally:
                process.kill()
        assert stdout.splitlines() == ['["close",1000]', '["exit"]']


def test_a_killed_plugin_is_started_again(app: App, tmp_path: Path) -> None:
    with echo_server() as server:
        *killed, opened, pong, cut = play(
            app, "package_scenes.mjs", "killed", server.url, PIDFILE=str(tmp_path / "pid")
        )
    assert killed == [["the plugin was killed by signal 9", 1006, False]] * 3
    assert [opened, pong] == [["open"], [True]]
    assert cut == ["terminated", 1006, False]


def test_nobody_is_evicted_and_one_too_many_is_told(app: App) -> None:
    with echo_server() as server:
        assert play(app, "package_scenes.mjs", "room", server.url) == [
            ["limit-reached", 1006, True]
        ]


def test_what_a_server_does_not_read_waits_in_the_app_in_order(app: App) -> None:
    with deaf_server() as server, echo_server() as echo:
        process = app.start("package_scenes.mjs", "burst", server.url, echo.url)
        with process, server.accept() as peer:
            try:
                peer.handshake()
                assert process.stdout
                assert json.loads(process.stdout.readline()) == ["queued", True]
                messages = [peer.read_frame()[1] for _ in range(40)]
                peer.send(close_frame(1000))
                peer.expect_close()
                peer.close()
                stdout, stderr = process.communicate(timeout=TIMEOUT)
            finally:
                process.kill()
    assert [int(message[:3]) for message in messages] == list(range(40))
    assert {len(message) for message in messages} == {MIB}
    assert json.loads(stdout) == [1000, 0], stderr


def test_200_000_messages_leave_in_linear_time(app: App) -> None:
    ((queued, elapsed),) = play(app, "package_scenes.mjs", "many", "200000")
    assert queued == 200_000
    ((_, small),) = play(app, "package_scenes.mjs", "many", "25000")
    assert elapsed < 8 * small * 3


def test_200_000_messages_arrive_in_linear_time(app: App) -> None:
    count = 200_000
    with Listener() as server:
        process = app.start("package_scenes.mjs", "flood", server.url)
        with process, server.accept() as peer:
            try:
                peer.handshake()
                peer.send(frame(TEXT, b"x") * count + close_frame())
                stdout, stderr = process.communicate(timeout=6 * TIMEOUT)
            finally:
                process.kill()
    assert process.returncode == 0, stderr
    assert json.loads(stdout)[0] == count


# --- clients ----------------------------------------------------------------------------------

CLIENTS: dict[str, list[Any]] = {
    "reconnecting-websocket": [
        ["first"],
        ["killed", 1000],
        ["second"],
        ["another process", True],
        ["dropped", 1000],
        ["third"],
        ["closed", 1000],
    ],
    "graphql-ws": [
        [{"hello": "world"}],
        [{"count": "1"}],
        [{"count": "2"}],
        [{"count": "3"}],
    ],
    "engine.io-client": [
        ["websocket", "text 👋", [0, 1, 255]],
        ["close", "forced close"],
    ],
    "socket.io-client": [[{"to": "you"}], [3, [1, 2]], [{"to": "you"}]],
    "mqtt": [["greetings/you", "Grüße 👋", True]],
    "signalr": [["adding", 1, 2], [3]],
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_people_use(app: App, tmp_path: Path, client: str) -> None:
    printed = play(app, "clients.mjs", client, PIDFILE=str(tmp_path / "pid"))
    assert printed == CLIENTS[client]


# --- the supervisor, on a clock of the test's own ---------------------------------------------

FIVE = "the plugin was started five times in three minutes"


def supervise(app: App, scene: str) -> list[Any]:
    """Play a scene of the supervisor."""
    return play(app, "supervisor_scenes.mjs", scene)


def test_a_plugin_that_dies_is_started_again_later_and_later_and_not_a_sixth_time(
    app: App,
) -> None:
    assert supervise(app, "deaths") == [
        [1000, "start"],
        [1000, "a on plugin 1"],
        [1000, "b on plugin 1"],
        [1000, "death"],
        [1000, "start"],
        [1000, "after death 1 on plugin 2"],
        [6000, "death"],
        [6500, "start"],
        [6500, "after death 2 on plugin 3"],
        [11000, "death"],
        [12000, "start"],
        [12000, "after death 3 on plugin 4"],
        [16000, "death"],
        [18000, "start"],
        [18000, "after death 4 on plugin 5"],
        [21000, "death"],
        [21000, "after death 5", "PluginEnded", FIVE],
        [180_000, "early", "PluginEnded", FIVE],
        [180_999, "still early", "PluginEnded", FIVE],
        [182_000, "start"],
        [182_000, "late on plugin 6"],
    ]


def test_a_restart_that_fails_is_tried_again_and_creates_wait_for_it(app: App) -> None:
    assert supervise(app, "restarts")[2:] == [
        [0, "death"],
        [0, "no such file"],
        [500, "no such file"],
        [1500, "start"],
        [1500, "waits on plugin 2"],
    ]


def test_a_first_start_that_fails_is_told_at_once(app: App) -> None:
    lines = supervise(app, "never")
    none = "no such file"
    assert lines[:4] == [
        [0, none],
        [0, "a", "PluginEnded", none],
        [0, none],
        [0, "b", "PluginEnded", none],
    ]
    assert [line for line in lines[4:] if len(line) == 2] == [
        [500, none],
        [11_000, none],
        [22_000, none],
    ]
    assert lines[-1] == [30_000, "f", "PluginEnded", FIVE]


def test_a_stop_is_for_good(app: App) -> None:
    stopped = "the supervisor has been stopped"
    assert supervise(app, "stop")[2:] == [[0, [7, 7], 1], [0, "b", "PluginEnded", stopped]]
    assert supervise(app, "stop before") == [[0, 0], [0, "b", "PluginEnded", stopped]]
    last = [[500, "waits", "PluginEnded", stopped], [500, 0]]
    assert supervise(app, "stop while waiting")[-2:] == last


# --- mini-apps --------------------------------------------------------------------------------


def mini(app: App, scene: str, **variables: str) -> list[Any]:
    """Play a scene of a mini-app."""
    return play(app, "mini_app_scenes.mjs", scene, **variables)


def calls(name: str, kind: str, words: str) -> list[Any]:
    """Return what a call's callbacks print."""
    return [[name, kind, words], [name, "complete", words]]


NOT_OPEN = "sendSocketMessage:fail SocketTask.readyState is not OPEN"


def test_a_mini_app_has_what_the_pages_on_connect_socket_say(app: App) -> None:
    lines = mini(app, "talk")
    # What the pages on SocketTask.onOpen list.
    profile = ["fetchStart", "domainLookUpStart", "domainLookUpEnd", "connectStart", "connectEnd"]
    profile += ["rtt", "handshakeCost", "cost"]
    expected = [
        ["called at once", False, 0],
        *calls("early", "fail", NOT_OPEN),
        *calls("connect", "success", "connectSocket:ok"),
        ["websocket", profile, 1],
        ["5", "true", None, None, None],
        ["task", "Message", {"data": "text"}],
        *calls("send", "success", "sendSocketMessage:ok"),
        ["ArrayBuffer", [0, 1, 255]],
        *calls("close", "success", "closeSocket:ok"),
        ["task", "Close", {"code": 3000, "reason": "done"}],
        [3],
        *calls("late", "fail", NOT_OPEN),
    ]
    for line in expected:
        assert line in lines, lines
    failed = [line for line in lines if line[1:2] == ["fail"]]
    assert [line[0] for line in failed] == ["early", "number", "wrong code", "late"]
    assert failed[1][2].startswith("sendSocketMessage:fail ")
    assert failed[2][2].startswith("closeSocket:fail payload.code: ")


def test_five_connections_at_a_time_of_each_app_and_the_sixth_is_refused(app: App) -> None:
    words = "connectSocket:fail exceed max concurrent count"
    assert mini(app, "five") == [
        ["https://container.example/one"],
        *calls("sixth", "fail", words),
        ["sixth", "Error", {"errMsg": words}],
        [3],
        *calls("seventh", "success", "connectSocket:ok"),
        [[3, 1, 1, 1, 1]],
    ]


def test_what_the_plugin_refuses_fails_the_socket(app: App) -> None:
    lines = mini(app, "refused")
    refusal = lines[0][2]
    assert refusal.startswith("connectSocket:fail payload.url: ")
    http = "the server refused the connection: HTTP 403"
    assert lines[:3] == [*calls("connect", "fail", refusal), ["task", "Error", {"errMsg": refusal}]]
    assert lines[3:7] == [
        *calls("403", "success", "connectSocket:ok"),
        ["403", "Error", {"errMsg": http}],
        ["403", "Close", {"code": 1006, "reason": http}],
    ]
    assert [line[:2] for line in lines[7:]] == [["close", "fail"], ["close", "complete"]]


def test_the_limit_of_the_plugin_fails_the_socket(app: App, tmp_path: Path) -> None:
    plugin = tmp_path / "wsplugin"
    plugin.write_text(f'#!/bin/sh\nexec "{app.plugin}" "$@" --max-connections 1\n')
    plugin.chmod(0o755)
    lines = mini(app, "limit", WSPLUGIN=str(plugin))
    words = lines[0][2]
    assert "limit" in words
    expected = [*calls("second", "fail", words), ["second", "Error", {"errMsg": words}], [1]]
    assert lines == expected


def test_the_background_ends_connections_after_its_time_and_refuses_until_shown(app: App) -> None:
    entered = "application entered background"
    interrupted = "connectSocket:fail interrupted"
    lines = mini(app, "background")
    assert lines[0] == [1]  # shown again in time
    assert sorted(lines[1:4], key=str) == [
        ["connecting", "Close", {"code": 1006, "reason": entered}],
        ["connecting", "Error", {"errMsg": interrupted}],
        ["open", "Close", {"code": 1001, "reason": entered}],
    ]
    assert lines[4:] == [*calls("hidden", "fail", interrupted), [1, 1]]


def test_an_app_that_is_disposed_of_is_called_no_more(app: App) -> None:
    assert mini(app, "dispose") == [[3]]


def test_a_listener_that_throws_is_told_and_stops_nothing(app: App) -> None:
    *events, faults = mini(app, "faults")
    assert events == [
        ["task", "Message", {"data": "x"}],
        ["task", "Close", {"code": 1000, "reason": ""}],
    ]
    assert faults == [["success", "complete", "open", "message"]]


# --- the example ------------------------------------------------------------------------------


def test_an_app_stays_connected_beyond_servers_and_plugins(app: App, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    example = str(SOURCES / "js" / "reconnect.js")
    with Listener() as server:
        process = app.start(example, server.url, str(app.plugin), variables={"PIDFILE": str(pid)})
        with process:
            try:
                for end in ("close", "cut", "death", "none"):
                    with server.accept() as peer:
                        peer.handshake()
                        assert peer.read_frame()[1] == b"here I am again"
                        match end:
                            case "close":
                                peer.send(close_frame(1001))
                                peer.expect_close()
                            case "cut":
                                peer.reset()
                            case "death":
                                os.kill(int(pid.read_text()), signal.SIGKILL)
                            case "none":
                                assert process.poll() is None
            finally:
                process.kill()
