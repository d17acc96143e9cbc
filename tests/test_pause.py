"""``websocket-pause`` and ``websocket-resume``: one server is held back, and nobody else."""

import contextlib
import logging
import signal
import threading
import time
from typing import Any

import msgspec
import pytest

from harness import (
    BINARY,
    PING,
    TEXT,
    TIMEOUT,
    Listener,
    Peer,
    Plugin,
    close_frame,
    frame,
    within,
)
from host_lines import (
    background,
    close,
    create,
    describe,
    done,
    expect_abnormal,
    expect_failure,
    pause,
    ping,
    resume,
    send,
)
from pressure import (
    MIB,
    Flood,
    number_of,
    numbered,
    open_to_server,
    stall,
    wait_until_still,
)
from situations import connecting, end_open, finish_closing, linux
from tls_servers import Authority

log = logging.getLogger(__name__)


@pytest.fixture(params=[False, True], ids=["TCP", "TLS"])
def authority_or_none(request: pytest.FixtureRequest, authority: Authority) -> Authority | None:
    """An authority where TLS is wanted."""
    return authority if request.param else None


def pause_now(plugin: Plugin, id: str) -> None:
    """Pause a connection of which no message is on its way."""
    plugin.send(pause(id))
    assert plugin.read() == done("pause")


def resume_now(plugin: Plugin, id: str) -> None:
    """Resume a connection that is paused: nothing of it may come before the answer."""
    plugin.send(resume(id))
    assert plugin.read() == done("resume")


def expect_silence(plugin: Plugin) -> None:
    """See that nothing comes, though the plugin has had some rounds of its event loop for it."""
    for number in range(20):
        plugin.send(describe(number))
        assert plugin.read()["id"] == number


# --- what it holds back ---


def test_messages_come_after_the_answer_of_resume(authority_or_none: Authority | None) -> None:
    with open_to_server(authority_or_none) as (plugin, ws, peer):
        pause_now(plugin, ws)
        for number in range(3):
            peer.send(frame(TEXT, b"%d" % number))
        expect_silence(plugin)
        resume_now(plugin, ws)
        for number in range(3):
            assert plugin.event(ws, "message")["data"] == str(number)
        peer.send(frame(TEXT, b"after"))
        assert plugin.event(ws, "message")["data"] == "after"


def test_what_has_been_read_already_waits_too(authority_or_none: Authority | None) -> None:
    """A flood fills every buffer there is; the answer is the last line before the silence."""
    count, size = 3000, 8192
    with open_to_server(authority_or_none) as (plugin, ws, peer):
        flood = Flood(peer, numbered(TEXT, size, count))
        told = 0
        while told < count:
            plugin.send(pause(ws))
            while (line := msgspec.json.decode(plugin.read_line())) != done("pause"):
                assert number_of(line["payload"]["payload"]) == told
                told += 1
            expect_silence(plugin)
            resume_now(plugin, ws)
            for _ in range(min(100, count - told)):
                assert number_of(plugin.event(ws, "message")) == told
                told += 1
        flood.join(TIMEOUT)


def test_it_goes_by_lines_and_not_by_time(plugin: Plugin, server: Listener) -> None:
    """Requests in one write have their effects one after another, and each its place."""
    id, peer = server.open(plugin)
    with peer:
        peer.send(frame(TEXT, b"x") * 50)
        plugin.send(*[pause(id, "p"), resume(id, "r")] * 50, pause(id, "last"))
        seen: list[str] = []
        while not seen or seen[-1] != "last":
            line = plugin.read()
            seen.append(line.get("id", "message"))
        paused = False
        for word in seen:
            assert not (paused and word == "message"), seen
            paused = word in ("p", "last")
        resume_now(plugin, id)
        for _ in range(50 - seen.count("message")):
            plugin.event(id, "message")
        plugin.send(close(id))
        peer.expect_close(1000)
        peer.send(close_frame(1000))
        assert plugin.read() == done("close")
        assert plugin.event(id, "close")["code"] == 1000


