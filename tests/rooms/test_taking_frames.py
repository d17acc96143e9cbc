"""Received bytes to messages and control frames, without a socket (``network/frames.py``).

Each case is taken whole, byte by byte and with more data behind its end. What must hold of all:
nothing is taken twice, whatever was raised, and of what comes before a violation nothing is lost.
"""

import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol, State
from websockets.uri import parse_uri

from conversations import CHARACTERS, ERROR_CODES, LIMIT, fragments
from deflate import Compressor, compressed
from frame_cases import BAD, CLOSES, GOOD, OVER, Bad, Good
from harness import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_frame, frame
from wsplugin.log import SILENT
from wsplugin.network.compression import Deflate
from wsplugin.network.frames import Frames, Taken, Violation
from wsplugin.network.frames import frame as serialize
from wsplugin.network.inbox import Inbox

BATCH = 2**18


class PingAnswered(NamedTuple):
    """The payload of a Pong that goes out."""

    payload: bytes


class PongTaken(NamedTuple):
    """The payload of a Pong that came in."""

    payload: bytes


class CloseTaken(NamedTuple):
    """The server's Close frame, and what is to be sent in answer."""

    code: int
    reason: str
    answer: bytes


def deflate(*, fresh_for_each: bool = False) -> Deflate:
    """Return the extension as a server negotiates it in most cases."""
    return Deflate(PerMessageDeflate(fresh_for_each, False, 15, 15), compress=True)


def parsed(data: bytes) -> list[Frame]:
    """Read what a client sends, by the library."""
    server = Protocol(SERVER, state=State.OPEN, max_size=None, logger=SILENT)
    server.receive_data(data)
    assert server.parser_exc is None
    return [event for event in server.events_received() if isinstance(event, Frame)]


class Receiver:
    """Takes bytes as the wire does, and keeps what comes of them.

    Args:
        max_size: of a message, in bytes.
        limit: of the batch.
        extension: what was negotiated.
        wanted: whether somebody wants the messages.
        failing: the numbers of the messages that cannot be encoded, from 0.

    """

    def __init__(
        self,
        *,
        max_size: int = 16 * 2**20,
        limit: int = BATCH,
        extension: Deflate | None = None,
        wanted: bool = True,
        failing: frozenset[int] = frozenset(),
    ) -> None:
        self.protocol = ClientProtocol(
            parse_uri("ws://server/"), state=State.OPEN, max_size=None, logger=SILENT
        )
        self.protocol.extensions = [extension] if extension else []
        self.inbox = Inbox()
        self.frames = Frames(self.protocol, max_size, self)
        self.batch = bytearray()
        self.got: list[Any] = []
        """Messages, what was answered, and at last the violation, in their order."""
        self.failures = 0
        self.received = 0
        self._limit = limit
        self._wanted = wanted
        self._failing = failing

    # --- what encodes messages ---

    def append_text(self, buffer: bytearray, text: str) -> None:
        assert isinstance(text, str)
        self._append(buffer, text, len(text))

    def append_binary(self, buffer: bytearray, data: memoryview | bytes | bytearray) -> None:
        self._append(buffer, bytes(data), len(data))

    def _append(self, buffer: bytearray, message: str | bytes, size: int) -> None:
        buffer += b"half"
        number = sum(isinstance(got, str | bytes) for got in self.got) + self.failures
        if number in self._failing:
            self.failures += 1
            raise MemoryError
        self.got.append(message)
        buffer += bytes(size)

    # --- the wire's part ---

    @property
    def taken(self) -> int:
        """How many bytes have been taken."""
        return self.received - (self.inbox.end - self.inbox.start)

    @property
    def is_over(self) -> bool:
        """Whether nothing counts any more."""
        return bool(self.got) and isinstance(self.got[-1], CloseTaken | Violation)

    def receive(self, data: bytes) -> None:
        """Take bytes that have been read."""
        self.inbox.put(data)
        self.received += len(data)
        while not self.is_over and self.take() is not Taken.ALL:
            pass

    def take(self) -> Taken | None:
        """Take once; None if it raised."""
        before = self.taken
        try:
            taken = self.frames.take(self.inbox, self.batch, self._limit, wanted=self._wanted)
        except Violation as violation:
            self.got.append(violation)
            return None
        except MemoryError:
            assert self.taken > before
            return None
        assert (self.taken > before) or (taken is Taken.ALL)
        match taken:
            case Taken.BATCH:
                assert len(self.batch) > self._limit
                self.batch.clear()
            case Taken.PING:
                (pong,) = parsed(self._sent())
                assert pong.opcode is Opcode.PONG
                self.got.append(PingAnswered(bytes(pong.data)))
            case Taken.PONG:
                self.got.append(PongTaken(self.frames.pong))
            case Taken.CLOSE:
                (answer,) = parsed(self._sent())
                close = self.protocol.close_rcvd
                assert close
                self.got.append(CloseTaken(close.code, close.reason, bytes(answer.data)))
        return taken

    def _sent(self) -> bytes:
        return b"".join(self.protocol.data_to_send())


