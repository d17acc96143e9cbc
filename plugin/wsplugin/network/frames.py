"""Received bytes to messages and control frames, and messages to bytes (RFC 6455 section 5).

Whole, uncompressed messages are taken out of the buffer here, without the library's parser, and
encoded straight into the host's batch; everything else is fed to the library one frame at a time,
so that flow control acts between two messages and not between two reads. What the server does
against the RFC or the host's limits is raised as one :class:`Violation`; any other exception is a
fault of the plugin.
"""

import enum
import os
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import (  # type: ignore[attr-defined]  # apply_mask: C where there is one
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    CloseCode,
    Frame,
    apply_mask,
)

from wsplugin.messages import ConnectionErrorCode
from wsplugin.network.inbox import Inbox

# FIN and opcode of whole, uncompressed messages.
WHOLE_TEXT: Final = 0x81
WHOLE_BINARY: Final = 0x82
FIN: Final = 0x80
RSV1: Final = 0x40
CONTROL: Final = 0x08
LONGEST_CONTROL: Final = 125


class Violation(Exception):
    """The connection has to be failed (RFC 6455 section 7.1.7).

    Args:
        close_code: what the Close frame to the server says.
        reason: the same in words, at most 123 bytes of UTF-8.
        code: what the host is told.
        words: the same for people.

    """

    def __init__(self, close_code: int, reason: str, code: ConnectionErrorCode, words: str) -> None:
        super().__init__(words)
        self.close_code = close_code
        self.reason = reason
        self.code: ConnectionErrorCode = code
        self.words = words


class Taken(enum.Enum):
    """Why :meth:`Frames.take` has come back."""

    ALL = enum.auto()
    """The rest of the buffer is no whole frame."""
    BATCH = enum.auto()
    """The batch has become longer than the limit."""
    DATA = enum.auto()
    """The library has taken one data frame, which may have been long when decompressed."""
    PING = enum.auto()
    """The library has put the Pong among what is to be sent."""
    PONG = enum.auto()
    """Its payload is :attr:`Frames.pong`."""
    CLOSE = enum.auto()
    """The server's Close frame; the library has put ours among what is to be sent."""


# An attribute of an enumeration costs more than a name.
ALL: Final = Taken.ALL


if TYPE_CHECKING:
    # For the checker alone: a Protocol that is made costs every start half a million instructions.
    class MessageSink(Protocol):
        """Encodes messages into the host's batch."""

        def append_text(self, buffer: bytearray, text: str) -> None:
            """Append the event of a text message."""

        def append_binary(self, buffer: bytearray, data: memoryview | bytes | bytearray) -> None:
            """Append the event of a binary message."""


