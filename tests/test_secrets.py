"""What an app, a host or a server may hold secret appears in no log and in no error message.

Secret are: values of headers, the query of a URL, payloads, credentials of a proxy, and the user
information of a URL, which is refused. Servers that send back what they were sent are the worst
case: their words must not come out as the plugin's own.
"""

import base64
import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness import BINARY, CLOSE, TEXT, Listener, Peer, Plugin, close_frame, frame

LEVELS = ("debug", "info", "warning", "error", "critical")

# Each is found in whatever case, and as base64 where it would be sent as such.
QUERY, HEADER, TEXT_DATA, BINARY_DATA = "QuerySecret1", "HeaderSecret2", "TextSecret3", "BinSecret4"
USER, PROXY_USER, PROXY_PASSWORD = "UserSecret5", "ProxySecret6", "ProxySecret7"
REASON, PROTOCOL = "ReasonSecret8", "TokenSecret9"
SECRETS = (
    *(QUERY, HEADER, TEXT_DATA, BINARY_DATA, USER, PROXY_USER, PROXY_PASSWORD, REASON, PROTOCOL),
    base64.b64encode(f"{PROXY_USER}:{PROXY_PASSWORD}".encode()).decode(),
    base64.b64encode(BINARY_DATA.encode()).decode(),
    ", ".join(map(str, BINARY_DATA.encode())),
    ",".join(map(str, BINARY_DATA.encode())),
)


