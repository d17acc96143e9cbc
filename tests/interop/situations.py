"""What is tried with every server: the columns of the table.

Each situation returns the word that stands in the table, and raises what speaks against one.
"""

import random
import string
from collections.abc import Callable
from typing import Any, Final, Self

from harness import Plugin, within
from interop.apps import words
from interop.conversation import Conversation
from interop.routes import Reached
from interop.servers import FRESH, KEPT

YES: Final = "yes"
MEBIBYTE: Final = 2**20
_RANDOM: Final = random.Random(6455)


class Visit:
    """A server with a plugin that has no connection between two situations."""

    def __init__(self, reached: Reached) -> None:
        self.reached = reached
        self._plugin = Plugin(*reached.options)

    def open(self, **options: Any) -> Conversation:
        """Open a connection."""
        return Conversation(self._plugin, self.reached, **options)

    def renew(self) -> None:
        """Take another plugin, after a failure."""
        self._plugin.kill()
        self._plugin = Plugin(*self.reached.options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._plugin.__exit__(*exc_info)


def opening(visit: Visit) -> str:
    """Offer subprotocols and send header fields; the server chooses and answers with one."""
    value = "a token=b, c; q=0.5"
    talk = visit.open(protocols=["chat.v1", words.PROTOCOL], headers={words.ECHOED: value})
    assert talk.headers["sec-websocket-protocol"] == visit.reached.server.protocol
    assert talk.headers[f"{words.ECHOED}-Echo".lower()] == value
    talk.close(1000, "")
    return YES


def messages(visit: Visit) -> str:
    """Send text, Unicode, and nothing, as text and as binary."""
    talk = visit.open(perMessageDeflate=False)
    talk.echo("Hello", "Grüße, κόσμε 👋 \u0000 \U0010ffff", "", b"", bytes(range(256)), "end")
    talk.close(1000, "")
    return YES


def long_messages(visit: Visit) -> str:
    """Send 1 MiB, as text and as binary."""
    talk = visit.open(perMessageDeflate=False)
    talk.echo("é" * (MEBIBYTE // 2), _RANDOM.randbytes(MEBIBYTE))
    talk.close(1000, "")
    return YES


def fragments(visit: Visit) -> str:
    """Receive 3 MiB, in fragments where the library sends them."""
    talk = visit.open(perMessageDeflate=False)
    talk.send(words.LONG)
    talk.expect(words.LONG_TEXT)
    talk.close(1000, "")
    return YES if visit.reached.server.fragments else "one frame"


def keepalive(visit: Visit) -> str:
    """Be quiet for longer than the keepalive of either side waits for a Pong."""
    interval, timeout = str(words.PING_INTERVAL), str(words.PING_TIMEOUT)
    options = ("--ping-interval", interval, "--ping-timeout", timeout)
    with Plugin(*visit.reached.options, *options) as plugin:
        talk = Conversation(plugin, visit.reached)
        talk.send(words.QUIET)
        talk.expect(words.STILL_HERE)
        talk.close(1000, "")
    return YES


def compression(visit: Visit) -> str:
    """Send messages that compress to little if earlier ones are remembered, and long ones."""
    talk = visit.open()
    agreed = talk.headers["sec-websocket-extensions"]
    assert agreed.startswith("permessage-deflate")
    text = "".join(_RANDOM.choices(string.ascii_letters, k=3000))
    talk.echo(*[text[at:] + "é" for at in range(5)], "", text.encode(), b"", text)
    talk.send(words.LONG)
    talk.expect(words.LONG_TEXT)
    talk.echo("é" * (MEBIBYTE // 2), text)
    talk.close(1000, "")
    is_fresh = "server_no_context_takeover" in agreed and "client_no_context_takeover" in agreed
    found = FRESH if is_fresh else KEPT
    assert found == visit.reached.server.compression, agreed
    return YES if found == KEPT else "context not kept"


def host_closes(visit: Visit) -> str:
    """Close with a code and a reason, which the server is told."""
    talk = visit.open()
    talk.echo("before")
    end = talk.close(4001, "host is done: é")
    assert end == {"code": 4001, "reason": "host is done: é", "cause": "host"}
    if not visit.reached.server.tells_close:
        return "app not told"
    visit.reached.program.expect_line("closed 4001 host is done: é")
    return YES


def server_closes(visit: Visit) -> str:
    """Be told with which code and reason the server closes."""
    talk = visit.open()
    talk.send("close 4002 server is done: é")
    end = talk.expect_close()
    if visit.reached.server.engine_io:
        assert end == {"code": 1005, "reason": "", "cause": "server"}
        return "no code"
    assert end == {"code": 4002, "reason": "server is done: é", "cause": "server"}
    return YES


def server_is_killed(visit: Visit) -> str:
    """Lose the connection with the server, which runs no more then."""
    talk = visit.open()
    talk.echo("before")
    with within(1):
        visit.reached.program.kill()
        (name, error), (last, end) = talk.expect_end()
    assert (name, error["code"]) == ("error", "network-error"), error
    assert (last, end["code"], end["cause"]) == ("close", 1006, "failure"), end
    return YES


SITUATIONS: Final[dict[str, Callable[[Visit], str]]] = {
    "opening": opening,
    "messages": messages,
    "1 MiB": long_messages,
    "3 MiB in fragments": fragments,
    "pings": keepalive,
    "compression": compression,
    "host closes": host_closes,
    "server closes": server_closes,
    "killed": server_is_killed,
}
"""By the heads of the columns; the last ends the server."""
