"""Fixtures of the tests without a process."""

import functools
import gc
from collections.abc import Iterator

import pytest

from tls_servers import Authority
from wsplugin.network import tls


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """A certificate authority that is one of the system's, as long as the test runs."""
    monkeypatch.setenv("SSL_CERT_FILE", authority.file)
    monkeypatch.setattr(tls, "context", functools.cache(tls.context.__wrapped__))
    return authority


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Turn the garbage collector off: what a circle holds is held for good."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
