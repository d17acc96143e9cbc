"""The URL of a proxy, as people write it: whole, or ``host:port`` alone."""

import urllib.parse
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from websockets.proxy import Proxy

PORTS: Final = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}


class InvalidProxy(ValueError):
    """The proxy's URL is not valid. The words never repeat it: it may hold credentials."""


def parse(url: str) -> "Proxy":
    """Check and normalise the URL of a proxy; ``host:port`` is one of HTTP.

    Raises:
        InvalidProxy: it is none.

    """
    from websockets.proxy import Proxy

    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
        user = urllib.parse.unquote(parts.username or "", errors="strict")
        password = urllib.parse.unquote(parts.password or "", errors="strict")
    except ValueError:
        raise InvalidProxy("not a valid URL") from None
    # As with curl's --proxy: the proxy resolves, so that no name leaves past it.
    scheme = "socks5h" if parts.scheme == "socks" else parts.scheme
    if scheme not in PORTS:
        raise InvalidProxy("expected http, https, socks4, socks4a, socks5 or socks5h")
    if not parts.hostname or port == 0:
        raise InvalidProxy("the host is missing, or the port is 0")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InvalidProxy("a path means nothing")
    named = parts.username is not None
    return Proxy(
        scheme,
        parts.hostname,
        port or PORTS[scheme],
        user if named else None,
        password if named else None,
    )
