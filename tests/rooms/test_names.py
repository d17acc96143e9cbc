"""Names to addresses (``network/names.py``), with a name server that is played.

Whoever waits here waits for an event, and the name server answers when the test lets it.
"""

import asyncio
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness import TIMEOUT
from wsplugin.network import names
from wsplugin.network.names import Address, LookUpRefused, literal, look_up, loopback, resolve

Info = tuple[int, int, int, str, tuple[Any, ...]]
FOUND: list[Info] = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]
ADDRESS = Address(socket.AF_INET, "192.0.2.1", 80)


class NameServer:
    """Answers for ``socket.getaddrinfo`` when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}
        """What is answered for a name: what was found, or an exception."""
        self._held: dict[str, threading.Event] = {}
        self._reached = threading.Condition()

    def hold(self, *hosts: str) -> None:
        """Answer nothing for these names, until they are let go."""
        for host in hosts:
            self._held[host] = threading.Event()

    def let_go(self, *hosts: str) -> None:
        """Answer now."""
        for host in hosts:
            self._held.pop(host).set()

    def wait_for(self, count: int) -> None:
        """Wait until so many questions have come."""
        with self._reached:
            assert self._reached.wait_for(lambda: len(self.asked) >= count, TIMEOUT)

    def getaddrinfo(self, host: str, port: None, *, type: int) -> Any:
        """Stand in for the system's."""
        assert (port, type) == (None, socket.SOCK_STREAM)
        held = self._held.get(host)
        with self._reached:
            self.asked.append(host)
            self._reached.notify_all()
        if held is not None:
            assert held.wait(TIMEOUT)
        answer = self.answers.get(host, FOUND)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.let_go(*server._held)
    for thread in threading.enumerate():
        if thread.name == "name":
            thread.join(TIMEOUT)
    assert names._in_flight == {}


def run(main: Callable[[], Any]) -> Any:
    """Run a coroutine; nothing that asyncio would complain of may be left."""
    complaints: list[Any] = []

    async def bounded() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, c: complaints.append(c))
        async with asyncio.timeout(TIMEOUT):
            return await main()

    try:
        return asyncio.run(bounded())
    finally:
        gc.collect()  # it is then that an exception is found that nobody has retrieved
        assert complaints == []


async def asked(host: str, server: NameServer, count: int) -> "asyncio.Task[list[Address]]":
    """Begin to look a name up; return when the question has been asked, the `count`-th."""
    task = asyncio.create_task(look_up(host, 80))
    await asyncio.sleep(0)
    server.wait_for(count)
    return task


# --- one name ---


def test_addresses_come_with_the_port(server: NameServer) -> None:
    assert run(lambda: look_up("server.test", 80)) == [ADDRESS]
    assert server.asked == ["server.test"]


def test_addresses_come_in_their_order_and_once(server: NameServer) -> None:
    server.answers["server.test"] = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
        # The scope stands behind it as a number, and may stand in the text, too.
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%eth0", 0, 0, 2)),
        # Other families cannot be connected to.
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("/tmp/x",)),
    ]
    assert run(lambda: look_up("server.test", 443)) == [
        Address(socket.AF_INET6, "2001:db8::1", 443),
        Address(socket.AF_INET, "192.0.2.1", 443),
        Address(socket.AF_INET6, "fe80::1", 443, 2),
    ]


FAILURES: dict[str, BaseException] = {
    "not found": socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    "try again": socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    "no descriptor": OSError(24, "Too many open files"),
    "no memory": MemoryError(),
    "a bug": ZeroDivisionError(),
    # A future takes none.
    "the end of an iteration": StopIteration(),
    "an exit": SystemExit(3),
    "an interrupt": KeyboardInterrupt(),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_whatever_is_raised_is_raised_where_it_is_awaited(
    failure: BaseException, server: NameServer
) -> None:
    server.answers["server.test"] = failure
    server.hold("server.test")

    async def main() -> list[Any]:
        first = await asked("server.test", server, 1)
        second = asyncio.create_task(look_up("server.test", 443))
        await asyncio.sleep(0)
        server.let_go("server.test")
        return list(await asyncio.gather(first, second, return_exceptions=True))

    # Not the exception itself where that would end the loop.
    for raised in run(main):
        assert isinstance(raised, Exception)
        if isinstance(failure, OSError | MemoryError | ZeroDivisionError):
            assert type(raised) is type(failure)


def test_a_failure_is_not_remembered(server: NameServer) -> None:
    server.answers["server.test"] = socket.gaierror(socket.EAI_AGAIN, "later")
    with pytest.raises(socket.gaierror):
        run(lambda: look_up("server.test", 80))
    del server.answers["server.test"]
    assert run(lambda: look_up("server.test", 80)) == [ADDRESS]


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "a..test"])
def test_what_python_cannot_encode_is_not_found(host: str) -> None:
    with pytest.raises(socket.gaierror, match="not a name that can be looked up"):
        run(lambda: look_up(host, 80))


def test_the_system_is_asked() -> None:
    assert resolve("127.0.0.1") == [Address(socket.AF_INET, "127.0.0.1", 0)]
    with pytest.raises(OSError):  # noqa: PT011 - which one is the system's business
        resolve("name.invalid")


# --- several names ---


def test_a_name_is_asked_for_once_by_all_who_want_it(server: NameServer) -> None:
    server.hold("server.test")

    async def main() -> list[list[Address]]:
        tasks = [await asked("server.test", server, 1)]
        tasks += [asyncio.create_task(look_up("server.test", port)) for port in (443, 8080)]
        await asyncio.sleep(0)
        assert server.asked == ["server.test"]
        server.let_go("server.test")
        return await asyncio.gather(*tasks)

    found = run(main)
    assert [address.port for (address,) in found] == [80, 443, 8080]
    # Who comes later asks anew.
    assert run(lambda: look_up("server.test", 80)) == [ADDRESS]
    assert server.asked == ["server.test"] * 2