def test_both_may_be_repeated(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        resume_now(plugin, id)
        pause_now(plugin, id)
        pause_now(plugin, id)
        peer.send(frame(TEXT, b"held"))
        expect_silence(plugin)
        resume_now(plugin, id)
        assert plugin.event(id, "message")["data"] == "held"
        resume_now(plugin, id)
        peer.send(close_frame(1000))
        assert plugin.event(id, "close")["code"] == 1000
        pause_now(plugin, id)
        resume_now(plugin, id)
    plugin.send(pause("ws-99", "unknown"), resume("ws-99", "unknown too"))
    expect_failure(plugin.read(), "unknown", "unknown-id")
    expect_failure(plugin.read(), "unknown too", "unknown-id")


@pytest.mark.parametrize("place", ["connecting", "waiting"])
def test_before_the_opening_it_holds_from_it_on(place: str) -> None:
    with Listener() as listener, Plugin("--max-connections", "1") as plugin:
        if place == "waiting":
            first, before = listener.open(plugin)
            plugin.send(close(first), create(listener.url))
            before.expect_close(1000)
            assert plugin.read() == done("close")
            id = plugin.read()["response"]["id"]
            pause_now(plugin, id)
            before.send(close_frame(1000))
            before.close()
            plugin.event(first, "close")
            peer = listener.accept()
        else:
            id = plugin.create(listener.url)
            peer = listener.accept()
            pause_now(plugin, id)
        with peer:
            peer.handshake(glued=frame(TEXT, b"glued"))
            plugin.event(id, "open")
            peer.send(frame(TEXT, b"behind"))
            expect_silence(plugin)
            resume_now(plugin, id)
            assert plugin.event(id, "message")["data"] == "glued"
            assert plugin.event(id, "message")["data"] == "behind"


def test_resumed_before_the_opening_it_holds_nothing(plugin: Plugin, server: Listener) -> None:
    id, peer = connecting(plugin, server)
    with peer:
        pause_now(plugin, id)
        resume_now(plugin, id)
        peer.send(peer.response() + frame(TEXT, b"glued") + close_frame(1000))
        plugin.event(id, "open")
        assert plugin.event(id, "message")["data"] == "glued"
        assert plugin.event(id, "close")["code"] == 1000


def test_sends_go_on(authority_or_none: Authority | None) -> None:
    with open_to_server(authority_or_none) as (plugin, ws, peer):
        pause_now(plugin, ws)
        for number in range(10):
            plugin.send(send(ws, f"{number}"))
            assert plugin.read() == done(f"{number}")
            assert peer.read_frame() == (0x80 | TEXT, b"%d" % number)


def test_sends_to_a_server_that_does_not_read_wait_as_ever(
    authority_or_none: Authority | None,
) -> None:
    """What is sent while paused is counted, and takes no more memory than the limit."""
    options = ("--max-send-buffer", str(4 * MIB))
    with open_to_server(authority_or_none, *options, deaf=True) as (plugin, ws, peer):
        pause_now(plugin, ws)
        answered, waiting = stall(plugin, ws, size=MIB // 2)
        # What the kernel has taken, and one message on its way; the rest waits.
        assert answered <= 12, (answered, waiting)
        reader = threading.Thread(
            target=lambda: [peer.read_frame() for _ in range(answered + waiting)], daemon=True
        )
        reader.start()
        for _ in range(waiting):
            assert plugin.read()["response"] == {}
        reader.join(TIMEOUT)
        assert not reader.is_alive()


def test_what_a_server_has_not_taken_is_counted(authority_or_none: Authority | None) -> None:
    """A server that takes a little of a long message makes no room for another."""
    options = ("--max-send-buffer", str(MIB))
    with open_to_server(authority_or_none, *options, deaf=True) as (plugin, ws, peer):
        pause_now(plugin, ws)
        plugin.send(send(ws, "x" * 8 * MIB, "long"))
        taken = bytearray()
        for number in range(100):
            while len(taken) < number * 16384:
                taken += peer.sock.recv(16384)
            plugin.send(send(ws, "y" * MIB, number))
            expect_failure(plugin.read(), number, "buffer-full")
        peer.unread(bytes(taken))
        assert len(peer.read_frame()[1]) == 8 * MIB
        assert plugin.read() == done("long")


@pytest.mark.slow
def test_no_ping_times_out(authority_or_none: Authority | None) -> None:
    options = ("--ping-interval", "0.2", "--ping-timeout", "0.5")
    with open_to_server(authority_or_none, *options) as (plugin, ws, peer):
        pause_now(plugin, ws)
        assert peer.read_frame()[0] & 0x0F == PING
        # A ping of the host's has no time meanwhile, either.
        plugin.send(ping(ws, 100))
        assert peer.read_frame()[0] & 0x0F == PING
        peer.sock.settimeout(2.0)
        with pytest.raises(TimeoutError):
            peer.read_exact(1)
        peer.sock.settimeout(TIMEOUT)
        expect_silence(plugin)
        resume_now(plugin, ws)
        # The times begin anew, and with them the end of a server that does not answer.
        expect_failure(plugin.read(), "ping", "not-open")
        assert plugin.event(ws, "error")["code"] == "ping-timeout"
        expect_abnormal(plugin.event(ws, "close"), "failure")


# --- what others notice of it ---


@linux
@pytest.mark.slow
def test_a_flood_of_100_mb_takes_no_memory_and_no_time_from_others(
    authority_or_none: Authority | None,
) -> None:
    """A fifth is paused; four others go on, and nothing is lost."""
    size, count, echoes = 65_536, 1600, 300
    with open_to_server(authority_or_none) as (plugin, ws, peer), contextlib.ExitStack() as stack:
        listener = stack.enter_context(Listener())
        others = []
        for _ in range(4):
            id, other = listener.open(plugin, perMessageDeflate=False)
            others.append((id, stack.enter_context(other)))

        def round_trip(number: int) -> None:
            for id, _ in others:
                plugin.send(send(id, f"{number}"))
            for _, other in others:
                head, payload = other.read_frame()
                other.send(frame(head & 0x0F, payload))
            due = {("answer", str(number)): 4, **{(id, str(number)): 1 for id, _ in others}}
            while due:
                line = plugin.read()
                if "event" in line:
                    assert line["payload"]["id"] != ws
                    key = line["payload"]["id"], line["payload"]["payload"]["data"]
                else:
                    key = "answer", line["id"]
                due[key] -= 1
                if not due[key]:
                    del due[key]

        def seconds_of_round_trips() -> float:
            start = time.monotonic()
            for number in range(echoes):
                round_trip(number)
            return time.monotonic() - start

        seconds_of_round_trips()  # warm up
        alone = seconds_of_round_trips()
        # A flood before the pause, so that buffers have the size that they have in one.
        warm = Flood(peer, numbered(BINARY, size, 50))
        for _ in range(50):
            msgspec.json.decode(plugin.read_line())
        warm.join(TIMEOUT)
        plugin.reset_peak()
        before = plugin.memory()
        pause_now(plugin, ws)
        flood = Flood(peer, numbered(BINARY, size, count))
        wait_until_still(lambda: flood.sent)
        assert flood.sent < size * count
        beside = seconds_of_round_trips()
        growth = plugin.peak_memory() - before
        log.info(
            "paused, %d bytes sent: memory grew by %.2f MiB; %d round trips on four others took"
            " %.2f s, and %.2f s before",
            flood.sent,
            growth / MIB,
            echoes,
            beside,
            alone,
        )
        assert growth < 4 * MIB
        # The same work: what the machine does besides is all that may differ.
        assert beside < 2 * alone + 0.5
        resume_now(plugin, ws)
        for number in range(count):
            assert (
                number_of(msgspec.json.decode(plugin.read_line())["payload"]["payload"]) == number
            )
        flood.join(TIMEOUT)


# --- ends while paused ---


def held(plugin: Plugin, ws: str, peer: Peer) -> list[dict[str, Any]]:
    """Pause, let the server send two messages; return what must be told before an end."""
    pause_now(plugin, ws)
    peer.send(frame(TEXT, b"first") + frame(TEXT, b"second"))
    return [{"type": "text", "data": text} for text in ("first", "second")]


def test_a_close_resumes_and_tells_what_came_before(authority_or_none: Authority | None) -> None:
    with open_to_server(authority_or_none) as (plugin, ws, peer):
        due = held(plugin, ws, peer)
        plugin.send(close(ws, 4000, "bye"))
        assert plugin.read() == done("close")
        for payload in due:
            assert plugin.event(ws, "message") == payload
        peer.expect_close(4000, "bye")
        peer.send(frame(TEXT, b"last") + close_frame(4000, "bye"))
        peer.close()
        assert plugin.event(ws, "message")["data"] == "last"
        assert plugin.event(ws, "close") == {"code": 4000, "reason": "bye", "cause": "host"}


def test_pausing_a_connection_that_ends_holds_nothing(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        plugin.send(close(id))
        assert plugin.read() == done("close")
        pause_now(plugin, id)
        peer.expect_close(1000)
        peer.send(frame(TEXT, b"last") + close_frame(1000))
        assert plugin.event(id, "message")["data"] == "last"
        assert plugin.event(id, "close")["code"] == 1000


def test_a_close_with_timeout_0_drops_what_waits(authority_or_none: Authority | None) -> None:
    with open_to_server(authority_or_none) as (plugin, ws, peer):
        held(plugin, ws, peer)
        plugin.send(ping(ws))
        assert peer.read_frame()[0] & 0x0F == PING
        plugin.send({**close(ws), "payload": {"id": ws, "timeout": 0}})
        assert plugin.read() == done("close")
        expect_failure(plugin.read(), "ping", "not-open")
        expect_abnormal(plugin.event(ws, "close"), "host")
        peer.expect_end()


def test_an_eviction_resumes() -> None:
    with Listener() as listener, Plugin("--max-connections", "1") as plugin:
        id, peer = listener.open(plugin)
        with peer:
            due = held(plugin, id, peer)
            second = plugin.create(listener.url)
            for payload in due:
                assert plugin.event(id, "message") == payload
            peer.expect_close(1001)
            peer.send(close_frame(1001))
            peer.close()
            assert plugin.event(id, "close")["cause"] == "limit"
        with listener.accept() as next_peer:
            next_peer.handshake()
            plugin.event(second, "open")


def test_the_background_resumes(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    with peer:
        due = held(plugin, id, peer)
        plugin.send(background())
        for payload in due:
            assert plugin.event(id, "message") == payload
        peer.expect_close(1001)
        peer.send(close_frame(1001))
        assert plugin.event(id, "close")["cause"] == "background"
        assert plugin.read() == done("background")


@pytest.mark.parametrize("linger", ["0", "5"])
def test_the_end_of_stdin_resumes(linger: str) -> None:
    with Listener() as listener, Plugin("--linger", linger) as plugin:
        id, peer = listener.open(plugin)
        opening, other = connecting(plugin, listener)
        with peer, other:
            due = held(plugin, id, peer)
            pause_now(plugin, opening)
            plugin.close_stdin()
            for payload in due:
                assert plugin.event(id, "message") == payload
            other.send(other.response() + frame(TEXT, b"glued"))
            plugin.event(opening, "open")
            assert plugin.event(opening, "message")["data"] == "glued"
            for each, name in ((peer, id), (other, opening)):
                if linger == "0":
                    finish_closing(each, plugin, name)
                else:
                    each.send(frame(TEXT, b"still") + close_frame(1000))
                    assert plugin.event(name, "message")["data"] == "still"
                    assert plugin.event(name, "close")["cause"] == "server"
            assert plugin.read_line() == b""
            assert plugin.wait() == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="sends a signal")
def test_a_signal_resumes(authority_or_none: Authority | None) -> None:
    with open_to_server(authority_or_none) as (plugin, ws, peer):
        due = held(plugin, ws, peer)
        plugin.process.send_signal(signal.SIGTERM)
        with within(2):
            for payload in due:
                assert plugin.event(ws, "message") == payload
            finish_closing(peer, plugin, ws)
            assert plugin.wait() == 0


def test_a_server_that_never_answers_is_cut_all_the_same() -> None:
    """The messages are told first, and only as far as the time of the end allows."""
    with Listener() as listener, Plugin("--close-timeout", "0.3") as plugin:
        id, peer = listener.open(plugin)
        with peer:
            due = held(plugin, id, peer)
            plugin.send(close(id))
            assert plugin.read() == done("close")
            with within(0.3):
                for payload in due:
                    assert plugin.event(id, "message") == payload
                expect_abnormal(plugin.event(id, "close"), "host")


# --- losses while paused ---


def test_a_loss_is_told_after_the_resume(plugin: Plugin, server: Listener) -> None:
    id, peer = server.open(plugin)
    peer.send(frame(TEXT, b"told before"))
    plugin.event(id, "message")
    pause_now(plugin, id)
    plugin.send(ping(id, request="waiting"))
    peer.send(frame(TEXT, b"before the loss"))
    # It has not read the Ping, so whatever is written now is answered with a reset.
    peer.close()
    refused: set[str] = set()
    for _ in range(50):
        if len(refused) == 2:
            break
        plugin.send(send(id, "x"))
        while (line := plugin.read())["id"] != "x":
            expect_failure(line, "waiting", "not-open")
            refused.add("waiting")
        if "error" in line:
            expect_failure(line, "x", "not-open")
            refused.add("x")
    assert len(refused) == 2, "nobody has noticed"
    plugin.send(ping(id))
    expect_failure(plugin.read(), "ping", "not-open")
    expect_silence(plugin)
    resume_now(plugin, id)
    assert plugin.event(id, "message")["data"] == "before the loss"
    assert plugin.event(id, "error")["code"] == "network-error"
    expect_abnormal(plugin.event(id, "close"), "failure")


def test_messages_that_wait_are_refused_when_the_loss_is_noticed(
    authority_or_none: Authority | None,
) -> None:
    """And not only when it is told: a host may wait for them before it resumes."""
    with open_to_server(authority_or_none, deaf=True) as (plugin, ws, peer):
        pause_now(plugin, ws)
        plugin.send(*(send(ws, "x" * 8 * MIB, number) for number in range(2)))
        plugin.send(describe())
        assert plugin.read()["id"] == "describe"
        peer.reset()
        for number in range(2):
            expect_failure(plugin.read(), number, "not-open")
        plugin.send(send(ws, "late"))
        expect_failure(plugin.read(), "late", "not-open")
        resume_now(plugin, ws)
        assert plugin.event(ws, "error")["code"] == "network-error"
        expect_abnormal(plugin.event(ws, "close"), "failure")


def test_a_server_that_closes_meanwhile(authority_or_none: Authority | None) -> None:
    with open_to_server(authority_or_none) as (plugin, ws, peer):
        due = held(plugin, ws, peer)
        peer.send(close_frame(4001, "so long"))
        peer.close()
        expect_silence(plugin)
        resume_now(plugin, ws)
        for payload in due:
            assert plugin.event(ws, "message") == payload
        end = plugin.event(ws, "close")
        assert end == {"code": 4001, "reason": "so long", "cause": "server"}


def test_a_server_that_ends_without_a_word(authority_or_none: Authority | None) -> None:
    """Over TLS, too, its last messages wait, though the end of the stream is seen at once."""
    with open_to_server(authority_or_none) as (plugin, ws, peer):
        due = held(plugin, ws, peer)
        peer.close()
        expect_silence(plugin)
        resume_now(plugin, ws)
        for payload in due:
            assert plugin.event(ws, "message") == payload
        assert plugin.event(ws, "error")["code"] == "network-error"
        expect_abnormal(plugin.event(ws, "close"), "failure")


def test_it_keeps_its_place() -> None:
    with Listener() as listener, Plugin("--max-connections", "1", "--at-limit", "refuse") as plugin:
        id, peer = listener.open(plugin)
        pause_now(plugin, id)
        peer.close()
        plugin.send(create(listener.url))
        expect_failure(plugin.read(), "create", "limit-reached")
        resume_now(plugin, id)
        assert plugin.event(id, "error")["code"] == "network-error"
        plugin.event(id, "close")


def test_a_stopped_host_and_a_pause_are_independent(plugin: Plugin, server: Listener) -> None:
    """A connection that is paused while the output is full is resumed by the host alone."""
    count, size = 200, 65_536
    paused, peer = server.open(plugin)
    flooding, other = server.open(plugin)
    with peer, other:
        plugin.stop_reading()
        floods = [Flood(each, numbered(TEXT, size, count)) for each in (peer, other)]
        wait_until_still(lambda: sum(flood.sent for flood in floods))
        plugin.send(pause(paused))
        plugin.resume_reading()
        told = {paused: 0, flooding: 0}
        answered = False
        while told[flooding] < count or not answered:
            line = msgspec.json.decode(plugin.read_line())
            if "event" in line:
                id = line["payload"]["id"]
                assert not (answered and id == paused)
                assert number_of(line["payload"]["payload"]) == told[id]
                told[id] += 1
            else:
                assert line == done("pause")
                answered = True
        expect_silence(plugin)
        resume_now(plugin, paused)
        for number in range(told[paused], count):
            assert number_of(plugin.event(paused, "message")) == number
        for id, each in ((paused, peer), (flooding, other)):
            end_open(plugin, id, each)
