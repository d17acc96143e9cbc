"""Flow control both ways: a host that stops reading, a server that stops reading.

Memory is compared with that of the same process with its connections open and idle.
"""

import contextlib
import itertools
import logging
import os
import select
import signal
import socket
import ssl
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from harness import (
    BINARY,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    Listener,
    Peer,
    Plugin,
    close_frame,
    echo_server,
    frame,
)

log = logging.getLogger(__name__)

MIB = 2**20
IDLE_MARGIN = 24 * MIB
"""What the plugin may need beyond its idle memory, whoever has stopped reading."""

TAKEN = 4 * MIB
"""What the plugin may have read from servers for a host that has stopped reading."""

STILL = 0.5
"""Seconds without progress after which something counts as stopped."""

SLACK = 2.0
"""Seconds beyond the contract's own that an end may take here: the machine may be busy."""

linux = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks into /proc")


def wait_until_still(progress: Callable[[], int]) -> int:
    """Wait until a figure has not changed for some time, and return it."""
    value, since = progress(), time.monotonic()
    end = since + TIMEOUT
    while time.monotonic() - since < STILL:
        assert time.monotonic() < end, f"still growing: {value}"
        time.sleep(0.05)
        if (now := progress()) != value:
            value, since = now, time.monotonic()
    return value


class Flood(threading.Thread):
    """Sends frames as fast as they are taken."""

    def __init__(self, peer: Peer, frames: Iterable[bytes]) -> None:
        super().__init__(daemon=True)
        self.peer = peer
        self.frames = frames
        self.sent = 0
        self.start()

    def run(self) -> None:
        """Send; a connection that ends, ends the flood."""
        with contextlib.suppress(OSError):
            for data in self.frames:
                view = memoryview(data)
                while view:
                    count = self.peer.sock.send(view)
                    self.sent += count
                    view = view[count:]

    def taken(self) -> int:
        """Return how many bytes the plugin has read: sent, and in no buffer of the kernel."""
        return self.sent - sum(in_kernel(self.peer))


def in_kernel(peer: Peer) -> tuple[int, int]:
    """Return how many bytes to the plugin have not been received, and how many not been read."""
    here, there = peer.sock.getsockname()[1], peer.sock.getpeername()[1]
    unreceived = unread = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        ports = int(local[-4:], 16), int(remote[-4:], 16)
        to_send, to_read = (int(queue, 16) for queue in queues.split(":"))
        if ports == (here, there):
            unreceived += to_send
        elif ports == (there, here):
            unread += to_read
    return unreceived, unread


def fill_stdin(plugin: Plugin, line: bytes, most: int) -> int:
    """Write a line again and again until no more is taken, or `most` was; return how much."""
    assert plugin.process.stdin
    fd = plugin.process.stdin.fileno()
    os.set_blocking(fd, False)
    written = 0
    data = b""
    while written < most and select.select([], [fd], [], STILL)[1]:
        data = data or line
        with contextlib.suppress(BlockingIOError):
            count = os.write(fd, data)
            written += count
            data = data[count:]
    os.set_blocking(fd, True)
    threading.Thread(target=plugin.write, args=(data,), daemon=True).start()
    return written


# --- a host that stops reading ---

FLOODS: dict[str, tuple[int, int, int, int]] = {
    # servers, opcode, size of a message, messages of each server
    "one server, 100 MB of 256 KiB texts": (1, TEXT, 256 * 1024, 400),
    "five servers, 2 KiB binary messages": (5, BINARY, 2048, 4000),
}


def numbered(opcode: int, size: int, count: int) -> Iterator[bytes]:
    """Yield so many frames; every message begins with its number."""
    for number in range(count):
        yield frame(opcode, b"%08d" % number + b"\x40" * (size - 8))


def number_of(payload: Any) -> int:
    """Return the number that the message of an event begins with."""
    start = payload["data"][:8]
    return int(start if isinstance(start, str) else bytes(start))


