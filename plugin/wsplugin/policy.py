"""Which URL, address, header, subprotocol and Close frame may pass: functions on plain values.

What is wrong in itself is ``invalid-payload``; what the host's options refuse is ``forbidden``.
"""

import re
import socket
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from wsplugin.encoding import encode
from wsplugin.messages import TOKEN_PATTERN, RequestError, shorten
from wsplugin.settings import Settings

DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
# RFC 1035 section 2.3.4, as text and without a trailing dot.
MAX_HOST: Final = 253
MAX_LABEL: Final = 63

_TOKEN = re.compile(TOKEN_PATTERN)
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# Headers of the opening handshake itself, and the one that the specification withholds.
_OWN_HEADERS: Final = {
    "referer",
    "host",
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
}


# What IDNA takes for the dot between labels (RFC 3490 section 3.1).
_DOTS = "[.\u3002\uff0e\uff61]"

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

    @property
    def is_loopback(self) -> bool:
        """Whether the host can be none but this machine, without asking a name server."""
        if self.address is None:
            return self.host.removesuffix(".") == "localhost"
        return is_loopback(self.address)


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
    place = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::([0-9]*))?", authority, re.ASCII)
    if place is None:
        raise _invalid_url("not a valid host and port")
    brackets, name, digits = place.groups()
    if not (brackets or name):
        raise _invalid_url("the host is missing")
    # No more digits than tell that it is too large: int() refuses thousands in its own words.
    port = int(digits.lstrip("0")[:6] or "0") if digits else DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65_535:
        raise _invalid_url("the port must be 1 to 65535")
    host, address = _normalize_host((brackets or name).lower(), bracketed=bool(brackets))
    authority = f"[{host}]" if ":" in host else host
    if port != DEFAULT_PORTS[scheme]:
        authority += f":{port}"
    path = urllib.parse.quote(slash + path, safe=_URL_CHARACTERS) or "/"
    query = urllib.parse.quote(query, safe=_URL_CHARACTERS)
    normal = f"{scheme}://{authority}{path}{'?' + query if query else ''}"
    return Target(normal, scheme == "wss", host, port, address)


def _invalid_url(why: str) -> RequestError:
    return RequestError("invalid-payload", f"payload.url: {why}")


def _normalize_host(host: str, *, bracketed: bool) -> tuple[str, str | None]:
    """Return the host as it will be looked up, and the address if it is one.

    Names are brought to ASCII first: IDNA maps full-width digits and dots to plain ones, so that
    what looks like a name can be an address.
    """
    if len(host) > MAX_HOST + bool(re.match(_DOTS, host[-1:])):
        raise _invalid_url(f"the host is longer than {MAX_HOST} characters")
    if bracketed:
        try:
            address = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host))
        except (OSError, ValueError):
            raise _invalid_url("not a valid IPv6 address") from None
        return address, address
    if not host.isascii():
        host = _to_ascii(host)
    name = host.removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid_url("not a valid host name")
    if not _NUMBER.fullmatch(labels[-1]):
        return host, None
    # The resolver takes 0x7f.1 and 2130706433 for addresses, so they are judged as such.
    try:
        address = socket.inet_ntoa(socket.inet_aton(name))
    except OSError:
        raise _invalid_url("not a valid IPv4 address") from None
    return address, address


def _to_ascii(host: str) -> str:
    """Write an international name as domain names are looked up (IDNA 2003, RFC 3490)."""
    from encodings.idna import nameprep
    from unicodedata import normalize

    # Before the codec, which takes a time that grows with the square of a label's length. One
    # character may stand for eighteen; of those given no more than all can have no meaning.
    if len(normalize("NFKC", host)) > 2 * MAX_HOST:
        raise _invalid_url(f"the host is longer than {MAX_HOST} characters")
    try:
        if any(len(nameprep(label)) > MAX_LABEL for label in re.split(_DOTS, host)):
            raise _invalid_url(f"a label of the host is longer than {MAX_LABEL} characters")
        return host.encode("idna").decode().lower()
    except UnicodeError:
        raise _invalid_url("not a valid international host name") from None


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
    if not target.secure and not target.is_loopback and not settings.allow_insecure:
        raise RequestError(
            "forbidden", "plain ws:// beyond loopback hosts needs --allow-insecure; use wss://"
        )
    if settings.block_private and target.address and not is_public(target.address):
        raise RequestError("forbidden", "the address is not public (--block-private)")


def parse_host_pattern(pattern: str) -> str:
    """Check and normalise a value of ``--allow-host``: a host name, an address, or ``*.domain``.

    Raises:
        ValueError: it is neither.

    """
    domain = pattern.removeprefix("*.").lower()
    bracketed = domain.startswith("[") and domain.endswith("]")
    try:
        host, address = _normalize_host(
            domain[1:-1] if bracketed else domain, bracketed=bracketed or ":" in domain
        )
    except RequestError as exc:
        raise ValueError(exc.message.removeprefix("payload.url: ")) from None
    if pattern.startswith("*.") and address:
        raise ValueError("an address has no subdomains")
    return ("*." if pattern.startswith("*.") else "") + host.removesuffix(".")


def matches_host(host: str, pattern: str) -> bool:
    """Tell whether a normalised host is meant by a normalised pattern."""
    host = host.removesuffix(".")
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def check_headers(headers: Mapping[str, str]) -> None:
    """Check the headers that an app adds to the opening handshake.

    Raises:
        RequestError: ``invalid-payload``, naming the header, never repeating its value.

    """
    seen: set[str] = set()
    for name, value in headers.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            why = "the name is not an HTTP token"
        elif lower in _OWN_HEADERS or lower.startswith("sec-websocket-"):
            why = "this header cannot be set"
        elif lower in seen:
            why = "the name is given twice (case does not matter)"
        elif re.search(r"[^ -~\xa0-\xff]", value):
            why = "the value must be Latin-1 without control characters"
        else:
            seen.add(lower)
            continue
        raise RequestError(
            "invalid-payload", f"payload.headers[{encode(shorten(name)).decode()}]: {why}"
        )


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
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise RequestError(
            "invalid-payload",
            "payload.code: an endpoint may send 1000-1003, 1007-1014 and 3000-4999",
        )
    if len(reason.encode()) > 123:
        raise RequestError("invalid-payload", "payload.reason: longer than 123 bytes of UTF-8")
