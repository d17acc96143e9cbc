"""Places: whom the sixth connection ends, who waits, and who is cut off for whom.

Read beside the contract's "Five connections".
"""

import contextlib

import pytest

from harness import CLOSE, SLACK, TEXT, Listener, Peer, Plugin, close_frame, frame, within
from host_lines import close, create, done, expect_abnormal, expect_failure, send
from pool import Pool
from situations import connecting, expect_nobody, finish, silent


def test_sixth_connection_ends_the_oldest(plugin: Plugin, server: Listener) -> None:
    pairs = [server.open(plugin) for _ in range(5)]
    sixth = plugin.create(server.url)
    oldest, peer = pairs.pop(0)
    payload = peer.expect_close(1001, "connection limit of 5 reached")
    # Its place is not free before its `close` event.
    expect_nobody(server)
    peer.send(frame(CLOSE, payload))
    peer.close()
    assert plugin.event(oldest, "close") == {
        "code": 1001,
        "reason": "connection limit of 5 reached",
        "cause": "limit",
    }
    with server.accept() as peer:
        peer.handshake()
        plugin.event(sixth, "open")
        plugin.send(send(oldest, "late"), close(oldest))
        expect_failure(plugin.read(), "late", "not-open")
        assert plugin.read() == done("close")
        for id, other in [*pairs, (sixth, peer)]:
            other.send(close_frame(1000))
            other.expect_close()
            other.close()
            plugin.event(id, "close")


def test_evicted_connection_sends_what_waits(plugin: Plugin, server: Listener) -> None:
    pairs = [server.open(plugin) for _ in range(5)]
    oldest, peer = pairs[0]
    plugin.send(send(oldest, "last words"), create(server.url), send(oldest, "too late"))
    assert plugin.read() == done("last words")
    sixth = plugin.read()["response"]["id"]
    expect_failure(plugin.read(), "too late", "not-open")
    assert peer.read_frame() == (0x80 | TEXT, b"last words")
    peer.expect_close(1001)
    peer.send(frame(TEXT, b"farewell") + close_frame(1001))
    peer.close()
    assert plugin.event(oldest, "message")["data"] == "farewell"
    assert plugin.event(oldest, "close")["cause"] == "limit"
    server.accept().reset()
    plugin.event(sixth, "error")
    plugin.event(sixth, "close")
    for id, other in pairs[1:]:
        other.reset()
        plugin.events_to_close(id)


def test_evicted_server_does_not_answer(plugin: Plugin, server: Listener) -> None:
    """One second for its closing handshake."""
    pairs = [server.open(plugin) for _ in range(5)]
    with within(1):
        sixth = plugin.create(server.url)
        expect_abnormal(plugin.event(pairs[0][0], "close"), "limit")
        peer = server.accept()
    pairs[0][1].expect_end()
    pairs[0][1].close()
    for id, other in [*pairs[1:], (sixth, peer)]:
        other.reset()
        plugin.events_to_close(id)


def test_eviction_while_connecting(plugin: Plugin, server: Listener) -> None:
    """Aborted at once, its sends answered before its `close` event."""
    pairs = [connecting(plugin, server) for _ in range(5)]
    oldest, peer = pairs.pop(0)
    plugin.send(send(oldest, "a"), create(server.url))
    sixth = plugin.read()["response"]["id"]
    expect_failure(plugin.read(), "a", "not-open")
    reason = expect_abnormal(plugin.event(oldest, "close"), "limit")
    assert reason == "connection limit of 5 reached"
    peer.expect_end()
    peer.close()
    for id, other in [*pairs, (sixth, server.accept())]:
        other.reset()
        plugin.events_to_close(id)


def test_eviction_while_waiting_for_a_place(plugin: Plugin, server: Listener) -> None:
    """Five leave slowly, five wait for their places: an eleventh ends the oldest that waits."""
    _, peers = silent(plugin, server, 5)
    waiting = [plugin.create(server.url) for _ in range(5)]
    plugin.send(send(waiting[0], "a"), create(server.url))
    eleventh = plugin.read()["response"]["id"]
    expect_failure(plugin.read(), "a", "not-open")
    reason = expect_abnormal(plugin.event(waiting[0], "close"), "limit")
    assert reason == "connection limit of 5 reached"
    expect_nobody(server)
    for id in (*waiting[1:], eleventh):
        plugin.send(close(id))
        assert plugin.read() == done("close")
        expect_abnormal(plugin.event(id, "close"), "host")
    finish(plugin, peers)
    expect_nobody(server)


