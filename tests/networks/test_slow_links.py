"""Links that are slow, far, and lose packets: what moves is alive, however long it takes."""

import contextlib
import random
import select
import ssl

import pytest

from harness import PING, PONG, TEXT, TIMEOUT, Peer, close_frame, frame
from host_lines import close, done, send
from networks.network import Network
from pressure import MIB
from tls_servers import Authority

TCP_AND_TLS = pytest.mark.parametrize("secure", [False, True], ids=["TCP", "TLS"])
SLOW = 70 * 1024
"""Bytes a second."""


def text(size: int) -> str:
    """Return a message that cannot be compressed to much less than half of its size."""
    return "".join(random.Random(size).choices("0123456789abcdef", k=size))


def read_text(peer: Peer) -> tuple[str, list[bytes]]:
    """Read the next message; return it, and the Pings before it."""
    pings: list[bytes] = []
    while True:
        head, payload = peer.read_frame()
        if head == 0x80 | TEXT:
            return payload.decode(), pings
        assert head & 0x0F == PING
        pings.append(payload)


def exchange(peer: Peer, data: bytes, size: int) -> None:
    """Send, and receive so many bytes and more meanwhile, which :class:`Peer` is to read then."""
    received = bytearray()
    rest = memoryview(data)
    peer.sock.setblocking(False)
    while rest or len(received) < size:
        assert any(select.select([peer.sock], [peer.sock] if rest else [], [], TIMEOUT))
        # One thread for both: OpenSSL takes no two at a time.
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            while True:
                chunk = peer.sock.recv(65536)
                assert chunk, f"ended after {len(received)} bytes"
                received += chunk
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
            while rest:
                rest = rest[peer.sock.send(rest[:16384]) :]
    peer.sock.settimeout(TIMEOUT)
    peer.unread(bytes(received))


@pytest.mark.parametrize(
    ("size", "keepalive"),
    [
        pytest.param(3 * MIB, (), marks=pytest.mark.slow, id="3 MiB and the default keepalive"),
        pytest.param(
            MIB // 2, ("--ping-interval", "2", "--ping-timeout", "2"), id="512 KiB and a hasty one"
        ),
    ],
)
@TCP_AND_TLS
def test_long_messages_both_ways_on_a_slow_link(
    network: Network, authority: Authority, secure: bool, size: int, keepalive: tuple[str, ...]
) -> None:
    up, down = text(size), text(size + 1)
    create = {"perMessageDeflate": False}
    with network.open(*keepalive, authority=authority if secure else None, **create) as opened:
        plugin, ws, peer = opened
        network.link.out.rate = network.link.back.rate = SLOW
        plugin.send(send(ws, up, "up"))
        # A Pong cannot come inside a message, so ours wait until it has been sent.
        exchange(peer, frame(TEXT, down.encode()), size)
        received, pings = read_text(peer)
        assert received == up
        for ping in pings:
            peer.send(frame(PONG, ping))
        lines = [plugin.read(), plugin.read()]
        assert done("up") in lines
        (message,) = (line["payload"] for line in lines if "event" in line)
        assert message["payload"]["data"] == down
        plugin.send(close(ws))
        assert plugin.read() == done("close")
        peer.expect_close(1000)
        peer.send(close_frame(1000))
        assert plugin.event(ws, "close")["code"] == 1000


@pytest.mark.parametrize(
    ("size", "close_timeout"),
    [
        pytest.param(MIB, "2", marks=pytest.mark.slow, id="1 MiB in 2 s"),
        pytest.param(MIB // 4, "1", id="256 KiB in 1 s"),
    ],
)
@TCP_AND_TLS
def test_a_close_behind_much_on_a_slow_link(
    network: Network, authority: Authority, secure: bool, size: int, close_timeout: str
) -> None:
    data = text(size)
    create = {"perMessageDeflate": False}
    options = ("--close-timeout", close_timeout)
    with network.open(*options, authority=authority if secure else None, **create) as opened:
        plugin, ws, peer = opened
        network.link.out.rate = SLOW
        plugin.send(send(ws, data, "data"), close(ws))
        assert read_text(peer) == (data, [])
        peer.expect_close(1000)
        peer.send(close_frame(1000))
        assert sorted([plugin.read()["id"], plugin.read()["id"]]) == ["close", "data"]
        assert plugin.event(ws, "close") == {"code": 1000, "reason": "", "cause": "host"}


@TCP_AND_TLS
def test_a_close_of_the_server_while_much_waits_on_a_slow_link(
    network: Network, authority: Authority, secure: bool
) -> None:
    """It gets what was sent before, and the answer to its Close frame."""
    data = text(MIB // 2)
    create = {"perMessageDeflate": False}
    with network.open(authority=authority if secure else None, **create) as (plugin, ws, peer):
        network.link.out.rate = SLOW
        plugin.send(send(ws, data, "data"))
        peer.send(close_frame(4000, "bye"))
        assert read_text(peer) == (data, [])
        peer.expect_close(4000)
        peer.close()
        assert plugin.read() == done("data")
        assert plugin.event(ws, "close") == {"code": 4000, "reason": "bye", "cause": "server"}


@TCP_AND_TLS
def test_a_link_that_is_far_and_loses_packets(
    network: Network, authority: Authority, secure: bool
) -> None:
    """200 ms and 2 % in each direction, from the first packet to the last."""
    for way in network.link.ways:
        way.delay, way.loss = 0.2, 0.02
    options = ("--ping-interval", "1", "--ping-timeout", "10")
    with network.open(*options, authority=authority if secure else None) as (plugin, ws, peer):
        for size in (10, 1000, 50_000):
            plugin.send(send(ws, text(size), size))
            assert plugin.read() == done(size)
            received, pings = read_text(peer)
            assert received == text(size)
            for ping in pings:
                peer.send(frame(PONG, ping))
            peer.send(frame(TEXT, text(size).encode()))
            assert plugin.event(ws, "message")["data"] == text(size)
        plugin.send(close(ws))
        assert plugin.read() == done("close")
        peer.expect_close(1000)
        peer.send(close_frame(1000))
        assert plugin.event(ws, "close")["code"] == 1000
    assert network.link.lost