def found(text: str | bytes) -> list[str]:
    """Return the secrets that appear in a text."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return [secret for secret in SECRETS if secret.lower() in text.lower()]


def words(line: Any) -> list[str]:
    """Return what the plugin itself says in a line: errMsg, and the reason of a failure."""
    if "error" in line:
        return [line["error"]["errMsg"]]
    payload = line.get("payload", {}).get("payload", {})
    if "errMsg" in payload:
        return [payload["errMsg"]]
    if payload.get("cause") not in (None, "server", "host"):
        return [payload["reason"]]
    return []


OPTIONS: dict[str, Any] = {
    "headers": {"Authorization": f"Bearer {HEADER}", "X-A": HEADER},
    "protocols": [PROTOCOL],
}


def url(listener: Listener) -> str:
    return f"{listener.url}path?token={QUERY}"


# What a server can do with a request before it is open; all of it is in `request`.
Refusal = Callable[[Peer], bytes]


def reflected(peer: Peer) -> str:
    """Return the request on one line."""
    return peer.request.decode("latin-1").replace("\r\n", " ") + f" {QUERY} {HEADER} {PROTOCOL}"


def accepted(peer: Peer, *headers: str, drop: str = "") -> bytes:
    lines = peer.response(*headers).split(b"\r\n")
    return b"\r\n".join(line for line in lines if not drop or not line.startswith(drop.encode()))


REFUSALS: dict[str, Refusal] = {
    "raw request": lambda p: p.request + b"\r\n\r\n",
    "garbage": lambda p: reflected(p).encode() + b"\r\n\r\n",
    "as status line": lambda p: f"HTTP/1.1 {reflected(p)}\r\n\r\n".encode(),
    "as protocol": lambda p: f"{HEADER}/1.1 101 {HEADER}\r\n\r\n".encode(),
    "as status": lambda p: f"HTTP/1.1 {HEADER} OK\r\n\r\n".encode(),
    "as reason phrase": lambda p: f"HTTP/1.1 403 {reflected(p)}\r\n\r\n".encode(),
    "as reason phrase of bad bytes": lambda p: f"HTTP/1.1 403 {HEADER}\x01\r\n\r\n".encode(),
    "as body": lambda p: f"HTTP/1.1 400 X\r\nContent-Length: 5\r\n\r\n{reflected(p)}".encode(),
    "as header name": lambda p: accepted(p, f"{HEADER} {QUERY}: x"),
    "without colon": lambda p: accepted(p, reflected(p).replace(":", " ")),
    "as header value": lambda p: accepted(p, f"X: {reflected(p)}\x00"),
    "as folded header": lambda p: accepted(p, "X: 1", f" {reflected(p)}"),
    "as Upgrade": lambda p: accepted(p, f"Upgrade: {HEADER}", drop="Upgrade"),
    "as bad Upgrade": lambda p: accepted(p, f"Upgrade: {reflected(p)}", drop="Upgrade"),
    "as Connection": lambda p: accepted(p, f"Connection: {QUERY}", drop="Connection"),
    "as bad Connection": lambda p: accepted(p, f"Connection: {reflected(p)}", drop="Connection"),
    "as Accept": lambda p: accepted(p, f"Sec-WebSocket-Accept: {HEADER}", drop="Sec-"),
    "as second Accept": lambda p: accepted(p, f"Sec-WebSocket-Accept: {HEADER}"),
    "as extension": lambda p: accepted(p, f"Sec-WebSocket-Extensions: {HEADER}; a={QUERY}"),
    "as parameter": lambda p: accepted(
        p, f"Sec-WebSocket-Extensions: permessage-deflate; {HEADER}={QUERY}"
    ),
    "as window": lambda p: accepted(
        p, f"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits={QUERY}"
    ),
    "as bad extension": lambda p: accepted(p, f"Sec-WebSocket-Extensions: {reflected(p)}"),
    "as subprotocol": lambda p: accepted(p, f"Sec-WebSocket-Protocol: {HEADER}"),
    "as subprotocols": lambda p: accepted(p, f"Sec-WebSocket-Protocol: {PROTOCOL}, {HEADER}"),
    "as bad subprotocol": lambda p: accepted(p, f"Sec-WebSocket-Protocol: {reflected(p)}"),
    "as redirect": lambda p: f"HTTP/1.1 302 X\r\nLocation: ws://{HEADER}/?{QUERY}\r\n\r\n".encode(),
    "as length": lambda p: f"HTTP/1.1 200 X\r\nContent-Length: {HEADER}\r\n\r\n".encode(),
    "as encoding": lambda p: f"HTTP/1.1 200 X\r\nTransfer-Encoding: {HEADER}\r\n\r\n".encode(),
    "too long a line": lambda p: f"HTTP/1.1 101 X\r\nX: {HEADER * 2000}\r\n\r\n".encode(),
    "too many headers": lambda p: accepted(p, *[f"X: {HEADER}"] * 600),
}


@pytest.fixture(scope="module", name="plugin")
def _plugin() -> Iterator[Plugin]:
    with Plugin("--log-level", "debug") as plugin:
        yield plugin
        plugin.finish()
        assert found(plugin.stderr) == []


@pytest.mark.parametrize("how", REFUSALS)
def test_server_that_reflects_the_request_in_a_bad_answer(plugin: Plugin, how: str) -> None:
    with Listener() as listener:
        id = plugin.create(url(listener), **OPTIONS)
        with listener.accept() as peer:
            peer.read_request()
            peer.send(REFUSALS[how](peer))
            peer.sock.shutdown(socket.SHUT_WR)
            error, close = plugin.event(id, "error"), plugin.event(id, "close")
    assert error["code"] == "handshake-failed"
    # The status and headers of a refusal are the server's answer itself.
    assert found(error["errMsg"]) == []
    assert found(close["reason"]) == []


SECRET = f"{TEXT_DATA}{QUERY}{HEADER}".encode()

# Frames that end the connection with a failure, with secrets wherever there is room for them.
BAD_FRAMES: dict[str, bytes] = {
    "reserved opcode": frame(0x3, SECRET),
    "reserved bit": frame(TEXT, SECRET, rsv=2),
    "masked": frame(TEXT, SECRET, mask=b"abcd"),
    "bad UTF-8": frame(TEXT, SECRET + b"\xff" + SECRET),
    "bad UTF-8 in a fragment": frame(TEXT, SECRET + b"\xff", fin=False),
    "no continuation": frame(TEXT, SECRET, fin=False) + frame(TEXT, SECRET),
    "continuation of nothing": frame(0, SECRET),
    "long control frame": frame(9, SECRET * 10),
    "fragmented control frame": frame(9, SECRET, fin=False),
    "bad compression": frame(TEXT, SECRET, rsv=4),
    "close with a bad code": frame(CLOSE, struct.pack("!H", 1005) + SECRET),
    "close with bad UTF-8": frame(CLOSE, struct.pack("!H", 1000) + SECRET + b"\xff"),
    "close of one byte": frame(CLOSE, b"Q"),
    "too big": frame(BINARY, SECRET, length=2**40),
    "ends within a frame": frame(TEXT, SECRET, length=1000),
}


@pytest.mark.parametrize("how", BAD_FRAMES)
def test_server_that_reflects_what_it_knows_in_bad_frames(plugin: Plugin, how: str) -> None:
    with Listener() as listener:
        id = plugin.create(url(listener), **OPTIONS)
        with listener.accept() as peer:
            peer.handshake(f"Sec-WebSocket-Protocol: {PROTOCOL}")
            plugin.event(id, "open")
            peer.send(BAD_FRAMES[how])
            peer.sock.shutdown(socket.SHUT_WR)
            error, close = plugin.event(id, "error"), plugin.event(id, "close")
            with contextlib.suppress(EOFError, OSError):
                assert found(peer.expect_close()) == []
    assert close["cause"] == "failure"
    assert found(error["errMsg"]) == []
    assert found(close["reason"]) == []


WRONG_REQUESTS: list[dict[str, Any]] = [
    {"url": f"ws://{USER}:{USER}@127.0.0.1/?{QUERY}"},
    {"url": f"ws://127.0.0.1\\@{USER}/?{QUERY}"},
    {"url": f"http://127.0.0.1/?{QUERY}"},
    {"url": f"{QUERY}://127.0.0.1/"},
    {"url": f"ws://127.0.0.1:{QUERY}/"},
    {"url": f"ws://[{QUERY}/"},
    {"url": f"ws://127.0.0.1/?{QUERY}#{QUERY}"},
    {"url": f"ws://127.0.0.1/?{QUERY} "},
    {"url": f"ws://127.0.0.1:0/?{QUERY}"},
    {"url": f"ws://nowhere.example/?{QUERY}"},
    {"url": f"wss://127.0.0.1/{QUERY}", "timeout": -1},
    {"url": "ws://127.0.0.1/", "headers": {"Referer": HEADER}},
    {"url": "ws://127.0.0.1/", "headers": {"X-A": f"{HEADER}\r\n"}},
    {"url": "ws://127.0.0.1/", "headers": {"X-A": f"{HEADER}€"}},
    {"url": "ws://127.0.0.1/", "headers": {"X-A": HEADER, "x-a": HEADER}},
    {"url": "ws://127.0.0.1/", "headers": {"X-A": [HEADER]}},
    {"url": "ws://127.0.0.1/", "headers": [HEADER]},
    {"url": "ws://127.0.0.1/", "protocols": [f"{PROTOCOL} "]},
    {"url": "ws://127.0.0.1/", "protocols": [PROTOCOL, PROTOCOL]},
    {"url": [QUERY], "headers": {"X-A": HEADER}},
    {"id": "ws-1", "type": "text", "data": [TEXT_DATA]},
    {"id": "ws-1", "type": "base64", "data": f"{TEXT_DATA}!"},
    {"id": "ws-1", "type": "arraybuffer", "data": TEXT_DATA},
    {"id": "ws-1", "type": "arraybuffer", "data": [TEXT_DATA]},
    {"id": "ws-9999", "type": "text", "data": TEXT_DATA},
    {"id": "ws-9999", "code": 1000, "reason": REASON},
    {"id": "ws-1", "code": 1, "reason": REASON},
    {"id": "ws-1", "reason": REASON * 20},
    {"id": "ws-1", "reason": [REASON]},
]


@pytest.mark.parametrize("payload", WRONG_REQUESTS)
def test_wrong_requests(plugin: Plugin, payload: dict[str, Any]) -> None:
    if "id" not in payload:
        action = "websocket-create"
    else:
        action = "websocket-send" if "type" in payload else "websocket-close"
    answer = plugin.request(action, payload)
    assert found(answer["error"]["errMsg"]) == []


@pytest.mark.parametrize(
    "line",
    [
        '{"id":1,"action":"websocket-send","payload":{"id":"ws-1","type":"text","data":"%s}',
        '{"id":1,"action":"websocket-send","payload":{"id":"ws-1","type":"text","data":"%s\\ud800"}}',
        '{"id":1,"action":"websocket-send","payload":{"id":"ws-1","type":"text","data":"%s\x01"}}',
        "%s",
        '"%s"',
        '["%s"]',
    ],
)
def test_lines_that_are_no_requests(plugin: Plugin, line: str) -> None:
    plugin.write((line % TEXT_DATA).encode() + b"\n")
    error = plugin.read()["error"]
    assert found(error["errMsg"]) == []


def meet_servers_of_every_kind(plugin: Plugin, listener: Listener) -> list[Any]:
    """Succeed and fail in many ways, with secrets everywhere; return lines from the plugin.

    The plugin takes lines of 10,000 bytes and messages of 1,000.
    """
    lines: list[Any] = []
    # Everything goes well.
    id, peer = listener.open(plugin, f"Set-Cookie: {HEADER}", **OPTIONS)
    with peer:
        for message in (
            {"type": "text", "data": TEXT_DATA},
            {"type": "arraybuffer", "data": [*BINARY_DATA.encode()]},
            {"type": "base64", "data": base64.b64encode(BINARY_DATA.encode()).decode()},
        ):
            plugin.request("websocket-send", {"id": id, **message})
            peer.read_frame()
        peer.send(frame(TEXT, TEXT_DATA.encode()) + frame(BINARY, BINARY_DATA.encode()))
        peer.send(frame(9, TEXT_DATA.encode()))
        plugin.event(id, "message")
        plugin.event(id, "message")
        plugin.request("websocket-close", {"id": id, "reason": REASON})
        peer.expect_close(1000, REASON)
        peer.send(close_frame(1000, REASON))
        peer.sock.shutdown(socket.SHUT_RDWR)
        plugin.event(id, "close")
    # The server closes.
    id, peer = listener.open(plugin, **OPTIONS)
    with peer:
        peer.send(close_frame(4000, REASON))
        peer.expect_close()
        peer.sock.shutdown(socket.SHUT_RDWR)
        plugin.event(id, "close")
    # The server refuses, breaks off, breaks the protocol, sends too much.
    for act in (
        lambda p: (p.read_request(), p.send(f"HTTP/1.1 403 {HEADER}\r\n\r\n".encode())),
        lambda p: p.reset(),
        lambda p: p.handshake(glued=BAD_FRAMES["bad UTF-8"]),
        lambda p: p.handshake(glued=BAD_FRAMES["too big"]),
        lambda p: p.handshake(glued=BAD_FRAMES["close with a bad code"]),
    ):
        id = plugin.create(url(listener), **OPTIONS)
        with listener.accept() as peer:
            act(peer)
        while lines[-1:] != [id]:
            line = plugin.read()
            lines.append(line)
            if line["payload"]["name"] == "close":
                lines.append(id)
    lines += [plugin.request("websocket-create", payload) for payload in WRONG_REQUESTS]
    plugin.write(b'{"id":1,"x":"' + TEXT_DATA.encode() * 1000 + b'"}\n')
    lines.append(plugin.read())
    return [line for line in lines if isinstance(line, dict)]


@pytest.mark.parametrize("level", LEVELS)
def test_no_log_at_any_level_holds_a_secret(level: str) -> None:
    options = ("--log-level", level, "--max-line", "10000", "--max-message-size", "1000")
    with Plugin(*options) as plugin, Listener() as listener:
        lines = meet_servers_of_every_kind(plugin, listener)
        rest, status = plugin.finish()
        assert status == 0
    assert found(plugin.stderr) == []
    assert b"Traceback" not in plugin.stderr
    for line in [*lines, *rest]:
        for text in words(line):
            assert found(text) == []


def meet_proxies_of_every_kind(
    source: str, listener: Listener, start: Callable[..., Plugin] = Plugin
) -> None:
    """Fail in many ways at a proxy whose URL, from an option or the environment, has a password."""
    user = f"{PROXY_USER}:{PROXY_PASSWORD}"
    proxy = f"http://{user}@localhost:{listener.port}"
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    options = ["--allow-insecure", "--log-level", "debug"]
    if source == "option":
        options += ["--proxy", proxy]
    else:
        environment["http_proxy"] = environment["https_proxy"] = proxy
    with start(*options, env=environment) as plugin:
        for answer in (
            b"HTTP/1.1 407 %b\r\nX: %b\r\n\r\n",
            b"%b\r\n\r\n%b",
            b"HTTP/1.1 200 OK\r\n%b %b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: %b\r\n\r\nHTTP/1.1 400 %b\r\n\r\n",
        ):
            id = plugin.create("ws://server.invalid/")
            with listener.accept() as peer:
                peer.read_request()
                basic = (peer.header("proxy-authorization") or "").encode()
                assert basic
                peer.send(answer % (basic, basic))
                peer.sock.shutdown(socket.SHUT_WR)
                error, close = plugin.event(id, "error"), plugin.event(id, "close")
            assert found(error["errMsg"] + close["reason"]) == []
        listener.sock.close()
        id = plugin.create("ws://server.invalid/")
        error, close = plugin.event(id, "error"), plugin.event(id, "close")
        assert error["code"] == "proxy-error"
        assert found(error["errMsg"] + close["reason"]) == []
        plugin.finish()
    assert found(plugin.stderr) == []


@pytest.mark.parametrize("source", ["option", "environment"])
def test_proxy_credentials_on_every_way_to_fail(source: str) -> None:
    with Listener() as listener:
        meet_proxies_of_every_kind(source, listener)


def test_what_is_looked_for_would_be_found() -> None:
    for secret in SECRETS:
        assert secret in found(f"x{secret.upper()}y")
        assert secret in found(json.dumps({"a": secret}).encode())
    assert found("nothing") == []
