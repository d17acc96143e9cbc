"""The class `WebSocket` of the npm package, case by case beside undici's."""

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from node_package import SOURCES, App

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("node"), reason="not on this machine: node"),
    pytest.mark.skipif(os.name != "posix", reason="the command of the plugin is a POSIX shell's"),
]

# In these the class may not depart from the standard at all: clients depend on them.
AS_THE_STANDARD = ("constructor: no", "constructor: a", "close", "protocols", "events", "send")


def table(heading: str) -> dict[str, list[str]]:
    """Return the rows of a table of the README, by their first cell."""
    text = (SOURCES / "README.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    return {row[0]: row[1:] for row in rows[2:]}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what came of each case, with each of the two."""
    app = App(tmp_path_factory.mktemp("w3c"))
    programs = {which: app.start("w3c_cases.mjs", which) for which in ("wsplugin", "undici")}
    found = {}
    for which, program in programs.items():
        with program:
            try:
                stdout, stderr = program.communicate(timeout=300)
            finally:
                program.kill()
        assert program.returncode == 0, stderr
        found[which] = json.loads(stdout)
    return found


def test_what_differs_is_in_the_readme_with_its_reason(results: dict[str, dict[str, Any]]) -> None:
    ours, theirs = results["wsplugin"], results["undici"]
    assert len(ours) > 100
    departures = table("Where the class departs from the standard")
    other = table("Where undici's does")
    differences = {name for name in ours if ours[name] != theirs[name]}
    assert differences == {*departures, *other}, [
        (name, ours[name], theirs[name]) for name in differences ^ {*departures, *other}
    ]
    assert not departures.keys() & other.keys()
    for row in (*departures.values(), *other.values()):
        assert len(row) == 3
        assert all(row)
    assert not [name for name in departures if name.startswith(AS_THE_STANDARD)]
    # A program that breaks must not pass for two that agree.
    assert not [name for name in ours if " at " in str(ours[name]) or "no end" in str(ours[name])]


def test_the_cases_that_differ_are_as_the_standard_says(
    results: dict[str, dict[str, Any]],
) -> None:
    ours = results["wsplugin"]
    refused = "DOMException InvalidAccessError"
    failed = [["error", 3], ["close", 3, 1006, "", False]]
    sent = ["nothing", len("before") + len("behind")]
    assert ours["constructor: user and password"] == [True, "Basic dXMgZXI6cGFzcw=="]
    octets = ours["constructor: user and password that decode to no text"]
    assert octets == "Basic " + base64.b64encode(b"%zz\xff:%").decode()
    assert ours["attributes: binaryType of Node"] == ["nodebuffer", "Buffer"]
    assert ours["end: a message of 17 MiB"] == [["open", 1], ["error", 3], ["close", 3]]
    assert ours["attributes: binaryType"] == ["blob", *["arraybuffer"] * 3, *["blob"] * 3]
    assert ours["send: a view of shared memory"] == "TypeError"
    assert ours["send: while closing"]["result"] == sent
    assert ours["send: when closed"] == [0, "nothing", 3]
    assert ours["close: an empty reason alone"]["frames"] == [[8, "03e8"]]
    assert ours["close: codes that may not be sent"] == [refused] * 13
    assert ours["close: while connecting"] == [[2, 0], failed]
    assert ours["close: while connecting, later"] == [[2, 0], failed]
    frames = ours["close: behind what was sent"]["frames"]
    assert frames[-2:] == [[2, b"last".hex()], [8, ""]]
    assert ours["events: a failure's"] == "Event"
    assert ours["events: on… keeps its place when replaced"] == ["second", "listener"]
    assert ours["events: what a listener has begun is done before the next"] == [
        "1",
        "1 done",
        "2",
        "2 done",
    ]


def test_the_version_is_the_plugins(tmp_path: Path) -> None:
    from wsplugin.version import __version__

    manifest = json.loads((SOURCES / "package.json").read_text(encoding="utf-8"))
    assert manifest["version"] == __version__
