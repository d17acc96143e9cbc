"""One run: a world, the plugin in it, and all that is checked."""

import asyncio
import contextlib
import logging
import math
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest import mock

from simulation import accounts, fairness
from simulation.bounds import Bounds
from simulation.faults import Injection
from simulation.host import Host, Stdin, Stdout
from simulation.loop import Loop
from simulation.network import Network, SocketModule
from simulation.patches import chance, ioctl, scaled
from simulation.plan import Plan, drawn
from simulation.quiet import Quiet
from simulation.script import Script
from simulation.world import START, Violation, World
from wsplugin.network import addresses, opening
from wsplugin.session import Session

# Constants are scaled in modules that have been imported: with these all that a connection needs.
ROOMS: Final = (addresses, opening)
CPU: Final = 3.0
"""Seconds of CPU that one run may take; a usual one takes a few hundredths."""


class Errors(logging.Handler):
    """Takes what the plugin logs as an error for one, unless a fault was injected."""

    def __init__(self, world: World, injection: Injection) -> None:
        super().__init__(logging.ERROR)
        self.count = 0
        self._world = world
        self._injection = injection

    def emit(self, record: logging.LogRecord) -> None:
        """Fail the run, or count."""
        self.count += 1
        self._world.note("log", record.getMessage())
        if not self._injection.happened:
            self._world.fail(Violation(f"logged: {record.getMessage()}"))


