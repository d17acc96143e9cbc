"""What only the host in Python can be asked; ``test_host_examples.py`` asks all of them.

How it starts, ends and holds back is tested in files of their own.
"""

import asyncio
import math
import os
import socket
from typing import Any

import pytest

from fake_plugin import fake, play
from harness import PLUGIN, Listener, echo_server
from host import Close, Error, Event, Host, Message, Open, PluginEnded, RequestError, WebSocket

pytestmark = pytest.mark.skipif(os.name != "posix", reason="statuses are those of POSIX")


async def anything(websocket: WebSocket, *kinds: type[Event]) -> list[Event]:
    """Loop to the end; return the events of these kinds."""
    return [event async for event in websocket if isinstance(event, kinds)]


# --- calls ----------------------------------------------------------------------------------------


def test_requests_do_not_wait_for_each_other_and_all_fail_with_the_plugin() -> None:
    async def story() -> None:
        async with Host(*PLUGIN) as host:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                port = silent.getsockname()[1]
                websocket = await host.create(f"ws://127.0.0.1:{port}/")
                # They wait for an opening handshake that never comes.
                sends = [asyncio.create_task(websocket.send("x")) for _ in range(10)]
                assert (await host.describe())["name"] == "wsplugin"
                assert not any(send.done() for send in sends)
                assert host._process
                host._process.kill()
                for send in sends:
                    with pytest.raises(PluginEnded, match="the plugin was killed by signal 9"):
                        await send
                assert [event async for event in websocket] == [
                    Close(1006, "the plugin was killed by signal 9", "failure")
                ]
            assert await host.stop() == -9

    play(story())


def test_a_connection_whose_creation_is_cancelled_is_closed() -> None:
    async def story() -> None:
        lines: list[tuple[str, str]] = []
        closed = asyncio.Event()

        def on_line(direction: str, line: str) -> None:
            lines.append((direction, line))
            if '"name":"close"' in line:
                closed.set()

        with echo_server() as server:
            async with Host(*PLUGIN, on_line=on_line) as host:
                creating = asyncio.create_task(host.create(server.url))
                await asyncio.sleep(0)  # it has written its line
                creating.cancel()
                await closed.wait()
                assert await host.stop() == 0
        assert any("websocket-close" in line for direction, line in lines if direction == ">")

    play(story())


def test_a_connection_whose_creation_is_cancelled_as_it_is_answered_is_closed() -> None:
    async def story() -> None:
        def on_line(direction: str, line: str) -> None:
            if line == '{"id": 2, "response": {"id": "ws-1"}}':
                # Its task has not gone on yet, and will not.
                asyncio.get_running_loop().call_soon(creating.cancel)

        program = "describe(); create(); asked = read(); answer(asked=asked['action']); to_end()"
        async with Host(*fake(program), on_line=on_line) as host:
            creating = asyncio.create_task(host.create("ws://127.0.0.1/"))
            with pytest.raises(asyncio.CancelledError):
                await creating
            assert await host.describe() == {"asked": "websocket-close"}

    play(story())


NOT_TO_BE_WRITTEN: dict[str, tuple[str, Any, type[Exception]]] = {
    "half a character": ("websocket-send", {"id": "ws-1", "data": "\ud800"}, ValueError),
    "bytes": ("websocket-create", {"headers": {"X": b"bytes"}}, TypeError),
    "no number": ("websocket-ping", {"timeout": math.nan}, ValueError),
}


@pytest.mark.parametrize(
    ("action", "payload", "kind"), NOT_TO_BE_WRITTEN.values(), ids=NOT_TO_BE_WRITTEN
)
def test_a_request_that_cannot_be_written_leaves_nothing_pending(
    action: str, payload: Any, kind: type[Exception]
) -> None:
    async def story() -> None:
        async with Host(*PLUGIN) as host:
            with pytest.raises(kind):
                await host.request(action, payload)
            assert not host._pending
            assert (await host.describe())["name"] == "wsplugin"

    play(story())


