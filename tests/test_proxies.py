"""Proxies: what goes through which, what they are told, and what each failure is called.

Proxies are played by hand on the loopback, and behind one the test goes on as the server. As
nothing for the loopback itself goes through a proxy, the servers behind it are only names.
"""

import base64
import contextlib
import socket
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness import CLOSE, TEXT, Listener, Peer, Plugin, close_frame, environment, frame
from host_lines import done, send
from situations import expect_nobody, failure
from tls_servers import Authority, say, secure, tls_server


def start(*options: str, **variables: str) -> Plugin:
    return Plugin("--allow-insecure", *options, env=environment(**variables))


def proxy_url(listener: Listener, scheme: str = "http", user: str = "") -> str:
    return f"{scheme}://{user}localhost:{listener.port}"


BEHIND = "server.invalid:8080"


def connect_through(proxy: Peer, target: str = BEHIND) -> None:
    """Play the proxy until the connection behind it stands."""
    request = proxy.read_request().split(b"\r\n")
    assert request[0] == f"CONNECT {target} HTTP/1.1".encode()
    proxy.send(b"HTTP/1.1 200 Connection established\r\nX-Proxy: 1\r\n\r\n")


def converse(plugin: Plugin, id: str, server: Peer) -> None:
    """Play the server's opening handshake, a message each way and the closing handshake."""
    server.handshake()
    assert "x-proxy" not in plugin.event(id, "open")["headers"]
    plugin.send(send(id, "hi"))
    assert server.read_frame() == (0x80 | TEXT, b"hi")
    assert plugin.read() == done("hi")
    server.send(frame(TEXT, b"ho") + close_frame(1000))
    assert plugin.event(id, "message")["data"] == "ho"
    assert server.read_frame()[0] == 0x80 | CLOSE
    server.sock.shutdown(socket.SHUT_RDWR)
    assert plugin.event(id, "close")["cause"] == "server"


def test_conversation_through_a_proxy(proxied: tuple[Listener, Plugin]) -> None:
    listener, plugin = proxied
    id = plugin.create(f"ws://{BEHIND}/path", headers={"Authorization": "s3cret"})
    with listener.accept() as peer:
        connect_through(peer)
        # What is for the server is not for the proxy.
        assert b"s3cret" not in peer.request
        assert peer.header("host") == BEHIND
        assert peer.header("proxy-authorization") is None
        converse(plugin, id, peer)
        assert peer.request.startswith(b"GET /path HTTP/1.1\r\n")
        assert peer.header("host") == BEHIND
        assert peer.header("authorization") == "s3cret"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("ws://server.invalid/", "server.invalid:80"),
        ("ws://SERVER.invalid.:81/", "server.invalid.:81"),
        ("ws://10.0.0.1/", "10.0.0.1:80"),
        ("ws://0xa.1:8080/", "10.0.0.1:8080"),
        ("ws://[fd00::1]:8080/", "[fd00::1]:8080"),
        ("ws://bücher.invalid/", "xn--bcher-kva.invalid:80"),
    ],
)
def test_what_the_proxy_is_asked_for(
    proxied: tuple[Listener, Plugin], url: str, target: str
) -> None:
    listener, plugin = proxied
    id = plugin.create(url)
    with listener.accept() as peer:
        connect_through(peer, target)
        peer.read_request()
    plugin.event(id, "error")
    plugin.event(id, "close")


def test_tls_through_a_proxy(authority: Authority) -> None:
    context = authority.context("server.invalid")
    options = ("--ca-file", authority.file)
    with Listener() as listener, start("--proxy", proxy_url(listener), *options) as plugin:
        id = plugin.create(f"wss://{BEHIND}/")
        with listener.accept() as peer:
            connect_through(peer)
            converse(plugin, id, secure(peer, context))


