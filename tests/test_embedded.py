"""The plugin on a thread of the host's own process: ``wsplugin.serve``, and its host example."""

import functools
import os
import signal
import ssl
import sys
from collections.abc import Mapping
from concurrent.futures import Future

import embedded_host
import pytest

import test_transcripts
from harness import TIMEOUT, Listener, Plugin, echo_server
from test_secrets import found, meet_proxies_of_every_kind, meet_servers_of_every_kind

# The fixtures of the transcripts.
from test_transcripts import PLAYABLE, TRANSCRIPTS, names, play, tls  # noqa: F401
from wsplugin import Settings
from wsplugin.recording import transcript

pytestmark = pytest.mark.skipif(os.name != "posix", reason="copies descriptors of pipes to sockets")

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
# The same in a host that logs all that can be logged.
LOUD = (
    """
import logging
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s: %(message)s")
"""
    + BRIDGE
)


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
    if "--parent-pid" in conversation.options:
        pytest.skip("a thread is in its host's process")
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


# --- settings -----------------------------------------------------------------------------------


def test_settings_are_normalised_and_checked_for_programs_too() -> None:
    with echo_server() as server:
        listener = Recorder()
        with embedded_host.Host(Settings(allow_hosts=("LocalHost", "127.1"))) as host:
            host.create(server.url, listener)
            listener.opened.result(TIMEOUT)
            assert host.stop() == 0
    with pytest.raises(ValueError, match=r"^max_connections: "):
        embedded_host.Host(Settings(max_connections=0))


# --- what the host's log shows ------------------------------------------------------------------


@pytest.mark.parametrize("debug", ["", "1"])
def test_the_log_of_a_host_shows_what_the_plugin_says_and_nothing_of_its_libraries(
    debug: str,
) -> None:
    environment = {**os.environ, "PYTHONASYNCIODEBUG": debug}
    options = ("--max-message-size", "1000", "--max-line", "10000")
    command = [sys.executable, "-c", LOUD]
    with Plugin(*options, command=command, env=environment) as plugin, Listener() as listener:
        meet_servers_of_every_kind(plugin, listener)
        assert plugin.finish()[1] == 0
    log = plugin.stderr.decode().splitlines()
    assert found(plugin.stderr) == []
    assert "INFO wsplugin.connection: ws-1: open" in log
    # The one line of a library's holds nothing of a connection's.
    others = {line for line in log if not line.split()[1].startswith("wsplugin.")}
    assert {line.rpartition(":")[0] for line in others} == {"DEBUG asyncio: Using selector"}


def test_the_log_of_a_host_shows_no_proxy_s_credentials() -> None:
    command = [sys.executable, "-c", LOUD]
    with Listener() as proxy:
        meet_proxies_of_every_kind("option", proxy, functools.partial(Plugin, command=command))
