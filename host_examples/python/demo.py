"""The story that all the examples tell, with the host beside this file.

An echo server, then the demo; the plugin's command line may follow the URL::

    $ python3 -m venv .venv && .venv/bin/pip install .
    $ python3 host_examples/python/echo_server.py 8765 &
    $ python3 host_examples/python/demo.py ws://127.0.0.1:8765/ .venv/bin/wsplugin
"""

import asyncio
import sys

from host import Close, Error, Host, Message, Open, PluginEnded, RequestError


async def main(url: str, *command: str) -> None:
    """Spawn the plugin, tell the story, stop the plugin."""
    async with Host(*command) as host:
        websocket = await host.create(url)
        async for event in websocket:
            match event:
                case Open():
                    print("open", flush=True)
                    await websocket.send("Grüße 👋")
                case Message(str(text)):
                    print("text:", text, flush=True)
                    await websocket.send(bytes([0x00, 0x01, 0x7F, 0x80, 0xFF]))
                case Message(bytes(data)):
                    print("binary:", data.hex(" "), flush=True)
                    await websocket.close(1000, "done")
                case Error(code, message):
                    print(f"error: {code}: {message}", flush=True)
                case Close(code, reason, cause):
                    print(f"close: {code} {reason} ({cause})", flush=True)
        try:
            await websocket.send("too late")
        except RequestError as error:
            print("refused:", error.code, flush=True)
        status = await host.stop()
    print("exit status:", status, flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except PluginEnded as ended:
        sys.exit(f"PluginEnded: {ended}")
