"""The host: two pipes to the plugin, and somebody who writes into one and reads from the other.

:class:`Stdin` is what ``wsplugin.input`` makes of a descriptor, :class:`Stdout` what
``wsplugin.sink`` does, thread included, over pipes of the simulated world.
"""

import collections
import errno
import math
import os
import random
from collections.abc import Callable
from typing import Any, Final

import msgspec

from invariants import Checker
from simulation.world import Violation, World, shown

decode: Final = msgspec.json.Decoder().decode


class Stdin:
    """The host's end and the plugin's end of stdin (``wsplugin.input.Input``)."""

    def __init__(self, world: World, chunk: int) -> None:
        self._world = world
        self._chunk = chunk
        self._unread = bytearray()
        self._ended = False
        self._last = 0.0
        self._loop: Any = None
        self._feed: Callable[[bytes], None]
        self._on_end: Callable[[], None] | None = None
        self._watched = False
        self.closed = False
        self.ended_at = math.inf
        """When the end of the stream has come to the plugin's end."""
        self._descriptor = world.descriptor(self)

    # --- the host's end ---

    def write(self, data: bytes, delay: float = 0.0) -> None:
        """Write bytes after so many seconds, behind what was written before."""
        self._world.note("host", f"> {shown(data)}")
        self._later(delay, lambda: self._arrive(data))

    def end(self) -> None:
        """End the stream."""
        self._world.note("host", "ends stdin")
        self._later(0.0, self._end)

    def _later(self, delay: float, callback: Callable[[], None]) -> None:
        self._last = max(self._last, self._world.now + delay)
        self._world.at(self._last, callback)

    def _arrive(self, data: bytes) -> None:
        self._unread += data

    def _end(self) -> None:
        self._ended = True
        self.ended_at = self._world.now
        if self._on_end is not None and not self.closed:
            self._loop.call_soon_threadsafe(self._on_end)

    # --- the plugin's end ---

    def open(self, loop: Any) -> Callable[[Callable[[bytes], None]], "Stdin"]:
        """Return what a session opens its input with."""
        self._loop = loop

        def open_input(feed: Callable[[bytes], None]) -> Stdin:
            self._feed = feed
            return self

        return open_input

    def pause(self) -> None:
        """Stop reading."""
        self._watched = False
        self._loop.remove_reader(self._descriptor)

    def resume(self) -> None:
        """Read on."""
        self._watched = True
        self._loop.add_reader(self._descriptor, self._read)

    def watch_end(self, on_end: Callable[[], None]) -> None:
        """Call back when the host has ended the stream."""
        self._on_end = on_end

    def close(self) -> None:
        """Read no more."""
        self.pause()
        self.closed = True

    def _read(self) -> None:
        chunk = bytes(self._unread[: self._chunk])
        del self._unread[: self._chunk]
        if not chunk:
            self.pause()
            self.closed = True  # there is nothing more to be read
        self._feed(chunk)

    # --- for the selector and for checks ---

    def readable(self) -> bool:
        """Whether a read would return at once."""
        return bool(self._unread) or self._ended

    def writable(self) -> bool:
        """Whether a write would: it is not the plugin's to write to."""
        return False

    @property
    def neglected(self) -> bool:
        """Whether there is something to read that nobody waits for."""
        return self.readable() and not self._watched and not self.closed


