# ruff: noqa: RUF001 - characters that look like others are among the attacks
"""What an app may not do: URLs, hosts, addresses, headers, subprotocols. Reads as an attack list.

The pure decisions are tables; below them the process is asked, with a server that looks at what
really arrives.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Listener, Peer, Plugin
from tls_servers import Authority
from wsplugin import __version__
from wsplugin.messages import RequestError
from wsplugin.policy import (
    check_close,
    check_headers,
    check_policy,
    check_protocols,
    client_cert_for,
    is_public,
    parse_host_pattern,
    parse_url,
    pins_for,
)
from wsplugin.settings import Settings

# How long an example takes depends on who else uses the machine.
settings.register_profile("wsplugin", deadline=None)
settings.load_profile("wsplugin")


def refusal(check: Any, *arguments: Any) -> tuple[str, str]:
    """Return code and message of a check that must fail."""
    with pytest.raises(RequestError) as caught:
        check(*arguments)
    return caught.value.code, caught.value.message


# --- URLs -------------------------------------------------------------------------------------

# What urlsplit(), a browser or a C library would quietly drop, decode or read otherwise.
BAD_URLS = [
    *("", "x", "/", "//h/", "h", "h:80", "://h/", ":", "ws", "ws:", "ws:h", "ws:/h", "ws://", "ws:///"),
    *("ws:///h", "ws://?q", "ws://:80/", "ws:\\\\h\\", "ws:/\\h/", "ws:///127.0.0.1/"),
    # schemes
    *("http://h/", "https://h/", "ftp://h/", "file:///etc/passwd", "javascript://h/", "wsx://h/"),
    *("ws+unix:///x", "w%73://h/", "ẇs://h/", "-ws://h/", "ws.://h/", "wss+x://h/"),
    # fragments
    *("ws://h/#", "ws://h/#f", "ws://h#f", "ws://h/?q#f", "ws://h#@127.0.0.1/", "#ws://h/"),
    # user information
    *("ws://u@h/", "ws://u:p@h/", "ws://@h/", "ws://:@h/", "ws://:p@h/", "ws://a@b@h/"),
    *("ws://127.0.0.1@evil/", "ws://127.0.0.1:80@evil/", "ws://u%40h@evil/", "ws://127.0.0.1\\@evil/"),
    *("ws://evil\\@127.0.0.1/", "ws://[::1]@evil/", "ws://localhost%2f@evil/"),
    # backslashes and percent signs in the host
    *("ws://evil\\127.0.0.1/", "ws://127.0.0.1\\.evil/", "ws://\\127.0.0.1/", "ws://127.0.0.1\\"),
    *("ws://%6cocalhost/", "ws://127.0.0.1%00.evil/", "ws://127.0.0.1%2eevil/", "ws://h%3a80/"),
    *("ws://localhost%20/", "ws://%/", "ws://%5b::1%5d/", "ws://127%2e0.0.1/"),
    # ports
    *("ws://h:0/", "ws://h:00000/", "ws://h:65536/", "ws://h:99999999999/", "ws://h:-1/", "ws://h:+1/"),
    *("ws://h:8_0/", "ws://h:0x50/", "ws://h:80a/", "ws://h:٣/", "ws://h:８０/", "ws://h:80:80/"),
    *("ws://h::80/", "ws://h:80:/", "ws://[::1]80/", "ws://[::1]:x/", "ws://h：80/", "ws://h:1.5/"),
    # names
    *("ws://./", "ws://../", "ws://.h/", "ws://a..b/", "ws://h../", "ws://a,b/", "ws://a;b/", "ws://*/"),
    *("ws://a'b/", 'ws://a"b/', "ws://a<b/", "ws://a|b/", "ws://a^b/", "ws://a`b/", "ws://{a}/"),
    *("ws://a!b/", "ws://a$b/", "ws://a&b/", "ws://(a)/", "ws://a=b/", "ws://a~b/", "ws://a+b/"),
    *(f"ws://{'a' * 64}/", f"ws://{'a.' * 127}a/", f"ws://{'é' * 64}/", "ws://h\u2100.com/"),
    *("ws://h\uff0fevil/", "ws://h\uff1fevil/", "ws://h\uff03evil/", "ws://u\uff20h/"),
    # IPv4
    *("ws://256.0.0.1/", "ws://1.2.3.4.5/", "ws://1.2.3.256/", "ws://4294967296/", "ws://0x100000000/"),
    *("ws://08.1.1.1/", "ws://0x/", "ws://1.2.3.09/"),
    *("ws://99999999999999999999/", "ws://127.0.0.1..1/", "ws://127..1/"),
    # IPv6
    *("ws://::1/", "ws://[::1/", "ws://::1]/", "ws://[]/", "ws://[:::1]/", "ws://[::g]/", "ws://[::1]x/"),
    *("ws://x[::1]/", "ws://[::1].h/", "ws://[127.0.0.1]/", "ws://[localhost]/", "ws://[v1.a]/"),
    *("ws://[::1%25lo]/", "ws://[::1%lo]/", "ws://[fe80::1%25eth0]/", "ws://[fe80::1%eth0]:80/"),
    *("ws://[[::1]]/", "ws://[::1][::1]/", "ws://[::ffff:256.0.0.1]/", "ws://[1:2:3:4:5:6:7:8:9]/"),
    *("ws://[::１]/", "ws://[0x1::]/", "ws://[::1\\]/", "ws://[::ffff:0x7f.1]/", "ws://[::00001]/"),
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_bad_url(url: str) -> None:
    code, message = refusal(parse_url, url)
    assert code == "invalid-payload"
    assert message.startswith("payload.url: ")


BLANKS = [*map(chr, range(0x21)), *map(chr, range(0x7F, 0xA1))]
BLANKS += ["\u1680", "\u2000", "\u2003", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"]


@pytest.mark.parametrize("blank", BLANKS)
def test_control_characters_and_blanks_anywhere(blank: str) -> None:
    url = "ws://localhost:80/path?query=1"
    for at in range(len(url) + 1):
        assert refusal(parse_url, url[:at] + blank + url[at:])[0] == "invalid-payload"


@given(st.text(max_size=30))
def test_a_url_is_parsed_or_refused_and_what_passes_is_plain(tail: str) -> None:
    for url in (tail, "ws://" + tail, "wss://h/" + tail, "ws://[" + tail, "ws://h:" + tail):
        try:
            target = parse_url(url)
        except RequestError:
            continue
        assert target.url.isascii()
        assert target.url.isprintable()
        assert not set(target.url) & set(' "<>\\^`{|}#')
        assert "@" not in target.url.split("/")[2]
        assert parse_url(target.url) == target


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("ws://h", "ws://h/"),
        ("WS://H.EXAMPLE:80/A?B", "ws://h.example/A?B"),
        ("wSs://h:443", "wss://h/"),
        ("wss://h:80/", "wss://h:80/"),
        ("ws://h:443/", "ws://h:443/"),
        ("ws://h:/", "ws://h/"),
        ("ws://h:00080/", "ws://h/"),
        ("ws://h:65535/", "ws://h:65535/"),
        ("ws://h?q=a@b", "ws://h/?q=a@b"),
        ("ws://h/a@b:c", "ws://h/a@b:c"),
        ("ws://h/é?ü=€", "ws://h/%C3%A9?%C3%BC=%E2%82%AC"),
        ("ws://h/%2F%zz", "ws://h/%2F%zz"),
        ("ws://h/a\\b", "ws://h/a%5Cb"),
        ("ws://h/../a/./b", "ws://h/../a/./b"),
        ("ws://h//evil/", "ws://h//evil/"),
        ("ws://h/a;b?c?d", "ws://h/a;b?c?d"),
        ("ws://h/\"<>{}|^`'", "ws://h/%22%3C%3E%7B%7D%7C%5E%60'"),
        ("ws://bücher.example/", "ws://xn--bcher-kva.example/"),
        ("ws://BÜCHER。example/", "ws://xn--bcher-kva.example/"),
        ("ws://a_b.example/", "ws://a_b.example/"),
        ("ws://h./", "ws://h./"),
        ("ws://[2001:DB8:0:0::1]:80/", "ws://[2001:db8::1]/"),
    ],
)
def test_good_url_and_its_one_form(url: str, normal: str) -> None:
    assert parse_url(url).url == normal


def host_of(size: int, letter: str = "a") -> str:
    """Return a host of so many characters, in labels that are short enough."""
    return ("." + letter * 40)[::-1] * (size // 41) + letter * (size % 41)


@pytest.mark.parametrize("dot", ["", ".", "。"])
def test_host_of_253_characters(dot: str) -> None:
    assert len(parse_url(f"wss://{host_of(253)}{dot}:443/").host.rstrip(".")) == 253


@pytest.mark.parametrize("dot", ["", ".", "。"])
@pytest.mark.parametrize("letter", ["a", "é", "中", "\u00ad", "1"])
@pytest.mark.parametrize("size", [254, 255, 8000])
def test_host_of_more_than_253_characters(size: int, letter: str, dot: str) -> None:
    """Counted before anything is made of it, which takes IDNA a time with the square of it."""
    message = refusal(parse_url, f"wss://{host_of(size, letter)}{dot}:443/")[1]
    assert message == "payload.url: the host is longer than 253 characters"


@pytest.mark.parametrize("digits", ["65536", "0", "000", "100000", "9" * 5000, "65536000"])
def test_port_out_of_range(digits: str) -> None:
    message = refusal(parse_url, f"wss://h:{digits}/")[1]
    assert message == "payload.url: the port must be 1 to 65535"


LOCALHOST = [
    *("localhost", "LOCALHOST", "localhost.", "ⓛⓞcalhost", "localhost。", "lo\u00adcalhost"),
    *("a.localhost", "a.b.LocalHost", "a.localhost."),
]
LOOPBACK = [
    *("127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "127.255.255.254", "127.0.0.1。"),
    *("0x7f.1", "0X7F.0.0.1", "0x7f000001", "0177.0.0.1", "017700000001", "2130706433", "127.0x1"),
    *("１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1", "127．0．0．1"),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]", "[::0.0.0.1]", "[::ffff:127.0.0.1]"),
    *("[::FFFF:7f00:1]", "[0:0:0:0:0:ffff:127.1.2.3]"),
]
NOT_LOOPBACK = [
    *("localhost.evil", "evil-localhost", "evil.localhost.com", "localhost.localdomain"),
    *("xlocalhost", "127.0.0.1.evil", "127.0.0.1.nip.io", "127-0-0-1.evil", "127.evil"),
    *("0.0.0.0", "0", "[::]", "[::ffff:0.0.0.0]", "128.0.0.1", "126.255.255.255", "1.0.0.127"),
    *("[::2]", "[::1:1]", "[1::1]", "[::ffff:128.0.0.1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]"),
    *("[::fffe:127.0.0.1]", "[fe80::1]", "10.0.0.1", "192.168.0.1", "ｌocalhost.a"),
]  # fmt: skip


@pytest.mark.parametrize("host", [*LOCALHOST, *LOOPBACK])
def test_plain_ws_is_allowed_to_loopback_however_it_is_written(host: str) -> None:
    check_policy(parse_url(f"ws://{host}/"), Settings())
    check_policy(parse_url(f"ws://{host}:8080/"), Settings())


@pytest.mark.parametrize("host", NOT_LOOPBACK)
def test_plain_ws_is_refused_to_what_only_looks_like_loopback(host: str) -> None:
    target = parse_url(f"ws://{host}/")
    code, message = refusal(check_policy, target, Settings())
    assert code == "forbidden"
    assert "--allow-insecure" in message
    check_policy(target, Settings(allow_insecure=True))
    check_policy(parse_url(f"wss://{host}/"), Settings())


# --- --allow-host -------------------------------------------------------------------------------

ALLOWED = [
    (
        "example.com",
        ["example.com", "EXAMPLE.com", "example.com.", "ｅxample。com", "exam\u00adple.com"],
    ),
    ("*.example.com", ["a.example.com", "A.b.EXAMPLE.COM.", "a。example.com", "xn--a.example.com"]),
    ("bücher.example", ["bücher.example", "xn--bcher-kva.example", "BÜCHER.example"]),
    ("*.bücher.example", ["a.xn--bcher-kva.example"]),
    ("127.0.0.1", ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "１２７.0.0.1"]),
    ("0x7f.1", ["127.0.0.1"]),
    ("[::1]", ["[::1]", "[0::0:1]"]),
    ("localhost", ["localhost", "localhost.", "LOCALHOST"]),
]
REFUSED = [
    (
        "example.com",
        [
            *(
                "evil.com",
                "a.example.com",
                "example.com.evil",
                "evilexample.com",
                "example.comevil",
            ),
            *(
                "example.co",
                "xample.com",
                "example-com",
                "example",
                "com",
                "example.com.example.com",
            ),
            *("ехample.com", "exаmple.com", "examp1e.com", "xn--example.com", "example。com。evil"),
            *("127.0.0.1", "[::1]"),
        ],
    ),
    (
        "*.example.com",
        ["example.com", "evilexample.com", "a.example.com.evil", "a-example.com", "aexample.com"],
    ),
    ("127.0.0.1", ["127.0.0.2", "localhost", "127.0.0.1.evil", "[::ffff:127.0.0.1]", "[::1]"]),
    ("[::1]", ["[::2]", "127.0.0.1", "localhost"]),
    ("localhost", ["127.0.0.1", "[::1]", "a.localhost", "localhost.evil"]),
    ("*.com", ["com", "com.evil", "[::1]"]),
]


@pytest.mark.parametrize(
    ("pattern", "host"), [(pattern, host) for pattern, hosts in ALLOWED for host in hosts]
)
def test_allowed_host(pattern: str, host: str) -> None:
    settings = Settings(allow_hosts=("other.example", parse_host_pattern(pattern)))
    check_policy(parse_url(f"wss://{host}/"), settings)
    check_policy(parse_url(f"wss://{host}:8080/path"), settings)


@pytest.mark.parametrize(
    ("pattern", "host"), [(pattern, host) for pattern, hosts in REFUSED for host in hosts]
)
def test_host_that_is_not_allowed(pattern: str, host: str) -> None:
    settings = Settings(allow_hosts=("other.example", parse_host_pattern(pattern)))
    code, message = refusal(check_policy, parse_url(f"wss://{host}/"), settings)
    assert code == "forbidden"
    assert "--allow-host" in message


def test_an_allowed_host_is_not_thereby_allowed_plain_ws() -> None:
    settings = Settings(allow_hosts=("example.com",))
    assert "--allow-insecure" in refusal(check_policy, parse_url("ws://example.com/"), settings)[1]


# --- --client-cert and --pin --------------------------------------------------------------------

PINS = ["sha256/" + letter * 43 + "=" for letter in "AEI"]
HOSTS = ["a.example", "a.example.", "example", "b.a.example", "127.0.0.1", "::1", "a.example.evil"]


@pytest.mark.parametrize("host", HOSTS)
def test_pins_are_those_of_all_patterns_that_mean_the_host(host: str) -> None:
    settings = Settings(
        pins=(
            f"A.example={PINS[0]}",
            f"*.example={PINS[1]}",
            f"127.1={PINS[2]}",
            f"[::1]={PINS[2]}",
        )
    )
    expected = {
        "a.example": {PINS[0], PINS[1]},
        "a.example.": {PINS[0], PINS[1]},
        "b.a.example": {PINS[1]},
        "127.0.0.1": {PINS[2]},
        "::1": {PINS[2]},
    }
    assert pins_for([host], settings) == expected.get(host, set())


def test_pins_of_several_names_are_those_of_each() -> None:
    settings = Settings(pins=(f"a.example={PINS[0]}", f"b.example={PINS[1]}"))
    assert pins_for(iter(["b.example", "a.example"]), settings) == set(PINS[:2])
    assert pins_for(["c.example", "a.example"], settings) == {PINS[0]}
    assert pins_for([], settings) == set()


def test_client_certificate_of_several_names_is_the_first_of_all(authority: Authority) -> None:
    a, b, all = (authority.client_cert(name) for name in ("a", "b", "all"))
    settings = Settings(
        client_certs=(f"a.example={a}", f"*.example={b}", all), allow_hosts=("example",)
    )
    assert client_cert_for(["b.example", "a.example"], settings) == a
    assert client_cert_for(iter(["x.y", "b.example"]), settings) == b
    assert client_cert_for(["x.y"], settings) == all
    assert client_cert_for(["x.y"], Settings(client_certs=(f"a.example={a}",))) is None


def test_a_server_is_known_by_its_url_and_by_the_host_s_header() -> None:
    settings = Settings(pins=(f"a.example={PINS[0]}", f"b.example={PINS[1]}"))
    target = parse_url("wss://a.example/")
    assert pins_for(target.names, settings) == {PINS[0]}
    assert pins_for(target._replace(server_name="b.example").names, settings) == set(PINS[:2])
    plain = parse_url("ws://127.0.0.1/")._replace(server_name="b.example")
    assert "--pin" in refusal(check_policy, plain, settings)[1]


@pytest.mark.parametrize("option", ["--pin", "--client-cert"])
@pytest.mark.parametrize("host", ["localhost", "a.localhost", "b.example", "127.1", "LOCALHOST."])
def test_plain_ws_is_refused_to_a_host_that_wants_tls(
    host: str, option: str, authority: Authority
) -> None:
    value = PINS[0] if option == "--pin" else authority.client_cert()
    values = tuple(f"{each}={value}" for each in ("localhost", "*.localhost", "*.example", "127.1"))
    settings = Settings(
        pins=values if option == "--pin" else (),
        client_certs=values if option == "--client-cert" else (),
        allow_insecure=True,
    )
    code, message = refusal(check_policy, parse_url(f"ws://{host}/"), settings)
    assert (code, option in message) == ("forbidden", True)
    check_policy(parse_url(f"wss://{host}/"), settings)
    check_policy(parse_url("ws://127.0.0.2/"), settings)


def test_a_client_certificate_for_all_does_not_want_tls(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where its file has the name of a host."""
    monkeypatch.chdir(tmp_path)
    Path("localhost").write_bytes(Path(authority.client_cert()).read_bytes())
    settings = Settings(client_certs=("localhost",), allow_hosts=("localhost",))
    check_policy(parse_url("ws://localhost/"), settings)
    assert client_cert_for(["localhost"], settings) == "localhost"


