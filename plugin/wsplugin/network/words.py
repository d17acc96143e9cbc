"""What a failure of the network is called: in the same words on every system.

Windows has two sets of numbers for them, its own and those of Winsock, of which the C library
knows neither by ``strerror``; asyncio's proactor hands on the former with an errno of EINVAL.
"""

import errno
import os
from typing import Final

BY_CLASS: Final[dict[type[OSError], str]] = {
    ConnectionRefusedError: "Connection refused",
    ConnectionResetError: "Connection reset by peer",
    ConnectionAbortedError: "Software caused connection abort",
    TimeoutError: "Connection timed out",
}
# glibc's words. On Windows these numbers are Winsock's, or what Python makes of them.
BY_ERRNO: Final = {
    errno.EACCES: "Permission denied",
    errno.EADDRNOTAVAIL: "Cannot assign requested address",
    errno.EHOSTUNREACH: "No route to host",
    errno.EMFILE: "Too many open files",
    errno.ENETDOWN: "Network is down",
    errno.ENETUNREACH: "Network is unreachable",
    errno.ENOBUFS: "No buffer space available",
}
# System error codes of Windows (winerror.h): ERROR_NETNAME_DELETED and so on.
BY_WINERROR: Final = {
    64: "Connection reset by peer",
    121: "Connection timed out",
    1225: "Connection refused",
    1231: "Network is unreachable",
    1232: "No route to host",
    1236: "Software caused connection abort",
}


def describe(exc: OSError) -> str:
    """Say what has failed; `exc` has an errno or a winerror."""
    for kind, words in BY_CLASS.items():
        if isinstance(exc, kind):
            return words
    if words := BY_ERRNO.get(exc.errno or 0, ""):
        return words
    if winerror := getattr(exc, "winerror", None):
        return BY_WINERROR.get(winerror, f"error {winerror} of Windows")
    return os.strerror(exc.errno or 0)
