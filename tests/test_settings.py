"""Settings are checked and brought to one form where they are made, whoever makes them."""

import datetime
import math
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tls_servers import Authority
from wsplugin import Settings
from wsplugin.settings import CHECKS

MOST = 2**53 - 1

PIN = "sha256/" + "A" * 43 + "="

NORMALIZED: list[tuple[str, Any, Any]] = [
    ("max_connections", 1, 1),
    ("max_connections", MOST, MOST),
    ("max_line", 1, 1),
    ("open_timeout", 5e-324, 5e-324),
    ("close_timeout", 1_000_000_000, 1_000_000_000),
    ("ping_interval", 0, 0),
    ("ping_timeout", 0.0, 0),
    ("linger", 2.5, 2.5),
    ("at_limit", "refuse", "refuse"),
    ("exit_timeout", None, None),
    ("exit_timeout", 1, 1),
    ("allow_hosts", ("LocalHost",), ("localhost",)),
    ("allow_hosts", ["A.b.", "*.C.d"], ("a.b", "*.c.d")),
    ("allow_hosts", (), ()),
    ("allow_hosts", ("Bücher.example",), ("xn--bcher-kva.example",)),
    ("allow_hosts", ("[::1]", "0:0::1", "0x7f.1"), ("::1", "::1", "127.0.0.1")),
    ("allow_insecure", True, True),
    ("no_system_ca", False, False),
    ("client_certs", [], ()),
    ("pins", [f"A.b.={PIN}", f"*.C.d={PIN}"], (f"a.b={PIN}", f"*.c.d={PIN}")),
    ("pins", (f"Bücher.example={PIN}",), (f"xn--bcher-kva.example={PIN}",)),
    ("pins", (f"[::1]={PIN}", f"0x7f.1={PIN}"), (f"::1={PIN}", f"127.0.0.1={PIN}")),
    ("proxy", "none", "none"),
    ("proxy", "NONE", "none"),
    ("proxy", "proxy:3128", "proxy:3128"),
    ("proxy", "http://user@proxy", "http://user@proxy"),
    ("proxy", "HTTPS://Proxy:1", "https://Proxy:1"),
    ("proxy", "SOCKS5h://me:pw@proxy", "socks5h://me:pw@proxy"),
]


@pytest.mark.parametrize(("name", "value", "normal"), NORMALIZED)
def test_one_form(name: str, value: Any, normal: Any) -> None:
    settings = Settings(**{name: value})
    assert getattr(settings, name) == normal
    assert type(getattr(settings, name)) is type(normal) or name == "ping_timeout"
    # All others are as ever, and what has been normalised is normal.
    assert settings == msgspec.structs.replace(Settings(), **{name: normal})
    assert hash(settings) == hash(Settings(**{name: normal}))


NO_WHOLE: tuple[Any, ...] = (
    0,
    -1,
    MOST + 1,
    10**400,
    1.0,
    5.5,
    "5",
    b"5",
    True,
    False,
    None,
    math.nan,
    [5],
    {},
)
NO_SECONDS = (-1, -1e-9, 1_000_000_001, math.nan, math.inf, -math.inf, "10", True, False, None, [1])
NO_FLAG = (0, 1, "no", "", None, "True")

WRONG: dict[str, tuple[Any, ...]] = {
    "max_connections": NO_WHOLE,
    "open_timeout": (0, 0.0, -0.0, *NO_SECONDS),
    "close_timeout": (0, *NO_SECONDS),
    "ping_interval": NO_SECONDS,
    "ping_timeout": NO_SECONDS,
    "max_message_size": NO_WHOLE,
    "max_line": NO_WHOLE,
    "max_send_buffer": NO_WHOLE,
    "allow_hosts": (
        *("", "example.com", b"example.com", None, {"a.b": 1}, ("",), ("a.b", ""), (b"a.b",)),
        *((None,), ("a.b", 1), ("*",), ("ws://a.b",), ("a b",), ("[::1",), ("a\0",), ("\ud800",)),
    ),
    "allow_insecure": NO_FLAG,
    "block_private": NO_FLAG,
    "no_system_ca": (True, *NO_FLAG),  # nothing would be trusted
    "client_certs": (
        *("", "a.b=x", b"a.b=x", None, {"a.b": "x"}, ("",), ("a.b=",), ("=x",), ("a b=x",)),
        *((b"x",), (None,), ("/nonexistent",), ("a.b=/nonexistent",), ("a.b=x\0y",)),
        *(("a.b=\ud800",), ("a.b=/dev/null",), ("a.b=.",)),
    ),
    "pins": (
        *("", f"a.b={PIN}", None, {"a.b": PIN}, ("",), (PIN,), (f"={PIN}",), (f"a b={PIN}",)),
        *((f"a.b={PIN}".encode(),), ("a.b=",), (f"a.b={PIN}\n",), (f"a.b={PIN}", "c.d")),
    ),
    "ca_file": ("", "/nonexistent/file", ".", "/dev/null", "a\0b", "\ud800", b"x", 1, True, ["x"]),
    "proxy": (
        *("", "ftp://proxy", "http://", " http://proxy", "http://a b"),
        *("http://proxy\r\n", "ht\ttp://proxy", "none\0", "http://proxy:99999", "http://[::1"),
        *(b"none", 1, True, ["none"]),
    ),
    "linger": NO_SECONDS,
    "at_limit": (None, "", "Evict", True, 1),
    "exit_timeout": (0, 0.0, *(value for value in NO_SECONDS if value is not None)),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_what_is_wrong_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"\A{name}: .") as caught:
        Settings(**{name: value})
    assert type(caught.value) is ValueError
    assert caught.value.__cause__ is None
    # The way from good settings to wrong ones is closed as well.
    with pytest.raises(ValueError, match=rf"\A{name}: "):
        msgspec.structs.replace(Settings(), **{name: value})


