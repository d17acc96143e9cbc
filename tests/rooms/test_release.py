"""What is left of a connection that has ended: nothing that waits for the garbage collector.

A real manager with real sockets, in this process; the collector is off, so what refers to each
other in a circle stays, and is counted.
"""

import asyncio
import contextlib
import gc
import json
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from deflate import DEFLATE, Compressor, compressed
from harness import PING, TEXT, TIMEOUT, Listener, Peer, close_frame, frame
from host_lines import close, create, encode, send
from tls_servers import Authority, say, secure
from wsplugin.manager import Manager
from wsplugin.output import Output
from wsplugin.settings import Settings


class Lines:
    """Takes all lines, and says when another has come."""

    def __init__(self) -> None:
        self.waiting = 0
        self.names: list[str] = []
        """Of events."""
        self.come = asyncio.Event()

    def start(self, on_written: Callable[[], None], on_lost: Callable[[], None]) -> None:
        pass

    def write_now(self, data: bytearray) -> int:
        for line in data.splitlines():
            decoded = json.loads(line)
            if "event" in decoded:
                self.names.append(decoded["payload"]["name"])
        self.come.set()
        return len(data)

    def write_later(self, batch: bytearray) -> None:
        raise AssertionError("nothing is left to be written later")

    def notify_at(self, level: int) -> None:
        pass

    def close(self) -> None:
        pass

    async def wait_for(self, name: str) -> None:
        """Wait for an event, which may have come already."""
        async with asyncio.timeout(TIMEOUT):
            while name not in self.names and "close" not in self.names:
                self.come.clear()
                await self.come.wait()


# --- servers ---


def answer_the_close(peer: Peer) -> None:
    peer.handshake(glued=frame(TEXT, b"first"))
    peer.send(frame(PING) + frame(TEXT, b"second"))
    peer.expect_close()
    peer.send(close_frame(1000))


def answer_the_close_compressed(peer: Peer) -> None:
    peer.handshake(DEFLATE)
    peer.send(compressed(TEXT, Compressor()(b"hi" * 1000)))
    peer.expect_close()
    peer.send(close_frame(1000))


def close_first(peer: Peer) -> None:
    peer.handshake(glued=close_frame(1000))
    peer.expect_close()


def reset(peer: Peer) -> None:
    peer.handshake()
    peer.read_frame()
    peer.reset()


def violate(peer: Peer) -> None:
    peer.handshake()
    peer.send(frame(3))
    peer.expect_close()


def refuse(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 403 Forbidden\r\n\r\n" + bytes(1000))


def garbage(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"garbage")


def hang_up(peer: Peer) -> None:
    peer.read_request()


def keep_silent(peer: Peer) -> None:
    peer.expect_end()


def never_answer_the_close(peer: Peer) -> None:
    peer.handshake()
    peer.expect_end()


class Life(NamedTuple):
    """How a connection comes to its end."""

    serve: Callable[[Peer], None]
    close: bool = False
    """Whether the host closes."""
    secure: bool = False
    host: str = "127.0.0.1"
    options: dict[str, Any] = {}  # noqa: RUF012 - read only


LIVES: dict[str, Life] = {
    "closed by the host": Life(answer_the_close, close=True),
    "compressed": Life(answer_the_close_compressed, close=True),
    "over TLS": Life(answer_the_close, close=True, secure=True),
    "by one of two addresses": Life(answer_the_close, close=True, host="localhost"),
    "closed by the server": Life(close_first),
    "a reset": Life(reset),
    "a violation": Life(violate),
    "refused": Life(refuse),
    "refused over TLS": Life(refuse, secure=True),
    "garbage": Life(garbage),
    "hung up": Life(hang_up),
    "timed out": Life(keep_silent, options={"timeout": 50}),
    "timed out within TLS": Life(keep_silent, secure=True, options={"timeout": 50}),
    "TLS that fails": Life(say(b"garbage"), secure=True),
    "cut": Life(never_answer_the_close, close=True),
}


async def live(life: Life, listener: Listener) -> None:
    """Play one life."""
    lines = Lines()
    output = Output(
        lines, asyncio.get_running_loop(), on_drained=lambda: None, on_gone=lambda: None
    )
    settings = Settings(close_timeout=0.05)
    manager = Manager(settings, output, lambda: None)
    scheme = "wss" if life.secure else "ws"
    url = f"{scheme}://{life.host}:{listener.port}/"
    headers = {"X-Long": "x" * 10_000}
    manager.handle(encode(create(url, headers=headers, **life.options)).rstrip())
    await lines.wait_for("open")
    if "close" not in lines.names:
        manager.handle(encode(send("ws-1", "hi")).rstrip())
        if life.close:
            manager.handle(encode(close("ws-1")).rstrip())
        manager.flush()
    await lines.wait_for("close")
    # What has been cut says so in a turn or two.
    for _ in range(5):
        await asyncio.sleep(0)


def objects() -> Counter[str]:
    """Count the objects that could be left of a connection."""
    modules = ("wsplugin.connection", "wsplugin.network", "wsplugin.messages", "websockets")
    counted: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        # Not asyncio's other transports, which refer to themselves, and to little else.
        if kind.__module__.startswith((*modules, "asyncio.sslproto")):
            counted[f"{kind.__module__}.{kind.__qualname__}"] += 1
    return counted


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
def test_nothing_is_left(life: Life, trusted: Authority) -> None:
    context = trusted.context("127.0.0.1") if life.secure else None

    def serve(listener: Listener) -> None:
        with listener.accept() as peer, contextlib.suppress(OSError, EOFError):
            # Whoever is to fail within the TLS handshake does not begin it.
            begins = life.serve in (answer_the_close, refuse)
            life.serve(secure(peer, context) if context and begins else peer)

    def play() -> None:
        with Listener() as listener:
            thread = threading.Thread(target=serve, args=(listener,))
            thread.start()
            asyncio.run(live(life, listener))
            thread.join(TIMEOUT)

    play()  # imports, caches
    gc.collect()
    before = objects()
    play()
    assert objects() - before == Counter()
