"""One performance of a situation: the host's demo, and the stand-ins that it starts."""

import asyncio
import collections
import contextlib
import os
import select
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from wsplugin.certify import puppet
from wsplugin.certify.fake import Fake, Request, description
from wsplugin.certify.script import (
    Closed,
    Done,
    Ended,
    Event,
    Message,
    Opened,
    Outcome,
    parse_printed,
)
from wsplugin.certify.watch import PATIENCE, READING, Broken, Watch, shown

AnyEvent = TypeVar("AnyEvent", bound=Event)
AnyOutcome = TypeVar("AnyOutcome", bound=Outcome)

LONGEST: Final = 2**28
"""Bytes of the longest line that a demo prints: a message of 64 MiB, however it is escaped."""
FIRST_START: Final = 60.0
"""Seconds that a demo's own runtime may take for its first line, on a machine with much to do."""
EXECUTABLE: Final = "fake-wsplugin"


class CannotStart(Exception):
    """The host's command itself cannot be started."""


class Stage:
    """Starts the demo, writes its script, and tells what it prints.

    Args:
        command: the host's command.
        folder: an empty one, for this situation alone.
        socket_pair: whether the host gives the stand-in one end of a socket pair, and starts no
            process of its own.
        patience: seconds to wait for what comes at once.

    """

    def __init__(
        self, command: Sequence[str], folder: Path, *, socket_pair: bool, patience: float
    ) -> None:
        self.socket_pair = socket_pair
        self.watch = Watch(patience)
        self.executable = folder / EXECUTABLE
        self._command = command
        self._address = folder / "s"
        self._fakes: asyncio.Queue[Fake] = asyncio.Queue()
        self._cast: list[Fake] = []
        self._grandchild: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        self._demo: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._outcomes: dict[int, asyncio.Queue[Outcome]] = collections.defaultdict(asyncio.Queue)
        self._events: dict[str, asyncio.Queue[Event]] = collections.defaultdict(asyncio.Queue)
        self._any: set[str] = set()
        self._ids = 0
        self._errors = b""
        self._exiting = False
        self._running: Fake | None = None

    # --- the demo's process ---

    @contextlib.asynccontextmanager
    async def open(self, command: str | None = None) -> AsyncIterator[None]:
        """Start the demo, and leave no process behind.

        Args:
            command: of the plugin; that of a stand-in if none is given.

        Raises:
            CannotStart: there is no such command.

        """
        await self._prepare()
        try:
            await self._start(command or str(self.executable))
            yield
        finally:
            await self._clear()

    async def _prepare(self) -> None:
        program = shlex.join([sys.executable, "-I", "-S", puppet.__file__, str(self._address)])
        self.executable.write_text(f'#!/bin/sh\nexec {program} "$@"\n', encoding="utf-8")
        self.executable.chmod(0o700)
        self._server = await asyncio.start_unix_server(self._meet, self._address, limit=LONGEST)

    async def _start(self, plugin: str) -> None:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        # Kept, as the writing end tells whether the pipe is full.
        self._stderr_in = os.fdopen(writing, "wb", 0)
        stderr = asyncio.StreamReader()
        self._stderr, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stderr), os.fdopen(reading, "rb", 0)
        )
        try:
            self._demo = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._stderr_in,
                limit=LONGEST,
                env=os.environ | {"WSPLUGIN": plugin},
                # So that whatever it starts can be ended with it.
                start_new_session=True,
            )
        except OSError as exc:
            raise CannotStart(f"{self._command[0]}: {exc.strerror}") from None
        reading_stderr = asyncio.create_task(self._read_stderr(stderr))
        self._tasks += [asyncio.create_task(self._read_stdout(reading_stderr)), reading_stderr]

    async def _clear(self) -> None:
        self._exiting = True
        self._server.close()
        if self._demo:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._demo.pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE):
                await self._demo.wait()
            self._stdin.close()
        for fake in self._cast:
            await fake.dismiss()
        while not self._grandchild.empty():
            self._grandchild.get_nowait().close()
        self._stderr_in.close()
        self._stderr.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readline()
        if not first:
            writer.close()
            return
        if msgspec.json.decode(first)["tell"] == "grandchild":
            self._grandchild.put_nowait(writer)
            return
        fake = Fake(self.watch, reader, writer, msgspec.json.decode(first))
        self._cast.append(fake)
        self._fakes.put_nowait(fake)
        await fake.listen()

    @property
    def _process(self) -> asyncio.subprocess.Process:
        assert self._demo
        return self._demo

    @property
    def _stdin(self) -> asyncio.StreamWriter:
        assert self._process.stdin
        return self._process.stdin

    async def _read_stdout(self, reading_stderr: "asyncio.Task[None]") -> None:
        assert self._process.stdout
        line = b""
        try:
            async for line in self._process.stdout:
                printed = parse_printed(line)
                if isinstance(printed, Outcome):
                    self._outcomes[printed.id].put_nowait(printed)
                else:
                    self._events[printed.on].put_nowait(printed)
        except ValueError as exc:
            came = f"{shown(line)} ({exc})"
            self.watch.report(Broken("from the demo a line as in the schema", came))
        status = await self._process.wait()
        self._stderr_in.close()
        if status:
            # Its last words; the end does not come if somebody else has its stderr.
            await asyncio.wait({reading_stderr}, timeout=READING)
        if not self._exiting:
            came = f"its end with status {status}{self.last_words()}"
            self.watch.report(Broken("from the demo that it goes on", came))

    async def _read_stderr(self, stderr: asyncio.StreamReader) -> None:
        while data := await stderr.read(65_536):
            self._errors = (self._errors + data)[-10_000:]

    def last_words(self) -> str:
        """Return the last line of the demo's stderr, behind a colon."""
        *_, last = ["", *self._errors.decode(errors="replace").strip().splitlines()]
        return f": {shown(last)}" if last else ""

    # --- the app's stderr ---

    def hold_stderr(self) -> None:
        """Read the demo's stderr no more."""
        self._stderr.pause_reading()

    async def stderr_full(self) -> None:
        """Wait until the demo's stderr takes no more."""

        async def fill() -> None:
            while select.select([], [self._stderr_in], [], 0)[1]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # nobody tells when a pipe is full

        await self.watch.wait(fill(), "what the plugin writes to stderr on the demo's own")

    def release_stderr(self) -> None:
        """Read it on."""
        self._stderr.resume_reading()

    def break_stderr(self) -> None:
        """Close the reading end of the demo's stderr."""
        self._stderr.close()

    # --- the script ---

    def call(self, call: str, **fields: Any) -> int:
        """Write one line of the script; return the id of its outcome."""
        self._ids += 1
        self.write_script(msgspec.json.encode({"id": self._ids, "call": call} | fields))
        return self._ids

    def write_script(self, line: bytes) -> None:
        """Write a line of the script as it is."""
        self._stdin.write(line + b"\n")

    def next_id(self) -> int:
        """Return the id for a line that :meth:`call` cannot write."""
        self._ids += 1
        return self._ids

    async def outcome(
        self, id: int, kind: type[AnyOutcome], seconds: float | None = None
    ) -> AnyOutcome:
        """Return the outcome of a call.

        Raises:
            Broken: it is of another kind, or there is none.

        """
        expected = f"of call {id} the outcome {name_of(kind)}"
        outcome = await self.any_outcome(id, expected, seconds)
        if not isinstance(outcome, kind):
            raise Broken(expected, shown(msgspec.json.encode(outcome)))
        return outcome

    async def any_outcome(
        self, id: int, expected: str = "", seconds: float | None = None
    ) -> Outcome:
        """Return the outcome of a call, whatever it is."""
        expected = expected or f"an outcome of call {id}"
        return await self.watch.wait(self._outcomes[id].get(), expected, seconds)

    async def outcome_or_end(self, id: int) -> Outcome | None:
        """Return the outcome of a line that not every demo can read; None if this one cannot."""
        self._exiting = True
        waiting = asyncio.ensure_future(self._outcomes[id].get())
        end = self._tasks[0]
        both: set[asyncio.Future[Any]] = {waiting, end}
        some = asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        await self.watch.wait(some, f"an outcome of call {id}")
        if waiting.done():
            self._exiting = False
            return waiting.result()
        waiting.cancel()
        if self._process.returncode != 2:
            came = f"its end with status {self._process.returncode}{self.last_words()}"
            raise Broken("of a demo that cannot read a line the exit status 2", came)
        return None

    def has_outcome(self, id: int) -> bool:
        """Tell whether a call's outcome has been printed and not been taken."""
        return not self._outcomes[id].empty()

    async def event(
        self, on: str, kind: type[AnyEvent], seconds: float | None = None, **fields: Any
    ) -> AnyEvent:
        """Return a connection's next event, of which some fields are known.

        Raises:
            Broken: it is another one, or there is none.

        """
        wanted = f" with {shown(msgspec.json.encode(fields))}" if fields else ""
        expected = f"on {on} the event {name_of(kind)}{wanted}"
        event = await self.any_event(on, expected, seconds)
        if not isinstance(event, kind) or any(
            getattr(event, name) != value for name, value in fields.items()
        ):
            raise Broken(expected, shown(msgspec.json.encode(event)))
        return event

    async def any_event(self, on: str, expected: str = "", seconds: float | None = None) -> Event:
        """Return a connection's next event, whatever it is."""
        expected = expected or f"an event on {on}"
        events = self._events[on]
        if not events.empty():
            return events.get_nowait()  # at once, as there may be many
        return await self.watch.wait(events.get(), expected, seconds)

    def waiting_events(self, on: str) -> int:
        """Return how many events of a connection have been printed and not been taken."""
        return self._events[on].qsize()

    # --- whole scenes ---

    async def fake(self, seconds: float | None = None) -> Fake:
        """Return the next stand-in that the host starts."""
        return await self.watch.wait(self._fakes.get(), "the start of the plugin", seconds)

    async def grandchild(self) -> None:
        """Wait for the process that a stand-in leaves behind."""
        writer = await self.watch.wait(self._grandchild.get(), "a grandchild")
        self._grandchild.put_nowait(writer)

    async def begin(self, id: int = 0, described: dict[str, Any] | None = None) -> Fake:
        """Play a start that succeeds; return the stand-in.

        Args:
            id: of the call.
            described: what the stand-in says of itself, if it is not the truth.

        """
        fake = await self.fake(None if id else FIRST_START)
        await self.begin_with(fake, id, described)
        return fake

    async def begin_with(
        self, fake: Fake, id: int = 0, described: dict[str, Any] | None = None
    ) -> Request:
        """Play it with a stand-in that has been started; return the request for what it is."""
        request = await fake.request("plugin-describe")
        fake.answer(request, described or description())
        fake.is_known = True
        await self.outcome(id, Done)
        self._running = fake
        return request

    async def ask(self, fake: Fake, call: str, **fields: Any) -> tuple[int, Request]:
        """Have a call made; return its id, and the host's request for it."""
        id = self.call(call, **fields)
        return id, await fake.request(f"websocket-{call}")

    async def create(self, fake: Fake, name: str, **fields: Any) -> tuple[int, Request]:
        """Have a connection created; return the id of the call, and the host's request."""
        fields = {"as": name, "url": f"ws://127.0.0.1:9/{name}"} | fields
        return await self.ask(fake, "create", **fields)

    async def connect(self, fake: Fake, name: str, **fields: Any) -> str:
        """Play the opening of a connection; return its id."""
        call, request = await self.create(fake, name, **fields)
        id = fake.new_connection(request)
        fake.lines(fake.answer_to(request, {"id": id}), fake.opening(id))
        await self.outcome(call, Done)
        await self.event(name, Opened)
        return id

    async def works(self, fake: Fake, name: str, id: str) -> None:
        """Check that a connection still sends and receives."""
        call, request = await self.ask(fake, "send", to=name, text="still there?")
        if request.payload != {"id": id, "type": "text", "data": "still there?"}:
            raise Broken("the message as it was sent", shown(request.line))
        fake.lines(fake.answer_to(request), fake.text(id, "yes"))
        await self.outcome(call, Done)
        await self.event(name, Message, text="yes")

    async def works_or_is_lost(self, fake: Fake, name: str, id: str) -> None:
        """Check that a connection works, or that the host has given the plugin up for good.

        After a line that no plugin writes a host may do either.
        """
        call = self.call("ping", to=name)
        request = await self.watch.wait(fake.next_or_end(), "a request or the end of stdin")
        if request is None:
            await self.outcome(call, Ended)
            await self.lose(name)
            await fake.end()
        else:
            fake.answer(request, {"rtt": 1.0})
            await self.outcome(call, Done)
            await self.works(fake, name, id)

    def no_matter(self, name: str) -> None:
        """Take whatever else a connection tells."""
        self._any.add(name)

    def lost(self) -> None:
        """Note that the plugin is gone, so that nothing is to be stopped at the end."""
        self._running = None

    async def lose(self, *names: str, seconds: float | None = None) -> None:
        """Check that each of these connections gets its last event for the plugin's sake."""
        self._running = None
        for name in names:
            await self.event(name, Closed, seconds, code=1006, cause="failure")

    async def stop(self, seconds: float | None = None) -> int:
        """Have the host stopped; return the plugin's exit status."""
        outcome = await self.outcome(self.call("stop"), Done, seconds)
        self._running = None
        if outcome.status is msgspec.UNSET:
            raise Broken("a status in the outcome of stop", shown(msgspec.json.encode(outcome)))
        return outcome.status

    def end_script(self) -> None:
        """Close the demo's stdin."""
        self._exiting = True
        self._stdin.close()

    async def finish(self) -> None:
        """Stop the host if it runs, end the demo, and check that it has printed nothing else."""
        if fake := self._running:
            open_names = [fake.names[id] for id in fake.connections]
            if status := await self.stop():
                raise Broken("status 0 when stopped", f"status {status}")
            for name in open_names:
                await self.event(
                    name, Closed, code=1001, reason="plugin shutting down", cause="shutdown"
                )
        self.end_script()
        status = await self.watch.wait(self._process.wait(), "the demo's end")
        await self.watch.wait(self._tasks[0], "the end of the demo's stdout")
        self.watch.check()
        if status:
            raise Broken("the demo's exit status 0", f"status {status}{self.last_words()}")
        left: list[asyncio.Queue[Any]] = [*self._outcomes.values()]
        left += [events for name, events in self._events.items() if name not in self._any]
        for lines in left:
            if not lines.empty():
                raise Broken("nothing more", shown(msgspec.json.encode(lines.get_nowait())))
        for fake in self._cast:
            await fake.end()
            if fake.is_known:
                fake.nothing_asked("more")


NAMES: Final[dict[Any, str]] = {
    kind: kind.__struct_config__.tag for kind in (*Outcome.__args__, *Event.__args__)
}


def name_of(kind: Any) -> str:
    """Return what a demo calls an outcome or an event."""
    return NAMES[kind]
