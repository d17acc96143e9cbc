"""Plays the Autobahn TestSuite against the plugin, and compares case by case with what is expected.

The suite's fuzzing server plays a server; the plugin is its client, behind a pipe, and a host of a
few lines echoes what comes. See README.md beside this file.
"""

import argparse
import asyncio
import contextlib
import fnmatch
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
SUITE: Final = HERE / "suite"
"""Where the suite is installed, for a Python of its own; not in the repository."""
EXPECTED: Final = HERE / "expected-results.json"
REQUIREMENT: Final = "autobahntestsuite==0.8.2"
AGENT: Final = "wsplugin"
AT_ONCE: Final = 4
CASE_TIMEOUT: Final = 600.0
"""Seconds for one case: the longest take half a minute, on a busy machine many times that."""
LINE_LIMIT: Final = 2**27
"""Bytes of the longest line read."""
# The suite's way to run, without an environment of its own: the folder's .pth files count so.
RUN: Final = (
    "import site, sys; site.addsitedir(sys.argv.pop(1)); "
    "from autobahntestsuite.wstest import run; run()"
)

Result = dict[str, str]
"""`behavior` and `behaviorClose` of a case, and a sentence `why` where it is not OK."""


class Missing(Exception):
    """It cannot be run to its end; the text says why."""


def old_python() -> str:
    """Return a Python 2.7, which is what the suite is written in.

    Raises:
        Missing: there is none.

    """
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which("python2.7"), shutil.which("pypy"), shutil.which("python2")]
    found += [str(path) for path in versions.glob("2.7*/bin/python")]
    for program in filter(None, found):
        # A version manager's stand-in may be there without what it stands for.
        command = [program, "-c", "import pip, sys; sys.exit(sys.version_info[0] != 2)"]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return program
    raise Missing("the Autobahn TestSuite needs Python 2.7 or PyPy for it, and there is neither")


def install(python: str) -> None:
    """Install the suite for that Python, once."""
    if (SUITE / "autobahntestsuite").exists():
        return
    command = [python, "-m", "pip", "install", "--quiet", "--target", str(SUITE), REQUIREMENT]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(SUITE, ignore_errors=True)
        raise Missing(f"the Autobahn TestSuite cannot be installed: {done.stderr.strip()[-300:]}")


