"""The echo servers: how each is started, and what its library can do."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from interop.apps import words
from interop.needs import GO_SERVER, HERE, GoModule, Need, NodePackage, PythonPackage, find

KEPT: Final = "kept"
FRESH: Final = "fresh"


@dataclass(frozen=True)
class Server:
    """An echo server.

    Args:
        name: what it is called in the table.
        needs: what it is made of, first what the version in the table is of.
        command: its command line, given the file of a certificate with its key.
        compression: whether a message may refer to earlier ones.
        fragments: whether the library can send a message in fragments.
        protocol: the subprotocol that it chooses.
        engine_io: whether messages hold packets of Engine.IO.
        secure: whether it speaks TLS.
        tells_close: whether the app is told with what the host has closed.

    """

    name: str
    needs: tuple[Need, ...]
    command: Callable[[Path], list[str]]
    compression: Literal["kept", "fresh"] = KEPT
    fragments: bool = False
    protocol: str = words.PROTOCOL
    engine_io: bool = False
    secure: bool = False
    tells_close: bool = True

    @property
    def path(self) -> str:
        """What a URL has behind the authority."""
        return "/engine.io/?EIO=4&transport=websocket" if self.engine_io else "/"


def _python(module: str, *arguments: str) -> Callable[[Path], list[str]]:
    return lambda certificate: [
        sys.executable, "-m", f"interop.apps.{module}", *arguments,
        *([str(certificate)] if arguments else []),
    ]  # fmt: skip


def _node(file: str) -> Callable[[Path], list[str]]:
    return lambda _: [find("node", "nodejs"), str(HERE / "node" / file)]


def _go(which: str) -> Callable[[Path], list[str]]:
    return lambda _: [str(GO_SERVER), which]


WS: Final = Server("ws", (NodePackage("ws"),), _node("ws_server.mjs"), fragments=True)
HYPERCORN: Final = Server(
    "hypercorn, TLS, HTTP/2 offered",
    (PythonPackage("hypercorn"),),
    _python("asgi_app", "hypercorn"),
    secure=True,
    tells_close=False,
)
SERVERS: Final = (
    Server("aiohttp", (PythonPackage("aiohttp"),), _python("aiohttp_app")),
    Server("Tornado", (PythonPackage("tornado"),), _python("tornado_app")),
    Server(
        "uvicorn, wsproto",
        (PythonPackage("uvicorn"), PythonPackage("wsproto")),
        _python("asgi_app", "uvicorn"),
    ),
    HYPERCORN,
    WS,
    Server(
        "engine.io",
        (NodePackage("engine.io"),),
        _node("engineio_server.mjs"),
        protocol="chat.v1",
        engine_io=True,
    ),
    Server(
        "gorilla",
        (GoModule("github.com/gorilla/websocket"),),
        _go("gorilla"),
        compression=FRESH,
        fragments=True,
    ),
    Server("coder", (GoModule("github.com/coder/websocket"),), _go("coder"), fragments=True),
)
