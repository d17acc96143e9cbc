"""Several apps behind one host: what one of them can learn of another, do to it, or take from it.

Each of the attacks is what an app might try whose payloads are passed on as they came; the `app`
beside them is the host's word.
"""

import contextlib
import subprocess
import sys
from typing import Any

import pytest

from harness import TEXT, Listener, Peer, Plugin, close_frame, frame
from host_lines import background, close, create, describe, done, expect_failure, send
from pressure import MIB
from situations import expect_nobody
from systems import posix_only

SHOP = {"app": "shop"}
GAME = {"app": "game"}


def open_for(
    plugin: Plugin, server: Listener, app: dict[str, str], **options: Any
) -> tuple[str, Peer]:
    """Open a connection for an app; check that its events name the app, or that none does."""
    plugin.send(create(server.url, **options) | app)
    id = plugin.read()["response"]["id"]
    peer = server.accept()
    peer.handshake()
    opened = plugin.read()
    assert (opened["payload"]["id"], opened["payload"]["name"]) == (id, "open")
    assert opened.get("app") == app.get("app")
    return id, peer


def end(plugin: Plugin, app: dict[str, str], id: str, peer: Peer) -> None:
    """Let the server close."""
    peer.send(close_frame(1000))
    peer.expect_close(1000)
    peer.close()
    line = plugin.read()
    assert (line["payload"]["id"], line["payload"]["name"]) == (id, "close")
    assert line.get("app") == app.get("app")


def attack(action: str, id: str) -> dict[str, Any]:
    """Return what an app might try on a connection."""
    match action:
        case "send":
            return send(id, "stolen", "attack")
        case "close":
            return close(id, request="attack")
        case "cut":
            return close(id, request="attack") | {"payload": {"id": id, "timeout": 0}}
        case _:
            return {"id": "attack", "action": action, "payload": {"id": id}}


ATTACKS = ("send", "close", "cut", "websocket-ping", "websocket-pause", "websocket-resume")


@pytest.mark.parametrize("action", ATTACKS)
def test_anothers_connection_is_unknown(plugin: Plugin, server: Listener, action: str) -> None:
    """Another's id is answered like one that was never handed out, to the letter."""
    id, peer = open_for(plugin, server, SHOP)
    plugin.send(attack(action, id) | GAME)
    refused = plugin.read()
    expect_failure(refused, "attack", "unknown-id")
    plugin.send(attack(action, "ws-99") | GAME)
    assert plugin.read() == refused
    # And nothing has been done.
    peer.send(frame(TEXT, b"still here"))
    line = plugin.read()
    assert line["app"] == "shop"
    assert line["payload"]["payload"]["data"] == "still here"
    plugin.send(send(id, "mine") | SHOP)
    assert plugin.read() == done("mine")
    assert peer.read_frame() == (0x80 | TEXT, b"mine")
    end(plugin, SHOP, id, peer)


@pytest.mark.parametrize("app", [SHOP, GAME, {}], ids=["its own", "another's", "none"])
def test_a_closed_connection_is_closed_to_all(
    plugin: Plugin, server: Listener, app: dict[str, str]
) -> None:
    id, peer = open_for(plugin, server, SHOP)
    end(plugin, SHOP, id, peer)
    plugin.send(send(id, "late") | app, close(id) | app)
    expect_failure(plugin.read(), "late", "not-open")
    assert plugin.read() == done("close")


def test_a_request_that_names_no_app_reaches_all(plugin: Plugin, server: Listener) -> None:
    id, peer = open_for(plugin, server, SHOP)
    plugin.send(send(id, "from the host"))
    assert plugin.read() == done("from the host")
    assert peer.read_frame() == (0x80 | TEXT, b"from the host")
    end(plugin, SHOP, id, peer)


def test_the_unnamed_apps_connections_are_not_another_apps(
    plugin: Plugin, server: Listener
) -> None:
    id, peer = open_for(plugin, server, {})
    plugin.send(send(id, "stolen") | GAME)
    expect_failure(plugin.read(), "stolen", "unknown-id")
    end(plugin, {}, id, peer)


@pytest.mark.parametrize("app", [None, "", 7, ["shop"], "x" * 257], ids=str)
@pytest.mark.parametrize("action", ["create", "send", "close", "background", "describe"])
def test_a_forgotten_name_reaches_nobody(
    plugin: Plugin, server: Listener, app: Any, action: str
) -> None:
    id, peer = open_for(plugin, server, SHOP)
    request = {
        "create": create(server.url, "wrong"),
        "send": send(id, "x", "wrong"),
        "close": close(id, request="wrong"),
        "background": background("wrong"),
        "describe": describe("wrong"),
    }[action]
    plugin.send(request | {"app": app})
    expect_failure(plugin.read(), "wrong", "invalid-request")
    expect_nobody(server)
    end(plugin, SHOP, id, peer)


