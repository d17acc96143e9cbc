"""What servers, gateways and proxies need, and how it is got."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import TIMEOUT

HERE = Path(__file__).parent
GO_SERVER = HERE / "go" / "build" / "server"
INSTALL_TIMEOUT = 15 * TIMEOUT


class Missing(Exception):
    """Something is not on this machine; the words say what."""


class Need(ABC):
    """Something that a machine may lack."""

    @abstractmethod
    def get(self) -> str:
        """Install it inside the clone, if that is where it lives; return its version.

        Raises:
            Missing: it is not to be had.

        """


@dataclass(frozen=True)
class PythonPackage(Need):
    """A package of the dependency group `interop`."""

    name: str

    def get(self) -> str:
        """Look whether it is installed."""
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            raise Missing(f"{self.name}: pip install --group interop") from None


@dataclass(frozen=True)
class NodePackage(Need):
    """A package that `node/package.json` names."""

    name: str

    def get(self) -> str:
        """Install all of them."""
        _install_node_packages()
        package = HERE / "node" / "node_modules" / self.name / "package.json"
        return str(json.loads(package.read_text(encoding="utf-8"))["version"])


@dataclass(frozen=True)
class GoModule(Need):
    """A module that `go/go.mod` names."""

    path: str

    def get(self) -> str:
        """Build the server."""
        _build_go_server()
        go_mod = (HERE / "go" / "go.mod").read_text(encoding="utf-8")
        (version,) = re.findall(rf"{re.escape(self.path)} v(\S+)", go_mod)
        return str(version)


@dataclass(frozen=True)
class Debian(Need):
    """A program of a package of Debian's, and how it is asked for its version."""

    command: str
    package: str
    question: str

    def get(self) -> str:
        """Look whether it is installed."""
        path = find(self.command, self.package)
        result = subprocess.run(
            [path, self.question], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        match = re.search(r"\d+\.\d+(\.\d+)?", result.stdout + result.stderr)
        assert match, result
        return match[0]


@dataclass(frozen=True)
class OwnHosts(Need):
    """The right to give a program an ``/etc/hosts`` of its own."""

    def get(self) -> str:
        """Try it."""
        try:
            subprocess.run(
                [find("unshare", "util-linux"), "--mount", "true"],
                capture_output=True,
                timeout=TIMEOUT,
                check=True,
            )
        except subprocess.CalledProcessError:
            raise Missing("the right to make a mount namespace") from None
        return ""


def find(command: str, package: str) -> str:
    """Return the path of a command.

    Raises:
        Missing: it is not there.

    """
    # Those of an administrator are not on everybody's path.
    path = shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"{command} (Debian: {package})")
    return path


@functools.cache
def _install_node_packages() -> None:
    npm = find("npm", "npm")
    find("node", "nodejs")
    folder = HERE / "node"
    installed = folder / "node_modules" / ".package-lock.json"
    with _one_at_a_time("node"):
        wanted = folder / "package.json"
        if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
            # What a lock would name are the addresses of somebody's registry.
            _run(folder, npm, "install", "--no-package-lock", "--no-fund", "--no-audit")
            installed.touch()


@functools.cache
def _build_go_server() -> None:
    go = find("go", "golang-go")
    with _one_at_a_time("go"):
        # Neither C nor inlined code: from an empty cache most of the time goes into the library.
        flags = ["-gcflags=all=-l", "-ldflags=-s -w", "-modcacherw", "-buildvcs=false"]
        variables = {"CGO_ENABLED": "0"}
        _run(HERE / "go", go, "build", *flags, "-o", str(GO_SERVER), ".", **variables)


@contextlib.contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    """Keep the other processes of a test run from installing the same thing meanwhile."""
    import fcntl

    lock = HERE / name / "build" / "lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(folder: Path, *command: str, **variables: str) -> None:
    result = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT,
        check=False,
    )
    if result.returncode:
        *_, last = ["", *result.stderr.strip().splitlines()]
        raise Missing(f"{Path(command[0]).name} {command[1]} has failed: {last}")
