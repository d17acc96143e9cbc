"""The echo server on Tornado."""

import asyncio
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from interop.apps import words


class Echo(WebSocketHandler):
    """One connection."""

    def initialize(self) -> None:
        """Make what a connection needs beside Tornado's."""
        self._pong = asyncio.Event()
        self._quiet: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Put a field into the response."""
        self.set_header(f"{words.ECHOED}-Echo", self.request.headers.get(words.ECHOED, ""))

    def get_compression_options(self) -> dict[str, Any]:
        """Compress, with Tornado's defaults."""
        return {}

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Choose a subprotocol."""
        return words.PROTOCOL if words.PROTOCOL in subprotocols else None

    async def on_message(self, message: str | bytes) -> None:
        """Answer a message."""
        if isinstance(message, bytes):
            await self.write_message(message, binary=True)
        elif message == words.LONG:
            await self.write_message(words.LONG_TEXT)
        elif message == words.QUIET:
            self._quiet = asyncio.create_task(self._be_quiet())
        elif message.startswith(words.CLOSE):
            self.close(*words.close_arguments(message))
        else:
            await self.write_message(message)

    def on_pong(self, data: bytes) -> None:
        """Note that the plugin has answered a Ping."""
        self._pong.set()

    def on_close(self) -> None:
        """Tell how the connection was closed."""
        words.tell_close(self.close_code, self.close_reason)

    async def _be_quiet(self) -> None:
        self.ping(b"tornado")
        await asyncio.sleep(words.QUIET_TIME)
        await self._pong.wait()
        await self.write_message(words.STILL_HERE)


async def main() -> None:
    """Serve until killed."""
    app = Application([("/", Echo)], websocket_max_message_size=words.MAX_SIZE)
    sockets = bind_sockets(0, "127.0.0.1")
    HTTPServer(app).add_sockets(sockets)
    words.tell_port(sockets[0].getsockname()[1])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
