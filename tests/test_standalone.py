"""The folder that plugin/standalone/build.py makes: the plugin without Python.

Its builder is a Python 3.13: the one that runs the tests, or one on PATH or of pyenv's.
``WSPLUGIN_FOLDER`` names a folder that has been built before, with all that lies beside it.
"""

import hashlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from harness import Listener, Plugin, echo_server, environment
from tls_servers import Authority, accepting, tls_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the tests' own way of looking: ELF, /proc"),
]

REPOSITORY = Path(__file__).resolve().parent.parent
BUILD = REPOSITORY / "plugin" / "standalone" / "build.py"
INSTALLED = [sys.executable, "-m", "wsplugin"]
MIB = 2**20
TRANSCRIPTS_TIMEOUT = 600  # seconds


def python_3_13() -> str | None:
    """Find a Python 3.13."""
    roots = os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser())
    candidates = [sys.executable, shutil.which("python3.13")]
    candidates += map(str, sorted(Path(roots, "versions").glob("3.13.*/bin/python")))
    for candidate in filter(None, candidates):
        code = "import sys; sys.exit(sys.version_info[:2] != (3, 13))"
        if subprocess.run([candidate, "-c", code], stderr=subprocess.DEVNULL).returncode == 0:
            return candidate
    return None


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder."""
    if named := os.environ.get("WSPLUGIN_FOLDER"):
        return Path(named).resolve()
    python = python_3_13()
    if python is None:
        pytest.skip("building it takes a Python 3.13")
    dist = tmp_path_factory.mktemp("dist")
    command = [python, str(BUILD), "--dist", str(dist), "--npm"]
    built = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(built.stdout.strip()).parent


@pytest.fixture
def command(folder: Path) -> list[str]:
    """What starts the plugin that is in it."""
    return [str(folder / "wsplugin")]


def files(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert len(found) > 20
    return found


def archive(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.tar.xz"


# --- it is the plugin -------------------------------------------------------------------------


def test_transcripts_pass(command: list[str]) -> None:
    """All of them, and the tests of what goes with them."""
    tests = str(REPOSITORY / "tests" / "test_transcripts.py")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    variables = environment(WSPLUGIN_COMMAND=json.dumps(command))
    variables = {name: v for name, v in variables.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tests],
        cwd=REPOSITORY,
        env=variables,
        capture_output=True,
        timeout=TRANSCRIPTS_TIMEOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-5000:]


def test_it_prints_what_the_installed_command_prints(command: list[str]) -> None:
    for option in ("--schema", "--version"):
        printed = [
            subprocess.run([*start, option], check=True, capture_output=True).stdout
            for start in (command, INSTALLED)
        ]
        assert printed[0] == printed[1]


def test_wrong_options_are_status_2(command: list[str]) -> None:
    with Plugin("--max-connections", "0", command=command) as plugin:
        assert plugin.wait() == 2
    assert b"--max-connections" in plugin.stderr


def test_it_is_one_process(folder: Path, command: list[str]) -> None:
    """The one that the host sees and can kill; what it would leave behind, nobody would end."""
    with echo_server() as server, Plugin(command=command, env=environment()) as plugin:
        id = plugin.create(server.url)
        plugin.event(id, "open")
        process = Path("/proc", str(plugin.process.pid))
        assert (process / "exe").readlink() == folder / "wsplugin"
        children = (process / "task" / process.name / "children").read_text()
        assert children == ""


def test_it_can_have_another_name(folder: Path, tmp_path: Path) -> None:
    """A host may want its own name to stand in the list of processes."""
    copy = tmp_path / "folder"
    shutil.copytree(folder, copy)
    (copy / "wsplugin").rename(copy / "shop_network")
    with Plugin(command=[str(copy / "shop_network")]) as plugin:
        assert plugin.request("plugin-describe")["response"]["name"] == "wsplugin"


def test_python_of_the_environment_means_nothing(command: list[str], tmp_path: Path) -> None:
    """Else a variable that a user has set for another program could keep it from starting."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit('taken from PYTHONPATH')")
    variables = environment(PYTHONPATH=str(tmp_path), PYTHONHOME="/nowhere", PYTHONUTF8="0")
    with Plugin(command=command, env=variables, cwd=tmp_path) as plugin:
        assert "response" in plugin.request("plugin-describe")


def test_what_extras_bring_is_there(command: list[str]) -> None:
    """Nobody can install an extra into the folder."""
    with Plugin("--proxy", "socks5h://127.0.0.1:1", "--allow-insecure", command=command) as plugin:
        id = plugin.create("ws://bücher.example/")
        (_, error), (_, close) = plugin.events_to_close(id)
        assert error["code"] == "proxy-error"
        assert close["cause"] == "failure"


# --- it runs anywhere -------------------------------------------------------------------------


def test_it_needs_no_newer_glibc_than_2_17(folder: Path) -> None:
    needed = {
        tuple(map(int, version.split(b".")))
        for file in files(folder)
        if (data := file.read_bytes()).startswith(b"\x7fELF")
        for version in re.findall(rb"GLIBC_([0-9.]+[0-9])", data)
    }
    assert len(needed) > 3
    assert max(needed) <= (2, 17)


def test_nothing_of_the_machine_it_was_built_on_is_in_it(folder: Path) -> None:
    """Neither its roots, which only its owner trusts, nor its paths."""
    builder = Path(python_3_13() or sys.executable).parent.parent
    own = {str(path).encode() for path in (REPOSITORY, folder.parent, builder)}
    for file in files(folder):
        data = file.read_bytes()
        assert not re.search(rb"-----BEGIN CERTIFICATE-----\s+[A-Za-z0-9+/]{16}", data), file
        assert not [path for path in own if path in data], file
        assert file.suffix not in (".pem", ".crt")


