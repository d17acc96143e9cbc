"""The receive buffer (``network/inbox.py``): nothing lost, and no more memory than is needed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from wsplugin.network.inbox import FIRST_ROOM, ROOM, Inbox


def content(inbox: Inbox) -> bytes:
    """Return what has not been taken."""
    assert bytes(inbox.view) == bytes(inbox.buffer)
    return bytes(inbox.buffer[inbox.start : inbox.end])


def read(inbox: Inbox, data: bytes, least: int = 1) -> int:
    """Read as a transport does, as much as there is room for; return how much that was."""
    room = inbox.room(least)
    assert len(room) >= least
    count = min(len(room), len(data))
    room[:count] = data[:count]
    inbox.filled(count)
    return count


def fill(inbox: Inbox) -> int:
    """Read as much as there is room for."""
    return read(inbox, bytes(len(inbox.room(1))))


# --- nothing is lost ---

# What is done, and to how many bytes.
steps = st.lists(
    st.tuples(
        st.sampled_from(["read", "put", "take"]),
        st.one_of(
            st.integers(0, 100),
            st.integers(0, 3 * FIRST_ROOM),
            st.sampled_from([FIRST_ROOM, ROOM, ROOM + 1]),
        ),
        st.sampled_from([1, 1, 1, 16_384, 65_536]),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=150)
@given(steps)
def test_bytes_come_out_as_they_went_in(steps: list[tuple[str, int, int]]) -> None:
    inbox = Inbox()
    held = bytearray()
    for number, (step, size, least) in enumerate(steps, 1):
        data = bytes([number]) * size
        match step:
            case "read":
                held += data[: read(inbox, data, least)]
            case "put":
                inbox.put(data)
                held += data
            case "take":
                taken = min(size, len(held))
                inbox.start += taken
                del held[:taken]
        assert content(inbox) == held


def test_what_is_put_goes_behind_what_is_there() -> None:
    inbox = Inbox()
    inbox.put(b"")
    assert content(inbox) == b""
    inbox.put(b"one")
    inbox.start = 1
    inbox.put(b"two" * FIRST_ROOM)
    assert content(inbox) == b"ne" + b"two" * FIRST_ROOM


def test_what_is_cleared_is_gone() -> None:
    inbox = Inbox()
    inbox.put(b"gone")
    inbox.clear()
    assert content(inbox) == b""
    inbox.put(b"there")
    assert content(inbox) == b"there"


# --- memory ---


def test_a_quiet_connection_has_a_small_buffer() -> None:
    inbox = Inbox()
    for size in (1, 1000, FIRST_ROOM - 1) * 10:
        assert read(inbox, bytes(size)) == size
        inbox.start = inbox.end
    assert len(inbox.buffer) == FIRST_ROOM


def test_a_read_that_fills_the_buffer_makes_it_large() -> None:
    inbox = Inbox()
    assert read(inbox, bytes(2 * FIRST_ROOM)) == FIRST_ROOM
    inbox.start = inbox.end
    assert len(inbox.room(1)) == ROOM
    # Once known to be busy, it stays so.
    assert read(inbox, b"x") == 1
    inbox.start = inbox.end
    assert len(inbox.room(1)) == ROOM


def test_a_buffer_that_is_empty_is_used_from_its_beginning() -> None:
    inbox = Inbox()
    buffer = inbox.buffer
    for _ in range(100):
        read(inbox, bytes(FIRST_ROOM - 1))
        inbox.start = inbox.end
    assert inbox.buffer is buffer


def test_a_rest_is_moved_and_not_copied_to_a_new_buffer() -> None:
    """A flood whose messages never end where a read does must not allocate all the time."""
    inbox = Inbox()
    fill(inbox)
    inbox.start = inbox.end
    fill(inbox)
    buffer = inbox.buffer
    assert len(buffer) == ROOM
    for _ in range(20):
        inbox.start = inbox.end - 1000
        inbox.buffer[inbox.start : inbox.end] = b"x" * 1000
        assert len(inbox.room(1)) == ROOM - 1000
        assert content(inbox) == b"x" * 1000
        fill(inbox)
    assert inbox.buffer is buffer


def test_there_is_room_for_as_much_as_is_held() -> None:
    """Else the next read would be a small one, and all of it would have to be moved for that."""
    inbox = Inbox()
    while inbox.end < ROOM:
        fill(inbox)
    inbox.start = inbox.end - 3 * ROOM // 4
    assert len(inbox.room(len(inbox.buffer) - inbox.end + 1)) >= 3 * ROOM // 4


def test_a_long_frame_grows_as_its_bytes_come() -> None:
    """No more than four times what is there, whatever its header claims."""
    inbox = Inbox()
    moved = 0
    while inbox.end < 64 * 2**20:
        buffer, held = inbox.buffer, inbox.end - inbox.start
        fill(inbox)
        if inbox.buffer is not buffer:
            moved += held
        assert len(inbox.buffer) <= max(ROOM, 4 * held)
    # Growing by doubling, so that all bytes are copied about once.
    assert moved <= 2 * inbox.end


def test_the_memory_of_a_long_frame_is_given_back() -> None:
    inbox = Inbox()
    while inbox.end < 16 * 2**20:
        fill(inbox)
    inbox.start = inbox.end
    assert len(inbox.room(1)) == ROOM


def test_the_memory_of_a_long_frame_is_given_back_although_the_next_has_begun() -> None:
    inbox = Inbox()
    while inbox.end < 16 * 2**20:
        fill(inbox)
    inbox.start = inbox.end - 10
    while inbox.end != len(inbox.buffer):
        fill(inbox)
    inbox.start = inbox.end - 10
    inbox.room(1)
    assert len(inbox.buffer) == ROOM


def test_at_least_what_is_asked_for() -> None:
    """At the end of a TLS stream asyncio reads once, and drops what there was no room for."""
    inbox = Inbox()
    read(inbox, bytes(FIRST_ROOM - 1))
    for least in (1, 2, FIRST_ROOM, ROOM, 3 * ROOM):
        assert len(inbox.room(least)) >= least
        assert len(inbox.buffer) <= max(ROOM, 2 * (FIRST_ROOM - 1 + least), 4 * FIRST_ROOM)


def test_what_is_released_takes_no_memory() -> None:
    inbox = Inbox()
    inbox.put(bytes(1000))
    inbox.release()
    assert (len(inbox.buffer), len(inbox.view), inbox.start, inbox.end) == (0, 0, 0, 0)


def test_a_transport_may_still_write_to_what_has_been_released() -> None:
    """A read may be on its way while the connection is done with."""
    inbox = Inbox()
    room = inbox.room(1)
    inbox.release()
    room[:4] = b"late"
    inbox.put(b"later")
    assert content(inbox) == b"later"
