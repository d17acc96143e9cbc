"""One attempt to open a connection: name, address, proxy, TCP, TLS, request and answer.

Each phase says by itself what its failure is called. No message repeats what may be secret: the
URL's query, headers, proxy credentials, or text of the server, which may send back what it was
sent.
"""

import asyncio
import enum
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import (
    InvalidHandshake,
    InvalidHeader,
    NegotiationError,
)
from websockets.headers import build_extension, build_subprotocol
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from wsplugin.log import SILENT
from wsplugin.messages import ErrorPayload, OpenPayload
from wsplugin.network import addresses, names, proxies
from wsplugin.network.compression import DeflateFactory
from wsplugin.network.exchange import EndOfStream, Exchange
from wsplugin.network.milestones import Milestones
from wsplugin.network.names import Address
from wsplugin.network.proxy_url import InvalidProxy
from wsplugin.network.response import SWITCHING_PROTOCOLS, BadResponse, fields
from wsplugin.network.wire import Wire
from wsplugin.network.words import describe
from wsplugin.policy import (
    Target,
    client_cert_for,
    is_localhost,
    is_public,
    merge_headers,
    pins_for,
)
from wsplugin.requests import NewConnection
from wsplugin.version import __version__

if TYPE_CHECKING:
    import ssl

    from websockets.proxy import Proxy

    from wsplugin.network.listener import Listener

USER_AGENT: Final = f"wsplugin/{__version__}"
PROXY_AUTHENTICATION_REQUIRED: Final = 407


if TYPE_CHECKING:
    # For the checker alone: a Protocol that is made costs every start half a million instructions.
    class Dialer(Protocol):
        """How names and addresses are reached: the system's way, or a simulation's."""

        async def look_up(self, host: str, port: int) -> list[Address]:
            """Return the addresses of a name; raises ``OSError``."""

        async def connect(self, address: Address) -> socket.socket:
            """Open a TCP connection; raises ``OSError``."""


class SystemDialer:
    """The system's names and sockets."""

    look_up = staticmethod(names.look_up)
    connect = staticmethod(addresses.connect)


if TYPE_CHECKING:

    class Opener(Listener, Protocol):
        """What an attempt needs of its connection, and tells it."""

        target: Target
        options: NewConnection
        read_at: float

        def opened(self, wire: Wire, facts: OpenPayload) -> None:
            """The server has accepted; called before the first message is taken."""


class Phase(enum.Enum):
    """How far an attempt has come."""

    LOOK_UP = enum.auto()
    TCP = enum.auto()
    PROXY = enum.auto()
    """To the proxy: its name, TCP, TLS with it."""
    TUNNEL = enum.auto()
    """Through the proxy to the server."""
    TLS = enum.auto()
    ANSWER = enum.auto()
    """The request is on its way."""


class Failed(Exception):
    """The attempt has failed for a reason that has a name of its own."""

    def __init__(self, payload: ErrorPayload) -> None:
        super().__init__(payload.err_msg)
        self.payload = payload


