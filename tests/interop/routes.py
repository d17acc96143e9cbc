"""The ways to servers: the rows of the table."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interop.gateways import BEHIND_PROXY, DANTE, GATEWAYS, TINYPROXY, Gateway, Proxy
from interop.needs import PythonPackage
from interop.programs import Program, free_port
from interop.servers import HYPERCORN, SERVERS, WS, Server
from tls_servers import Authority


@dataclass(frozen=True)
class Reached:
    """A server that runs, and how the plugin gets there."""

    server: Server
    program: Program
    url: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Route:
    """A server, and what stands between it and the plugin."""

    server: Server
    gateway: Gateway | None = None

    @property
    def name(self) -> str:
        """The name of the row."""
        if self.gateway is None:
            return self.server.name
        word = "through" if isinstance(self.gateway, Proxy) else "behind"
        return f"{self.server.name}, {word} {self.gateway.name}"

    def get(self) -> str:
        """Install what can be installed within the clone; return the version of what is new here.

        Raises:
            Missing: the machine lacks something.

        """
        versions = [need.get() for need in self.server.needs]
        if self.gateway is not None:
            versions = [need.get() for need in self.gateway.needs]
            if self.gateway is DANTE:
                PythonPackage("python-socks").get()
        return " / ".join(version for version in versions if version)

    @contextlib.contextmanager
    def open(self, folder: Path, authority: Authority) -> Iterator[Reached]:
        """Run the programs, which may write into `folder`."""
        certificate = folder / "certificate.pem"
        names = ("localhost", BEHIND_PROXY)
        authority.ca.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(
            str(certificate)
        )
        options: tuple[str, ...] = ("--ca-file", authority.file)
        scheme = "wss" if self.server.secure else "ws"
        with Program("server", self.server.command(certificate), folder) as server:
            port = int(server.expect_line("listening "))
            if self.gateway is None:
                url = f"{scheme}://localhost:{port}{self.server.path}"
                yield Reached(self.server, server, url, options)
                return
            ours = free_port()
            file = folder / self.gateway.file
            file.write_text(
                self.gateway.configuration.format(
                    port=ours, server=port, certificate=certificate, folder=folder
                )
            )
            homes = {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
            command = self.gateway.command(file)
            with Program("gateway", command, folder, **homes) as gateway:
                gateway.await_port(ours)
                if isinstance(self.gateway, Proxy):
                    url = f"{scheme}://{BEHIND_PROXY}:{port}{self.server.path}"
                    options += ("--proxy", self.gateway.url.format(port=ours), "--allow-insecure")
                else:
                    url = f"wss://localhost:{ours}{self.server.path}"
                yield Reached(self.server, server, url, options)


ROUTES: Final = (
    *(Route(server) for server in SERVERS),
    *(Route(WS, gateway) for gateway in GATEWAYS),
    Route(HYPERCORN, TINYPROXY),
    Route(WS, DANTE),
)
