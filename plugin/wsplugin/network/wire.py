"""One WebSocket on the wire: bytes to messages and back (RFC 6455), with flow control both ways.

Everything that knows the ``websockets`` library's protocol objects is here; what a message, a
close or a failure means to the host is decided in ``connection.py``.

:class:`Wire` is handed to ``websockets.connect(create_connection=…)``. From the library come the
opening handshake, control frames, fragments, compression, masking and the closing handshake; the
library's queue, its ``recv`` and its ``send`` are passed by. Uncompressed messages are framed
here, and whole ones taken out of the receive buffer here, without the library's parser; everything
else is fed to it one frame at a time, so that flow control acts between two messages and not
between two reads.
"""

import asyncio
import collections
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Final, cast

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidMessage, PayloadTooBig
from websockets.frames import (  # type: ignore[attr-defined]  # apply_mask: C where there is one
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    CloseCode,
    Frame,
    apply_mask,
)
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.streams import StreamReader

from wsplugin.output import BATCH

if TYPE_CHECKING:
    from wsplugin.connection import Connection

# Room for one read at first, and from the first read on that has filled it. With half of that a
# flood of messages of 64 KiB takes a tenth more CPU. (Over TLS it is asyncio that says how much.)
FIRST_BUFFER: Final = 2**16
BUFFER: Final = 2**20
WRITE_HIGH_WATER: Final = 65_536
TURN: Final = 0.005
"""Seconds after which a server that has sent much lets others have their turn."""
# What OpenSSL may have deciphered and not handed out: a record (RFC 8446 section 5.1).
TLS_RECORD: Final = 16_384
# FIN and opcode of whole, uncompressed messages.
WHOLE_TEXT: Final = 0x81
WHOLE_BINARY: Final = 0x82
RSV1: Final = 0x40