MORE = frame(TEXT, b"too late") * 40
"""Would be messages, and is long enough for whatever a bad header may have promised."""


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    """Cut up what is near the ends, where something may be decided."""
    first, middle, last = data[:300], data[300:-300], data[300:][-300:]
    yield from (bytes([byte]) for byte in first)
    yield middle
    yield from (bytes([byte]) for byte in last)


DELIVERIES: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "whole": lambda data: iter([data]),
    "byte by byte": byte_by_byte,
    "with more behind it": lambda data: iter([data + MORE]),
}
each_delivery = pytest.mark.parametrize("deliver", DELIVERIES.values(), ids=DELIVERIES)


def receive(deliver: Callable[[bytes], Iterator[bytes]], data: bytes, **options: Any) -> Receiver:
    """Return what has received `data`."""
    receiver = Receiver(**options)
    for piece in deliver(data):
        receiver.receive(piece)
    return receiver


# --- what a server may send ---


@each_delivery
@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_good_frames(case: Good, deliver: Callable[[bytes], Iterator[bytes]]) -> None:
    data = case.frames + close_frame(1000, "done")
    receiver = receive(deliver, data)
    assert [got for got in receiver.got if isinstance(got, str | bytes)] == list(case.messages)
    pongs = [got.payload for got in receiver.got if isinstance(got, PingAnswered)]
    assert pongs == list(case.pongs)
    assert receiver.got[-1] == CloseTaken(1000, "done", b"\x03\xe8done")
    assert receiver.taken == len(data)


@each_delivery
@pytest.mark.parametrize("case", CLOSES, ids=lambda case: f"{case[0]} {case[2]}")
def test_close_frames(
    case: tuple[str, bytes, int | None, str], deliver: Callable[[bytes], Iterator[bytes]]
) -> None:
    _, before, code, reason = case
    data = before + close_frame(code, reason)
    receiver = receive(deliver, data)
    answer = b"" if code is None else struct.pack("!H", code) + reason.encode()
    assert receiver.got[-1] == CloseTaken(1005 if code is None else code, reason, answer)
    assert receiver.taken == len(data)


def test_control_frames_keep_their_place_among_messages() -> None:
    parts = [b"a", b"b", b"c"]
    receiver = Receiver()
    receiver.receive(
        frame(TEXT, b"first")
        + fragments(BINARY, *parts, between=frame(PING, b"p") + frame(PONG, b"q"))
        + frame(PONG, b"last")
    )
    assert receiver.got == [
        "first",
        *[PingAnswered(b"p"), PongTaken(b"q")] * 2,
        b"abc",
        PongTaken(b"last"),
    ]


@pytest.mark.parametrize("frames", [frame(TEXT), frame(BINARY), fragments(TEXT, b"a", b"b")])
def test_nothing_is_taken_before_its_last_byte(frames: bytes) -> None:
    receiver = Receiver()
    for at in range(len(frames)):
        assert receiver.got == []
        receiver.receive(frames[at : at + 1])
    assert len(receiver.got) == 1


