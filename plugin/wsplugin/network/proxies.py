"""Which proxy is used for a server: the host's choice, else the system's, read as curl reads it.

No name is looked up here: ``urllib``'s rules for exceptions do, on the event loop, on macOS and
Windows.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from wsplugin.network.proxy_url import parse
from wsplugin.policy import Target
from wsplugin.settings import Settings

if TYPE_CHECKING:
    from websockets.proxy import Proxy


def choose(target: Target, settings: Settings) -> "Proxy | None":
    """Return the proxy to use, or None for none.

    Raises:
        InvalidProxy: the environment's is none.

    """
    if target.is_loopback or settings.proxy == "none":
        return None
    if settings.proxy is not None:
        return parse(settings.proxy)
    url = from_environment(target, os.environ) or _from_system(target)
    return parse(url) if url else None


def from_environment(target: Target, environment: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy that environment variables name for a server, if they do.

    The first that is set and not empty counts, in lower case before upper case; ``HTTP_PROXY``,
    too, since no CGI starts this process.
    """

    def value(name: str) -> str:
        return environment.get(name, "").strip() or environment.get(name.upper(), "").strip()

    names = ("wss_proxy", "https_proxy") if target.secure else ("ws_proxy", "http_proxy")
    for name in (*names, "all_proxy"):
        if url := value(name):
            return None if is_exempt(target, value("no_proxy")) else url
    return None


def is_exempt(target: Target, exceptions: str) -> bool:
    """Tell whether ``no_proxy`` means a server: names, addresses, CIDR blocks, or ``*``."""
    for entry in re.split(r"[\s,]+", exceptions):
        if entry == "*":
            return True
        bracketed = re.fullmatch(r"\[([^]]*)\](?::(\d+))?", entry)
        plain = re.fullmatch(r"([^:]*):(\d+)", entry)
        name, port = match.groups() if (match := bracketed or plain) else (entry, None)
        if name and (port is None or int(port) == target.port) and _means(name, target):
            return True
    return False


def _means(name: str, target: Target) -> bool:
    if target.address is not None:
        import ipaddress

        try:
            block = ipaddress.ip_network(name, strict=False)
        except ValueError:
            return False
        return ipaddress.ip_address(target.address) in block
    name = name.lower().strip(".")
    host = target.host.removesuffix(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


# What macOS and Windows have in their own settings; elsewhere there are none. Written against their
# documentation and urllib's code.
if sys.platform == "darwin":

    def _from_system(target: Target) -> str | None:
        from _scproxy import _get_proxy_settings
        from urllib.request import getproxies_macosx_sysconf

        settings = _get_proxy_settings()
        exceptions = [str(pattern) for pattern in settings.get("exceptions", ())]
        if _is_exempt_in(target, exceptions, simple=bool(settings.get("exclude_simple"))):
            return None
        return _of(target, getproxies_macosx_sysconf())

elif sys.platform == "win32":

    def _from_system(target: Target) -> str | None:
        import winreg
        from urllib.request import getproxies_registry

        path = r"Software\Microsoft\Windows\CurrentVersion\Internet Settings"
        try:
            with winreg.OpenKey(winreg.HKEY_CURRENT_USER, path) as key:
                exceptions = str(winreg.QueryValueEx(key, "ProxyOverride")[0]).split(";")
        except OSError:
            exceptions = []  # the value is only there if there are some
        if _is_exempt_in(target, exceptions, simple="<local>" in exceptions):
            return None
        return _of(target, getproxies_registry())

else:

    def _from_system(target: Target) -> str | None:
        return None


def _of(target: Target, proxies: Mapping[str, str]) -> str | None:
    """Return the proxy for a server among those by scheme, as urllib names them."""
    if url := proxies.get("https" if target.secure else "http"):
        return url
    return proxies.get("socks", "").replace("http://", "socks5h://") or None


def _is_exempt_in(target: Target, exceptions: Iterable[str], *, simple: bool) -> bool:
    """Tell whether the system's exceptions mean a server; with `simple`, all without a dot do."""
    import fnmatch

    host = target.host.removesuffix(".")
    if simple and "." not in host and target.address is None:
        return True
    patterns = [pattern.strip().lower() for pattern in exceptions]
    return any(fnmatch.fnmatch(host, name) or _means(name, target) for name in patterns if name)