@contextlib.contextmanager
def fuzzing_server(python: str, cases: list[str], folder: Path) -> Iterator[str]:
    """Run the suite's server; give its URL. Reports go into the folder."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    spec = folder / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "url": url,
                "outdir": str(folder / "reports"),
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    command = [python, "-c", RUN, str(SUITE), "-m", "fuzzingserver", "-s", str(spec)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            end = time.monotonic() + 60
            while server.poll() is None and time.monotonic() < end:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)  # there is no other way to learn that another program listens
            else:
                words = (folder / "log").read_text(errors="replace")[-500:]
                raise Missing(f"the suite's server does not start: {words}")
            yield url
        finally:
            server.kill()
            server.wait()


class Host:
    """Echoes every message of every connection."""

    def __init__(self, plugin: asyncio.subprocess.Process) -> None:
        assert plugin.stdin
        assert plugin.stdout
        self._stdin, self._stdout = plugin.stdin, plugin.stdout
        self._created: list[asyncio.Future[str]] = []
        self._closed: dict[str, asyncio.Future[list[str]]] = {}
        self._texts: dict[str, list[str]] = {}

    def _write(self, action: str, payload: object, id: int | None = None) -> None:
        line = {"id": id, "action": action, "payload": payload}
        self._stdin.write(json.dumps(line).encode() + b"\n")

    async def run(self, url: str) -> list[str]:
        """Have a connection to its end; return the texts that came."""
        created: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._created.append(created)
        self._write("websocket-create", {"url": url, "binaryType": "base64"}, id=1)
        id = await created
        try:
            return await asyncio.wait_for(self._closed[id], CASE_TIMEOUT)
        except TimeoutError:
            raise Missing(f"no end of {url} within {CASE_TIMEOUT:g} s") from None

    async def read(self) -> None:
        """Read to the end."""
        while line := await self._stdout.readline():
            message = json.loads(line)
            if "event" not in message:
                self._answered(message)
                continue
            id, name, payload = (message["payload"][key] for key in ("id", "name", "payload"))
            if name == "message":
                if payload["type"] == "text":
                    self._texts[id].append(payload["data"][:100])
                self._write("websocket-send", {"id": id, **payload})
                # What the plugin writes meanwhile, asyncio reads: up to twice LINE_LIMIT.
                await self._stdin.drain()
            elif name == "close":
                self._closed[id].set_result(self._texts.pop(id))

    def _answered(self, message: Any) -> None:
        # Only a create has an id. A send may be refused, where the connection has failed since.
        if message.get("id") == 1:
            id = message["response"]["id"]
            self._closed[id] = asyncio.get_running_loop().create_future()
            self._texts[id] = []
            self._created.pop(0).set_result(id)


async def play(url: str) -> None:
    """Play all cases."""
    plugin = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsplugin", "--ping-interval", "0", "--proxy", "none"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_LIMIT,
    )
    host = Host(plugin)
    reader = asyncio.create_task(host.read())
    try:
        (count,) = await host.run(f"{url}/getCaseCount")
        numbers = iter(range(1, int(count) + 1))

        async def take() -> None:
            for number in numbers:
                await host.run(f"{url}/runCase?case={number}&agent={AGENT}")
                if number % 50 == 0:
                    sys.stderr.write(f"{number} of {count}\n")

        await asyncio.gather(*(take() for _ in range(AT_ONCE)))
        await host.run(f"{url}/updateReports?agent={AGENT}")
    finally:
        assert plugin.stdin
        plugin.stdin.close()
        try:
            await asyncio.wait_for(plugin.wait(), 10)
        except TimeoutError:
            plugin.kill()
        await reader


def results(folder: Path) -> dict[str, Result]:
    """Return what the suite's report says of each case."""
    report = json.loads((folder / "reports" / "index.json").read_text())[AGENT]
    return {
        case: {key: found[key] for key in ("behavior", "behaviorClose")}
        for case, found in sorted(report.items(), key=lambda item: by_number(item[0]))
    }


def by_number(case: str) -> list[int]:
    """Sort 10.1 behind 9.1."""
    return [int(part) for part in case.split(".")]


def compare(found: dict[str, Result], cases: list[str]) -> list[str]:
    """Return what differs from what is expected, in words; better is no difference."""
    expected: dict[str, Result] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    wanted = {
        case: {key: value for key, value in result.items() if key != "why"}
        for case, result in expected.items()
        if any(fnmatch.fnmatchcase(case, pattern) for pattern in cases)
    }
    words = [f"{case}: expected, and did not run" for case in wanted.keys() - found.keys()]
    for case, result in found.items():
        if case not in wanted:
            words.append(f"{case}: ran, and is not in {EXPECTED.name}")
        elif result != wanted[case] and set(result.values()) != {"OK"}:
            words.append(f"{case}: expected {wanted[case]}, came {result}")
    words += [
        f"{case}: {result['behavior']}, and no sentence says why"
        for case, result in expected.items()
        if set(result.values()) - {"OK"} and not result.get("why")
    ]
    return words


def main() -> int:
    """Do what the command line says; 0 if all is as expected, 1 if not, 3 if it cannot run."""
    parser = argparse.ArgumentParser(prog="python tests/conformance", description=__doc__)
    parser.add_argument("cases", nargs="*", default=["*"], help='such as "1.*"; all by default')
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the results as JSON")
    options = parser.parse_args()
    try:
        python = old_python()
        install(python)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with fuzzing_server(python, options.cases, folder) as url:
                asyncio.run(play(url))
            found = results(folder)
    except Missing as exc:
        sys.stdout.write(f"could not run: {exc}\n")
        return 3
    if options.write:
        options.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    counts: dict[str, int] = {}
    for result in found.values():
        counts[result["behavior"]] = counts.get(result["behavior"], 0) + 1
    differences = compare(found, options.cases)
    sys.stdout.write(
        "".join(f"{line}\n" for line in differences)
        + ", ".join(f"{count} {behavior}" for behavior, count in sorted(counts.items()))
        + (f"; {len(differences)} differ\n" if differences else "; all as expected\n")
    )
    return 1 if differences or not found else 0


if __name__ == "__main__":
    sys.exit(main())
