"""A plugin without a network for the tests: every connection opens at once and echoes.

It writes the lines that it reads to stderr. Texts that it obeys: "flood N", "die", "never
answered".
"""

import json
import os
import sys
import time


def say(**line: object) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(line) + "\n")


def event(id: str, name: str, **payload: object) -> None:
    """Write an event."""
    say(event="websocket-event", payload={"id": id, "name": name, "payload": payload})


connections = 0
for line in sys.stdin:
    sys.stderr.write(line)
    sys.stderr.flush()
    request = json.loads(line)
    payload = request.get("payload", {})
    response: dict[str, object] = {}
    match request["action"]:
        case "plugin-describe":
            response = {"name": "wsplugin", "protocol": 1, "features": ["pause"]}
        case "websocket-create":
            if payload["url"] == "ws://slow/":
                time.sleep(0.1)
            connections += 1
            response = {"id": f"ws-{connections}"}
        case "websocket-ping":
            response = {"rtt": 2.5}
    if payload.get("data") == "never answered":
        continue
    say(id=request["id"], response=response)
    match request["action"], payload.get("data", "").split(" "):
        case "websocket-create", _:
            profile = {"rtt": 1.5, "later": True}
            event(f"ws-{connections}", "open", headers={"pid": str(os.getpid())}, profile=profile)
        case "websocket-send", ["flood", count]:
            for number in range(int(count)):
                event(payload["id"], "message", type="text", data=str(number))
        case "websocket-send", ["die"]:
            sys.stdout.flush()
            os._exit(7)
        case "websocket-send", _:
            event(payload["id"], "message", type=payload["type"], data=payload["data"])
        case "websocket-close", _:
            event(payload["id"], "close", code=1000, reason="", cause="host")
    sys.stdout.flush()
