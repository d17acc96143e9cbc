"""What must hold when a run is over: nothing owed, nothing lost, nothing left behind."""

import base64
from typing import Any

from simulation.host import Host
from simulation.network import Network
from simulation.script import Script
from simulation.servers import Content, Server
from simulation.world import Violation


def told(payload: Any) -> Content:
    """Return what a ``message`` event says."""
    data = payload["data"]
    match payload["type"]:
        case "text":
            return ("text", data)
        case "base64":
            return ("binary", base64.b64decode(data))
        case _:
            return ("binary", bytes(data))


def check_messages(host: Host, network: Network, script: Script, cut: set[str]) -> None:
    """Compare what was told with what the servers sent, and the other way round.

    Args:
        host: has what the plugin told.
        network: has the servers.
        script: has what the host sent.
        cut: connections that have been cut, whose servers are to get no Close frame.

    Raises:
        Violation: a message was lost, made up, or out of order.

    """
    for id in host.checker.created:
        events = host.checker.events[id]
        messages = [told(payload) for name, payload in events if name == "message"]
        servers = [server for server in network.of(id) if server.opened]
        if not servers:
            if messages:
                raise Violation(f"{id}: messages of nobody: {messages}")
            continue
        (server,) = servers
        _check_told(id, messages, server, events)
        close = events[-1][1]
        if close["code"] != 1006 and close["cause"] != "server" and script.waited.get(id):
            raise Violation(f"{id}: {close}, and messages {script.waited[id]} were not sent before")
        _check_received(id, host, script, server)
        if server.fault is not None:
            raise Violation(f"{id}: the server received {server.fault}")
        if id in cut and server.close_received is not None:
            raise Violation(f"{id}: it was cut, and the server received a Close frame")


def check_left(script: Script) -> None:
    """See that the servers that the host has left behind have been told that the plugin ends.

    Raises:
        Violation: one has stayed and read on, and has not been.

    """
    for id, server in script.left:
        stays = not (server.ended_alone or server.broke or server.peer.link.silent)
        if stays and server.peer.reading and server.close_received is None:
            raise Violation(f"{id}: the host has gone, and the server has not been told")


def _check_told(
    id: str, messages: list[Content], server: Server, events: list[tuple[str, Any]]
) -> None:
    sent = [content for content, _ in server.sent]
    if messages != sent[: len(messages)]:
        at = next(i for i, message in enumerate(messages) if [message] != sent[i : i + 1])
        raise Violation(f"{id}: message {at} of {len(sent)} was told as {messages[at]}")
    close = events[-1][1]
    errors = [payload["code"] for name, payload in events if name == "error"]
    lost = len(sent) - len(messages)
    if close["code"] != 1006:
        if server.close_sent is None:
            raise Violation(f"{id}: {close}, and the server has not closed")
        if lost:
            raise Violation(f"{id}: {close}, and {lost} messages were lost before it")
        if server.close_received is None and not server.peer.gone and not server.peer.link.silent:
            raise Violation(f"{id}: {close}, and the plugin's Close frame has not left")
        _check_code(id, close, server)
    elif "network-error" in errors:
        # Whoever goes without a word has been listened to before.
        due = server.due(server.peer.link.arrived_at_close)
        if len(messages) < due:
            raise Violation(f"{id}: {due - len(messages)} messages were lost with the connection")


def _check_code(id: str, close: Any, server: Server) -> None:
    """Compare a completed closing handshake's code with the Close frame that started it."""
    payload = server.close_sent if close["cause"] == "server" else server.close_received
    if payload is None:
        return
    code = int.from_bytes(payload[:2]) if payload else 1005
    if (code, payload[2:].decode()) != (close["code"], close["reason"]):
        raise Violation(f"{id}: {close}, and the Close frame was {payload!r}")


def _check_received(id: str, host: Host, script: Script, server: Server) -> None:
    numbers = [int(payload.split(b":")[0]) for payload in server.received]
    if numbers != sorted(set(numbers)):
        raise Violation(f"{id}: the server received {numbers}")
    payloads = script.sent.get(id, {})
    for number, payload in zip(numbers, server.received, strict=True):
        if payloads[number] != payload:
            raise Violation(f"{id}: message {number} arrived as {payload!r}")
        app = script.senders[id][number]
        if app not in (None, host.checker.apps[id]):
            raise Violation(f"{id}: message {number} is of the app {app}")
    answered = script.done.get(id, set())
    came = set(numbers)
    last = max(numbers, default=-1)
    skipped = {number for number in answered if number < last} - came
    if skipped:
        raise Violation(f"{id}: {skipped} were answered and have been skipped")
    if server.close_received is not None and (missing := answered - came):
        raise Violation(f"{id}: {missing} were answered and are not before the Close frame")


def check_memory(session: Any) -> None:
    """See that nothing is held any more.

    Raises:
        Violation: something is.

    """
    held = {
        f"{type(owner).__name__}.{name}": value
        for owner in (session._manager, session._manager.turns, session._output)
        for name, value in vars(owner).items()
        if hasattr(value, "__len__") and not isinstance(value, str) and len(value)
    }
    held.pop("Manager._limit", None)  # a tuple that says how a connection ends
    if held:
        raise Violation(f"when all is over these are left: {held}")
