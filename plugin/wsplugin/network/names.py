"""Names to addresses, without waiting for anybody else's name.

The system's look-up (getaddrinfo) blocks, for as long as a name server is silent. So each name is
looked up on a daemon thread of its own, one at a time and for all who want it; one that nobody
waits for any more costs nobody anything, and delays no exit. asyncio's own look-ups share a pool
of a few threads: some dead names would hold up all others.
"""

import asyncio
import contextlib
import socket
import threading
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

MOST_LOOK_UPS: Final = 256


class Address(Struct, frozen=True):
    """Where to connect to: an IP address, a port, and the scope of a link-local address."""

    family: int
    host: str
    port: int
    scope: int = 0

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The same as :meth:`socket.socket.connect` wants it."""
        if self.family == socket.AF_INET6:
            return (self.host, self.port, 0, self.scope)
        return (self.host, self.port)


class LookUpRefused(OSError):
    """A name cannot be looked up now; it says why."""


def literal(host: str, port: int) -> Address | None:
    """Return the address that `host` is, or None if it is a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return Address(family, host, port)
    return None


def loopback(port: int) -> list[Address]:
    """Return the addresses of ``localhost`` and of names below it, which are never looked up."""
    return [
        Address(socket.AF_INET6, "::1", port),
        Address(socket.AF_INET, "127.0.0.1", port),
    ]


class _LookUp:
    """One name on its way; whoever wants it meanwhile waits with the others."""

    def __init__(self) -> None:
        # A dict for its order: who came first goes first.
        self.waiting: dict[asyncio.Future[list[Address]], None] = {}


_in_flight: dict[str, _LookUp] = {}
_lock: Final = threading.Lock()


async def look_up(host: str, port: int) -> list[Address]:
    """Return the addresses of a name, in the order in which the system would try them.

    Raises:
        OSError: the name was not found (``socket.gaierror``), or cannot be looked up now.

    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[Address]] = loop.create_future()
    with _lock:
        known = _in_flight.get(host)
        if known is None:
            if len(_in_flight) >= MOST_LOOK_UPS:
                raise LookUpRefused(f"{MOST_LOOK_UPS} names are being looked up already")
            known = _LookUp()
            thread = threading.Thread(target=_run, args=(host, known), name="name", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:  # the system has no more threads to give
                raise LookUpRefused("there is no thread to look the name up on") from exc
            _in_flight[host] = known
        known.waiting[future] = None
    try:
        found = await future
    finally:
        # Who gives up is forgotten at once: a host may ask for a dead name again and again. Not
        # under the lock: the garbage collector may come by here while this thread holds it.
        known.waiting.pop(future, None)
    return [replace(address, port=port) for address in found]


def _run(host: str, look_up: _LookUp) -> None:
    found: list[Address] = []
    failure: BaseException | None = None
    try:
        found = resolve(host)
    except BaseException as exc:  # noqa: BLE001 - raised where the addresses are awaited
        # Whatever it is: a name left in flight could never be looked up again. A future takes no
        # StopIteration, and an exit would end the event loop.
        failure = exc.with_traceback(None)
        if isinstance(exc, StopIteration) or not isinstance(exc, Exception):
            failure = RuntimeError(type(exc).__name__)
    with _lock:
        del _in_flight[host]
        waiting = list(look_up.waiting)
    for future in waiting:
        # A loop that has been closed meanwhile has nobody waiting.
        with contextlib.suppress(RuntimeError):
            future.get_loop().call_soon_threadsafe(_settle, future, found, failure)


def _settle(
    future: asyncio.Future[list[Address]], found: list[Address], failure: BaseException | None
) -> None:
    if future.done():
        return  # abandoned
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(found)


def resolve(host: str) -> list[Address]:
    """Ask the system for a name; blocks.

    Raises:
        OSError: the name was not found.

    """
    addresses = []
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # from Python's own encoding of names: a label is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "not a name that can be looked up") from None
    for family, _, _, _, sockaddr in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            # The scope stands behind it as a number; as a part of the text it would be looked up.
            ip = str(sockaddr[0]).partition("%")[0]
            scope = int(sockaddr[3]) if len(sockaddr) == 4 else 0
            addresses.append(Address(family, ip, 0, scope))
    return list(dict.fromkeys(addresses))
