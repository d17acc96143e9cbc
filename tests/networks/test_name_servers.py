"""Name servers that are silent, slow, or lie: they cost those who ask them, and nobody else."""

import subprocess
import sys
import time
from collections import Counter

import pytest

from harness import TIMEOUT, Listener, Plugin, environment, within
from networks import network as nets
from networks.name_server import (
    NXDOMAIN,
    SERVFAIL,
    Reply,
    addresses,
    alias,
    failure,
    garbage,
    silence,
    slowly,
    truncated,
    under_wrong_type,
    wrong_family,
)
from networks.network import Network
from situations import end_open, expect_error

NAME = "server.test"


def open_by_name(plugin: Plugin, listener: Listener) -> float:
    """Open a connection to the server by its name, and end it; return the seconds to its open."""
    start = time.monotonic()
    id = plugin.create(f"ws://{NAME}:{listener.port}/")
    with listener.accept() as peer:
        peer.handshake()
        plugin.event(id, "open")
        seconds = time.monotonic() - start
        end_open(plugin, id, peer)
    return seconds


def ask_in_vain(network: Network, plugin: Plugin, count: int, timeout: int) -> list[str]:
    """Create connections to names whose server is silent; return their ids when all are asked."""
    names = [f"silent-{number}.test" for number in range(count)]
    network.names.replies.update(dict.fromkeys(names, silence))
    ids = [plugin.create(f"ws://{name}/", timeout=timeout) for name in names]
    network.names.wait_for(*names)
    return ids


def expect_timeouts(plugin: Plugin, ids: list[str]) -> None:
    """Read the ends of connections that cannot open, in any order."""
    codes = Counter[str]()
    ends = Counter[str]()
    while ends.total() < len(ids):
        payload = plugin.read()["payload"]
        if payload["name"] == "error":
            codes[payload["payload"]["code"]] += 1
        else:
            assert payload["name"] == "close"
            ends[payload["id"]] += 1
    assert codes == Counter({"open-timeout": len(ids)})
    assert ends == Counter(ids)


# --- silent and slow ---


def test_silent_names_hold_up_no_other(network: Network) -> None:
    """Neither while they are waited for, nor when they have been given up."""
    network.names.replies[NAME] = addresses(nets.SERVER)
    with network.listen() as listener, network.plugin("--max-connections", "10") as plugin:
        silent = ask_in_vain(network, plugin, 8, timeout=3000)
        open_by_name(plugin, listener)
        expect_timeouts(plugin, silent)
        open_by_name(plugin, listener)


def test_look_ups_of_one_name_are_shared(network: Network) -> None:
    network.names.replies[NAME] = slowly(0.3, addresses(nets.SERVER))
    with network.listen() as listener, network.plugin() as plugin:
        ids = [plugin.create(f"ws://{NAME}:{listener.port}/") for _ in range(5)]
        for _ in ids:
            with listener.accept() as peer:
                peer.handshake()
        opened = [
            line["payload"]["id"]
            for _ in range(15)
            if (line := plugin.read())["payload"]["name"] == "open"
        ]
        assert sorted(opened) == ids
    # One question for each family.
    assert network.names.asked == [NAME, NAME]


def test_abandoned_look_ups_cost_no_other_anything(network: Network) -> None:
    network.names.replies[NAME] = addresses(nets.SERVER)
    with network.listen() as listener, network.plugin("--max-connections", "50") as plugin:
        before = min(open_by_name(plugin, listener) for _ in range(5))
        expect_timeouts(plugin, ask_in_vain(network, plugin, 40, timeout=300))
        after = min(open_by_name(plugin, listener) for _ in range(5))
        assert after - before < 0.1


def test_a_slow_name_server(network: Network) -> None:
    network.names.replies[NAME] = slowly(0.5, addresses(nets.SERVER))
    with network.listen() as listener, network.plugin() as plugin:
        assert open_by_name(plugin, listener) >= 0.5


@pytest.mark.parametrize("how", ["SIGTERM", "end of stdin"])
def test_look_ups_delay_no_end(network: Network, how: str) -> None:
    with network.plugin("--max-connections", "50") as plugin:
        in_flight = ask_in_vain(network, plugin, 40, timeout=500)
        expect_timeouts(plugin, in_flight)
        with within(0):
            if how == "SIGTERM":
                plugin.process.terminate()
            else:
                plugin.close_stdin()
            assert plugin.wait() == 0


