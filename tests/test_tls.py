"""TLS: what is trusted, and what each failure is called."""

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from harness import TEXT, Listener, Peer, Plugin, close_frame, frame
from host_lines import close, done, send
from situations import failure
from tls_servers import (
    Authority,
    accepting,
    read_hello,
    read_hello_and_reset,
    say,
    secure,
    tls_server,
)


@pytest.fixture(scope="module", name="trusting")
def _trusting(authority: Authority) -> Iterator[Plugin]:
    """A plugin that trusts the authority, for many tests: a start with TLS takes its time."""
    with Plugin("--ca-file", authority.file) as plugin:
        yield plugin
        assert plugin.finish() == ([], 0)
        assert plugin.stderr == b""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST", "127.1"])
def test_conversation_over_tls(authority: Authority, trusting: Plugin, host: str) -> None:
    context = authority.context("localhost", "127.0.0.1")
    plugin = trusting
    with Listener() as listener:
        id = plugin.create(f"wss://{host}:{listener.port}/")
        with secure(listener.accept(), context) as peer:
            peer.handshake("X-A: 1", glued=frame(TEXT, b"first"))
            assert plugin.event(id, "open")["headers"]["x-a"] == "1"
            assert plugin.event(id, "message")["data"] == "first"
            big = "0123456789" * 100_000
            plugin.send(send(id, big, "big"))
            assert peer.read_frame() == (0x80 | TEXT, big.encode())
            assert plugin.read() == done("big")
            peer.send(frame(TEXT, big.encode()))
            assert plugin.event(id, "message")["data"] == big
            plugin.send(close(id, 4000, "bye"))
            assert plugin.read() == done("close")
            peer.expect_close(4000, "bye")
            peer.send(close_frame(4000, "bye"))
        assert plugin.event(id, "close") == {"code": 4000, "reason": "bye", "cause": "host"}


def test_server_name_indication(authority: Authority, trusting: Plugin) -> None:
    names = []
    context = authority.context("localhost")
    context.sni_callback = lambda sock, name, context: names.append(name)
    with tls_server(accepting(context)) as listener:
        trusting.event(id := trusting.create(f"wss://LocalHost:{listener.port}/"), "open")
    assert trusting.event(id, "error")["code"] == "network-error"
    trusting.event(id, "close")
    assert names == ["localhost"]


LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)

# What the certificate is for and who has issued it, where it connects to, the verifier's words.
REFUSED_CERTIFICATES: list[tuple[str, list[str], dict[str, Any], str, str]] = [
    ("stranger", ["localhost"], {}, "localhost", "unable to get local issuer certificate"),
    ("authority", ["other.example"], {}, "localhost", "Hostname mismatch"),
    ("authority", ["*.localhost"], {}, "localhost", "Hostname mismatch"),
    ("authority", ["localhost"], {}, "127.0.0.1", "IP address mismatch"),
    ("authority", ["127.0.0.2"], {}, "127.0.0.1", "IP address mismatch"),
    ("authority", ["127.0.0.1"], {}, "localhost", "Hostname mismatch"),
    ("authority", ["localhost"], {"not_after": LONG_AGO}, "localhost", "certificate has expired"),
    (
        "authority",
        ["localhost"],
        {"not_before": datetime.now(UTC) + timedelta(days=1)},
        "localhost",
        "certificate is not yet valid",
    ),
]


@pytest.mark.parametrize(("issuer", "names", "options", "host", "words"), REFUSED_CERTIFICATES)
def test_certificate_that_is_refused(
    trusting: Plugin,
    authority: Authority,
    stranger: Authority,
    issuer: str,
    names: list[str],
    options: dict[str, Any],
    host: str,
    words: str,
) -> None:
    context = {"authority": authority, "stranger": stranger}[issuer].context(*names, **options)
    with tls_server(accepting(context)) as listener:
        code, message = failure(trusting, f"wss://{host}:{listener.port}/")
    assert code == "tls-error"
    assert words in message


def test_private_authority_is_not_trusted_unasked(authority: Authority) -> None:
    context = authority.context("localhost")
    with tls_server(accepting(context)) as listener, Plugin() as plugin:
        code, message = failure(plugin, f"wss://localhost:{listener.port}/")
    assert code == "tls-error"
    assert "certificate verify failed" in message


def test_ca_file_is_trusted_in_addition_to_the_system_s_roots(
    authority: Authority, stranger: Authority
) -> None:
    environment = {**os.environ, "SSL_CERT_FILE": stranger.file}
    with Plugin("--ca-file", authority.file, env=environment) as plugin:
        for issuer in (authority, stranger):
            context = issuer.context("localhost")
            with tls_server(accepting(context)) as listener:
                plugin.event(id := plugin.create(f"wss://localhost:{listener.port}/"), "open")
            assert plugin.event(id, "error")["code"] == "network-error"
            plugin.event(id, "close")


BROKEN_HANDSHAKES: dict[str, Callable[[Peer], None]] = {
    "closed at once": lambda peer: None,
    "closed": read_hello,
    "reset": read_hello_and_reset,
    "closed within a record": say(b"\x16\x03\x03\x00\x7a\x02"),
    "alert": say(b"\x15\x03\x03\x00\x02\x02\x28"),
    "plain text": say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "plain text that accepts": say(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    "garbage": say(b"\x00" * 100),
}


@pytest.mark.parametrize("how", BROKEN_HANDSHAKES)
def test_broken_tls_handshake(trusting: Plugin, how: str) -> None:
    with tls_server(BROKEN_HANDSHAKES[how]) as listener:
        code, message = failure(trusting, f"wss://localhost:{listener.port}/")
    assert code == "tls-error"
    assert f"localhost:{listener.port}" in message


def test_certificate_of_the_client_is_missed(authority: Authority, trusting: Plugin) -> None:
    """With TLS 1.3 the server's refusal comes only after the handshake has been done."""
    context = authority.context("localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    with tls_server(accepting(context)) as listener:
        code, _ = failure(trusting, f"wss://localhost:{listener.port}/")
    # The alert says so, unless the reset that follows it overtakes it.
    assert code in ("tls-error", "network-error")


def test_tls_handshake_that_is_never_answered(trusting: Plugin) -> None:
    with Listener() as listener:
        code, _ = failure(trusting, f"wss://localhost:{listener.port}/", timeout=100)
    assert code == "open-timeout"


def test_nothing_listens(trusting: Plugin) -> None:
    with Listener() as listener:
        port = listener.port
    assert failure(trusting, f"wss://localhost:{port}/")[0] == "network-error"


@pytest.mark.parametrize("notified", [False, True])
@pytest.mark.parametrize("opened", [False, True])
def test_tls_connection_that_just_ends(
    authority: Authority, trusting: Plugin, opened: bool, notified: bool
) -> None:
    """With close_notify or without: ended without a Close frame, or without an answer."""
    context = authority.context("localhost")
    plugin = trusting
    with Listener() as listener:
        id = plugin.create(f"wss://localhost:{listener.port}/")
        peer = secure(listener.accept(), context)
        if opened:
            peer.handshake()
            plugin.event(id, "open")
        else:
            peer.read_request()
        if notified:
            with contextlib.suppress(OSError):
                assert isinstance(peer.sock, ssl.SSLSocket)
                peer.sock.unwrap()
        peer.close()
        assert plugin.event(id, "error")["code"] == "network-error"
        close = plugin.event(id, "close")
        assert (close["code"], close["cause"]) == (1006, "failure")
