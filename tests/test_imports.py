"""Imports run one way, and what is not needed before the first line is not imported before it."""

import ast
import os
import sys
from pathlib import Path

import pytest

import wsplugin
from harness import TEXT, Listener, Plugin, close_frame, frame
from wsplugin.lazy import UNUSED

PACKAGE = Path(wsplugin.__file__).parent

# A module may import from those of the rows above it, never from its own row or below.
ORDER = [
    ["__init__"],
    ["messages"],
    ["mistakes", "encoding"],
    ["decoding"],
    ["settings", "transcript", "log", "compression"],
    ["policy", "record", "replay"],
    ["stdio"],
    ["connection"],
    ["wire"],
    ["opening"],
    ["manager"],
    ["session"],
    ["schema"],
    ["options", "lazy"],
    ["cli"],
    ["__main__"],
]
# What the order leaves to be said: for types alone, and at run time from inside a function so
# that the network libraries are not loaded before there is a connection.
FOR_TYPES = {("connection", "wire")}
LATE = {
    ("connection", "opening"),
    # The package's public names, for a host that runs the plugin on a thread.
    ("__init__", "session"),
    ("__init__", "settings"),
}
LIBRARIES = {
    "msgspec": {
        "messages",
        "mistakes",
        "encoding",
        "decoding",
        "settings",
        "schema",
        "transcript",
        "record",
        "replay",
    },
    "websockets": {"compression", "wire", "opening"},
}


def rank(module: str) -> int:
    for number, row in enumerate(ORDER):
        if module in row:
            return number
    pytest.fail(f"{module}.py has no place in the order of imports")


def imports(module: str) -> list[tuple[str, str]]:
    """Return (imported module, where) for each import of one module.

    Where is ``top`` (run when the module is), ``late`` (inside a function) or ``types``.
    """
    found: list[tuple[str, str]] = []

    def visit(node: ast.AST, where: str) -> None:
        match node:
            case ast.Import():
                found.extend((alias.name, where) for alias in node.names)
            case ast.ImportFrom(module=str(name), level=0):
                if name == "wsplugin":
                    found.extend((f"wsplugin.{alias.name}", where) for alias in node.names)
                else:
                    found.append((name, where))
            case ast.ImportFrom():
                pytest.fail(f"{module}.py: a relative import")
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for statement in node.body:
                    visit(statement, "types")
                for statement in node.orelse:
                    visit(statement, where)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                for child in ast.iter_child_nodes(node):
                    visit(child, "late" if where == "top" else where)
            case _:
                for child in ast.iter_child_nodes(node):
                    visit(child, where)

    visit(ast.parse((PACKAGE / f"{module}.py").read_text()), "top")
    return found


def ours(module: str) -> list[tuple[str, str]]:
    """Return the imports from within the package."""
    return [
        # "from wsplugin import __version__" is an import of __init__.py.
        (name if (PACKAGE / f"{name}.py").exists() else "__init__", where)
        for imported, where in imports(module)
        if imported.startswith("wsplugin.")
        for name in [imported.split(".")[1]]
    ]


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    rank(module)
    for imported, where in ours(module):
        if where == "types" or (where == "late" and (module, imported) in LATE):
            continue
        assert rank(imported) < rank(module), f"{module} imports {imported}"


def test_exceptions_from_the_order_are_the_known_ones() -> None:
    for module in MODULES:
        for imported, where in ours(module):
            if rank(imported) >= rank(module) and where == "late":
                assert (module, imported) in LATE


def test_no_cycle_at_import() -> None:
    remaining = {
        module: {name for name, where in ours(module) if where == "top"} - {"__init__"}
        for module in MODULES
    }
    while remaining:
        ready = [module for module, needs in remaining.items() if not needs & remaining.keys()]
        assert ready, f"a cycle: {remaining}"
        for module in ready:
            del remaining[module]


@pytest.mark.parametrize("library", LIBRARIES)
def test_only_these_know_the_library(library: str) -> None:
    users = {
        module
        for module in MODULES
        if any(
            imported.split(".")[0] == library and where == "top"
            for imported, where in imports(module)
        )
    }
    assert users <= LIBRARIES[library]


def test_no_library_but_the_two() -> None:
    used = {imported.split(".")[0] for module in MODULES for imported, _ in imports(module)}
    assert used - {"wsplugin"} - set(sys.stdlib_module_names) == {"msgspec", "websockets"}


# --- the start ----------------------------------------------------------------------------------

# Imports of network libraries wait for a byte on descriptor 'gate'; at its end they fail.
GATED = """
import os, sys
class Gate:
    def find_spec(self, name, path=None, target=None):
        if name in {network!r}:
            print("waiting for", name, file=sys.stderr, flush=True)
            os.read({gate}, 1) or os._exit(99)
sys.meta_path.insert(0, Gate())
from wsplugin.cli import main
main([])
"""
NETWORK = ("websockets", "urllib.request", "http.client", "zlib")


@pytest.mark.skipif(sys.platform == "win32", reason="hands a descriptor over by number")
def test_bad_lines_are_answered_before_a_network_library_is_loaded() -> None:
    gate, opener = os.pipe()
    code = GATED.format(network=NETWORK, gate=gate)
    with Plugin(command=[sys.executable, "-c", code], pass_fds=[gate]) as plugin:
        for line, error in [
            (b"x", "invalid-json"),
            (b"[]", "invalid-request"),
            (b'{"id":1,"action":"x"}', "unknown-action"),
            (b'{"action":"websocket-create","payload":{"url":"http://x"}}', "invalid-payload"),
            (b'{"action":"websocket-create","payload":{"url":"ws://x.y"}}', "forbidden"),
            (b'{"action":"websocket-close","payload":{"id":"ws-1"}}', "unknown-id"),
        ]:
            plugin.write(line + b"\n")
            assert plugin.read()["error"]["code"] == error
        plugin.request("plugin-describe")
        plugin.request("app-background")
        os.close(opener)
    os.close(gate)


TIMED = [sys.executable, "-X", "importtime", "-m", "wsplugin"]


def loaded(plugin: Plugin) -> set[str]:
    """Return the modules that a plugin run as TIMED has imported."""
    return {
        line.rsplit("|")[-1].strip()
        for line in plugin.stderr.decode().splitlines()
        if line.startswith("import time:")
    }


def test_a_session_without_connections_loads_no_network_library() -> None:
    with Plugin(command=TIMED) as plugin:
        plugin.request("plugin-describe")
        plugin.finish()
    modules = loaded(plugin)
    assert "wsplugin.manager" in modules
    # Nor what only options, errors and the schema need.
    for name in (*NETWORK, "wsplugin.wire", "wsplugin.opening", "argparse", "wsplugin.options"):
        assert name not in modules
    assert "wsplugin.mistakes" not in modules


def test_a_plain_connection_loads_nothing_that_it_does_not_use() -> None:
    with Listener() as listener, Plugin(command=TIMED) as plugin:
        id, peer = listener.open(plugin)
        with peer:
            plugin.request("websocket-send", {"id": id, "type": "text", "data": "x"})
            peer.send(frame(TEXT, b"y") + close_frame())
            peer.expect_close()
        assert [name for name, _ in plugin.events_to_close(id)] == ["message", "close"]
        plugin.finish()
    modules = loaded(plugin)
    assert "wsplugin.wire" in modules
    assert modules & {*UNUSED, "_ssl"} == set()
