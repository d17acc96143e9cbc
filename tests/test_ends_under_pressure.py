"""Connections that end while the host or the server is behind: nothing is lost or untrue."""

import itertools
import os
import signal
import socket
import threading
import time
from typing import Any

import pytest

from harness import TEXT, Listener, Plugin, close_frame, frame, within
from host_lines import background, close, describe, done, expect_abnormal, expect_failure, send
from pressure import (
    IDLE_MARGIN,
    MIB,
    Flood,
    deaf_server,
    in_kernel,
    number_of,
    numbered,
    open_to_server,
    stall,
    wait_until_still,
)
from situations import linux
from tls_servers import Authority, secure


def leave_unread(plugin: Plugin, listener: Listener, ending: bytes) -> tuple[str, int] | None:
    """Have a server send and go while the host has stopped reading, until the kernel holds a part.

    Returns the connection and how many messages it sent, or None if the kernels cannot be had so.
    """
    for count in range(2200, 4000, 200):
        id, peer = listener.open(plugin, perMessageDeflate=False)
        with peer:
            plugin.stop_reading()
            flood = Flood(peer, itertools.chain(numbered(TEXT, 1024, count), [ending]))
            wait_until_still(flood.taken)
            unreceived, unread = in_kernel(peer)
            if not unreceived and unread > MIB // 4:
                return id, count
        plugin.resume_reading()
        plugin.events_to_close(id)
    return None


@linux
@pytest.mark.parametrize("ending", [close_frame(1000, "all sent"), b""], ids=["Close", "no Close"])
def test_what_a_server_sent_before_it_went_is_not_lost(ending: bytes) -> None:
    """The plugin's writes fail while a part of what the server has sent is still unread."""
    sends = 300
    with Listener() as listener, Plugin() as plugin:
        left = leave_unread(plugin, listener, ending)
        if left is None:
            pytest.skip("the kernel's buffers do not allow it")
        id, sent = left
        requests = [send(id, "x" * 1024, number) for number in range(sends)]
        threading.Thread(target=plugin.send, args=requests, daemon=True).start()
        plugin.resume_reading()
        numbers: list[int] = []
        events: dict[str, Any] = {}
        answers = 0
        while "close" not in events or answers < sends:
            line = plugin.read()
            if "event" not in line:
                answers += 1
            elif line["payload"]["name"] == "message":
                numbers.append(number_of(line["payload"]["payload"]))
            else:
                events[line["payload"]["name"]] = line["payload"]["payload"]
        assert numbers == list(range(sent))
        if ending:
            closing = {"code": 1000, "reason": "all sent", "cause": "server"}
            assert events == {"close": closing}
        else:
            assert events["error"]["code"] == "network-error"
            assert events["close"]["code"] == 1006


@pytest.mark.parametrize("secure", [False, True], ids=["TCP", "TLS"])
def test_a_server_that_closes_and_reads_on_gets_what_waited(
    authority: Authority, secure: bool
) -> None:
    texts = [f"{number}" * MIB for number in range(5)]
    with open_to_server(authority if secure else None, deaf=True) as (plugin, ws, peer):
        plugin.send(*(send(ws, text, number) for number, text in enumerate(texts)))
        plugin.send(describe("sent"))
        answers = [plugin.read()["id"]]
        while answers[-1] != "sent":
            answers.append(plugin.read()["id"])
        peer.send(close_frame(1000, "bye"))
        with socket.socket(fileno=os.dup(peer.sock.fileno())) as tcp:
            tcp.shutdown(socket.SHUT_WR)
        # Only what the server gets has been answered with `{}`.
        received = [payload.decode() for _, payload in peer.read_to_close()[:-1]]
        peer.close()
        lines = [plugin.read()]
        while "event" not in lines[-1]:
            lines.append(plugin.read())
        late = [line["id"] for line in lines[:-1] if "response" in line]
        assert received == texts[: len(received)]
        assert len(answers) - 1 + len(late) <= len(received), "answered and not sent"
        closing = lines[-1]["payload"]["payload"]
        assert closing == {"code": 1000, "reason": "bye", "cause": "server"}