def test_no_name_waits_for_another(server: NameServer) -> None:
    silent = [f"silent{n}.test" for n in range(100)]
    server.hold(*silent)

    async def main() -> None:
        for number, host in enumerate(silent, 1):
            task = await asked(host, server, number)
            if number % 2:
                task.cancel()
        assert await look_up("server.test", 80) == [ADDRESS]

    run(main)


def test_who_gives_up_takes_nobody_along(server: NameServer) -> None:
    server.hold("server.test")

    async def main() -> list[Address]:
        first = await asked("server.test", server, 1)
        second = asyncio.create_task(look_up("server.test", 80))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        third = asyncio.create_task(look_up("server.test", 80))
        await asyncio.sleep(0)
        server.let_go("server.test")
        assert await third == [ADDRESS]
        return await second

    assert run(main) == [ADDRESS]
    assert server.asked == ["server.test"]


def test_who_gives_up_is_forgotten(server: NameServer) -> None:
    """However often a host asks for a dead name: nothing piles up until its look-up ends."""
    server.hold("server.test")

    async def main() -> None:
        first = await asked("server.test", server, 1)
        (look_up_,) = names._in_flight.values()
        for _ in range(100):
            task = asyncio.create_task(look_up("server.test", 80))
            await asyncio.sleep(0)
            assert len(look_up_.waiting) == 2
            task.cancel()
            await asyncio.wait([task])
        assert len(look_up_.waiting) == 1
        server.let_go("server.test")
        assert await first == [ADDRESS]

    run(main)


@pytest.mark.parametrize("answer", [FOUND, socket.gaierror(socket.EAI_NONAME, "no")])
def test_an_answer_that_nobody_waits_for_any_more(answer: Any, server: NameServer) -> None:
    server.answers["server.test"] = answer
    server.hold("server.test")

    async def main() -> None:
        task = await asked("server.test", server, 1)
        task.cancel()
        await asyncio.wait([task])
        server.let_go("server.test")
        # Its thread tells this loop of it, which must not mind.
        assert await look_up("other.test", 80) == [ADDRESS]

    run(main)


def test_an_answer_for_a_loop_that_has_been_closed(server: NameServer) -> None:
    server.hold("server.test")

    async def main() -> None:
        (await asked("server.test", server, 1)).cancel()

    run(main)

    async def other() -> list[Address]:
        # Another loop shares the look-up, and gets its answer all the same.
        task = asyncio.create_task(look_up("server.test", 80))
        await asyncio.sleep(0)
        assert server.asked == ["server.test"]
        server.let_go("server.test")
        return await task

    assert run(other) == [ADDRESS]


# --- bounds ---


def test_no_more_than_so_many_at_a_time(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names.MOST_LOOK_UPS == 256
    monkeypatch.setattr(names, "MOST_LOOK_UPS", 5)
    silent = [f"silent{n}.test" for n in range(5)]
    server.hold(*silent)

    async def main() -> None:
        tasks = [await asked(host, server, n) for n, host in enumerate(silent, 1)]
        with pytest.raises(LookUpRefused, match="5 names are being looked up already"):
            await look_up("one.too.many.test", 80)
        # One that is on its way can be shared, abandoned or not.
        tasks[0].cancel()
        shared = asyncio.create_task(look_up(silent[0], 80))
        await asyncio.sleep(0)
        assert not shared.done()
        server.let_go(silent[0])
        assert await shared == [ADDRESS]
        assert await look_up("one.too.many.test", 80) == [ADDRESS]

    run(main)
    assert issubclass(LookUpRefused, OSError)


@pytest.mark.parametrize(
    "failure", [RuntimeError("can't start new thread"), MemoryError(), OSError(11, "x")]
)
def test_a_thread_that_does_not_start(
    failure: Exception, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: threading.Thread) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises((LookUpRefused, MemoryError, OSError)):
            run(lambda: look_up("server.test", 80))
    assert names._in_flight == {}
    assert not names._lock.locked()
    assert run(lambda: look_up("server.test", 80)) == [ADDRESS]


def test_threads_keep_no_process_alive(server: NameServer) -> None:
    server.hold("server.test")

    async def main() -> None:
        task = await asked("server.test", server, 1)
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "name"]
        assert thread.daemon
        task.cancel()

    run(main)


# --- what is no name ---


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("127.0.0.1", socket.AF_INET),
        ("255.255.255.255", socket.AF_INET),
        ("::1", socket.AF_INET6),
        ("2001:db8::192.0.2.1", socket.AF_INET6),
        ("localhost", None),
        ("127.1", None),
        ("0x7f000001", None),
        ("2130706433", None),
        ("127.0.0.1.", None),
        ("1.2.3.4.5", None),
        ("fe80::1%eth0", None),
        ("", None),
    ],
)
def test_literal_addresses(host: str, family: int | None) -> None:
    expected = None if family is None else Address(family, host, 80)
    assert literal(host, 80) == expected


def test_the_loopback() -> None:
    assert loopback(80) == [
        Address(socket.AF_INET6, "::1", 80),
        Address(socket.AF_INET, "127.0.0.1", 80),
    ]


def test_addresses_as_sockets_take_them() -> None:
    assert ADDRESS.sockaddr == ("192.0.2.1", 80)
    assert Address(socket.AF_INET6, "fe80::1", 80, 3).sockaddr == ("fe80::1", 80, 0, 3)
