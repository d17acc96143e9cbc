"""TLS: what is trusted, and what is said when it fails. Imported with the first use of TLS."""

import errno
import functools
import os
import ssl


@functools.cache
def context(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS configuration: the system's roots, and those of `ca_file`.

    Raises:
        OSError: the file cannot be read, or holds no certificates (``ssl.SSLError``).

    """
    _see_to_descriptors()
    made = ssl.create_default_context()
    if ca_file is not None:
        made.load_verify_locations(ca_file)
    made.set_alpn_protocols(["http/1.1"])
    return made


def _see_to_descriptors() -> None:
    """Raise what ``create_default_context`` says nothing of: that it could not read the roots.

    Without them the context would refuse all servers, for as long as it is kept.
    """
    roots = ssl.get_default_verify_paths().cafile
    try:
        os.close(os.open(roots or os.devnull, os.O_RDONLY))
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise


def describe(exc: BaseException) -> str | None:
    """Put a failure of TLS in a few words, the verifier's where it is one of a certificate.

    None if it is not TLS itself that has failed, but what it runs on.
    """
    match exc:
        case ssl.SSLCertVerificationError():
            return f"certificate verify failed: {exc.verify_message}"
        case ssl.SSLError():
            return exc.reason or (os.strerror(exc.errno) if exc.errno else "TLS failed")
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
