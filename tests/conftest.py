"""Fixtures of several test modules: plugins that are shared, and a server to play by hand."""

import signal
from collections.abc import Iterator

import pytest

from conversations import LIMIT
from harness import Listener, Plugin
from pool import Pool
from tls_servers import Authority

if hasattr(signal, "SIGHUP"):
    # Run under nohup, all the tests' plugins would ignore it, as they should.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Plugins by their options."""
    with Pool() as pool:
        yield pool


@pytest.fixture
def plugin(pool: Pool) -> Iterator[Plugin]:
    """A plugin with default options and without connections."""
    with pool.lend() as plugin:
        yield plugin


@pytest.fixture
def hasty(pool: Pool) -> Iterator[Plugin]:
    """A plugin that waits only a moment for closing handshakes."""
    with pool.lend("--close-timeout", "0.3") as plugin:
        yield plugin


@pytest.fixture
def limited(pool: Pool) -> Iterator[Plugin]:
    """A plugin that takes only short messages."""
    with pool.lend("--max-message-size", str(LIMIT)) as plugin:
        yield plugin


@pytest.fixture
def server() -> Iterator[Listener]:
    """A listening socket that nobody has connected to yet."""
    with Listener() as listener:
        yield listener


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that ``--ca-file`` names."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))
