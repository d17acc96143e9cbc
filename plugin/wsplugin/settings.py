"""What the host decides: limits, timeouts, network policy.

Plain values, checked and brought to one form where they are made, so that whoever has settings
has good ones, from the command line or from a program.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct
from msgspec.structs import force_setattr

from wsplugin.hosts import parse_host_pattern
from wsplugin.messages import ACTIONS, FEATURES, PROTOCOL, Description, Limits
from wsplugin.version import __version__

if TYPE_CHECKING:
    from types import ModuleType

MIB: Final = 2**20

# plugin-describe tells the limits, and JavaScript reads no larger number exactly.
MOST: Final = 2**53 - 1
PING_TIMEOUT: Final = 20
LONGEST: Final = 1_000_000_000


class Settings(Struct, frozen=True, kw_only=True):
    """Options of the plugin with their defaults; sizes in bytes, times in seconds.

    Raises:
        ValueError: one of them is wrong; the message begins with its name and a colon.

    """

    max_connections: int = 5
    open_timeout: float = 10
    close_timeout: float = 10
    ping_interval: float = 20
    ping_timeout: float = PING_TIMEOUT
    max_message_size: int = 16 * MIB
    max_line: int = 64 * MIB
    max_send_buffer: int = 16 * MIB
    allow_hosts: tuple[str, ...] = ()
    """Each a host name, an address, or ``*.`` and a domain; none allows all."""
    allow_insecure: bool = False
    block_private: bool = False
    ca_file: str | None = None
    no_system_ca: bool = False
    """Whether to trust ``ca_file`` alone, which is needed then."""
    client_certs: tuple[str, ...] = ()
    """Each a PEM file with certificate chain and key, behind ``PATTERN=`` or, with
    ``allow_hosts``, alone; the first that matches a server is shown to it."""
    pins: tuple[str, ...] = ()
    """Each ``PATTERN=sha256/BASE64``: a public key that a server must have one of."""
    proxy: str | None = None
    """URL of the proxy, or ``"none"``; None takes the system's."""
    linger: float = 0
    at_limit: Literal["evict", "refuse"] = "evict"
    """What becomes of one connection too many: the oldest ends, or the new one is refused."""
    exit_timeout: float | None = None
    """From the end of stdin to the end of the session, at most; None for as long as it takes."""

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            try:
                force_setattr(self, name, check(getattr(self, name)))
            except ValueError as exc:
                raise ValueError(f"{name}: {exc}") from None
        if self.no_system_ca and self.ca_file is None:
            raise ValueError("no_system_ca: nothing would be trusted without --ca-file (ca_file)")
        if not self.allow_hosts and any("=" not in each for each in self.client_certs):
            raise ValueError(
                "client_certs: one without PATTERN= needs --allow-host (allow_hosts), or it could "
                "be shown to any server"
            )

    def describe(self) -> Description:
        """Return what the plugin says of itself with these settings."""
        return Description(
            name="wsplugin",
            version=__version__,
            protocol=PROTOCOL,
            actions=ACTIONS,
            features=FEATURES,
            limits=Limits(
                max_connections=self.max_connections,
                max_message_size=self.max_message_size,
                max_line=self.max_line,
                max_send_buffer=self.max_send_buffer,
                open_timeout=round(self.open_timeout * 1000),
                close_timeout=round(self.close_timeout * 1000),
            ),
        )


def _whole(value: Any) -> int:
    # A bool is an int to Python, and max_connections=True no number of connections.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise ValueError(f"expected a whole number from 1 to {MOST}")
    return value


def _seconds(value: Any) -> float:
    # Not the other way round: whatever NaN is compared with, the answer is no.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST:
        return value
    raise ValueError(f"expected a number of seconds from 0 to {LONGEST}")


def _some_seconds(value: Any) -> float:
    if not (seconds := _seconds(value)):
        raise ValueError("expected more than 0 seconds")
    return seconds


def _some_seconds_or_none(value: Any) -> float | None:
    return None if value is None else _some_seconds(value)


def _flag(value: Any) -> bool:
    # "no" would count as yes.
    if not isinstance(value, bool):
        raise ValueError("expected True or False")
    return value


def _at_limit(value: Any) -> str:
    if value not in ("evict", "refuse"):
        raise ValueError("expected evict or refuse")
    return str(value)


def _host_patterns(value: Any) -> tuple[str, ...]:
    return tuple(map(_host_pattern, _strings(value, "host names")))


def _strings(value: Any, what: str) -> tuple[str, ...]:
    # A string is a sequence of strings as well, but "a.b" is not meant to allow "a" and "b".
    if not isinstance(value, tuple | list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"expected a tuple of {what}")
    return tuple(value)


def _host_pattern(value: str) -> str:
    try:
        return parse_host_pattern(value)
    except ValueError as exc:
        raise ValueError(f"expected a host name, or *. and a domain: {exc}") from None


def _ca_file(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("expected the name of a file")
    _tls().check_ca_file(value)
    return value


def _tls() -> "ModuleType":
    try:
        import wsplugin.network.tls as tls
    except ImportError:
        raise ValueError("this Python was built without TLS") from None
    return tls


def _client_certs(value: Any) -> tuple[str, ...]:
    normal = []
    for each in _strings(value, "names of files, with or without PATTERN="):
        pattern, separator, file = each.partition("=")
        if separator:
            normal.append(f"{_host_pattern(pattern)}={file}")
        else:
            normal.append(file := each)
        _tls().check_client_cert(file)
    return tuple(normal)


def _pins(value: Any) -> tuple[str, ...]:
    normal = []
    for each in _strings(value, "PATTERN=sha256/BASE64"):
        pattern, _, pin = each.partition("=")
        # Of the last of 43 characters only four bits are used: another one is a slip.
        if not re.fullmatch(r"sha256/[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", pin):
            raise ValueError("expected PATTERN=sha256/ and a SHA-256 in base64, 44 characters")
        normal.append(f"{_host_pattern(pattern)}={pin}")
    return tuple(normal)


def _proxy(value: Any) -> str | None:
    if value is None:
        return None
    # The parser strips blanks, and others would read another URL than it.
    if isinstance(value, str) and not re.search(r"[\x00-\x20\x7f]", value):
        if value.lower() == "none":
            return "none"
        from wsplugin.network.proxy_url import InvalidProxy, parse

        try:
            parse(value)
        except InvalidProxy:
            pass  # what it may be is said below, once for all
        else:
            scheme, separator, rest = value.partition("://")
            return f"{scheme.lower()}{separator}{rest}"
    raise ValueError("expected none or a URL with http, https, socks4, socks4a, socks5 or socks5h")


CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    "max_connections": _whole,
    "open_timeout": _some_seconds,
    "close_timeout": _some_seconds,
    "ping_interval": _seconds,
    "ping_timeout": _seconds,
    "max_message_size": _whole,
    "max_line": _whole,
    "max_send_buffer": _whole,
    "allow_hosts": _host_patterns,
    "allow_insecure": _flag,
    "block_private": _flag,
    "ca_file": _ca_file,
    "no_system_ca": _flag,
    "client_certs": _client_certs,
    "pins": _pins,
    "proxy": _proxy,
    "linger": _seconds,
    "at_limit": _at_limit,
    "exit_timeout": _some_seconds_or_none,
}
"""What brings each field to its one form, or says in words why it cannot be; by name."""