@linux
@pytest.mark.parametrize(("servers", "opcode", "size", "count"), FLOODS.values(), ids=FLOODS)
def test_a_stopped_host_stops_servers_and_its_own_requests(
    servers: int, opcode: int, size: int, count: int
) -> None:
    with Listener() as listener, Plugin() as plugin, contextlib.ExitStack() as stack:
        peers = {}
        for _ in range(servers):
            id, peer = listener.open(plugin)
            peers[id] = stack.enter_context(peer)
        plugin.reset_peak()
        idle = plugin.memory()
        plugin.stop_reading()
        floods = [Flood(peer, numbered(opcode, size, count)) for peer in peers.values()]
        sent = wait_until_still(lambda: sum(flood.sent for flood in floods))
        assert sent < servers * size * count
        taken = sum(flood.taken() for flood in floods)
        assert taken < TAKEN
        request = b'{"id": "filler", "action": "plugin-describe"}\n'
        # What the pipe holds, and one read before the plugin notices.
        assert fill_stdin(plugin, request, MIB) <= 2 * 65536 + len(request)
        assert plugin.peak_memory() - idle < IDLE_MARGIN

        plugin.resume_reading()
        plugin.send({"id": "last", "action": "plugin-describe"})
        arrived: dict[str, list[int]] = {id: [] for id in peers}
        answered = False
        while not answered or sum(map(len, arrived.values())) < servers * count:
            line = msgspec.json.decode(plugin.read_line())
            if "event" in line:
                assert line["payload"]["name"] == "message"
                arrived[line["payload"]["id"]].append(number_of(line["payload"]["payload"]))
            else:
                answered |= line["id"] == "last"
        assert all(numbers == list(range(count)) for numbers in arrived.values())
        growth = plugin.peak_memory() - idle
        log.info(
            "stopped host: %d bytes sent, %d of them read; memory grew by %.1f MiB",
            sent,
            taken,
            growth / MIB,
        )
        assert growth < IDLE_MARGIN


REQUESTS: dict[str, tuple[int, str, dict[str, Any]]] = {
    # how many requests, what comes back for each, and the request
    "answered": (30_000, "response", {"action": "plugin-describe"}),
    "refused": (30_000, "error", {"action": "websocket-shout"}),
    # Less in sum than the send buffer of the connection, so that nothing may be refused.
    "echoed": (
        10_000,
        "response",
        {"action": "websocket-send", "payload": {"id": "ws-1", "type": "text", "data": "x" * 999}},
    ),
}


@linux
@pytest.mark.parametrize(("count", "result", "request_"), REQUESTS.values(), ids=REQUESTS)
def test_a_host_that_writes_before_it_reads_cannot_deadlock_the_pair(
    count: int, result: str, request_: dict[str, Any]
) -> None:
    with echo_server() as server, Plugin() as plugin:
        ws = plugin.create(server.url, perMessageDeflate=False)
        plugin.event(ws, "open")
        plugin.reset_peak()
        idle = plugin.memory()
        plugin.stop_reading()
        written = 0

        def write() -> None:
            nonlocal written
            for id in range(count):
                plugin.send({"id": id} | request_)
                written += 1

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        assert wait_until_still(lambda: written) < count, "stdin is read without limit"
        assert plugin.peak_memory() - idle < IDLE_MARGIN
        plugin.resume_reading()
        answers: list[int] = []
        echoes = 0
        is_echoed = "payload" in request_
        while len(answers) < count or echoes < count * is_echoed:
            line = plugin.read()
            if "event" in line:
                echoes += line["payload"]["name"] == "message"
            else:
                assert result in line
                answers.append(line["id"])
        writer.join(TIMEOUT)
        assert answers == list(range(count))
        assert plugin.peak_memory() - idle < IDLE_MARGIN


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the pause", "within the pause"])
def test_while_reading_is_paused_no_ping_times_out(moment: str) -> None:
    interval, patience = 0.2, 2.0
    with (
        Listener() as listener,
        Plugin("--ping-interval", str(interval), "--ping-timeout", str(patience)) as plugin,
    ):
        id, peer = listener.open(plugin)
        with peer:
            plugin.stop_reading()
            if moment == "before the pause":
                head, ping = peer.read_frame()
            flood = Flood(peer, numbered(TEXT, 256 * 1024, 200))
            wait_until_still(lambda: flood.sent)
            if moment == "within the pause":
                head, ping = peer.read_frame()
            assert head & 0x0F == PING
            # Nothing more may come, no Close frame above all, for longer than a ping may take.
            assert not select.select([peer.sock], [], [], interval + 1.5 * patience)[0]
            plugin.resume_reading()
            for number in range(200):
                assert number_of(plugin.event(id, "message")) == number
            flood.join(TIMEOUT)
            peer.send(frame(PONG, ping) + frame(TEXT, b"alive"))
            assert plugin.event(id, "message")["data"] == "alive"
            # The Pong has been taken for one: the next Ping follows.
            assert peer.read_frame()[0] & 0x0F == PING


