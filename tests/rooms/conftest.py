"""Fixtures of the tests without a process."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Turn the garbage collector off: what a circle holds is held for good."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
