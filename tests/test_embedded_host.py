"""The host that has the plugin on a thread: the promises that the one with a process makes, too."""

import itertools
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import embedded_host
import pytest
from embedded_host import Host, PluginEnded, RequestError, WebSocket

from demos import EXAMPLES
from fake_plugin import NO_PLUGINS, fake
from harness import TIMEOUT, Listener, echo_server, within
from pressure import MESSAGE, Flood
from wsplugin import Settings

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="gives a process an end of a socket pair"
)

Serve = Callable[[int, int, Settings], int]


def served_by(program: str) -> Serve:
    """Return what has a program speak for the plugin."""

    def serve(stdin: int, stdout: int, settings: Settings) -> int:
        return subprocess.run(fake(program), stdin=stdin, stdout=stdout).returncode

    return serve


class Recorder(embedded_host.Listener):
    """Keeps what happens; holds up each message until it may go on."""

    def __init__(self) -> None:
        self.websocket: Future[WebSocket] = Future()
        self.closed: Future[tuple[int, str, str]] = Future()
        self.messages: list[str | bytes] = []
        self.began = threading.Semaphore(0)
        self.may_go_on = threading.Semaphore(0)
        self.slow = False

    def on_open(self, websocket: WebSocket, headers: dict[str, str]) -> None:
        self.websocket.set_result(websocket)

    def on_message(self, websocket: WebSocket, data: str | bytes) -> None:
        self.messages.append(data)
        self.began.release()
        if self.slow:
            assert self.may_go_on.acquire(timeout=TIMEOUT)

    def on_close(self, websocket: WebSocket, code: int, reason: str, cause: str) -> None:
        self.closed.set_result((code, reason, cause))


# --- start ----------------------------------------------------------------------------------------

WRONG = NO_PLUGINS | {
    "ends": ("sys.exit(3)", "^the plugin ended with status 3$"),
    "is silent": ("to_end()", "^the plugin did not describe itself in 0.5 s$"),
}


