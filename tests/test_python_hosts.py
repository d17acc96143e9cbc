"""The plugin within a process, and what only a host in Python can be asked."""

import asyncio
import functools
import os
import signal
import socket
import ssl
import sys
from collections.abc import Mapping
from concurrent.futures import Future

import embedded_host
import pytest

import test_transcripts
from demos import FAKE
from harness import PLUGIN, TIMEOUT, Plugin, echo_server
from host import Close, Host, PluginEnded

# The fixtures of the transcripts.
from test_transcripts import PLAYABLE, TRANSCRIPTS, names, play, tls  # noqa: F401
from wsplugin import Settings
from wsplugin.recording import transcript

posix = pytest.mark.skipif(os.name != "posix", reason="the commands are those of a POSIX shell")
pytestmark = posix

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
