"""``--pin``, and the chains that it goes by: who is trusted, and whose key is right as well."""

import base64
import contextlib
import datetime
import hashlib
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness import Listener, Peer, Plugin, environment
from situations import expect_error
from test_proxies import connect_through
from tls_servers import Authority, secure


def pin(pem: bytes) -> str:
    """Name the public key of a certificate, by way of another library."""
    key = x509.load_pem_x509_certificate(pem).public_key()
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "sha256/" + base64.b64encode(hashlib.sha256(der).digest()).decode()


NOBODY = "sha256/" + base64.b64encode(bytes(32)).decode()
NAMES = ("localhost", "app.localhost", "127.0.0.1", "server.invalid")


class Chain(NamedTuple):
    """A root, an intermediate authority, and a server of that one's."""

    root: Path
    intermediate: Path
    context: ssl.SSLContext
    pins: dict[str, str]


@pytest.fixture(scope="module", name="chain")
def _chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return make_chain(tmp_path_factory.mktemp("chain"))


def make_chain(directory: Path, also_sent: Iterable[bytes] = ()) -> Chain:
    root = trustme.CA()
    intermediate = root.create_child_ca()
    server = intermediate.issue_cert(*NAMES)
    files = {"root": root, "intermediate": intermediate}
    for name, authority in files.items():
        authority.cert_pem.write_to_path(str(directory / f"{name}.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    sent = [server.private_key_pem.bytes(), *(pem.bytes() for pem in server.cert_chain_pems)]
    (directory / "server.pem").write_bytes(b"".join([*sent, *also_sent]))
    context.load_cert_chain(directory / "server.pem")
    pins = {name: pin(authority.cert_pem.bytes()) for name, authority in files.items()}
    pins["server"] = pin(server.cert_chain_pems[0].bytes())
    return Chain(directory / "root.pem", directory / "intermediate.pem", context, pins)


def expect_open(plugin: Plugin, context: ssl.SSLContext, host: str = "localhost") -> None:
    with Listener() as listener:
        id = plugin.create(f"wss://{host}:{listener.port}/")
        with secure(listener.accept(), context) as peer:
            peer.handshake()
            plugin.event(id, "open")
        plugin.events_to_close(id)


def rest(peer: Peer) -> bytes:
    """Return what comes through TLS until the connection ends."""
    received = b""
    with contextlib.suppress(OSError):
        while data := peer.sock.recv(65536):
            received += data
    return received


def expect_refused(plugin: Plugin, context: ssl.SSLContext, host: str = "localhost") -> None:
    """Have the server's key refused, with no byte of the request sent."""
    with Listener() as listener:
        id = plugin.create(f"wss://{host}:{listener.port}/", headers={"Authorization": "s3cret"})
        with secure(listener.accept(), context) as peer:
            assert rest(peer) == b""
        error = expect_error(plugin, id, "tls-error")
    assert "--pin" in error["errMsg"]
    assert f":{listener.port} failed" in error["errMsg"]


def options(chain: Chain, *pins: str) -> list[str]:
    made = ["--ca-file", str(chain.root)]
    for each in pins:
        made += ["--pin", each]
    return made


@pytest.mark.parametrize("whose", ["server", "intermediate", "root"])
def test_any_key_of_the_chain_will_do(chain: Chain, whose: str) -> None:
    with Plugin(*options(chain, f"localhost={chain.pins[whose]}")) as plugin:
        expect_open(plugin, chain.context)


def test_another_key(chain: Chain) -> None:
    with Plugin(*options(chain, f"localhost={NOBODY}")) as plugin:
        expect_refused(plugin, chain.context)
        expect_open(plugin, chain.context, "127.0.0.1")
        # A second time as well, whatever OpenSSL remembers of a session.
        expect_refused(plugin, chain.context)


@pytest.mark.parametrize(
    ("pins", "opens"),
    [
        (["localhost=<no>", "localhost=<yes>"], True),
        (["localhost=<yes>", "localhost=<no>"], True),
        (["app.localhost=<no>", "*.localhost=<yes>"], True),
        (["app.localhost=<yes>", "*.localhost=<no>"], True),
        (["localhost=<no>", "LOCALHOST.=<no>"], False),
        (["*.localhost=<no>"], False),
        (["127.1=<no>"], False),
        (["*.localhost=<no>", "localhost=<yes>", "127.0.0.1=<yes>"], False),
    ],
)
def test_which_pins_count(chain: Chain, pins: list[str], opens: bool) -> None:
    values = [each.replace("<no>", NOBODY).replace("<yes>", chain.pins["server"]) for each in pins]
    host = pins[0].partition("=")[0].replace("*", "app")
    with Plugin(*options(chain, *values)) as plugin:
        (expect_open if opens else expect_refused)(plugin, chain.context, host)


def test_what_the_server_merely_sends_does_not_count(
    chain: Chain, authority: Authority, tmp_path: Path
) -> None:
    pinned = Path(authority.file).read_bytes()
    other = make_chain(tmp_path, also_sent=[pinned])
    with Plugin(*options(other, f"localhost={pin(pinned)}")) as plugin:
        expect_refused(plugin, other.context)


def test_a_pin_is_no_verification(chain: Chain, authority: Authority) -> None:
    """The right key of an authority that is not trusted, and of another server, is refused."""
    pins = ("--pin", f"localhost={chain.pins['server']}", "--pin", f"*.localhost={NOBODY}")
    with Plugin("--ca-file", authority.file, *pins) as plugin, Listener() as listener:
        id = plugin.create(f"wss://localhost:{listener.port}/")
        with listener.accept() as peer, contextlib.suppress(ssl.SSLError):
            secure(peer, chain.context)
        assert "certificate verify failed" in expect_error(plugin, id, "tls-error")["errMsg"]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("right", [True, False])
def test_behind_a_proxy(chain: Chain, scheme: str, right: bool) -> None:
    """The proxy is not judged, the server behind it is, through TLS within TLS as well."""
    pins = (f"localhost={NOBODY}", f"server.invalid={chain.pins['server'] if right else NOBODY}")
    with Listener() as listener:
        proxy = f"{scheme}://localhost:{listener.port}"
        with Plugin(*options(chain, *pins), "--proxy", proxy, env=environment()) as plugin:
            id = plugin.create("wss://server.invalid/")
            with listener.accept() as peer:
                if scheme == "https":
                    secure(peer, chain.context)
                connect_through(peer, "server.invalid:443")
                if scheme == "http":
                    secure(peer, chain.context)
                    if right:
                        peer.handshake()
                    else:
                        assert rest(peer) == b""
                else:
                    play_within(peer, chain.context, right)
                if right:
                    plugin.event(id, "open")
            if right:
                plugin.events_to_close(id)
            else:
                assert "--pin" in expect_error(plugin, id, "tls-error")["errMsg"]


def play_within(outer: Peer, context: ssl.SSLContext, answer: bool) -> None:
    """Play the server within the TLS of a proxy: answer the request, or see none."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = context.wrap_bio(incoming, outgoing, server_side=True)

    def step() -> bool:
        outer.send(outgoing.read())
        data = b""
        with contextlib.suppress(OSError):
            data = outer.sock.recv(65536)
        incoming.write(data)
        return bool(data)

    request, shaken = b"", False
    while not request.endswith(b"\r\n\r\n"):
        try:
            if not shaken:
                inner.do_handshake()
                shaken = True
            request += inner.read(65536)
        except ssl.SSLWantReadError:
            if not step():
                break
    assert shaken
    if answer:
        outer.request = request
        inner.write(outer.response())
        outer.send(outgoing.read())
    else:
        assert request == b""


def test_plain_ws_to_a_pinned_host_is_refused(chain: Chain, authority: Authority) -> None:
    with (
        Listener() as listener,
        Plugin(
            *options(chain, f"localhost={chain.pins['server']}"),
            *("--client-cert", f"*.localhost={authority.client_cert()}", "--allow-insecure"),
        ) as plugin,
    ):
        for host, option in [("localhost", "--pin"), ("a.localhost", "--client-cert")]:
            payload = {"url": f"ws://{host}:{listener.port}/"}
            error = plugin.request("websocket-create", payload)["error"]
            assert error["code"] == "forbidden"
            assert option in error["errMsg"]
        id, peer = listener.open(plugin)
        peer.close()
        plugin.events_to_close(id)


# --- trust that is the same on every Python -----------------------------------------------------


def test_an_intermediate_certificate_can_be_trusted_by_itself(chain: Chain) -> None:
    """The chain ends there: a pin on the root is no longer one of the chain."""
    trusting = ("--ca-file", str(chain.intermediate), "--no-system-ca")
    with Plugin(*trusting, "--pin", f"localhost={chain.pins['intermediate']}") as plugin:
        expect_open(plugin, chain.context)
    with Plugin(*trusting, "--pin", f"localhost={chain.pins['root']}") as plugin:
        expect_refused(plugin, chain.context)


def test_authority_that_is_not_to_the_letter(tmp_path: Path) -> None:
    """Without key identifiers, and with constraints that are not critical: companies have such."""
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "server")}

    def issue(name: str, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(
            issuer_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")]),
            subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
            public_key=keys[name].public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - day,
            not_valid_after=now + day,
        ).add_extension(extension, critical=False)
        return builder.sign(keys["authority"], hashes.SHA256()).public_bytes(
            serialization.Encoding.PEM
        )

    ca, server = tmp_path / "ca.pem", tmp_path / "server.pem"
    ca.write_bytes(issue("authority", x509.BasicConstraints(ca=True, path_length=None)))
    key = keys["server"].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    server.write_bytes(key + issue("server", names))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server)
    with Plugin("--ca-file", str(ca)) as plugin:
        expect_open(plugin, context)


def test_ca_file_alone(authority: Authority, stranger: Authority) -> None:
    """What the system trusts is trusted no more."""
    trusting = ("--ca-file", authority.file, "--no-system-ca")
    with Plugin(*trusting, env=environment(SSL_CERT_FILE=stranger.file)) as plugin:
        expect_open(plugin, authority.context("localhost"))
        with Listener() as listener:
            id = plugin.create(f"wss://localhost:{listener.port}/")
            with listener.accept() as peer, contextlib.suppress(ssl.SSLError):
                secure(peer, stranger.context("localhost"))
            assert "certificate verify failed" in expect_error(plugin, id, "tls-error")["errMsg"]


@pytest.mark.parametrize("proxy", [(), ("--proxy", "https://localhost:1")])
def test_no_roots_at_all(proxy: tuple[str, ...]) -> None:
    nowhere = environment(SSL_CERT_FILE="/nonexistent", SSL_CERT_DIR="/nonexistent")
    with Plugin("--allow-insecure", *proxy, env=nowhere) as plugin:
        for url in ("wss://server.invalid/", *(["ws://server.invalid/"] if proxy else [])):
            error = expect_error(plugin, plugin.create(url), "tls-error")
            assert "no roots were found" in error["errMsg"]
            assert "--ca-file" in error["errMsg"]
