r"""Plays the servers of a transcript on raw sockets: for every connection, the script from the top.

What a script may say, a step a line. Steps that write go out together, in one write, with those
just below them; the TCP connection is closed at the end of the script.

``accept [HEADER: VALUE [| …]]``
    Complete the opening handshake, with these headers besides.
``refuse STATUS REASON [| HEADER: VALUE …]``
    Answer the opening handshake, or a proxy's CONNECT, in this way.
``connect``
    Be an HTTP proxy: read a CONNECT and accept it. What follows is the server behind the proxy.
``send text "…"``, ``send binary HEX``, ``send ping "…"``, ``send pong "…"``
    Send a frame.
``send close [CODE ["REASON"]]``
    Send a Close frame; without a code, an empty one.
``send bytes HEX``, ``send http "…"``
    Send bytes as they are; HTTP as a JSON string.
``expect request GET /path HTTP/1.1``, ``expect header NAME: VALUE``, ``expect no header NAME``
    Check the request of the opening handshake, which is read if it has not been.
``expect text "…"``, ``expect binary HEX``, ``expect ping``, ``expect pong "…"``,
``expect close [CODE ["REASON"]]``
    Read the next frame and check it. Without a reason any will do; without a code, none is allowed.
``expect end``
    Read until the plugin has ended the TCP connection, whatever comes before.
``echo``
    Answer frame by frame, messages and Close with themselves, Ping with Pong, until a Close.
``wait``
    Go on at ``@continue``.
``reset``
    End the TCP connection with RST.
"""

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Final, Self

from harness import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    Listener,
    Peer,
    close_frame,
    frame,
)
from wsplugin.recording.placeholders import substitute
from wsplugin.recording.transcript import Server