def test_lengths_of_every_kind() -> None:
    sizes = [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 200_000]
    receiver = Receiver()
    for size in sizes:
        receiver.receive(frame(TEXT, b"t" * size) + frame(BINARY, b"b" * size))
    assert receiver.got == [m for size in sizes for m in ("t" * size, b"b" * size)]


# --- what a server must not send ---

# What is said to the server; what is said to the host follows from it.
WORDS = {
    "reserved bits must be 0",
    "invalid opcode",
    "incorrect masking",
    "a length that is not minimally encoded",
    "unexpected continuation frame",
    "expected a continuation frame",
    "a control frame longer than 125 bytes",
    "fragmented control frame",
    "close frame too short",
    "invalid status code",
    "decompression failed",
    "RSV1 bit set in continuation frame",
}


def check_violation(receiver: Receiver, code: int) -> Violation:
    """Check that it has come to a violation, that can be told to both sides."""
    violation = receiver.got[-1]
    assert isinstance(violation, Violation)
    assert violation.close_code == code
    assert violation.code == ERROR_CODES[code]
    assert len(violation.reason.encode()) <= 123
    assert violation.reason
    match code:
        case 1002:
            assert violation.reason in WORDS
            assert violation.words == f"the server broke RFC 6455: {violation.reason}"
        case 1007:
            assert violation.reason == "invalid UTF-8"
            assert violation.words.startswith("invalid UTF-8: ")
        case 1009:
            assert "--max-message-size" in violation.reason
            assert violation.words == f"a message is {violation.reason}"
    assert str(violation) == violation.words
    # One Close frame goes out, whether the library has made it already or not.
    receiver.protocol.fail(violation.close_code, violation.reason)
    (close,) = parsed(b"".join(receiver.protocol.data_to_send()))
    assert close.opcode is Opcode.CLOSE
    assert bytes(close.data[:2]) == struct.pack("!H", code)
    return violation


@each_delivery
@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_violations(case: Bad, deliver: Callable[[bytes], Iterator[bytes]]) -> None:
    good = frame(BINARY, b"good")
    receiver = receive(deliver, good + case.frames)
    check_violation(receiver, case.code)
    assert receiver.got[:-1] == [
        b"good",
        *case.messages,
        *(got for got in receiver.got[:-1] if isinstance(got, PongTaken)),
    ]
    assert len(good) <= receiver.taken <= len(good + case.frames)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (frame(TEXT, rsv=1), "reserved bits must be 0"),
        (frame(3), "invalid opcode"),
        (frame(TEXT, mask=b"mask"), "incorrect masking"),
        (b"\x81\x7e\0\0", "a length that is not minimally encoded"),
        (frame(CONT), "unexpected continuation frame"),
        (frame(TEXT, fin=False) + frame(TEXT), "expected a continuation frame"),
        (frame(PING, bytes(126)), "a control frame longer than 125 bytes"),
        (frame(PING, fin=False), "fragmented control frame"),
        (frame(CLOSE, b"\3"), "close frame too short"),
        (close_frame(999), "invalid status code"),
    ],
)
def test_words_of_violations(frames: bytes, reason: str) -> None:
    receiver = Receiver()
    receiver.receive(frames)
    assert check_violation(receiver, 1002).reason == reason


BROKEN = {
    # what, and how many bytes of it are needed to know
    "text": (frame(TEXT, b"ok\xff"), 5),
    "the first fragment": (fragments(TEXT, b"\xff", b"more"), 3),
    "the second fragment": (fragments(TEXT, b"\xce", b"\xba\xff", b""), 7),
    "a character over two fragments": (fragments(TEXT, b"\xce", b"x", b""), 6),
    "the end of the last fragment": (fragments(TEXT, b"a", b"\xce"), 6),
    "an empty last fragment": (fragments(TEXT, b"\xce", b""), 5),
    "a reason": (frame(CLOSE, b"\x03\xe8\xff"), 5),
}


