"""The hosts in Rust and Go by the tools and the tests of their own languages."""

import base64
import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demos import EXAMPLES
from harness import BINARY, PLUGIN, TIMEOUT, Listener, frame
from pressure import MIB, Flood

GO = EXAMPLES / "go"
RUST = EXAMPLES / "rust"

posix = pytest.mark.skipif(os.name != "posix", reason="the plugin's command is a shell script")
go = pytest.mark.skipif(not shutil.which("go"), reason="not on this machine: go")
cargo = pytest.mark.skipif(not shutil.which("cargo"), reason="not on this machine: cargo")
pytestmark = [posix, pytest.mark.slow]

LINES_OF_CODE = {
    # A library's files in each language, and what they may have: what is not in the tests.
    GO / "host.go": 600,
    GO / "supervisor.go": 200,
    RUST / "src" / "lib.rs": 600,
    RUST / "src" / "supervisor.rs": 200,
}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the one path of the plugin."""
    path = tmp_path_factory.mktemp("plugin") / "wsplugin"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(PLUGIN)} "$@"\n', encoding="utf-8")
    path.chmod(0o700)
    return path


def run(*command: str, plugin: Path | None = None) -> str:
    """Run a tool, which must find nothing wrong, and return what it has written."""
    env = {**os.environ, "CARGO_BUILD_JOBS": "1", "GOFLAGS": "-buildvcs=false"}
    if plugin:
        env["WSPLUGIN"] = str(plugin)
    result = subprocess.run(
        ["nice", *command],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=45 * TIMEOUT,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def run_cargo(*args: str, plugin: Path | None = None) -> str:
    """Run cargo with the versions that Cargo.lock names."""
    command, *rest = args
    manifest = ["--locked", "--manifest-path", str(RUST / "Cargo.toml")]
    return run("cargo", command, *manifest, *rest, plugin=plugin)


# --- Go -----------------------------------------------------------------------------------------


@go
def test_go_finds_nothing_to_say() -> None:
    assert run("gofmt", "-l", str(GO)) == ""
    run("go", "vet", "-C", str(GO), "./...")


@go
def test_the_go_host_keeps_its_promises(plugin: Path) -> None:
    output = run("go", "test", "-C", str(GO), "-race", "-v", "-count=1", "./...", plugin=plugin)
    assert "--- PASS: TestAFloodIsHeldBack" in output
    assert "--- SKIP" not in output


# --- Rust ---------------------------------------------------------------------------------------


@cargo
def test_clippy_finds_nothing_to_say() -> None:
    manifest = ["--manifest-path", str(RUST / "Cargo.toml")]
    run("cargo", "fmt", "--check", *manifest)
    run_cargo("clippy", "--all-targets", "--", "-D", "warnings")


@cargo
def test_the_rust_host_keeps_its_promises() -> None:
    results = re.findall(
        r"^test result: ok\. (\d+) passed; 0 failed; 0 ignored", run_cargo("test"), re.MULTILINE
    )
    # The host, its supervisor, and the examples of the documentation among them.
    assert sum(map(int, results)) >= 18


def test_the_lock_file_names_the_registry_by_its_usual_name_alone() -> None:
    lock = (RUST / "Cargo.lock").read_text(encoding="utf-8")
    sources = set(re.findall(r"^source = (.*)$", lock, re.MULTILINE))
    assert sources == {'"registry+https://github.com/rust-lang/crates.io-index"'}
    assert set(re.findall(r"https?://[^/\"]+", lock)) == {"https://github.com"}


# --- both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", LINES_OF_CODE, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_host_can_be_read_in_an_afternoon(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line.strip() and not line.lstrip().startswith("//")]
    assert len(code) <= LINES_OF_CODE[file]


def build_go(folder: Path) -> Path:
    """Build the program that takes a script."""
    run("go", "build", "-C", str(GO), "-o", str(folder / "scripted"), "./cmd/scripted")
    return folder / "scripted"


def build_rust(_: Path) -> Path:
    """Build the program that takes a script."""
    run_cargo("build", "--target-dir", str(RUST / "target"))
    return RUST / "target" / "debug" / "scripted"


class Scripted:
    """A host under a script: see the page of the kit."""

    def __init__(self, program: Path, plugin: Path) -> None:
        self.process = subprocess.Popen(
            [program],
            env={**os.environ, "WSPLUGIN": str(plugin)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._lines: queue.Queue[Any] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def call(self, **line: Any) -> None:
        """Write a line of the script."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def read(self) -> Any:
        """Return the next outcome or event."""
        return self._lines.get(timeout=TIMEOUT)

    def end(self) -> None:
        """End it, and nothing of it is left."""
        self.process.kill()
        with self.process:
            self._reader.join(TIMEOUT)

    def resident(self) -> int:
        """Return the resident memory of the host, in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def scripted(program: Path, plugin: Path) -> Iterator[Scripted]:
    """Start a host, and end it."""
    host = Scripted(program, plugin)
    try:
        assert host.read() == {"id": 0, "outcome": "ok"}
        yield host
    finally:
        host.end()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    # What is live in Go its own test measures; its collector leaves more in the process.
    ("build", "most"),
    [
        pytest.param(build_rust, 8 * MIB, id="rust", marks=cargo),
        pytest.param(build_go, 40 * MIB, id="go", marks=go),
    ],
)
def test_a_flood_stays_with_its_server(
    build: Callable[[Path], Path], most: int, plugin: Path, tmp_path: Path
) -> None:
    with Listener() as listener, scripted(build(tmp_path), plugin) as host:
        host.call(id=1, call="create", url=listener.url, delay=50, **{"as": "a"})
        assert host.read() == {"id": 1, "outcome": "ok"}
        with listener.accept() as peer:
            peer.handshake()
            assert host.read()["event"] == "open"
            before = host.resident()
            count = 100_000_000 // 65536
            flood = Flood(peer, [frame(BINARY, b"x" * 65536)] * count)
            had = 0
            end = time.monotonic() + 6
            while time.monotonic() < end:
                had += len(base64.b64decode(host.read()["base64"]))
            grown, between = host.resident() - before, flood.sent - had
            assert had > MIB
            assert between <= 16_000_000
            assert grown <= most, f"grown by {grown / MIB:.1f} MiB"
            host.call(id=2, call="stop")
            while (line := host.read()).get("id") != 2:
                pass
            assert line == {"id": 2, "outcome": "ok", "status": 0}