class ScriptedServer:
    """One server of a transcript; listens as soon as it is made, plays after :meth:`start`.

    Args:
        server: the transcript's.
        tls: the configuration for one with TLS.

    """

    def __init__(self, server: Server, tls: ssl.SSLContext) -> None:
        self.server = server
        self.failures: list[str] = []
        self._tls = tls if server.kind == "tls" else None
        self._listener = Listener()
        if server.kind == "absent":
            # A socket that is bound but does not listen refuses, and no one else gets its port.
            self._listener.sock.close()
            self._listener.sock = socket.socket()
            self._listener.sock.bind(("127.0.0.1", 0))
            self._listener.port = self._listener.sock.getsockname()[1]
        self.port = self._listener.port
        self._names: Mapping[str, str] = {}
        self._continued = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def start(self, names: Mapping[str, str]) -> None:
        """Accept connections; `names` are what scripts may refer to."""
        self._names = names
        if self.server.kind != "absent":
            self._listener.sock.settimeout(None)
            self._thread(self._accept)

    def go_on(self) -> None:
        """Let a script that waits go on."""
        self._continued.release()

    def finish(self) -> None:
        """Wait until all scripts have come to their end."""
        if self.server.kind != "absent":
            self._listener.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT)
            if thread.is_alive():
                self.failures.append(f"server {self.server.name}: the script has not ended")
        self._listener.sock.close()

    def _thread(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer = self._listener.accept()
                self._thread(self._serve, peer)

    def _serve(self, peer: Peer) -> None:
        if self.server.kind == "untouched":
            self.failures.append(f"line {self.server.number}: somebody has connected")
            peer.close()
            return
        if self._tls:
            try:
                peer = Peer(self._tls.wrap_socket(peer.sock, server_side=True))
            except OSError:
                return  # the plugin does not trust us; that is in the transcript
        with peer:
            play = Play(peer, self._continued)
            for line in self.server.script:
                try:
                    play.step(substitute(line.text, self._names))
                except (OSError, EOFError, AssertionError, ValueError) as exc:
                    self.failures.append(f"line {line.number}: {line.text}: {exc!r}")
                    return
            with contextlib.suppress(OSError):
                play.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.sock.close()


class Play:
    """One run of a script, over one connection."""

    def __init__(self, peer: Peer, continued: threading.Semaphore) -> None:
        self.peer = peer
        self._continued = continued
        self._unsent = b""

    def step(self, text: str) -> None:
        """Do what one line says.

        Raises:
            AssertionError: the plugin has not done what was expected.
            EOFError: it has ended the connection instead.
            ValueError: there is no such step.

        """
        for verb, method in VERBS.items():
            if text == verb or text.startswith(verb + " "):
                if not verb.startswith(("accept", "connect", "refuse", "send")):
                    self.flush()
                method(self, text[len(verb) + 1 :])
                return
        raise ValueError("no such step")

    def flush(self) -> None:
        """Write what the steps so far have to write."""
        unsent, self._unsent = self._unsent, b""
        if unsent:
            self.peer.send(unsent)

    def _need_request(self) -> None:
        if not self.peer.request:
            self.peer.read_request()

    def accept(self, arguments: str) -> None:
        self._need_request()
        self._unsent += self.peer.response(*_headers(arguments))

    def refuse(self, arguments: str) -> None:
        self._need_request()
        status, *headers = _headers(arguments)
        lines = [f"HTTP/1.1 {status}", *headers, "", ""]
        self._unsent += "\r\n".join(lines).encode("latin-1")

    def connect(self, _: str) -> None:
        self._need_request()
        assert self.peer.request.startswith(b"CONNECT "), self.peer.request
        self.peer.request = b""
        self.peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

    def send_text(self, argument: str) -> None:
        self._send(TEXT, json.loads(argument).encode())

    def send_binary(self, argument: str) -> None:
        self._send(BINARY, bytes.fromhex(argument))

    def send_ping(self, argument: str) -> None:
        self._send(PING, json.loads(argument).encode())

    def send_pong(self, argument: str) -> None:
        self._send(PONG, json.loads(argument).encode())

    def send_close(self, arguments: str) -> None:
        code, reason = _code_and_reason(arguments)
        self._unsent += close_frame(code, reason or "")

    def send_bytes(self, argument: str) -> None:
        self._unsent += bytes.fromhex(argument)

    def send_http(self, argument: str) -> None:
        self._need_request()
        self._unsent += json.loads(argument).encode("latin-1")

    def _send(self, opcode: int, payload: bytes) -> None:
        self._unsent += frame(opcode, payload)

    def expect_request(self, argument: str) -> None:
        self._need_request()
        line = self.peer.request.split(b"\r\n")[0].decode("latin-1")
        assert line == argument, line

    def expect_header(self, argument: str) -> None:
        self._need_request()
        name, _, value = argument.partition(":")
        received = self.peer.header(name)
        assert received == value.strip(), received

    def expect_no_header(self, argument: str) -> None:
        self._need_request()
        received = self.peer.header(argument)
        assert received is None, received

    def expect_text(self, argument: str) -> None:
        self._expect(TEXT, json.loads(argument).encode())

    def expect_binary(self, argument: str) -> None:
        self._expect(BINARY, bytes.fromhex(argument))

    def expect_ping(self, _: str) -> None:
        self._expect(PING, None)

    def expect_pong(self, argument: str) -> None:
        self._expect(PONG, json.loads(argument).encode())

    def expect_close(self, arguments: str) -> None:
        code, reason = _code_and_reason(arguments)
        received = self._expect(CLOSE, b"" if code is None else None)
        if code is not None:
            assert int.from_bytes(received[:2]) == code, received
            assert reason is None or received[2:].decode() == reason, received

    def _expect(self, opcode: int, payload: bytes | None) -> bytes:
        head, received = self.peer.read_frame()
        assert head == 0x80 | opcode, f"a frame {head:#x} with {received!r}"
        assert payload is None or received == payload, received
        return received

    def expect_end(self, _: str) -> None:
        self.peer.expect_end()

    def echo(self, _: str) -> None:
        opcode = None
        # Its end is whatever the plugin makes of it; a transcript that cares uses `expect`.
        with contextlib.suppress(OSError, EOFError):
            while opcode != CLOSE:
                head, payload = self.peer.read_frame()
                opcode = head & 0x0F
                if opcode != PONG:
                    answer = PONG if opcode == PING else opcode
                    self.peer.send(frame(answer, payload, fin=bool(head & 0x80)))

    def wait(self, _: str) -> None:
        assert self._continued.acquire(timeout=TIMEOUT), "there was no @continue"

    def reset(self, _: str) -> None:
        self.peer.reset()


VERBS: Final[Mapping[str, Callable[[Play, str], None]]] = {
    "accept": Play.accept,
    "refuse": Play.refuse,
    "connect": Play.connect,
    "send text": Play.send_text,
    "send binary": Play.send_binary,
    "send ping": Play.send_ping,
    "send pong": Play.send_pong,
    "send close": Play.send_close,
    "send bytes": Play.send_bytes,
    "send http": Play.send_http,
    "expect request": Play.expect_request,
    "expect header": Play.expect_header,
    "expect no header": Play.expect_no_header,
    "expect text": Play.expect_text,
    "expect binary": Play.expect_binary,
    "expect ping": Play.expect_ping,
    "expect pong": Play.expect_pong,
    "expect close": Play.expect_close,
    "expect end": Play.expect_end,
    "echo": Play.echo,
    "wait": Play.wait,
    "reset": Play.reset,
}


def _headers(arguments: str) -> list[str]:
    return [header.strip() for header in arguments.split("|") if header.strip()]


def _code_and_reason(arguments: str) -> tuple[int | None, str | None]:
    parts = re.fullmatch(r'(?:(\d+)(?: (".*"))?)?', arguments)
    assert parts, arguments
    return int(parts[1]) if parts[1] else None, json.loads(parts[2]) if parts[2] else None
