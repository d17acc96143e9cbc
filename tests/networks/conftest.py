"""The network that a test is given, where the machine allows it."""

import subprocess
from collections.abc import Iterator

import pytest

from networks.namespaces import missing, remove_left_over
from networks.network import Network


@pytest.fixture(scope="session")
def _namespaces() -> None:
    if (what := missing()) is not None:
        pytest.skip(f"needs {what}")
    remove_left_over()
    try:
        Network().close()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to make networks")


@pytest.fixture
def network(_namespaces: None) -> Iterator[Network]:
    """Two namespaces and a link between them, for one test."""
    with Network() as network:
        yield network
