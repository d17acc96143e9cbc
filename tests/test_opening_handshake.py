"""The opening handshake: what a server is asked, and what is made of its answer.

RFC 6455 section 4 says what a client must accept and refuse. What the host may ask for is tested
with the policy; servers that do not answer have ``test_opening_failures.py``.
"""

import base64
import re
import socket
from typing import Any

import pytest

from harness import CLOSE, TEXT, Listener, Peer, Plugin, close_frame, frame
from host_lines import close
from situations import end_open, expect_error


def refuse(plugin: Plugin, server: Listener, response: bytes, **options: Any) -> Any:
    """Answer the request; return the `error` event, after which TCP must have ended."""
    id = plugin.create(server.url, **options)
    with server.accept() as peer:
        peer.read_request()
        peer.send(response)
        error = expect_error(plugin, id, "handshake-failed")
        peer.expect_end()
    return error


# --- what the server is asked ---


def test_request(plugin: Plugin, server: Listener) -> None:
    url = f"{server.url}path/to?q=1&r=%20"
    id = plugin.create(url, headers={"X-Own": "a"}, protocols=["b", "a"])
    with server.accept() as peer:
        head, *lines = peer.read_request().decode().split("\r\n")
    assert head == "GET /path/to?q=1&r=%20 HTTP/1.1"
    fields = dict(line.lower().split(": ", 1) for line in lines)
    assert len(fields) == len(lines)
    assert fields["host"] == f"127.0.0.1:{server.port}"
    assert fields["upgrade"] == "websocket"
    assert fields["connection"] == "upgrade"
    assert fields["sec-websocket-version"] == "13"
    assert fields["sec-websocket-protocol"] == "b, a"
    assert fields["content-type"] == "application/json"
    assert re.fullmatch(r"wsplugin/\d+\.\d+.*", fields["user-agent"])
    assert fields["x-own"] == "a"
    assert "origin" not in fields
    expect_error(plugin, id, "network-error")


def test_keys_are_random(plugin: Plugin, server: Listener) -> None:
    keys = set()
    for _ in range(10):
        id = plugin.create(server.url)
        with server.accept() as peer:
            peer.read_request()
            keys.add(peer.header("Sec-WebSocket-Key"))
        expect_error(plugin, id, "network-error")
    assert len(keys) == 10
    assert all(key and len(base64.b64decode(key)) == 16 for key in keys)


@pytest.mark.parametrize(
    ("headers", "name", "value"),
    [
        ({}, "Content-Type", "application/json"),
        ({"content-TYPE": "text/plain"}, "Content-Type", "text/plain"),
        ({"user-agent": "mine"}, "User-Agent", "mine"),
        ({"Authorization": "Bearer x"}, "Authorization", "Bearer x"),
        ({"Origin": "https://example.com"}, "Origin", "https://example.com"),
        ({"X-Latin": "é ÿ"}, "X-Latin", "é ÿ"),
        ({"X-Empty": ""}, "X-Empty", ""),
    ],
)
def test_headers_of_the_host(
    plugin: Plugin, server: Listener, headers: dict[str, str], name: str, value: str
) -> None:
    id = plugin.create(server.url, headers=headers)
    with server.accept() as peer:
        request = peer.read_request().decode("latin-1").lower()
        assert peer.header(name) == value
        assert request.count(f"\r\n{name.lower()}:") == 1
    expect_error(plugin, id, "network-error")


def test_no_protocols(plugin: Plugin, server: Listener) -> None:
    both: list[dict[str, Any]] = [{}, {"protocols": []}]
    for options in both:
        id = plugin.create(server.url, **options)
        with server.accept() as peer:
            peer.read_request()
            assert peer.header("Sec-WebSocket-Protocol") is None
        expect_error(plugin, id, "network-error")


# --- other responses than 101 ---


