"""Opening handshakes that come to nothing: nobody listens, TCP ends first, or nobody answers."""

import errno
import os
import socket
import sys
import time

import pytest

from harness import SLACK, Listener, Plugin
from pool import Pool
from situations import end_open, expect_error

# --- the end comes first ---


def test_refused_port(plugin: Plugin) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        id = plugin.create(f"ws://127.0.0.1:{port}/?token=secret")
        error = expect_error(plugin, id, "network-error")
    assert "refused" in error["errMsg"]
    assert "secret" not in error["errMsg"]


def test_name_that_does_not_exist(plugin: Plugin) -> None:
    id = plugin.create("wss://no-such-name.invalid/")
    expect_error(plugin, id, "network-error")


HALF = {
    "nothing": (b"", "network-error"),
    "one byte": (b"H", "handshake-failed"),
    "half a status line": (b"HTTP/1.1 10", "handshake-failed"),
    "half a head": (b"HTTP/1.1 101 OK\r\nUpgrade: web", "handshake-failed"),
    "all but the last byte": (b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\n\r", "handshake-failed"),
}


@pytest.mark.parametrize(("data", "code"), HALF.values(), ids=HALF)
def test_end_of_tcp(plugin: Plugin, server: Listener, data: bytes, code: str) -> None:
    id = plugin.create(server.url)
    with server.accept() as peer:
        peer.read_request()
        peer.send(data)
    assert "status" not in expect_error(plugin, id, code)


def test_end_of_tcp_before_the_request(plugin: Plugin, server: Listener) -> None:
    id = plugin.create(server.url)
    peer = server.accept()
    peer.sock.shutdown(socket.SHUT_RDWR)
    peer.close()
    expect_error(plugin, id, "network-error")


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 101 OK\r\nUpgrade: web"])
def test_reset(plugin: Plugin, server: Listener, data: bytes) -> None:
    id = plugin.create(server.url)
    peer = server.accept()
    peer.read_request()
    peer.send(data)
    if data:
        # A reset may destroy what has been sent before it: let it be read first.
        assert "response" in plugin.request("plugin-describe")
    peer.reset()
    assert "reset" in expect_error(plugin, id, "network-error")["errMsg"]


# --- silence ---


@pytest.mark.parametrize(
    "data",
    [b"", b"H", b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\n"],
    ids=["nothing", "a byte", "half"],
)
@pytest.mark.parametrize("by", ["payload", "option"])
def test_silence(pool: Pool, server: Listener, data: bytes, by: str) -> None:
    options = ("--open-timeout", "0.2") if by == "option" else ()
    with pool.lend(*options) as plugin:
        start = time.monotonic()
        id = plugin.create(server.url, **({"timeout": 200} if by == "payload" else {}))
        with server.accept() as peer:
            peer.read_request()
            peer.send(data)
            error = expect_error(plugin, id, "open-timeout")
            assert 0.2 <= time.monotonic() - start < 0.2 + SLACK
            assert "0.2" in error["errMsg"]
            peer.expect_end()


def test_timeout_of_the_payload_goes_before_the_option(pool: Pool, server: Listener) -> None:
    with pool.lend("--open-timeout", "0.2") as plugin:
        id = plugin.create(server.url, timeout=60_000)
        with server.accept() as peer:
            peer.read_request()
            # Another connection's timeout has passed meanwhile.
            other = plugin.create(server.url)
            with server.accept():
                expect_error(plugin, other, "open-timeout")
            peer.send(peer.response())
            plugin.event(id, "open")
            end_open(plugin, id, peer)


def test_an_answer_without_end(plugin: Plugin, server: Listener) -> None:
    """A byte now and then does not prolong the time."""
    id = plugin.create(server.url, timeout=300)
    start = time.monotonic()
    with server.accept() as peer:
        peer.read_request()
        peer.sock.settimeout(0.02)
        try:
            for byte in b"HTTP/1.1 101 OK\r\nX-Slow: " + b"a" * 1000:
                peer.send(bytes([byte]))
                try:
                    if not peer.sock.recv(1):
                        break
                except TimeoutError:
                    pass
        except ConnectionError:
            pass
        assert time.monotonic() - start < 0.3 + SLACK
    expect_error(plugin, id, "open-timeout")


def test_a_port_that_never_accepts(plugin: Plugin) -> None:
    """Linux leaves the TCP handshake unanswered while a backlog is full."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        port = sock.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        id = plugin.create(f"ws://127.0.0.1:{port}/", timeout=200)
        expect_error(plugin, id, "open-timeout")
        for filler in fillers:
            filler.close()


def test_open_timeout_ends_with_the_handshake(plugin: Plugin, server: Listener) -> None:
    """A connection that is open has all the time in the world."""
    id = plugin.create(server.url, timeout=200)
    with server.accept() as peer:
        peer.handshake()
        plugin.event(id, "open")
        other = plugin.create(server.url, timeout=300)
        with server.accept():
            expect_error(plugin, other, "open-timeout")
        end_open(plugin, id, peer)


# A name with two addresses, without a name server.
TWO_ADDRESSES = """
import socket
look_up = socket.getaddrinfo
def getaddrinfo(host, port, *arguments, **options):
    hosts = ["127.0.0.1", "127.0.0.2"] if host == "two.test" else [host]
    return [found for host in hosts for found in look_up(host, port, *arguments, **options)]
socket.getaddrinfo = getaddrinfo
from wsplugin.cli import main
main()
"""


def test_a_name_of_which_all_addresses_refuse() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    command = [sys.executable, "-c", TWO_ADDRESSES, "--allow-insecure", "--proxy=none"]
    with Plugin(command=command) as plugin:
        id = plugin.create(f"ws://two.test:{port}/")
        error = expect_error(plugin, id, "network-error")
    refused = os.strerror(errno.ECONNREFUSED)
    assert error["errMsg"] == f"cannot connect to two.test:{port}: {refused}"
