"""Stands in for the plugin and has no will of its own: does what the kit says. Run as a program.

It imports nothing but a little of the standard library, because it is started for every situation.

Over a Unix socket the kit says what to do, a line of JSON each, with so many bytes behind it where
there is a ``length``; in the same way it is told what comes. Both are shown below.
"""

import json
import os
import queue
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

CHUNK = 65_536


class Puppet:
    """One run of the stand-in."""

    def __init__(self, control: socket.socket, address: str) -> None:
        self._control = control
        self._address = address
        self._telling = threading.Lock()
        self._reads = threading.Event()
        self._reads.set()
        self._pieces = 0
        # What is to be done in order; a stderr that nobody reads must not hold up stdout.
        self._jobs: dict[str, queue.SimpleQueue[Callable[[], None]]] = {
            "stdout": queue.SimpleQueue(),
            "stderr": queue.SimpleQueue(),
        }

    def run(self) -> None:
        """Obey until the kit is gone, so that nothing outlives it."""
        self._tell(tell="started", argv=sys.argv[2:], parent=os.getppid())
        threading.Thread(target=self._read_stdin, daemon=True).start()
        for jobs in self._jobs.values():
            threading.Thread(target=self._work, args=[jobs], daemon=True).start()
        with self._control.makefile("rb") as orders:
            for line in orders:
                order = json.loads(line)
                self._obey(order, orders.read(order.get("length", 0)))

    def _obey(self, order: dict[str, Any], data: bytes) -> None:
        stdout = self._jobs["stdout"].put
        match order:
            case {"do": "write", "to": to}:
                self._jobs[to].put(lambda: self._write(to, data))
            case {"do": "wait", "seconds": seconds}:
                stdout(lambda: time.sleep(seconds))
            case {"do": "close-stdout"}:
                stdout(close_stdout)
            case {"do": "exit", "status": status}:
                stdout(lambda: os._exit(status))
            # These do not wait for what is to be written before them.
            case {"do": "die"}:
                os.kill(os.getpid(), signal.SIGKILL)
            case {"do": "hold"}:
                self._pieces = 0
                self._reads.clear()
                self._tell(tell="held")
            case {"do": "release"}:
                self._reads.set()
            case {"do": "grandchild"}:
                python = [sys.executable, "-I", "-S", __file__, self._address, "grandchild"]
                os.posix_spawn(sys.executable, python, os.environ)

    def _read_stdin(self) -> None:
        while data := os.read(0, CHUNK):
            self._pieces += 1
            self._tell(data, tell="stdin")
            # One piece is read in any case, so that the kit knows that the host writes.
            if self._pieces:
                self._reads.wait()
        self._tell(tell="end-of-stdin")

    def _write(self, to: str, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(1 if to == "stdout" else 2, rest) :]
        except OSError:
            pass  # the host has closed its end, which may be right
        self._tell(tell="written")

    def _work(self, jobs: "queue.SimpleQueue[Callable[[], None]]") -> None:
        while True:
            jobs.get()()

    def _tell(self, data: bytes = b"", **what: Any) -> None:
        line = json.dumps(what | {"length": len(data)}).encode() + b"\n"
        with self._telling:
            try:
                self._control.sendall(line + data)
            except OSError:
                os._exit(1)  # the kit is gone


def close_stdout() -> None:
    """Close stdout and live on."""
    if stat.S_ISSOCK(os.fstat(1).st_mode):
        # It is stdin as well, which stays open.
        with socket.socket(fileno=os.dup(1)) as stdout:
            stdout.shutdown(socket.SHUT_WR)
    os.close(1)


def main() -> None:
    """Run the stand-in, or the process that it leaves behind: that one holds stdout and waits."""
    address = sys.argv[1]
    control = socket.socket(socket.AF_UNIX)
    control.connect(address)
    if sys.argv[2:] == ["grandchild"]:
        control.sendall(b'{"tell": "grandchild", "length": 0}\n')
        control.recv(1)
    else:
        Puppet(control, address).run()
    # Not sys.exit(): threads may be stuck in a write that nobody reads.
    os._exit(0)


if __name__ == "__main__":
    main()
