"""The echo server for ASGI servers: uvicorn, and hypercorn with TLS and HTTP/2 offered.

ASGI knows neither fragments nor Pings: these are the servers' own.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from interop.apps import words

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def app(scope: Any, receive: Receive, send: Send) -> None:
    """Serve what ASGI calls a scope."""
    if scope["type"] == "websocket":
        await echo(scope, receive, send)
    elif scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    """Serve one connection."""
    await receive()
    fields = dict(scope["headers"])
    value = fields.get(words.ECHOED.lower().encode(), b"")
    accept: dict[str, Any] = {
        "type": "websocket.accept",
        "headers": [(f"{words.ECHOED}-echo".lower().encode(), value)],
    }
    if words.PROTOCOL in scope["subprotocols"]:
        accept["subprotocol"] = words.PROTOCOL
    await send(accept)
    while (event := await receive())["type"] == "websocket.receive":
        text = event.get("text")
        if text is None:
            await send({"type": "websocket.send", "bytes": event["bytes"]})
        elif text == words.LONG:
            await send({"type": "websocket.send", "text": words.LONG_TEXT})
        elif text == words.QUIET:
            await asyncio.sleep(words.QUIET_TIME)
            await send({"type": "websocket.send", "text": words.STILL_HERE})
        elif text.startswith(words.CLOSE):
            code, reason = words.close_arguments(text)
            await send({"type": "websocket.close", "code": code, "reason": reason})
        else:
            await send({"type": "websocket.send", "text": text})
    words.tell_close(event.get("code"), event.get("reason"))


def serve_uvicorn(listening: socket.socket) -> None:
    """Serve with uvicorn on wsproto, whose keepalive closes what does not answer."""
    import uvicorn

    config = uvicorn.Config(
        app,
        ws="wsproto",
        lifespan="off",
        log_level="error",
        ws_max_size=words.MAX_SIZE,
        ws_ping_interval=words.PING_INTERVAL,
        ws_ping_timeout=words.PING_TIMEOUT,
    )
    uvicorn.Server(config).run(sockets=[listening])


def serve_hypercorn(listening: socket.socket, certificate: str) -> None:
    """Serve with hypercorn over TLS; it prefers HTTP/2, for which the plugin has no words."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.certfile = config.keyfile = certificate
    config.alpn_protocols = ["h2", "http/1.1"]
    config.websocket_max_message_size = words.MAX_SIZE
    config.websocket_ping_interval = words.PING_INTERVAL
    asyncio.run(serve(app, config))


def main(server: str, certificate: str) -> None:
    """Serve until killed."""
    listening = socket.create_server(("127.0.0.1", 0))
    # Who connects before the server is ready waits in the backlog.
    words.tell_port(listening.getsockname()[1])
    if server == "uvicorn":
        serve_uvicorn(listening)
    else:
        serve_hypercorn(listening, certificate)


if __name__ == "__main__":
    main(*sys.argv[1:])
