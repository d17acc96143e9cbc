"""What keeps a connection alive, and what does not: times measure the server, not the queue.

Each on real sockets, over TCP and TLS; on real networks in ``networks/``. When what is due is in
``rooms/test_keepalive.py``, as a table.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness import (
    CLOSE,
    PING,
    PONG,
    SLACK,
    TEXT,
    TIMEOUT,
    Listener,
    Peer,
    Plugin,
    close_frame,
    frame,
    within,
)
from host_lines import close, done, expect_abnormal, send
from pressure import (
    MIB,
    Flood,
    in_kernel,
    number_of,
    numbered,
    open_to_server,
    wait_until_still,
)
from situations import exchange_ping, expect_error, linux
from tls_servers import Authority, secure

HASTY = ("--ping-interval", "1", "--ping-timeout", "1")
FOUND = 1 + 1 + 1
"""Seconds in which the end of a server that does not live is told, with these options."""


@pytest.fixture(params=[False, True], ids=["TCP", "TLS"])
def authority_or_none(request: pytest.FixtureRequest, authority: Authority) -> Authority | None:
    """An authority where TLS is wanted."""
    return authority if request.param else None


class SlowSocket:
    """A socket that is read from at so many bytes a second."""

    def __init__(self, sock: socket.socket, rate: int) -> None:
        self._sock = sock
        self._rate = rate

    def recv(self, size: int) -> bytes:
        data = self._sock.recv(min(size, 16384))
        time.sleep(len(data) / self._rate)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def read_slowly(peer: Peer, size: int, rate: int) -> None:
    """Receive so many bytes, which :class:`Peer` is to read then."""
    sock = SlowSocket(peer.sock, rate)
    received = bytearray()
    while len(received) < size:
        chunk = sock.recv(65536)
        assert chunk, f"ended after {len(received)} bytes"
        received += chunk
    peer.unread(bytes(received))


def lines_to_close(plugin: Plugin) -> list[Any]:
    """Read on to the end of the only connection."""
    lines = [plugin.read()]
    while lines[-1].get("payload", {}).get("name") != "close":
        lines.append(plugin.read())
    return lines


def expect_ping_timeout(plugin: Plugin) -> None:
    """Read on to the end of a connection whose server does not live."""
    error, end = (line["payload"]["payload"] for line in lines_to_close(plugin)[-2:])
    assert error["code"] == "ping-timeout"
    expect_abnormal(end, "failure")


def read_ping(peer: Peer) -> bytes:
    """Read the next frame, which must be a Ping; return what its Pong must say."""
    head, payload = peer.read_frame()
    assert head == 0x80 | PING
    return payload


# --- alive ---


def test_a_frame_that_comes_byte_by_byte(authority_or_none: Authority | None) -> None:
    message = b"x" * 252
    data = frame(TEXT, message)
    assert len(data) == 256
    with open_to_server(authority_or_none, *HASTY) as (plugin, ws, peer):
        for number in range(256):
            peer.send(data[number : number + 1])
            time.sleep(1 / 50)
        assert plugin.event(ws, "message")["data"] == message.decode()
        # There was a Ping, and no Pong could come inside the frame.
        peer.send(frame(PONG, read_ping(peer)))
        exchange_ping(peer)


@pytest.mark.slow
def test_a_server_that_reads_slowly(authority_or_none: Authority | None) -> None:
    """It gets all of 8 MB, then the closing handshake, whatever the close timeout is."""
    count, size = 8, 1_000_000
    options = (*HASTY, "--close-timeout", "2")
    with open_to_server(authority_or_none, *options, deaf=True) as (plugin, ws, peer):
        slow: Any = SlowSocket(peer.sock, 1_000_000)
        peer.sock = slow
        plugin.send(*(send(ws, f"{number}".ljust(size), number) for number in range(count)))
        plugin.send(close(ws))
        numbers = []
        while (frame_ := peer.read_frame())[0] != 0x80 | CLOSE:
            head, payload = frame_
            if head == 0x80 | TEXT:
                assert len(payload) == size
                numbers.append(int(payload))
            else:
                assert head == 0x80 | PING
                peer.send(frame(PONG, payload))
        assert numbers == list(range(count))
        peer.send(close_frame(1000))
        *answers, end = lines_to_close(plugin)
        assert [line["id"] for line in answers if line["id"] != "close"] == numbers
        assert all(line["response"] == {} for line in answers)
        assert end["payload"]["payload"] == {"code": 1000, "reason": "", "cause": "host"}


def test_a_close_behind_much(authority_or_none: Authority | None) -> None:
    """A server that reads slowly gets all of it, then the closing handshake."""
    size = 12 * MIB
    options = ("--close-timeout", "1")
    with open_to_server(authority_or_none, *options, deaf=True) as (plugin, ws, peer):
        plugin.send(send(ws, "x" * size, "data"), close(ws))
        read_slowly(peer, size, 4 * MIB)
        head, payload = peer.read_frame()
        assert (head, len(payload)) == (0x80 | TEXT, size)
        peer.expect_close(1000)
        peer.send(close_frame(1000))
        end = lines_to_close(plugin)[-1]["payload"]["payload"]
        assert end == {"code": 1000, "reason": "", "cause": "host"}


def test_a_close_of_a_server_that_reads_slowly(authority_or_none: Authority | None) -> None:
    """The second for both Close frames begins when ours has been handed to the system."""
    size = 12 * MIB
    with open_to_server(authority_or_none, deaf=True) as (plugin, ws, peer):
        plugin.send(send(ws, "x" * size, "data"))
        peer.send(close_frame(4000, "bye"))
        read_slowly(peer, size, 4 * MIB)
        head, payload = peer.read_frame()
        assert (head, len(payload)) == (0x80 | TEXT, size)
        peer.expect_close(4000)
        peer.close()
        assert plugin.read() == done("data")
        assert plugin.event(ws, "close") == {"code": 4000, "reason": "bye", "cause": "server"}


# --- not alive ---


def test_a_server_whose_system_lives_and_nothing_else(
    authority_or_none: Authority | None,
) -> None:
    """That a Ping has been acknowledged is no sign of life."""
    with open_to_server(authority_or_none, *HASTY) as (plugin, _, _), within(FOUND):
        expect_ping_timeout(plugin)


def test_a_server_that_reads_nothing_while_we_send(authority_or_none: Authority | None) -> None:
    """Its system takes some of it first."""
    with open_to_server(authority_or_none, *HASTY, deaf=True) as (plugin, ws, _), within(FOUND):
        plugin.send(send(ws, "x" * (12 * MIB)))
        expect_ping_timeout(plugin)


@pytest.mark.parametrize("sent", [frame(PING, b"x" * 100), frame(TEXT, b"more")])
def test_a_server_that_goes_on_for_ever_after_our_close_frame(
    authority_or_none: Authority | None, sent: bytes
) -> None:
    """And takes our Pongs: none of it prolongs the close timeout."""
    with open_to_server(authority_or_none, "--close-timeout", "1") as (plugin, ws, peer):
        start = time.monotonic()
        plugin.send(close(ws))
        peer.expect_close(1000)
        reader = threading.Thread(target=peer.expect_end, daemon=True)
        reader.start()
        with contextlib.suppress(OSError):
            while time.monotonic() - start < TIMEOUT:
                peer.send(sent)
                time.sleep(0.01)
        assert 1 <= time.monotonic() - start < 1 + SLACK
        expect_abnormal(lines_to_close(plugin)[-1]["payload"]["payload"], "host")


# --- after a stop ---


@pytest.mark.parametrize("answered", [True, False])
def test_a_stop_between_ping_and_pong(authority_or_none: Authority | None, answered: bool) -> None:
    options = ("--ping-interval", "0.5", "--ping-timeout", "0.5")
    with open_to_server(authority_or_none, *options) as (plugin, _, peer):
        ping = read_ping(peer)
        with plugin.stopped():
            if answered:
                peer.send(frame(PONG, ping))
            time.sleep(1)
        if answered:
            exchange_ping(peer)
            peer.send(frame(PONG, read_ping(peer)))
            exchange_ping(peer)
        else:
            expect_ping_timeout(plugin)


@pytest.mark.parametrize("answered", [True, False])
def test_a_stop_before_the_answer_to_the_request(
    authority_or_none: Authority | None, answered: bool
) -> None:
    options = ("--ca-file", authority_or_none.file) if authority_or_none else ()
    with Listener() as listener, Plugin(*options) as plugin:
        url = listener.url.replace("ws:", "wss:") if authority_or_none else listener.url
        ws = plugin.create(url, timeout=500)
        with listener.accept() as peer:
            if authority_or_none:
                secure(peer, authority_or_none.context("127.0.0.1"))
            peer.read_request()
            with plugin.stopped():
                if answered:
                    peer.send(peer.response() + frame(TEXT, b"hello"))
                time.sleep(1)
            if answered:
                plugin.event(ws, "open")
                assert plugin.event(ws, "message")["data"] == "hello"
                exchange_ping(peer)
            else:
                expect_error(plugin, ws, "open-timeout")


@pytest.mark.parametrize("answered", [True, False])
def test_a_stop_before_the_answer_to_our_close_frame(
    authority_or_none: Authority | None, answered: bool
) -> None:
    with open_to_server(authority_or_none, "--close-timeout", "0.5") as (plugin, ws, peer):
        plugin.send(close(ws))
        assert plugin.read() == done("close")
        peer.expect_close(1000)
        with plugin.stopped():
            if answered:
                peer.send(frame(TEXT, b"late") + close_frame(1000))
            time.sleep(1)
        if answered:
            assert plugin.event(ws, "message")["data"] == "late"
            assert plugin.event(ws, "close")["code"] == 1000
        else:
            expect_abnormal(plugin.event(ws, "close"), "host")


@linux
def test_much_that_has_come_during_a_stop_while_closing(
    authority_or_none: Authority | None,
) -> None:
    """All that has arrived is read first, and a server that goes on for ever comes to its end."""
    size, count = 65536, 32
    go_on = threading.Event()

    def frames() -> Iterator[bytes]:
        yield from numbered(TEXT, size, count)
        go_on.wait(TIMEOUT)
        while True:
            yield frame(TEXT, b"more")

    with open_to_server(authority_or_none, "--close-timeout", "2") as (plugin, ws, peer):
        # The system makes room for much only where it has seen that much comes.
        for _ in range(20):
            peer.send(frame(TEXT, b"x" * MIB))
            plugin.event(ws, "message")
        plugin.send(close(ws))
        assert plugin.read() == done("close")
        peer.expect_close(1000)
        time.sleep(0.5)  # that our Close frame has been taken is known, and prolongs nothing
        with plugin.stopped():
            flood = Flood(peer, frames())
            wait_until_still(lambda: flood.sent)
            time.sleep(2)
            arrived = in_kernel(peer)[1] // (size + 100)
        assert arrived >= 8
        go_on.set()
        for number in range(arrived):
            assert number_of(plugin.event(ws, "message")) == number
        expect_abnormal(lines_to_close(plugin)[-1]["payload"]["payload"], "host")
