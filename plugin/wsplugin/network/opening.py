"""The opening handshake and all that comes before it: name, address, proxy, TCP, TLS.

The ``websockets`` library does the work. Decided here is what it is told, and what each way to
fail is called towards the host.
"""

import asyncio
import functools
import os
import re
import socket
from typing import TYPE_CHECKING, Any, Final, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    InvalidHandshake,
    InvalidHeader,
    InvalidProxy,
    InvalidProxyStatus,
    NegotiationError,
    ProxyError,
)
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from wsplugin.messages import ErrorPayload
from wsplugin.network.compression import DeflateFactory
from wsplugin.network.wire import WRITE_HIGH_WATER, UnexpectedStatus, Wire
from wsplugin.policy import is_public
from wsplugin.version import __version__

if TYPE_CHECKING:
    import ssl

    from wsplugin.connection import Connection

USER_AGENT: Final = f"wsplugin/{__version__}"


class AddressRefused(Exception):
    """The name resolves to an address that ``--block-private`` refuses."""


@functools.cache
def tls_context(ca_file: str | None) -> "ssl.SSLContext":
    """Return the TLS configuration: the system's roots, and those of `ca_file`.

    Raises:
        OSError: the file cannot be read, or holds no certificates (``ssl.SSLError``).

    """
    import ssl

    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


async def perform_opening_handshake(connection: "Connection") -> None:
    """Connect to the server; returns when the connection is open.

    Raises:
        Exception: whatever :func:`explain_failure` explains.

    """
    target, options, settings = connection.target, connection.options, connection.settings
    headers = dict(options.headers)
    if not any(name.lower() == "content-type" for name in headers):
        headers["content-type"] = "application/json"
    arguments: dict[str, Any] = {}
    if target.secure:
        arguments["ssl"] = tls_context(settings.ca_file)
    proxy = choose_proxy(connection)
    if proxy is not None and proxy.startswith("https:"):
        arguments["proxy_ssl"] = tls_context(settings.ca_file)
    addresses: list[str | None] = [None]
    if settings.block_private and proxy is None:
        # The addresses that are judged are the ones connected to: no second look-up in between.
        addresses = list(await resolve_public(target.host, target.port))
    for address in addresses:
        if address is not None:
            arguments |= {"host": address, "port": target.port}
        try:
            await connect(
                target.url,
                create_connection=cast(type[ClientConnection], functools.partial(Wire, connection)),
                subprotocols=cast(Any, options.protocols) or None,
                compression=None,
                extensions=[DeflateFactory()] if options.per_message_deflate else None,
                additional_headers=headers,
                user_agent_header=USER_AGENT,
                proxy=proxy,
                # The connection's own timers do it: they know the queue and the pauses.
                open_timeout=None,
                close_timeout=None,
                # Either option turns pings off.
                ping_interval=(settings.ping_timeout and settings.ping_interval) or None,
                ping_timeout=settings.ping_timeout,
                max_size=settings.max_message_size,
                write_limit=WRITE_HIGH_WATER,
                **arguments,
            )
            return
        except OSError:
            if connection.wire is not None or address == addresses[-1]:
                raise


async def resolve_public(host: str, port: int) -> dict[str, None]:
    """Look a name up and return its addresses, in order.

    Raises:
        AddressRefused: one of them is not public.
        OSError: the name was not found.

    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    if not all(is_public(address) for address in addresses):
        raise AddressRefused
    return addresses


def choose_proxy(connection: "Connection") -> str | None:
    """Return the URL of the proxy to use: the host's choice, else the system's."""
    if connection.target.is_loopback or connection.settings.proxy == "none":
        return None
    return connection.settings.proxy or get_proxy(parse_uri(connection.target.url))


def explain_failure(exc: BaseException, connection: "Connection") -> ErrorPayload:
    """Say in the contract's words why an opening handshake failed.

    No message repeats what may be secret: the URL's query, headers, proxy credentials, or text
    of the server, which may send back what it was sent.
    """
    import ssl

    target, wire = connection.target, connection.wire
    where = f"{target.host}:{target.port}"
    match exc:
        case UnexpectedStatus():
            from wsplugin.connection import fields

            response = exc.response
            return ErrorPayload(
                str(exc), "handshake-failed", response.status_code, fields(response.headers)
            )
        case AddressRefused():
            return ErrorPayload(f"{target.host} is not public (--block-private)", "forbidden")
        case ImportError():
            return ErrorPayload(
                "a SOCKS proxy needs the package python-socks: pip install 'wsplugin[socks]'",
                "proxy-error",
            )
        case InvalidProxyStatus():
            return ErrorPayload(
                f"the proxy refused the connection: HTTP {exc.response.status_code}", "proxy-error"
            )
        case InvalidProxy():
            return ErrorPayload("the proxy's URL is not valid", "proxy-error")
        case ProxyError():
            return ErrorPayload("the proxy failed to connect", "proxy-error")
    proxied = wire is None and choose_proxy(connection) is not None
    within_tls = wire is not None and not wire.connected
    why = describe(exc)
    if proxied:
        return ErrorPayload(f"cannot connect to the proxy: {why}", "proxy-error")
    # TLS 1.3 tells the client after its handshake that the server wants a certificate of it.
    lost = wire.lost_exc if wire is not None else None
    if isinstance(lost, ssl.SSLError):
        exc = lost
    if within_tls or isinstance(exc, ssl.SSLError):
        return ErrorPayload(f"TLS with {where} failed: {describe(exc)}", "tls-error")
    if wire is None:
        return ErrorPayload(f"cannot connect to {where}: {why}", "network-error")
    if isinstance(exc, InvalidHandshake) and wire.answered and lost is None:
        why = describe_refusal(exc)
        return ErrorPayload(f"the opening handshake with {where} failed: {why}", "handshake-failed")
    why = describe(lost) if lost else "ended without an answer"
    return ErrorPayload(f"the opening handshake with {where} failed: {why}", "network-error")


def describe_refusal(exc: InvalidHandshake) -> str:
    """Say what is wrong with the server's response, in words of our own."""
    match exc:
        case InvalidHeader():
            return f"the response's {exc.name} header is missing or wrong"
        case NegotiationError():
            return "the response has an extension or subprotocol that was not offered"
        case _:
            return "the response is not one of HTTP"


def describe(exc: BaseException) -> str:
    """Put an exception of the network in a few words."""
    import ssl

    match exc:
        case ssl.SSLCertVerificationError():
            return f"certificate verify failed: {exc.verify_message}"
        case ssl.SSLError():
            return exc.reason or str(exc)
        case socket.gaierror():
            return exc.strerror or "name not found"
        case OSError() if exc.errno:
            return os.strerror(exc.errno)
        case OSError() if numbers := re.findall(r"\[Errno (\d+)\]", str(exc)):
            # asyncio has tried several addresses, and says so in one sentence.
            return ", ".join(dict.fromkeys(os.strerror(int(number)) for number in numbers))
        case ConnectionError() | TimeoutError():
            return "the connection was lost"
        case _:
            return type(exc).__name__