class UnexpectedStatus(InvalidHandshake):
    """The server answered the opening handshake with another HTTP response than 101.

    Not the library's ``InvalidStatus``, which ``connect()`` may take for a redirect to follow.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(f"the server refused the connection: HTTP {response.status_code}")
        self.response = response


class Wire(ClientConnection, asyncio.BufferedProtocol):
    """The library's connection with its receiving and sending side replaced.

    Tells its :class:`~wsplugin.connection.Connection`, always on the event loop: ``opened``,
    ``received`` (something for the host was appended), ``writable``, ``server_closing``,
    ``failed`` and ``lost``.
    """

    def __init__(self, connection: "Connection", protocol: ClientProtocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self.connection = connection
        self.answered = False
        """Whether the server has sent at least one byte."""
        self.connected = False
        """Whether TCP, and TLS where wanted, are up."""
        self.lost_exc: Exception | None = None
        self.stuck = False
        """Whether the connection was cut before all, and the Close frame last, had left."""
        connection.wire = self
        self._output = connection.output
        self._encoder = connection.encoder
        assert protocol.max_message_size is not None
        self._max_size: int = protocol.max_message_size
        # Compression makes what cannot be compressed longer; the library's limit is for frames.
        self._max_frame = self._max_size + self._max_size // 64 + 1024
        # Received bytes not yet taken are _buffer[_start:_end].
        self._room = FIRST_BUFFER
        self._buffer = bytearray(FIRST_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._deaf = False
        self._lost = False
        self._rest: socket.socket | None = None
        self._reading_paused = False
        self._turn_over = False
        # The message whose fragments are arriving.
        self._message = bytearray()
        self._message_is_text = False
        self._decoder: Any = None
        # Opening handshake: the response's head, parsed as it comes.
        self._head = bytearray()
        self._head_reader = StreamReader()
        self._head_parser: Any = Response.parse(
            self._head_reader.read_line,
            self._head_reader.read_exact,
            self._head_reader.read_to_eof,
            proxy=True,  # which means: without a body
        )
        self._refusal: Exception | None = None
        # Sending.
        self._secure = False
        self._unsent: collections.deque[memoryview] = collections.deque()
        self._unsent_size = 0
        self.batched = 0
        self._pong: list[bytes] = []
        # Keepalive.
        self._timer: asyncio.TimerHandle | None = None
        self._ping: bytes | None = None

    # --- sending ---

    def send_message(self, opcode: int, payload: bytes | bytearray) -> None:
        """Batch one message; :meth:`flush` writes. Only while the connection is open."""
        if not self.protocol.extensions:
            self.protocol.writes.append(_frame(opcode, payload))
        elif opcode == TEXT:
            self.protocol.send_text(payload)
        else:
            self.protocol.send_binary(payload)
        self.batched += len(payload)
        if self.batched > WRITE_HIGH_WATER:
            self.flush()

    def flush(self) -> None:
        """Write what is batched, in one go."""
        self.batched = 0
        writes = self.protocol.data_to_send()
        if writes:
            # Not writelines(): on Python 3.12.0 to 3.12.3 it forgets to call pause_writing().
            self._write(writes[0] if len(writes) == 1 else b"".join(writes))

    def _write(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._secure:
            self.transport.write(data)
            return
        # asyncio's TLS transport does not count what its TCP transport holds, and hands on all it
        # has as soon as that one takes more: so it gets little at a time.
        view = memoryview(data)
        for start in range(0, len(data), WRITE_HIGH_WATER):
            self._unsent.append(view[start : start + WRITE_HIGH_WATER])
        self._unsent_size += len(data)
        self._write_unsent()

    def _write_unsent(self) -> None:
        # From the end of the server's stream on, asyncio drops what is written. So all must have
        # been when its Close frame has come, or when the end could come unseen.
        last = self._deaf or self._reading_paused
        while self._unsent and (last or not self.paused) and not self.transport.is_closing():
            part = self._unsent.popleft()
            self._unsent_size -= len(part)
            self.transport.write(part)

    @property
    def waiting(self) -> int:
        """How many bytes have not been handed to the operating system."""
        return self.batched + self._unsent_size + self.transport.get_write_buffer_size()

    def send_close(self, code: int, reason: str) -> None:
        """Start the closing handshake (RFC 6455 section 7.1.2)."""
        self._stop_keepalive()
        self.protocol.send_close(code, reason)
        self.flush()

    def fail(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): send a Close frame, listen no more."""
        self._stop_keepalive()
        self._deaf = True
        self.protocol.fail(code, reason)
        self.flush()

    def abort(self) -> None:
        """Cut the TCP connection; ``lost`` follows."""
        self.stuck = not self.transport.is_closing() and self.waiting > 0
        self._stop_keepalive()
        self._deaf = True
        self.transport.abort()

    def resume_writing(self) -> None:
        """The server has read on (``asyncio.BaseProtocol``)."""
        super().resume_writing()
        self._write_unsent()
        if self._pong and not self._unsent:
            self._write(b"".join(self._pong))
            self._pong = []
        if not self._unsent and not self.paused:
            self.connection.writable()

    # --- receiving ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP, and TLS where wanted, are up (``asyncio.BaseProtocol``)."""
        self.connected = True
        self._secure = transport.get_extra_info("sslcontext") is not None
        super().connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return room for the next read (``asyncio.BufferedProtocol``)."""
        # At the end of a TLS stream asyncio reads once: there must be room for all that is left.
        least = sizehint + TLS_RECORD if self._secure else 1
        if self._start == self._end:
            self._start = self._end = 0
        size = len(self._buffer)
        if size - self._end < least or (not self._end and size != self._room):
            self._make_room(least)
        return self._view[self._end :]

    def _make_room(self, least: int) -> None:
        rest = self._end - self._start
        # A frame longer than the buffer: grow as its bytes come, not as its header claims.
        room = self._room
        while room < max(2 * rest, rest + least):
            room *= 2
        old = self._view[self._start : self._end]
        if room != len(self._buffer):
            self._buffer = bytearray(room)
            self._view = memoryview(self._buffer)
        self._view[:rest] = old
        self._start, self._end = 0, rest

    def buffer_updated(self, nbytes: int) -> None:
        """Take `nbytes` more (``asyncio.BufferedProtocol``)."""
        self._end += nbytes
        if self._end == len(self._buffer):
            self._room = BUFFER
        self._receive()

    def _receive(self) -> None:
        """Take what can be taken out of the buffer, as long as the host keeps up."""
        self._output.cork()
        try:
            if self.response is None and self._start < self._end and not self._deaf:
                self._receive_head()
            if self.response is not None:
                self._receive_frames()
            if self._deaf:
                self._start = self._end = 0
                self._turn_over = False
        finally:
            self._output.uncork()
        if self._output.full or self._turn_over:
            # Not before: so each server has its one read in turn, whoever filled the output.
            self.pause_reading()
        if self._turn_over:
            self.loop.call_soon(self.resume_reading)
        elif self._lost and (self._deaf or not self._output.full) and not self._read_rest():
            self._finish()

    def _receive_frames(self) -> None:
        buffer, view = self._buffer, self._view
        start, end = self._start, self._end
        output = self._output
        max_size = self._max_size
        turn_end = self.loop.time() + TURN
        turn_over = False
        # The library's parser, with msgspec's encoder behind it, takes 4.9 microseconds for a
        # message of 100 bytes; this and all else to the pipe takes 1.7 (tests/benchmark).
        while not self._deaf and not output.full and not turn_over and end - start >= 2:
            head = buffer[start]
            length = buffer[start + 1]
            data = start + 2
            if length >= 126:
                if length >= 128:
                    self._receive_frame(bytes(view[start:data]))  # masked: refused on sight
                    break
                data += 2 if length == 126 else 8
                if data > end:
                    break
                shortest = 126 if length == 126 else 65536
                length = int.from_bytes(view[start + 2 : data])
                if length < shortest:
                    self._fail_protocol("a length that is not minimally encoded")
                    break
            stop = data + length
            plain = head in (WHOLE_TEXT, WHOLE_BINARY) and self.protocol.current_size is None
            if head & 0x08:
                if length > 125:
                    self._fail_protocol("a control frame longer than 125 bytes")
                    break
            elif length > max_size and not self._may_be_longer(head, length):
                self._fail_size()
                break
            if stop > end:
                break
            if not plain:
                if head & 0x08 or not output.gone:  # else nobody is left to decompress it for
                    self._receive_frame(bytes(view[start:stop]))
                turn_over = self.loop.time() > turn_end
            elif head == WHOLE_TEXT:
                try:
                    text = str(view[data:stop], "utf-8")
                except UnicodeDecodeError as exc:
                    self._fail_text(exc)
                    break
                self._encoder.append_text(output.batch, text)
            else:
                self._encoder.append_binary(output.batch, view[data:stop])
            start = stop
            if len(output.batch) > BATCH:
                output.flush()
                turn_over = self.loop.time() > turn_end
        self._start, self._end = start, end
        self._turn_over = turn_over

    def _may_be_longer(self, head: int, length: int) -> bool:
        """Tell whether a frame may be longer than the longest message, as it is compressed."""
        compressed = head & RSV1 or head & 0x0F == CONT
        return bool(self.protocol.extensions) and bool(compressed) and length <= self._max_frame

    def _receive_frame(self, data: bytes) -> None:
        """Have the library parse one frame: a control frame, a fragment, compressed, or bad."""
        protocol = self.protocol
        # RFC 6455 section 5.4 lets control frames come between fragments, Close among them; the
        # library refuses a Close there. The unfinished message is lost with the connection.
        opcode = data[0] & 0x0F
        if opcode == CLOSE:
            protocol.current_size = None
        # The library counts control frames against what is left for the message.
        protocol.max_message_size = None if opcode & 0x08 else self._max_frame
        protocol.receive_data(data)
        for event in protocol.events_received():
            self._process_frame(cast(Frame, event))
        if protocol.parser_exc is not None and not self._deaf:
            self._deaf = True
            self._stop_keepalive()
            self.flush()
            self._failed(protocol.parser_exc)
        elif opcode == PING and self.paused:
            # RFC 6455 section 5.5.3: one Pong for the latest Ping is enough. A server that
            # sends Pings and reads nothing gets no more of our memory than that.
            self._pong = protocol.data_to_send()
        else:
            self.flush()

    def _process_frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is TEXT or opcode is BINARY or opcode is CONT:
            self._process_data(frame)
        elif opcode is PONG:
            if self._ping is not None and frame.data == self._ping:
                self._ping = None
                self._schedule(self.ping_interval, self._send_ping)
        elif opcode is CLOSE:
            self._deaf = True
            self._stop_keepalive()
            self.connection.server_closing()

    def _process_data(self, frame: Frame) -> None:
        data = frame.data
        if frame.opcode is not CONT:
            self._message_is_text = frame.opcode is TEXT
        if len(self._message) + len(data) > self._max_size:
            self._fail_size()
            return
        try:
            if not frame.fin:
                if self._message_is_text:
                    # Decoding each fragment as it comes finds bad UTF-8 without waiting for the
                    # rest; the decoder keeps no more than the bytes of one character.
                    self._check_text(data, final=False)
                self._message += data
                return
            if self._message:
                if self._message_is_text:
                    self._check_text(data, final=True)
                self._message += data
                data = self._message
                self._message = bytearray()
            batch = self._output.batch
            if self._message_is_text:
                self._encoder.append_text(batch, str(data, "utf-8"))
            else:
                self._encoder.append_binary(batch, data)
        except UnicodeDecodeError as exc:
            self._fail_text(exc)

    def _check_text(self, data: Any, *, final: bool) -> None:
        if self._decoder is None:
            import codecs

            self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decoder.decode(data, final)

    def _fail_text(self, exc: UnicodeDecodeError) -> None:
        self.fail(CloseCode.INVALID_DATA, "invalid UTF-8")
        self._failed(exc)

    def _fail_size(self) -> None:
        limit = f"{self._max_size} bytes (--max-message-size)"
        self.fail(CloseCode.MESSAGE_TOO_BIG, f"longer than {limit}")
        self.connection.failed("message-too-big", f"a message is longer than {limit}")

    def _failed(self, exc: Exception) -> None:
        if isinstance(exc, PayloadTooBig):
            self._fail_size()
        elif isinstance(exc, UnicodeDecodeError):
            self.connection.failed("protocol-error", f"invalid UTF-8: {exc.reason}")
        else:
            self.connection.failed("protocol-error", f"the server broke RFC 6455: {exc}")

    def _fail_protocol(self, why: str) -> None:
        self.fail(CloseCode.PROTOCOL_ERROR, why)
        self.connection.failed("protocol-error", f"the server broke RFC 6455: {why}")

    # --- opening handshake ---

    def _receive_head(self) -> None:
        """Take the head of the server's response.

        It is parsed here because the library waits for the body of a refusal, for ever if need
        be, and reads frames that came with the head before anyone can learn that it is open.
        """
        data = bytes(self._view[self._start : self._end])
        self._start = self._end
        self.answered = True
        self._head += data
        self._head_reader.feed_data(data)
        try:
            next(self._head_parser)
            return
        except StopIteration as stop:
            response: Response = stop.value
        except Exception as exc:  # noqa: BLE001 - the parser raises many kinds; all mean the same
            self._refuse(_not_http(exc))
            return
        if response.status_code != 101:
            self._refuse(UnexpectedStatus(response))
            return
        rest = bytes(self._head_reader.buffer)
        self.protocol.receive_data(bytes(self._head[: len(self._head) - len(rest)]))
        if self.protocol.handshake_exc is not None:
            self._refuse(self.protocol.handshake_exc)
            return
        (self.response,) = cast(list[Response], self.protocol.events_received())
        self._head = bytearray()
        self._head_reader = StreamReader()
        # The frames that came with the head are the end of what was read: still in the buffer.
        self._start = self._end - len(rest)
        self.response_rcvd.set_result(None)
        self.connection.opened(self.response)

    def _refuse(self, exc: Exception) -> None:
        # Raised by handshake() when the connection is down; the library would wait for the
        # server to close it.
        self._refusal = exc
        self._deaf = True
        self.transport.abort()

    # --- the end ---

    def eof_received(self) -> None:
        """Let the transport close itself; ``connection_lost`` follows."""
        if self.protocol.close_rcvd is None:
            # Without waiting for a server that does not read what is still to be written.
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is down; what it has brought may still have to wait for the host."""
        self.lost_exc = exc
        self._lost = True
        self._stop_keepalive()
        self._unsent.clear()
        self._unsent_size = 0
        if exc is not None and not self._secure:
            # When a write fails, asyncio drops what the server had sent before it went.
            with contextlib.suppress(OSError):  # no descriptor is left
                self._rest = self.transport.get_extra_info("socket").dup()
        self._receive()

    def _read_rest(self) -> bool:
        """Read on from a lost connection; False if there is nothing more."""
        if self._rest is None:
            return False
        try:
            count = 0 if self._deaf else self._rest.recv_into(self.get_buffer(-1))
        except OSError:
            count = 0  # the loss itself
        if count:
            self._end += count
            self.loop.call_soon(self._receive)
        else:
            self._rest.close()
            self._rest = None
        return count > 0

    def _finish(self) -> None:
        """Tell of the loss, once everything received before it has been taken."""
        self._lost = False
        self._deaf = True
        super().connection_lost(self.lost_exc)
        if self._refusal is not None:
            self.protocol.handshake_exc = self._refusal
        # asyncio says nothing of the end of a stream, and little of the end of a TLS stream.
        exc = self.lost_exc
        known = isinstance(exc, OSError) and exc.errno
        reason = os.strerror(known) if known else "it ended without a Close frame"
        self.connection.lost(f"the connection was lost: {reason}")

    def release(self) -> None:
        """Give back memory, when the connection is done with."""
        self._deaf = True
        self._buffer = bytearray()
        self._message = bytearray()
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self.protocol.extensions = []

    # --- flow control towards the host ---

    def pause_reading(self) -> None:
        """Stop reading from the server; what has been read stays in the buffer."""
        # Not during the opening handshake: a stopped host must not make it time out.
        if self.response is not None and not self._reading_paused:
            self._reading_paused = True
            self._write_unsent()
            self.transport.pause_reading()
            if self._ping is not None:
                self._cancel_timer()  # a stopped host is not a dead server

    def resume_reading(self) -> None:
        """Take what has been left in the buffer, then read on unless that was too much."""
        if not self.connected:
            return
        self._receive()
        if self._output.full or self._turn_over or not self._reading_paused:
            return
        self._reading_paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()
        if self._ping is not None:
            self._schedule(self.ping_timeout, self._pong_overdue)

    # --- keepalive ---

    def start_keepalive(self) -> None:
        """Send a Ping every ``ping_interval`` seconds, unless that is None."""
        if self.protocol.state is OPEN:
            self._schedule(self.ping_interval, self._send_ping)

    def _send_ping(self) -> None:
        payload = os.urandom(4)
        self.protocol.send_ping(payload)
        self.flush()
        self._ping = payload
        if not self._reading_paused:
            self._schedule(self.ping_timeout, self._pong_overdue)

    def _pong_overdue(self) -> None:
        self.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        self.connection.failed("ping-timeout", "the server stopped answering keepalive pings")

    def _schedule(self, delay: float | None, callback: Any) -> None:
        self._cancel_timer()
        if delay is not None:
            self._timer = self.loop.call_later(delay, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_keepalive(self) -> None:
        self._ping = None
        self._cancel_timer()


def _frame(opcode: int, payload: bytes | bytearray) -> bytes:
    """Serialize an uncompressed message as one masked frame (RFC 6455 section 5.2).

    Beside the library's own way a pipelined echo of 100 bytes takes a fifth less CPU, and a round
    trip 5 microseconds less before the message leaves.
    """
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8)
    mask = os.urandom(4)
    return b"".join((head, mask, apply_mask(payload, mask)))


def _not_http(exc: Exception) -> InvalidMessage:
    error = InvalidMessage("did not receive a valid HTTP response")
    error.__cause__ = exc
    return error
