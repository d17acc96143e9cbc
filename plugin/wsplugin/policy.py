"""Which URL, address, header, subprotocol and Close frame may pass: functions on plain values.

What is wrong in itself is ``invalid-payload``; what the host's options refuse is ``forbidden``.
"""

import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from wsplugin.encoding import encode
from wsplugin.hosts import normalize_host
from wsplugin.hosts import parse_host_pattern as parse_host_pattern
from wsplugin.messages import MAX_HEADERS, NO_CODE, RequestError, RequestErrorCode, shorten
from wsplugin.requests import TOKEN_PATTERN, too_many_headers
from wsplugin.settings import Settings

DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}

_TOKEN = re.compile(TOKEN_PATTERN)

# Headers of the opening handshake itself, of its body, which it has not, and of proxies.
_OWN_HEADERS: Final = {
    *("connection", "upgrade", "content-length", "transfer-encoding"),
    *("expect", "te", "trailer", "keep-alive"),
}
_OWN_BEGINNINGS: Final = ("proxy-", "sec-websocket-")
# What the host may set, and an app may not.
_HOSTS_HEADERS: Final = ("referer", "host")

# RFC 3986 section 2.2, and "%": what has been escaped already is not escaped again.
_URL_CHARACTERS: Final = "%:/?#[]@!$&'()*+,;="


class Target(NamedTuple):
    """A URL that has been checked, in the one form in which it is judged and connected to."""

    url: str
    """All ASCII: the host as IDNA, path and query percent-encoded."""
    secure: bool
    host: str
    """Lower case, without brackets; a trailing dot is kept."""
    port: int
    address: str | None
    """The IP address, in canonical form, if the host is one, however it was written."""
    authority: str
    """What the header ``Host`` says: of the URL, unless the host has given another."""
    server_name: str
    """The host of `authority`, for SNI and the certificate."""

    @property
    def is_loopback(self) -> bool:
        """Whether the host can be none but this machine, without asking a name server."""
        if self.address is None:
            return is_localhost(self.host)
        return is_loopback(self.address)

    @property
    def names(self) -> tuple[str, ...]:
        """What ``--pin`` and ``--client-cert`` know the server by."""
        return (self.host, self.server_name)


def parse_url(url: str) -> Target:
    """Check and normalise the URL of a server (RFC 6455 section 3).

    Raises:
        RequestError: ``invalid-payload``. The message never repeats the URL, which may hold
            secrets.

    """
    if re.search(r"[\x00-\x20\x7f-\xa0\s]", url):
        raise _invalid_url("control characters and blanks are not allowed")
    if "#" in url:
        raise _invalid_url("a fragment is not allowed")
    # Not urllib.parse.urlsplit(), which normalises the authority, in a time that grows with the
    # square of its length, before there is a host whose length could be looked at.
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS:
        raise _invalid_url("the scheme must be ws or wss, and :// behind it")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise _invalid_url(
            "user information is not allowed: give credentials in an Authorization header"
        )
    try:
        host, address, port = _parse_authority(authority, DEFAULT_PORTS[scheme])
    except ValueError as exc:
        raise _invalid_url(str(exc)) from None
    authority = f"[{host}]" if ":" in host else host
    if port != DEFAULT_PORTS[scheme]:
        authority += f":{port}"
    path = urllib.parse.quote(slash + path, safe=_URL_CHARACTERS) or "/"
    query = urllib.parse.quote(query, safe=_URL_CHARACTERS)
    normal = f"{scheme}://{authority}{path}{'?' + query if query else ''}"
    return Target(normal, scheme == "wss", host, port, address, authority, host)


def _parse_authority(authority: str, default_port: int) -> tuple[str, str | None, int]:
    """Return host, address if it is one, and port (RFC 3986 section 3.2).

    Raises:
        ValueError: it is not valid. The message never repeats it.

    """
    place = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::([0-9]*))?", authority, re.ASCII)
    if place is None:
        raise ValueError("not a valid host and port")
    brackets, name, digits = place.groups()
    if not (brackets or name):
        raise ValueError("the host is missing")
    # No more digits than tell that it is too large: int() refuses thousands in its own words.
    port = int(digits.lstrip("0")[:6] or "0") if digits else default_port
    if not 1 <= port <= 65_535:
        raise ValueError("the port must be 1 to 65535")
    host, address = normalize_host(brackets or name, bracketed=bool(brackets))
    return host, address, port


def _invalid_url(why: str) -> RequestError:
    return RequestError("invalid-payload", f"payload.url: {why}")


def is_localhost(host: str) -> bool:
    """Tell whether a name means this machine, whatever name servers say (RFC 6761 section 6.3)."""
    name = host.removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


