"""What of the process is not the plugin's, taken from the seed while a run is played."""

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

from simulation.faults import plugin_modules
from simulation.sockets import Socket
from simulation.world import Stale, World


@contextlib.contextmanager
def scaled(values: Mapping[str, float]) -> Iterator[None]:
    """Set constants of the plugin wherever they were imported to.

    Raises:
        Stale: there is no such constant any more.

    """
    modules = plugin_modules()
    with contextlib.ExitStack() as stack:
        for name, value in values.items():
            owners = [module for module in modules if name in vars(module)]
            if not owners:
                raise Stale(f"the plugin has no constant {name} to scale")
            for module in owners:
                stack.enter_context(mock.patch.object(module, name, value))
        yield


@contextlib.contextmanager
def ioctl(world: World) -> Iterator[None]:
    """Have ``fcntl.ioctl`` answer for the world's descriptors."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    real = fcntl.ioctl

    def simulated(descriptor: int, request: int, *arguments: Any) -> Any:
        file = world.files.get(descriptor)
        if isinstance(file, Socket):
            return file.ioctl(request)
        return real(descriptor, request, *arguments)

    with mock.patch.object(fcntl, "ioctl", simulated):
        yield


@contextlib.contextmanager
def chance(source: random.Random, clock: Callable[[], float]) -> Iterator[None]:
    """Take the operating system's random bytes and its clock from the seed."""
    # The library's "secrets" go through the name that "random" has imported.
    with (
        mock.patch.object(os, "urandom", source.randbytes),
        mock.patch.object(random, "_urandom", source.randbytes),
        mock.patch.object(time, "time", clock),
    ):
        yield