def test_closing_connections_do_not_count(plugin: Plugin, server: Listener) -> None:
    """A create beside four open and one closing evicts nobody; it waits for the fifth place."""
    pairs = [server.open(plugin) for _ in range(5)]
    middle, peer = pairs.pop(2)
    plugin.send(close(middle), create(server.url))
    assert plugin.read() == done("close")
    sixth = plugin.read()["response"]["id"]
    peer.expect_close(1000)
    expect_nobody(server)
    peer.send(close_frame(1000))
    peer.close()
    assert plugin.event(middle, "close")["code"] == 1000
    for id, other in [*pairs, (sixth, server.accept())]:
        other.reset()
        plugin.events_to_close(id)


@pytest.mark.parametrize("closed_by", ["host", "server"])
def test_create_cuts_off_a_closing_connection(
    plugin: Plugin, server: Listener, closed_by: str
) -> None:
    """After one second, and no more of them than it needs."""
    pairs = [server.open(plugin) for _ in range(5)]
    for id, peer in pairs:
        if closed_by == "host" or id != pairs[0][0]:
            plugin.send(close(id))
            assert plugin.read() == done("close")
        else:
            peer.send(close_frame(1000))
        peer.expect_close(1000)
    with within(1):
        sixth = plugin.create(server.url)
        line = plugin.read()
        assert line["payload"]["name"] == "close"
        assert line["payload"]["payload"]["cause"] == closed_by
        ended = line["payload"]["id"]
        peer = server.accept()
    if closed_by == "server":
        assert ended == pairs[0][0]
    peer.handshake()
    plugin.event(sixth, "open")
    for id, other in pairs:
        if id != ended:
            other.send(close_frame(1000))
        other.close()
        if id != ended:
            assert plugin.event(id, "close") == {"code": 1000, "reason": "", "cause": "host"}
    peer.reset()
    plugin.events_to_close(sixth)


def test_a_place_that_comes_free_at_once_spares_the_closing(
    plugin: Plugin, server: Listener
) -> None:
    """A create cuts off only what it waits for: not where another gives its place first."""
    _, (slow,) = silent(plugin, server, 1)
    others = [connecting(plugin, server) for _ in range(4)]
    aborted, gone = others.pop(0)
    plugin.send(close(aborted), create(server.url))
    assert plugin.read() == done("close")
    sixth = plugin.read()["response"]["id"]
    gone.expect_end()
    gone.close()
    expect_abnormal(plugin.event(aborted, "close"), "host")
    peer = server.accept()
    # Cut off, the closing connection would be reset within a second.
    slow.sock.settimeout(1 + SLACK)
    with pytest.raises(TimeoutError):
        slow.sock.recv(1)
    finish(plugin, [slow])
    for id, other in [*others, (sixth, peer)]:
        other.reset()
        plugin.events_to_close(id)


def test_close_while_waiting_for_a_place(plugin: Plugin, server: Listener) -> None:
    _, peers = silent(plugin, server, 5)
    sixth = plugin.create(server.url)
    plugin.send(close(sixth, 4000, "never mind"), close(sixth), send(sixth, "late"))
    lines = [plugin.read() for _ in range(4)]
    event = next(line for line in lines if "event" in line)
    lines.remove(event)
    expect_abnormal(event["payload"]["payload"], "host")
    assert lines[:2] == [done("close")] * 2
    expect_failure(lines[2], "late", "not-open")
    finish(plugin, peers)
    expect_nobody(server)


def test_sends_and_close_wait_for_a_place(plugin: Plugin, server: Listener) -> None:
    _, peers = silent(plugin, server, 5)
    sixth = plugin.create(server.url)
    plugin.send(send(sixth, "a"), close(sixth, 4000), send(sixth, "b"))
    assert plugin.read() == done("close")
    expect_failure(plugin.read(), "b", "not-open")
    finish(plugin, peers)
    with server.accept() as peer:
        peer.handshake()
        plugin.event(sixth, "open")
        assert plugin.read() == done("a")
        assert peer.read_frame() == (0x80 | TEXT, b"a")
        peer.expect_close(4000)
        peer.send(close_frame(4000))
    assert plugin.event(sixth, "close")["cause"] == "host"