def test_tls_failures_behind_a_proxy_are_the_server_s(
    authority: Authority, stranger: Authority
) -> None:
    options = ("--ca-file", authority.file)
    contexts = [authority.context("other.invalid"), stranger.context("server.invalid"), None]
    with Listener() as listener, start("--proxy", proxy_url(listener), *options) as plugin:
        for context in contexts:
            id = plugin.create(f"wss://{BEHIND}/")
            with listener.accept() as peer:
                connect_through(peer)
                with contextlib.suppress(OSError):
                    if context:
                        secure(peer, context)
            error = plugin.event(id, "error")
            assert error["code"] == "tls-error"
            assert BEHIND in error["errMsg"]
            plugin.event(id, "close")


PROXY_FAILURES = {
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
    "403": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nno no",
    "502": b"HTTP/1.0 502 Bad Gateway\r\n\r\n<html>",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://evil.invalid/\r\n\r\n",
    "informational": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "garbage": b"\x00\x01\x02\r\n\r\n",
    "other protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "half an answer": b"HTTP/1.1 200 OK\r\nX-A",
    "bad header": b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "nothing": b"",
}


@pytest.fixture(scope="module", name="proxied")
def _proxied() -> Iterator[tuple[Listener, Plugin]]:
    with Listener() as listener, start("--proxy", proxy_url(listener)) as plugin:
        yield listener, plugin
        assert plugin.finish() == ([], 0)
        assert b"Traceback" not in plugin.stderr


@pytest.mark.parametrize("how", PROXY_FAILURES)
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_proxy_that_refuses_or_fails(
    proxied: tuple[Listener, Plugin], how: str, scheme: str
) -> None:
    listener, plugin = proxied
    id = plugin.create(f"{scheme}://{BEHIND}/")
    with listener.accept() as peer:
        peer.read_request()
        peer.send(PROXY_FAILURES[how])
        peer.sock.shutdown(socket.SHUT_WR)
        error = plugin.event(id, "error")
    assert error["code"] == "proxy-error"
    assert "proxy" in error["errMsg"]
    # Status and headers are of the server's answer, and this was not the server.
    assert "status" not in error
    if how.isdigit():
        assert how in error["errMsg"]
    close = plugin.event(id, "close")
    assert (close["code"], close["cause"]) == (1006, "failure")


def test_proxy_that_refuses_and_keeps_the_connection(proxied: tuple[Listener, Plugin]) -> None:
    listener, plugin = proxied
    id = plugin.create(f"ws://{BEHIND}/")
    with listener.accept() as peer:
        peer.read_request()
        peer.send(b"HTTP/1.1 407 No\r\nContent-Length: 1000000\r\n\r\n")
        assert plugin.event(id, "error")["code"] == "proxy-error"
        plugin.event(id, "close")
        peer.expect_end()


def test_proxy_that_cannot_be_reached() -> None:
    with Listener() as listener:
        url = proxy_url(listener)
    with start("--proxy", url) as plugin:
        for scheme in ("ws", "wss"):
            code, message = failure(plugin, f"{scheme}://{BEHIND}/")
            assert code == "proxy-error"
            assert "proxy" in message


def test_proxy_that_resets() -> None:
    with Listener() as listener, start("--proxy", proxy_url(listener)) as plugin:
        id = plugin.create(f"ws://{BEHIND}/")
        peer = listener.accept()
        peer.read_request()
        peer.reset()
        assert plugin.event(id, "error")["code"] == "proxy-error"


def test_proxy_that_never_answers(proxied: tuple[Listener, Plugin]) -> None:
    listener, plugin = proxied
    assert failure(plugin, f"ws://{BEHIND}/", timeout=100)[0] == "open-timeout"
    with listener.accept() as peer:
        peer.expect_end()


@pytest.mark.parametrize("how", ["close", "reset", "refuse"])
def test_server_behind_a_proxy_fails_in_its_own_name(
    proxied: tuple[Listener, Plugin], how: str
) -> None:
    listener, plugin = proxied
    id = plugin.create(f"ws://{BEHIND}/")
    with listener.accept() as peer:
        connect_through(peer)
        peer.read_request()
        if how == "refuse":
            peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif how == "reset":
            peer.reset()
        else:
            peer.close()
        error = plugin.event(id, "error")
    assert error["code"] == ("handshake-failed" if how == "refuse" else "network-error")
    assert error.get("status") == (404 if how == "refuse" else None)
    plugin.event(id, "close")