@each_delivery
@pytest.mark.parametrize(("frames", "needed"), BROKEN.values(), ids=BROKEN)
def test_broken_text(
    frames: bytes, needed: int, deliver: Callable[[bytes], Iterator[bytes]]
) -> None:
    receiver = receive(deliver, frames)
    check_violation(receiver, 1007)
    assert receiver.taken == needed


def test_text_split_at_all_bytes() -> None:
    text = CHARACTERS.encode()
    receiver = Receiver()
    receiver.receive(fragments(TEXT, *(bytes([byte]) for byte in text)))
    for at in range(len(text) + 1):
        receiver.receive(fragments(TEXT, text[:at], text[at:]))
    assert receiver.got == [CHARACTERS] * (len(text) + 2)


def test_broken_text_is_found_before_the_end_of_its_frame() -> None:
    text = "Ärger".encode()
    head = bytes((0x80 | TEXT, 100))
    receiver = Receiver()
    for piece in (head + text, text[:1], text[1:]):
        receiver.receive(piece)
        assert not receiver.got
    receiver.receive(b"\xf4\x90")  # beyond the last character, which no more bytes can mend
    (violation,) = receiver.got
    assert isinstance(violation, Violation)
    assert violation.close_code == 1007


def test_texts_that_take_long_to_come() -> None:
    texts = ["ä" * 40, "", "x", "\U0001f44b" * 30, "é" * 60]
    data = b"".join(frame(TEXT, text.encode()) for text in texts)
    for size in range(1, 9):
        receiver = Receiver()
        for start in range(0, len(data), size):
            receiver.receive(data[start : start + size])
        assert receiver.got == texts


def test_nothing_is_left_of_a_text_that_was_broken_off() -> None:
    """Half a character must not begin the next text."""
    receiver = Receiver()
    receiver.receive(fragments(TEXT, "é".encode(), b"") + frame(TEXT, b"a", fin=False))
    receiver.receive(frame(CONT, "é".encode()[:1], fin=False) + frame(CONT, "é".encode()[1:]))
    assert receiver.got == ["é", "aé"]


# --- the longest message ---


@each_delivery
@pytest.mark.parametrize(("name", "frames"), OVER, ids=[name for name, _ in OVER])
def test_messages_over_the_limit(
    name: str, frames: bytes, deliver: Callable[[bytes], Iterator[bytes]]
) -> None:
    receiver = receive(deliver, frame(TEXT, b"ok") + frames, max_size=LIMIT)
    check_violation(receiver, 1009)
    assert receiver.got[:-1] == ["ok"]