def test_close_timeout_while_waiting_for_a_place(pool: Pool, server: Listener) -> None:
    with pool.lend("--close-timeout", "0.8") as plugin:
        pairs = [server.open(plugin) for _ in range(5)]
        sixth = plugin.create(server.url)
        seventh = plugin.create(server.url)
        with within(1):
            plugin.send(send(seventh, "a"), close(seventh))
            assert plugin.read() == done("close")
            lines = [plugin.read() for _ in range(4)]
        failure = next(line for line in lines if "id" in line)
        expect_failure(failure, "a", "not-open")
        events = [line["payload"] for line in lines if "event" in line]
        ends = {event["id"]: event["payload"] for event in events}
        assert set(ends) == {pairs[0][0], pairs[1][0], seventh}
        expect_abnormal(ends[seventh], "host")
        for _, peer in pairs[:2]:
            peer.close()
        for id, peer in [*pairs[2:], (sixth, server.accept())]:
            peer.reset()
            plugin.events_to_close(id)


def test_open_timeout_starts_with_the_place(plugin: Plugin, server: Listener) -> None:
    _, peers = silent(plugin, server, 5)
    sixth = plugin.create(server.url, timeout=300)
    # It waits a second for its place, more than three times its timeout.
    line = plugin.read()
    assert (line["payload"]["name"], line["payload"]["payload"]["cause"]) == ("close", "host")
    with server.accept() as peer:
        peer.read_request()
        assert plugin.event(sixth, "error")["code"] == "open-timeout"
        expect_abnormal(plugin.event(sixth, "close"), "failure")
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.send(close_frame(1000))
        peer.close()
    for _ in peers[1:]:
        assert plugin.read()["payload"]["name"] == "close"


@pytest.mark.parametrize("limit", [1, 2])
def test_max_connections(pool: Pool, server: Listener, limit: int) -> None:
    with pool.lend("--max-connections", str(limit)) as plugin:
        reason = f"connection limit of {limit} reached"
        pairs = [server.open(plugin) for _ in range(limit)]
        for _ in range(3):
            oldest, peer = pairs.pop(0)
            id = plugin.create(server.url)
            peer.expect_close(1001, reason)
            peer.send(close_frame(1001))
            peer.close()
            expected = {"code": 1001, "reason": reason, "cause": "limit"}
            assert plugin.event(oldest, "close") == expected
            peer = server.accept()
            peer.handshake()
            plugin.event(id, "open")
            pairs.append((id, peer))
        for id, peer in pairs:
            peer.reset()
            plugin.events_to_close(id)


def test_many_creates_in_one_write(plugin: Plugin, server: Listener) -> None:
    """All but the last five are ended, and the server sees no more than five at a time."""
    plugin.send(*(create(server.url, n) for n in range(40)))
    ids: list[str] = []
    ended: list[str] = []
    while len(ended) < 35:
        line = plugin.read()
        if "response" in line:
            assert line["id"] == len(ids)
            ids.append(line["response"]["id"])
        else:
            event = line["payload"]
            assert event["name"] == "close"
            expect_abnormal(event["payload"], "limit")
            ended.append(event["id"])
    assert sorted(ended, key=ids.index) == ids[:35]
    # Those given a place first may have reached the server before they were ended.
    live: list[Peer] = []
    while len(live) < 5:
        peer = server.accept()
        try:
            peer.handshake()
            live.append(peer)
        except (EOFError, ConnectionError):
            peer.close()
    opened = [plugin.read()["payload"] for _ in range(5)]
    assert sorted(event["id"] for event in opened) == sorted(ids[35:])
    assert all(event["name"] == "open" for event in opened)
    for peer in live:
        peer.reset()
    events = [plugin.read()["payload"]["name"] for _ in range(10)]
    assert sorted(events) == ["close"] * 5 + ["error"] * 5
