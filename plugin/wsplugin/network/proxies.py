"""Which proxy is used for a server: the host's choice, else the system's."""

from wsplugin.policy import Target
from wsplugin.settings import Settings


def choose(target: Target, settings: Settings) -> str | None:
    """Return the URL of the proxy to use, or None for none."""
    if target.is_loopback or settings.proxy == "none":
        return None
    if settings.proxy is not None:
        return settings.proxy
    from websockets.proxy import get_proxy
    from websockets.uri import parse_uri

    return get_proxy(parse_uri(target.url))