class Parent:
    """The process that the plugin must not outlive (``wsplugin.parent.Parent``): the host's."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def watch(self, loop: Loop, on_gone: Callable[[], None]) -> None:
        """Call back when it has ended."""

        def killed() -> None:
            loop.call_soon_threadsafe(on_gone)

        self._script.on_killed = killed


class Run:
    """One run.

    Args:
        seed: decides everything that is not said.
        trace: called with every line of the trace.
        conditions: the run's; None for the seed's.
        course: what the host does; None for what the seed says.

    """

    def __init__(
        self,
        seed: int,
        trace: Callable[[str], None] | None = None,
        conditions: Plan | None = None,
        course: Callable[[Script], Iterator[float]] | None = None,
    ) -> None:
        self.world = world = World(seed, trace)
        self.plan = plan = conditions or drawn(world.random("plan"))
        settings = plan.settings
        world.tells = plan.tells
        self.network = Network(world, settings.max_connections, settings.max_message_size)
        self.host = Host(
            world,
            Stdin(world, plan.chunk),
            Stdout(world, plan.room, plan.restless, plan.pace),
            plan.splits,
        )
        # On a busy machine a few hundred glances at the clock may lie between cause and effect.
        self.host.checker.refuses = settings.at_limit == "refuse"
        self.bounds = Bounds(world, settings, self.network, self.host, plan.creep * 500)
        self.script = Script(world, self.host, self.network, settings, plan.apps, course)
        self.quiet = Quiet(self.host, self.network, self.script, self.bounds)
        self.loop = Loop(world, self.quiet.check, plan.creep)
        self.injection = Injection(world, plan.fault, self._fault_happened)
        self.errors = Errors(world, self.injection)
        self.ended_at = math.inf
        """When the session ended, in seconds since the start."""
        self.times: list[tuple[float, str, str, Any]] = []
        """When the plugin wrote each event but messages, since the start; id, name, payload."""

    def play(self) -> None:
        """Play it.

        Raises:
            Violation: something happened that the contract does not allow.

        """
        world = self.world
        world.note("world", f"seed {world.seed}: {self.plan}")
        self.host.on_dispatch = self.bounds.dispatched
        self.host.on_answer = self._answered
        self.host.on_event = self._event
        self.loop.set_exception_handler(self._complain)
        logger = logging.getLogger("wsplugin")
        logger.addHandler(self.errors)
        try:
            with (
                chance(world.random("system"), lambda: 1.7e9 + world.now),
                scaled(self.plan.scale),
                mock.patch.object(addresses, "socket", SocketModule(self.network)),
                ioctl(world),
                self.injection.armed(),
            ):
                status = self.loop.run_until_complete(self._serve())
                self.script.over = True
                self.ended_at = world.now - START
                world.note("world", f"exit status {status}")
                self._finish(status)
        finally:
            logger.removeHandler(self.errors)
            self._abandon()

    def _abandon(self) -> None:
        """Leave nothing for the garbage collector to complain about."""
        for transport in list(self.loop._transports.values()):
            transport._sock = None
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            task.get_coro().close()
        self.loop.close()

    async def _serve(self) -> int:
        host = self.host
        host.stdout.attach(self.loop)
        session = Session(
            self.plan.settings, host.stdout, host.stdin.open(self.loop), dialer=self.network
        )
        session.record(host)  # type: ignore[arg-type]
        session.watch(Parent(self.script))  # type: ignore[arg-type]
        self.quiet.session = session
        self.bounds.created = lambda: session._manager._created

        def stop() -> None:
            # What the plugin takes before it learns of the signal is carried out.
            self.loop.call_soon_threadsafe(self.bounds.stop)
            session.stop_soon()

        self.script.on_stop = stop
        self.script.start()
        return await session.run()

    def _fault_happened(self) -> None:
        self.host.checker.faulty = True

    def _answered(self, line: Any) -> None:
        self.bounds.answered(line)
        self.script.answered(line)

    def _event(self, id: str, name: str, payload: Any) -> None:
        if name == "message":
            self.quiet.told[id] = self.quiet.told.get(id, 0) + 1
            self.bounds.told(id)
            self.script.on_message(id, payload)
            return
        self.times.append((self.world.now - START, id, name, payload))
        if name == "error":
            self.quiet.failing.add(id)
            if payload["code"] == "internal-error" and not self.injection.happened:
                raise Violation(f"{id}: {payload}, and no fault was injected")
        self.bounds.event(id, name, payload)

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.world.fail(
            Violation(f"asyncio: {context.get('message')}: {context.get('exception')!r}")
        )

    def _finish(self, status: int) -> None:
        """Check what must hold afterwards."""
        self.bounds.stopped(min(self.script.stopped_at, self.script.gone_at))
        self.bounds.ended()
        gone = self.script.gone_at < math.inf
        # A loss in the very moment of the end need not be noticed.
        lost = max(self.script.gone_at, self.world.frozen_until)
        noticed = lost + self.plan.creep * 100 < self.world.now
        if status not in ((1,) if gone and noticed else (0, 1) if gone else (0,)):
            raise Violation(f"exit status {status}")
        # Callbacks of this very moment may still run; nothing may be due later.
        for _ in range(5):
            self.loop.run_until_complete(asyncio.sleep(0))
        if left := self.loop.left():
            raise Violation(f"when all is over these are scheduled: {left}")
        if sockets := [f for f in self.world.files.values() if f is not self.host.stdin]:
            raise Violation(f"when all is over these are open: {sockets}")
        self.host.stdout.read_all()
        self.network.let_arrive()
        self.world.check()
        if self.injection.happened and not self.errors.count:
            raise Violation("a fault of the plugin, and nothing is logged")
        if gone:
            # After a stop of the process all times of what was going on are over.
            if not self.injection.happened and self.world.frozen_until < self.script.gone_at:
                accounts.check_left(self.script)
            return
        accounts.check_memory(self.quiet.session)
        if self.script.stopped_at == math.inf and not self.bounds.expired():
            if self.host.missing:
                raise Violation(f"{self.host.missing} bytes did not reach the host")
        else:
            self.host.forget_unread()
        self.host.checker.finish()
        accounts.check_messages(self.host, self.network, self.script, self.bounds.cut)


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Fail a run that computes for so many seconds of CPU: it never comes to rest (POSIX).

    Raises:
        Violation: it did.

    """
    if sys.platform == "win32":
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise Restless

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except Restless:
        raise Violation(f"the plugin has not come to rest in {seconds:g} s of CPU") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Restless(KeyboardInterrupt):
    """Too much CPU; a kind of exception that no net of asyncio or of the plugin holds."""


def play(seed: int, trace: Callable[[str], None] | None = None) -> Run:
    """Play one seed; return what is known of it afterwards.

    Raises:
        Violation: something happened that the contract does not allow.

    """
    run = Run(seed, trace, *(fairness.drawn(seed) if seed % fairness.SHARE == 0 else ()))
    with patience(CPU):
        run.play()
    return run
