"""Modules that libraries import and a plain connection never uses: loaded when first used.

Only for the command, which has its process to itself. Without them a process that opens one
connection takes 258 in place of 388 million instructions (Python 3.11, counted with callgrind) and
18 in place of 27 MiB.
"""

import os
import sys
from types import ModuleType
from typing import Any, Final

# Imported by asyncio, the modules that it imports, msgspec and websockets.
UNUSED: Final = (
    "asyncio.base_subprocess",
    "asyncio.runners",
    "asyncio.sslproto",
    "asyncio.staggered",
    "asyncio.streams",
    "asyncio.subprocess",
    "http",
    "importlib.metadata",
    "inspect",
    "ipaddress",
    "locale",
    "msgspec.inspect",
    "platform",
    "random",
    "secrets",
    "ssl",
    "subprocess",
    "textwrap",
    "tokenize",
    "urllib.request",
)
# Where a module is reached as an attribute of its package; others only say "from . import".
PARENTS: Final = ("importlib", "urllib")
# What is asked of them all the same, and can be answered without them.
ANSWERS: Final[dict[str, dict[str, Any]]] = {
    # asyncio takes all their names for its own; the plugin asks it for none of these.
    "asyncio.runners": {"__all__": ()},
    "asyncio.streams": {"__all__": ()},
    "asyncio.subprocess": {"__all__": ()},
    # asyncio derives a class from it, of which it makes objects for child processes only.
    "asyncio.base_subprocess": {"BaseSubprocessTransport": object},
    # websockets names it in a type.
    "http": {"HTTPStatus": int},
    # asyncio asks whether a socket is one of these; without the module it cannot be.
    "ssl": {"SSLSocket": type("SSLSocket", (), {})},
    # websockets draws masks and keys with it; with a number it is the same.
    "secrets": {"token_bytes": os.urandom},
    # uuid asks for the system's name; so does platform, on POSIX.
    "platform": {"system": lambda: os.uname().sysname},
}


class LazyModule(ModuleType):
    """Stands in for a module until something is asked of it.

    Not ``importlib.util.LazyLoader``, which loads the module at the second ``import`` already.
    """

    def __getattr__(self, name: str) -> Any:
        import importlib

        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        module = importlib.import_module(self.__name__)
        self.__dict__.update(module.__dict__)
        return getattr(module, name)


def defer_imports() -> None:
    """Put stand-ins in the place of modules that have not been imported."""
    for name in UNUSED:
        if name in sys.modules:
            continue
        sys.modules[name] = module = LazyModule(name)
        if os.name == "posix":
            module.__dict__.update(ANSWERS.get(name, {}))
        parent, _, child = name.rpartition(".")
        if parent in PARENTS:
            setattr(__import__(parent), child, module)
    # msgspec asks for it and does without: looking in vain on the whole path takes longer than
    # most imports, and loading it where some other program has installed it five times as long.
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
    if "hashlib" not in sys.modules:
        # The opening handshake needs SHA-1; for that hashlib would load all of OpenSSL.
        try:
            _sha1 = __import__("_sha1")
        except ImportError:
            return  # Python can be built without
        sys.modules["hashlib"] = hashes = LazyModule("hashlib")
        hashes.__dict__["sha1"] = _sha1.sha1
