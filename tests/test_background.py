"""``app-background`` in every state that connections can be in."""

from typing import Any

from harness import TEXT, Listener, Plugin, close_frame, frame, within
from host_lines import background, close, create, done, expect_abnormal, expect_failure, send
from situations import connecting, expect_nobody, finish, silent


def test_background_without_connections(plugin: Plugin) -> None:
    for payload in (None, dict[str, Any]()):
        assert plugin.request("app-background", payload) == done(1)
    plugin.send({"id": 2, "action": "app-background", "payload": None})
    assert plugin.read() == done(2)


def test_background_in_every_state(plugin: Plugin, server: Listener) -> None:
    """Every `close` event first, the answer last."""
    open_id, open_peer = server.open(plugin)
    connecting_id, connecting_peer = connecting(plugin, server)
    (closing_id,), (closing_peer,) = silent(plugin, server, 1)
    closed_id, closed_peer = server.open(plugin)
    closed_peer.send(close_frame(4000, "bye"))
    closed_peer.expect_close(4000)
    queued_id, queued_peer = connecting(plugin, server)
    plugin.send(send(connecting_id, "a"), send(queued_id, "b"), close(queued_id))
    assert plugin.read() == done("close")
    with within(1):
        plugin.send(background(), send(open_id, "late"), close(open_id))
        open_peer.expect_close(1001, "application entered background")
        open_peer.send(close_frame(1001))
        open_peer.close()
        lines: list[Any] = []
        while not lines or lines[-1] != done("background"):
            lines.append(plugin.read())
    answers = {line["id"]: line for line in lines if "id" in line}
    for text in ("a", "b", "late"):
        expect_failure(answers[text], text, "not-open")
    assert answers["close"] == done("close")
    assert all(line["payload"]["name"] == "close" for line in lines if "event" in line)
    ends = {line["payload"]["id"]: line["payload"]["payload"] for line in lines if "event" in line}
    assert len(ends) == 5
    reason = "application entered background"
    assert ends[open_id] == {"code": 1001, "reason": reason, "cause": "background"}
    assert expect_abnormal(ends[connecting_id], "background") == reason
    # What had been ended before keeps its cause.
    expect_abnormal(ends[closing_id], "host")
    assert ends[closed_id] == {"code": 4000, "reason": "bye", "cause": "server"}
    expect_abnormal(ends[queued_id], "host")
    for peer in (connecting_peer, closing_peer, closed_peer, queued_peer):
        peer.expect_end()
        peer.close()


def test_background_while_waiting_for_a_place(plugin: Plugin, server: Listener) -> None:
    _, peers = silent(plugin, server, 5)
    waiting = plugin.create(server.url)
    plugin.send(send(waiting, "a"), background())
    expect_failure(plugin.read(), "a", "not-open")
    expect_abnormal(plugin.event(waiting, "close"), "background")
    finish(plugin, peers)
    assert plugin.read() == done("background")
    expect_nobody(server)


def test_background_and_a_silent_server(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        with within(1):
            plugin.send(background())
            expect_abnormal(plugin.event(id, "close"), "background")
            assert plugin.read() == done("background")
        peer.expect_close(1001)
        peer.expect_end()


def test_background_sends_what_waits(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send(send(id, "a"), send(id, "b"), background())
        assert [plugin.read(), plugin.read()] == [done("a"), done("b")]
        assert [payload for _, payload in peer.read_to_close()][:2] == [b"a", b"b"]
        peer.send(frame(TEXT, b"bye") + close_frame(1001))
    assert plugin.event(id, "message")["data"] == "bye"
    assert plugin.event(id, "close")["code"] == 1001
    assert plugin.read() == done("background")


def test_create_during_background(plugin: Plugin, server: Listener) -> None:
    """It ends those that existed; new ones live."""
    id, peer = server.open(plugin)
    plugin.send(background(1), create(server.url), background(2), create(server.url))
    second = plugin.read()["response"]["id"]
    lines = [plugin.read(), plugin.read()]
    (event,) = [line["payload"] for line in lines if "event" in line]
    assert (event["id"], event["name"]) == (second, "close")
    expect_abnormal(event["payload"], "background")
    (third,) = [line["response"]["id"] for line in lines if "id" in line]
    peer.expect_close(1001)
    peer.send(close_frame(1001))
    peer.close()
    assert plugin.event(id, "close")["cause"] == "background"
    assert [plugin.read(), plugin.read()] == [done(1), done(2)]
    while True:
        peer = server.accept()
        try:
            peer.handshake()
            break
        except (EOFError, ConnectionError):
            peer.close()  # the second one's
    plugin.event(third, "open")
    peer.reset()
    plugin.events_to_close(third)


def test_background_without_id(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send(background(None))
        peer.expect_close(1001)
        peer.send(close_frame(1001))
    assert plugin.event(id, "close")["cause"] == "background"
