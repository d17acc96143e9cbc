"""Network namespaces (ip-netns(8)) that a test makes and removes."""

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from harness import TIMEOUT

T = TypeVar("T")

NAMESPACES: Final = Path("/run/netns")
FILES: Final = Path("/etc/netns")
"""Here ``ip netns exec`` finds what stands in for files of /etc."""
_CLONE_NEWNET: Final = 0x40000000

_numbers = itertools.count()


def missing() -> str | None:
    """Say what this machine evidently lacks for namespaces; None if nothing."""
    if sys.platform != "linux":
        return "Linux"
    if os.geteuid() != 0:
        return "root"
    if shutil.which("ip") is None:
        return "iproute2"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun"
    return None


class Namespace:
    """A network of its own: no address in it is one outside.

    Args:
        name_server: the address of the name server that its processes ask.

    """

    def __init__(self, name_server: str | None = None) -> None:
        self.name = f"wsplugin-{os.getpid()}-{next(_numbers)}"
        self.command = ["ip", "netns", "exec", self.name]
        """What to put before a command that is to run inside."""
        _run("ip", "netns", "add", self.name)
        try:
            self.ip("link", "set", "lo", "up")
            # It carries nothing on: what arrives for an address that nobody has is dropped.
            self.set("net/ipv4/ip_forward", "0")
            self.set("net/ipv6/conf/all/forwarding", "0")
            if name_server is not None:
                files = _make_directory(FILES / self.name)
                (files / "resolv.conf").write_text(f"nameserver {name_server}\nsearch .\n")
                (files / "nsswitch.conf").write_text("hosts: files dns\n")
        except BaseException:
            self.close()
            raise

    def ip(self, *arguments: str) -> None:
        """Change addresses, devices and routes of it (man 8 ip)."""
        _run("ip", "-n", self.name, *arguments)

    def set(self, key: str, value: str) -> None:
        """Set a value of sysctl(8); its key is the path below /proc/sys."""
        self.inside(lambda: Path("/proc/sys", key).write_text(value))

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function inside: the sockets and devices that it opens stay there."""
        result: list[T] = []
        failure: list[BaseException] = []

        def call() -> None:
            try:
                _enter(self.name)
                result.append(function())
            except BaseException as exc:  # noqa: BLE001 - raised below
                failure.append(exc)

        # A thread is in a namespace by itself, and this one ends with the call.
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        if failure:
            raise failure[0]
        return result[0]

    def close(self) -> None:
        """Remove it; it is gone when its last process is."""
        _remove(self.name)


def remove_left_over() -> None:
    """Remove the namespaces of tests that were killed."""
    for path in NAMESPACES.glob("wsplugin-*-*"):
        process = path.name.split("-")[1]
        if not Path("/proc", process).exists():
            with contextlib.suppress(subprocess.CalledProcessError):  # others clean up, too
                _remove(path.name)


def _remove(name: str) -> None:
    try:
        _run("ip", "netns", "delete", name)
    finally:
        shutil.rmtree(FILES / name, ignore_errors=True)
        with contextlib.suppress(OSError):  # there is none, or it holds those of others
            FILES.rmdir()


def _make_directory(path: Path) -> Path:
    while True:
        path.parent.mkdir(exist_ok=True)
        # Another test may have found the one above it empty, and removed it.
        with contextlib.suppress(FileNotFoundError):
            path.mkdir()
            return path


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT)


def _enter(name: str) -> None:
    with (NAMESPACES / name).open() as file:
        # Not os.setns(), which Python has since 3.12.
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