def test_every_field_is_checked_and_has_wrong_values() -> None:
    assert CHECKS.keys() == WRONG.keys() == set(Settings.__struct_fields__)


@pytest.mark.parametrize(
    "value", ["ftp://me:s3cret@proxy", "http://s3cret@", "http://me:s3cret@proxy:x", "s3cret:x"]
)
def test_no_message_repeats_credentials(value: str) -> None:
    with pytest.raises(ValueError, match=r"\Aproxy: ") as caught:
        Settings(proxy=value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_what_has_a_need_of_another(authority: Authority) -> None:
    cert, ca = authority.client_cert(), authority.file
    assert Settings(no_system_ca=True, ca_file=ca).no_system_ca
    with pytest.raises(ValueError, match=r"\Aclient_certs: .*allow_hosts"):
        Settings(client_certs=(f"a.b={cert}", cert))
    settings = Settings(client_certs=(f"A.b={cert}", cert), allow_hosts=("c.d",))
    assert settings.client_certs == (f"a.b={cert}", cert)
    assert msgspec.structs.replace(settings) == settings
    with pytest.raises(ValueError, match=r"\Aclient_certs: .*allow_hosts"):
        msgspec.structs.replace(settings, allow_hosts=())


# --- the file of certificates -------------------------------------------------------------------


def revocations() -> bytes:
    """Return a certificate revocation list, which OpenSSL finds good enough to load."""
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")]),
        last_update=now,
        next_update=now + datetime.timedelta(days=1),
    )
    key = ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


CERTIFICATE = trustme.CA().cert_pem.bytes()
DAMAGED = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("contents", "usable"),
    [
        (CERTIFICATE, True),
        (CERTIFICATE + trustme.CA().cert_pem.bytes(), True),
        (b"words before it\n" + CERTIFICATE + revocations(), True),
        (b"", False),
        (b"hello\n", False),
        (DAMAGED, False),
        (CERTIFICATE + DAMAGED, False),
        (trustme.CA().private_key_pem.bytes(), False),
        (revocations(), False),
    ],
)
def test_what_is_in_the_ca_file(contents: bytes, usable: bool, tmp_path: Path) -> None:
    file = tmp_path / "ca ü.pem"
    file.write_bytes(contents)
    if usable:
        assert Settings(ca_file=str(file)).ca_file == str(file)
    else:
        with pytest.raises(ValueError, match=r"\Aca_file: no usable certificates in .*ca ü\.pem"):
            Settings(ca_file=str(file))


def test_a_ca_file_that_has_gone_is_missed_every_time(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(CERTIFICATE)
    settings = Settings(ca_file=str(file))
    file.unlink()
    with pytest.raises(ValueError, match=r"\Aca_file: cannot read .*: No such file or directory"):
        msgspec.structs.replace(settings, linger=1)


def test_a_python_without_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ssl", None)
    monkeypatch.delitem(sys.modules, "wsplugin.network.tls", raising=False)
    Settings()
    with pytest.raises(ValueError, match=r"\Aca_file: this Python was built without TLS"):
        Settings(ca_file=str(tmp_path))
    with pytest.raises(ValueError, match=r"\Aclient_certs: this Python was built without TLS"):
        Settings(client_certs=(f"a.b={tmp_path}",))