def inflating(size: int) -> bytes:
    """Return a compressed frame (RFC 7692) that inflates to so many bytes."""
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(b"x" * size) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return frame(TEXT, data.removesuffix(b"\x00\x00\xff\xff"), rsv=4)


def test_a_flood_of_large_messages_leaves_turns_to_others() -> None:
    # One read of such frames is 60 MB of messages, so the flooding connection alone could keep
    # the output full for ever: the others and stdin must get a turn in between.
    turns = 200
    with Listener() as listener, Plugin() as plugin:
        id, flooding = listener.open(
            plugin, "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
        )
        other, peer = listener.open(plugin)
        with flooding, peer:
            Flood(flooding, itertools.repeat(inflating(MIB) * 64))
            for number in range(5):
                plugin.send({"id": number, "action": "plugin-describe"})
                peer.send(frame(TEXT, b"%08d" % number))
                due = {("answer", number), ("message", number)}
                for _ in range(turns):
                    line = msgspec.json.decode(plugin.read_line())
                    if "event" not in line:
                        due.remove(("answer", line["id"]))
                    elif line["payload"]["id"] == other:
                        due.remove(("message", number_of(line["payload"]["payload"])))
                    if not due:
                        break
                assert not due, f"not in {turns} messages of the flood"
            plugin.send({"action": "websocket-close", "payload": {"id": id}})
            flooding.expect_close(1000)


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
        requests = [send(number, id, "x" * 1024) for number in range(sends)]
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


# --- a server that stops reading ---


@contextlib.contextmanager
def deaf_server() -> Iterator[Listener]:
    """Listen with small buffers in the kernel, so that what is not read is soon noticed."""
    with Listener() as listener:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        yield listener


def send(id: int | str, ws: str, data: str) -> Any:
    return {
        "id": id,
        "action": "websocket-send",
        "payload": {"id": ws, "type": "text", "data": data},
    }


def read_messages(peer: Peer, count: int) -> list[str]:
    return [peer.read_frame()[1].decode() for _ in range(count)]


def stall(plugin: Plugin, ws: str, *, size: int = MIB, most: int = 50) -> tuple[int, int]:
    """Send messages until one is refused; return how many were answered, and how many wait."""
    plugin.send(*(send(number, ws, f"{number:08}".ljust(size, ".")) for number in range(most)))
    plugin.send({"id": "all", "action": "plugin-describe"})
    answered: list[int | None] = []
    while (line := plugin.read())["id"] != "all":
        if "error" in line:
            assert line["error"]["code"] == "buffer-full"
            answered.append(None)
        else:
            assert None not in answered, "sent although an earlier one was refused"
            answered.append(line["id"])
    done = [id for id in answered if id is not None]
    refused = len(answered) - len(done)
    assert done == list(range(len(done)))
    assert refused, "nothing was refused"
    return len(done), most - refused - len(done)


@pytest.fixture(scope="module", name="tls")
def _tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ssl.SSLContext]:
    """The file of a certificate authority, and what a server that it vouches for needs."""
    authority = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return str(file), context


@contextlib.contextmanager
def open_to_server(
    tls: tuple[str, ssl.SSLContext] | None, *options: str, deaf: bool = False
) -> Iterator[tuple[Plugin, str, Peer]]:
    """Open a connection, over TLS where wanted, to a server with small buffers where wanted."""
    if tls:
        options += ("--ca-file", tls[0])
    with deaf_server() if deaf else Listener() as listener, Plugin(*options) as plugin:
        ws = plugin.create(listener.url.replace("ws:", "wss:") if tls else listener.url)
        with listener.accept() as peer:
            if tls:
                peer.sock = tls[1].wrap_socket(peer.sock, server_side=True)
            peer.handshake()
            plugin.event(ws, "open")
            yield plugin, ws, peer