@pytest.mark.parametrize("max_size", [1, 124, 125, 126, 65_535, 65_536, 100_000])
@pytest.mark.parametrize("extension", [False, True])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_at_the_limit_and_one_over(max_size: int, extension: bool, opcode: int, parts: int) -> None:
    def cut(size: int) -> list[bytes]:
        edges = [size * n // parts for n in range(parts + 1)]
        return [b"m" * (stop - start) for start, stop in itertools.pairwise(edges)]

    options: dict[str, Any] = {"max_size": max_size, "extension": deflate() if extension else None}
    at_limit = Receiver(**options)
    at_limit.receive(fragments(opcode, *cut(max_size)) * 2)
    assert [len(got) for got in at_limit.got] == [max_size] * 2
    over = Receiver(**options)
    over.receive(fragments(opcode, *cut(max_size)) + fragments(opcode, *cut(max_size + 1)))
    assert len(over.got[0]) == max_size
    check_violation(over, 1009)


@pytest.mark.parametrize("max_size", [1, 1000, 100_000])
@pytest.mark.parametrize("kind", ["repeats", "is random"])
@pytest.mark.parametrize("parts", [1, 2])
def test_at_the_limit_and_one_over_when_decompressed(max_size: int, kind: str, parts: int) -> None:
    data = b"*" * (max_size + 1)
    if kind == "is random":
        data = zlib.compress(bytes(range(256)) * (max_size // 128 + 8), 9)
        data = (data * (max_size // len(data) + 2))[: max_size + 1]

    def cut(payload: bytes) -> list[bytes]:
        return [payload] if parts == 1 else [payload[:1], payload[1:]]

    compress = Compressor(takeover=False)
    at_limit = Receiver(max_size=max_size, extension=deflate())
    at_limit.receive(compressed(BINARY, *cut(compress(data[:-1]))) * 2)
    assert at_limit.got == [data[:-1]] * 2
    over = Receiver(max_size=max_size, extension=deflate())
    over.receive(compressed(BINARY, *cut(compress(data))))
    check_violation(over, 1009)


def test_a_long_header_is_refused_before_its_payload() -> None:
    for length in (LIMIT + 1, 2**31, 2**62, 2**63 - 1):
        for opcode in (TEXT, BINARY):
            receiver = Receiver(max_size=LIMIT)
            receiver.receive(frame(opcode, length=length))
            check_violation(receiver, 1009)


# --- compression ---


def test_compressed_among_others() -> None:
    compress = Compressor()
    receiver = Receiver(extension=deflate())
    receiver.receive(
        compressed(TEXT, compress(b"one"))
        + frame(TEXT, b"two")
        + compressed(TEXT, *(bytes([b]) for b in compress(b"one two")), between=frame(PING, b"p"))
        + fragments(BINARY, b"fo", b"ur")
        + compressed(TEXT, b"", compress(b"five"))
    )
    messages = [got for got in receiver.got if not isinstance(got, PingAnswered)]
    assert messages == ["one", "two", "one two", b"four", "five"]


def test_a_context_for_each_message() -> None:
    compress = Compressor(takeover=False)
    receiver = Receiver(extension=deflate(fresh_for_each=True))
    receiver.receive(compressed(TEXT, compress(b"same")) * 3)
    assert receiver.got == ["same"] * 3


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (compressed(TEXT, b"\xff" * 20), "decompression failed"),
        (
            frame(TEXT, b"\xf2\x48", fin=False, rsv=4) + frame(CONT, b"\0", rsv=4),
            "RSV1 bit set in continuation frame",
        ),
        (frame(PING, rsv=4), "reserved bits must be 0"),
        (frame(TEXT, rsv=6), "reserved bits must be 0"),
    ],
)
def test_broken_compression(frames: bytes, reason: str) -> None:
    receiver = Receiver(extension=deflate())
    receiver.receive(frame(TEXT, b"ok") + frames)
    assert receiver.got[0] == "ok"
    assert check_violation(receiver, 1002).reason == reason


class Exhausted(Deflate):
    """Has no memory to decompress with."""

    def __init__(self) -> None:
        super().__init__(PerMessageDeflate(False, False, 15, 15), compress=True)

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if frame.opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
            return frame
        raise MemoryError


def test_a_fault_of_decompression_is_no_violation() -> None:
    """Whoever takes it for the server's would tell the host so."""
    receiver = Receiver(extension=Exhausted())
    data = frame(TEXT, b"ok") + compressed(TEXT, Compressor()(b"lost"))
    receiver.inbox.put(data)
    with pytest.raises(MemoryError):
        receiver.frames.take(receiver.inbox, receiver.batch, BATCH)
    assert receiver.got == ["ok"]
    assert receiver.inbox.start == len(data)


# --- when nobody wants the messages ---


def test_what_nobody_wants_is_not_decompressed() -> None:
    receiver = Receiver(extension=Exhausted(), wanted=False)
    receiver.receive(
        compressed(TEXT, Compressor()(b"x" * 1000))
        + fragments(BINARY, b"a", b"b", between=frame(PING, b"p"))
        + compressed(BINARY, b"\xff", b"\xff")
    )
    assert receiver.got == [PingAnswered(b"p")]
    assert receiver.taken == receiver.received


def test_the_end_is_seen_when_nobody_wants_the_messages() -> None:
    receiver = Receiver()
    receiver.receive(frame(TEXT, b"a", fin=False))
    receiver._wanted = False
    receiver.receive(frame(CONT, b"b") + frame(TEXT, b"c", fin=False) + close_frame(4000, "bye"))
    assert receiver.got == [CloseTaken(4000, "bye", b"\x0f\xa0bye")]


# --- the limit of the batch ---


@pytest.mark.parametrize("limit", [0, 1, 100, 1000])
def test_no_more_than_one_message_beyond_the_limit_of_the_batch(limit: int) -> None:
    sizes = [0, 1, 5, 50, 96, 97, 200, 996, 997, 2000] * 3
    receiver = Receiver(limit=limit)
    data = b"".join(frame(BINARY, bytes(size)) for size in sizes)
    receiver.inbox.put(data)
    receiver.received = len(data)
    before = 0
    while (taken := receiver.take()) is Taken.BATCH:
        sizes_taken = [len(got) + 4 for got in receiver.got[before:]]
        before = len(receiver.got)
        assert sum(sizes_taken[:-1]) <= limit < sum(sizes_taken)
    assert taken is Taken.ALL
    assert [len(got) for got in receiver.got] == sizes


def test_a_batch_that_is_as_long_as_its_limit_is_not_full() -> None:
    receiver = Receiver(limit=10)
    receiver.inbox.put(frame(BINARY, bytes(6)) + frame(BINARY) + frame(BINARY))
    assert receiver.frames.take(receiver.inbox, receiver.batch, 10) is Taken.BATCH
    assert receiver.got == [bytes(6), b""]


def test_the_batch_may_be_full_already() -> None:
    receiver = Receiver(limit=10)
    receiver.batch += bytes(11)
    receiver.inbox.put(frame(TEXT, b"a") * 2)
    assert receiver.frames.take(receiver.inbox, receiver.batch, 10) is Taken.BATCH
    assert receiver.got == ["a"]


# --- exceptions that nobody has foreseen ---

KINDS: dict[str, Callable[[bytes], bytes]] = {
    "whole text": lambda data: frame(TEXT, data),
    "whole binary": lambda data: frame(BINARY, data),
    "fragments": lambda data: fragments(BINARY, data[:1], data[1:]),
    "compressed": lambda data: compressed(TEXT, Compressor(takeover=False)(data)),
}


@pytest.mark.parametrize("failing", range(5))
@pytest.mark.parametrize("encode", KINDS.values(), ids=KINDS)
def test_a_message_that_cannot_be_encoded_has_been_taken(
    encode: Callable[[bytes], bytes], failing: int
) -> None:
    """What asyncio calls after an exception, ``connection_lost``, takes what is left."""
    messages = [b"message %d" % n for n in range(5)]
    frames = [encode(data) for data in messages]
    receiver = Receiver(failing=frozenset([failing]), extension=deflate())
    data = b"".join(frames)
    receiver.inbox.put(data)
    receiver.received = len(data)
    while (taken := receiver.take()) is not None:
        assert taken is Taken.DATA
    assert receiver.taken == len(b"".join(frames[: failing + 1]))
    assert len(receiver.got) == failing
    # Whoever went on would get the rest, each once.
    while receiver.take() is not Taken.ALL:
        pass
    del messages[failing]
    assert [got if isinstance(got, bytes) else got.encode() for got in receiver.got] == messages


# --- the same as the library, whatever comes ---


def text_or_bytes() -> st.SearchStrategy[tuple[int, bytes]]:
    size = st.one_of(st.integers(0, 10), st.sampled_from([125, 126, 65_535, 65_536]))
    return st.one_of(
        st.tuples(st.just(TEXT), st.text(max_size=20).map(str.encode)),
        st.tuples(st.just(BINARY), st.binary(max_size=20)),
        st.tuples(st.just(BINARY), size.map(lambda n: b"\xfe" * n)),
        st.tuples(st.just(TEXT), size.map(lambda n: b"*" * n)),
    )


control = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))


@st.composite
def streams(draw: st.DrawFn, *, with_compression: bool) -> bytes:
    """Draw what a server may send, to its Close frame or without one."""
    compress = Compressor()
    stream = bytearray()
    for opcode, data in draw(st.lists(text_or_bytes(), max_size=8)):
        is_compressed = with_compression and draw(st.booleans())
        payload = compress(data) if is_compressed else data
        edges = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        edges = [0, *edges, len(payload)]
        parts = [payload[start:stop] for start, stop in itertools.pairwise(edges)]
        for number, part in enumerate(parts):
            for kind, ping in draw(st.lists(control, max_size=2)):
                stream += frame(kind, ping)
            stream += frame(
                CONT if number else opcode,
                part,
                fin=number == len(parts) - 1,
                rsv=4 if is_compressed and not number else 0,
            )
    if draw(st.booleans()):
        code = draw(st.one_of(st.none(), st.integers(3000, 4999)))
        stream += close_frame(code, draw(st.text(max_size=20)))
    return bytes(stream)


def by_the_library(stream: bytes, extension: Deflate | None) -> list[Any]:
    """Return what the library makes of a stream."""
    protocol = Protocol(CLIENT, state=State.OPEN, max_size=None, logger=SILENT)
    protocol.extensions = [extension] if extension else []
    protocol.receive_data(stream)
    assert protocol.parser_exc is None
    sent = iter(parsed(b"".join(protocol.data_to_send())))
    got: list[Any] = []
    message, is_text = bytearray(), False
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        match event.opcode:
            case Opcode.PING:
                got.append(PingAnswered(bytes(next(sent).data)))
            case Opcode.PONG:
                got.append(PongTaken(bytes(event.data)))
            case Opcode.CLOSE:
                assert protocol.close_rcvd
                code, reason = protocol.close_rcvd.code, protocol.close_rcvd.reason
                got.append(CloseTaken(code, reason, bytes(next(sent).data)))
            case opcode:
                is_text = opcode is Opcode.TEXT or (opcode is Opcode.CONT and is_text)
                message += event.data
                if event.fin:
                    got.append(message.decode() if is_text else bytes(message))
                    message = bytearray()
    return got


@settings(deadline=None, max_examples=200)
@given(st.data())
@pytest.mark.parametrize("with_compression", [False, True])
def test_the_same_as_the_library(with_compression: bool, data: st.DataObject) -> None:
    stream = data.draw(streams(with_compression=with_compression))
    edges = data.draw(st.lists(st.integers(0, len(stream)), max_size=10).map(sorted))
    receiver = Receiver(
        extension=deflate() if with_compression else None,
        limit=data.draw(st.sampled_from([0, 100, BATCH])),
    )
    for start, stop in zip([0, *edges], [*edges, len(stream)], strict=True):
        receiver.receive(stream[start:stop])
    assert receiver.got == by_the_library(stream, deflate() if with_compression else None)
    assert receiver.taken == len(stream)


# --- frames that are sent ---


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_serialized_frames(opcode: int, size: int) -> None:
    payload = bytes(n % 251 for n in range(size))
    data = serialize(opcode, payload)
    (event,) = parsed(data)
    assert (event.opcode, bytes(event.data), event.fin) == (opcode, payload, True)
    head = 2 if size < 126 else 4 if size < 65_536 else 10
    assert len(data) == head + 4 + size
    assert serialize(opcode, bytearray(payload))[:head] == data[:head]
    if size:
        assert serialize(opcode, payload) != data  # with a new masking key


# --- the end ---


def test_what_is_given_back() -> None:
    receiver = Receiver(extension=deflate())
    receiver.receive(frame(BINARY, bytes(1000), fin=False))
    receiver.frames.release()
    assert not receiver.protocol.extensions
    assert not receiver.frames._message
