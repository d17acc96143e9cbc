"""stdout carries protocol lines and nothing else, and nothing else reads stdin."""

import contextlib
import os
import subprocess
import sys
import tempfile

import pytest

from harness import TIMEOUT, Plugin, echo_server
from streams import KINDS, check, conversation, read_all
from systems import posix_only

pytestmark = posix_only("numbers of descriptors")

# Runs in the plugin's own process, for every line from the host.
STRAY = r"""
import os, subprocess, sys
from wsplugin import manager

def stray():
    print("STRAY print")
    print("STRAY stderr", file=sys.stderr)
    sys.stdout.write("STRAY write without line end")
    sys.stdout.flush()
    sys.__stdout__.buffer.write(b"STRAY buffer\n")
    sys.__stdout__.flush()
    os.write(1, b"STRAY os.write\n")
    subprocess.run(["sh", "-c", "echo STRAY child; cat; read x; echo STRAY got $x"], check=False)
    os.system("echo STRAY system")
    assert sys.stdin.read() == ""
    assert os.read(0, 100) == b""
    assert input_is_empty()
    import warnings
    warnings.warn("STRAY warning")
    import logging
    logging.getLogger("other").error("STRAY log")
    logging.getLogger("websockets").error("STRAY library's log")

def input_is_empty():
    try:
        input()
    except EOFError:
        return True

handle = manager.Manager.handle
def handle_and_more(self, line):
    stray()
    handle(self, line)
    stray()
manager.Manager.handle = handle_and_more
from wsplugin.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_stray_output_never_reaches_stdout(kind: str) -> None:
    source, sink = KINDS[kind][0](), KINDS[kind][1]()
    with echo_server() as server, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", STRAY],
            stdin=source.plugin,
            stdout=sink.plugin,
            stderr=stderr,
        )
        os.write(source.host, conversation(server.url))
        output = b""
        while output.count(b"\n") < 4:
            output += os.read(sink.host, 65536)
        source.end_input()
        assert process.wait(TIMEOUT) == 0
        os.close(sink.plugin)
        output += read_all(sink.host)
        stderr.seek(0)
        logged = stderr.read()
    check(output)
    assert b"STRAY" not in output
    for word in (b"print", b"os.write", b"child", b"system", b"buffer", b"warning", b"log"):
        assert b"STRAY " + word in logged
    assert b"STRAY got\n" in logged
    assert b"Traceback" not in logged
    source.close()
    sink.close()


def test_output_before_the_start_is_flushed_to_stderr() -> None:
    """What a site hook has left in Python's own buffer must not come out among the lines."""
    code = "import sys; sys.stdout.write('STRAY'); from wsplugin.cli import main; main([])"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Plugin(command=[sys.executable, "-c", code], env=buffered) as plugin:
        plugin.request("plugin-describe")
        lines, status = plugin.finish()
    assert (lines, status) == ([], 0)


def test_children_do_not_inherit_the_private_descriptors() -> None:
    """A child that outlives the plugin would keep the host's pipes open."""
    code = (
        "import subprocess, sys\n"
        "from wsplugin import manager\n"
        "handle = manager.Manager.handle\n"
        "def more(self, line):\n"
        "    subprocess.Popen(['sleep', '30'], close_fds=False, stderr=subprocess.DEVNULL,\n"
        "        stdout=subprocess.DEVNULL)\n"
        "    handle(self, line)\n"
        "manager.Manager.handle = more\n"
        "from wsplugin.cli import main\n"
        "main([])\n"
    )
    command = [sys.executable, "-c", code]
    with Plugin(command=command, start_new_session=True, stderr=subprocess.DEVNULL) as plugin:
        try:
            plugin.request("plugin-describe")
            lines, status = plugin.finish()
            assert (lines, status) == ([], 0)
        finally:
            with contextlib.suppress(OSError):
                os.killpg(plugin.process.pid, 9)
