"""Which proxy the environment means, as a table: as curl reads it (curl(1), ENVIRONMENT)."""

import pytest

from wsplugin.network.proxies import choose, from_environment, is_exempt
from wsplugin.network.proxy_url import InvalidProxy, parse
from wsplugin.policy import parse_url
from wsplugin.settings import Settings

WSS, WS = parse_url("wss://chat.example/"), parse_url("ws://chat.example/")

CHOICES = [
    ("wss", {"https_proxy": "http://a:1"}, "http://a:1"),
    ("wss", {"wss_proxy": "http://a:1", "https_proxy": "http://b:1"}, "http://a:1"),
    ("wss", {"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, "http://a:1"),
    ("wss", {"HTTPS_PROXY": "http://b:1"}, "http://b:1"),
    ("wss", {"http_proxy": "http://a:1"}, None),
    ("ws", {"http_proxy": "http://a:1"}, "http://a:1"),
    ("ws", {"ws_proxy": "http://a:1", "http_proxy": "http://b:1"}, "http://a:1"),
    ("ws", {"HTTP_PROXY": "http://a:1"}, "http://a:1"),
    ("ws", {"https_proxy": "http://a:1"}, None),
    ("wss", {"all_proxy": "socks5h://a:1"}, "socks5h://a:1"),
    ("ws", {"ALL_PROXY": "socks5h://a:1"}, "socks5h://a:1"),
    ("wss", {"https_proxy": "http://a:1", "all_proxy": "http://b:1"}, "http://a:1"),
    ("wss", {"https_proxy": "", "all_proxy": "http://b:1"}, "http://b:1"),
    ("wss", {"https_proxy": " ", "HTTPS_PROXY": "http://b:1"}, "http://b:1"),
    ("wss", {"https_proxy": "http://a:1", "no_proxy": "chat.example"}, None),
    ("wss", {"https_proxy": "http://a:1", "NO_PROXY": "chat.example"}, None),
    ("wss", {"https_proxy": "http://a:1", "no_proxy": "", "NO_PROXY": "example"}, None),
    ("wss", {"socks_proxy": "http://a:1"}, None),
    ("wss", {}, None),
]


@pytest.mark.parametrize(("scheme", "environment", "expected"), CHOICES)
def test_variables(scheme: str, environment: dict[str, str], expected: str | None) -> None:
    assert from_environment(WSS if scheme == "wss" else WS, environment) == expected


EXCEPTIONS = [
    ("wss://chat.example/", "chat.example", True),
    ("wss://CHAT.example./", "chat.EXAMPLE", True),
    ("wss://chat.example/", "example", True),
    ("wss://chat.example/", ".example", True),
    ("wss://chat.example/", "hat.example", False),
    ("wss://chat.example/", "x.chat.example", False),
    ("wss://chat.example/", "*", True),
    ("wss://chat.example/", "other.example, chat.example", True),
    ("wss://chat.example/", "other.example chat.example", True),
    ("wss://chat.example/", "*.example", False),
    ("wss://chat.example/", "chat.example:443", True),
    ("wss://chat.example/", "chat.example:444", False),
    ("wss://chat.example:444/", ".example:444", True),
    ("wss://chat.example/", "", False),
    ("wss://chat.example/", ".", False),
    ("wss://10.1.2.3/", "10.0.0.0/8", True),
    ("wss://10.1.2.3/", "10.1.2.3", True),
    ("wss://0x0a.66051/", "10.1.2.3", True),
    ("wss://11.1.2.3/", "10.0.0.0/8", False),
    ("wss://10.1.2.3/", "10.0.0.0/8:443", True),
    ("wss://10.1.2.3/", "10.1.2.3:443", True),
    ("wss://10.1.2.3/", "2.3", False),
    ("wss://10.1.2.3.example/", "10.0.0.0/8", False),
    ("wss://[2001:db8::1]/", "2001:db8::/32", True),
    ("wss://[2001:db8::1]/", "[2001:db8::1]", True),
    ("wss://[2001:db8::1]/", "[2001:db8::1]:443", True),
    ("wss://[2001:db8::1]/", "[2001:db8::1]:80", False),
    ("wss://[2001:db8::1]/", "2001:db9::/32", False),
]


@pytest.mark.parametrize(("url", "exceptions", "expected"), EXCEPTIONS)
def test_no_proxy(url: str, exceptions: str, expected: bool) -> None:
    assert is_exempt(parse_url(url), exceptions) is expected


URLS = [
    ("http://p", ("http", "p", 80, None, None)),
    ("http://p:3128/", ("http", "p", 3128, None, None)),
    ("p:3128", ("http", "p", 3128, None, None)),
    ("p", ("http", "p", 80, None, None)),
    ("HTTPS://P", ("https", "p", 443, None, None)),
    ("socks://p", ("socks5h", "p", 1080, None, None)),
    ("socks5://p", ("socks5", "p", 1080, None, None)),
    ("socks4a://p:9", ("socks4a", "p", 9, None, None)),
    ("http://me@p", ("http", "p", 80, "me", "")),
    ("http://me:pw@p", ("http", "p", 80, "me", "pw")),
    ("me:pw@p:8", ("http", "p", 8, "me", "pw")),
    ("http://m%40e:p%3Aw@p", ("http", "p", 80, "m@e", "p:w")),
    ("socks5://m%3Ae:pw@p", ("socks5", "p", 1080, "m:e", "pw")),
    ("http://[::1]:8", ("http", "::1", 8, None, None)),
]


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_url(url: str, expected: tuple[str, str, int, str | None, str | None]) -> None:
    proxy = parse(url)
    assert (proxy.scheme, proxy.host, proxy.port, proxy.username, proxy.password) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://p", "http://", "http://p:0", "http://p:99999", "http://p:x", "http://p/path"),
        *("http://p?q", "http://p#f", "http://m:s3cret@p:x", "http://s3cret%ff@p", "http://[p"),
    ],
)
def test_url_that_is_none_is_not_repeated(url: str) -> None:
    with pytest.raises(InvalidProxy) as caught:
        parse(url)
    assert "s3cret" not in str(caught.value)


def test_loopback_and_none_use_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "http://p")
    assert choose(parse_url("ws://127.0.0.1/"), Settings(proxy="http://p")) is None
    assert choose(WSS, Settings(proxy="none")) is None
    assert choose(WSS, Settings()) == parse("http://p")