# --- --block-private ----------------------------------------------------------------------------

PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.0", "172.15.255.255"),
    *("172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0"),
    *("223.255.255.255", "2001:4860:4860::8888", "2606:4700:4700::1111", "2a00::1"),
    *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"),
]
NOT_PUBLIC = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255"),
    *("127.0.0.0", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.169.254"),
    *("172.16.0.0", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.0.0", "192.168.255.255"),
    *("198.18.0.0", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
    *("239.255.255.255", "240.0.0.0", "255.255.255.254", "255.255.255.255"),
    *("::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "100::1", "2001:db8::1", "2001::1"),
    *("fc00::1", "fdff:ffff::1", "fe80::1", "febf::1", "fec0::1", "feff::1", "ff02::1"),
    *("ff0e::1", "ffff::1", "3fff::1", "5f00::1", "4000::1", "e000::1", "64:ff9b:1::8.8.8.8"),
    *("::ffff:0:127.0.0.1", "fe80::1%1", "::1%1"),
    *(f"::ffff:{v4}" for v4 in ("0.0.0.0", "10.0.0.1", "127.0.0.1", "169.254.169.254")),
    *(f"64:ff9b::{v4}" for v4 in ("0.0.0.0", "10.0.0.1", "127.0.0.1", "192.168.1.1", "100.64.0.1")),
    *("2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::1", "2002:a9fe:a9fe::", "2002::"),
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        *LOOPBACK,
        *("0", "0.0.0.0", "[::]", "10.1", "0xa.1", "012.0.0.1", "167772161", "１０.0.0.1", "10。1"),
        *(
            "[::ffff:10.0.0.1]",
            "[::ffff:a00:1]",
            "[64:ff9b::10.0.0.1]",
            "[2002:a00:1::]",
            "[fe80::1]",
        ),
        *("169.254.169.254", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518"),
    ],
)
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_literal_address_that_is_not_public(scheme: str, host: str) -> None:
    settings = Settings(block_private=True, allow_insecure=True)
    code, message = refusal(check_policy, parse_url(f"{scheme}://{host}/"), settings)
    assert code == "forbidden"
    assert "--block-private" in message


# --- headers, subprotocols, Close frames --------------------------------------------------------

OWN_HEADERS = [
    *("Referer", "Host", "Connection", "Upgrade", "Content-Length", "Transfer-Encoding"),
    *("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Sec-WebSocket-"),
    *("Sec-WebSocket-Extensions", "Sec-WebSocket-Accept", "Sec-WebSocket-Anything"),
]
NO_TOKENS = [
    *("", " ", "a b", " a", "a ", "a:", ":a", "a\n", "\na", "a\r\nEvil: 1", "a\0", "a\t", "a\x7f"),
    *("a,b", "a;b", "a/b", "a=b", 'a"b', "a(b)", "a[b]", "a{b}", "a<b>", "a@b", "a?b", "a\\b"),
    *("é", "ａ", "a\u2028", "ſec-websocket-key", "\u212aey"),
]
BAD_VALUES = [
    *("\n", "\r", "a\r\nEvil: 1", "a\nEvil: 1", "a\rEvil: 1", "a\r\n\r\nGET /", "\0", "a\0b", "\t"),
    *("\x1f", "\x7f", "\u0100", "€", "😀", "\u2028", "\ud7ff"),
    # What a narrowing to one byte would turn into CR and LF.
    *("a\u010d\u010aEvil: 1", "\uff0d\uff0a"),
]


@pytest.mark.parametrize("name", OWN_HEADERS)
@pytest.mark.parametrize("change", [str, str.lower, str.upper, str.swapcase])
def test_header_of_the_handshake_itself(name: str, change: Any) -> None:
    name = change(name)
    code, message = refusal(check_headers, {"X-A": "1", name: "x"}, {})
    assert code == "invalid-payload"
    assert message.startswith(f"payload.headers[{json.dumps(name)}]: ")


def test_a_long_header_name_is_not_repeated_whole() -> None:
    message = refusal(check_headers, {"a" * 10**6 + " b": "x"}, {})[1]
    assert len(message) < 400
    assert re.match(r'payload\.headers\["a+…a+ b"\]: ', message)


@pytest.mark.parametrize("name", NO_TOKENS)
def test_header_name_that_is_no_token(name: str) -> None:
    code, message = refusal(check_headers, {"X-A": "1", name: "x"}, {})
    assert code == "invalid-payload"
    assert message.startswith("payload.headers[")
    assert json.loads(message[len("payload.headers[") : message.rindex("]: ")]) == name


@pytest.mark.parametrize("value", BAD_VALUES)
@pytest.mark.parametrize("place", ["%s", "a%s", "%sa", "a%sa"])
def test_header_value_that_would_inject(value: str, place: str) -> None:
    code, message = refusal(check_headers, {"X-A": place.replace("%s", value)}, {})
    assert code == "invalid-payload"
    assert message.startswith('payload.headers["X-A"]: ')


@pytest.mark.parametrize(
    "headers", [{"A": "1", "a": "1"}, {"X-B": "", "x-b": ""}, {"A": "1", "B": "2", "a": "3"}]
)
def test_header_given_twice_by_case(headers: dict[str, str]) -> None:
    assert refusal(check_headers, headers, {})[0] == "invalid-payload"


def test_good_headers() -> None:
    check_headers({}, {})
    check_headers(
        {"X-A": "", "x-b": " é ÿ ~", "!#$%&'*+-.^_`|~0": "x", "Authorization": "Basic x"}, {}
    )
    check_headers(
        {"User-Agent": "x", "Cookie": "a=b; c=d", "Origin": "null", "content-type": "x"}, {}
    )


@pytest.mark.parametrize("protocol", NO_TOKENS)
def test_subprotocol_that_is_no_token(protocol: str) -> None:
    code, message = refusal(check_protocols, ["a", protocol])
    assert code == "invalid-payload"
    assert message.startswith("payload.protocols[1]: ")


def test_subprotocols() -> None:
    check_protocols([])
    check_protocols(["chat", "Chat", "v1.x+json"])
    assert refusal(check_protocols, ["a", "b", "a"])[1].startswith("payload.protocols[2]: ")


def test_close_codes() -> None:
    """RFC 6455 section 7.4 and the registry it opens."""
    good = {*range(1000, 1004), 1005, *range(1007, 1015), *range(3000, 5000)}
    for code in range(-1, 5100):
        if code in good:
            check_close(code, "")
        else:
            assert refusal(check_close, code, "")[0] == "invalid-payload"


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
def test_close_reason_is_measured_in_bytes(character: str) -> None:
    size = len(character.encode())
    check_close(1000, character * (123 // size))
    assert refusal(check_close, 1000, character * (123 // size + 1))[0] == "invalid-payload"


# --- the process ------------------------------------------------------------------------------


def fields(peer: Peer) -> list[tuple[str, str]]:
    """Return the header fields of the request as they arrived, in order."""
    return [
        (name, value.lstrip(" "))
        for line in peer.request.decode("latin-1").split("\r\n")[1:]
        for name, _, value in [line.partition(":")]
    ]


Start = Callable[..., Plugin]


@pytest.fixture(scope="module", name="start")
def _start() -> Iterator[Start]:
    """Start a plugin with these options, or return the one that has been."""
    with contextlib.ExitStack() as stack:
        plugins: dict[tuple[str, ...], Plugin] = {}

        def start(*options: str) -> Plugin:
            if options not in plugins:
                plugins[options] = stack.enter_context(Plugin(*options))
            return plugins[options]

        yield start
        for plugin in plugins.values():
            assert plugin.finish() == ([], 0)
            assert plugin.stderr == b""


def ended(plugin: Plugin, id: str) -> None:
    """Read the last events of a connection that the server has dropped."""
    plugin.event(id, "error")
    plugin.event(id, "close")


class Arrived:
    """Creates connections with one plugin and returns the server's end, the request read."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    def __call__(self, url: str = "{}", **options: Any) -> Peer:
        with Listener() as listener:
            id = self._plugin.create(url.replace("{}", listener.url), **options)
            with listener.accept() as peer:
                peer.read_request()
            ended(self._plugin, id)
        return peer


@pytest.fixture(name="arrived")
def _arrived(start: Start) -> Arrived:
    return Arrived(start())


def test_what_arrives_by_default(arrived: Arrived) -> None:
    peer = arrived()
    headers = fields(peer)
    names = [name.lower() for name, _ in headers]
    assert len(names) == len(set(names))
    assert peer.request.startswith(b"GET / HTTP/1.1\r\n")
    assert peer.header("content-type") == "application/json"
    assert peer.header("user-agent") == f"wsplugin/{__version__}"
    assert peer.header("upgrade") == "websocket"
    assert peer.header("connection") == "Upgrade"
    assert peer.header("sec-websocket-version") == "13"
    assert (peer.header("sec-websocket-extensions") or "").startswith("permessage-deflate")
    for absent in ("sec-websocket-protocol", "origin", "referer", "authorization", "cookie"):
        assert peer.header(absent) is None


def test_headers_arrive_in_order_with_their_values(arrived: Arrived) -> None:
    headers = {
        "X-Z": "1",
        "x-a": "é ÿ",
        "Authorization": "Bearer a:b==",
        "X-M": "",
        "Cookie": 'a="b"; c=d, e',
    }
    sent = [field for field in fields(arrived(headers=headers)) if field[0] in headers]
    assert sent == list(headers.items())


@pytest.mark.parametrize("name", ["Content-Type", "content-type", "CONTENT-TYPE"])
def test_content_type_that_is_given(arrived: Arrived, name: str) -> None:
    found = [
        value
        for key, value in fields(arrived(headers={name: "text/x"}))
        if key.lower() == "content-type"
    ]
    assert found == ["text/x"]


@pytest.mark.parametrize("name", ["User-Agent", "user-agent"])
def test_user_agent_that_is_given(arrived: Arrived, name: str) -> None:
    found = [
        value for key, value in fields(arrived(headers={name: "x"})) if key.lower() == "user-agent"
    ]
    assert found == ["x"]


@pytest.mark.parametrize(
    ("protocols", "offered"), [([], None), (["b"], ["b"]), (["b", "a", "C.1"], ["b", "a", "C.1"])]
)
def test_subprotocols_offered(
    arrived: Arrived, protocols: list[str], offered: list[str] | None
) -> None:
    header = arrived(protocols=protocols).header("sec-websocket-protocol")
    assert (header and header.replace(" ", "").split(",")) == offered


@pytest.mark.parametrize("deflate", [True, False])
def test_compression_is_offered_or_not(arrived: Arrived, deflate: bool) -> None:
    header = arrived(perMessageDeflate=deflate).header("sec-websocket-extensions")
    assert (header is not None) == deflate


@pytest.mark.parametrize(
    ("tail", "target"),
    [
        ("", b"/"),
        ("?a=b&c=%20", b"/?a=b&c=%20"),
        ("é/\\x?ü", b"/%C3%A9/%5Cx?%C3%BC"),
        ("a//b/../c;d", b"/a//b/../c;d"),
        ("%0d%0aEvil:%201", b"/%0d%0aEvil:%201"),
    ],
)
def test_request_target(arrived: Arrived, tail: str, target: bytes) -> None:
    assert arrived(url="{}" + tail).request.split(b"\r\n")[0] == b"GET " + target + b" HTTP/1.1"


@pytest.mark.parametrize("host", ["LOCALHOST", "127.1", "0x7f.1", "2130706433", "１２７.0.0.1"])
def test_host_header_is_the_one_form_that_was_judged(start: Start, host: str) -> None:
    plugin = start()
    with Listener() as listener:
        id = plugin.create(f"ws://{host}:{listener.port}/")
        with listener.accept() as peer:
            peer.read_request()
        ended(plugin, id)
    expected = "localhost" if host == "LOCALHOST" else "127.0.0.1"
    assert peer.header("host") == f"{expected}:{listener.port}"


HERE = "ws://127.0.0.1:{port}/"
REFUSALS: list[tuple[list[str], dict[str, Any], str, str]] = [
    # options, payload, code, what the message names
    ([], {"url": "ws://example.com/"}, "forbidden", "--allow-insecure"),
    ([], {"url": "ws://0.0.0.0:{port}/"}, "forbidden", "--allow-insecure"),
    ([], {"url": "ws://127.0.0.1.nip.io:{port}/"}, "forbidden", "--allow-insecure"),
    (["--allow-host=a.b"], {"url": HERE}, "forbidden", "--allow-host"),
    (["--allow-host=*.b"], {"url": "wss://b/"}, "forbidden", "--allow-host"),
    (["--block-private"], {"url": HERE}, "forbidden", "--block-private"),
    (["--block-private"], {"url": "ws://[::ffff:127.1.1.1]/"}, "forbidden", "--block-private"),
    (["--block-private"], {"url": "wss://0x7f.1:{port}/"}, "forbidden", "--block-private"),
    ([], {"url": "ws://u:p@127.0.0.1:{port}/"}, "invalid-payload", "payload.url"),
    ([], {"url": HERE, "headers": {"a\r\nb": "c"}}, "invalid-payload", "payload.headers"),
    ([], {"url": HERE, "headers": {"a": "b\r\nc: d"}}, "invalid-payload", 'headers["a"]'),
    ([], {"url": HERE, "protocols": ["a\r\nb"]}, "invalid-payload", "payload.protocols[0]"),
    # An app that tries to be the host.
    ([], {"url": "ws://a/", "allowInsecure": True}, "invalid-payload", "payload.allowInsecure"),
    ([], {"url": "ws://a/", "allow-insecure": 1}, "invalid-payload", "payload.allow-insecure"),
    ([], {"url": "wss://a/", "caFile": "ca.pem"}, "invalid-payload", "payload.caFile"),
    ([], {"url": "wss://a/", "clientCert": "c.pem"}, "invalid-payload", "payload.clientCert"),
    ([], {"url": "wss://a/", "pin": "a=sha256/"}, "invalid-payload", "payload.pin"),
    ([], {"url": "wss://a/", "proxy": "http://evil"}, "invalid-payload", "payload.proxy"),
    ([], {"url": "wss://a/", "maxMessageSize": 1}, "invalid-payload", "payload.maxMessageSize"),
    ([], {"url": "wss://a/", "timeout": 2**40}, "invalid-payload", "payload.timeout"),
]


@pytest.mark.parametrize(("options", "payload", "code", "named"), REFUSALS)
def test_refused_before_anything_is_done(
    start: Start, options: list[str], payload: dict[str, Any], code: str, named: str
) -> None:
    plugin = start(*options)
    with Listener() as listener:
        url = payload["url"].replace("{port}", str(listener.port))
        error = plugin.request("websocket-create", {**payload, "url": url})["error"]
        assert error["code"] == code
        assert named in error["errMsg"]
        # No connection, so no event before the next answer.
        plugin.request("plugin-describe")
        assert untouched(listener)


def untouched(listener: Listener) -> bool:
    """Tell whether nobody has tried to connect."""
    listener.sock.setblocking(False)
    try:
        listener.sock.accept()[0].close()
    except BlockingIOError:
        return True
    return False


def test_a_refused_request_uses_up_no_id() -> None:
    with Plugin() as plugin, Listener() as listener:
        for _ in range(3):
            plugin.request("websocket-create", {"url": "ws://example.com/"})
        assert plugin.create(listener.url) == "ws-1"


@pytest.mark.parametrize("action", ["set-options", "plugin-configure", "plugin-describe"])
def test_an_app_cannot_change_the_host_s_options(start: Start, action: str) -> None:
    plugin = start("--block-private")
    for payload in ({"blockPrivate": False}, {"limits": {"maxConnections": 100}}):
        assert "error" in plugin.request(action, payload)
    answer = plugin.request("websocket-create", {"url": "ws://127.0.0.1:1/"})
    assert answer["error"]["code"] == "forbidden"
    describe = plugin.request("plugin-describe")
    assert describe["response"]["limits"]["maxConnections"] == 5


def test_an_app_s_timeout_is_its_own_and_no_limit_of_the_host() -> None:
    """`timeout` replaces --open-timeout for one connection, as the contract has it."""
    with Listener() as listener, Plugin("--open-timeout", "3600") as plugin:
        id = plugin.create(listener.url, timeout=1)
        assert plugin.event(id, "error")["code"] == "open-timeout"
        assert plugin.event(id, "close")["code"] == 1006


@pytest.mark.parametrize("host", ["localhost", "app.localhost"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_name_that_resolves_to_a_private_address(start: Start, scheme: str, host: str) -> None:
    plugin = start("--block-private", "--allow-insecure")
    with Listener() as listener:
        id = plugin.create(f"{scheme}://{host}:{listener.port}/")
        error = plugin.event(id, "error")
        assert error["code"] == "forbidden"
        assert "--block-private" in error["errMsg"]
        close = plugin.event(id, "close")
        assert (close["code"], close["cause"]) == (1006, "failure")
        assert untouched(listener)


def test_without_the_option_private_addresses_are_connected_to(start: Start) -> None:
    plugin = start()
    with Listener() as listener:
        id = plugin.create(f"ws://localhost:{listener.port}/")
        listener.accept().close()
        ended(plugin, id)


def test_allow_host_lets_its_host_through() -> None:
    with Listener() as listener, Plugin("--allow-host", "LocalHost") as plugin:
        id = plugin.create(f"ws://LOCALHOST:{listener.port}/")
        with listener.accept() as peer:
            peer.handshake()
            plugin.event(id, "open")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 X", "308 X"])
def test_redirects_are_never_followed(start: Start, status: str) -> None:
    plugin = start()
    with Listener() as listener, Listener() as other:
        for target in (other.url, other.url.replace("ws:", "http:"), "/elsewhere", "//evil/"):
            id = plugin.create(listener.url)
            with listener.accept() as peer:
                peer.read_request()
                peer.send(
                    f"HTTP/1.1 {status}\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
                )
                error = plugin.event(id, "error")
            assert (error["code"], error["status"]) == ("handshake-failed", int(status[:3]))
            assert error["headers"]["location"] == target
            assert plugin.event(id, "close")["code"] == 1006
        assert untouched(listener)
        assert untouched(other)
