"""Drives the real plugin process over real pipes, against servers that a test plays by hand.

Everything is synchronous: a test writes a line, plays the server's part on a raw socket, and reads
what comes out. Every wait is for an event, with one common bound.
"""

import base64
import contextlib
import hashlib
import json
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from host_lines import encode
from systems import PLUGIN as PLUGIN
from systems import TERMINATED, WINDOWS

TIMEOUT = 20.0
"""The bound of every wait, in seconds; nothing is expected to take that long."""

SLACK = 1.5
"""Seconds that a bound of the contract may be exceeded by, for the machine's sake."""

END_TIMEOUT = 10.0
"""Seconds for an end by SIGTERM: the contract's two, and many more for a busy machine."""

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def environment(**variables: str) -> dict[str, str]:
    """Return the environment with these variables, and without the machine's proxies."""
    rest = {name: v for name, v in os.environ.items() if not name.lower().endswith("_proxy")}
    return rest | variables


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Check a bound on time that the contract names."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds + SLACK


class Plugin:
    """The plugin as a child process.

    Args:
        options: command line options.
        command: what to run instead of ``systems.PLUGIN``.
        popen: more arguments of :class:`subprocess.Popen`.

    """

    def __init__(self, *options: str, command: Sequence[str] = tuple(PLUGIN), **popen: Any) -> None:
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [*command, *options],
            stdin=popen.pop("stdin", subprocess.PIPE),
            stdout=popen.pop("stdout", subprocess.PIPE),
            stderr=popen.pop("stderr", subprocess.PIPE),
            bufsize=0,
            **popen,
        )
        self.stderr = b""
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._reading = threading.Event()
        self._reading.set()
        if self.process.stdout:
            self._start(self._read_stdout)
        if self.process.stderr:
            self._start(self._read_stderr)

    def _start(self, target: Any) -> None:
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _read_stdout(self) -> None:
        assert self.process.stdout
        parts: list[bytes] = []
        while True:
            self._reading.wait()
            chunk = os.read(self.process.stdout.fileno(), 65536)
            first, *others = chunk.split(b"\n")
            parts.append(first)
            for part in others:
                self._lines.put(b"".join(parts) + b"\n")
                parts = [part]
            if not chunk:
                if rest := b"".join(parts):
                    self._lines.put(rest)
                self._lines.put(b"")
                return

    def _read_stderr(self) -> None:
        assert self.process.stderr
        while chunk := os.read(self.process.stderr.fileno(), 65536):
            self.stderr += chunk

    def stop_reading(self) -> None:
        """Stop reading stdout, after one chunk more."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Read stdout again."""
        self._reading.set()

    def write(self, data: bytes) -> None:
        """Write bytes to the plugin's stdin as they are."""
        assert self.process.stdin
        while data:
            data = data[os.write(self.process.stdin.fileno(), data) :]

    def send(self, *requests: Any) -> None:
        """Write requests, a line each, in one go."""
        self.write(encode(*requests))

    def read_line(self) -> bytes:
        """Return the next line with its LF, or ``b""`` at the end of stdout."""
        return self._lines.get(timeout=TIMEOUT)

    def read(self) -> Any:
        """Return the next line, decoded."""
        line = self.read_line()
        assert line.endswith(b"\n"), f"stdout has ended with {line!r}; stderr: {self.stderr!r}"
        return json.loads(line)

    def request(self, action: str, payload: Any = None, id: Any = 1) -> Any:
        """Send one request and return the next line, which must be its answer."""
        message = {"id": id, "action": action}
        if payload is not None:
            message["payload"] = payload
        self.send(message)
        answer = self.read()
        assert answer.get("id") == id, answer
        return answer

    def create(self, url: str, **options: Any) -> str:
        """Create a connection and return its id."""
        answer = self.request("websocket-create", {"url": url, **options}, id="create")
        id = answer["response"]["id"]
        assert isinstance(id, str)
        return id

    def event(self, id: str, name: str) -> Any:
        """Read the next line, which must be this event, and return its payload."""
        line = self.read()
        assert line.get("event") == "websocket-event", line
        assert (line["payload"]["id"], line["payload"]["name"]) == (id, name), line
        return line["payload"]["payload"]

    def events_to_close(self, id: str) -> list[tuple[str, Any]]:
        """Read the events of one connection, which must be the only lines, up to its `close`."""
        events: list[tuple[str, Any]] = []
        while not events or events[-1][0] != "close":
            line = self.read()
            assert line.get("event") == "websocket-event", line
            assert line["payload"]["id"] == id, line
            events.append((line["payload"]["name"], line["payload"]["payload"]))
        return events

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the process: what happens meanwhile has happened at once when it goes on."""
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def close_stdin(self) -> None:
        """End the plugin's input."""
        assert self.process.stdin
        self.process.stdin.close()

    def wait(self) -> int:
        """Wait for the end of the process and return its exit status."""
        status = self.process.wait(TIMEOUT)
        self._reading.set()
        for thread in self._threads:
            thread.join(TIMEOUT)
        return status

    def finish(self) -> tuple[list[Any], int]:
        """End the input; return all remaining lines, decoded, and the exit status."""
        self.close_stdin()
        lines = []
        while line := self.read_line():
            lines.append(json.loads(line))
        return lines, self.wait()

    def memory(self) -> int:
        """Return the bytes of memory that the process has in use (Linux)."""
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """Return the most that :meth:`memory` has been since :meth:`reset_peak` (Linux)."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        """Let :meth:`peak_memory` begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (kib,) = re.findall(rf"{name}:\s+(\d+) kB", status)
        return int(kib) * 1024

    def end(self) -> None:
        """End the process as a host does, with SIGTERM, and check that its end is an orderly one.

        Where the test has ended it itself, with :meth:`wait` or :meth:`kill`, the status is the
        test's matter. A stdout that is not being read stays so: an end must not wait for that.
        """
        is_running = self.process.returncode is None
        is_read = self._reading.is_set()
        try:
            if is_running:
                self.process.terminate()
                status = self.process.wait(END_TIMEOUT)
                assert status in TERMINATED, f"{status}: {self.stderr!r}"
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end {END_TIMEOUT} seconds after SIGTERM") from None
        finally:
            self.kill()
        assert b"Traceback" not in self.stderr, self.stderr.decode(errors="replace")
        rest = [self._lines.get() for _ in range(self._lines.qsize())]
        if is_running and is_read and not WINDOWS:
            assert all(line.endswith(b"\n") for line in rest if line), rest[-2:]

    def kill(self) -> None:
        """End the process at once, whatever its state, and let go of its streams."""
        if self.process.returncode is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        # Once a test has failed, how the plugin ends would only hide why.
        if kind is None:
            self.end()
        else:
            self.kill()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = None,
    length: int | None = None,
) -> bytes:
    """Serialize a frame (RFC 6455 section 5.2); `length` may lie about the payload's."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | (rsv << 4) | opcode])
    bit = 0x80 if mask is not None else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if mask is not None:
        return head + mask + unmask(payload, mask)
    return head + payload


def close_frame(code: int | None = 1000, reason: str = "") -> bytes:
    """Serialize a Close frame; None for one without a code."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


