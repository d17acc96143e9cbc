"""Imports run one way, and what is not needed before the first line is not imported before it."""

import ast
import graphlib
import os
import sys
from pathlib import Path

import pytest

import wsplugin
from harness import TEXT, Listener, Plugin, close_frame, frame
from wsplugin.lazy import UNUSED

PACKAGE = Path(wsplugin.__file__).parent

# Rooms that do no I/O, and what of ours they may know.
PURE: dict[str, set[str]] = {
    "messages": set(),
    "lines": {"messages", "mistakes"},
    "requests": {"messages"},
    "places": set(),
    "turns": {"messages"},
    "deadline": {"network.keepalive"},
    "outcome": {"encoding", "messages"},
    "network.frames": {"messages", "network.inbox"},
    "network.inbox": set(),
    "network.outbox": {"messages"},
    "network.keepalive": set(),
    "network.milestones": {"messages"},
    "network.pins": set(),
    "network.response": set(),
    "network.words": set(),
    "network.compression": set(),
    "certify.script": {"schema"},
    "recording.placeholders": set(),
    "recording.redaction": {"messages", "recording.placeholders"},
    "recording.transcript": {"recording.placeholders"},
}
LIBRARIES = {
    "msgspec": {
        "messages",
        "requests",
        "manager",
        "mistakes",
        "encoding",
        "decoding",
        "settings",
        "schema",
        "connection",
        "network.names",
        "network.keepalive",
        "network.outbox",
        "network.reading",
        "outcome",
        "recording.placeholders",
        "recording.transcript",
        "recording.redaction",
        "recording.replay",
        "certify.answering",
        "certify.calling",
        "certify.dying",
        "certify.fake",
        "certify.running",
        "certify.script",
        "certify.stage",
    },
    "websockets": {
        "network.compression",
        "network.exchange",
        "network.frames",
        "network.heartbeat",
        "network.opening",
        "network.response",
        "network.socks",
        "network.wire",
    },
    "python_socks": {"network.socks"},
    "idna": set(),  # imported with the first international name
}


MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py" or path.parent == PACKAGE
)


def path_of(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


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
                found.extend(
                    (f"{name}.{alias.name}" if name.split(".")[0] == "wsplugin" else name, where)
                    for alias in node.names
                )
            case ast.ImportFrom():
                pytest.fail(f"{module}: a relative import")
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

    visit(ast.parse(path_of(module).read_text()), "top")
    return found


def ours(module: str) -> set[str]:
    """Return the modules of the package that one of them imports, wherever it does."""
    found = set()
    for imported, _ in imports(module):
        name, _, member = imported.removeprefix("wsplugin.").rpartition(".")
        if imported.startswith("wsplugin."):
            # "from wsplugin import serve" is an import of __init__.py.
            whole = f"{name}.{member}" if name else member
            found.add(whole if whole in MODULES else name or "__init__")
    return found


def test_imports_make_no_circle() -> None:
    graph = {module: ours(module) for module in MODULES}
    assert {name for names in graph.values() for name in names} <= set(MODULES)
    # Those for type checkers and those inside functions included; it raises CycleError.
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_the_pure_rooms_import_little(module: str) -> None:
    if module in PURE:
        assert ours(module) <= PURE[module]
        libraries = {name.split(".")[0] for name, _ in imports(module)} - {"wsplugin"}
        assert not libraries & {"asyncio", "socket", "threading", "select", "ssl"}


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
    assert used - {"wsplugin"} - set(sys.stdlib_module_names) == set(LIBRARIES)


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
    for name in (
        *NETWORK,
        "wsplugin.network.wire",
        "wsplugin.network.opening",
        "argparse",
        "wsplugin.options",
        "wsplugin.parent",
        "wsplugin.certify",
    ):
        assert name not in modules
    # But for what explains them, since no file may be left to open when the first one is made.
    assert "wsplugin.mistakes" in modules


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
    assert "wsplugin.network.wire" in modules
    assert modules & {*UNUSED, "_ssl"} == set()
