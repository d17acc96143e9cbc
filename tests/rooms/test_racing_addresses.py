"""Which address answers first (``network/addresses.py``): one winner, and no socket left over.

Time is virtual and connections are played. What must hold whatever happens, and whenever the race
is called off: of the sockets that were opened only the winner's stays open.
"""

import asyncio
import itertools
import math
import socket
import sys
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import virtual_time
from wsplugin.network import addresses
from wsplugin.network.addresses import DELAY, MOST_SOCKETS, AllFailed, in_turn, race
from wsplugin.network.names import Address

NEVER = math.inf


def ipv4(number: int) -> Address:
    return Address(socket.AF_INET, f"192.0.2.{number}", 80)


def ipv6(number: int) -> Address:
    return Address(socket.AF_INET6, f"2001:db8::{number}", 80)


class Course(NamedTuple):
    """What becomes of an attempt: how many seconds it takes, and the exception that ends it."""

    seconds: float
    failure: BaseException | None = None


class Socket:
    """Stands in for a socket."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.is_open = True

    def close(self) -> None:
        self.is_open = False


class Network:
    """Addresses that answer as they are told to."""

    def __init__(self, courses: Sequence[Course]) -> None:
        self.addresses = [ipv4(number) for number in range(len(courses))]
        self.sockets: list[Socket] = []
        self.starts: list[float] = []
        self.most = 0
        """How many sockets were open at a time."""
        self._courses = dict(zip(self.addresses, courses, strict=True))

    @property
    def open(self) -> list[Socket]:
        """The sockets that are open."""
        return [sock for sock in self.sockets if sock.is_open]

    async def connect(self, address: Address) -> Any:
        sock = Socket(address)
        self.sockets.append(sock)
        self.starts.append(asyncio.get_running_loop().time())
        self.most = max(self.most, len(self.open))
        course = self._courses[address]
        try:
            if course.seconds == NEVER:
                await asyncio.get_running_loop().create_future()
            elif course.seconds:
                await asyncio.sleep(course.seconds)
            if course.failure is not None:
                raise course.failure
        except BaseException:
            sock.close()
            raise
        return sock


def answers(seconds: float) -> Course:
    return Course(seconds)


def refuses(seconds: float) -> Course:
    return Course(seconds, OSError(seconds))


silent = Course(NEVER)


def run_race(network: Network) -> tuple[Socket, float]:
    """Run a race to its end; return the winner, and when it was known."""

    async def main() -> tuple[Socket, float]:
        sock: Any = await race(network.addresses, network.connect)
        return sock, asyncio.get_running_loop().time()

    return virtual_time.run(main())


# --- in which order ---

A, B, C, D = (ipv4(number) for number in range(4))
E, F, G, H = (ipv6(number) for number in range(4))


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ([A], [A]),
        ([A, B, C], [A, B, C]),
        ([E, A], [E, A]),
        ([A, E], [A, E]),
        ([E, F, G, A, B], [E, A, F, B, G]),
        ([A, B, C, E], [A, E, B, C]),
        ([A, E, F, G, H], [A, E, F, G, H]),
        ([A, E, B, F], [A, E, B, F]),
        ([E, F, A, G, B], [E, A, F, B, G]),
    ],
)
def test_families_take_turns_beginning_with_the_first(
    found: list[Address], order: list[Address]
) -> None:
    assert in_turn(found) == order


def test_addresses_are_tried_in_turn() -> None:
    network = Network([silent] * 3)
    network.addresses = [E, F, A]
    network._courses = {E: silent, F: answers(0), A: silent}
    winner, _ = run_race(network)
    assert [sock.address for sock in network.sockets] == [E, A, F]
    assert winner.address == F


# --- when the next is tried ---


@pytest.mark.parametrize(
    ("courses", "starts", "winner", "end"),
    [
        # When each attempt starts, which one wins, and when.
        ([answers(0)], [0], 0, 0),
        ([answers(30)], [0], 0, 30),
        ([answers(0.2), answers(0)], [0], 0, 0.2),
        ([silent, answers(0)], [0, 0.25], 1, 0.25),
        ([silent, answers(0.1)], [0, 0.25], 1, 0.35),
        # The first may still win.
        ([answers(0.3), answers(0.1)], [0, 0.25], 0, 0.3),
        # At once when one fails.
        ([refuses(0), answers(0)], [0, 0], 1, 0),
        ([refuses(0.1), answers(0.2)], [0, 0.1], 1, 0.3),
        ([refuses(0.1), silent, answers(0)], [0, 0.1, 0.35], 2, 0.35),
        ([refuses(0)] * 9 + [answers(1)], [0] * 10, 9, 1),
        ([silent, refuses(0.1), answers(0)], [0, 0.25, 0.35], 2, 0.35),
        # At most four at a time.
        ([silent] * 3 + [answers(5)], [0, 0.25, 0.5, 0.75], 3, 5.75),
        (
            [silent, silent, silent, refuses(3), answers(0)],
            [0, 0.25, 0.5, 0.75, 3.75],
            4,
            3.75,
        ),
        ([refuses(9)] * 4 + [answers(0)], [0, 0.25, 0.5, 0.75, 9], 4, 9),
    ],
)
def test_starts(
    courses: Sequence[Course], starts: Sequence[float], winner: int, end: float
) -> None:
    network = Network(courses)
    sock, time = run_race(network)
    assert network.starts == pytest.approx(starts)
    assert sock.address == network.addresses[winner]
    assert time == pytest.approx(end)
    assert network.open == [sock]


def test_a_fifth_waits_for_the_first_four_for_ever() -> None:
    network = Network([silent] * 4 + [answers(0)])

    async def main() -> None:
        async with asyncio.timeout(1000):
            await race(network.addresses, network.connect)

    with pytest.raises(TimeoutError):
        virtual_time.run(main())
    assert network.starts == pytest.approx([0, 0.25, 0.5, 0.75])
    assert network.open == []


def test_the_delay_is_the_recommended_one() -> None:
    """RFC 8305 section 8: 250 milliseconds; the contract bounds sockets by four."""
    assert (DELAY, MOST_SOCKETS) == (0.25, 4)


# --- who wins ---


@pytest.mark.parametrize("count", [2, 3, 4])
def test_of_several_that_answer_in_the_same_turn_one_wins(count: int) -> None:
    network = Network([answers(1 - n * DELAY) for n in range(count)])
    winner, time = run_race(network)
    assert time == 1
    assert network.open == [winner]
    assert len(network.sockets) == count


def test_one_that_fails_in_the_same_turn_as_another_answers() -> None:
    for courses in (
        [refuses(0.5), answers(0.25)],
        [answers(0.5), refuses(0.25)],
        [refuses(0.5), answers(0.25), silent],
    ):
        network = Network(courses)
        winner, _ = run_race(network)
        assert network.open == [winner]


def test_when_all_fail_each_says_why() -> None:
    failures = [OSError(number, f"why {number}") for number in range(6)]
    network = Network([Course(0.1 * (6 - n), failure) for n, failure in enumerate(failures)])
    with pytest.raises(AllFailed) as failed:
        run_race(network)
    assert set(failed.value.reasons) == set(failures)
    assert len(failed.value.reasons) == 6
    assert network.open == []


@pytest.mark.parametrize("failure", [ZeroDivisionError(), MemoryError(), ValueError("bug")])
def test_what_is_no_failure_of_the_network_ends_the_race(failure: Exception) -> None:
    """A bug is not to be taken for an address that does not answer."""
    network = Network([silent, Course(0.1, failure), answers(0), silent])
    with pytest.raises(type(failure)):
        run_race(network)
    assert network.open == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(
            Course,
            st.sampled_from([0, 0.1, 0.25, 0.5, 0.6, 1.0, 5.0]),
            st.sampled_from([None, OSError("no")]),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_any_race(courses: list[Course]) -> None:
    network = Network(courses)
    if all(course.failure for course in courses):
        with pytest.raises(AllFailed) as failed:
            run_race(network)
        assert len(failed.value.reasons) == len(courses)
        assert network.open == []
        return
    winner, end = run_race(network)
    assert network.open == [winner]
    assert network.most <= MOST_SOCKETS
    # Of those that were started none would have answered earlier.
    ends = [
        start + course.seconds
        for start, course in zip(network.starts, courses, strict=False)
        if course.failure is None
    ]
    assert end == pytest.approx(min(ends))
    # Nobody waits longer for its turn than for the delay, or for a place.
    for earlier, later in itertools.pairwise(network.starts):
        freed = [
            start + course.seconds
            for start, course in zip(network.starts, courses, strict=False)
            if course.failure
        ]
        assert later <= earlier + DELAY + 1e-9 or any(t == pytest.approx(later) for t in freed)


# --- called off ---

CALLED_OFF: dict[str, list[Course]] = {
    "one that answers": [answers(0)],
    "one that takes its time": [answers(1)],
    "one that never answers": [silent],
    "several in flight": [silent, silent, answers(1)],
    "as many as may be": [silent, silent, silent, answers(0.5), answers(0)],
    "after failures": [refuses(0), refuses(0.1), answers(0.1)],
    "all fail": [refuses(0), refuses(0.1), refuses(0.1)],
    "two in the same turn": [answers(0.5), answers(0.25)],
    "four in the same turn": [answers(1 - n * DELAY) for n in range(4)],
    "answer and failure in the same turn": [refuses(0.5), answers(0.25), answers(0)],
}


@pytest.mark.parametrize("courses", CALLED_OFF.values(), ids=CALLED_OFF)
def test_no_socket_is_left_whenever_it_is_called_off(courses: list[Course]) -> None:
    """At every turn of the event loop, and by two cancellations as well as by one."""
    for twice in (False, True):
        for turn in itertools.count():
            network = Network(courses)
            loop = virtual_time.Loop()
            task = loop.create_task(race(network.addresses, network.connect))
            for _ in range(turn):
                if task.done() or not virtual_time.turn(loop):
                    break
            over = task.done()
            task.cancel()
            if twice:
                virtual_time.turn(loop)
                task.cancel()
            virtual_time.settle(loop)
            assert task.done()
            if task.cancelled() or task.exception() is not None:
                assert network.open == []
            else:
                winner: Any = task.result()
                assert network.open == [winner]
            assert not asyncio.all_tasks(loop)
            del task
            loop.close()
            assert loop.complaints == []
            if over or turn > 100:
                break
        assert turn < 100 or silent in courses


@pytest.mark.usefixtures("no_collector")
def test_a_race_that_is_won_keeps_nothing() -> None:
    """Its failures hold frames, and these the failures: a circle, with the winner in it."""

    async def connect(address: Address) -> Any:
        if address != C:
            raise OSError
        return Socket(address)

    async def main() -> weakref.ref[Any]:
        return weakref.ref(await race([A, B, C], connect))

    assert virtual_time.run(main())() is None


# --- real sockets ---


async def connected(address: Address) -> socket.socket:
    return await addresses.connect(address)


def test_a_real_connection_says_that_it_is_tcp() -> None:
    """The event loop turns Nagle's algorithm off only for what says so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address(socket.AF_INET, "127.0.0.1", server.getsockname()[1])
        with asyncio.run(connected(address)) as sock:
            assert sock.getpeername() == server.getsockname()
            assert sock.proto == socket.IPPROTO_TCP
            assert not sock.getblocking()


def test_a_real_refusal_leaves_no_socket() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = Address(socket.AF_INET, "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(AllFailed) as failed:
            asyncio.run(race([address, address]))
    assert [type(reason) for reason in failed.value.reasons] == [ConnectionRefusedError] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="others answer beyond the backlog")
def test_a_real_attempt_that_is_called_off_leaves_no_socket() -> None:
    async def main(address: Address) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(race([address, address]), 0.3)

    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        # Nobody accepts, so who comes now is not answered. An open socket would be a warning.
        asyncio.run(main(Address(socket.AF_INET, "127.0.0.1", server.getsockname()[1])))
