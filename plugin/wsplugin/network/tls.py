"""TLS: what is trusted, and what is said when it fails. Imported with the first use of TLS."""

import functools
import os
import ssl


@functools.cache
def context(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS configuration: the system's roots, and those of `ca_file`.

    Raises:
        OSError: the file cannot be read, or holds no certificates (``ssl.SSLError``).

    """
    made = ssl.create_default_context()
    if ca_file is not None:
        made.load_verify_locations(ca_file)
    made.set_alpn_protocols(["http/1.1"])
    return made


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