def unmask(payload: bytes, mask: bytes) -> bytes:
    """Apply a masking key (RFC 6455 section 5.3)."""
    keys = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(
        len(payload), "big"
    )


class Peer:
    """The server's end of one connection, played by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(TIMEOUT)
        self.request = b""
        """Head of the opening handshake's request, once read."""
        self.mask = b""
        """The masking key of the last frame read."""
        self.threads: list[threading.Thread] = []
        """Those of the test that use it, see :meth:`end_threads`."""
        self._rest = b""

    def read_exact(self, size: int) -> bytes:
        """Read so many bytes."""
        while len(self._rest) < size:
            chunk = self.sock.recv(65536)
            if not chunk:
                raise EOFError(f"connection ended with {self._rest[:100]!r}")
            self._rest += chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def unread(self, data: bytes) -> None:
        """Put back what was read from the socket itself."""
        self._rest = data + self._rest

    def read_request(self) -> bytes:
        """Read the request of the opening handshake."""
        while b"\r\n\r\n" not in self._rest:
            chunk = self.sock.recv(65536)
            if not chunk:
                raise EOFError(f"connection ended with {self._rest[:100]!r}")
            self._rest += chunk
        self.request, self._rest = self._rest.split(b"\r\n\r\n", 1)
        return self.request

    def header(self, name: str) -> str | None:
        """Return a header of the request, None if it is absent."""
        for line in self.request.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode().lower() == name.lower():
                return value.strip().decode("latin-1")
        return None

    def response(self, *headers: str) -> bytes:
        """Return the response that accepts the request read."""
        key = self.header("Sec-WebSocket-Key") or ""
        accept = base64.b64encode(
            hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        ).decode()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
            *headers,
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"

    def handshake(self, *headers: str, glued: bytes = b"") -> None:
        """Read the request and accept it; `glued` goes out in the same write."""
        self.read_request()
        self.send(self.response(*headers) + glued)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def read_frame(self) -> tuple[int, bytes]:
        """Read a masked frame from the plugin; return its first byte and payload."""
        head, size = self.read_exact(2)
        assert size & 0x80, "a client must mask (RFC 6455 section 5.3)"
        size &= 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self.read_exact(2))
            assert size > 125, "not the shortest length (RFC 6455 section 5.2)"
        elif size == 127:
            (size,) = struct.unpack("!Q", self.read_exact(8))
            assert size > 65_535, "not the shortest length (RFC 6455 section 5.2)"
        self.mask = self.read_exact(4)
        return head, unmask(self.read_exact(size), self.mask)

    def read_to_close(self) -> list[tuple[int, bytes]]:
        """Read frames up to the Close frame."""
        frames = [self.read_frame()]
        while frames[-1][0] & 0x0F != CLOSE:
            frames.append(self.read_frame())
        return frames

    def expect_close(self, code: int | None = None, reason: str | None = None) -> bytes:
        """Read frames until the Close frame, check it, and return its payload."""
        _, payload = self.read_to_close()[-1]
        if code is not None:
            assert struct.unpack("!H", payload[:2])[0] == code, payload
        if reason is not None:
            assert payload[2:].decode() == reason
        return payload

    def expect_end(self) -> None:
        """Read until the plugin has ended the TCP connection, one way or another."""
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(65536):
                pass

    def end_threads(self) -> None:
        """Shut the connection down, so that no thread goes on with it when it is closed.

        Within TLS one would: OpenSSL goes on with the number of the descriptor, which another
        test's socket may have by then.
        """
        if self.threads:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            for thread in self.threads:
                thread.join(TIMEOUT)
                assert not thread.is_alive()

    def reset(self) -> None:
        """End the TCP connection with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Close the TCP connection."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Listener:
    """A listening socket on the loopback; the test accepts and plays the server."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((host, 0))
        self.sock.listen(128)
        self.sock.settimeout(TIMEOUT)
        self.host = host
        self.port: int = self.sock.getsockname()[1]
        self.url = f"ws://[{host}]:{self.port}/" if ":" in host else f"ws://{host}:{self.port}/"

    def accept(self) -> Peer:
        """Accept the next TCP connection."""
        sock, _ = self.sock.accept()
        return Peer(sock)

    def open(self, plugin: Plugin, *headers: str, **options: Any) -> tuple[str, Peer]:
        """Create a connection to here, accept it, and read its ``open`` event."""
        id = plugin.create(self.url, **options)
        peer = self.accept()
        peer.handshake(*headers)
        plugin.event(id, "open")
        return id, peer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()


@contextlib.contextmanager
def echo_server() -> Iterator[Listener]:
    """Run a server that answers frame by frame: messages with themselves, Ping with Pong."""

    def serve(peer: Peer) -> None:
        with peer, contextlib.suppress(OSError, EOFError):
            peer.handshake()
            while True:
                head, payload = peer.read_frame()
                opcode = head & 0x0F
                if opcode == PING:
                    peer.send(frame(PONG, payload))
                elif opcode != PONG:
                    peer.send(bytes([head]) + frame(opcode, payload)[1:])
                if opcode == CLOSE:
                    return

    def accept(listener: Listener) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer = listener.accept()
                threading.Thread(target=serve, args=(peer,), daemon=True).start()

    with Listener() as listener:
        listener.sock.settimeout(None)
        thread = threading.Thread(target=accept, args=(listener,), daemon=True)
        thread.start()
        yield listener
        listener.sock.shutdown(socket.SHUT_RDWR)
        thread.join(TIMEOUT)
