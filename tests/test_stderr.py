"""A stderr that nobody reads, that cannot be written, or that has been hung up."""

import contextlib
import os
import socket

import pytest

from harness import PLUGIN, Listener, Plugin, echo_server, within

LEVELS = ["debug", "info", "warning", "error", "critical"]


def converse(plugin: Plugin, server: Listener) -> None:
    """Have more to log than fits anywhere, and work all the same."""
    id = plugin.create(server.url)
    plugin.event(id, "open")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        for _ in range(400):
            refused = plugin.create(f"ws://127.0.0.1:{sock.getsockname()[1]}/")
            plugin.event(refused, "error")
            plugin.event(refused, "close")
    plugin.write(b"{\n")
    assert plugin.read()["error"]["code"] == "invalid-json"
    plugin.request("websocket-send", {"id": id, "type": "text", "data": "still there"})
    assert plugin.event(id, "message")["data"] == "still there"
    with within(2):
        lines, status = plugin.finish()
        assert [line["payload"]["payload"]["code"] for line in lines] == [1001]
        assert status == 0


@pytest.mark.parametrize("level", LEVELS)
def test_stderr_that_nobody_reads_blocks_nothing(level: str) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"full" * 1024):
            pass
    os.set_blocking(writer, True)
    with echo_server() as server, Plugin("--log-level", level, stderr=writer) as plugin:
        os.close(writer)
        converse(plugin, server)
    os.close(reader)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_stderr_that_cannot_be_written_harms_nothing(redirection: str) -> None:
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *PLUGIN]
    with echo_server() as server, Plugin("--log-level", "debug", command=command) as plugin:
        converse(plugin, server)


def test_stderr_that_has_been_hung_up_harms_nothing() -> None:
    reader, writer = os.pipe()
    with echo_server() as server, Plugin("--log-level", "debug", stderr=writer) as plugin:
        os.close(writer)
        os.close(reader)
        converse(plugin, server)
