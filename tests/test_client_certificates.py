"""``--client-cert``: which certificate a server is shown, and who is shown none."""

import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness import PLUGIN, TIMEOUT, Listener, Plugin, environment
from situations import expect_error
from test_proxies import connect_through
from tls_servers import Authority, secure
from wsplugin.options import parse

HOSTS = ("localhost", "app.localhost", "other.localhost", "127.0.0.1", "server.invalid")


@pytest.fixture(scope="module", name="curious")
def _curious(authority: Authority) -> ssl.SSLContext:
    """A server that asks for a certificate and does without."""
    context = authority.context(*HOSTS)
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def shown(sock: object) -> str | None:
    """Return the name of the client, if it has shown its certificate."""
    assert isinstance(sock, ssl.SSLSocket)
    certificate: Any = sock.getpeercert()
    if not certificate:
        return None
    return str(dict(part[0] for part in certificate["subject"])["commonName"])


def shown_to(plugin: Plugin, context: ssl.SSLContext, host: str) -> str | None:
    """Open a connection; return the name of the client that its server has seen."""
    with Listener() as listener:
        id = plugin.create(f"wss://{host}:{listener.port}/")
        with secure(listener.accept(), context) as peer:
            peer.handshake()
            plugin.event(id, "open")
            name = shown(peer.sock)
        plugin.events_to_close(id)
    return name


# Options, with <a> and <b> for files; whom each host sees.
SHOWN: list[tuple[list[str], dict[str, str | None]]] = [
    ([], {"localhost": None}),
    (
        ["localhost=<a>", "*.localhost=<b>"],
        {"localhost": "a", "app.localhost": "b", "127.0.0.1": None},
    ),
    (["app.localhost=<a>", "*.localhost=<b>"], {"app.localhost": "a", "other.localhost": "b"}),
    (["*.localhost=<b>", "app.localhost=<a>"], {"app.localhost": "b"}),
    (["127.1=<a>"], {"127.0.0.1": "a", "2130706433": "a", "localhost": None}),
    (["LocalHost.=<a>"], {"localhost.": "a", "LOCALHOST": "a"}),
    (["localhost=<a>", "<b>"], {"localhost": "a", "127.0.0.1": "b"}),
    (["<b>", "localhost=<a>"], {"localhost": "b"}),
]


@pytest.mark.parametrize(("values", "hosts"), SHOWN, ids=lambda value: " ".join(value))
def test_who_is_shown_which(
    authority: Authority, curious: ssl.SSLContext, values: list[str], hosts: dict[str, str | None]
) -> None:
    options = ["--ca-file", authority.file]
    for host in ("localhost", "*.localhost", "127.0.0.1"):
        options += ["--allow-host", host]
    for value in values:
        for name in ("a", "b"):
            value = value.replace(f"<{name}>", authority.client_cert(name))
        options += ["--client-cert", value]
    with Plugin(*options) as plugin:
        assert {host: shown_to(plugin, curious, host) for host in hosts} == hosts


def test_server_that_insists(authority: Authority) -> None:
    context = authority.context("localhost")
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    options = ("--ca-file", authority.file, "--client-cert", f"localhost={authority.client_cert()}")
    with Plugin(*options) as plugin:
        assert shown_to(plugin, context, "localhost") == "client"


def test_a_proxy_is_shown_none(authority: Authority, curious: ssl.SSLContext) -> None:
    file = authority.client_cert()
    with (
        Listener() as listener,
        Plugin(
            *("--ca-file", authority.file, "--proxy", f"https://localhost:{listener.port}"),
            *("--client-cert", f"localhost={file}"),
            *("--allow-host", "server.invalid", "--client-cert", file),
            env=environment(),
        ) as plugin,
    ):
        id = plugin.create("wss://server.invalid/")
        with secure(listener.accept(), curious) as proxy:
            assert shown(proxy.sock) is None
            connect_through(proxy, "server.invalid:443")
        plugin.events_to_close(id)


