"""What the folder's executable imports first: it finds all other modules in one file.

freeze-core's executable (its ``bases/_common.c`` and ``initscripts/__startup__.py``) imports
``__init__wsplugin`` from its folder ``lib``, and calls ``run``. build.py puts this file there under
that name. The search on a path that it stands in for takes a sixth of the time of a start.
"""

import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from marshal import loads

# Only what is in the executable itself can be imported before the modules can be found.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

LIB = os.path.join(sys.prefix, "lib")  # noqa: PTH118 (pathlib is not imported in a start)


class Modules:
    """Finds and loads the modules of the file that build.py's ``write_modules`` writes."""

    def __init__(self, path: str) -> None:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            head = file.read(8)
            size = int.from_bytes(head, "little")
            self._index: dict[str, str | tuple[int, int, bool]] = loads(file.read(size))  # noqa: S302
            sys.meta_path.insert(0, self)
            import mmap

            # Mapped, and not read: its pages are shared by all plugins that run. And no descriptor
            # is kept, which may have the number of a standard stream that the host has closed.
            if sys.version_info >= (3, 13) and sys.platform != "win32":
                everything = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, trackfd=False)
            else:
                everything = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._code = memoryview(everything)[8 + size :]

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find a module by its full name; None if it is not one of the folder's."""
        match self._index.get(name):
            case None:
                return None
            case str(place):
                origin = os.path.join(LIB, place)  # noqa: PTH118
                return ModuleSpec(name, ExtensionFileLoader(name, origin), origin=origin)
            case _, _, is_package:
                return ModuleSpec(name, self, is_package=is_package)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of the module to Python."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run the code of a module."""
        assert module.__spec__
        entry = self._index[module.__spec__.name]
        assert isinstance(entry, tuple)
        offset, size, _ = entry
        exec(loads(self._code[offset : offset + size]), module.__dict__)  # noqa: S102, S302


def run(name: str) -> None:
    """Run the plugin."""
    Modules(os.path.join(LIB, "modules"))  # noqa: PTH118
    import signal

    if sys.platform != "win32":
        # As Python does it where it is not isolated: a host that is gone is an error to handle.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    from wsplugin.cli import main

    main()
