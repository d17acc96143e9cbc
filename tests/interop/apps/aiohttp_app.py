"""The echo server on aiohttp."""

import asyncio

from aiohttp import WSMsgType, web

from interop.apps import words


class Connection:
    """One connection, once it is open."""

    def __init__(self, websocket: web.WebSocketResponse) -> None:
        self._websocket = websocket
        self._pong = asyncio.Event()

    async def serve(self) -> None:
        """Answer until the closing handshake."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                message = await self._websocket.receive()
                match message.type:
                    case WSMsgType.TEXT if message.data == words.QUIET:
                        tasks.create_task(self._be_quiet())
                    case WSMsgType.TEXT:
                        await self._answer(message.data)
                    case WSMsgType.BINARY:
                        await self._websocket.send_bytes(message.data)
                    case WSMsgType.PING:
                        await self._websocket.pong(message.data)
                    case WSMsgType.PONG:
                        self._pong.set()
                    case WSMsgType.CLOSE:
                        words.tell_close(message.data, message.extra)
                        return
                    case _:
                        return

    async def _answer(self, text: str) -> None:
        if text == words.LONG:
            await self._websocket.send_str(words.LONG_TEXT)
        elif text.startswith(words.CLOSE):
            code, reason = words.close_arguments(text)
            await self._websocket.close(code=code, message=reason.encode())
        else:
            await self._websocket.send_str(text)

    async def _be_quiet(self) -> None:
        await self._websocket.ping(b"aiohttp")
        await asyncio.sleep(words.QUIET_TIME)
        await self._pong.wait()
        await self._websocket.send_str(words.STILL_HERE)


async def handle(request: web.Request) -> web.WebSocketResponse:
    """Take one connection."""
    websocket = web.WebSocketResponse(
        protocols=[words.PROTOCOL], autoping=False, max_msg_size=words.MAX_SIZE
    )
    websocket.headers[f"{words.ECHOED}-Echo"] = request.headers.get(words.ECHOED, "")
    await websocket.prepare(request)
    await Connection(websocket).serve()
    return websocket


async def main() -> None:
    """Serve until killed."""
    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    words.tell_port(runner.addresses[0][1])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
