"""What is trusted (``network/tls.py``), made once and kept: never without its roots."""

import contextlib
import errno
import hashlib
import os
import resource
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tls_servers import Authority
from wsplugin.network import tls

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has stores of its own")


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("trusted")
def test_roots_that_cannot_be_read_are_read_later() -> None:
    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        tls.context(None)
    assert tls.context(None).cert_store_stats()["x509_ca"] > 0
    assert tls.context(None) is tls.context(None)


def test_client_certificate_that_cannot_be_read_is_read_later(trusted: Authority) -> None:
    show = (trusted.file, True, trusted.client_cert())
    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        tls.context(*show)
    assert tls.context(*show) is tls.context(*show)


def test_roots_that_may_not_be_read_are_none(
    trusted: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setenv("SSL_CERT_DIR", "/none")
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", refuse)
    with pytest.raises(tls.Unusable, match="no roots were found"):
        tls.context(None)


# --- where the roots are ------------------------------------------------------------------------


def trusts(context: ssl.SSLContext, authority: Authority) -> bool:
    """Tell whether a server of the authority's is trusted, without a socket."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = authority.context("localhost").wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return True


@pytest.fixture
def places(trusted: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with nothing in it, in which the system's roots are looked for.

    OpenSSL's own are ``cert.pem`` and, split by their hashes, ``certs``; the last of the places of
    systems is ``bundle.pem``.
    """
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setattr(tls, "BUNDLES", (str(tmp_path / "none"), str(tmp_path / "bundle.pem")))
    paths = ssl.get_default_verify_paths()._replace(
        openssl_cafile=str(tmp_path / "cert.pem"),
        openssl_capath=str(tmp_path / "certs"),
    )
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    return tmp_path


def put(authority: Authority, place: Path) -> None:
    place.write_bytes(Path(authority.file).read_bytes())


def subject_hash(authority: Authority) -> str:
    """Return the name by which OpenSSL finds a certificate in a folder (X509_NAME_hash)."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(Path(authority.file).read_bytes())
    # The canonical form: values in lower case, as UTF-8, without the outer SEQUENCE.
    canonical = b""
    for attribute in certificate.subject:
        text = str(attribute.value).lower().encode()
        value = b"\x0c" + bytes([len(text)]) + text
        oid = x509.Name([attribute]).public_bytes()[6:]
        pair = oid[: 2 + oid[1]] + value
        pair = b"\x30" + bytes([len(pair)]) + pair
        canonical += b"\x31" + bytes([len(pair)]) + pair
    return hashlib.sha1(canonical).digest()[3::-1].hex()


def test_openssl_s_file(places: Path, authority: Authority, stranger: Authority) -> None:
    put(authority, places / "cert.pem")
    put(stranger, places / "bundle.pem")
    context = tls.context(None)
    assert trusts(context, authority)
    assert not trusts(context, stranger)


def test_openssl_s_folder(places: Path, authority: Authority, stranger: Authority) -> None:
    (places / "certs").mkdir()
    put(authority, places / "certs" / f"{subject_hash(authority)}.0")
    put(stranger, places / "bundle.pem")
    context = tls.context(None)
    assert trusts(context, authority)
    assert not trusts(context, stranger)


@pytest.mark.parametrize("what", ["nothing", "an empty file", "a folder without hashes"])
def test_places_of_systems(places: Path, authority: Authority, what: str) -> None:
    match what:
        case "an empty file":
            (places / "cert.pem").touch()
        case "a folder without hashes":
            (places / "certs").mkdir()
            put(authority, places / "certs" / "authority.pem")
    put(authority, places / "bundle.pem")
    assert trusts(tls.context(None), authority)


def test_no_roots_at_all(places: Path, authority: Authority) -> None:
    with pytest.raises(tls.Unusable, match=r"no roots were found.*--ca-file"):
        tls.context(None)
    assert trusts(tls.context(authority.file), authority)
    # It is no answer for ever.
    put(authority, places / "bundle.pem")
    assert trusts(tls.context(None), authority)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_what_the_environment_names_has_no_other_in_its_place(
    places: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put(authority, places / "bundle.pem")
    monkeypatch.setenv(name, str(places / "nowhere"))
    with pytest.raises(tls.Unusable, match="no roots were found"):
        tls.context(None)
    monkeypatch.setenv(name, "")
    assert trusts(tls.context(None), authority)


def test_folders_of_the_environment(
    places: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "mine").mkdir()
    put(authority, places / "mine" / f"{subject_hash(authority)}.0")
    monkeypatch.setenv("SSL_CERT_DIR", os.pathsep.join(["/none", str(places / "mine")]))
    assert trusts(tls.context(None), authority)


def test_ca_file_alone(trusted: Authority, stranger: Authority) -> None:
    both, alone = tls.context(stranger.file), tls.context(stranger.file, True)
    assert trusts(both, trusted)
    assert trusts(both, stranger)
    assert not trusts(alone, trusted)
    assert trusts(alone, stranger)


@pytest.mark.usefixtures("trusted")
def test_flags_are_the_same_on_every_python() -> None:
    flags = tls.context(None).verify_flags
    assert flags == ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
    assert tls.context(None).verify_mode == ssl.CERT_REQUIRED
    assert tls.context(None).check_hostname


def test_keys_for_whoever_looks_at_the_traffic(
    trusted: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert trusts(tls.context(None), trusted)
    assert "CLIENT_" in (tmp_path / "keys").read_text()


# --- the chain ----------------------------------------------------------------------------------


class NoChain:
    """What Python has beneath ``ssl.SSLObject``, without a chain."""

    def get_verified_chain(self) -> None:
        return None


class Secured:
    """An end of TLS that knows no chain."""

    def __init__(self, sslobj: object) -> None:
        self._sslobj = sslobj

    def get_verified_chain(self) -> list[bytes]:
        return []

    def getpeercert(self, *, binary_form: bool) -> bytes:
        assert binary_form
        return b"own"


@pytest.mark.parametrize("sslobj", [None, object(), NoChain()])
def test_without_a_chain_it_is_the_server_s_own_certificate(sslobj: object) -> None:
    secured: Any = Secured(sslobj)
    assert tls.verified_chain(secured) == [b"own"]
