"""The stream to the host over a sink that is played."""

import asyncio
from collections.abc import Callable

import pytest

from virtual_time import run
from wsplugin.output import HIGH_WATER, LOW_WATER, Output


class Played:
    """A sink that takes everything later, and writes when it is told to."""

    def __init__(self) -> None:
        self.waiting = 0
        self.level = -1
        self._on_written: Callable[[], None]

    def start(self, on_written: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self._on_written = on_written

    def write_now(self, data: bytearray) -> int:
        return 0

    def write_later(self, batch: bytearray) -> None:
        self.waiting += len(batch)

    def notify_at(self, level: int) -> None:
        self.level = level

    def close(self) -> None:
        self.waiting = 0

    def write(self, size: int) -> None:
        """Write so many bytes, as the thread does: whoever wants to know learns it in a moment."""
        self.waiting -= size
        if self.waiting <= self.level:
            self.level = -1
            asyncio.get_running_loop().call_soon(self._on_written)


async def fill(output: Output) -> None:
    """Add lines until the output is full."""
    output.write(bytes(HIGH_WATER) + b"\n")
    await asyncio.sleep(0)
    assert output.full


@pytest.mark.parametrize("late", [0, 1, LOW_WATER])
def test_it_drains_though_lines_come_at_the_very_moment(late: int) -> None:
    """Between the thread's word that the host has read and the turn in which it is heard."""

    async def main() -> None:
        drained: list[bool] = []
        sink = Played()
        loop = asyncio.get_running_loop()
        output = Output(sink, loop, on_drained=lambda: drained.append(True), on_gone=lambda: None)
        await fill(output)
        sink.write(sink.waiting - LOW_WATER)
        if late:
            output.write(bytes(late - 1) + b"\n")
            output.flush()
        await asyncio.sleep(0)
        assert output.full == bool(late)
        sink.write(sink.waiting)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not output.full
        assert drained == [True]

    run(main())
