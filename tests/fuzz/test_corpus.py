"""What fuzzing has found, and all that it has reached, once more."""

import pytest

from fuzz.corpus import load
from fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found(name: str) -> None:
    inputs = load(name)
    assert len(inputs) > 10
    for data in inputs:
        TARGETS[name](data)
