"""The modules that the plugin can need, and the one file that holds their code."""

import importlib.machinery
import importlib.util
import marshal
from collections.abc import Collection, Iterator, Mapping, Sequence
from modulefinder import ModuleFinder
from pathlib import Path
from types import CodeType

Index = dict[str, str | tuple[int, int, bool]]
"""By a module's name: where an extension lies, or offset and size of code, and if a package's."""

# Imported by parts of the standard library that nothing here calls, or that do without. (Not
# `_pydecimal`, though `_decimal` is there: what is imported by C, only it shows.)
NEVER = (
    "_pyrepl",
    "_uuid",
    "bz2",
    "csv",
    "ctypes",
    "doctest",
    "ftplib",
    "lzma",
    "multiprocessing",
    "netrc",
    "pdb",
    "pickle",
    "plistlib",
    "pydoc",
    "statistics",
    "tarfile",
    "test",
    "tkinter",
    "tracemalloc",
    "unittest",
    "xml",
    "zipfile",
)


def find_modules(source: Path, path: Sequence[Path]) -> tuple[dict[str, Path], set[str]]:
    """Find all modules that the plugin's import, wherever in them.

    Args:
        source: the folder that holds the package ``wsplugin``.
        path: the folders that hold the others; with sources, or code of this version of Python.

    Returns:
        The files of those written in Python, and the names of those that are not, or not found.

    """
    finder = ModuleFinder([str(folder) for folder in (source, *path)], excludes=NEVER)
    for file in sorted((source / "wsplugin").rglob("*.py")):
        name = ".".join(file.relative_to(source).with_suffix("").parts)
        finder.import_hook(name.removesuffix(".__init__"))
    found = {name: getattr(module, "__file__", None) for name, module in finder.modules.items()}
    written = {
        name: Path(file) for name, file in found.items() if file and file.endswith((".py", ".pyc"))
    }
    return written, (set(found) | set(finder.badmodules)) - set(written) - set(NEVER)


def find_extensions(folder: Path, base: Path) -> Iterator[tuple[str, Path]]:
    """Find the extension modules below a folder, with their names as seen from a base."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".so", ".pyd"):
            yield ".".join([*file.relative_to(base).parent.parts, file.name.split(".")[0]]), file


def compile_module(file: Path, label: str) -> CodeType:
    """Return a module's code.

    The label is what tracebacks name in place of the file, which nobody has elsewhere.
    """
    if file.suffix == ".pyc":
        loader = importlib.machinery.SourcelessFileLoader("module", str(file))
        code = loader.get_code("module")
        assert code
        return code
    # Neither asserts nor docstrings are left out: the schema's descriptions are docstrings.
    return compile(file.read_bytes(), label, "exec", dont_inherit=True, optimize=0)


def write_modules(
    target: Path, written: Mapping[str, Path], extensions: Mapping[str, str], had: Collection[str]
) -> None:
    """Write the file that start.py reads.

    It holds the size of its index in eight bytes, little-endian; the index; and the code of all
    modules. Index and code are marshalled.

    Args:
        target: the file.
        written: modules written in Python.
        extensions: where the others lie, seen from the folder ``lib``.
        had: modules that the executable has in itself.

    """
    index: Index = dict(extensions)
    parts: list[bytes] = []
    offset = 0
    for name, file in sorted(written.items()):
        if name in had:
            continue
        is_package = file.stem == "__init__"
        # In brackets, or tracebacks would look for a source where the plugin runs.
        code = marshal.dumps(compile_module(file, f"<{name}>"))
        index[name] = (offset, len(code), is_package)
        parts.append(code)
        offset += len(code)
    head = marshal.dumps(index)
    target.write_bytes(b"".join([len(head).to_bytes(8, "little"), head, *parts]))


def write_pyc(target: Path, source: str) -> None:
    """Compile one module to a file of its own, which holds no time of its source."""
    code = compile(source, f"<{target.stem}>", "exec", dont_inherit=True, optimize=0)
    # PEP 552, a hash that is not checked: flags of 1, and no hash of a source that is not there.
    flags = (1).to_bytes(4, "little")
    target.write_bytes(importlib.util.MAGIC_NUMBER + flags + bytes(8) + marshal.dumps(code))
