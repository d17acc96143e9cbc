"""Which of a server's addresses answers first (RFC 8305): one winner, and no socket left over."""

import asyncio
import itertools
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from wsplugin.network.names import Address

DELAY: Final = 0.25
"""Seconds until the next address is tried beside the one that has not answered (section 8)."""
MOST_SOCKETS: Final = 4


class AllFailed(OSError):
    """No address could be connected to; :attr:`reasons` has the failure of each."""

    def __init__(self, reasons: Sequence[OSError]) -> None:
        super().__init__("no address could be connected to")
        self.reasons = tuple(reasons)


def in_turn(addresses: Sequence[Address]) -> list[Address]:
    """Order addresses so that the families take turns, beginning with the first's (section 4)."""
    first = [a for a in addresses if a.family == addresses[0].family]
    others = [a for a in addresses if a.family != addresses[0].family]
    mixed = itertools.chain.from_iterable(itertools.zip_longest(first, others))
    return [address for address in mixed if address is not None]


async def connect(address: Address) -> socket.socket:
    """Open a TCP connection.

    Raises:
        OSError: it failed.

    """
    # With the protocol named: asyncio turns Nagle's algorithm off only for what says that it is
    # TCP.
    sock = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


async def race(
    addresses: Sequence[Address],
    connect: Callable[[Address], Coroutine[Any, Any, socket.socket]] = connect,
) -> socket.socket:
    """Connect to the first address that answers; all other attempts are given up.

    Raises:
        AllFailed: none does.

    """
    loop = asyncio.get_running_loop()
    waiting = in_turn(addresses)[::-1]
    attempts: list[asyncio.Task[socket.socket]] = []
    failures: list[OSError] = []
    try:
        while waiting or attempts:
            if waiting and len(attempts) < MOST_SOCKETS:
                attempts.append(loop.create_task(connect(waiting.pop())))
            may_add = waiting and len(attempts) < MOST_SOCKETS
            await asyncio.wait(
                attempts,
                timeout=DELAY if may_add else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in [task for task in attempts if task.done()]:
                try:
                    sock = task.result()
                except OSError as exc:
                    # With its traceback it would hold this frame, the list and the winner, in a
                    # circle that only the garbage collector opens.
                    failures.append(exc.with_traceback(None))
                    attempts.remove(task)
                else:
                    attempts.remove(task)
                    return sock
        raise AllFailed(failures)
    finally:
        for task in attempts:
            task.add_done_callback(_close_late)
            # It closes its own socket, in the task that waits for it: a descriptor that is closed
            # while the event loop still watches it may be another's the next moment.
            task.cancel()


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    """Close what came in at the same moment as the winner, or as the end of the race."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