@pytest.mark.parametrize(("program", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_plugin_is_told_as_such(program: str, words: str) -> None:
    waits = 0.5 if "0.5 s" in words else TIMEOUT
    before = set(threading.enumerate())
    with within(waits), pytest.raises(PluginEnded, match=words):
        Host(serve=served_by(program), start_timeout=waits)
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize(
    ("given", "appends", "expected"),
    [(None, True, 1.5), (9.0, True, 9.0), (None, False, None)],
)
def test_the_exit_timeout_is_set_unless_the_app_sets_one(
    given: float | None, appends: bool, expected: float | None
) -> None:
    served: list[Settings] = []
    serve = served_by("describe(); to_end()")

    def recording(stdin: int, stdout: int, settings: Settings) -> int:
        served.append(settings)
        return serve(stdin, stdout, settings)

    settings = Settings(exit_timeout=given, max_connections=3)
    with Host(settings, appends_options=appends, serve=recording):
        pass
    assert served == [Settings(exit_timeout=expected, max_connections=3)]


def test_the_description_is_kept() -> None:
    with Host() as host:
        assert host.description == host.describe()
        assert {"pause", "ping"} <= host.features


# --- calls ----------------------------------------------------------------------------------------


def test_a_request_that_cannot_be_written_leaves_nothing_pending() -> None:
    listeners = {thread for thread in threading.enumerate() if "listener" in thread.name}
    with Host() as host:
        with pytest.raises(ValueError, match="surrogates"):
            host.request("websocket-send", {"id": "ws-1", "data": "\ud800"})
        with pytest.raises(ValueError, match="JSON"):
            host.request("websocket-ping", {"timeout": math.nan})
        with pytest.raises(TypeError):
            host.create("ws://127.0.0.1/", Recorder(), headers={"X": b"bytes"})  # type: ignore[dict-item]
        with pytest.raises(RequestError):
            host.create("no URL", Recorder())
        assert not host._pending
        for thread in {t for t in threading.enumerate() if "listener" in t.name} - listeners:
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def test_what_can_be_sent() -> None:
    data = bytes(range(10))
    recorder = Recorder()
    with echo_server() as server, Host() as host:
        websocket = host.create(server.url, recorder)
        for kind in ("Grüße 👋", b"", bytearray(data), memoryview(data)[::3]):
            websocket.send(kind)
        for nothing in ("\udc00", 5, None):
            with pytest.raises((TypeError, ValueError)):
                websocket.send(nothing)  # type: ignore[arg-type]
        websocket.close(1005)
        assert recorder.closed.result(TIMEOUT) == (1005, "", "host")
    assert recorder.messages == ["Grüße 👋", b"", data, data[::3]]


def test_open_facts_host_headers_ping_and_a_close_at_once() -> None:
    recorder = Recorder()
    with Listener() as listener, Host() as host:
        websocket = host.create(
            listener.url,
            recorder,
            headers={"Origin": "https://app.test"},
            host_headers={"Origin": "https://host.test"},
            protocols=["chat"],
            per_message_deflate=False,
            tcp_no_delay=False,
            timeout=5,
            app="shop",
        )
        with listener.accept() as peer:
            peer.handshake("Sec-WebSocket-Protocol: chat")
            assert peer.header("Origin") == "https://host.test"
            assert recorder.websocket.result(TIMEOUT) is websocket
            assert (websocket.protocol, websocket.extensions) == ("chat", "")
            assert websocket.profile["fetchStart"] > 1e12
            host.background("another")
            websocket.close(timeout=0)
            code, _, cause = recorder.closed.result(TIMEOUT)
            assert (code, cause) == (1006, "host")
    recorder = Recorder()
    with echo_server() as server, Host() as host:
        websocket = host.create(server.url, recorder, app="shop")
        recorder.websocket.result(TIMEOUT)
        assert 0 < websocket.ping(timeout=5) < 5
        host.background("shop")
        assert recorder.closed.result(TIMEOUT)[2] == "background"
        with pytest.raises(RequestError, match=r"^not-open: "):
            websocket.ping()


def test_an_answer_without_content_fails_its_call_alone() -> None:
    program = "describe(); write({'id': read()['id']}); answer(n=2); to_end()"
    with Host(serve=served_by(program)) as host:
        with pytest.raises(PluginEnded, match="answered without a response or an error"):
            host.describe()
        assert host.describe() == {"n": 2}


# --- listeners ------------------------------------------------------------------------------------


@pytest.mark.parametrize("exc", [ValueError, SystemExit])
def test_a_fault_of_a_listener_is_logged_and_ends_nothing(
    exc: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Stumbling(Recorder):
        def on_message(self, websocket: WebSocket, data: str | bytes) -> None:
            super().on_message(websocket, data)
            raise exc

    recorder = Stumbling()
    with echo_server() as server, Host() as host:
        websocket = host.create(server.url, recorder)
        websocket.send("one")
        websocket.send("two")
        websocket.close()
        assert recorder.closed.result(TIMEOUT) == (1000, "", "host")
    assert recorder.messages == ["one", "two"]
    faults = [record for record in caplog.records if record.name == "embedded_host"]
    assert [record.message for record in faults] == ["a listener has failed"] * 2
    assert all(record.levelno == logging.ERROR and record.exc_info for record in faults)


TALKER = """
asked = []
describe()
create()
write(*(text(str(number)) for number in range(10)))
while request := read():
    asked.append(request["action"].removeprefix("websocket-"))
    write({"id": request["id"], "response": {"asked": asked}})
"""


def asked(host: Host) -> list[str]:
    """Return what the plugin has been asked, without this question."""
    actions: list[str] = host.request("asked")["asked"]
    return [action for action in actions if action != "asked"]


def wait_until_asked(host: Host, expected: list[str]) -> None:
    """Ask until it is so: the host asks on another thread."""
    end = time.monotonic() + TIMEOUT
    while (actions := asked(host)) != expected:
        assert expected[: len(actions)] == actions
        assert time.monotonic() < end, actions


def test_a_full_queue_pauses_and_a_half_empty_one_resumes() -> None:
    recorder = Recorder()
    recorder.slow = True
    with Host(serve=served_by(TALKER), queue_messages=8) as host:
        host.create("ws://127.0.0.1/", recorder)
        wait_until_asked(host, ["pause"])
        for _ in range(5):  # five that were taken, and the sixth is in its hands: four are left
            assert recorder.began.acquire(timeout=TIMEOUT)
            assert asked(host) == ["pause"]
            recorder.may_go_on.release()
        assert recorder.began.acquire(timeout=TIMEOUT)
        wait_until_asked(host, ["pause", "resume"])
        recorder.may_go_on.release(5)


def test_an_app_s_own_pause_lasts_to_its_own_resume() -> None:
    recorder = Recorder()
    recorder.slow = True
    with Host(serve=served_by(TALKER), queue_messages=8) as host:
        websocket = host.create("ws://127.0.0.1/", recorder)
        wait_until_asked(host, ["pause"])
        websocket.pause()
        recorder.may_go_on.release(10)
        for _ in range(10):
            assert recorder.began.acquire(timeout=TIMEOUT)
        assert asked(host) == ["pause", "pause"]
        websocket.resume()
        assert asked(host) == ["pause", "pause", "resume"]


def test_one_slow_listener_does_not_hold_another_connection() -> None:
    slow, quick = Recorder(), Recorder()
    slow.slow = True
    with Listener() as listener, echo_server() as server, Host() as host:
        websocket = host.create(listener.url, slow)
        with listener.accept() as peer:
            peer.handshake()
            Flood(peer, itertools.repeat(MESSAGE, 1600))
            end = time.monotonic() + TIMEOUT
            while not websocket._full:
                host.describe()
                assert time.monotonic() < end
            other = host.create(server.url, quick)
            other.send("quick")
            assert quick.began.acquire(timeout=TIMEOUT)
            assert len(slow.messages) == 1
            slow.slow = False
            slow.may_go_on.release()
            for _ in range(1600):
                assert slow.began.acquire(timeout=TIMEOUT)
            peer.end_threads()


def test_many_queued_events_are_told_in_linear_time() -> None:
    program = """
describe(features=[])
create()
sys.stdout.write((json.dumps(text("x")) + "\\n") * 200_000)
sys.stdout.flush()
write(event("close", code=1000, reason="", cause="server"))
answer()
to_end()
"""

    class Slow(Recorder):
        def on_open(self, websocket: WebSocket, headers: dict[str, str]) -> None:
            assert self.may_go_on.acquire(timeout=TIMEOUT)

    recorder = Slow()
    with Host(serve=served_by(program)) as host:
        host.create("ws://127.0.0.1/", recorder)
        host.describe()  # answered when all has been read
        recorder.may_go_on.release()
        # Of a queue that moves all the others for each this would take minutes.
        assert recorder.closed.result(TIMEOUT) == (1000, "", "server")
    assert len(recorder.messages) == 200_000


# --- the end --------------------------------------------------------------------------------------


def test_a_stop_ends_within_two_seconds_whatever_server_and_listener_do() -> None:
    recorder = Recorder()
    recorder.slow = True
    with Listener() as listener, Host() as host:
        host.create(listener.url, recorder)
        with listener.accept() as peer:
            peer.handshake()
            Flood(peer, itertools.repeat(MESSAGE))
            assert recorder.began.acquire(timeout=TIMEOUT)
            with within(2):
                assert host.stop() == 0
            assert host.stop() == 0
            peer.end_threads()
        with pytest.raises(PluginEnded, match="the plugin ended with status 0"):
            host.describe()
        recorder.slow = False
        recorder.may_go_on.release(10_000)
        assert recorder.closed.result(TIMEOUT)[2] == "shutdown"


ENDS = {
    "exits": ("sys.exit(3)", "ended with status 3"),
    "dies amid a line": ("os.write(1, b'{\"id\": 3, '); sys.exit(5)", "ended with status 5"),
    "babbles": ("print('no JSON', flush=True); to_end()", "no line of its protocol: b'no JSON'"),
    "answers with an error of no kind": (
        "write({'id': read()['id'], 'error': 5}); to_end()",
        "no line of its protocol: ",
    ),
    "creates nothing": ("answer(); to_end()", "no line of its protocol: "),
}


@pytest.mark.parametrize(("program", "words"), ENDS.values(), ids=ENDS)
def test_every_call_and_connection_ends_with_the_plugin(program: str, words: str) -> None:
    recorder = Recorder()
    with Host(serve=served_by(f"describe(); create(); {program}")) as host:
        host.create("ws://127.0.0.1/", recorder)
        with pytest.raises(PluginEnded, match=words):
            host.create("ws://127.0.0.1/", Recorder())
        code, reason, cause = recorder.closed.result(TIMEOUT)
        assert (code, cause) == (1006, "failure")
        assert words in reason
        assert not host._pending


def test_a_plugin_that_ends_its_stream_and_lives_on_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded_host, "GRACE", 0.3)
    released = threading.Event()

    def serve(stdin: int, stdout: int, settings: Settings) -> int:
        program = "import socket; describe(); create(); read()\n"
        program += "socket.socket(fileno=1).shutdown(socket.SHUT_WR); to_end()"
        status = subprocess.run(fake(program), stdin=stdin, stdout=stdout).returncode
        released.wait(TIMEOUT)
        return status

    recorder = Recorder()
    with Host(serve=serve) as host:
        host.create("ws://127.0.0.1/", recorder)
        with pytest.raises(PluginEnded, match="the plugin does not end"):
            host.request("websocket-ping")
        assert recorder.closed.result(TIMEOUT)[::2] == (1006, "failure")
        assert host.stop(grace=0.3) == 1
        released.set()


@pytest.mark.parametrize("exc", [MemoryError, RecursionError, RuntimeError])
def test_a_fault_in_the_reader_fails_all(
    exc: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = WebSocket.take

    def stumble(self: WebSocket, name: str, payload: Any) -> None:
        if name == "message":
            raise exc
        take(self, name, payload)

    monkeypatch.setattr(WebSocket, "take", stumble)
    recorder = Recorder()
    program = "describe(); create(); read(); write(text('x')); to_end()"
    words = f"the host could not take a line of the plugin's ({exc.__name__}())"
    with Host(serve=served_by(program)) as host:
        host.create("ws://127.0.0.1/", recorder)
        with pytest.raises(PluginEnded) as caught:
            host.request("websocket-ping")
        assert str(caught.value) == words
        assert recorder.closed.result(TIMEOUT) == (1006, words, "failure")


APP = """
import sys
sys.path.insert(0, sys.argv[1])
from embedded_host import Host, Listener
class Teller(Listener):
    def on_open(self, websocket, headers):
        print("open", flush=True)
    def on_close(self, websocket, code, *_):
        print("close", code, flush=True)
host = Host()
if len(sys.argv) > 2:
    host.create(sys.argv[2], Teller())
"""


def test_a_connection_keeps_the_process_alive_and_an_idle_plugin_does_not() -> None:
    command = [sys.executable, "-c", APP, str(EXAMPLES / "python_embedded")]
    subprocess.run(command, check=True, timeout=TIMEOUT)
    with Listener() as listener:
        command.append(listener.url)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
            try:
                with listener.accept() as peer:
                    peer.handshake()
                    assert app.stdout
                    assert app.stdout.readline() == "open\n"
                    peer.send(b"\x88\x02\x03\xe8")
                    peer.expect_close(1000)
                assert app.communicate(timeout=TIMEOUT)[0] == "close 1000\n"
            finally:
                app.kill()
        assert app.returncode == 0
