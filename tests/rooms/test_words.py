"""What failures of the network are called, on Windows as elsewhere."""

import errno
import os
import sys

import pytest

from wsplugin.network.words import describe


def of_windows(winerror: int, kind: type[OSError] = OSError) -> OSError:
    """Return what asyncio's proactor raises: its errno says nothing."""
    exc = kind(errno.EINVAL, "Der Vorgang ist gescheitert.")
    if sys.platform == "win32":
        exc.winerror = winerror
    else:
        vars(exc)["winerror"] = winerror  # elsewhere exceptions have no such attribute
    return exc


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "Connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "Connection reset by peer"),
        (ConnectionResetError(errno.EINVAL, "x"), "Connection reset by peer"),
        (TimeoutError(errno.ETIMEDOUT, "x"), "Connection timed out"),
        (OSError(errno.ENETUNREACH, "x"), "Network is unreachable"),
        (OSError(errno.EMFILE, "x"), "Too many open files"),
        (of_windows(1225, ConnectionRefusedError), "Connection refused"),
        (of_windows(64), "Connection reset by peer"),
        (of_windows(121), "Connection timed out"),
        (of_windows(1231), "Network is unreachable"),
        (of_windows(1236), "Software caused connection abort"),
        (of_windows(10022), "error 10022 of Windows"),
    ],
    ids=repr,
)
def test_words(exc: OSError, words: str) -> None:
    assert describe(exc) == words


@pytest.mark.skipif(sys.platform != "linux", reason="the words are those of its C library")
@pytest.mark.parametrize("name", [name for name in vars(errno) if name.startswith("E")])
def test_the_words_are_those_of_the_system(name: str) -> None:
    """So on Linux nothing has to be looked up in a table of ours."""
    number = getattr(errno, name)
    assert describe(OSError(number, "x")) == os.strerror(number)
