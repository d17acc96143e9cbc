"""``websocket-ping``: a sign of life, or the end of a connection whose server gives none.

When the time of a Ping is over is in ``rooms/test_keepalive.py``, as a table.
"""

import os
import signal
import threading
import time
from typing import Any

import pytest

from harness import (
    CONT,
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
from host_lines import close, describe, done, expect_abnormal, expect_failure, ping, send
from pressure import MIB, Flood, numbered, open_to_server, wait_until_still
from situations import connecting, end_open, exchange_ping
from tls_servers import Authority

WAITING = 16
"""How many may wait on one connection."""
OFF = ("--ping-interval", "0")
"""The connection's own pings are turned off: what is seen is the host's."""


@pytest.fixture(params=[False, True], ids=["TCP", "TLS"])
def authority_or_none(request: pytest.FixtureRequest, authority: Authority) -> Authority | None:
    """An authority where TLS is wanted."""
    return authority if request.param else None


def read_ping(peer: Peer) -> bytes:
    """Read the next frame, which must be a Ping; return what its Pong must say."""
    head, payload = peer.read_frame()
    assert head == 0x80 | PING
    return payload


def expect_rtt(plugin: Plugin, request: Any = "ping") -> float:
    """Read the next line, which must be the answer to a ping; return its milliseconds."""
    line = plugin.read()
    assert line["id"] == request, line
    assert list(line["response"]) == ["rtt"], line
    rtt = line["response"]["rtt"]
    assert isinstance(rtt, float)
    assert 0 <= rtt < TIMEOUT * 1000
    return rtt


def expect_ping_timeout(plugin: Plugin, ws: str) -> None:
    """Read the last two events of a connection whose server has not answered."""
    assert plugin.event(ws, "error")["code"] == "ping-timeout"
    expect_abnormal(plugin.event(ws, "close"), "failure")


# --- answers ---


def test_its_time_is_that_of_the_pong(authority_or_none: Authority | None) -> None:
    with open_to_server(authority_or_none, *OFF) as (plugin, ws, peer):
        plugin.send(ping(ws))
        payload = read_ping(peer)
        time.sleep(0.2)
        peer.send(frame(PONG, payload))
        rtt = expect_rtt(plugin)
        assert 200 <= rtt < 200 + SLACK * 1000
        assert round(rtt, 3) == rtt
        plugin.send(ping(ws))
        peer.send(frame(PONG, read_ping(peer)))
        assert expect_rtt(plugin) < SLACK * 1000


def test_a_pong_answers_all_earlier_pings(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send(*(ping(id, request=number) for number in range(5)))
        payloads = [read_ping(peer) for _ in range(5)]
        assert len(set(payloads)) == 5
        peer.send(frame(PONG, payloads[2]))
        for number in range(3):
            expect_rtt(plugin, number)
        # What has been answered, and what nobody has asked, answers nothing.
        for unasked in (payloads[1], b"unasked", b""):
            peer.send(frame(PONG, unasked))
        exchange_ping(peer)
        plugin.send(describe())
        assert plugin.read()["id"] == "describe"
        peer.send(frame(PONG, payloads[3]) + frame(TEXT, b"between") + frame(PONG, payloads[4]))
        expect_rtt(plugin, 3)
        assert plugin.event(id, "message")["data"] == "between"
        expect_rtt(plugin, 4)
        end_open(plugin, id, peer)


def test_one_without_id_has_no_answer_unless_it_fails() -> None:
    with Listener() as listener, Plugin(*OFF) as plugin:
        id, peer = listener.open(plugin)
        with peer:
            plugin.send(ping(id, request=None))
            peer.send(frame(PONG, read_ping(peer)))
            exchange_ping(peer)
            plugin.send(describe())
            assert plugin.read()["id"] == "describe"
            plugin.send(ping(id, 100, None))
            read_ping(peer)
            expect_failure(plugin.read(), None, "not-open")
            expect_ping_timeout(plugin, id)


def test_own_pings_go_on_beside_it() -> None:
    with Listener() as listener, Plugin("--ping-interval", "0.2") as plugin:
        id, peer = listener.open(plugin)
        with peer:
            own = read_ping(peer)
            plugin.send(ping(id))
            hosts = read_ping(peer)
            # The later one's Pong answers the connection's own, too: its next one follows.
            peer.send(frame(PONG, hosts))
            expect_rtt(plugin)
            again = read_ping(peer)
            assert len({own, hosts, again}) == 3
            peer.send(frame(PONG, again))
            end_open(plugin, id, peer)


def test_it_goes_between_messages_and_before_those_that_wait(
    authority_or_none: Authority | None,
) -> None:
    """It is not behind what waits in the plugin, and in no message."""
    count, size = 30, MIB // 4
    options = (*OFF, "--max-send-buffer", str(count * size))
    with open_to_server(authority_or_none, *options, deaf=True) as (plugin, ws, peer):
        plugin.send(*(send(ws, f"{number}".ljust(size), number) for number in range(count)))
        plugin.send(describe())
        answered = 0
        while plugin.read()["id"] != "describe":
            answered += 1
        assert answered < count
        plugin.send(ping(ws))
        before = 0
        while (head_and_payload := peer.read_frame())[0] != 0x80 | PING:
            assert int(head_and_payload[1]) == before
            before += 1
        # Those answered, and the one that the transport holds, have been handed on already.
        assert before <= answered + 1
        peer.send(frame(PONG, head_and_payload[1]))
        reader = threading.Thread(
            target=lambda: [peer.read_frame() for _ in range(count - before)], daemon=True
        )
        reader.start()
        seen = [plugin.read()["id"] for _ in range(count - answered + 1)]
        assert "ping" in seen
        reader.join(TIMEOUT)


def test_its_time_begins_when_it_is_handed_on(authority_or_none: Authority | None) -> None:
    """While it waits behind a long message that the server does not take, it is not on its way."""
    with open_to_server(authority_or_none, *OFF, deaf=True) as (plugin, ws, peer):
        plugin.send(send(ws, "x" * 8 * MIB, "long"), ping(ws))
        # The first of it has come, and the rest does not fit between the two.
        peer.unread(peer.sock.recv(1))
        time.sleep(1.5)
        assert len(peer.read_frame()[1]) == 8 * MIB
        peer.send(frame(PONG, read_ping(peer)))
        assert plugin.read() == done("long")
        assert expect_rtt(plugin) < 1000


# --- refusals ---


def test_on_what_is_not_open(plugin: Plugin, server: Listener) -> None:
    id, peer = connecting(plugin, server)
    with peer:
        plugin.send(ping(id))
        expect_failure(plugin.read(), "ping", "not-open")
        peer.send(peer.response())
        plugin.event(id, "open")
        plugin.send(close(id), ping(id))
        assert plugin.read() == done("close")
        expect_failure(plugin.read(), "ping", "not-open")
        peer.expect_close(1000)
        peer.send(close_frame(1000))
        assert plugin.event(id, "close")["code"] == 1000
        plugin.send(ping(id))
        expect_failure(plugin.read(), "ping", "not-open")
    plugin.send(ping("ws-99"))
    expect_failure(plugin.read(), "ping", "unknown-id")


def test_one_too_many(plugin: Plugin, server: Listener) -> None:
    """The bound is a connection's, and whoever is answered makes room."""
    id, peer = server.open(plugin)
    other, second = server.open(plugin)
    with peer, second:
        plugin.send(*(ping(id, request=number) for number in range(WAITING + 1)))
        expect_failure(plugin.read(), WAITING, "buffer-full")
        plugin.send(ping(other, request="other"))
        second.send(frame(PONG, read_ping(second)))
        expect_rtt(plugin, "other")
        payloads = [read_ping(peer) for _ in range(WAITING)]
        peer.send(frame(PONG, payloads[0]))
        expect_rtt(plugin, 0)
        plugin.send(ping(id, request="one more"))
        peer.send(frame(PONG, read_ping(peer)))
        for number in range(1, WAITING):
            expect_rtt(plugin, number)
        expect_rtt(plugin, "one more")
        end_open(plugin, id, peer)
        end_open(plugin, other, second)


# --- no Pong ---


def test_a_server_that_does_not_answer(authority_or_none: Authority | None) -> None:
    with open_to_server(authority_or_none, *OFF) as (plugin, ws, peer):
        start = time.monotonic()
        plugin.send(ping(ws, 10_000, "patient"), ping(ws, 500, "hasty"))
        expect_failure(plugin.read(), "patient", "not-open")
        # The server does not answer the Close frame, either, and has its second for that.
        assert 0.5 <= time.monotonic() - start < 0.5 + 1 + SLACK
        expect_failure(plugin.read(), "hasty", "not-open")
        expect_ping_timeout(plugin, ws)
        read_ping(peer)
        read_ping(peer)
        peer.expect_close(1011)


@pytest.mark.parametrize("options", [("--ping-timeout", "0.3"), (*OFF, "--ping-timeout", "0.3")])
def test_without_a_time_of_its_own_it_has_that_of_the_option(options: tuple[str, ...]) -> None:
    with Listener() as listener, Plugin(*options) as plugin:
        id, peer = listener.open(plugin)
        with peer, within(0.3 + 1):
            plugin.send(ping(id))
            expect_failure(plugin.read(), "ping", "not-open")
            expect_ping_timeout(plugin, id)


def test_with_pings_turned_off_it_has_the_default_time() -> None:
    with Listener() as listener, Plugin("--ping-timeout", "0") as plugin:
        id, peer = listener.open(plugin)
        with peer:
            plugin.send(ping(id))
            payload = read_ping(peer)
            plugin.send(ping(id, 600, "later"))
            read_ping(peer)
            time.sleep(0.3)
            peer.send(frame(PONG, payload))
            expect_rtt(plugin)
            expect_failure(plugin.read(), "later", "not-open")
            expect_ping_timeout(plugin, id)


def test_any_sign_of_life_starts_the_time_anew(authority_or_none: Authority | None) -> None:
    """A frame that comes byte by byte lets no Pong pass."""
    with open_to_server(authority_or_none, *OFF) as (plugin, ws, peer):
        plugin.send(ping(ws, 1000))
        payload = read_ping(peer)
        data = frame(TEXT, b"x" * 40, fin=False) + frame(CONT, b"y")
        start = time.monotonic()
        for number in range(len(data)):
            peer.send(data[number : number + 1])
            time.sleep(0.05)
        assert time.monotonic() - start > 2
        assert plugin.event(ws, "message")["data"] == "x" * 40 + "y"
        peer.send(frame(PONG, payload))
        assert expect_rtt(plugin) > 2000


@pytest.mark.slow
def test_while_the_host_does_not_read_none_times_out() -> None:
    with Listener() as listener, Plugin(*OFF) as plugin:
        id, peer = listener.open(plugin)
        with peer:
            plugin.send(ping(id, 1000))
            payload = read_ping(peer)
            plugin.stop_reading()
            flood = Flood(peer, numbered(TEXT, 256 * 1024, 100))
            wait_until_still(lambda: flood.sent)
            time.sleep(1.5)
            plugin.resume_reading()
            for _ in range(100):
                plugin.event(id, "message")
            flood.join(TIMEOUT)
            peer.send(frame(PONG, payload))
            assert expect_rtt(plugin) > 1500


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops a process")
def test_a_pong_that_came_while_the_process_was_stopped_is_read_first() -> None:
    with Listener() as listener, Plugin(*OFF) as plugin:
        id, peer = listener.open(plugin)
        with peer:
            plugin.send(ping(id, 300))
            payload = read_ping(peer)
            plugin.send(describe())
            assert plugin.read()["id"] == "describe"
            with plugin.stopped():
                peer.send(frame(PONG, payload))
                time.sleep(0.8)
            assert expect_rtt(plugin) > 500
            end_open(plugin, id, peer)


# --- other ends ---


@pytest.mark.parametrize("end", ["server", "host", "loss", "signal"])
def test_the_end_of_the_connection_answers_it(end: str) -> None:
    with Listener() as listener, Plugin(*OFF) as plugin:
        id, peer = listener.open(plugin)
        with peer:
            plugin.send(ping(id))
            read_ping(peer)
            match end:
                case "server":
                    peer.send(close_frame(4000))
                    peer.expect_close(4000)
                    peer.close()
                case "host":
                    plugin.send(close(id))
                    assert plugin.read() == done("close")
                    peer.expect_close(1000)
                    peer.send(close_frame(1000))
                case "loss":
                    peer.close()
                case "signal":
                    os.kill(plugin.process.pid, signal.SIGTERM)
                    peer.expect_close(1001)
                    peer.send(close_frame(1001))
            expect_failure(plugin.read(), "ping", "not-open")
            if end == "loss":
                assert plugin.event(id, "error")["code"] == "network-error"
            plugin.event(id, "close")
            if end == "signal":
                assert plugin.wait() == 0


def test_a_pong_still_counts_while_the_connection_closes(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send(ping(id), close(id))
        assert plugin.read() == done("close")
        peer.send(frame(PONG, read_ping(peer)))
        expect_rtt(plugin)
        peer.expect_close(1000)
        peer.send(close_frame(1000))
        assert plugin.event(id, "close")["code"] == 1000