def test_a_server_behind_a_proxy_is_shown_its_own(
    authority: Authority, curious: ssl.SSLContext
) -> None:
    with (
        Listener() as listener,
        Plugin(
            *("--ca-file", authority.file, "--proxy", f"http://localhost:{listener.port}"),
            *("--client-cert", f"server.invalid={authority.client_cert()}"),
            env=environment(),
        ) as plugin,
    ):
        id = plugin.create("wss://server.invalid/")
        with listener.accept() as peer:
            connect_through(peer, "server.invalid:443")
            secure(peer, curious).handshake()
            assert shown(peer.sock) == "client"
            plugin.event(id, "open")
        plugin.events_to_close(id)


# --- files --------------------------------------------------------------------------------------


def key(passphrase: bytes | None, form: serialization.PrivateFormat) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(serialization.Encoding.PEM, form, encryption)


ISSUED = trustme.CA().issue_cert("client@example.com")
(CERTIFICATE,) = (pem.bytes() for pem in ISSUED.cert_chain_pems)
KEY = ISSUED.private_key_pem.bytes()
PKCS8, TRADITIONAL = (
    serialization.PrivateFormat.PKCS8,
    serialization.PrivateFormat.TraditionalOpenSSL,
)
OTHER = key(None, PKCS8)

BAD_FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no usable certificate with its key in"),
    "text": (b"hello\n", "no usable certificate with its key in"),
    "certificate alone": (CERTIFICATE, "no usable certificate with its key in"),
    "key alone": (KEY, "no usable certificate with its key in"),
    "another key": (CERTIFICATE + OTHER, "is not that of its certificate"),
    "passphrase": (CERTIFICATE + key(b"s3cret", PKCS8), "has a passphrase"),
    "passphrase, old form": (CERTIFICATE + key(b"s3cret", TRADITIONAL), "has a passphrase"),
}


@pytest.mark.parametrize(("contents", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_status_2(
    contents: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "client ü.pem"
    file.write_bytes(contents)
    with pytest.raises(SystemExit) as caught:
        parse(["--client-cert", f"localhost={file}"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "argument --client-cert: " in error
    assert words in error
    assert str(file) in error


@pytest.mark.parametrize("contents", [CERTIFICATE + KEY, KEY + CERTIFICATE])
def test_good_file(contents: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a=b.pem"  # what stands before the first = is the pattern
    file.write_bytes(contents)
    settings, _ = parse(["--client-cert", f"LocalHost={file}"])
    assert settings.client_certs == (f"localhost={file}",)


def test_no_passphrase_is_asked_for(tmp_path: Path) -> None:
    """Neither on a terminal nor on stdin, where it would wait for ever."""
    file = tmp_path / "client.pem"
    file.write_bytes(BAD_FILES["passphrase"][0])
    ended = subprocess.run(
        [*PLUGIN, "--client-cert", f"localhost={file}"],
        stdin=subprocess.PIPE,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"pass phrase" not in ended.stderr  # OpenSSL's words when it asks


@pytest.mark.parametrize("with_pattern", [True, False])
def test_without_a_pattern_allow_host_is_needed(
    authority: Authority, with_pattern: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    file = authority.client_cert()
    options = ["--client-cert", file]
    if with_pattern:  # it is the other one that could be shown to all
        options += ["--client-cert", f"localhost={file}"]
    with pytest.raises(SystemExit) as caught:
        parse(options)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "argument --client-cert: " in error
    assert "--allow-host" in error
    assert parse([*options, "--allow-host", "a.b"])[0].client_certs[0] == file


def test_a_file_that_has_gone_bad_meanwhile(authority: Authority, curious: ssl.SSLContext) -> None:
    """The words do not name the file to an app, and a good one is taken again."""
    file = Path(authority.client_cert("changing"))
    good = file.read_bytes()
    options = ("--ca-file", authority.file, "--client-cert", f"localhost={file}")
    with Plugin(*options) as plugin:
        plugin.request("plugin-describe")  # it has been checked, and not been shown
        file.unlink()
        for contents, words in [
            (None, "No such file or directory"),
            (BAD_FILES["passphrase"][0], "has a passphrase"),
            (BAD_FILES["another key"][0], "KEY_VALUES_MISMATCH"),
        ]:
            if contents is not None:
                file.write_bytes(contents)
            error = expect_error(plugin, plugin.create("wss://localhost:1/"), "tls-error")
            assert words in error["errMsg"]
            assert str(file) not in error["errMsg"]
        file.write_bytes(good)
        assert shown_to(plugin, curious, "localhost") == "changing"
