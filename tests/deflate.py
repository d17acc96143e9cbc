"""Compression as a server does it (RFC 7692)."""

import zlib

from conversations import fragments

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
TAIL = b"\x00\x00\xff\xff"
RSV1 = 0b100


class Compressor:
    """The server's compressor (section 7.2.1)."""

    def __init__(self, bits: int = 15, *, takeover: bool = True, level: int = 6) -> None:
        self._arguments = (level, zlib.DEFLATED, -bits)
        self._takeover = takeover
        self._zlib = zlib.compressobj(*self._arguments)

    def __call__(self, data: bytes) -> bytes:
        """Compress a message."""
        if not self._takeover:
            self._zlib = zlib.compressobj(*self._arguments)
        compressed = self._zlib.compress(data) + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        return compressed.removesuffix(TAIL)


def compressed(opcode: int, *parts: bytes, between: bytes = b"") -> bytes:
    """Serialize a compressed message in fragments: RSV1 is set on the first."""
    return fragments(opcode, *parts, between=between, rsv=RSV1)
