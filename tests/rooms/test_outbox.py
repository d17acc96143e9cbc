"""What waits to be sent (``network/outbox.py``): its order, and its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsplugin.messages import Id, RequestError
from wsplugin.network.outbox import MAX_BOOKKEEPING, Pieces, Queue, Waiting, bookkeeping

TEXT = 1


def message(id: Id = 1, size: int = 0) -> Waiting:
    return Waiting(id, TEXT, bytes(size))


# --- the queue ---


@pytest.mark.parametrize(
    ("queued", "behind", "size", "has_room"),
    [
        # Into an empty queue any message goes.
        (0, 0, 0, True),
        (0, 0, 100, True),
        (0, 0, 101, True),
        (0, 0, 10**9, True),
        # Else what waits anywhere counts, the message included.
        (1, 0, 99, True),
        (1, 0, 100, False),
        (0, 1, 99, True),
        (0, 1, 100, False),
        (50, 49, 1, True),
        (50, 49, 2, False),
        (100, 0, 0, True),
        (100, 0, 1, False),
        (0, 100, 0, True),
        (500, 0, 0, False),
        (0, 500, 0, False),
    ],
)
def test_room(queued: int, behind: int, size: int, has_room: bool) -> None:
    queue = Queue(100)
    if queued:
        queue.push(message(size=queued))
    assert queue.has_room(size, behind) is has_room


sizes = st.lists(st.tuples(st.integers(0, 50), st.one_of(st.none(), st.text(max_size=50))))


@given(sizes, st.lists(st.booleans()))
def test_the_queue_is_one(messages: list[tuple[int, Id]], pops: list[bool]) -> None:
    queue = Queue(1000)
    held: list[Waiting] = []
    turns = iter(pops)
    for size, id in messages:
        queue.push(message(id, size))
        held.append(message(id, size))
        if next(turns, False):
            assert queue.pop() == held.pop(0)
        assert bool(queue.messages) is bool(held)
        assert queue.size == sum(len(each.payload) for each in held)
        assert queue.held == queue.size + sum(bookkeeping(each.request) for each in held)
    assert list(queue.clear()) == [each.request for each in held]
    assert (bool(queue.messages), queue.size, queue.held) == (False, 0, 0)


def test_empty_messages_are_bounded_too() -> None:
    queue = Queue(2**40)
    count = MAX_BOOKKEEPING // bookkeeping(1)
    for _ in range(count):
        queue.push(message())
    with pytest.raises(RequestError) as refused:
        queue.push(message())
    assert refused.value.code == "buffer-full"
    assert queue.held <= MAX_BOOKKEEPING
    # What was refused has left no trace, and what goes makes room.
    queue.pop()
    queue.push(message())
    assert len(list(queue.clear())) == count


def test_long_ids_are_bounded_too() -> None:
    queue = Queue(2**40)
    queue.push(message("i" * (MAX_BOOKKEEPING // 2)))
    with pytest.raises(RequestError):
        queue.push(message("i" * (MAX_BOOKKEEPING // 2)))
    # As any message goes into an empty queue, so does any id.
    queue = Queue(1)
    queue.push(message("i" * 2 * MAX_BOOKKEEPING))
    assert queue.pop().request == "i" * 2 * MAX_BOOKKEEPING
    assert queue.held == 0


@pytest.mark.parametrize("id", [None, 0, -1, 2**63, "", "x", "x" * 1000])
def test_bookkeeping_is_about_what_it_takes(id: Id) -> None:
    assert bookkeeping(id) >= 256
    assert bookkeeping(id) - 256 == (len(id) if isinstance(id, str) else 0)


# --- the pieces ---


@given(st.lists(st.binary(max_size=70)), st.integers(1, 33))
def test_pieces_are_what_was_pushed(parts: list[bytes], size: int) -> None:
    pieces = Pieces(size)
    for part in parts:
        pieces.push(part)
    whole = b"".join(parts)
    assert pieces.waiting == len(whole)
    got = b""
    while pieces.waiting:
        piece = pieces.pop()
        assert 0 < len(piece) <= size
        got += piece
        assert pieces.waiting == len(whole) - len(got)
    assert got == whole


def test_pieces_are_not_copied() -> None:
    """A message of 16 MiB over TLS must not be held twice."""
    data = bytes(1000)
    pieces = Pieces(100)
    pieces.push(data)
    assert pieces.pop().obj is data


def test_dropped_pieces() -> None:
    pieces = Pieces(10)
    pieces.push(bytes(100))
    pieces.clear()
    assert pieces.waiting == 0
    pieces.push(b"new")
    assert bytes(pieces.pop()) == b"new"
