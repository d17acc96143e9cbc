"""A name server (RFC 1035) that answers, is silent, is slow and lies as a test wants it."""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from harness import TIMEOUT
from networks.namespaces import Namespace

PORT: Final = 53
A: Final = 1
CNAME: Final = 5
AAAA: Final = 28
SERVFAIL: Final = 2
NXDOMAIN: Final = 3

_IS_RESPONSE: Final = 0x8180  # with recursion wanted and to be had
_IS_TRUNCATED: Final = 0x0200


class Question(NamedTuple):
    """What is asked."""

    head: bytes
    """Its id, by which the answer is known."""
    text: bytes
    """The question as it stood in the query, which the answer repeats."""
    name: str
    type: int
    over_tcp: bool


Reply = Callable[[Question], bytes | None]
"""What is answered; None for nothing at all."""


def addresses(*found: str) -> Reply:
    """Answer with those of the addresses that are of the type asked for."""
    return lambda question: _answer(question, _records(question.type, question.type, found))


def wrong_family(*found: str) -> Reply:
    """Answer with those of the addresses that are not, as if they had been asked for."""
    other = {A: AAAA, AAAA: A}
    return lambda question: _answer(
        question, _records(other[question.type], other[question.type], found)
    )


def under_wrong_type(*found: str) -> Reply:
    """Answer with the addresses of the other family, under the type that was asked for."""
    other = {A: AAAA, AAAA: A}
    return lambda question: _answer(question, _records(question.type, other[question.type], found))


def alias(name: str) -> Reply:
    """Answer with another name, and leave it to the client to ask for its addresses."""
    return lambda question: _answer(question, [_record(CNAME, _encode_name(name))])


def failure(code: int) -> Reply:
    """Answer that there is no answer."""
    return lambda question: _answer(question, [], flags=code)


def slowly(seconds: float, reply: Reply) -> Reply:
    """Let others wait as well: it is one name server."""

    def answer(question: Question) -> bytes | None:
        time.sleep(seconds)
        return reply(question)

    return answer


def truncated(over_tcp: Reply) -> Reply:
    """Say that the answer is too long for UDP."""

    def answer(question: Question) -> bytes | None:
        if question.over_tcp:
            return over_tcp(question)
        return _answer(question, [], flags=_IS_TRUNCATED)

    return answer


def silence(question: Question) -> bytes | None:
    """Say nothing."""
    return None


def garbage(question: Question) -> bytes | None:
    """Say nothing that can be understood."""
    return question.head + b"\xff" * 50


class NameServer(threading.Thread):
    """Listens in a namespace, over UDP and TCP.

    Args:
        namespace: where.
        address: on which of its addresses.

    """

    def __init__(self, namespace: Namespace, address: str) -> None:
        super().__init__(daemon=True)
        self.replies: dict[str, Reply] = {}
        """What is answered for each name; others do not exist."""
        self.asked: list[str] = []
        """The names of the questions that have come."""
        self._udp = namespace.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._tcp = namespace.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        self._ended, self._end = socket.socketpair()
        self._clients: list[socket.socket] = []
        self._udp.bind((address, PORT))
        self._tcp.bind((address, PORT))
        self._tcp.listen()
        self.start()

    def wait_for(self, *names: str) -> None:
        """Wait until all of these have been asked for."""
        end = time.monotonic() + TIMEOUT
        while not set(names).issubset(self.asked):
            assert time.monotonic() < end, self.asked
            time.sleep(0.01)

    def run(self) -> None:
        """Answer questions."""
        while True:
            sockets = [self._udp, self._tcp, self._ended, *self._clients]
            ready, _, _ = select.select(sockets, [], [])
            if self._ended in ready:
                return
            for sock in ready:
                if sock is self._udp:
                    query, client = self._udp.recvfrom(4096)
                    if (answer := self._reply(query, over_tcp=False)) is not None:
                        self._udp.sendto(answer, client)
                elif sock is self._tcp:
                    self._clients.append(self._tcp.accept()[0])
                elif not self._serve(sock):
                    self._clients.remove(sock)
                    sock.close()

    def _serve(self, client: socket.socket) -> bool:
        """Answer one question over TCP (RFC 1035 section 4.2.2); return whether one came."""
        with contextlib.suppress(OSError):
            if len(prefix := client.recv(2, socket.MSG_WAITALL)) == 2:
                query = client.recv(int.from_bytes(prefix, "big"), socket.MSG_WAITALL)
                if (answer := self._reply(query, over_tcp=True)) is not None:
                    client.sendall(len(answer).to_bytes(2, "big") + answer)
                return True
        return False

    def _reply(self, query: bytes, *, over_tcp: bool) -> bytes | None:
        labels = []
        end = 12
        while size := query[end]:
            labels.append(query[end + 1 : end + 1 + size].decode())
            end += 1 + size
        (type,) = struct.unpack_from("!H", query, end + 1)
        name = ".".join(labels)
        self.asked.append(name)
        question = Question(query[:2], query[12 : end + 5], name, type, over_tcp)
        return self.replies.get(name, failure(NXDOMAIN))(question)

    def close(self) -> None:
        """Stop answering."""
        self._end.close()
        self.join(TIMEOUT)
        assert not self.is_alive()
        for sock in (self._udp, self._tcp, self._ended, *self._clients):
            sock.close()


def _answer(question: Question, records: list[bytes], flags: int = 0) -> bytes:
    head = struct.pack("!HHHHH", _IS_RESPONSE | flags, 1, len(records), 0, 0)
    return question.head + head + question.text + b"".join(records)


def _records(type: int, family: int, found: tuple[str, ...]) -> list[bytes]:
    families = {A: socket.AF_INET, AAAA: socket.AF_INET6}
    return [
        _record(type, socket.inet_pton(families[family], address))
        for address in found
        if (":" in address) == (family == AAAA)
    ]


def _record(type: int, data: bytes) -> bytes:
    # Its name is that of the question, at offset 12; to be forgotten at once.
    return struct.pack("!HHHIH", 0xC00C, type, 1, 0, len(data)) + data


def _encode_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
