"""What goes with the folder: archive, sums, licenses, bill of materials, package for npm."""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tarfile
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Component = tuple[str, str, str]
"""Name, version, and package URL (purl-spec), which may be empty."""


def pack(folder: Path, *, as_zip: bool) -> Path:
    """Make the archive of a folder, beside it."""
    # Not with_suffix(): the name ends with a version.
    archive = folder.parent / (folder.name + (".zip" if as_zip else ".tar.xz"))
    # SOURCE_DATE_EPOCH: reproducible-builds.org/specs/source-date-epoch
    now = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if as_zip:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as zipped:
            for file in files:
                name = str(file.relative_to(folder.parent))
                entry = zipfile.ZipInfo(name, time.gmtime(now)[:6])
                zipped.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
        return archive

    def of_nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = now
        entry.mode = 0o755 if entry.mode & 0o100 else 0o644
        return entry

    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for file in files:
            packed.add(file, file.relative_to(folder.parent), filter=of_nobody)
    return archive


def write_sums(target: Path, files: Iterable[Path]) -> None:
    """Write SHA-256 sums in the way of ``sha256sum``, of files that lie beside them."""
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    target.write_text("".join(lines))


def copy_licenses(packages: Sequence[Path], others: Mapping[str, Path], target: Path) -> None:
    """Copy the licenses of the packages below some folders, and others by name."""
    for name, file in others.items():
        (target / name).mkdir(parents=True)
        shutil.copyfile(file, target / name / file.name)
    for distribution in importlib.metadata.distributions(path=[str(path) for path in packages]):
        for path in distribution.files or ():
            if re.search("licen[cs]e|copying|notice", path.name, re.IGNORECASE):
                folder = target / distribution.name
                folder.mkdir(exist_ok=True)
                shutil.copyfile(str(distribution.locate_file(path)), folder / path.name)


def components(packages: Sequence[Path], python: str, folder: Path) -> list[Component]:
    """List what the folder has from others."""
    found = [("CPython", python, f"pkg:generic/cpython@{python}")]
    for distribution in importlib.metadata.distributions(path=[str(path) for path in packages]):
        name = distribution.name.lower().replace("_", "-")
        found.append((name, distribution.version, f"pkg:pypi/{name}@{distribution.version}"))
    for file in sorted(folder.rglob("libcrypto*")):
        # The words of OpenSSL_version(3), which are in the library as they are.
        if version := re.search(rb"OpenSSL (\d+\.\d+\.\d+)", file.read_bytes()):
            number = version[1].decode()
            found.append(("OpenSSL", number, f"pkg:generic/openssl@{number}"))
    return sorted(found)


def write_sbom(target: Path, version: str, parts: Iterable[Component]) -> Path:
    """Write a bill of materials: CycloneDX 1.5, JSON."""

    def component(kind: str, name: str, version: str, purl: str) -> dict[str, Any]:
        return {"type": kind, "name": name, "version": version, "purl": purl, "bom-ref": purl}

    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": component(
                "application", "wsplugin", version, f"pkg:pypi/wsplugin@{version}"
            )
        },
        "components": [component("library", *part) for part in parts],
    }
    target.write_text(json.dumps(bill, indent=2) + "\n")
    return target


def npm_package(folder: Path, target: Path, version: str, os: str, cpu: str) -> Path:
    """Make the package for npm that the package ``wsplugin`` finds the executable in."""
    package = target / "@wsplugin" / f"{os}-{cpu}"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(folder, package / "bin")
    manifest = {
        "name": f"@wsplugin/{os}-{cpu}",
        "version": version,
        "description": f"The plugin wsplugin with all that it needs, for {os} on {cpu}",
        "license": "MIT",
        "os": [os],
        "cpu": [cpu],
        **({"libc": ["glibc"]} if os == "linux" else {}),
        "files": ["bin"],
        # So that the package wsplugin can find the folder that this file is in.
        "exports": {"./package.json": "./package.json"},
        "preferUnplugged": True,
    }
    (package / "package.json").write_text(json.dumps(manifest, indent=2) + "\n")
    (package / "README.md").write_text(
        f"# @wsplugin/{os}-{cpu}\n\nInstalled by the package `wsplugin`, which has a README.\n"
    )
    return package