def test_an_app_in_the_payload_is_nobodys_word(plugin: Plugin, server: Listener) -> None:
    id, peer = open_for(plugin, server, SHOP)
    disguised = send(id, "x", "attack") | GAME
    disguised["payload"]["app"] = "shop"
    plugin.send(disguised, create(server.url, "another", app="shop") | GAME)
    expect_failure(plugin.read(), "attack", "invalid-payload")
    expect_failure(plugin.read(), "another", "invalid-payload")
    end(plugin, SHOP, id, peer)


def test_names_are_compared_as_they_are(plugin: Plugin, server: Listener) -> None:
    """No case, no normal form, no blanks: what the host names apart is apart."""
    id, peer = open_for(plugin, server, {"app": "caf\u00e9"})
    for other in ("cafe\u0301", "CAF\u00c9", "caf\u00e9 "):
        plugin.send(send(id, "x") | {"app": other})
        expect_failure(plugin.read(), "x", "unknown-id")
    end(plugin, {"app": "caf\u00e9"}, id, peer)


def test_each_app_has_its_places(plugin: Plugin, server: Listener) -> None:
    """Five each; the sixth of one ends that app's oldest, whoever is older elsewhere."""
    older = open_for(plugin, server, {})
    others = [open_for(plugin, server, GAME) for _ in range(5)]
    shops = [open_for(plugin, server, SHOP) for _ in range(5)]
    plugin.send(create(server.url) | SHOP)
    sixth = plugin.read()["response"]["id"]
    oldest, peer = shops.pop(0)
    peer.expect_close(1001, "connection limit of 5 reached")
    peer.send(close_frame(1001))
    peer.close()
    line = plugin.read()
    assert (line["app"], line["payload"]["id"]) == ("shop", oldest)
    assert line["payload"]["payload"]["cause"] == "limit"
    peer = server.accept()
    peer.handshake()
    assert plugin.read()["payload"]["id"] == sixth
    for app, pairs in (({}, [older]), (GAME, others), (SHOP, [*shops, (sixth, peer)])):
        for id, other in pairs:
            end(plugin, app, id, other)


def test_one_app_in_the_background_leaves_the_others(plugin: Plugin, server: Listener) -> None:
    """And its answer waits for nobody else's."""
    shop, shops_peer = open_for(plugin, server, SHOP)
    game, games_peer = open_for(plugin, server, GAME)
    plugin.send(background("shop's") | SHOP)
    shops_peer.expect_close(1001, "application entered background")
    # The game's server is quicker.
    plugin.send(background("game's") | GAME)
    games_peer.expect_close(1001)
    games_peer.send(close_frame(1001))
    games_peer.close()
    assert plugin.read()["payload"]["id"] == game
    assert plugin.read() == done("game's")
    shops_peer.send(close_frame(1001))
    shops_peer.close()
    line = plugin.read()
    assert (line["app"], line["payload"]["id"]) == ("shop", shop)
    assert line["payload"]["payload"]["cause"] == "background"
    assert plugin.read() == done("shop's")
    plugin.send(background("nobody's") | SHOP)
    assert plugin.read() == done("nobody's")


# A process of its own, so that no server has to wait for the test, or for the others.
FLOOD = """
import socket, sys
message = sys.argv[2].encode() * 200
data = (b"\\x81\\x7e" + len(message).to_bytes(2) + message) * 1000
sock = socket.socket(fileno=int(sys.argv[1]))
while True:
    sock.sendall(data)
"""


@posix_only("hands on descriptors")
def test_an_app_that_floods_leaves_another_its_half(server: Listener) -> None:
    """One flood of one app has as much of the output as five of another, within a tenth."""
    lengths = dict.fromkeys(("shop", "game"), 0)
    with contextlib.ExitStack() as floods, Plugin() as plugin:
        apps = (*[SHOP] * 5, GAME)
        peers = [open_for(plugin, server, app, perMessageDeflate=False)[1] for app in apps]
        for app, peer in zip(apps, peers, strict=True):
            fd = peer.sock.fileno()
            peer.sock.setblocking(True)
            process = subprocess.Popen(
                [sys.executable, "-c", FLOOD, str(fd), app["app"]],
                pass_fds=[fd],
                stderr=subprocess.DEVNULL,
            )
            floods.callback(process.wait)
            floods.callback(process.kill)
            peer.close()
        while sum(lengths.values()) < 64 * MIB:
            line = plugin.read_line()
            app_of_line = "game" if b'"app":"game"' in line[:60] else "shop"
            # What comes before the second app's flood is the first one's alone.
            if lengths["game"] or app_of_line == "game":
                lengths[app_of_line] += len(line)
    assert 0.4 < lengths["game"] / sum(lengths.values()) < 0.6
