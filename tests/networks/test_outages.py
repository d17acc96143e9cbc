"""Links that carry nothing for a while, nothing for ever, and no large packets."""

import contextlib
import threading
import time

import pytest

from harness import TEXT, TIMEOUT, Peer, Plugin, frame, within
from host_lines import done, send
from networks.link import DEVICE
from networks.network import Network
from pressure import MIB, Flood, numbered
from situations import exchange_ping
from tls_servers import Authority

TCP_AND_TLS = pytest.mark.parametrize("secure", [False, True], ids=["TCP", "TLS"])
OUTAGES = pytest.mark.parametrize(
    ("how", "secure"),
    [("the device is down", False), ("nothing passes", False), ("nothing passes", True)],
    ids=["TCP, the device is down", "TCP, nothing passes", "TLS, nothing passes"],
)
HASTY = ("--ping-interval", "2", "--ping-timeout", "2")
FOUND = 2 + 2 + 1
"""Seconds in which the end of a server that has vanished is told, with these options."""


def expect_ping_timeout(plugin: Plugin, id: str) -> None:
    """Read on to the end of a connection whose server does not answer."""
    lines = [plugin.read()]
    while lines[-1].get("payload", {}).get("name") != "close":
        lines.append(plugin.read())
    error, close = lines[-2:]
    assert error["payload"]["name"] == "error"
    assert error["payload"]["payload"]["code"] == "ping-timeout"
    assert error["payload"]["id"] == close["payload"]["id"] == id
    assert close["payload"]["payload"]["cause"] == "failure"


def read_on(peer: Peer, size: int) -> threading.Event:
    """Read for as long as something comes; return what is set after so many bytes."""
    reached = threading.Event()

    def read() -> None:
        count = 0
        with contextlib.suppress(OSError):
            while chunk := peer.sock.recv(65536):
                count += len(chunk)
                if count >= size:
                    reached.set()

    thread = threading.Thread(target=read, daemon=True)
    peer.threads.append(thread)
    thread.start()
    return reached


# --- for a while ---


@pytest.mark.slow
@OUTAGES
def test_five_seconds_without_a_link_end_nothing(
    network: Network, authority: Authority, how: str, secure: bool
) -> None:
    """What was sent meanwhile arrives afterwards."""
    with network.open(authority=authority if secure else None) as (plugin, ws, peer):
        exchange_ping(peer)
        if how == "the device is down":
            network.here.ip("link", "set", DEVICE, "down")
        else:
            network.link.cut()
        plugin.send(send(ws, "to the server"))
        assert plugin.read() == done("to the server")
        peer.send(frame(TEXT, b"from the server"))
        time.sleep(5)
        if how == "the device is down":
            network.here.ip("link", "set", DEVICE, "up")
        else:
            network.link.mend()
        assert peer.read_frame() == (0x80 | TEXT, b"to the server")
        assert plugin.event(ws, "message")["data"] == "from the server"
        assert network.link.lost


# --- for ever ---


@OUTAGES
def test_a_server_that_vanishes_while_nothing_is_sent(
    network: Network, authority: Authority, how: str, secure: bool
) -> None:
    with network.open(*HASTY, authority=authority if secure else None) as (plugin, ws, peer):
        exchange_ping(peer)
        if how == "the device is down":
            network.here.ip("link", "set", DEVICE, "down")
        else:
            network.link.cut()
        with within(FOUND):
            expect_ping_timeout(plugin, ws)


@TCP_AND_TLS
def test_a_server_that_vanishes_while_we_send(
    network: Network, authority: Authority, secure: bool
) -> None:
    network.link.out.rate = MIB
    create = {"perMessageDeflate": False}
    with network.open(*HASTY, authority=authority if secure else None, **create) as opened:
        plugin, ws, peer = opened
        plugin.send(*(send(ws, "x" * MIB, number) for number in range(8)))
        assert read_on(peer, MIB).wait(TIMEOUT)
        network.link.cut()
        with within(FOUND):
            expect_ping_timeout(plugin, ws)


@TCP_AND_TLS
def test_a_server_that_vanishes_while_we_receive(
    network: Network, authority: Authority, secure: bool
) -> None:
    network.link.back.rate = MIB
    with network.open(*HASTY, authority=authority if secure else None) as (plugin, ws, peer):
        Flood(peer, numbered(TEXT, 65536, 200))
        for _ in range(16):
            plugin.event(ws, "message")
        network.link.cut()
        with within(FOUND):
            expect_ping_timeout(plugin, ws)


# --- for large packets ---


@pytest.mark.parametrize("way", ["to the server", "from the server"])
def test_large_packets_do_not_pass(network: Network, way: str) -> None:
    """And nobody is told: a black hole of path MTU discovery (RFC 2923 section 2.1)."""
    with network.open(*HASTY, perMessageDeflate=False) as (plugin, ws, peer):
        exchange_ping(peer)
        with within(FOUND):
            if way == "to the server":
                network.link.out.largest = 1000
                plugin.send(send(ws, "x" * 100_000))
            else:
                network.link.back.largest = 1000
                Flood(peer, numbered(TEXT, 100_000, 1))
            expect_ping_timeout(plugin, ws)
        assert network.link.lost
