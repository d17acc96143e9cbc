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

# What IDNA 2003 takes for another domain than UTS 46: the four that UTS 46 calls deviations, ẞ,
# which it maps to one of them, fillers, Cherokee, whose capitals are now the one form, and five
# ideographs whose decomposition was wrong (Unicode's Corrigendum 4).
# Compiled with the first international name, since most sessions have none and all have a start.
_CHANGED = (
    "[\u00df\u1e9e\u03c2\u200c\u200d\u115f\u1160\u17b4\u17b5\u3164\uffa0\u13a0-\u13f4"
    "\U0002f868\U0002f874\U0002f91f\U0002f95f\U0002f9bf]"
)


def normalize_host(host: str, *, bracketed: bool) -> tuple[str, str | None]:
    """Return the host as it will be looked up, and the address if it is one.

    Names are brought to ASCII first: IDNA maps full-width digits and dots to plain ones, so that
    what looks like a name can be an address.

    Args:
        host: without brackets.
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
    # Not lower() alone: at the end of a word it makes another sigma of one than UTS 46 does.
    host = host.lower() if host.isascii() else _to_ascii(host)
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
    """Write an international name as domain names are looked up.

    By UTS 46, non-transitional, as browsers do, with the checks of IDNA 2008, where the package
    ``idna`` is installed; else by IDNA 2003, unless that would mean another domain.
    """
    from unicodedata import normalize

    # Before all that takes a time that grows with the square of a label's length. One character
    # may stand for eighteen; of those given no more than all can have no meaning.
    if len(normalize("NFKC", host)) > 2 * MAX_HOST:
        raise ValueError(f"the host is longer than {MAX_HOST} characters")
    try:
        import idna
    except ImportError:
        return _to_ascii_by_idna_2003(host)
    try:
        # Not idna.encode(), which refuses "_" in a label of ASCII, where a name without
        # international labels may have it.
        labels = re.split(_DOTS, idna.uts46_remap(host, std3_rules=False, transitional=False))
        _check_labels(labels)
        return ".".join(
            label if label.isascii() else idna.alabel(label).decode() for label in labels
        )
    except UnicodeError:
        raise ValueError("not a valid international host name") from None


def _to_ascii_by_idna_2003(host: str) -> str:
    """Write an international name by the standard library's rules (RFC 3490), which are old."""
    from encodings.idna import nameprep
    from unicodedata import ucd_3_2_0

    if re.search(_CHANGED, host) or any(ucd_3_2_0.category(each) == "Cn" for each in host):
        raise ValueError(
            "this international host name needs the package idna: pip install 'wsplugin[idn]'"
        )
    try:
        _check_labels([nameprep(label) for label in re.split(_DOTS, host)])
        return host.encode("idna").decode().lower()
    except UnicodeError:
        raise ValueError("not a valid international host name") from None


def _check_labels(labels: list[str]) -> None:
    # ASCII is never shorter.
    if any(len(label) > MAX_LABEL for label in labels):
        raise ValueError(f"a label of the host is longer than {MAX_LABEL} characters")


def parse_host_pattern(pattern: str) -> str:
    """Check and normalise a value of ``--allow-host``: a host name, an address, or ``*.domain``.

    Raises:
        ValueError: it is neither.

    """
    domain = pattern.removeprefix("*.")
    bracketed = domain.startswith("[") and domain.endswith("]")
    host, address = normalize_host(
        domain[1:-1] if bracketed else domain, bracketed=bracketed or ":" in domain
    )
    if pattern.startswith("*.") and address:
        raise ValueError("an address has no subdomains")
    return ("*." if pattern.startswith("*.") else "") + host.removesuffix(".")