class Stdout:
    """The plugin's end and the host's end of stdout (``wsplugin.output.Sink``).

    Args:
        room: how many bytes the pipe holds.
        restless: the chance that the writing thread has got on whenever the plugin looks.
        pace: seconds from when there is something to read to the host's reading it.

    """

    def __init__(self, world: World, room: int, restless: float, pace: float) -> None:
        self._world = world
        self._room = room
        self._pace = pace
        self._restless = restless
        self._random = world.random("stdout")
        self._pipe = bytearray()
        self._queue: collections.deque[bytearray] = collections.deque()
        self._waiting = 0
        self._level = -1
        self._on_written: Callable[[], None]
        self._on_lost: Callable[[], None]
        self._loop: Any = None
        self._closed = False
        self._stepping = False
        self.reading = True
        self.gone = False
        self.received: Callable[[bytes], None]
        self.held_at = -math.inf
        """When the plugin last was to add nothing because the host was behind."""
        self._holding = False

    def attach(self, loop: Any) -> None:
        """Call back on this event loop."""
        self._loop = loop

    # --- the plugin's end ---

    @property
    def waiting(self) -> int:
        """How many bytes are not yet written."""
        if self._restless and self._random.random() < self._restless:
            self._write_on()
        return self._waiting

    def start(self, on_written: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Begin."""
        self._on_written = on_written
        self._on_lost = on_lost

    def write_now(self, data: bytearray) -> int:
        """Write what there is room for, sometimes less.

        Raises:
            OSError: the host has hung up.

        """
        if self._waiting:
            self._world.fail(Violation("write_now() overtakes what waits"))
        if self.gone:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        size = min(len(data), self._room - len(self._pipe))
        if self._restless and size and self._random.random() < self._restless:
            size = self._random.randrange(size)
        self._put(data[:size])
        return size

    def write_later(self, batch: bytearray) -> None:
        """Have the thread write `batch`."""
        self._queue.append(batch)
        self._waiting += len(batch)
        self._step_soon()

    def notify_at(self, level: int) -> None:
        """Call back once, as soon as no more than `level` bytes are waiting."""
        if level:
            self._holding = True
        if self._waiting > level:
            self._level = level
        else:
            self._loop.call_soon(self._written)

    def close(self) -> None:
        """End the thread; what is waiting is lost."""
        self._closed = True
        self._queue.clear()
        self._waiting = 0

    def _written(self) -> None:
        self._holding = False
        self.held_at = self._world.now
        self._on_written()

    @property
    def holding(self) -> bool:
        """Whether the plugin is to add nothing because the host is behind."""
        return self._holding

    # --- the thread ---

    def _step_soon(self) -> None:
        if not self._stepping and not self.gone:
            self._stepping = True
            self._world.after(0.0, self._step)

    def _step(self) -> None:
        self._stepping = False
        self._write_on()

    def _write_on(self) -> None:
        while self._queue and not self._closed and not self.gone:
            size = min(len(self._queue[0]), self._room - len(self._pipe))
            if size <= 0:
                return
            self._put(self._queue[0][:size])
            del self._queue[0][:size]
            if not self._queue[0]:
                self._queue.popleft()
            self._waiting -= size
            if self._waiting <= self._level:
                self._level = -1
                self._loop.call_soon_threadsafe(self._written)

    # --- the host's end ---

    def _put(self, data: bytearray) -> None:
        if data:
            if not self._pipe and self.reading:
                self._world.after(self._pace, self._read)
            self._pipe += data

    def read_all(self) -> None:
        """Read what the pipe still holds when the plugin has ended."""
        self.reading = True
        self._read()

    def _read(self) -> None:
        if not self.reading or not self._pipe or self.gone:
            return
        data = bytes(self._pipe)
        self._pipe.clear()
        self.received(data)
        self._step_soon()

    def pause(self) -> None:
        """Read no more."""
        self._world.note("host", "stops reading")
        self.reading = False

    def resume(self) -> None:
        """Read on."""
        self._world.note("host", "reads on")
        self.reading = True
        self._world.after(0.0, self._read)

    def hang_up(self) -> None:
        """Go away: nothing more is read, and the plugin can notice."""
        self._world.note("host", "has hung up")
        self.gone = True
        if not self._closed:
            self._loop.call_soon_threadsafe(self._on_lost)


class Host:
    """Writes requests and follows what comes back.

    Also a recorder (``wsplugin.session.Session.record``): the plugin's own view of when it took a
    line and when it wrote one, which no pipe delays.

    Args:
        splits: the chance that lines are written in two pieces.

    """

    def __init__(self, world: World, stdin: Stdin, stdout: Stdout, splits: float) -> None:
        self.world = world
        self._splits = splits
        self.stdin = stdin
        self.stdout = stdout
        self.stdout.received = self._received
        self.checker = Checker()
        self.random: random.Random = world.random("host")
        self.gone = False
        """Whether it has hung up, or been killed."""
        self.on_dispatch: Callable[[dict[str, Any]], None] = lambda request: None
        """Called when the plugin takes a line that is a request."""
        self.on_event: Callable[[str, str, Any], None] = lambda *event: None
        """Called with id, name and payload of each event when the plugin writes it."""
        self.on_answer: Callable[[Any], None] = lambda line: None
        """Called with each answer when the plugin writes it."""
        self.taken: dict[Any, float] = {}
        """When the plugin has taken each request, by id."""
        self._written: collections.deque[dict[str, Any]] = collections.deque()
        self._produced = bytearray()
        self._arrived = 0

    def write(self, *requests: dict[str, Any]) -> None:
        """Write requests in one go."""
        self.write_lines(*((msgspec.json.encode(request), request) for request in requests))

    def write_lines(self, *lines: tuple[bytes, dict[str, Any]], last: bool = False) -> None:
        """Write lines, each with what it asks for: a request, or what stands for one.

        Args:
            lines: without LF.
            last: whether the stream ends without an LF behind them.

        """
        if not lines:
            return
        for _, request in lines:
            self._written.append(request)
        data = b"\n".join(line for line, _ in lines) + (b"" if last else b"\n")
        if self.random.random() >= self._splits:
            self.stdin.write(data)
            return
        at = self.random.randrange(len(data))
        self.stdin.write(data[:at])
        self.stdin.write(data[at:], self.random.choice((0.0, 0.001, 0.1)))

    # --- as a recorder ---

    def line_in(self, line: object) -> None:
        """Take note of a line that the plugin takes."""
        request = self._written.popleft()
        self.taken[request.get("id")] = self.world.now
        try:
            self.on_dispatch(request)
        except Exception as exc:  # noqa: BLE001 - told by the world: the plugin has nets
            self.world.fail(exc)

    def end_of_stdin(self) -> None:
        """Take note that the plugin has carried out all lines."""
        if self._written:
            self.world.fail(Violation(f"lines have been lost: {self._written}"))

    def lines_out(self, batch: bytearray) -> None:
        """Check lines as they are written."""
        self._produced += batch
        try:
            if not batch.endswith(b"\n"):
                raise Violation(f"half a line is written: {shown(batch[-160:])}")
            for line in bytes(batch).splitlines():
                self._line(line)
        except Exception as exc:  # noqa: BLE001 - told by the world: the plugin has nets
            self.world.fail(exc)

    def _line(self, line: bytes) -> None:
        self.world.note("host", f"< {shown(line)}")
        message = decode(line)
        self.checker.line(message)
        if "event" in message:
            payload = message["payload"]
            self.on_event(payload["id"], payload["name"], payload["payload"])
        else:
            self.on_answer(message)

    def _received(self, data: bytes) -> None:
        """Compare what has come through the pipe with what was written into it."""
        end = self._arrived + len(data)
        if self._produced[self._arrived : end] != data:
            self.world.fail(Violation(f"the pipe brought {shown(data)} in place of what was sent"))
        self._arrived = end

    def forget_unread(self) -> None:
        """Expect no answers to what the plugin has not read."""
        for request in self._written:
            if "id" in request or "codes" in request:
                self.checker.forget(request)

    @property
    def missing(self) -> int:
        """How many bytes that the plugin wrote have not come."""
        return len(self._produced) - self._arrived
