"""The story that all the examples tell, with the host beside this file.

An echo server, then the demo, in the Python that has the plugin installed::

    $ python3 -m venv .venv && .venv/bin/pip install .
    $ python3 host_examples/python/echo_server.py 8765 &
    $ .venv/bin/python host_examples/python_embedded/embedded_demo.py ws://127.0.0.1:8765/
"""

import sys
from collections.abc import Callable
from concurrent.futures import Future

from embedded_host import Host, Listener, PluginEnded, RequestError, WebSocket


class Story(Listener):
    """Plays the app's part on its connection; `ended` tells that it is over."""

    def __init__(self) -> None:
        self.ended: Future[None] = Future()

    def on_open(self, websocket: WebSocket, headers: dict[str, str]) -> None:
        """Send a text message."""
        print("open", flush=True)
        self.check(websocket.send, "Grüße 👋")

    def on_message(self, websocket: WebSocket, data: str | bytes) -> None:
        """Send a binary message after the text, and close after the binary message."""
        if isinstance(data, str):
            print("text:", data, flush=True)
            self.check(websocket.send, bytes([0x00, 0x01, 0x7F, 0x80, 0xFF]))
        else:
            print("binary:", data.hex(" "), flush=True)
            self.check(websocket.close, 1000, "done")

    def on_error(self, websocket: WebSocket, code: str, message: str, *http: object) -> None:
        """Print the error."""
        print(f"error: {code}: {message}", flush=True)

    def on_close(self, websocket: WebSocket, code: int, reason: str, cause: str) -> None:
        """End the story."""
        print(f"close: {code} {reason} ({cause})", flush=True)
        if not self.ended.done():
            self.ended.set_result(None)

    def check(self, request: Callable[..., None], *args: object) -> None:
        """Make a request; if it fails, the story does."""
        try:
            request(*args)
        except (RequestError, PluginEnded) as failure:
            self.ended.set_exception(failure)


def main(url: str) -> None:
    """Start the plugin, tell the story, stop the plugin."""
    with Host() as host:
        story = Story()
        websocket = host.create(url, story)
        story.ended.result()
        try:
            websocket.send("too late")
        except RequestError as error:
            print("refused:", error.code, flush=True)
        status = host.stop()
    print("exit status:", status, flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except PluginEnded as ended:
        sys.exit(f"PluginEnded: {ended}")