@pytest.mark.parametrize(
    "status",
    [200, 201, 204, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 407, 426, 429, 500, 503, 599],
)
@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"Content-Length: 0\r\n\r\n",
        b"Content-Length: 5\r\n\r\nsorry",
        b"Content-Length: 1000000\r\n\r\nnever all of it",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nsor",
        b"\r\nno end in sight",
    ],
)
def test_status(plugin: Plugin, server: Listener, status: int, body: bytes) -> None:
    """Told at once, whether or not the server fulfils what it announces or ends TCP."""
    response = b"HTTP/1.1 %d Because\r\nX-Why: secret\r\n%s" % (status, body)
    error = refuse(plugin, server, response)
    assert error["status"] == status
    assert error["headers"]["x-why"] == "secret"
    # What a server says may repeat what it was sent.
    assert "secret" not in error["errMsg"]
    assert str(status) in error["errMsg"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(plugin: Plugin, server: Listener, status: int) -> None:
    with Listener() as other:
        response = f"HTTP/1.1 {status} Moved\r\nLocation: {other.url}\r\n\r\n"
        error = refuse(plugin, server, response.encode())
        assert error["status"] == status
        assert error["headers"]["location"] == other.url
        for listener in (server, other):
            listener.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.sock.accept()
            listener.sock.settimeout(20)


def test_headers_of_a_refusal(plugin: Plugin, server: Listener) -> None:
    response = (
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nwww-authenticate: Bearer\r\n"
        b"Set-Cookie: a=1; Path=/\r\nset-cookie: b=2\r\nX-Latin: \xe9\r\nX-Empty:\r\n\r\n"
    )
    assert refuse(plugin, server, response)["headers"] == {
        "www-authenticate": "Basic, Bearer",
        "set-cookie": "a=1; Path=/\nb=2",
        "x-latin": "é",
        "x-empty": "",
    }


@pytest.mark.parametrize("slowly", [False, True])
def test_refusal_and_end_of_tcp(plugin: Plugin, server: Listener, slowly: bool) -> None:
    id = plugin.create(server.url)
    with server.accept() as peer:
        peer.read_request()
        response = b"HTTP/1.0 403 Forbidden\r\n\r\nno"
        if slowly:
            send_slowly(peer, response[:-2])
        else:
            peer.send(response)
    assert expect_error(plugin, id, "handshake-failed")["status"] == 403


# --- 101, but not a WebSocket handshake (section 4.1) ---

UPGRADE, CONNECTION = "Upgrade: websocket", "Connection: Upgrade"

NO_HANDSHAKE = {
    "no Upgrade": (CONNECTION, "{accept}"),
    "no Connection": (UPGRADE, "{accept}"),
    "no accept key": (UPGRADE, CONNECTION),
    "nothing": (),
    "another Upgrade": ("Upgrade: h2c", CONNECTION, "{accept}"),
    "two Upgrades": (UPGRADE, "Upgrade: h2c", CONNECTION, "{accept}"),
    "a list of Upgrades": ("Upgrade: websocket, h2c", CONNECTION, "{accept}"),
    "Connection: close": (UPGRADE, "Connection: close", "{accept}"),
    "Connection: keep-alive": (UPGRADE, "Connection: keep-alive", "{accept}"),
    "wrong accept key": (UPGRADE, CONNECTION, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    "empty accept key": (UPGRADE, CONNECTION, "Sec-WebSocket-Accept:"),
    "the key itself": (UPGRADE, CONNECTION, "Sec-WebSocket-Accept: {key}"),
    "the accept key in lower case": (UPGRADE, CONNECTION, "{lower}"),
    "two accept keys": (UPGRADE, CONNECTION, "{accept}", "{accept}"),
    "a subprotocol not asked for": (UPGRADE, CONNECTION, "{accept}", "Sec-WebSocket-Protocol: c"),
    "two subprotocols": (UPGRADE, CONNECTION, "{accept}", "Sec-WebSocket-Protocol: a, b"),
    "a subprotocol in another case": (UPGRADE, CONNECTION, "{accept}", "Sec-WebSocket-Protocol: A"),
    "an unknown extension": (UPGRADE, CONNECTION, "{accept}", "Sec-WebSocket-Extensions: foo"),
    "an unknown extension too": (
        *(UPGRADE, CONNECTION, "{accept}"),
        "Sec-WebSocket-Extensions: permessage-deflate, foo",
    ),
    "an extension twice": (
        *(UPGRADE, CONNECTION, "{accept}"),
        "Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate",
    ),
    **{
        f"permessage-deflate with {parameters}": (
            *(UPGRADE, CONNECTION, "{accept}"),
            f"Sec-WebSocket-Extensions: permessage-deflate; {parameters}",
        )
        for parameters in (
            "unknown",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=010",
            "client_max_window_bits",
            "client_max_window_bits=7",
            "client_max_window_bits=x",
            "server_no_context_takeover=1",
            "server_no_context_takeover; server_no_context_takeover",
        )
    },
    "broken extensions": (UPGRADE, CONNECTION, "{accept}", "Sec-WebSocket-Extensions: ;=,"),
    "broken subprotocol": (UPGRADE, CONNECTION, "{accept}", "Sec-WebSocket-Protocol: a b"),
    "broken Connection": (UPGRADE, "Connection: Up grade", "{accept}"),
}


def answer(
    peer: Peer, lines: tuple[str, ...], status: str = "HTTP/1.1 101 OK", *, slowly: bool = False
) -> None:
    """Send a response to the request read, with the right accept key for its placeholder."""
    right = re.search(r"Sec-WebSocket-Accept: (.*)\r\n", peer.response().decode())
    assert right
    values = {
        "accept": f"Sec-WebSocket-Accept: {right[1]}",
        "key": peer.header("Sec-WebSocket-Key"),
        "lower": f"Sec-WebSocket-Accept: {right[1].lower()}",
    }
    text = "".join(f"{line}\r\n" for line in (status, *lines, ""))
    response = text.format(**values).encode("latin-1")
    if slowly:
        send_slowly(peer, response)
    else:
        peer.send(response)


def send_slowly(peer: Peer, data: bytes) -> None:
    """Send every byte by itself."""
    peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in data:
        peer.send(bytes([byte]))


@pytest.mark.parametrize("lines", NO_HANDSHAKE.values(), ids=NO_HANDSHAKE)
def test_no_handshake(plugin: Plugin, server: Listener, lines: tuple[str, ...]) -> None:
    """The plugin ends TCP; the server need not."""
    id = plugin.create(server.url, protocols=["a", "b"])
    with server.accept() as peer:
        peer.read_request()
        answer(peer, lines)
        error = expect_error(plugin, id, "handshake-failed")
        peer.expect_end()
    assert "status" not in error


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/2", "HTTP/1.2", "http/1.1", "ICY", "HTTP"])
def test_other_versions_of_http(plugin: Plugin, server: Listener, protocol: str) -> None:
    id = plugin.create(server.url)
    with server.accept() as peer:
        peer.read_request()
        answer(peer, (UPGRADE, CONNECTION, "{accept}"), f"{protocol} 101 Switching Protocols")
        expect_error(plugin, id, "handshake-failed")
        peer.expect_end()


def test_extension_not_offered(plugin: Plugin, server: Listener) -> None:
    id = plugin.create(server.url, perMessageDeflate=False)
    with server.accept() as peer:
        peer.handshake("Sec-WebSocket-Extensions: permessage-deflate")
        expect_error(plugin, id, "handshake-failed")


def test_subprotocol_not_offered(plugin: Plugin, server: Listener) -> None:
    id = plugin.create(server.url)
    with server.accept() as peer:
        peer.handshake("Sec-WebSocket-Protocol: a")
        expect_error(plugin, id, "handshake-failed")


# --- what is no HTTP at all ---

GARBAGE = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "zeros": bytes(10_000),
    "high bytes": b"\xff" * 10_000,
    "line feeds": b"\n" * 1000,
    "frames": frame(TEXT, b"hello") + b"\r\n\r\n",
    "TLS alert": b"\x15\x03\x03\x00\x02\x02\x28\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 OK 101\r\n\r\n",
    "status 99": b"HTTP/1.1 99 Low\r\n\r\n",
    "status 1010": b"HTTP/1.1 1010 High\r\n\r\n",
    "lines that end with LF alone": b"HTTP/1.1 101 OK\nUpgrade: websocket\n\n",
    "a field without colon": b"HTTP/1.1 101 OK\r\nUpgrade\r\n\r\n",
    "a field without name": b"HTTP/1.1 101 OK\r\n: websocket\r\n\r\n",
    "a blank in a name": b"HTTP/1.1 101 OK\r\nUp grade: websocket\r\n\r\n",
    "a folded field": b"HTTP/1.1 101 OK\r\nX-Folded: a\r\n b\r\n\r\n",
    "a control character in a value": b"HTTP/1.1 101 OK\r\nX-Bell: \x07\r\n\r\n",
    "a bare CR in a value": b"HTTP/1.1 101 OK\r\nX-Bare: a\rb\r\n\r\n",
    "a status line without end": b"HTTP/1.1 101 " + b"a" * 100_000,
    "a long status line": b"HTTP/1.1 101 " + b"a" * 100_000 + b"\r\n\r\n",
    "a field without end": b"HTTP/1.1 101 OK\r\nX-Long: " + b"a" * 100_000,
    "a long field": b"HTTP/1.1 101 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
    "many fields": b"HTTP/1.1 101 OK\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    "fields without end": b"HTTP/1.1 403 No\r\n" + b"a: b\r\n" * 5000,
}


@pytest.mark.parametrize("response", GARBAGE.values(), ids=GARBAGE)
def test_garbage(plugin: Plugin, server: Listener, response: bytes) -> None:
    refuse(plugin, server, response)


# --- what is accepted ---

ACCEPTED = {
    "in lower case": ("upgrade: websocket", "connection: upgrade", "{accept}"),
    "in upper case": ("UPGRADE: WEBSOCKET", "CONNECTION: UPGRADE", "{accept}"),
    "among other options": (UPGRADE, "Connection: keep-alive, Upgrade", "{accept}"),
    "in two fields": (UPGRADE, "Connection: keep-alive", "Connection: upgrade", "{accept}"),
    "blanks": ("Upgrade:websocket", "Connection: \t Upgrade \t", "{accept}"),
    "no reason phrase": (UPGRADE, CONNECTION, "{accept}"),
    "a subprotocol": (UPGRADE, CONNECTION, "{accept}", "Sec-WebSocket-Protocol: b"),
    "many fields": (UPGRADE, CONNECTION, "{accept}", *(f"X-{n}: {n}" for n in range(100))),
    "a long field": (UPGRADE, CONNECTION, "{accept}", "X-Long: " + "a" * 8000),
}


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(plugin: Plugin, server: Listener, name: str, slowly: bool) -> None:
    id = plugin.create(server.url, protocols=["a", "b"])
    with server.accept() as peer:
        peer.read_request()
        status = "HTTP/1.1 101 " if name == "no reason phrase" else "HTTP/1.1 101 OK"
        answer(peer, ACCEPTED[name], status, slowly=slowly)
        headers = plugin.event(id, "open")["headers"]
        assert headers["upgrade"].lower() == "websocket"
        assert headers.get("sec-websocket-protocol") == ("b" if "protocol" in name else None)
        end_open(plugin, id, peer)


def test_fields_of_the_open_event(plugin: Plugin, server: Listener) -> None:
    """Names in lower case, repeated fields joined, `set-cookie` by a line feed."""
    id = plugin.create(server.url)
    with server.accept() as peer:
        peer.handshake(
            *("X-One: 1", "x-two: a", "X-TWO: b", "X-Two: c", "X-Empty:", "X-Latin: \xe9\xff"),
            *("Set-Cookie: a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "set-cookie: b=2"),
        )
        headers = plugin.event(id, "open")["headers"]
        assert re.fullmatch(r"[0-9A-Za-z+/]{27}=", headers.pop("sec-websocket-accept"))
        assert headers == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "x-one": "1",
            "x-two": "a, b, c",
            "x-empty": "",
            "x-latin": "\xe9\xff",
            "set-cookie": "a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT\nb=2",
        }
        end_open(plugin, id, peer)


@pytest.mark.parametrize("split", range(1, 12))
def test_messages_with_the_response(plugin: Plugin, server: Listener, split: int) -> None:
    """The first messages come in one piece with the response, cut anywhere near its end."""
    id = plugin.create(server.url)
    with server.accept() as peer:
        peer.read_request()
        data = peer.response() + frame(TEXT, b"one") + frame(TEXT, b"two")
        at = data.index(b"\r\n\r\n") - 2 + split
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.send(data[:at])
        peer.send(data[at:])
        plugin.event(id, "open")
        assert plugin.event(id, "message")["data"] == "one"
        assert plugin.event(id, "message")["data"] == "two"
        end_open(plugin, id, peer)


def test_ipv6(plugin: Plugin) -> None:
    with Listener("::1") as server:
        id = plugin.create(server.url)
        with server.accept() as peer:
            peer.handshake()
            assert peer.header("Host") == f"[::1]:{server.port}"
            plugin.event(id, "open")
            end_open(plugin, id, peer)


@pytest.mark.parametrize("host", ["localhost", "app.localhost", "a.b.localhost."])
def test_localhost(plugin: Plugin, server: Listener, host: str) -> None:
    """A name that is not looked up; whichever address refuses, another is tried."""
    id = plugin.create(f"ws://{host}:{server.port}/")
    with server.accept() as peer:
        peer.handshake()
        assert peer.header("Host") == f"{host}:{server.port}"
        plugin.event(id, "open")
        end_open(plugin, id, peer)


def test_failures_leave_the_plugin_as_it_was(plugin: Plugin, server: Listener) -> None:
    """Every refusal gives its place back."""
    for n in range(30):
        refuse(plugin, server, b"HTTP/1.1 500 Oops\r\n\r\n" if n % 2 else b"\r\n")
    id, peer = server.open(plugin)
    with peer:
        plugin.send(close(id, request=None))
        assert peer.read_frame()[0] == 0x80 | CLOSE
        peer.send(close_frame(1000))
    plugin.event(id, "close")
