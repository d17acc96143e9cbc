"""What host and server do at the same time, and connections side by side.

A stopped process finds what happened meanwhile as if it had happened in one moment.
"""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from harness import BINARY, TEXT, Listener, Peer, Plugin, close_frame, frame
from host_lines import background, close, create, done, expect_abnormal, expect_failure, send
from situations import connecting, silent


def test_connections_do_not_wait_for_each_other(plugin: Plugin, server: Listener) -> None:
    """One connecting, one stuck, one closing: a fifth exchanges messages meanwhile."""
    waiting, waiting_peer = connecting(plugin, server)
    stuck, stuck_peer = server.open(plugin, perMessageDeflate=False)
    (closing,), (closing_peer,) = silent(plugin, server, 1)
    plugin.send(*(send(stuck, "*" * 2**20, f"stuck {n}") for n in range(12)))
    taken = 0
    id = ""
    plugin.send(create(server.url))
    while not id:
        line = plugin.read()
        if line["id"] == "create":
            id = line["response"]["id"]
        else:
            assert line == done(f"stuck {taken}")
            taken += 1
    peer = server.accept()
    peer.handshake()
    plugin.event(id, "open")
    for n in range(20):
        plugin.send(send(id, f"{n}"))
        assert plugin.read() == done(f"{n}")
        assert peer.read_frame() == (0x80 | TEXT, b"%d" % n)
        peer.send(frame(TEXT, b"%d" % n))
        assert plugin.event(id, "message")["data"] == f"{n}"
    for other in (waiting_peer, stuck_peer, closing_peer, peer):
        other.reset()
    names: dict[str, list[str]] = {}
    while sum(events[-1] == "close" for events in names.values()) < 4:
        line = plugin.read()
        if "event" in line:
            names.setdefault(line["payload"]["id"], []).append(line["payload"]["name"])
    failed = ["error", "close"]
    assert names == {waiting: failed, stuck: failed, closing: ["close"], id: failed}


@pytest.mark.parametrize("code", [1000, 4000])
def test_close_and_the_servers_acceptance_at_once(
    plugin: Plugin, server: Listener, code: int
) -> None:
    """Either it was aborted while connecting, or opened and closed with a closing handshake."""
    id, peer = connecting(plugin, server)
    with peer:
        with plugin.stopped():
            plugin.send(close(id, code))
            peer.send(peer.response())
        assert plugin.read() == done("close")
        line = plugin.read()["payload"]
        if line["name"] == "open":
            peer.expect_close(code)
            peer.send(close_frame(code))
            peer.close()
            expected = {"code": code, "reason": "", "cause": "host"}
            assert plugin.event(id, "close") == expected
        else:
            assert line["name"] == "close"
            expect_abnormal(line["payload"], "host")


def test_background_and_the_servers_acceptance_at_once(plugin: Plugin, server: Listener) -> None:
    id, peer = connecting(plugin, server)
    with peer:
        with plugin.stopped():
            plugin.send(background())
            peer.send(peer.response() + frame(TEXT, b"hello"))
        line = plugin.read()["payload"]
        if line["name"] == "open":
            assert plugin.event(id, "message")["data"] == "hello"
            peer.expect_close(1001)
            peer.send(close_frame(1001))
            peer.close()
            assert plugin.event(id, "close")["code"] == 1001
        else:
            assert line["name"] == "close"
            expect_abnormal(line["payload"], "background")
    assert plugin.read() == done("background")


def test_send_and_the_servers_close_at_once(plugin: Plugin, server: Listener) -> None:
    """The answer tells the truth: `{}` and the server gets it, or `not-open` and it does not."""
    id, peer = server.open(plugin)
    with peer:
        with plugin.stopped():
            plugin.send(send(id, "a"))
            peer.send(close_frame(4000))
        frames = [payload for _, payload in peer.read_to_close()]
    answer = plugin.read()
    if "error" in answer:
        expect_failure(answer, "a", "not-open")
    assert frames == ([b"a"] if "response" in answer else []) + [struct.pack("!H", 4000)]
    assert plugin.event(id, "close")["cause"] == "server"


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_close_and_the_end_of_tcp_at_once(
    plugin: Plugin, server: Listener, end: Callable[[Peer], None]
) -> None:
    """On purpose or a failure, as the one or the other came first; never both."""
    id, peer = server.open(plugin)
    with plugin.stopped():
        plugin.send(close(id))
        end(peer)
    lines = [plugin.read(), plugin.read()]
    if lines[1].get("payload", {}).get("name") == "close":
        assert lines[0] == done("close")
        expect_abnormal(lines[1]["payload"]["payload"], "host")
        return
    lines.append(plugin.read())
    lines.remove(done("close"))
    (error, close_event) = (line["payload"] for line in lines)
    assert (error["name"], close_event["name"]) == ("error", "close")
    expect_abnormal(close_event["payload"], "failure")


def test_everything_of_a_short_life_at_once(plugin: Plugin, server: Listener) -> None:
    """Response, messages, Close frame and end of TCP arrive in one read."""
    id, peer = connecting(plugin, server)
    with plugin.stopped():
        plugin.send(send(id, "never"))
        messages = frame(TEXT, b"a") + frame(BINARY, b"b")
        peer.send(peer.response() + messages + close_frame(4000, "c"))
        peer.close()
    events: list[Any] = []
    answer = None
    while not events or events[-1]["name"] != "close":
        line = plugin.read()
        if "event" in line:
            events.append(line["payload"])
        else:
            answer = line
    assert answer is not None
    assert [event["name"] for event in events] == ["open", "message", "message", "close"]
    assert events[-1]["payload"] == {"code": 4000, "reason": "c", "cause": "server"}
