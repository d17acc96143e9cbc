"""Sends and closes of a connection whose opening handshake is not complete.

What the handshake itself may be is in ``test_opening_handshake.py``.
"""

import pytest

from harness import TEXT, Listener, Plugin, close_frame, within
from host_lines import close, create, done, expect_abnormal, expect_failure, send
from pool import Pool
from situations import connecting


def test_sends_wait_for_the_opening_handshake(plugin: Plugin, server: Listener) -> None:
    id, peer = connecting(plugin, server)
    with peer:
        plugin.send(*(send(id, f"{n}") for n in range(20)))
        # Nothing of them is answered yet: another request is answered first.
        assert "response" in plugin.request("plugin-describe")
        peer.send(peer.response())
        plugin.event(id, "open")
        for n in range(20):
            assert plugin.read() == done(f"{n}")
            assert peer.read_frame() == (0x80 | TEXT, b"%d" % n)
        peer.send(close_frame(1000))
        peer.expect_close(1000)
    plugin.event(id, "close")


@pytest.mark.parametrize("reason", ["", "changed my mind"])
def test_close_while_connecting(plugin: Plugin, server: Listener, reason: str) -> None:
    id, peer = connecting(plugin, server)
    with peer:
        plugin.send(close(id, 4000, reason))
        assert plugin.read() == done("close")
        why = expect_abnormal(plugin.event(id, "close"), "host")
        # In words, and true ones: nobody has lost anything.
        assert "lost" not in why
        peer.expect_end()


def test_close_in_the_same_write_as_create(plugin: Plugin, server: Listener) -> None:
    first = int(plugin.create(server.url).split("-")[1])
    server.accept().reset()
    plugin.events_to_close(f"ws-{first}")
    id = f"ws-{first + 1}"
    plugin.send(create(server.url), close(id), send(id, "late"), close(id))
    assert plugin.read() == {"id": "create", "response": {"id": id}}
    assert plugin.read() == done("close")
    expect_failure(plugin.read(), "late", "not-open")
    assert plugin.read() == done("close")
    expect_abnormal(plugin.event(id, "close"), "host")


def test_close_behind_waiting_sends(plugin: Plugin, server: Listener) -> None:
    """It takes its turn behind them, and is answered at once."""
    id, peer = connecting(plugin, server)
    with peer:
        plugin.send(send(id, "a"), send(id, "b"), close(id, 4000, "bye"), send(id, "c"), close(id))
        assert plugin.read() == done("close")
        expect_failure(plugin.read(), "c", "not-open")
        assert plugin.read() == done("close")
        peer.send(peer.response())
        plugin.event(id, "open")
        assert [plugin.read(), plugin.read()] == [done("a"), done("b")]
        assert peer.read_frame() == (0x80 | TEXT, b"a")
        assert peer.read_frame() == (0x80 | TEXT, b"b")
        peer.expect_close(4000, "bye")
        peer.send(close_frame(4000))
    assert plugin.event(id, "close") == {"code": 4000, "reason": "bye", "cause": "host"}


def test_close_timeout_includes_the_opening_handshake(hasty: Plugin, server: Listener) -> None:
    id, peer = connecting(hasty, server)
    with peer, within(0.3):
        hasty.send(send(id, "a"), close(id))
        assert hasty.read() == done("close")
        expect_failure(hasty.read(), "a", "not-open")
        expect_abnormal(hasty.event(id, "close"), "host")
        peer.expect_end()


@pytest.mark.parametrize("with_close", [False, True])
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "handshake-failed"),
        (b"", "network-error"),
        (b"SSH-2.0-OpenSSH\r\n", "handshake-failed"),
    ],
)
def test_sends_wait_in_vain(
    plugin: Plugin, server: Listener, answer: bytes, code: str, with_close: bool
) -> None:
    """Answered before both, in order."""
    id, peer = connecting(plugin, server)
    with peer:
        plugin.send(send(id, "a"), send(id, "b"))
        if with_close:
            plugin.send(close(id))
            assert plugin.read() == done("close")
        peer.send(answer)
    for text in ("a", "b"):
        expect_failure(plugin.read(), text, "not-open")
    events = plugin.events_to_close(id)
    if not with_close:
        (error, why), (_, end) = events
        assert (error, why["code"]) == ("error", code)
        expect_abnormal(end, "failure")
    assert events[-1][1]["code"] == 1006


def test_open_timeout_with_sends_waiting(plugin: Plugin, server: Listener) -> None:
    id, peer = connecting(plugin, server, timeout=100)
    with peer, within(0.1):
        plugin.send(send(id, "a"))
        expect_failure(plugin.read(), "a", "not-open")
        assert plugin.event(id, "error")["code"] == "open-timeout"
        expect_abnormal(plugin.event(id, "close"), "failure")
        peer.expect_end()


def test_waiting_sends_are_limited(pool: Pool, server: Listener) -> None:
    """Into an empty buffer any message goes."""
    with pool.lend("--max-send-buffer", "10") as plugin:
        id, peer = connecting(plugin, server, perMessageDeflate=False)
        with peer:
            plugin.send(send(id, "*" * 20, "big"), send(id, "*", "small"))
            expect_failure(plugin.read(), "small", "buffer-full")
            peer.send(peer.response())
            plugin.event(id, "open")
            assert plugin.read() == done("big")
            assert peer.read_frame() == (0x80 | TEXT, b"*" * 20)
            peer.send(close_frame(1000))
            peer.expect_close()
        plugin.event(id, "close")