@pytest.fixture
def empty_root(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A root with nothing but the folder, its C library, and the null device."""
    if os.geteuid() != 0 or not shutil.which("chroot"):
        pytest.skip("only root can change the root")
    root = tmp_path / "root"
    shutil.copytree(folder, root / "wsplugin")
    (root / "dev").mkdir()
    try:
        os.mknod(root / "dev" / "null", 0o020666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("root may make no devices here")
    listed = subprocess.run(
        ["ldd", str(folder / "wsplugin")], check=True, capture_output=True, text=True
    ).stdout
    for library in re.findall(r"(/\S+) \(0x", listed):
        target = root / library[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, target)
        target.chmod(0o755)
    yield root
    shutil.rmtree(root)


def within_root(root: Path, *options: str) -> Plugin:
    """Start the plugin within another root, and without any variable."""
    chroot = shutil.which("chroot")
    assert chroot
    return Plugin(*options, command=[chroot, str(root), "/wsplugin/wsplugin"], env={})


def test_it_runs_in_an_empty_root(empty_root: Path) -> None:
    with within_root(empty_root) as plugin, echo_server() as server:
        for deflate in (False, True):
            id = plugin.create(server.url, perMessageDeflate=deflate)
            plugin.event(id, "open")
            send = {"id": id, "type": "text", "data": "hi"}
            assert plugin.request("websocket-send", send)["response"] == {}
            assert plugin.event(id, "message")["data"] == "hi"


def test_without_roots_it_says_so_and_what_helps(empty_root: Path, authority: Authority) -> None:
    with within_root(empty_root) as plugin, Listener() as listener:
        id = plugin.create(listener.url.replace("ws:", "wss:"))
        (_, error), _ = plugin.events_to_close(id)
        assert error["code"] == "tls-error"
        assert "no roots were found" in error["errMsg"]
        assert "--ca-file" in error["errMsg"]


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param("etc/ssl/certs/ca-certificates.crt", id="Debian"),
        pytest.param("etc/pki/tls/certs/ca-bundle.crt", id="Fedora"),
        pytest.param("etc/ssl/ca-bundle.pem", id="openSUSE"),
    ],
)
def test_it_finds_the_roots_of_each_system(
    empty_root: Path, authority: Authority, bundle: str
) -> None:
    file = empty_root / bundle
    file.parent.mkdir(parents=True)
    shutil.copyfile(authority.file, file)
    act = accepting(authority.context("localhost"))
    with within_root(empty_root) as plugin, tls_server(act) as server:
        id = plugin.create(f"wss://localhost:{server.port}/")
        plugin.event(id, "open")


# --- it is small and fast ---------------------------------------------------------------------


def test_it_is_small(folder: Path) -> None:
    assert sum(file.stat().st_size for file in files(folder)) <= 25 * MIB
    assert archive(folder).stat().st_size <= 8 * MIB


def test_it_starts_faster_than_the_installed_command(command: list[str]) -> None:
    """In turns, and by processor time, so that what else the machine does meets both alike."""

    def cost(start: Sequence[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        line = b'{"id":1,"action":"plugin-describe"}\n'
        subprocess.run(start, check=True, input=line, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    ratios = [cost(command) / cost(INSTALLED) for _ in range(15)]
    assert statistics.median(ratios) <= 0.85


# --- what goes with it ------------------------------------------------------------------------


def check_sums(sums: Path) -> list[str]:
    """Check SHA-256 sums; return the names that they are of."""
    names = []
    for line in sums.read_text().splitlines():
        expected, name = line.split("  ")
        data = (sums.parent / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == expected, name
        names.append(name)
    return names


def test_sums_are_those_of_archive_and_bill(folder: Path) -> None:
    sums = folder.parent / f"{folder.name}.sha256"
    assert check_sums(sums) == [f"{folder.name}.cdx.json", archive(folder).name]


def test_the_archive_holds_the_folder(folder: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(archive(folder), tmp_path, filter="data")
    unpacked = tmp_path / folder.name

    def contents(base: Path) -> Mapping[str, bytes]:
        return {str(file.relative_to(base)): file.read_bytes() for file in files(base)}

    assert contents(unpacked) == contents(folder)
    with Plugin(command=[str(unpacked / "wsplugin")]) as plugin:
        assert "response" in plugin.request("plugin-describe")


def test_the_bill_of_materials_names_what_is_in_it(folder: Path) -> None:
    bill = json.loads((folder.parent / f"{folder.name}.cdx.json").read_text())
    versions = {part["name"]: part["version"] for part in bill["components"]}
    assert set(versions) == {
        *("CPython", "OpenSSL", "freeze-core", "idna", "msgspec", "python-socks", "websockets")
    }
    assert versions["CPython"].startswith("3.13.")
    assert re.fullmatch(r"3\.\d+\.\d+", versions["OpenSSL"])


def test_licenses_are_in_it(folder: Path) -> None:
    licensed = {file.parent.name for file in (folder / "licenses").glob("*/*")}
    assert licensed >= {"CPython", "idna", "msgspec", "python-socks", "websockets"}


def test_the_package_for_npm(folder: Path) -> None:
    (package,) = (folder.parent / "npm" / "@wsplugin").iterdir()
    manifest = json.loads((package / "package.json").read_text())
    assert manifest["name"] == f"@wsplugin/{package.name}"
    assert manifest["version"] in folder.name
    assert package.name == f"{manifest['os'][0]}-{manifest['cpu'][0]}"
    with Plugin(command=[str(package / "bin" / "wsplugin")]) as plugin:
        assert "response" in plugin.request("plugin-describe")