CREDENTIALS = "me%40home:s3cret%2Fpass%3A1@"
BASIC = "Basic " + base64.b64encode(b"me@home:s3cret/pass:1").decode()


@pytest.mark.parametrize("status", ["200 OK", "407 Proxy Authentication Required", "garbage"])
def test_credentials_reach_the_proxy_and_nothing_else(status: str) -> None:
    options = ("--log-level", "debug")
    with Listener() as listener:
        url = proxy_url(listener, user=CREDENTIALS)
        with start("--proxy", url, *options) as plugin:
            id = plugin.create(f"ws://{BEHIND}/")
            lines: list[Any] = []
            with listener.accept() as peer:
                peer.read_request()
                assert peer.header("proxy-authorization") == BASIC
                # It sends back what it was sent.
                echoed = f"{BASIC} {CREDENTIALS}"
                peer.send(f"HTTP/1.1 {status}\r\nX-A: {echoed}\r\n\r\n".encode())
                if status == "200 OK":
                    peer.handshake()
                    assert peer.header("proxy-authorization") is None
                    plugin.event(id, "open")
                else:
                    lines = [plugin.event(id, "error"), plugin.event(id, "close")]
            rest, _ = plugin.finish()
        assert plugin.stderr
    for secret in ("s3cret", "me@home", "me%40home", BASIC.split()[1]):
        assert secret not in repr((lines, rest))
        assert secret.encode() not in plugin.stderr


@pytest.mark.parametrize(
    ("variable", "scheme"),
    [
        *((name, "ws") for name in ("ws_proxy", "http_proxy", "HTTP_PROXY", "all_proxy")),
        *((name, "wss") for name in ("wss_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY")),
    ],
)
def test_proxy_of_the_environment(variable: str, scheme: str) -> None:
    with Listener() as listener, start(**{variable: proxy_url(listener)}) as plugin:
        plugin.create(f"{scheme}://{BEHIND}/")
        with listener.accept() as peer:
            connect_through(peer)


def test_option_goes_before_the_environment() -> None:
    with Listener() as listener, Listener() as other:
        with start("--proxy", proxy_url(listener), https_proxy=proxy_url(other)) as plugin:
            plugin.create(f"ws://{BEHIND}/")
            with listener.accept() as peer:
                connect_through(peer)
        expect_nobody(other)


# On Linux this address reaches the loopback without being one of it.
NO_LOOPBACK = "0.0.0.0"
linux = pytest.mark.skipif(sys.platform != "linux", reason="connects to 0.0.0.0")


@linux
@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (("--proxy", "none"), {"http_proxy": "{}", "https_proxy": "{}", "ws_proxy": "{}"}),
        ((), {"http_proxy": "{}", "no_proxy": NO_LOOPBACK}),
        ((), {"http_proxy": "{}", "NO_PROXY": "a.example, 0.0.0.0"}),
        ((), {"http_proxy": "{}", "no_proxy": "*"}),
        ((), {}),
    ],
)
def test_no_proxy(options: tuple[str, ...], variables: dict[str, str]) -> None:
    with Listener() as proxy, Listener() as listener:
        urls = {name: value.format(proxy_url(proxy)) for name, value in variables.items()}
        with start(*options, **urls) as plugin:
            id = plugin.create(f"ws://{NO_LOOPBACK}:{listener.port}/")
            with listener.accept() as peer:
                peer.handshake()
                plugin.event(id, "open")
        expect_nobody(proxy)


@pytest.mark.parametrize("source", ["option", "environment"])
def test_loopback_never_goes_through_a_proxy(source: str) -> None:
    with Listener() as proxy, Listener() as listener:
        url = proxy_url(proxy)
        from_option = source == "option"
        with start("--proxy", url) if from_option else start(http_proxy=url) as plugin:
            for host in ("localhost", "LOCALHOST", "app.localhost", "127.0.0.1", "127.1", "0x7f.1"):
                id = plugin.create(f"ws://{host}:{listener.port}/")
                with listener.accept() as peer:
                    peer.handshake()
                    plugin.event(id, "open")
                plugin.event(id, "error")
                plugin.event(id, "close")
        expect_nobody(proxy)


