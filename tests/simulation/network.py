"""The network as the plugin reaches it: names, addresses, connections; and who may have how many.

What lies behind an address is drawn from the seed or given by a scenario, by port: every
connection that the host creates has a port of its own, so that whatever arrives can be told apart.
"""

import asyncio
import errno
import functools
import math
import random
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from simulation import behaviours, proxies
from simulation.life import App
from simulation.proxies import Proxy
from simulation.servers import Behaviour, Server
from simulation.sockets import Link, Peer, Sockaddr, Socket, Weather
from simulation.world import Violation, World
from wsplugin.network import addresses
from wsplugin.network.names import Address

FIRST_PORT: Final = 10_000
LAST: Final = 10.0
"""Seconds in which everything that is on its way arrives."""


class Host(NamedTuple):
    """What is behind an address: how it takes a connection and after how many seconds."""

    errno: int
    """0 if it accepts, an error number, or -1 if it drops what it is sent."""
    delay: float


class Place(NamedTuple):
    """What a URL leads to."""

    name_found: bool
    name_delay: float
    """Seconds; infinity for a name server that never answers."""
    addresses: dict[str, Host]
    """By address, in the order in which the name server tells them."""
    weather: Weather
    behaviour: Behaviour


class Network:
    """Names, addresses and connections of one run.

    Args:
        world: the world.
        limit: how many connections of an app may have had a byte sent at the same time.
        max_size: the longest message that the plugin takes.

    """

    def __init__(self, world: World, limit: int, max_size: int) -> None:
        self.world = world
        self.places: dict[int, Place] = {}
        """By port."""
        self.servers: dict[int, list[Server]] = {}
        """All connections ever made, by port."""
        self.begun: dict[int, float] = {}
        """When the first look-up or connection of a port was asked for."""
        self.ids: dict[int, str] = {}
        """The connection of each port; none for those whose create was refused."""
        self.ports: dict[str, int] = {}
        self._apps: dict[int, App] = {}
        self._limit = limit
        self._max_size = max_size
        self._by_link: dict[Link, tuple[int, Server]] = {}
        self._connections = 0
        self._links: list[Link] = []
        self._spoken: list[Link] = []

    def place(self, port: int) -> Place:
        """Return what a port leads to."""
        return self.places[port]

    def name(self, port: int, id: str, app: App) -> None:
        """Take note of which connection has a port, and of its app."""
        self.ids[port], self.ports[id], self._apps[port] = id, port, app

    def of(self, id: str) -> list[Server]:
        """Return the servers of all connections ever made for one of the host's."""
        return self.servers.get(self.ports[id], [])

    def id_of(self, server: Server) -> str:
        """Return the connection that a server belongs to."""
        return self.ids[self._by_link[server.peer.link][0]]

    def served(self) -> list[tuple[str, Server]]:
        """Return id and server of all connections that the plugin has not closed."""
        self._links = [link for link in self._links if not link.closed]
        served = [self._by_link[link] for link in self._links if link in self._by_link]
        return [(self.ids[port], server) for port, server in served]

    def touch(self, port: int) -> None:
        """Take note that the plugin begins to connect."""
        if port not in self.ids and port != proxies.PORT:
            self.world.fail(Violation(f"port {port} is nobody's, and is connected to"))
        if port not in self.begun:
            self.begun[port] = self.world.now

    def let_arrive(self) -> None:
        """Let servers read all that the plugin has left behind in the kernel."""
        for servers in self.servers.values():
            for server in servers:
                if not server.peer.reading:
                    server.peer.resume()
        end = self.world.now + LAST
        while self.world.next_event() <= end:
            self.world.advance(end)

    # --- as wsplugin.network.opening.Dialer ---

    async def look_up(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a name, in the order in which they should be tried.

        Raises:
            OSError: there is no such name (``socket.gaierror``).

        """
        self.touch(port)
        place = self.places[port]
        self.world.note("names", f"looks up {host}")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[list[Address]] = loop.create_future()

        def answer() -> None:
            if waiter.done():
                return
            self.world.note("names", f"{host}: {list(place.addresses)}")
            if place.name_found:
                waiter.set_result([address_of(ip, port) for ip in place.addresses])
            else:
                waiter.set_exception(socket.gaierror(socket.EAI_NONAME, "no such name"))

        if place.name_delay < math.inf:
            # As from the thread that waits for a real name server.
            self.world.after(place.name_delay, functools.partial(wake, loop, answer))
        return await waiter

    async def connect(self, address: Address) -> socket.socket:
        """Connect as the plugin does, over simulated sockets."""
        return await addresses.connect(address)

    # --- for sockets ---

    def dial(self, address: Sockaddr) -> tuple[Link | int, float | None]:
        """Begin to connect; return what comes of it, and after how many seconds if ever."""
        host, port = address[:2]
        self.touch(port)
        place = self.places[port]
        behind = place.addresses.get(host, Host(errno.EHOSTUNREACH, 0.0))
        self.world.note(f"port {port}", f"connects to {host}: {behind}")
        if behind.errno > 0:
            return behind.errno, behind.delay
        if behind.errno < 0:
            return errno.ETIMEDOUT, None
        self._connections += 1
        link = Link(self.world, self._connections, (host, port), place.weather)
        link.spoken = lambda: self._spoke(link)
        self._links.append(link)
        if port == proxies.PORT:
            Proxy(self.world, link.peer, self._serve)
        else:
            self._serve(link.peer, port)
        return link, behind.delay

    def _serve(self, peer: Peer, port: int) -> None:
        """Let the server of a port have a connection, be it through a proxy."""
        server = Server(self.world, peer, self.places[port].behaviour, self._max_size)
        self.servers.setdefault(port, []).append(server)
        self._by_link[peer.link] = (port, server)
        self._count()

    def _spoke(self, link: Link) -> None:
        self._spoken.append(link)
        self._count()

    def _count(self) -> None:
        """Count the connections that have had a byte sent: no app may have more than the places."""
        self._spoken = [other for other in self._spoken if not other.closed]
        counts: Counter[App] = Counter()
        for link in self._spoken:
            port = self._by_link[link][0] if link in self._by_link else link.address[1]
            if port != proxies.PORT:  # whose it is, the proxy has not been told
                counts[self._apps[port]] += 1
        allowed = self._limit * len(set(self._apps.values()))
        if max(counts.values(), default=0) > self._limit or len(self._spoken) > allowed:
            self.world.fail(Violation(f"{counts} connections at once, each may have {self._limit}"))


class SocketModule:
    """Stands in for the module ``socket`` where the plugin makes its sockets."""

    SOCK_STREAM = socket.SOCK_STREAM
    IPPROTO_TCP = socket.IPPROTO_TCP

    def __init__(self, network: Network) -> None:
        self._network = network

    def socket(self, family: int, kind: int, proto: int) -> Socket:
        """Return a new socket, not connected.

        Raises:
            OSError: no descriptor is left.

        """
        # asyncio turns Nagle's algorithm off only for what says that it is TCP.
        assert (kind, proto) == (self.SOCK_STREAM, self.IPPROTO_TCP)
        return Socket(self._network.world, self._network.dial, family=family)


def wake(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call back as from another thread."""
    loop.call_soon_threadsafe(callback)


def address_of(ip: str, port: int) -> Address:
    """Return an address as the plugin wants it."""
    return Address(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip, port)


# --- what a seed draws ---------------------------------------------------------------------------


def draw_weather(draw: random.Random) -> Weather:
    """Draw how the network treats a connection."""
    latency = draw.choice((0.0, 0.0, 0.001, 0.02, 0.15))
    return Weather(
        latency,
        draw.choice((0.0, 0.0, latency / 2)),
        draw.choice((2**30, 2**30, 1460, 100, 7)),
        draw.choice((0.0, 0.0, 0.0005)),
        draw.choice((300, 300, 4096, 70_000)),
    )


def draw_place(draw: random.Random, hosts: tuple[str, ...]) -> Place:
    """Draw what a URL leads to, at the addresses `hosts`."""
    good = Host(0, draw.choice((0.0, 0.0, 0.01, 0.3)))
    bad = draw.choice(
        (
            Host(errno.ECONNREFUSED, 0.0),
            Host(errno.ECONNREFUSED, 0.02),
            Host(errno.EHOSTUNREACH, 0.5),
            Host(-1, 0.0),
        )
    )
    addresses = {host: good if draw.random() < 0.93 else bad for host in hosts}
    return Place(
        draw.random() < 0.96,
        draw.choice((0.0, 0.0, 0.0, 0.01, 0.2, 2.0 if draw.random() < 0.5 else math.inf)),
        addresses,
        draw_weather(draw),
        behaviours.drawn(draw),
    )
