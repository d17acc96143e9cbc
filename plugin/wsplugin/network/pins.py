"""Public keys that a server must have one of (``--pin``), as RFC 7469 names them."""

import binascii
import hashlib
from collections.abc import Collection, Iterable
from typing import Final

_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_VERSION: Final = 0xA0


def has_pinned(chain: Iterable[bytes], pins: Collection[str]) -> bool:
    """Tell whether one of the certificates, in DER, has one of the keys, ``sha256/BASE64`` each."""
    return any(pin_of(certificate) in pins for certificate in chain)


def pin_of(certificate: bytes) -> str | None:
    """Return the name of the public key of a certificate (RFC 7469 section 2.4), None if it is odd.

    OpenSSL takes more than DER. What is not read as it reads it must not be taken for a key.
    """
    try:
        digest = hashlib.sha256(spki(certificate)).digest()
    except (ValueError, IndexError):
        return None
    return "sha256/" + binascii.b2a_base64(digest, newline=False).decode()


def spki(certificate: bytes) -> bytes:
    """Cut the SubjectPublicKeyInfo out of a certificate (RFC 5280 section 4.1), both in DER.

    Raises:
        ValueError, IndexError: it is not the DER of a certificate.

    """
    at, _ = _element(certificate, 0, _SEQUENCE)  # Certificate
    at, end = _element(certificate, at, _SEQUENCE)  # tbsCertificate
    if certificate[at] == _VERSION:
        _, at = _element(certificate, at, _VERSION)
    # serialNumber, signature, issuer, validity, subject
    for tag in (_INTEGER, *[_SEQUENCE] * 4):
        _, at = _element(certificate, at, tag)
    _, behind = _element(certificate, at, _SEQUENCE)
    if behind > end:
        raise ValueError("the certificate ends within its key")
    return certificate[at:behind]


def _element(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return where the contents of an element begin and where they end (X.690 section 8.1)."""
    if der[at] != tag:
        raise ValueError("another element is expected")
    begin, length = at + 2, der[at + 1]
    if length & 0x80:
        if length == 0x80:
            raise ValueError("the end of an element is marked, which DER does not have")
        begin += length & 0x7F
        length = int.from_bytes(der[at + 2 : begin])
    if begin + length > len(der):
        raise ValueError("an element is longer than the certificate")
    return begin, begin + length
