"""The permessage-deflate extension (RFC 7692) where the library's falls short of the RFC.

The library takes the end of a DEFLATE stream for the end of all messages, and refuses a window of
8 bits, which zlib cannot compress for but a server may ask of us.
"""

import zlib
from collections.abc import Sequence
from typing import Any, Final, cast

from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.frames import CONT, CTRL_OPCODES, Frame
from websockets.typing import ExtensionParameter

SMALLEST_WINDOW: Final = ("client_max_window_bits", "8")
PIECE: Final = 2**20
# Each final block costs a new stream and a copy of the rest: millions fit into one frame.
MAX_FINAL_BLOCKS: Final = 100


class Inflater:
    """A ``zlib.decompressobj`` that goes on after a final block (RFC 7692 section 7.2.3.4).

    It puts long output together in one buffer, where zlib holds it twice for a moment.
    """

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(wbits=-window_bits)
        self._window = b""

    @property
    def unconsumed_tail(self) -> bytes:
        """What is left of the input because the output would have been too long."""
        return self._stream.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = 0) -> bytes | bytearray:
        """Decompress, with the same arguments and errors as zlib's.

        What is too long is cut off somewhere behind `max_length`.
        """
        output = self._stream.decompress(data, PIECE)
        self._remember(output)
        if len(output) < PIECE and not self._stream.eof:
            return output
        whole = bytearray(output)
        final_blocks = 0
        while len(output) == PIECE or self._stream.eof:
            if max_length and len(whole) > max_length:
                break
            rest = self._stream.unconsumed_tail
            if self._stream.eof:
                final_blocks += 1
                if final_blocks > MAX_FINAL_BLOCKS:
                    raise zlib.error(f"more than {MAX_FINAL_BLOCKS} final blocks in a frame")
                rest = self._stream.unused_data
                self._stream = zlib.decompressobj(wbits=-self._window_bits, zdict=self._window)
            output = self._stream.decompress(rest, PIECE)
            self._remember(output)
            whole += output
        return whole

    def _remember(self, output: bytes) -> None:
        size = 1 << self._window_bits
        self._window = output[-size:] if len(output) >= size else (self._window + output)[-size:]


class Deflate(PerMessageDeflate):
    """The extension as negotiated.

    Args:
        negotiated: the library's idea of it.
        compress: whether to compress what is sent, which is never an obligation (section 6).

    """

    def __init__(self, negotiated: PerMessageDeflate, *, compress: bool) -> None:
        super().__init__(
            False,
            negotiated.local_no_context_takeover,
            negotiated.remote_max_window_bits,
            negotiated.local_max_window_bits,
            negotiated.compress_settings,
        )
        self._fresh_for_each = negotiated.remote_no_context_takeover
        self._compress = compress
        self._message_is_empty = True
        self._renew()

    def _renew(self) -> None:
        self.decoder = cast(Any, Inflater(self.remote_max_window_bits))

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Decode an incoming frame."""
        if frame.opcode in CTRL_OPCODES:
            return frame
        if frame.opcode is CONT:
            is_compressed = self.decode_cont_data and not frame.rsv1
        else:
            is_compressed = frame.rsv1
            self._message_is_empty = True
            if self._fresh_for_each and is_compressed:
                self._renew()
        if frame.data:
            self._message_is_empty = False
        elif is_compressed and frame.fin and self._message_is_empty:
            # Mojolicious sends an empty message as no byte at all. What the inflater is fed behind
            # a message would then lack its first byte, which the next message would give.
            self.decode_cont_data = False
            return Frame(frame.opcode, b"", rsv2=frame.rsv2, rsv3=frame.rsv3)
        return super().decode(frame, max_size=max_size)

    def encode(self, frame: Frame) -> Frame:
        """Encode an outgoing frame."""
        return super().encode(frame) if self._compress else frame


class DeflateFactory(ClientPerMessageDeflateFactory):
    """The offer: what the library offers by default."""

    def __init__(self) -> None:
        super().__init__(compress_settings={"memLevel": 5})

    def process_response_params(
        self,
        params: Sequence[ExtensionParameter],
        accepted_extensions: Sequence[Extension],
    ) -> PerMessageDeflate:
        """Process response parameters."""
        small = SMALLEST_WINDOW in params
        if small:
            params = [
                (name, "9" if name == SMALLEST_WINDOW[0] else value) for name, value in params
            ]
        negotiated = super().process_response_params(params, accepted_extensions)
        return Deflate(negotiated, compress=not small)