class Attempt:
    """One attempt; :meth:`run` returns when the connection is open.

    Args:
        opener: the connection.
        dialer: how to get to names and addresses.
        timeout: seconds after which the connection gives the attempt up.

    """

    def __init__(self, opener: "Opener", dialer: "Dialer", timeout: float) -> None:
        self._opener = opener
        self._target = opener.target
        self._settings = opener.settings
        self._dialer = dialer
        self._timeout = timeout
        self._phase = Phase.LOOK_UP
        self._exchange: Exchange | None = None
        # What TLS says of an exception; without TLS it has nothing to say, and is not imported.
        self._describe_tls: Callable[[BaseException], str | None] = lambda exc: None
        self._loop = asyncio.get_running_loop()
        self._milestones = Milestones(opener.read_at, self._loop.time(), time.time())
        options = opener.options
        # Open for what it is used for: its own opening handshake waits for the body of a refusal.
        self._protocol = ClientProtocol(
            parse_uri(self._target.url),
            extensions=[DeflateFactory()] if options.per_message_deflate else None,
            subprotocols=list(map(Subprotocol, options.protocols)) or None,
            state=State.OPEN,
            max_size=None,
            logger=SILENT,
        )

    async def run(self) -> None:
        """Get to the server and perform the opening handshake.

        Raises:
            Exception: whatever :meth:`explain` explains.

        """
        try:
            proxy = proxies.choose(self._target, self._settings)
            if self._target.secure:
                self._server_context()  # before anything else, as it may fail
            if proxy is None:
                sock = await self._connect(self._target.host, self._target.port)
                await self._shake_hands(sock)
            else:
                await self._connect_through(proxy)
            assert self._exchange
            await self._exchange.done
        except BaseException:
            self.abandon()
            self._protocol.parser.close()  # which refers to the protocol in turn
            raise

    def abandon(self) -> None:
        """Cut what there is; nothing is taken any more, be it there to be read already."""
        if self._exchange is not None:
            self._exchange.abandon()

    def release(self) -> None:
        """Let go of what refers to this attempt in turn, when it is over."""
        self._exchange = None

    # --- names and addresses ---

    async def _find(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, as far as the settings let them be connected to."""
        name = host.removesuffix(".")
        if is_localhost(name):
            found = names.loopback(port)
        elif (address := names.literal(name, port)) is not None:
            found = [address]
        else:
            start = self._loop.time()
            found = await self._dialer.look_up(host, port)
            self._milestones.looked_up(start, self._loop.time())
        judged = self._settings.block_private and host == self._target.host
        if judged and not all(is_public(address.host) for address in found):
            raise Failed(ErrorPayload(f"{host} is not public (--block-private)", "forbidden"))
        return found

    async def _connect(self, host: str, port: int) -> socket.socket:
        found = await self._find(host, port)
        if self._phase is Phase.LOOK_UP:
            self._phase = Phase.TCP
        starts: dict[socket.socket, float] = {}

        async def connect(address: Address) -> socket.socket:
            start = self._loop.time()
            sock = await self._dialer.connect(address)
            starts[sock] = start
            return sock

        sock = await addresses.race(found, connect)
        self._milestones.connected(starts[sock])
        return sock

    # --- through a proxy ---

    async def _connect_through(self, proxy: "Proxy") -> None:
        self._phase = Phase.PROXY
        if proxy.scheme.startswith("socks"):
            await self._connect_through_socks(proxy)
        else:
            await self._connect_through_http(proxy)

    async def _connect_through_socks(self, proxy: "Proxy") -> None:
        try:
            from wsplugin.network import socks
        except ImportError:
            raise Failed(
                ErrorPayload(
                    "a SOCKS proxy needs the package python-socks: pip install 'wsplugin[socks]'",
                    "proxy-error",
                )
            ) from None
        host, port = self._target.host, self._target.port
        if not socks.resolves(proxy):
            self._phase = Phase.LOOK_UP
            host = socks.choose(proxy, await self._find(host, port)).host
            self._phase = Phase.PROXY
        sock = await self._connect(proxy.host, proxy.port)
        self._phase = Phase.TUNNEL
        try:
            sock = await socks.tunnel(proxy, sock, host, port, self._timeout)
        except socks.Refused as exc:
            raise Failed(
                ErrorPayload(f"the SOCKS proxy failed to connect: {exc}", "proxy-error")
            ) from None
        await self._shake_hands(sock)

    async def _connect_through_http(self, proxy: "Proxy") -> None:
        from websockets.proxy import prepare_connect_request

        if ":" in (proxy.username or ""):
            raise InvalidProxy("a user-id cannot hold a colon (RFC 7617 section 2)")
        context = self._context(None) if proxy.scheme == "https" else None
        sock = await self._connect(proxy.host, proxy.port)
        responses: list[Response] = []
        tunnel = self._exchange = Exchange(
            prepare_connect_request(proxy, self._protocol.uri, USER_AGENT),
            lambda: self._enter(Phase.TUNNEL),
            responses.append,
        )
        await self._create_transport(sock, tunnel, context, proxy.host)
        await tunnel.done
        (response,) = responses
        if not 200 <= response.status_code < 300:
            words = f"the proxy refused the connection: HTTP {response.status_code}"
            if response.status_code == PROXY_AUTHENTICATION_REQUIRED:
                words += (
                    ", it wants other credentials" if proxy.username else " without credentials"
                )
            raise Failed(ErrorPayload(words, "proxy-error"))
        transport = tunnel.transport
        assert transport
        exchange = self._exchange = self._make_exchange()
        exchange.transport = transport
        transport.set_protocol(exchange)
        if self._target.secure:
            self._phase = Phase.TLS
            secured = await self._loop.start_tls(
                transport,
                exchange,
                self._server_context(),
                server_hostname=self._target.server_name.removesuffix("."),
                ssl_handshake_timeout=self._timeout + 1,
            )
            if secured is None:
                # asyncio's word for a connection that was down before TLS could begin.
                raise ConnectionResetError
            transport = secured
        exchange.connection_made(transport)

    # --- the opening handshake ---

    async def _shake_hands(self, sock: socket.socket) -> None:
        """Send the request as soon as TCP, and TLS where wanted, are up."""
        context = None
        if self._target.secure:
            context = self._server_context()
            self._phase = Phase.TLS
        exchange = self._exchange = self._make_exchange()
        await self._create_transport(sock, exchange, context, self._target.server_name)

    def _make_exchange(self) -> Exchange:
        return Exchange(self._request(), self._server_is_connected, self._take_response)

    def _request(self) -> bytes:
        """Serialize the request of the opening handshake (RFC 6455 section 4.1).

        Not by the library's ``connect()``, which would load :mod:`ipaddress` to find out whether
        the host wants brackets: 1.7 % of all imports.
        """
        protocol = self._protocol
        headers = Headers()
        headers["Host"] = self._target.authority
        headers["Upgrade"] = "websocket"
        headers["Connection"] = "Upgrade"
        headers["Sec-WebSocket-Key"] = protocol.key
        headers["Sec-WebSocket-Version"] = "13"
        if protocol.available_extensions:
            headers["Sec-WebSocket-Extensions"] = build_extension(
                [
                    (offer.name, offer.get_request_params())
                    for offer in protocol.available_extensions
                ]
            )
        if protocol.available_subprotocols:
            headers["Sec-WebSocket-Protocol"] = build_subprotocol(protocol.available_subprotocols)
        options = self._opener.options
        given = merge_headers(options.headers, options.host_headers)
        if not any(name.lower() == "content-type" for name in given):
            headers["content-type"] = "application/json"
        headers.update(given)
        headers.setdefault("User-Agent", USER_AGENT)
        return Request(protocol.uri.resource_name, headers).serialize()

    async def _create_transport(
        self,
        sock: socket.socket,
        exchange: Exchange,
        context: "ssl.SSLContext | None",
        host: str,
    ) -> None:
        secure: dict[str, Any] = {}
        if context is not None:
            secure = {
                "ssl": context,
                "server_hostname": host.removesuffix("."),
                # The connection's own timer comes first: TLS has all of its time.
                "ssl_handshake_timeout": self._timeout + 1,
            }
        await self._loop.create_connection(lambda: exchange, sock=sock, **secure)

    def _server_context(self) -> "ssl.SSLContext":
        return self._context(client_cert_for(self._target.names, self._settings))

    def _context(self, client_cert: str | None) -> "ssl.SSLContext":
        from wsplugin.network import tls

        self._describe_tls = tls.describe
        settings = self._settings
        try:
            return tls.context(settings.ca_file, settings.no_system_ca, client_cert)
        except OSError as exc:
            raise Failed(
                ErrorPayload(f"TLS cannot be set up: {self._describe(exc)}", "tls-error")
            ) from None

    def _enter(self, phase: Phase) -> None:
        self._phase = phase

    def _server_is_connected(self) -> None:
        """Judge the server's key, before the first byte of the request is sent."""
        if self._target.secure and (pins := pins_for(self._target.names, self._settings)):
            from wsplugin.network.tls import check_pins

            assert self._exchange
            assert self._exchange.transport
            check_pins(self._exchange.transport.get_extra_info("ssl_object"), pins)
        self._enter(Phase.ANSWER)
        self._milestones.secured(self._loop.time())

    def _take_response(self, response: Response) -> None:
        if response.status_code != SWITCHING_PROTOCOLS:
            raise Failed(
                ErrorPayload(
                    f"the server refused the connection: HTTP {response.status_code}",
                    "handshake-failed",
                    response.status_code,
                    fields(response.headers),
                )
            )
        exchange = self._exchange
        assert exchange
        assert exchange.transport
        if exchange.version != b"HTTP/1.1":
            raise BadResponse("the response is one of HTTP/1.0")
        self._protocol.process_response(response)
        wire = Wire(self._opener, exchange.transport, self._protocol, paused=exchange.paused)
        try:
            self._opener.opened(wire, self._facts(response))
            self._let_small_ones_wait()
            wire.start(exchange.rest)
        except Exception as exc:  # noqa: BLE001 - the attempt is over, and has nothing to explain
            self._opener.faulted(exc)

    def _facts(self, response: Response) -> OpenPayload:
        extensions = response.headers.get_all("Sec-WebSocket-Extensions")
        return OpenPayload(
            fields(response.headers),
            self._protocol.subprotocol or "",
            ", ".join(extensions) if self._protocol.extensions else "",
            self._milestones.profile(self._loop.time()),
        )

    def _let_small_ones_wait(self) -> None:
        """Let the system gather small messages (RFC 9293 section 3.7.4), if that is wanted."""
        if self._opener.options.tcp_no_delay or not (self._exchange and self._exchange.transport):
            return
        sock = self._exchange.transport.get_extra_info("socket")
        if sock is not None:  # in a simulation there is none
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)

    # --- how it failed ---

    def explain(self, exc: BaseException) -> ErrorPayload | None:
        """Say in the contract's words why :meth:`run` has failed; None for a fault of the plugin.

        Of the network, of servers and of proxies comes nothing else than these.
        """
        if not isinstance(exc, OSError | Failed | BadResponse | InvalidHandshake | InvalidProxy):
            return None
        where = f"{self._target.host}:{self._target.port}"
        if isinstance(exc, Failed):
            return exc.payload
        if isinstance(exc, InvalidProxy):
            return ErrorPayload(f"the proxy's URL is not valid: {exc}", "proxy-error")
        handshake = f"the opening handshake with {where} failed"
        match self._phase:
            case Phase.LOOK_UP | Phase.TCP:
                return ErrorPayload(
                    f"cannot connect to {where}: {self._describe(exc)}", "network-error"
                )
            case Phase.PROXY:
                return ErrorPayload(
                    f"cannot connect to the proxy: {self._describe(exc)}", "proxy-error"
                )
            case Phase.TUNNEL:
                return ErrorPayload("the proxy failed to connect", "proxy-error")
            case Phase.TLS:
                return ErrorPayload(f"TLS with {where} failed: {self._describe(exc)}", "tls-error")
            case Phase.ANSWER if self._describe_tls(exc) is not None:
                # TLS 1.3 tells the client after its handshake that the server wants a certificate
                # of it.
                return ErrorPayload(f"TLS with {where} failed: {self._describe(exc)}", "tls-error")
            case Phase.ANSWER:
                refusal = self._describe_refusal(exc)
                if refusal is not None:
                    return ErrorPayload(f"{handshake}: {refusal}", "handshake-failed")
                return ErrorPayload(f"{handshake}: {self._describe(exc)}", "network-error")

    def _describe_refusal(self, exc: BaseException) -> str | None:
        """Say what is wrong with the server's response, if there is one."""
        match exc:
            case BadResponse():
                return str(exc)
            case InvalidHeader():
                return f"the response's {exc.name} header is missing or wrong"
            case NegotiationError():
                return "the response has an extension or subprotocol that was not offered"
            case InvalidHandshake():
                return "the response is not one of HTTP"
            case EndOfStream() if self._exchange is not None and self._exchange.answered:
                return "the response has ended within its head"
            case _:
                return None

    def _describe(self, exc: BaseException) -> str:
        """Put an exception of the network in a few words."""
        if (of_tls := self._describe_tls(exc)) is not None:
            return of_tls
        match exc:
            case addresses.AllFailed():
                return ", ".join(dict.fromkeys(map(self._describe, exc.reasons)))
            case socket.gaierror():
                return exc.strerror or "name not found"
            case EndOfStream():
                return "ended without an answer"
            case OSError() if exc.errno:
                return describe(exc)
            case names.LookUpRefused():
                return str(exc)
            case ConnectionError() | TimeoutError():
                return "the connection was lost"
            case _:
                return type(exc).__name__
