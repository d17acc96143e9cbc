"""Requests as a host writes them, and answers and ends as it expects them.

A request's id, its `request` here, is by default its action in a word, or the text that it sends,
so that a test reads which of its requests is answered. None leaves it out.
"""

import json
from typing import Any


def create(url: str, request: Any = "create", **options: Any) -> dict[str, Any]:
    """Return a request that creates a connection."""
    return _line(request, "websocket-create", {"url": url, **options})


def send(id: str, data: Any, request: Any = ..., type: str = "text") -> dict[str, Any]:
    """Return a request that sends a message."""
    payload = {"id": id, "type": type, "data": data}
    return _line(data if request is ... else request, "websocket-send", payload)


def close(
    id: str, code: int | None = None, reason: str | None = None, request: Any = "close"
) -> dict[str, Any]:
    """Return a request that closes a connection; without code or reason, None leaves them out."""
    payload: dict[str, Any] = {"id": id}
    if code is not None:
        payload["code"] = code
    if reason is not None:
        payload["reason"] = reason
    return _line(request, "websocket-close", payload)


def pause(id: str, request: Any = "pause") -> dict[str, Any]:
    """Return a request that holds back the messages of a connection."""
    return _line(request, "websocket-pause", {"id": id})


def resume(id: str, request: Any = "resume") -> dict[str, Any]:
    """Return a request that lets them come again."""
    return _line(request, "websocket-resume", {"id": id})


def ping(id: str, timeout: int | None = None, request: Any = "ping") -> dict[str, Any]:
    """Return a request that asks a server for a sign of life, with its time in milliseconds."""
    payload: dict[str, Any] = {"id": id}
    if timeout is not None:
        payload["timeout"] = timeout
    return _line(request, "websocket-ping", payload)


def background(request: Any = "background") -> dict[str, Any]:
    """Return a request that ends all connections."""
    return _line(request, "app-background")


def describe(request: Any = "describe") -> dict[str, Any]:
    """Return a request that has no effect: its answer shows that what was before it is done."""
    return _line(request, "plugin-describe")


def _line(request: Any, action: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
    line = {"action": action} if request is None else {"id": request, "action": action}
    return line if payload is None else {**line, "payload": payload}


def encode(*requests: Any) -> bytes:
    """Return requests as stdin takes them, a line each."""
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def done(request: Any) -> dict[str, Any]:
    """Return the answer without content."""
    return {"id": request, "response": {}}


def expect_failure(line: Any, request: Any, code: str) -> None:
    """Check the answer to a request that failed."""
    assert (line["id"], line["error"]["code"]) == (request, code)
    assert line["error"]["errMsg"]


def expect_abnormal(payload: Any, cause: str) -> str:
    """Check a `close` event without closing handshake; return its reason."""
    assert (payload["code"], payload["cause"]) == (1006, cause)
    assert payload["reason"]
    assert len(payload) == 3
    return str(payload["reason"])
