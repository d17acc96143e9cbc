"""Names of hosts, in the one form in which they are judged and compared.

Of settings and policy both: what ``--allow-host`` names and what a URL names are the same host
only if both went through here.
"""

import re
import socket
from typing import Final

# RFC 1035 section 2.3.4, as text and without a trailing dot.
MAX_HOST: Final = 253
MAX_LABEL: Final = 63

# What IDNA takes for the dot between labels (RFC 3490 section 3.1).
_DOTS = "[.\u3002\uff0e\uff61]"
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def normalize_host(host: str, *, bracketed: bool) -> tuple[str, str | None]:
    """Return the host as it will be looked up, and the address if it is one.

    Names are brought to ASCII first: IDNA maps full-width digits and dots to plain ones, so that
    what looks like a name can be an address.

    Args:
        host: in lower case as far as it is ASCII, without brackets.
        bracketed: whether it stood in brackets, as an IPv6 address does.

    Raises:
        ValueError: it is neither a name nor an address. The message never repeats it.

    """
    if len(host) > MAX_HOST + bool(re.match(_DOTS, host[-1:])):
        raise ValueError(f"the host is longer than {MAX_HOST} characters")
    if bracketed:
        try:
            address = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host))
        except (OSError, ValueError):
            raise ValueError("not a valid IPv6 address") from None
        return address, address
    if not host.isascii():
        host = _to_ascii(host)
    name = host.removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a valid host name")
    if not _NUMBER.fullmatch(labels[-1]):
        return host, None
    # The resolver takes 0x7f.1 and 2130706433 for addresses, so they are judged as such.
    try:
        address = socket.inet_ntoa(socket.inet_aton(name))
    except OSError:
        raise ValueError("not a valid IPv4 address") from None
    return address, address


def _to_ascii(host: str) -> str:
    """Write an international name as domain names are looked up (IDNA 2003, RFC 3490)."""
    from encodings.idna import nameprep
    from unicodedata import normalize

    # Before the codec, which takes a time that grows with the square of a label's length. One
    # character may stand for eighteen; of those given no more than all can have no meaning.
    if len(normalize("NFKC", host)) > 2 * MAX_HOST:
        raise ValueError(f"the host is longer than {MAX_HOST} characters")
    try:
        if any(len(nameprep(label)) > MAX_LABEL for label in re.split(_DOTS, host)):
            raise ValueError(f"a label of the host is longer than {MAX_LABEL} characters")
        return host.encode("idna").decode().lower()
    except UnicodeError:
        raise ValueError("not a valid international host name") from None


def parse_host_pattern(pattern: str) -> str:
    """Check and normalise a value of ``--allow-host``: a host name, an address, or ``*.domain``.

    Raises:
        ValueError: it is neither.

    """
    domain = pattern.removeprefix("*.").lower()
    bracketed = domain.startswith("[") and domain.endswith("]")
    host, address = normalize_host(
        domain[1:-1] if bracketed else domain, bracketed=bracketed or ":" in domain
    )
    if pattern.startswith("*.") and address:
        raise ValueError("an address has no subdomains")
    return ("*." if pattern.startswith("*.") else "") + host.removesuffix(".")
