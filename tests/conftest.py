"""Fixtures of several test modules: a plugin that is shared, and a server to play by hand."""

from collections.abc import Iterator

import pytest

from harness import Listener, Plugin, Pool


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


@pytest.fixture(scope="module")
def server() -> Iterator[Listener]:
    """A listening socket."""
    with Listener() as listener:
        yield listener
