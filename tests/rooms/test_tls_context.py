"""What is trusted (``network/tls.py``), made once and kept: never without its roots."""

import errno
import os
import resource
import ssl
import sys

import pytest

from tls_servers import Authority
from wsplugin.network import tls


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of descriptors")
@pytest.mark.usefixtures("trusted")
def test_roots_that_cannot_be_read_are_read_later() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            tls.context(None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert tls.context(None).cert_store_stats()["x509_ca"] > 0
    assert tls.context(None) is tls.context(None)


def test_roots_that_may_not_be_read_are_none(
    trusted: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    tls.context(None)


def test_a_system_without_a_file_of_roots(
    trusted: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows and macOS have others, and a directory serves as well."""
    monkeypatch.setenv("SSL_CERT_FILE", trusted.file + ".none")
    monkeypatch.setenv("SSL_CERT_DIR", "/none")
    assert ssl.get_default_verify_paths().cafile is None
    assert tls.context(None).cert_store_stats()["x509_ca"] == 0
    assert tls.context(trusted.file).cert_store_stats()["x509_ca"] == 1
