"""One connection of the plugin's with an echo server."""

import base64
from typing import Any

from harness import Plugin
from host_lines import close, done, send
from interop.routes import Reached

# The packets of Engine.IO's protocol, version 4: the first character of a text.
OPEN, PING, PONG, MESSAGE = "0", "2", "3", "4"


class Conversation:
    """A connection, open; messages are put into packets where the server speaks Engine.IO.

    Args:
        plugin: has no other connection meanwhile.
        reached: the server.
        options: more of the payload of ``websocket-create``.

    """

    def __init__(self, plugin: Plugin, reached: Reached, **options: Any) -> None:
        self._plugin = plugin
        self._engine_io = reached.server.engine_io
        self._id = plugin.create(reached.url, binaryType="base64", **options)
        self._end: list[tuple[str, Any]] = []
        self.headers: dict[str, str] = plugin.event(self._id, "open")["headers"]
        """Of the response."""
        if self._engine_io:
            packet = self._read()
            assert isinstance(packet, str)
            assert packet.startswith(OPEN)

    def send(self, data: str | bytes) -> None:
        """Send a message."""
        self._send(MESSAGE + data if self._engine_io and isinstance(data, str) else data)

    def receive(self) -> str | bytes:
        """Return the next message."""
        data = self._read()
        if self._engine_io and isinstance(data, str):
            assert data[:1] == MESSAGE, data
            return data[1:]
        return data

    def expect(self, data: str | bytes) -> None:
        """Check the next message."""
        received = self.receive()
        # Not the whole of them: they are long.
        assert type(received) is type(data), received[:100]
        assert len(received) == len(data), (len(received), received[:100])
        assert received == data, received[:100]

    def echo(self, *messages: str | bytes) -> None:
        """Send messages, then check that all come back."""
        for data in messages:
            self.send(data)
        for data in messages:
            self.expect(data)

    def close(self, code: int, reason: str) -> Any:
        """Close, and return the payload of the `close` event."""
        self._plugin.send(close(self._id, code, reason))
        while (line := self._plugin.read()) != done("close"):
            self._take(line)
        return self.expect_close()

    def expect_close(self) -> Any:
        """Return the payload of the `close` event, which no `error` precedes."""
        ((name, payload),) = self.expect_end()
        assert name == "close"
        return payload

    def expect_end(self) -> list[tuple[str, Any]]:
        """Return the events that end the connection; what comes before is passed over."""
        while not self._end or self._end[-1][0] != "close":
            self._take(self._plugin.read())
        return self._end

    def _send(self, data: str | bytes) -> None:
        if isinstance(data, str):
            self._plugin.send(send(self._id, data, None))
        else:
            text = base64.b64encode(data).decode()
            self._plugin.send(send(self._id, text, None, "base64"))

    def _read(self) -> str | bytes:
        """Return the next message, after the answers to Pings of Engine.IO."""
        while (data := self._take(self._plugin.read())) is None:
            assert not self._end, self._end
        return data

    def _take(self, line: Any) -> str | bytes | None:
        """Return the message that a line tells of, if it is the test's matter."""
        assert line.get("event") == "websocket-event", line
        assert line["payload"]["id"] == self._id, line
        name, payload = line["payload"]["name"], line["payload"]["payload"]
        if name != "message":
            self._end.append((name, payload))
            return None
        if payload["type"] == "base64":
            return base64.b64decode(payload["data"])
        text = payload["data"]
        assert isinstance(text, str)
        if self._engine_io and text == PING:
            self._send(PONG)
            return None
        return text