def test_look_ups_on_their_way_are_given_up_at_the_end(network: Network) -> None:
    with network.plugin("--max-connections", "50") as plugin:
        ids = ask_in_vain(network, plugin, 40, timeout=60_000)
        with within(0):
            plugin.process.terminate()
            assert plugin.wait() == 0
        closes = [plugin.read()["payload"] for _ in ids]
        assert sorted(close["id"] for close in closes) == sorted(ids)
        assert {close["payload"]["cause"] for close in closes} == {"shutdown"}


EMBEDDED = """
import asyncio
from wsplugin.network.names import look_up

async def main():
    try:
        await asyncio.wait_for(look_up("silent.test", 80), 0.3)
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""


def test_look_ups_delay_no_end_of_an_embedding_process(network: Network) -> None:
    network.names.replies["silent.test"] = silence
    command = [*network.here.command, sys.executable, "-c", EMBEDDED]
    with within(0.3 + 1):
        said = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, timeout=TIMEOUT, env=environment()
        )
    assert said.stdout.split() == [b"given", b"up"]


# --- names that are not looked up ---


@pytest.mark.parametrize("host", ["localhost", "app.localhost"])
def test_localhost_is_not_looked_up(network: Network, host: str) -> None:
    """Whatever a name server would say."""
    network.names.replies[host] = addresses(nets.SERVER)
    with network.here.inside(Listener) as listener, network.plugin() as plugin:
        id = plugin.create(f"ws://{host}:{listener.port}/")
        with listener.accept() as peer:
            peer.handshake()
            plugin.event(id, "open")
            end_open(plugin, id, peer)
    assert network.names.asked == []


# --- lies ---

LIES: dict[str, tuple[Reply, str]] = {
    "no such name": (failure(NXDOMAIN), "network-error"),
    "a fault of the server": (failure(SERVFAIL), "network-error"),
    "no address": (addresses(), "network-error"),
    "the wrong family": (wrong_family(nets.SERVER, nets.PUBLIC_6), "network-error"),
    "the wrong length": (under_wrong_type(nets.SERVER, nets.PUBLIC_6), "network-error"),
    "an alias of itself": (alias(NAME), "network-error"),
    "an alias of an alias of it": (alias("alias.test"), "network-error"),
    "an alias of nothing": (alias("nothing.test"), "network-error"),
    "cut off, and then silence": (truncated(silence), "open-timeout"),
    "cut off, and then no such name": (truncated(failure(NXDOMAIN)), "network-error"),
    "garbage": (garbage, "open-timeout"),
    "loopback": (addresses("127.0.0.1"), "forbidden"),
    "IPv6 loopback": (addresses("::1"), "forbidden"),
    "loopback as IPv6": (addresses("::ffff:127.0.0.1"), "forbidden"),
    "loopback among public ones": (
        addresses(nets.PUBLIC, "127.0.0.1", nets.PUBLIC_6),
        "forbidden",
    ),
    "512 of loopback": (
        truncated(addresses(*(f"127.0.{n // 256}.{n % 256}" for n in range(512)))),
        "forbidden",
    ),
    "one of 512": (
        truncated(addresses(*(f"1.2.{n // 256}.{n % 256}" for n in range(511)), "10.0.0.1")),
        "forbidden",
    ),
}


@pytest.mark.parametrize(("reply", "code"), LIES.values(), ids=LIES)
def test_lies(network: Network, reply: Reply, code: str) -> None:
    network.names.replies[NAME] = reply
    network.names.replies["alias.test"] = alias(NAME)
    network.names.replies["good.test"] = addresses(nets.PUBLIC)
    with network.plugin("--block-private") as plugin, within(2):
        id = plugin.create(f"ws://{NAME}/", timeout=2000)
        error = expect_error(plugin, id, code)
        assert NAME in error["errMsg"] or code == "open-timeout"
    assert NAME in network.names.asked


def test_512_addresses(network: Network) -> None:
    """The first of them is a good one."""
    others = [f"198.18.{n // 256}.{n % 256}" for n in range(511)]
    network.names.replies[NAME] = truncated(addresses(nets.SERVER, *others))
    with network.listen() as listener, network.plugin() as plugin:
        open_by_name(plugin, listener)
