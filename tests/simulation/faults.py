"""Exceptions in the plugin's own code, in places where nobody has foreseen any.

A fault may cost one connection, which says so (``internal-error``), or one request; whatever else
goes on must go on as if nothing had happened.
"""

import contextlib
import functools
import importlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple
from unittest import mock

from simulation.world import Stale, World

TARGETS: Final = (
    "wsplugin.connection:Connection.opened",
    "wsplugin.deadline:Deadline.look",
    "wsplugin.deadline:Deadline.next_look",
    "wsplugin.encoding:encode_done",
    "wsplugin.encoding:encode_event",
    "wsplugin.encoding:encode_into",
    "wsplugin.network.addresses:in_turn",
    "wsplugin.network.frames:Frames.release",
    "wsplugin.network.frames:Frames.take",
    "wsplugin.network.frames:frame",
    "wsplugin.network.inbox:Inbox.filled",
    "wsplugin.network.inbox:Inbox.room",
    "wsplugin.network.keepalive:Keepalive.act",
    "wsplugin.network.keepalive:Keepalive.ponged",
    "wsplugin.network.opening:Attempt._find",
    "wsplugin.network.outbox:Queue.pop",
    "wsplugin.network.progress:Meter.look",
    "wsplugin.network.response:ResponseReader.feed",
    "wsplugin.network.response:fields",
    "wsplugin.network.wire:Wire._hold",
    "wsplugin.network.wire:Wire._release",
    "wsplugin.network.wire:Wire.close",
)
"""What may fail: functions that are called for one connection or one request, within its net.

Not the methods that are the net themselves: what stands in their place would stand outside of it.
"""


class Fault(NamedTuple):
    """The `nth` call of `target` raises."""

    target: str
    nth: int


def drawn(draw: random.Random) -> Fault | None:
    """Draw a fault, mostly none."""
    if draw.random() < 0.75:
        return None
    return Fault(draw.choice(TARGETS), 1 + int(draw.expovariate(0.15)))


class Injection:
    """Makes one fault happen.

    Args:
        fault: which, if any.
        on_happened: called when it does.

    """

    def __init__(self, world: World, fault: Fault | None, on_happened: Callable[[], None]) -> None:
        self._world = world
        self._on_happened = on_happened
        self.fault = fault
        self.happened = False
        self._calls = 0

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Have it happen inside.

        Raises:
            Stale: the plugin has no such function any more.

        """
        if self.fault is None:
            yield
            return
        module_name, _, path = self.fault.target.partition(":")
        *parents, name = path.split(".")
        try:
            owner: Any = importlib.import_module(module_name)
            for parent in parents:
                owner = getattr(owner, parent)
            original = vars(owner)[name]
        except (ImportError, AttributeError, KeyError):
            raise Stale(f"the plugin has no {self.fault.target}") from None
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(owner, name, self._wrapped(original)))
            for module in plugin_modules() if not parents else ():
                if vars(module).get(name) is original:
                    stack.enter_context(mock.patch.object(module, name, vars(owner)[name]))
            yield

    def _wrapped(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # Not functools.wraps alone: what msgspec gives has no attributes to copy.
        @functools.wraps(original, assigned=(), updated=())
        def call(*args: Any, **options: Any) -> Any:
            self._calls += 1
            assert self.fault
            if self._calls == self.fault.nth:
                self.happened = True
                self._on_happened()
                self._world.note("fault", f"{self.fault.target} raises")
                raise MemoryError("injected")
            return original(*args, **options)

        return call


def plugin_modules() -> list[Any]:
    """Return the plugin's modules that have been imported."""
    return [module for name, module in sys.modules.items() if name.startswith("wsplugin.")]
