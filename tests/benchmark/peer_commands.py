"""The peers, made ready to run; one whose runtime is missing is left out with a plain word."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
DEBIAN_GOPATH = Path("/usr/share/gocode")
BUILD_TIMEOUT = 600  # seconds: a Rust peer compiles all its crates

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


def rust() -> Peer:
    """The peer in Rust, built from the crates in Cargo.lock."""
    folder = PEERS / "rust"
    program = find("cargo")
    run(folder, {}, program, "build", "--quiet", "--release", "--locked")
    version = run(folder, {}, find("rustc"), "--version").split()[1]
    crates = (folder / "Cargo.lock").read_text(encoding="utf-8")
    crate = re.findall(r'^name = "tokio-tungstenite"\nversion = "(.*)"$', crates, re.MULTILINE)
    return [
        str(folder / "target/release/plugin")
    ], f"Rust {version} with tokio-tungstenite {crate[0]}"


PEER_MAKERS: dict[str, Callable[[], Peer]] = {
    "node": node,
    "node-paced": node_paced,
    "go": go,
    "rust": rust,
}


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
