"""Through a SOCKS proxy, by the library python-socks (the extra ``wsplugin[socks]``)."""

import socket
from collections.abc import Sequence
from typing import Any, Final, cast

from python_socks import ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy as Tunnel
from websockets.proxy import Proxy

from wsplugin.network.names import Address

TYPES: Final = {
    "socks5h": ProxyType.SOCKS5,
    "socks5": ProxyType.SOCKS5,
    "socks4a": ProxyType.SOCKS4,
    "socks4": ProxyType.SOCKS4,
}


def resolves(proxy: Proxy) -> bool:
    """Tell whether the proxy looks the server's name up, and not we."""
    return proxy.scheme in ("socks5h", "socks4a")


def choose(proxy: Proxy, found: Sequence[Address]) -> Address:
    """Return the address to name to the proxy: SOCKS 4 knows IPv4 alone.

    Raises:
        OSError: there is none.

    """
    for address in found:
        if proxy.scheme != "socks4" or address.family == socket.AF_INET:
            return address
    raise socket.gaierror("no address that SOCKS 4 can name")


class Refused(Exception):
    """The proxy has refused, or has said what is none of SOCKS; the library's words say how."""


class _Dialed:
    """What :class:`Tunnel` takes for the way to the proxy: the connection that is there."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def connect(self, *_: object, **__: object) -> socket.socket:
        return self._sock


async def tunnel(
    proxy: Proxy, sock: socket.socket, host: str, port: int, seconds: float
) -> socket.socket:
    """Ask the proxy at the other end of `sock` for a way to `host`; return the socket.

    Raises:
        Refused: the proxy does not; the socket is closed, as after all other exceptions.

    """
    way = Tunnel(
        TYPES[proxy.scheme],
        proxy.host,
        proxy.port,
        proxy.username,
        proxy.password,
        resolves(proxy),
        forward=cast(Any, _Dialed(sock)),
    )
    try:
        tunneled: socket.socket = await way.connect(host, port, seconds)
    except ProxyError as exc:
        raise Refused(str(exc)) from None
    except ValueError:  # of the library, which writes ASCII, and a length as a byte
        raise Refused("a user, a password or a name that cannot be said in SOCKS") from None
    return tunneled
