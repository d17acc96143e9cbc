"""Watch the plugin work, with no network: a server, the plugin, and every line between them.

    $ python3 -m venv .venv && .venv/bin/pip install .
    $ .venv/bin/python host_examples/python/quickstart.py

``>`` is a line that the host writes to the plugin, ``<`` one that the plugin writes to the host.
"""

import asyncio
import socket
import sys

from echo_server import echo
from host import Close, Host, Message, Open, WebSocket


def show(direction: str, line: str) -> None:
    """Print a line of the conversation."""
    print(direction, line, flush=True)


async def talk(websocket: WebSocket) -> None:
    """Send a text and a binary message, get both back, and close."""
    async for event in websocket:
        match event:
            case Open():
                await websocket.send("Hello, world!")
            case Message(str()):
                await websocket.send(bytes([0, 1, 127, 128, 255]))
            case Message(bytes()):
                await websocket.close(1000, "done")


async def fail(websocket: WebSocket) -> None:
    """Wait for the `error` and `close` events of a connection that cannot be opened."""
    async for event in websocket:
        if isinstance(event, Close):
            print(f"# it has failed: {event.reason}", flush=True)


async def main() -> int:
    """Run the story; return the plugin's exit status."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(f"# an echo server is listening on port {port}; the plugin starts", flush=True)
    async with server, Host(sys.executable, "-m", "wsplugin", on_line=show) as host:
        await talk(await host.create(f"ws://127.0.0.1:{port}/"))
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # held, but nobody listens
            port = unused.getsockname()[1]
            print(f"# now a port where nobody listens: {port}", flush=True)
            await fail(await host.create(f"ws://127.0.0.1:{port}/"))
        print("# the host closes the plugin's stdin", flush=True)
        status = await host.stop()
    print(f"# the plugin has ended, exit status {status}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
