"""The plugin, with exceptions in its own code where nobody foresees any: run as a program.

Lines from the host that begin with ``!`` are for the faults, not for the plugin, and are answered
with the id ``!``:

- ``!{"target": "wsplugin.network.frames:Frames.take", "nth": 2, "after": false}`` has the
  second call of it raise, and those before and after it do what they do; ``after`` has it do its
  work first.
- ``!happened`` answers whether that has happened, and disarms it.
- ``!count`` begins to count calls of every function of the plugin, ``!counted`` answers how many
  there were.

What is raised has a text that nobody may see in a log.
"""

import functools
import importlib
import inspect
import json
import socket
import sys
import types
from collections.abc import Callable
from typing import Any, Final

SECRET: Final = "a text that must not be logged"
NAMES: Final = {"server.test": ["127.0.0.1"], "two.test": ["127.0.0.2", "127.0.0.1"]}
"""What the name server knows; nobody listens at 127.0.0.2."""

MODULES: Final = (
    "wsplugin.connection",
    "wsplugin.encoding",
    "wsplugin.manager",
    "wsplugin.places",
    "wsplugin.network.addresses",
    "wsplugin.network.compression",
    "wsplugin.network.exchange",
    "wsplugin.network.frames",
    "wsplugin.network.inbox",
    "wsplugin.network.keepalive",
    "wsplugin.network.names",
    "wsplugin.network.opening",
    "wsplugin.network.outbox",
    "wsplugin.network.proxies",
    "wsplugin.network.response",
    "wsplugin.network.wire",
)
"""Those whose functions are counted."""


class Patches:
    """What has been put in the place of functions, to be taken back."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def replace(self, target: str, wrap: Callable[[Any], Any]) -> None:
        """Put another function in the place of `target`, wherever it has been imported to."""
        module_name, _, path = target.partition(":")
        owner: Any = importlib.import_module(module_name)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original = vars(owner)[name]
        wrapped = wrap_any(original, wrap)
        self._set(owner, name, wrapped)
        if not parents:
            for module in list(sys.modules.values()):
                ours = getattr(module, "__name__", "").startswith("wsplugin.")
                if ours and vars(module).get(name) is original:
                    self._set(module, name, wrapped)

    def _set(self, owner: Any, name: str, value: Any) -> None:
        self._undo.append((owner, name, vars(owner)[name]))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put back what was there."""
        while self._undo:
            setattr(*self._undo.pop())


def wrap_any(original: Any, wrap: Callable[[Any], Any]) -> Any:
    """Wrap a function, whatever it is dressed as."""
    if isinstance(original, property):
        return property(wrap(original.fget))
    if inspect.isfunction(original) and hasattr(original, "__wrapped__"):
        # Below its net: what a net does itself is not what it is for.
        return type(original)(
            original.__code__,
            original.__globals__,
            original.__name__,
            original.__defaults__,
            tuple(
                types.CellType(wrap(original.__wrapped__))
                if cell.cell_contents is original.__wrapped__
                else cell
                for cell in original.__closure__ or ()
            ),
        )
    if isinstance(original, staticmethod):
        return staticmethod(wrap(original.__func__))
    return wrap(original)


def targets() -> list[str]:
    """Return all functions of the plugin's modules that have been imported."""
    found = []
    for module_name in MODULES:
        module = sys.modules.get(module_name)
        for name, value in vars(module).items() if module else ():
            if getattr(value, "__module__", None) != module_name and name not in (
                "encode",
                "encode_into",
            ):
                continue
            if inspect.isclass(value):
                found += [
                    f"{module_name}:{name}.{member}"
                    for member, function in vars(value).items()
                    if inspect.isfunction(function) or isinstance(function, property | staticmethod)
                    if not issubclass(value, BaseException)
                ]
            elif callable(value) and module_name == getattr(value, "__module__", module_name):
                found.append(f"{module_name}:{name}")
    return found


class Faults:
    """Carries out what the lines say."""

    def __init__(self) -> None:
        self._patches = Patches()
        self._happened = False
        self._counts: dict[str, int] = {}

    def line(self, text: str) -> Any:
        """Carry out one line; return what to answer."""
        match text:
            case "happened":
                self._patches.undo()
                return self._happened
            case "count":
                self._counts = {}
                for target in targets():
                    self._patches.replace(target, functools.partial(self._counting, target))
                return None
            case "counted":
                self._patches.undo()
                return self._counts
        fault = json.loads(text)
        self._happened = False
        self._calls = 0
        self._patches.replace(
            fault["target"],
            functools.partial(self._raising, fault["nth"], fault.get("after", False)),
        )
        return None

    def _counting(self, target: str, original: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self._counts[target] = self._counts.get(target, 0) + 1
            return original(*args, **options)

        return call

    def _raising(self, nth: int, after: bool, original: Any) -> Any:
        def is_due() -> bool:
            self._calls += 1
            return self._calls == nth

        def stumble() -> None:
            self._happened = True
            raise MemoryError(SECRET)

        def call(*args: Any, **options: Any) -> Any:
            due = is_due()
            if due and not after:
                stumble()
            result = original(*args, **options)
            if due:
                stumble()
            return result

        async def run(*args: Any, **options: Any) -> Any:
            due = is_due()
            if due and not after:
                stumble()
            result = await original(*args, **options)
            if due:
                stumble()
            return result

        return run if inspect.iscoroutinefunction(original) else call


def look_up(host: str, *args: Any, **options: Any) -> Any:
    """Stand in for the name server."""
    if host not in NAMES:
        return getaddrinfo(host, *args, **options)
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0)) for ip in NAMES[host]]


getaddrinfo = socket.getaddrinfo


def main() -> None:
    """Run the plugin with faults."""
    from wsplugin.lazy import defer_imports

    defer_imports()
    from wsplugin import cli
    from wsplugin.manager import Manager

    socket.getaddrinfo = look_up  # type: ignore[assignment]
    faults = Faults()
    handle = Manager.handle

    def handle_or_arm(self: Any, line: Any) -> None:
        if not isinstance(line, bytes | bytearray) or not line.startswith(b"!"):
            handle(self, line)
            return
        answer = faults.line(bytes(line[1:]).decode())
        self.output.write(json.dumps({"id": "!", "response": answer}).encode() + b"\n")

    Manager.handle = handle_or_arm  # type: ignore[method-assign]
    cli.main(sys.argv[1:])


if __name__ == "__main__":
    main()
