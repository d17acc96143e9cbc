"""Plugins of a few lines for the tests of hosts: programs that say what a test wants said."""

import sys

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
