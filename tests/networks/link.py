"""A link between two namespaces that is as bad as a test wants it.

It carries packets between two TUN devices: what netem does where the kernel has it, and it can
count and look at what it carries.
"""

import collections
import contextlib
import errno
import math
import os
import random
import select
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Final

from harness import TIMEOUT
from networks.namespaces import Namespace

DEVICE: Final = "link0"
LONGEST_QUEUE: Final = 0.5
"""Seconds that a packet may wait for a slow link; one that would wait longer is lost."""
# From <linux/if_tun.h>: a device of IP packets, and nothing in front of them.
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_LONGEST_PACKET: Final = 65535


class Way:
    """One direction, and what becomes of what is sent in it.

    Args:
        source: the TUN device where packets are read.
        sink: the one where they are written.

    """

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.delay = 0.0
        """Seconds that a packet takes."""
        self.rate = math.inf
        """Bytes a second."""
        self.loss = 0.0
        """The part of packets that is lost."""
        self.largest = _LONGEST_PACKET
        """Bytes of the largest packet that passes; the others are dropped, and nobody is told."""
        self.is_cut = False
        """Whether nothing passes at all."""
        self.lost = 0
        """How many packets have been lost, for whatever reason."""
        self.destinations: dict[str, float] = {}
        """Where what was sent was to go, each with the time of its first packet."""
        self._sink = sink
        self._on_its_way: collections.deque[tuple[float, bytes]] = collections.deque()
        self._free = 0.0
        self._random = random.Random(0)

    def take(self, packet: bytes, now: float) -> None:
        """Accept a packet, or lose it."""
        self.destinations.setdefault(_destination(packet), now)
        start = max(now, self._free)
        if (
            self.is_cut
            or len(packet) > self.largest
            or self._random.random() < self.loss
            or start - now > LONGEST_QUEUE
        ):
            self.lost += 1
            return
        self._free = start + len(packet) / self.rate
        self._on_its_way.append((self._free + self.delay, packet))

    @property
    def due(self) -> float:
        """When the next packet arrives."""
        return self._on_its_way[0][0] if self._on_its_way else math.inf

    def deliver(self, now: float) -> None:
        """Write what has arrived by now."""
        while self.due <= now:
            _, packet = self._on_its_way.popleft()
            if self.is_cut:
                self.lost += 1
                continue
            try:
                os.write(self._sink, packet)
            except OSError as exc:
                if exc.errno != errno.EIO:  # the device there is down
                    raise
                self.lost += 1


class Link(threading.Thread):
    """Carries packets from ``here`` to ``there`` and back, until it is closed."""

    def __init__(self, here: Namespace, there: Namespace) -> None:
        super().__init__(daemon=True)
        with contextlib.ExitStack() as devices:
            ends = [namespace.inside(_open_device) for namespace in (here, there)]
            for end in ends:
                devices.callback(os.close, end)
            self._ended, self._end = os.pipe()
            devices.callback(os.close, self._ended)
            devices.callback(os.close, self._end)
            self._devices = devices.pop_all()
        self.out = Way(ends[0], ends[1])
        """From the plugin to the servers."""
        self.back = Way(ends[1], ends[0])
        """From the servers to the plugin."""
        self.ways = (self.out, self.back)
        self.start()

    def run(self) -> None:
        """Carry packets."""
        sources = {way.source: way for way in self.ways}
        ready: list[int] = []
        while self._ended not in ready:
            now = time.monotonic()
            for descriptor in ready:
                with contextlib.suppress(BlockingIOError):
                    sources[descriptor].take(os.read(descriptor, _LONGEST_PACKET), now)
            for way in self.ways:
                way.deliver(now)
            due = min(way.due for way in self.ways)
            wait = None if due == math.inf else max(0.0, due - time.monotonic())
            ready, _, _ = select.select([*sources, self._ended], [], [], wait)

    def cut(self) -> None:
        """Let nothing pass; what is on its way is lost."""
        for way in self.ways:
            way.is_cut = True

    def mend(self) -> None:
        """Let all pass again."""
        for way in self.ways:
            way.is_cut = False

    @property
    def lost(self) -> int:
        """How many packets have been lost, for whatever reason."""
        return sum(way.lost for way in self.ways)

    def close(self) -> None:
        """Remove it, and its devices with it."""
        os.write(self._end, b"x")
        self.join(TIMEOUT)
        assert not self.is_alive()
        self._devices.close()


def _open_device() -> int:
    import fcntl  # which not every system has where these tests are skipped

    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(
        descriptor, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
    )
    # The routers that two such devices look for do not exist.
    Path("/proc/sys/net/ipv6/conf", DEVICE, "router_solicitations").write_text("0")
    return descriptor


def _destination(packet: bytes) -> str:
    if packet[0] >> 4 == 4:
        return socket.inet_ntop(socket.AF_INET, packet[16:20])
    return socket.inet_ntop(socket.AF_INET6, packet[24:40])