class Frames:
    """Takes frames out of an :class:`Inbox`.

    Args:
        protocol: the library's, open; it keeps what of the closing handshake has been seen.
        max_size: bytes of the longest message.
        sink: where messages go.

    """

    def __init__(self, protocol: ClientProtocol, max_size: int, sink: "MessageSink") -> None:
        self.pong = b""
        self._protocol = protocol
        self._max_size = max_size
        # The library's limit is for what comes in frames: compression makes what cannot be
        # compressed longer, and control frames between fragments count as well.
        self._max_frame = max_size + max_size // 64 + 1024
        protocol.max_message_size = self._max_frame
        self._append_text = sink.append_text
        self._append_binary = sink.append_binary
        # The message whose fragments are arriving.
        self._message = bytearray()
        self._message_is_text = False
        self._decoder: Any = None
        # How much of the text in an unfinished frame has been checked; None before it is to be.
        self._checked: int | None = None
        self._checker: Any = None

    def take(self, inbox: Inbox, batch: bytearray, limit: int, *, wanted: bool = True) -> Taken:
        """Take whole messages as long as `batch` is not longer than `limit`, or one other frame.

        With `wanted` false the library is spared the data frames that it would decompress for
        nobody.

        Raises:
            Violation: all before the violation has been taken.

        """
        buffer, view = inbox.buffer, inbox.view
        start, end = inbox.start, inbox.end
        max_size = self._max_size
        append_text, append_binary = self._append_text, self._append_binary
        fragmented = self._protocol.current_size is not None
        try:
            # The library's parser, with msgspec's encoder behind it, takes 4.9 microseconds for a
            # message of 100 bytes; this and all else to the pipe takes 1.7 (tests/benchmark).
            while end - start >= 2:
                head = buffer[start]
                length = buffer[start + 1]
                data = start + 2
                if length >= 126:
                    if length >= 128:
                        # Masked: refused on sight, by the library.
                        return self._parse(bytes(view[start:data]), batch)
                    data += 2 if length == 126 else 8
                    if data > end:
                        return ALL
                    shortest = 126 if length == 126 else 65536
                    length = int.from_bytes(view[start + 2 : data])
                    if length < shortest:
                        raise _broke_rfc("a length that is not minimally encoded")
                stop = data + length
                if head & CONTROL:
                    if length > LONGEST_CONTROL:
                        raise _broke_rfc("a control frame longer than 125 bytes")
                elif length > max_size and not self._may_be_longer(head, length):
                    raise self._too_big()
                if stop > end:
                    if head & ~FIN == TEXT and start == inbox.start:
                        self._check_unfinished(view[data:end])
                    return ALL
                if head == WHOLE_TEXT and not fragmented:
                    # Taken, whatever comes of it: else an exception would have it taken twice.
                    first, start = data, stop
                    append_text(batch, str(view[first:stop], "utf-8"))
                elif head == WHOLE_BINARY and not fragmented:
                    first, start = data, stop
                    append_binary(batch, view[first:stop])
                else:
                    first, start = start, stop
                    if not wanted and not head & CONTROL:
                        continue
                    return self._parse(bytes(view[first:stop]), batch)
                if len(batch) > limit:
                    return Taken.BATCH
            return ALL
        except UnicodeDecodeError as exc:
            raise _bad_text(exc) from None
        finally:
            if start != inbox.start:
                self._checked = None
            inbox.start = start

    def _check_unfinished(self, text: memoryview) -> None:
        """Find bad UTF-8 in a text that takes long to come, without waiting for its end.

        Not with the first look: with the next read most frames are whole, and each text would be
        decoded twice.
        """
        if self._checked is None:
            self._checked = 0
            self._checker = None
            return
        if self._checker is None:
            self._checker = utf8_decoder()
        self._checker.decode(text[self._checked :])
        self._checked = len(text)

    def _may_be_longer(self, head: int, length: int) -> bool:
        """Tell whether a frame may be longer than the longest message, as it is compressed."""
        compressed = head & RSV1 or head & 0x0F == CONT
        return bool(self._protocol.extensions) and bool(compressed) and length <= self._max_frame

    def _parse(self, data: bytes, batch: bytearray) -> Taken:
        """Have the library parse one frame: a control frame, a fragment, compressed, or bad."""
        protocol = self._protocol
        opcode = data[0] & 0x0F
        if opcode == CLOSE:
            # RFC 6455 section 5.4 lets control frames come between fragments, Close among them;
            # the library refuses a Close there. The unfinished message is lost with the
            # connection.
            protocol.current_size = None
        protocol.receive_data(data)
        taken = Taken.DATA
        for event in protocol.events_received():
            frame = cast(Frame, event)
            if frame.opcode is PING:
                taken = Taken.PING
            elif frame.opcode is PONG:
                self.pong = bytes(frame.data)
                taken = Taken.PONG
            elif frame.opcode is CLOSE:
                taken = Taken.CLOSE
            else:
                self._take_data(frame, batch)
        if protocol.parser_exc is not None:
            raise self._explain(protocol.parser_exc)
        return taken

    def _take_data(self, frame: Frame, batch: bytearray) -> None:
        data = frame.data
        if frame.opcode is not CONT:
            self._message_is_text = frame.opcode is TEXT
        if len(self._message) + len(data) > self._max_size:
            raise self._too_big()
        if not frame.fin:
            if self._message_is_text:
                # Decoding each fragment as it comes finds bad UTF-8 without waiting for the rest.
                self._check_text(data, final=False)
            self._message += data
            return
        if self._message:
            if self._message_is_text:
                self._check_text(data, final=True)
            self._message += data
            data, self._message = self._message, bytearray()
        if self._message_is_text:
            self._append_text(batch, str(data, "utf-8"))
        else:
            self._append_binary(batch, data)

    def _check_text(self, data: Any, *, final: bool) -> None:
        if self._decoder is None:
            self._decoder = utf8_decoder()
        self._decoder.decode(data, final)

    def _too_big(self) -> Violation:
        limit = f"{self._max_size} bytes (--max-message-size)"
        return Violation(
            CloseCode.MESSAGE_TOO_BIG,
            f"longer than {limit}",
            "message-too-big",
            f"a message is longer than {limit}",
        )

    def _explain(self, exc: Exception) -> Exception:
        """Sort what has stopped the library's parser: the server's fault, or ours as it came."""
        match exc:
            case PayloadTooBig():
                return self._too_big()
            case UnicodeDecodeError():
                return _bad_text(exc)
            case ProtocolError():
                return _broke_rfc(str(exc))
            case _:
                return exc

    def release(self) -> None:
        """Give memory back: the message begun, what compression holds, the library's parser."""
        self._message = bytearray()
        self._protocol.extensions = []
        # The parser refers to the protocol in turn, and so do the frames of its exception.
        self._protocol.parser.close()
        self._protocol.parser_exc = None


def utf8_decoder() -> Any:
    """Return a decoder that keeps no more than the bytes of one character."""
    import codecs

    return codecs.getincrementaldecoder("utf-8")()


def _bad_text(exc: UnicodeDecodeError) -> Violation:
    return Violation(
        CloseCode.INVALID_DATA, "invalid UTF-8", "protocol-error", f"invalid UTF-8: {exc.reason}"
    )


def _broke_rfc(why: str) -> Violation:
    return Violation(
        CloseCode.PROTOCOL_ERROR, why, "protocol-error", f"the server broke RFC 6455: {why}"
    )


def frame(opcode: int, payload: bytes | bytearray) -> bytes:
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
