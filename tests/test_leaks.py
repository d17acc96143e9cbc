"""What a long life leaves behind: descriptors and memory after many rounds of the same.

The figures: ``pytest tests/test_leaks.py --log-cli-level=info``.
"""

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import CLOSE, TEXT, Listener, Peer, Plugin, echo_server, frame
from host_lines import background, describe, done, encode, send

log = logging.getLogger(__name__)

MIB = 2**20
MEMORY = 3 * MIB
"""What memory may grow by, whatever the number of rounds."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc"),
]


def descriptors(plugin: Plugin) -> list[str]:
    """Return what the plugin has open."""
    folder = Path(f"/proc/{plugin.process.pid}/fd")
    return sorted(f"{fd.name} {fd.readlink()}" for fd in folder.iterdir())


@contextlib.contextmanager
def no_leak(plugin: Plugin, of: str) -> Iterator[None]:
    """Compare descriptors and memory before and after."""
    before, idle = descriptors(plugin), plugin.memory()
    yield
    after, growth = descriptors(plugin), plugin.memory() - idle
    log.info("%s: memory grew by %.2f MiB", of, growth / MIB)
    assert after == before
    assert growth <= MEMORY


def open_send_close(plugin: Plugin, server: Listener) -> None:
    id = plugin.create(server.url)
    plugin.event(id, "open")
    plugin.request("websocket-send", {"id": id, "type": "text", "data": "x" * 1000})
    plugin.event(id, "message")
    plugin.request("websocket-close", {"id": id})
    assert plugin.event(id, "close")["code"] == 1000


def closed_by_server(plugin: Plugin, server: Listener) -> None:
    with Listener() as listener:
        id, peer = listener.open(plugin)
        with peer:
            peer.send(frame(CLOSE))
            peer.expect_close()
        assert plugin.event(id, "close")["cause"] == "server"


def reset_with_sends_waiting(plugin: Plugin, server: Listener) -> None:
    with Listener() as listener:
        id = plugin.create(listener.url)
        with listener.accept() as peer:
            plugin.send(send(id, "x" * 100_000, 1), describe(2))
            assert plugin.read()["id"] == 2
            peer.read_request()
            peer.reset()
        assert plugin.read()["error"]["code"] == "not-open"
        plugin.event(id, "error")
        plugin.event(id, "close")


def refused_by_tcp(plugin: Plugin, server: Listener) -> None:
    # Bound, but not listening: nobody else gets the port meanwhile.
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        id = plugin.create(f"ws://127.0.0.1:{sock.getsockname()[1]}/")
        assert plugin.event(id, "error")["code"] == "network-error"
        plugin.event(id, "close")


def refused_by_http(plugin: Plugin, server: Listener) -> None:
    with Listener() as listener:
        id = plugin.create(listener.url)
        with listener.accept() as peer:
            peer.read_request()
            peer.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n\r\n" + b"x" * 5)
            assert plugin.event(id, "error")["code"] == "handshake-failed"
            plugin.event(id, "close")


def refused_by_tls(plugin: Plugin, server: Listener) -> None:
    with Listener() as listener:
        id = plugin.create(listener.url.replace("ws:", "wss:"))
        with listener.accept() as peer:
            peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert plugin.event(id, "error")["code"] == "tls-error"
            plugin.event(id, "close")


def timed_out(plugin: Plugin, server: Listener) -> None:
    with Listener() as listener:
        id = plugin.create(listener.url, timeout=1)
        assert plugin.event(id, "error")["code"] == "open-timeout"
        plugin.event(id, "close")


def aborted_while_connecting(plugin: Plugin, server: Listener) -> None:
    with Listener() as listener:
        id = plugin.create(listener.url)
        with listener.accept():
            plugin.request("websocket-close", {"id": id})
            plugin.event(id, "close")


def broken_frame(plugin: Plugin, server: Listener) -> None:
    with Listener() as listener:
        id, peer = listener.open(plugin)
        with peer:
            peer.send(frame(0x3))
            peer.expect_close(1002)
        assert plugin.event(id, "error")["code"] == "protocol-error"
        plugin.event(id, "close")


def evicted_and_backgrounded(plugin: Plugin, server: Listener) -> None:
    ids = []
    for _ in range(6):
        ids.append(plugin.create(server.url))
        events = [plugin.read()["payload"] for _ in range(1 if len(ids) < 6 else 2)]
        opened = [event["id"] for event in events if event["name"] == "open"]
        assert opened == [ids[-1]]
    plugin.send(background())
    for _ in ids[1:]:
        assert plugin.read()["payload"]["payload"]["cause"] == "background"
    assert plugin.read() == done("background")


ROUNDS: dict[str, tuple[int, Callable[[Plugin, Listener], None]]] = {
    "open, send, close": (1000, open_send_close),
    "closed by the server": (300, closed_by_server),
    "reset with sends waiting": (300, reset_with_sends_waiting),
    "refused by TCP": (300, refused_by_tcp),
    "refused by HTTP": (300, refused_by_http),
    "refused by TLS": (300, refused_by_tls),
    "timed out": (300, timed_out),
    "aborted while connecting": (300, aborted_while_connecting),
    "broken frame": (300, broken_frame),
    "evicted and backgrounded": (200, evicted_and_backgrounded),
}


@pytest.mark.parametrize(("rounds", "play"), ROUNDS.values(), ids=ROUNDS)
def test_rounds_leave_nothing_behind(rounds: int, play: Callable[[Plugin, Listener], None]) -> None:
    with echo_server() as server, Plugin() as plugin:
        # What is imported, cached and allocated once; the heap settles slowly.
        for _ in range(min(rounds, 300)):
            play(plugin, server)
        with no_leak(plugin, f"{rounds} times {play.__name__}"):
            for _ in range(rounds):
                play(plugin, server)


def test_bad_lines_leave_nothing_behind() -> None:
    lines = [b"{", b"\xff", b'"\\ud800"', b"[]", b'{"id":1}', b'{"action":"x"}', b"[" * 10_000]
    rounds = 2000
    with Plugin() as plugin:

        def play() -> None:
            plugin.write(b"\n".join(lines) + b"\n")
            for _ in lines:
                assert "error" in plugin.read()

        for _ in range(rounds // 5):
            play()
        with no_leak(plugin, f"{rounds} times {len(lines)} bad lines"):
            for _ in range(rounds):
                play()


def messages_in(plugin: Plugin, peer: Peer, count: int) -> None:
    batch = frame(TEXT, b"0123456789") * count
    peer.send(batch)
    for _ in range(count):
        assert plugin.read_line().endswith(b'"data":"0123456789"}}}\n')


def messages_out(plugin: Plugin, peer: Peer, count: int) -> None:
    plugin.write(encode(send("ws-1", "0123456789", None)) * count)
    # Two bytes of header and four of mask before each message.
    peer.read_exact((2 + 4 + 10) * count)


@pytest.mark.parametrize("play", [messages_in, messages_out])
def test_a_million_messages_leave_nothing_behind(
    play: Callable[[Plugin, Peer, int], None],
) -> None:
    batch = 5000
    with Listener() as listener, Plugin() as plugin:
        _, peer = listener.open(plugin, perMessageDeflate=False)
        with peer:
            for _ in range(10):
                play(plugin, peer, batch)
            with no_leak(plugin, f"a million {play.__name__}"):
                for _ in range(1_000_000 // batch):
                    play(plugin, peer, batch)