@pytest.mark.parametrize("secure", [False, True], ids=["TCP", "TLS"])
def test_a_large_message_is_answered_when_the_kernel_has_it(
    tls: tuple[str, ssl.SSLContext], secure: bool
) -> None:
    large = "x" * (12 * MIB)
    with open_to_server(tls if secure else None, deaf=True) as (plugin, ws, peer):
        plugin.send(send(1, ws, large), send(2, ws, large), send(3, ws, "small"))
        plugin.send({"id": "sent", "action": "plugin-describe"})
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
def test_a_server_that_closes_and_reads_on_gets_what_waited(
    tls: tuple[str, ssl.SSLContext], secure: bool
) -> None:
    texts = [f"{number}" * MIB for number in range(5)]
    with open_to_server(tls if secure else None, deaf=True) as (plugin, ws, peer):
        plugin.send(*(send(number, ws, text) for number, text in enumerate(texts)))
        plugin.send({"id": "sent", "action": "plugin-describe"})
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
        done = [line["id"] for line in lines[:-1] if "response" in line]
        assert received == texts[: len(received)]
        assert len(answers) - 1 + len(done) <= len(received), "answered and not sent"
        close = lines[-1]["payload"]["payload"]
        assert close == {"code": 1000, "reason": "bye", "cause": "server"}


@pytest.mark.slow
@linux
def test_stalled_connections_over_tls_leave_nothing_behind(
    tls: tuple[str, ssl.SSLContext],
) -> None:
    options = ("--ca-file", tls[0], "--close-timeout", "0.1")
    with deaf_server() as listener, Plugin(*options) as plugin:
        sizes = []
        for _ in range(6):
            ws = plugin.create(listener.url.replace("ws:", "wss:"))
            with listener.accept() as peer:
                peer.sock = tls[1].wrap_socket(peer.sock, server_side=True)
                peer.handshake()
                plugin.event(ws, "open")
                plugin.send(
                    send(1, ws, "x" * (40 * MIB)),
                    {"action": "websocket-close", "payload": {"id": ws}},
                )
                assert plugin.read()["error"]["code"] == "not-open"
                plugin.event(ws, "close")
            sizes.append(plugin.memory())
        assert max(sizes) - sizes[0] < IDLE_MARGIN


@pytest.mark.slow
@linux
@pytest.mark.parametrize("bursts", range(8, 24))
@pytest.mark.parametrize("secure", [False, True], ids=["TCP", "TLS"])
def test_a_connection_that_ends_while_the_host_is_behind_loses_nothing(
    tls: tuple[str, ssl.SSLContext], secure: bool, bursts: int
) -> None:
    """Bursts of 200 KB: the plugin stops reading somewhere in between, with more or less unread."""
    texts = [f"{number:08}".ljust(1000, ".") for number in range(200 * bursts)]
    data = b"".join(frame(TEXT, text.encode()) for text in texts)
    with open_to_server(tls if secure else None) as (plugin, ws, peer):
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


@pytest.mark.parametrize("secure", [False, True], ids=["TCP", "TLS"])
def test_sends_to_a_stalled_server_are_answered_late_then_refused(
    tls: tuple[str, ssl.SSLContext], secure: bool
) -> None:
    size = 65536
    server = open_to_server(tls if secure else None, "--max-send-buffer", "1MiB", deaf=True)
    with server as (plugin, ws, peer):
        done, waiting = stall(plugin, ws, size=size, most=400)
        # Of one message a part may be the kernel's already, and what waits there, up to
        # 64 KiB, is answered.
        assert MIB - 3 * size <= waiting * size <= MIB + size
        # What is small enough still fits in; the order is that of the requests.
        plugin.send(send(1000, ws, ""))
        assert read_messages(peer, done + waiting + 1) == [
            *(f"{number:08}".ljust(size, ".") for number in range(done + waiting)),
            "",
        ]
        for id in (*range(done, done + waiting), 1000):
            assert plugin.read() == {"id": id, "response": {}}
        assert plugin.request("websocket-send", send(1, ws, "again")["payload"]) == {
            "id": 1,
            "response": {},
        }
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
                plugin.send(send(id, ws, large), {"id": "sent", "action": "plugin-describe"})
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
            assert plugin.read() == {"id": id - 1, "response": {}}


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
                    answer = plugin.request("websocket-send", send(1, ws, f"{number}")["payload"])
                    assert answer == {"id": 1, "response": {}}
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
            plugin.send({"action": "websocket-close", "payload": {"id": f"ws-{number}"}})
        idle = plugin.memory()
        plugin.reset_peak()
        data = "x" * size
        for number in range(6, 6 + count):
            payload = {"url": listener.url}
            plugin.send(
                {"id": f"create {number}", "action": "websocket-create", "payload": payload},
                send(number, f"ws-{number}", data),
                {"action": "websocket-close", "payload": {"id": f"ws-{number}"}},
            )
        plugin.send({"id": "sent", "action": "plugin-describe"})
        plugin.send({"id": "end", "action": "app-background"})
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
            plugin.send({"action": "websocket-close", "payload": {"id": "ws-1"}})
            first.expect_close(1000)
            plugin.create(listener.url)
            data = "x" * size
            plugin.send(
                send(1, "ws-2", data), {"action": "websocket-close", "payload": {"id": "ws-2"}}
            )
            plugin.create(listener.url)
            first.send(close_frame(1000))
        plugin.event("ws-1", "close")
        with listener.accept() as peer:
            peer.handshake()
            plugin.event("ws-2", "open")
            assert plugin.read() == {"id": 1, "response": {}}
            assert read_messages(peer, 1) == [data]
            peer.expect_close(1000)
            peer.send(close_frame(1000))
        assert plugin.event("ws-2", "close")["code"] == 1000