@pytest.mark.slow
@linux
def test_stalled_connections_over_tls_leave_nothing_behind(authority: Authority) -> None:
    options = ("--ca-file", authority.file, "--close-timeout", "0.1")
    with deaf_server() as listener, Plugin(*options) as plugin:
        sizes = []
        for _ in range(6):
            ws = plugin.create(listener.url.replace("ws:", "wss:"))
            with listener.accept() as peer:
                secure(peer, authority.context("127.0.0.1"))
                peer.handshake()
                plugin.event(ws, "open")
                plugin.send(send(ws, "x" * (40 * MIB), 1), close(ws, request=None))
                assert plugin.read()["error"]["code"] == "not-open"
                plugin.event(ws, "close")
            sizes.append(plugin.memory())
        assert max(sizes) - sizes[0] < IDLE_MARGIN


@pytest.mark.slow
@linux
@pytest.mark.parametrize("bursts", range(8, 24))
@pytest.mark.parametrize("secure", [False, True], ids=["TCP", "TLS"])
def test_a_connection_that_ends_while_the_host_is_behind_loses_nothing(
    authority: Authority, secure: bool, bursts: int
) -> None:
    """Bursts of 200 KB: the plugin stops reading somewhere in between, with more or less unread."""
    texts = [f"{number:08}".ljust(1000, ".") for number in range(200 * bursts)]
    data = b"".join(frame(TEXT, text.encode()) for text in texts)
    with open_to_server(authority if secure else None) as (plugin, ws, peer):
        plugin.stop_reading()
        size = len(data) // bursts
        for start in range(0, len(data), size):
            peer.send(data[start : start + size])
            time.sleep(0.03)  # not to wait for anything: so that it is read in pieces
        peer.send(close_frame(1000, "bye"))
        peer.close()
        wait_until_still(plugin.memory)  # what can be read of this has been read
        plugin.resume_reading()
        *messages, (name, payload) = plugin.events_to_close(ws)
        assert [payload["data"] for _, payload in messages] == texts
        assert (name, payload["code"], payload["reason"]) == ("close", 1000, "bye")


ENDS: dict[str, tuple[Any, float, str]] = {
    "websocket-close": (close("ws-1", request="end"), 1.5, "host"),
    "app-background": (background("end"), 1, "background"),
    "SIGTERM": (None, 2, "shutdown"),
}


@pytest.mark.parametrize(("request_", "seconds", "cause"), ENDS.values(), ids=ENDS)
def test_a_stalled_connection_ends_in_time(request_: Any, seconds: float, cause: str) -> None:
    with deaf_server() as listener, Plugin("--close-timeout", "1.5") as plugin:
        ws, peer = listener.open(plugin)
        with peer:
            answered, waiting = stall(plugin, ws)
            with within(seconds):
                if request_:
                    plugin.send(request_)
                else:
                    plugin.process.send_signal(signal.SIGTERM)
                if cause == "host":
                    assert plugin.read() == done("end")
                for id in range(answered, answered + waiting):
                    expect_failure(plugin.read(), id, "not-open")
                expect_abnormal(plugin.event(ws, "close"), cause)
                if cause == "background":
                    assert plugin.read() == done("end")
                if cause == "shutdown":
                    assert plugin.wait() == 0


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed by the host"])
def test_a_close_frame_that_cannot_leave_completes_no_handshake(is_closed: bool) -> None:
    """It stands behind a message that the server does not read."""
    with deaf_server() as listener, Plugin() as plugin:
        ws, peer = listener.open(plugin)
        with peer:
            plugin.send(send(ws, "x" * (8 * MIB), 1))
            if is_closed:
                plugin.send(close(ws, 3000, "mine"))
                assert plugin.read() == done("close")
            peer.send(close_frame(1001, "bye"))
            assert plugin.read()["error"]["code"] == "not-open"
            closing = plugin.event(ws, "close")
        assert closing.pop("reason").startswith("the closing handshake took longer")
        assert closing == {"code": 1006, "cause": "host" if is_closed else "server"}