def is_loopback(address: str) -> bool:
    """Tell whether an IP address is one of this machine's loopback addresses."""
    return address.removeprefix("::ffff:").startswith("127.") or address == "::1"


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public Internet, for ``--block-private``.

    An address that stands for an IPv4 address (mapped, NAT64, 6to4) is judged by that one.
    """
    import ipaddress

    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        # Deprecated, and for documentation (RFC 9637): Python knows neither as not global.
        if ip.is_site_local or ip in ipaddress.ip_network("3fff::/20"):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def check_policy(target: Target, settings: Settings) -> None:
    """Hold a URL against the options of the host.

    Raises:
        RequestError: ``forbidden``, naming the option.

    """
    if settings.allow_hosts and not any(
        matches_host(target.host, pattern) for pattern in settings.allow_hosts
    ):
        raise RequestError("forbidden", "the host is not among those of --allow-host")
    # First, since no other option lets this through.
    if not target.secure and (option := _named_by(target.names, settings)):
        raise RequestError(
            "forbidden", f"plain ws:// to a host that {option} names is refused; use wss://"
        )
    if not target.secure and not target.is_loopback and not settings.allow_insecure:
        raise RequestError(
            "forbidden", "plain ws:// beyond loopback hosts needs --allow-insecure; use wss://"
        )
    if settings.block_private and target.address and not is_public(target.address):
        raise RequestError("forbidden", "the address is not public (--block-private)")


def matches_host(host: str, pattern: str) -> bool:
    """Tell whether a normalised host is meant by a normalised pattern."""
    host = host.removesuffix(".")
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def client_cert_for(names: Iterable[str], settings: Settings) -> str | None:
    """Return the file of the client certificate that a server is shown; the first match counts.

    Args:
        names: what the server is known by, normalised; one that matches is enough.
        settings: the options of the host.

    """
    names = tuple(names)
    for each in settings.client_certs:
        if "=" not in each:
            return each
        for file in _meant(names, [each]):
            return file
    return None


def pins_for(names: Iterable[str], settings: Settings) -> frozenset[str]:
    """Return the public keys, each ``sha256/BASE64``, of which a server must have one.

    None at all means that it may have any.

    Args:
        names: what the server is known by, normalised; those of all that match count.
        settings: the options of the host.

    """
    return frozenset(_meant(tuple(names), settings.pins))


def _named_by(names: tuple[str, ...], settings: Settings) -> str | None:
    """Return the option that wants TLS for a server."""
    for option, values in (("--pin", settings.pins), ("--client-cert", settings.client_certs)):
        for _ in _meant(names, values):
            return option
    return None


def _meant(names: tuple[str, ...], values: Iterable[str]) -> Iterator[str]:
    """Yield what stands behind those of ``PATTERN=…`` that mean one of these hosts, in order."""
    for each in values:
        pattern, separator, value = each.partition("=")
        # A client certificate for all is a file alone, which may have the name of a host.
        if separator and any(matches_host(name, pattern) for name in names):
            yield value


def check_headers(headers: Mapping[str, str], host_headers: Mapping[str, str]) -> None:
    """Check the headers that an app, and the host itself, add to the opening handshake.

    Raises:
        RequestError: ``invalid-payload`` for the app's, ``invalid-request`` for the host's, naming
            the header, never repeating its value.

    """
    _check_fields(headers, "payload.headers", "invalid-payload", forbidden=_HOSTS_HEADERS)
    _check_fields(host_headers, "headers", "invalid-request", forbidden=())
    if len(headers) + len(host_headers) > MAX_HEADERS:
        raise too_many_headers("headers")


def _check_fields(
    headers: Mapping[str, str], path: str, code: RequestErrorCode, *, forbidden: Iterable[str]
) -> None:
    seen: set[str] = set()
    for name, value in headers.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            why = "the name is not an HTTP token"
        elif lower in _OWN_HEADERS or lower in forbidden or lower.startswith(_OWN_BEGINNINGS):
            why = "this header cannot be set"
        elif lower in seen:
            why = "the name is given twice (case does not matter)"
        elif re.search(r"[^ -~\xa0-\xff]", value):
            why = "the value must be Latin-1 without control characters"
        else:
            seen.add(lower)
            continue
        raise RequestError(code, f"{path}[{encode(shorten(name)).decode()}]: {why}")


def with_host_header(target: Target, host_headers: Mapping[str, str]) -> Target:
    """Return where to connect to, going by the name that the host has given, if it has.

    Raises:
        RequestError: ``invalid-request``; its ``Host`` is no host with an optional port.

    """
    for name, value in host_headers.items():
        if name.lower() == "host":
            try:
                host, _, _ = _parse_authority(value, target.port)
            except ValueError as exc:
                raise RequestError("invalid-request", f'headers["{name}"]: {exc}') from None
            port = re.search(r":[0-9]+$", value)
            authority = f"[{host}]" if ":" in host else host
            return target._replace(
                authority=authority + (port[0] if port else ""), server_name=host
            )
    return target


def merge_headers(headers: Mapping[str, str], host_headers: Mapping[str, str]) -> dict[str, str]:
    """Return what to add: the host's in place of the app's of the same name, but ``Host``."""
    given = {name.lower() for name in host_headers}
    merged = {name: value for name, value in headers.items() if name.lower() not in given}
    return merged | {n: value for n, value in host_headers.items() if n.lower() != "host"}


def check_protocols(protocols: Iterable[str]) -> None:
    """Check the subprotocols offered: distinct tokens (RFC 6455 section 4.1).

    Raises:
        RequestError: ``invalid-payload``, naming the element.

    """
    seen: set[str] = set()
    for index, protocol in enumerate(protocols):
        if not _TOKEN.fullmatch(protocol):
            raise RequestError("invalid-payload", f"payload.protocols[{index}]: not an HTTP token")
        if protocol in seen:
            raise RequestError("invalid-payload", f"payload.protocols[{index}]: given twice")
        seen.add(protocol)


def check_close(code: int, reason: str) -> None:
    """Check what a Close frame would say (RFC 6455 sections 5.5.1 and 7.4).

    Raises:
        RequestError: ``invalid-payload``.

    """
    if code == NO_CODE and reason:
        raise RequestError(
            "invalid-payload", "payload.reason: a Close frame without a code (1005) has none"
        )
    if not (
        1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999 or code == NO_CODE
    ):
        raise RequestError(
            "invalid-payload",
            "payload.code: an endpoint may send 1000-1003, 1007-1014 and 3000-4999, "
            "and 1005 stands for none",
        )
    if len(reason.encode()) > 123:
        raise RequestError("invalid-payload", "payload.reason: longer than 123 bytes of UTF-8")
