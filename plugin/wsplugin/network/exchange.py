"""One HTTP request and the head of its answer, before the transport goes to another protocol."""

import asyncio
from collections.abc import Callable
from typing import cast

from websockets.http11 import Response

from wsplugin.network.response import ResponseReader


class Exchange(asyncio.Protocol):
    """Sends a request as soon as there is a transport, and waits for the answer.

    Args:
        request: the request, whole.
        on_connected: called when the transport is there, TLS included.
        on_response: called with the response, within the very callback that brought the end of its
            head: nothing can come in between if it hands the transport on. What it raises is
            raised by :attr:`done`.

    """

    def __init__(
        self,
        request: bytes,
        on_connected: Callable[[], None],
        on_response: Callable[[Response], None],
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the response has been taken, or cannot come any more."""
        self.answered = False
        """Whether one byte of an answer has come."""
        self.paused = False
        """Whether the transport has more of the request than it wants to hold."""
        self._request = request
        self._on_connected = on_connected
        self._on_response = on_response
        self._reader = ResponseReader()

    @property
    def version(self) -> bytes:
        """The response's version of HTTP."""
        return self._reader.version

    @property
    def rest(self) -> bytes:
        """What came behind the response's head."""
        return self._reader.rest

    def abandon(self) -> None:
        """Cut the connection and take nothing any more, be it there to be read already."""
        self.done.cancel()
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP, and TLS where wanted, are up (``asyncio.BaseProtocol``)."""
        self.transport = cast(asyncio.Transport, transport)
        try:
            self._on_connected()
            self.transport.write(self._request)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the attempt must learn of it
            self._fail(exc)

    def pause_writing(self) -> None:
        """The peer is slow to read the request (``asyncio.BaseProtocol``)."""
        self.paused = True

    def resume_writing(self) -> None:
        """The peer has read on (``asyncio.BaseProtocol``)."""
        self.paused = False

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer (``asyncio.Protocol``)."""
        if self.done.done():
            return
        self.answered = True
        try:
            response = self._reader.feed(data)
            if response is not None:
                self._on_response(response)
                # What came behind the response may have led to the end.
                if not self.done.done():
                    self.done.set_result(None)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the attempt must learn of it
            self._fail(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is down (``asyncio.BaseProtocol``)."""
        self._fail(exc or EndOfStream())

    def _fail(self, exc: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(exc)


class EndOfStream(ConnectionError):
    """The peer has ended the TCP connection in the middle of the answer, or without one."""
