"""Names some of whose addresses are dead: the next is tried before anybody loses patience."""

import itertools
import time

import pytest

from harness import SLACK, Listener, Plugin, within
from networks import network as nets
from networks.name_server import addresses, truncated
from networks.network import Network, attempts
from situations import expect_error

NAME = "server.test"


def open_by_name(plugin: Plugin, listener: Listener) -> None:
    """Open a connection to the server by its name."""
    id = plugin.create(f"ws://{NAME}:{listener.port}/")
    with listener.accept() as peer:
        peer.handshake()
        plugin.event(id, "open")


DROPPED = {
    "IPv6": (nets.NOBODY_6, nets.SERVER),
    "IPv4": (nets.NOBODY, nets.SERVER),
    "IPv6 and IPv4": (nets.NOBODY_6, nets.NOBODY, nets.SERVER),
    "public IPv6": (nets.PUBLIC_NOBODY_6, nets.PUBLIC),
    "public IPv4": (nets.PUBLIC_NOBODY, nets.PUBLIC),
    "public IPv6, and IPv6 lives": (nets.PUBLIC_NOBODY_6, nets.PUBLIC_6),
}


@pytest.mark.parametrize("found", DROPPED.values(), ids=DROPPED)
def test_an_address_that_drops_what_it_is_sent(network: Network, found: tuple[str, ...]) -> None:
    network.names.replies[NAME] = addresses(*found)
    options = ["--block-private"] if found[-1] in (nets.PUBLIC, nets.PUBLIC_6) else []
    with network.listen(found[-1]) as listener, network.plugin(*options) as plugin:
        open_by_name(plugin, listener)
        # One after the other, in this order, each after its moment.
        tried = [network.link.out.destinations[address] for address in found]
        for earlier, later in itertools.pairwise(tried):
            assert 0.2 < later - earlier < 0.25 + SLACK


ROUTES = {
    "none": ("route", "delete", "default"),
    "unreachable": ("route", "replace", "unreachable", "default"),
    "blackhole": ("route", "replace", "blackhole", "default"),
    # The system takes it for one that can be used, and puts it first.
    "unreachable for TCP": ("rule", "add", "ipproto", "tcp", "priority", "1", "unreachable"),
}


@pytest.mark.parametrize("block_private", [False, True], ids=["", "public"])
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_ipv6_without_a_route(
    network: Network, route: tuple[str, ...], block_private: bool
) -> None:
    network.here.ip("-6", *route)
    network.names.replies[NAME] = addresses(nets.PUBLIC_NOBODY_6, nets.PUBLIC)
    options = ["--block-private"] if block_private else []
    with network.listen(nets.PUBLIC) as listener, network.plugin(*options) as plugin:
        with within(1):
            open_by_name(plugin, listener)
        assert nets.PUBLIC_NOBODY_6 not in network.link.out.destinations


def test_all_addresses_are_dead(network: Network) -> None:
    """Four of them at a time, and the time-out of the opening handshake is kept."""
    dead = [f"198.18.{number // 100}.{number % 100 + 1}" for number in range(300)]
    network.names.replies[NAME] = truncated(addresses(*dead))
    with network.plugin("--open-timeout", "3") as plugin:
        with within(3):
            id = plugin.create(f"ws://{NAME}/")
            most = 0
            start = time.monotonic()
            while time.monotonic() - start < 2:
                most = max(most, attempts(plugin))
                time.sleep(0.02)
            assert expect_error(plugin, id, "open-timeout")
        assert most == 4
        assert attempts(plugin) == 0
