"""The peers, made ready to run; one whose runtime is missing is left out with a plain word."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
DEBIAN_GOPATH = Path("/usr/share/gocode")
BUILD_TIMEOUT = 120  # seconds

Peer = tuple[list[str], str]
"""A command, and the version of what it runs on."""


class PeerMissing(Exception):
    """Says what a peer lacks."""


def node() -> Peer:
    """The peer on Node; `ws` is installed beside it if need be."""
    folder = PEERS / "node"
    program = find("node")
    package = folder / "node_modules" / "ws" / "package.json"
    if not package.exists():
        run(folder, {}, find("npm"), "install")
    version = run(folder, {}, program, "--version").strip()
    return [program, str(folder / "plugin.js")], (
        f"Node {version} with ws {json.loads(package.read_text())['version']}"
    )


def node_paced() -> Peer:
    """The same peer, minding a host that reads slowly."""
    command, version = node()
    return [*command, "--paced"], version


def go() -> Peer:
    """The peer in Go, built from Debian's package of gorilla/websocket, or else go.mod's."""
    folder = PEERS / "go"
    program = find("go")
    variables = {"GOFLAGS": "-mod=mod"}
    if (DEBIAN_GOPATH / "src/github.com/gorilla/websocket").exists():
        variables = {"GO111MODULE": "off", "GOPATH": str(DEBIAN_GOPATH)}
    run(folder, variables, program, "build", "-o", "plugin", "plugin.go")
    version = run(folder, {}, program, "env", "GOVERSION").strip()
    return [str(folder / "plugin")], f"{version} with gorilla/websocket"


PEER_MAKERS: dict[str, Callable[[], Peer]] = {"node": node, "node-paced": node_paced, "go": go}


def find(program: str) -> str:
    if path := shutil.which(program):
        return path
    raise PeerMissing(f"{program} is not installed")


def run(folder: Path, variables: dict[str, str], *command: str) -> str:
    """The output of a command, which runs in that folder with those variables set."""
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=BUILD_TIMEOUT,
            check=True,
            text=True,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise PeerMissing(f"{Path(command[0]).name} {command[1]} failed: {error}") from error