ENDS: dict[str, tuple[Any, float, str]] = {
    "websocket-close": (
        {"id": "end", "action": "websocket-close", "payload": {"id": "ws-1"}},
        1.5,
        "host",
    ),
    "app-background": ({"id": "end", "action": "app-background"}, 1, "background"),
    "SIGTERM": (None, 2, "shutdown"),
}


@pytest.mark.parametrize(("request_", "seconds", "cause"), ENDS.values(), ids=ENDS)
def test_a_stalled_connection_ends_in_time(request_: Any, seconds: float, cause: str) -> None:
    with deaf_server() as listener, Plugin("--close-timeout", "1.5") as plugin:
        ws, peer = listener.open(plugin)
        with peer:
            done, waiting = stall(plugin, ws)
            since = time.monotonic()
            lines = []
            if request_:
                plugin.send(request_)
            else:
                plugin.process.send_signal(signal.SIGTERM)
            if cause == "host":
                assert plugin.read() == {"id": "end", "response": {}}
            for id in range(done, done + waiting):
                lines.append(plugin.read())
                assert (lines[-1]["id"], lines[-1]["error"]["code"]) == (id, "not-open")
            closing = plugin.event(ws, "close")
            assert (closing["code"], closing["cause"]) == (1006, cause)
            if cause == "background":
                assert plugin.read() == {"id": "end", "response": {}}
            if cause == "shutdown":
                assert plugin.wait() == 0
            assert time.monotonic() - since < seconds + SLACK


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
                done, waiting = stall(plugin, ws)
                expected.update(range(done, done + waiting))
            plugin.reset_peak()
            idle = plugin.memory()
            for start in range(0, count, 1000):
                ids = [make_id(number) for number in range(start, min(start + 1000, count))]
                plugin.send(*(send(id, ws, "") for id in ids))
                expected.update(ids)
            plugin.send({"id": "end", "action": "app-background"})
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
            plugin.send(*(send(number, ws, "x" * 3000) for number in range(4)))
            assert [plugin.read() for _ in range(4)] == [
                {"id": number, "response": {}} for number in range(4)
            ]


def test_a_long_id_goes_into_an_empty_buffer() -> None:
    """However long the id of its request is."""
    id = "i" * (17 * MIB)
    with Listener() as listener, Plugin() as plugin:
        ws = plugin.create(listener.url)
        with listener.accept() as peer:
            plugin.send(send(id, ws, "hello"))
            peer.handshake()
            plugin.event(ws, "open")
            assert peer.read_frame()[1] == b"hello"
            assert plugin.read() == {"id": id, "response": {}}


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed by the host"])
def test_a_close_frame_that_cannot_leave_completes_no_handshake(is_closed: bool) -> None:
    """It stands behind a message that the server does not read."""
    with deaf_server() as listener, Plugin() as plugin:
        ws, peer = listener.open(plugin)
        with peer:
            plugin.send(send(1, ws, "x" * (8 * MIB)))
            if is_closed:
                payload = {"id": ws, "code": 3000, "reason": "mine"}
                assert "response" in plugin.request("websocket-close", payload)
            peer.send(close_frame(1001, "bye"))
            assert plugin.read()["error"]["code"] == "not-open"
            closing = plugin.event(ws, "close")
        assert closing.pop("reason").startswith("the closing handshake took longer")
        assert closing == {"code": 1006, "cause": "host" if is_closed else "server"}