def test_what_can_be_sent() -> None:
    data = bytes(range(10))
    kinds: list[str | bytes | bytearray | memoryview] = [
        "",
        "Grüße 👋",
        b"",
        data,
        bytearray(data),
        memoryview(data)[2:5],
        memoryview(data)[::3],
        memoryview(data).cast("B", (2, 5)),
    ]

    async def story() -> None:
        with echo_server() as server:
            async with Host(*PLUGIN) as host:
                websocket = await host.create(server.url)
                for kind in kinds:
                    await websocket.send(kind)
                for nothing in ("\udc00", 5, None, ["text"]):
                    with pytest.raises((TypeError, ValueError)):
                        await websocket.send(nothing)  # type: ignore[arg-type]
                assert not host._pending
                await websocket.close()
                messages = await anything(websocket, Message)
        texts: list[str | bytes] = ["", "Grüße 👋", b"", data, data, data[2:5], data[::3], data]
        assert messages == [Message(text) for text in texts]

    play(story())


def test_what_a_later_plugin_may_add_is_ignored() -> None:
    program = """
describe(later=[1])
answer(id="ws-1", later=1)
write({"later": {}}, {"id": None, "error": {"code": "x", "errMsg": "y"}}, {"event": "later"})
write({"event": "websocket-event", "later": 1, "payload": {"id": "ws-7", "name": "open"}})
write(event("later", x=1), event("message", type="later", data={}), event("open", headers={}, x=1))
write({"id": 99, "response": {}}, {"id": "text", "response": {}}, {"id": 2, "response": {}})
write(event("error", code="later", errMsg="x", later=1))
write(event("close", code=1006, reason="x", cause="later", later=1))
to_end()
"""

    async def story() -> None:
        async with Host(*fake(program)) as host:
            websocket = await host.create("ws://127.0.0.1/")
            cause: Any = "later"
            assert [event async for event in websocket] == [
                Open({}),
                Error("later", "x"),
                Close(1006, "x", cause),
            ]
            assert await host.stop() == 0

    play(story())


def test_an_answer_without_content_fails_its_call_alone() -> None:
    program = """
describe()
first, second = read(), read()
write({"id": second["id"]})
write({"id": first["id"], "response": {"n": 1}}, {"id": first["id"], "response": {"n": 2}})
answer(n=3)
to_end()
"""

    async def story() -> None:
        async with Host(*fake(program)) as host:
            calls = [asyncio.create_task(host.describe()) for _ in range(2)]
            with pytest.raises(PluginEnded, match="answered without a response or an error"):
                await calls[1]
            assert await calls[0] == {"n": 1}
            assert await host.describe() == {"n": 3}
            assert not host._pending

    play(story())


# --- what 1.1 has added ---------------------------------------------------------------------------


def test_open_facts_host_headers_and_ping() -> None:
    async def story() -> None:
        with Listener() as listener:
            async with Host(*PLUGIN) as host:
                websocket = await host.create(
                    listener.url,
                    headers={"X-App": "1", "Origin": "https://app.test"},
                    host_headers={"Referer": "https://host.test/", "Origin": "https://host.test"},
                    protocols=["chat"],
                    per_message_deflate=False,
                    tcp_no_delay=False,
                    timeout=5,
                    app="shop",
                )
                with await asyncio.to_thread(listener.accept) as peer:
                    await asyncio.to_thread(peer.handshake, "Sec-WebSocket-Protocol: chat")
                    assert peer.header("Referer") == "https://host.test/"
                    assert peer.header("Origin") == "https://host.test"
                    assert peer.header("X-App") == "1"
                    assert peer.header("Sec-WebSocket-Extensions") is None
                    opened = await anext(aiter(websocket))
                    assert isinstance(opened, Open)
                    assert (opened.protocol, opened.extensions) == ("chat", "")
                    assert opened.profile["fetchStart"] > 1e12
        with echo_server() as server:
            async with Host(*PLUGIN) as host:
                websocket = await host.create(server.url)
                async for event in websocket:
                    if isinstance(event, Open):
                        assert 0 < await websocket.ping(timeout=5) < 5
                        await websocket.close()
                with pytest.raises(RequestError, match=r"^not-open: "):
                    await websocket.ping()

    play(story())


