"""Public keys cut out of certificates (``network/pins.py``), as `cryptography` names them."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from wsplugin.network.pins import has_pinned, pin_of, spki

KEYS: dict[str, Any] = {
    "EC": ec.generate_private_key(ec.SECP256R1()),
    "RSA 2048": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
NAMES = {"short": "x", "none": "", "long": "x" * 64}


def certificate(kind: str, name: str = "x", serial: int = 1, names: int = 0) -> bytes:
    key = KEYS[kind]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=subject,
        public_key=key.public_key(),
        serial_number=serial,
        not_valid_before=now,
        not_valid_after=now + timedelta(days=1),
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(f"{i}.example") for i in range(names)]), False
        )
    algorithm = None if kind == "Ed25519" else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def key_of(kind: str) -> bytes:
    der: bytes = (
        KEYS[kind].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return der


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("serial", [1, 2**159 - 1])
@pytest.mark.parametrize("names", [0, 1, 5000], ids="{} names".format)
def test_key_of_a_certificate(kind: str, name: str, serial: int, names: int) -> None:
    der = certificate(kind, name, serial, names)
    assert spki(der) == key_of(kind)
    digest = hashlib.sha256(key_of(kind)).digest()
    assert pin_of(der) == "sha256/" + base64.b64encode(digest).decode()


def tlv(tag: int, *contents: bytes) -> bytes:
    whole = b"".join(contents)
    return bytes([tag, len(whole)]) + whole


VERSION, SERIAL, SEQUENCE = tlv(0xA0, tlv(2, b"\x02")), tlv(2, b"\x01"), tlv(0x30)
KEY = tlv(0x30, b"key")


def test_certificate_of_version_1() -> None:
    """It has no version (RFC 5280 section 4.1.2.1)."""
    assert spki(tlv(0x30, tlv(0x30, SERIAL, SEQUENCE * 4, KEY))) == KEY


ODD = {
    "nothing": b"",
    "no certificate": tlv(0x31, tlv(0x30, SERIAL, SEQUENCE * 4, KEY)),
    "no serial number": tlv(0x30, tlv(0x30, VERSION, SEQUENCE * 4, KEY)),
    "two serial numbers": tlv(0x30, tlv(0x30, VERSION, SERIAL * 2, SEQUENCE * 3, KEY)),
    "no subject": tlv(0x30, tlv(0x30, VERSION, SERIAL, SEQUENCE * 3, KEY)),
    "no key": tlv(0x30, tlv(0x30, VERSION, SERIAL, SEQUENCE * 4), SEQUENCE),
    "a key that is none": tlv(0x30, tlv(0x30, VERSION, SERIAL, SEQUENCE * 4, tlv(4, b"key"))),
    "an end that is marked": b"\x30\x80" + tlv(0x30, SERIAL, SEQUENCE * 4, KEY) + b"\0\0",
    "a subject whose end is marked": tlv(
        0x30, tlv(0x30, SERIAL, SEQUENCE * 3, b"\x30\x80", KEY, b"\0\0", SEQUENCE)
    ),
    "a length of 127 bytes": b"\x30\xff" + b"\x01" * 200,
}


@pytest.mark.parametrize("der", ODD.values(), ids=ODD)
def test_what_is_odd_has_no_key(der: bytes) -> None:
    assert pin_of(der) is None
    assert not has_pinned([der], {"sha256/" + "A" * 43 + "="})


def test_certificate_that_is_cut_off() -> None:
    der = certificate("EC", names=50)
    assert all(pin_of(der[:end]) is None for end in range(len(der)))


def test_one_key_of_a_chain_suffices() -> None:
    chain = [certificate(kind) for kind in ("EC", "Ed25519")]
    pins = [pin_of(certificate(kind)) for kind in KEYS]
    assert all(pins)
    ec, rsa, ed25519 = map(str, pins)
    assert has_pinned(chain, {ec})
    assert has_pinned(chain, {ed25519, rsa})
    assert not has_pinned(chain, {rsa})
    assert not has_pinned([], {ec})
