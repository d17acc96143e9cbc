"""Plugins that are lent to one test after another."""

import contextlib
from collections.abc import Iterator
from typing import Self

from harness import Plugin


class Pool:
    """Plugins that many tests share, by their options: a start takes a third of a second."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, ...], Plugin] = {}

    @contextlib.contextmanager
    def lend(self, *options: str) -> Iterator[Plugin]:
        """Lend a plugin without connections; nothing may be left of them when it is given back."""
        plugin = self._idle.pop(options, None) or Plugin(*options)
        try:
            yield plugin
            assert plugin.request("app-background", id="end") == {"id": "end", "response": {}}
        except BaseException:
            plugin.kill()
            raise
        self._idle[options] = plugin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.ExitStack() as stack:
            for plugin in self._idle.values():
                stack.callback(plugin.end)
