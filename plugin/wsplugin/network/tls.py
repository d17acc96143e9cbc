"""TLS: what is trusted, what is shown, and what is said when it fails.

Imported with the first use of TLS.
"""

import errno
import functools
import os
import re
import ssl
import sys
from collections.abc import Collection
from typing import Final

from wsplugin.network.pins import has_pinned

VERIFY_FLAGS: Final = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
"""How certificates are verified on every version of Python, whose own choice changed with 3.13.

Whatever is named as trusted is, be it an intermediate certificate of a company's; and authorities
are taken that keep to the letter of RFC 5280 no better than those of companies do.
"""

# Where Linux distributions and BSDs keep their roots, as in Go's crypto/x509/root_linux.go and
# root_bsd.go.
BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Gentoo, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL 6
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/pki/tls/cacert.pem",  # OpenELEC
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # CentOS, RHEL 7
    "/etc/ssl/cert.pem",  # Alpine Linux, OpenBSD, macOS
    "/usr/local/etc/ssl/cert.pem",  # FreeBSD
    "/usr/local/share/certs/ca-root-nss.crt",  # DragonFly
    "/etc/openssl/certs/ca-certificates.crt",  # NetBSD
)


class Unusable(OSError):
    """TLS cannot be used for a reason that neither the system nor OpenSSL has words for."""


@functools.cache
def context(
    ca_file: str | None, no_system_ca: bool = False, client_cert: str | None = None
) -> ssl.SSLContext:
    """Return a TLS configuration, made once. One that could not be made is made anew.

    Args:
        ca_file: certificates to trust.
        no_system_ca: whether to trust these alone.
        client_cert: a certificate chain with its key, to show.

    Raises:
        OSError: a file cannot be read, or is not what it should be (``ssl.SSLError``).
        Unusable: there are no roots, or the key has a passphrase.

    """
    # Not create_default_context(), which says nothing of roots that it could not read: without
    # them the context would refuse all servers, for as long as it is kept.
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.verify_flags = VERIFY_FLAGS
    if keys := os.environ.get("SSLKEYLOGFILE"):
        made.keylog_filename = keys  # as create_default_context() does
    trusting = not no_system_ca and _load_roots(made)
    if ca_file is not None:
        made.load_verify_locations(ca_file)
    elif not trusting:
        raise Unusable("no roots were found; name a file of certificates with --ca-file")
    if client_cert is not None:
        _load_client_cert(made, client_cert)
    made.set_alpn_protocols(["http/1.1"])
    return made


def _load_roots(made: ssl.SSLContext) -> bool:
    """Trust the system's roots; tell whether there are any.

    Those of OpenSSL's own places, or that the environment names in place of them; if nothing is
    there and nobody has named anything, those of the places where systems keep them.
    """
    if sys.platform == "win32":
        made.load_default_certs()  # Windows' own stores
    paths = ssl.get_default_verify_paths()
    file = os.environ.get(paths.openssl_cafile_env)
    folders = os.environ.get(paths.openssl_capath_env)
    found = _load_file(made, file or paths.openssl_cafile)
    for folder in (folders or paths.openssl_capath).split(os.pathsep):
        if _is_hashed(folder):
            made.load_verify_locations(capath=folder)
            found = True
    if found or file or folders:
        return found
    return any(_load_file(made, bundle) for bundle in BUNDLES)


def _load_file(made: ssl.SSLContext, path: str) -> bool:
    """Trust the certificates of a file, if there is one; tell whether any are trusted by now."""
    try:
        made.load_verify_locations(path)
    except ssl.SSLError:
        pass  # it holds none, or a broken one behind others
    except OSError as exc:
        _reraise_want(exc)
    return made.cert_store_stats()["x509"] > 0


def _is_hashed(folder: str) -> bool:
    """Tell whether OpenSSL would find a certificate in a folder, by the hash of its subject."""
    try:
        with os.scandir(folder) as entries:
            return any(re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", entry.name) for entry in entries)
    except OSError as exc:
        _reraise_want(exc)
        return False


def _reraise_want(exc: OSError) -> None:
    """Let a want of descriptors be an error: a moment later, there may be some."""
    if exc.errno in (errno.EMFILE, errno.ENFILE):
        raise exc


def _load_client_cert(made: ssl.SSLContext, path: str) -> None:
    def refuse() -> str:
        raise Unusable("the client certificate's key has a passphrase")

    # Without an answer of ours, OpenSSL would ask on the terminal.
    made.load_cert_chain(path, password=refuse)


def check_pins(secured: ssl.SSLObject, pins: Collection[str]) -> None:
    """Hold a server's keys against those that it must have one of.

    Raises:
        Unusable: it has none.

    """
    if not has_pinned(verified_chain(secured), pins):
        raise Unusable("no certificate of the verified chain has a pinned key (--pin)")


def verified_chain(secured: ssl.SSLObject) -> list[bytes]:
    """Return the certificates, in DER, by which a server was verified, its own first.

    What the verifier has built, never what the server has sent, which may be anything. Where that
    cannot be had, it is the server's own certificate alone.
    """
    chain: list[bytes] = []
    if sys.version_info >= (3, 13):
        chain = secured.get_verified_chain()
    else:
        # Not a public name until 3.13; there since 3.10, but for other implementations of Python.
        from _ssl import ENCODING_DER

        ask = getattr(getattr(secured, "_sslobj", None), "get_verified_chain", lambda: None)
        chain = [certificate.public_bytes(ENCODING_DER) for certificate in ask() or ()]
    if not chain and (own := secured.getpeercert(binary_form=True)):
        chain = [own]
    return chain


def describe(exc: BaseException) -> str | None:
    """Put a failure of TLS in a few words, the verifier's where it is one of a certificate.

    None if it is not TLS itself that has failed, but what it runs on.
    """
    match exc:
        case ssl.SSLCertVerificationError():
            return f"certificate verify failed: {exc.verify_message}"
        case ssl.SSLError():
            return exc.reason or (os.strerror(exc.errno) if exc.errno else "TLS failed")
        case Unusable():
            return str(exc)
        case _:
            return None


def check_ca_file(path: str) -> None:
    """See to it that a file of certificates can be used, before a connection needs it.

    Raises:
        ValueError: it cannot be read, or holds no certificate.

    """
    # Not context(), which remembers: a file that has gone since then would pass.
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        made.load_verify_locations(path)
        # Revocation lists alone are taken for good by OpenSSL, and nobody would be trusted.
        usable = made.cert_store_stats()["x509"] > 0
    except ssl.SSLError:
        usable = False
    except OSError as exc:
        raise ValueError(f"cannot read {path}: {exc.strerror}") from None
    if not usable:
        raise ValueError(f"no usable certificates in {path}")


def check_client_cert(path: str) -> None:
    """See to it that a client certificate can be shown, before a connection needs it.

    Raises:
        ValueError: it cannot be read, is none, or its key is missing, another's, or has a
            passphrase.

    """
    try:
        _load_client_cert(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), path)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"the key in {path} is not that of its certificate") from None
        raise ValueError(f"no usable certificate with its key in {path}") from None
    except Unusable:
        raise ValueError(f"the key in {path} has a passphrase") from None
    except OSError as exc:
        raise ValueError(f"cannot read {path}: {exc.strerror}") from None