def test_behind_a_proxy_only_literal_addresses_are_judged() -> None:
    with (
        Listener() as listener,
        start("--proxy", proxy_url(listener), "--block-private") as plugin,
    ):
        for host in ("10.0.0.1", "0xa.1", "[fd00::1]", "127.0.0.1"):
            answer = plugin.request("websocket-create", {"url": f"ws://{host}/"})
            assert answer["error"]["code"] == "forbidden"
        plugin.create(f"ws://{BEHIND}/")
        with listener.accept() as peer:
            connect_through(peer)


@pytest.mark.parametrize("url", ["ftp://me:s3cret@proxy", "nonsense s3cret", "http://s3cret@proxy"])
def test_proxy_of_the_environment_that_is_no_proxy(url: str) -> None:
    with start("--log-level", "debug", http_proxy=url) as plugin:
        code, message = failure(plugin, f"ws://{BEHIND}/")
        plugin.finish()
    assert code == "proxy-error"
    assert "s3cret" not in message
    assert b"s3cret" not in plugin.stderr


# --- https:// proxies ---------------------------------------------------------------------------


def test_proxy_over_tls(authority: Authority) -> None:
    context = authority.context("localhost")
    with Listener() as listener:
        url = proxy_url(listener, "https", CREDENTIALS)
        with start("--proxy", url, "--ca-file", authority.file) as plugin:
            id = plugin.create(f"ws://{BEHIND}/")
            with secure(listener.accept(), context) as peer:
                connect_through(peer)
                assert peer.header("proxy-authorization") == BASIC
                converse(plugin, id, peer)


def test_proxy_over_tls_that_is_not_trusted(authority: Authority, stranger: Authority) -> None:
    acts: list[Callable[[Peer], Any]] = [
        lambda peer: secure(peer, stranger.context("localhost")),
        lambda peer: secure(peer, authority.context("other.invalid")),
        say(b"HTTP/1.1 200 OK\r\n\r\n"),
        lambda peer: None,
    ]
    for act in acts:
        with tls_server(act) as listener:
            url = proxy_url(listener, "https")
            with start("--proxy", url, "--ca-file", authority.file) as plugin:
                code, message = failure(plugin, f"ws://{BEHIND}/")
        assert code == "proxy-error"
        assert "proxy" in message


# --- SOCKS --------------------------------------------------------------------------------------

WITHOUT_SOCKS = """
import sys
sys.modules["python_socks"] = None
from wsplugin.cli import main
main()
"""


@pytest.mark.parametrize(
    ("scheme", "source"), [("socks4a", "option"), ("socks5h", "option"), ("socks5", "environment")]
)
def test_socks_without_its_package_says_which(scheme: str, source: str) -> None:
    url = f"{scheme}://me:s3cret@localhost:1"
    options = ["--proxy", url] if source == "option" else []
    variables = {} if options else {"all_proxy": url}
    with Plugin(
        *("--allow-insecure", "--log-level", "debug", *options),
        command=[sys.executable, "-c", WITHOUT_SOCKS],
        env=environment(**variables),
    ) as plugin:
        code, message = failure(plugin, f"ws://{BEHIND}/")
        plugin.finish()
    assert code == "proxy-error"
    assert "python-socks" in message
    assert "s3cret" not in message
    assert b"s3cret" not in plugin.stderr


@pytest.mark.parametrize("user", ["\u00fcser:s3cret", "user:" + "s3cret" * 50])
def test_credentials_that_cannot_be_said_in_socks(user: str) -> None:
    def act(peer: Peer) -> None:
        assert peer.read_exact(4) == b"\x05\x02\x00\x02"
        peer.send(b"\x05\x02")  # user and password, please
        peer.expect_end()

    with tls_server(act) as listener:
        url = proxy_url(listener, "socks5h", urllib.parse.quote(user, safe=":") + "@")
        with start("--proxy", url) as plugin:
            code, message = failure(plugin, f"ws://{BEHIND}/")
            plugin.finish()
    assert code == "proxy-error"
    assert "cannot be said in SOCKS" in message
    assert "s3cret" not in message
