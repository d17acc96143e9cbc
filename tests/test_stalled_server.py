"""A server that stops reading delays its own sends, within a limit, and nothing else.

Memory is compared with that of the same process with its connections open and idle.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from harness import PING, PONG, TEXT, Listener, Plugin, close_frame, echo_server, frame
from host_lines import background, close, create, describe, done, send
from pressure import IDLE_MARGIN, MIB, deaf_server, open_to_server, read_messages, stall
from situations import linux
from tls_servers import Authority

log = logging.getLogger(__name__)


@pytest.mark.parametrize("secure", [False, True], ids=["TCP", "TLS"])
def test_a_large_message_is_answered_when_the_kernel_has_it(
    authority: Authority, secure: bool
) -> None:
    large = "x" * (12 * MIB)
    with open_to_server(authority if secure else None, deaf=True) as (plugin, ws, peer):
        plugin.send(send(ws, large, 1), send(ws, large, 2), send(ws, "small", 3))
        plugin.send(describe("sent"))
        refused = plugin.read()
        assert (refused["id"], refused["error"]["code"]) == (2, "buffer-full")
        assert plugin.read()["id"] == "sent"
        # A server that has begun to read: what it takes is a part of what the kernel has.
        received = b""
        while len(received) < 4 * MIB:
            received += peer.sock.recv(65536)
            assert "response" in plugin.request("plugin-describe", id=4)
        peer.unread(received)
        assert read_messages(peer, 2) == [large, "small"]
        assert [plugin.read()["id"], plugin.read()["id"]] == [1, 3]


@pytest.mark.parametrize("secure", [False, True], ids=["TCP", "TLS"])
def test_sends_to_a_stalled_server_are_answered_late_then_refused(
    authority: Authority, secure: bool
) -> None:
    size = 65536
    server = open_to_server(authority if secure else None, "--max-send-buffer", "1MiB", deaf=True)
    with server as (plugin, ws, peer):
        answered, waiting = stall(plugin, ws, size=size, most=400)
        # Of one message a part may be the kernel's already, and what waits there, up to
        # 64 KiB, is answered.
        assert MIB - 3 * size <= waiting * size <= MIB + size
        # What is small enough still fits in; the order is that of the requests.
        plugin.send(send(ws, "", 1000))
        assert read_messages(peer, answered + waiting + 1) == [
            *(f"{number:08}".ljust(size, ".") for number in range(answered + waiting)),
            "",
        ]
        for id in (*range(answered, answered + waiting), 1000):
            assert plugin.read() == done(id)
        plugin.send(send(ws, "again"))
        assert plugin.read() == done("again")
        assert read_messages(peer, 1) == ["again"]


@pytest.mark.parametrize("is_open", [False, True], ids=["connecting", "open"])
def test_into_an_empty_buffer_any_message_goes(is_open: bool) -> None:
    large = "x" * MIB
    with deaf_server() as listener, Plugin("--max-send-buffer", "1KiB") as plugin:
        ws = plugin.create(listener.url)
        with listener.accept() as peer:
            if is_open:
                peer.handshake()
                plugin.event(ws, "open")
            for id in range(40):
                plugin.send(send(ws, large, id), describe("sent"))
                answers = [plugin.read()]
                while answers[-1]["id"] != "sent":
                    answers.append(plugin.read())
                if "error" in answers[0]:
                    break
            # The first of all has been taken, and the one refused was not alone.
            assert id > 0
            assert answers[0]["error"]["code"] == "buffer-full"
            if not is_open:
                assert id == 1
                peer.handshake()
                plugin.event(ws, "open")
            assert read_messages(peer, id) == [large] * id
            assert plugin.read() == done(id - 1)


def test_a_stalled_server_holds_up_no_other_connection() -> None:
    with deaf_server() as listener, echo_server() as server, Plugin() as plugin:
        stalled, peer = listener.open(plugin)
        others = []
        for _ in range(4):
            others.append(plugin.create(server.url))
            plugin.event(others[-1], "open")
        with peer:
            stall(plugin, stalled)
            for number in range(50):
                for ws in others:
                    plugin.send(send(ws, f"{number}"))
                    assert plugin.read() == done(f"{number}")
                    assert plugin.event(ws, "message")["data"] == f"{number}"


@pytest.mark.slow
@linux
@pytest.mark.parametrize(("count", "size"), [(200, MIB), (3000, 0)], ids=["large", "many"])
def test_what_waits_for_a_place_is_bounded(count: int, size: int) -> None:
    """With a message and a close behind them, connections that wait do not count for the limit."""
    with (
        Listener() as listener,
        Plugin("--max-send-buffer", "1MiB") as plugin,
        contextlib.ExitStack() as peers,
    ):
        for _ in range(5):
            _, peer = listener.open(plugin)
            peers.enter_context(peer)
        for number in range(1, 6):
            plugin.send(close(f"ws-{number}", request=None))
        idle = plugin.memory()
        plugin.reset_peak()
        data = "x" * size
        for number in range(6, 6 + count):
            plugin.send(
                create(listener.url, f"create {number}"),
                send(f"ws-{number}", data, number),
                close(f"ws-{number}", request=None),
            )
        plugin.send(describe("sent"), background("end"))
        ids: Counter[Any] = Counter()
        ended: Counter[str] = Counter()
        ended_before = 0
        while (line := msgspec.json.decode(plugin.read_line())).get("id") != "end":
            if "event" in line:
                assert line["payload"]["name"] == "close"
                ended[line["payload"]["id"]] += 1
            elif line["id"] == "sent":
                ended_before = ended.total()
            else:
                ids[line["id"]] += 1
        assert ended == Counter(f"ws-{number}" for number in range(1, 6 + count))
        assert ids == Counter(range(6, 6 + count)) + Counter(
            f"create {number}" for number in range(6, 6 + count)
        )
        growth = plugin.peak_memory() - idle
        log.info("%d ended, memory grew by %.1f MiB", ended_before, growth / MIB)
        assert ended_before >= count - (1010 if size == 0 else 20)
        assert growth < IDLE_MARGIN


@pytest.mark.parametrize("size", [4096, 100_000])
def test_one_that_waits_for_a_place_may_be_large(size: int) -> None:
    """Into an empty buffer any message goes, and it has its turn."""
    options = ("--max-connections", "1", "--max-send-buffer", "1KiB")
    with Listener() as listener, Plugin(*options) as plugin:
        _, first = listener.open(plugin)
        with first:
            plugin.send(close("ws-1", request=None))
            first.expect_close(1000)
            plugin.create(listener.url)
            data = "x" * size
            plugin.send(send("ws-2", data, 1), close("ws-2", request=None))
            plugin.create(listener.url)
            first.send(close_frame(1000))
        plugin.event("ws-1", "close")
        with listener.accept() as peer:
            peer.handshake()
            plugin.event("ws-2", "open")
            assert plugin.read() == done(1)
            assert read_messages(peer, 1) == [data]
            peer.expect_close(1000)
            peer.send(close_frame(1000))


@pytest.mark.slow
@linux
def test_pings_of_a_server_that_reads_nothing_cost_no_memory() -> None:
    count = 200_000
    with deaf_server() as listener, Plugin() as plugin:
        id, peer = listener.open(plugin)
        with peer:
            plugin.reset_peak()
            idle = plugin.memory()
            pings = b"".join(frame(PING, b"%0125d" % number) for number in range(count))
            peer.send(pings + frame(TEXT, b"end of pings"))
            assert plugin.event(id, "message")["data"] == "end of pings"
            assert plugin.peak_memory() - idle < 8 * MIB
            # Pongs may be left out, the last one must come (RFC 6455 section 5.5.3).
            numbers = [-1]
            while numbers[-1] < count - 1:
                head, payload = peer.read_frame()
                assert head & 0x0F == PONG
                numbers.append(int(payload))
            assert numbers == sorted(set(numbers))


WAITING = 40 * MIB
"""What may wait for a server that does not read: 16 MiB, and as many bytes of answers."""

LITTLE: dict[str, tuple[int, Callable[[int], Any]]] = {
    # how many requests, and the id of each
    "empty messages": (100_000, lambda number: number),
    "empty messages without id": (100_000, lambda number: None),
    "long ids": (64, lambda number: f"{number}".ljust(MIB, "i")),
}


@pytest.mark.slow
@linux
@pytest.mark.parametrize("is_open", [False, True], ids=["connecting", "open"])
@pytest.mark.parametrize(("count", "make_id"), LITTLE.values(), ids=LITTLE)
def test_what_waits_for_a_stalled_server_is_bounded(
    count: int, make_id: Callable[[int], Any], is_open: bool
) -> None:
    with deaf_server() as listener, Plugin("--max-send-buffer", "1MiB") as plugin:
        ws = plugin.create(listener.url)
        with listener.accept() as peer:
            expected: Counter[Any] = Counter()
            if is_open:
                peer.handshake()
                plugin.event(ws, "open")
                answered, waiting = stall(plugin, ws)
                expected.update(range(answered, answered + waiting))
            plugin.reset_peak()
            idle = plugin.memory()
            for start in range(0, count, 1000):
                ids = [make_id(number) for number in range(start, min(start + 1000, count))]
                plugin.send(*(send(ws, "", id) for id in ids))
                expected.update(ids)
            plugin.send(background("end"))
            answers: Counter[Any] = Counter()
            codes: Counter[str] = Counter()
            while (line := msgspec.json.decode(plugin.read_line())).get("id") != "end":
                if "event" not in line:
                    answers[line["id"]] += 1
                    codes[line["error"]["code"]] += 1
            growth = plugin.peak_memory() - idle
            log.info("stalled server: %s; memory grew by %.1f MiB", dict(codes), growth / MIB)
            assert growth < WAITING
            assert codes.keys() <= {"buffer-full", "not-open"}
            assert answers == expected


def test_a_batch_is_not_what_a_server_keeps_waiting() -> None:
    """Sends of one read of stdin are written in one go; until then they wait for nobody."""
    with Listener() as listener, Plugin("--max-send-buffer", "4KiB") as plugin:
        ws, peer = listener.open(plugin)
        with peer:
            plugin.send(*(send(ws, "x" * 3000, number) for number in range(4)))
            assert [plugin.read() for _ in range(4)] == [done(number) for number in range(4)]


def test_a_long_id_goes_into_an_empty_buffer() -> None:
    """However long the id of its request is."""
    id = "i" * (17 * MIB)
    with Listener() as listener, Plugin() as plugin:
        ws = plugin.create(listener.url)
        with listener.accept() as peer:
            plugin.send(send(ws, "hello", id))
            peer.handshake()
            plugin.event(ws, "open")
            assert peer.read_frame()[1] == b"hello"
            assert plugin.read() == done(id)