def test_closes_without_a_code_and_at_once() -> None:
    async def story() -> None:
        with echo_server() as server, socket.create_server(("127.0.0.1", 0)) as silent:
            async with Host(*PLUGIN) as host:
                websocket = await host.create(server.url)
                async for event in websocket:
                    if isinstance(event, Open):
                        await websocket.close(1005)
                assert event == Close(1005, "", "host")
                websocket = await host.create(f"ws://127.0.0.1:{silent.getsockname()[1]}/")
                sending = asyncio.create_task(websocket.send("waits"))
                await host.describe()
                await websocket.close(timeout=0)
                with pytest.raises(RequestError, match=r"^not-open: "):
                    await sending
                [close] = await anything(websocket, Close)
                assert isinstance(close, Close)
                assert (close.code, close.cause) == (1006, "host")

    play(story())


def test_an_app_in_the_background_ends_its_own_connections() -> None:
    async def story() -> None:
        with echo_server() as server:
            async with Host(*PLUGIN) as host:
                shop = await host.create(server.url, app="shop")
                chat = await host.create(server.url, app="chat")
                await host.background("shop")
                assert (await anything(shop, Close))[0].cause == "background"  # type: ignore[union-attr]
                await chat.send("still here")
                await host.background()
                assert Message("still here") in await anything(chat, Message)

    play(story())


# --- loops ----------------------------------------------------------------------------------------


async def leave_by_break(websocket: WebSocket) -> None:
    async for _ in websocket:
        break


async def leave_by_exception(websocket: WebSocket) -> None:
    async def loop() -> None:
        async for _ in websocket:
            raise LookupError

    with pytest.raises(LookupError):
        await loop()


async def leave_by_cancellation(websocket: WebSocket) -> None:
    async def loop() -> None:
        async for _ in websocket:
            looping.set()

    looping = asyncio.Event()
    task = asyncio.create_task(loop())
    await looping.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_unlooped(websocket: WebSocket) -> None:
    async with websocket:
        await websocket.send("waits for the opening")


LEAVING = [leave_by_break, leave_by_exception, leave_by_cancellation, leave_unlooped]


@pytest.mark.parametrize("leave", LEAVING)
def test_who_leaves_the_loop_closes_the_connection(leave: Any) -> None:
    async def story() -> None:
        with Listener() as listener:
            async with Host(*PLUGIN) as host:
                creating = await host.create(listener.url)
                with await asyncio.to_thread(listener.accept) as peer:
                    await asyncio.to_thread(peer.handshake)
                    await leave(creating)
                    await asyncio.to_thread(peer.expect_close, 1000)
                    # Nobody takes what still comes, and so it is not kept.
                    assert [event async for event in creating] == []
                    with pytest.raises(RequestError, match=r"^not-open: "):
                        await creating.send("too late")

    play(story())


def test_a_second_loop_ends_at_once() -> None:
    async def story() -> None:
        with echo_server() as server:
            async with Host(*PLUGIN) as host:
                websocket = await host.create(server.url)
                async for event in websocket:
                    assert [event async for event in websocket] == []
                    if isinstance(event, Open):
                        await websocket.send("the first loop goes on")
                    elif isinstance(event, Message):
                        await websocket.close()
                assert isinstance(event, Close)
                assert [event async for event in websocket] == []

    play(story())


def test_a_loop_behind_the_end_has_all_there_was() -> None:
    async def story() -> None:
        with echo_server() as server:
            async with Host(*PLUGIN) as host:
                websocket = await host.create(server.url)
                await websocket.send("x")
                await websocket.close()
                assert await host.stop() == 0
                kinds = [type(event) for event in [event async for event in websocket]]
                assert kinds == [Open, Message, Close]

    play(story())
