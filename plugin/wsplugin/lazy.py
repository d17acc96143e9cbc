"""Modules that libraries import and a plain connection never uses: loaded when first used.

Only for the command, which has its process to itself. Without them its imports take 465 in place
of 557 million instructions (Python 3.11, counted with callgrind) and 24 in place of 28 MiB.
"""

import sys
from types import ModuleType
from typing import Any, Final

# asyncio imports ssl and inspect, websockets imports the other two.
UNUSED: Final = ("inspect", "importlib.metadata", "urllib.request", "ssl", "asyncio.sslproto")
# Where a module is reached as an attribute of its package; asyncio only says "from . import".
PARENTS: Final = ("importlib", "urllib")


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
        parent, _, child = name.rpartition(".")
        if parent in PARENTS:
            setattr(__import__(parent), child, module)
    # The opening handshake needs SHA-1; for that hashlib would load all of OpenSSL.
    if "_hashlib" not in sys.modules:
        try:
            __import__("_sha1")  # Python can be built without
        except ImportError:
            return
        sys.modules["_hashlib"] = None  # type: ignore[assignment]
