"""Plugins of a few lines for the tests of hosts: programs that say what a test wants said."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final

from harness import TIMEOUT

PRELUDE = """
import json, os, signal, subprocess, sys, time
def read():
    return json.loads(sys.stdin.readline() or "null")
def write(*lines):
    sys.stdout.write("".join(json.dumps(line) + "\\n" for line in lines))
    sys.stdout.flush()
def answer(**response):
    request = read()
    write({"id": request["id"], "response": response})
    return request
def event(name, **payload):
    payload = {"id": "ws-1", "name": name, "payload": payload}
    return {"event": "websocket-event", "payload": payload}
def text(data):
    return event("message", type="text", data=data)
def describe(**more):
    plain = {"name": "wsplugin", "protocol": 1, "features": ["pause"], "argv": sys.argv[1:]}
    answer(**{**plain, **more})
def create():
    answer(id="ws-1")
    write(event("open", headers={}))
def to_end():
    sys.stdin.read()
"""


def fake(program: str) -> list[str]:
    """Return the command of a plugin that runs a program with the functions above."""
    return [sys.executable, "-c", PRELUDE + program]


NO_PLUGINS: Final = {
    "babbles": ("print('hello', flush=True); to_end()", "no line of its protocol: b'hello'"),
    "echoes": ("write(read()); to_end()", "answered without a response or an error"),
    "refuses": (
        "write({'id': read()['id'], 'error': {'code': 'unknown-action', 'errMsg': 'what?'}})",
        "unknown-action: what?",
    ),
    "is something else": ("describe(name='other')", "no wsplugin: its name is 'other'"),
    "describes itself as a list": (
        "write({'id': read()['id'], 'response': []})",
        r"no wsplugin: it describes itself as \[\]",
    ),
    "speaks protocol 2": ("describe(protocol=2); to_end()", "speaks protocol 2, this host proto"),
}
"""What a host must not take for a plugin, by what it does: the program, and the words of both hosts
in Python."""


def play(story: Coroutine[Any, Any, None], timeout: float = TIMEOUT) -> None:
    """Run a test's coroutine within the bound of every wait, in seconds."""
    asyncio.run(asyncio.wait_for(story, timeout))
