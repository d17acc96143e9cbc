"""`python tests/benchmark`: what a message costs in wsplugin, and in its peers.

Plugins take turns, workload by workload and round by round, so that whatever else the machine
does meets all of them alike: only the ratios within one run mean anything. Linux only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from loopback import LoopbackServer, flood_block
from measurements import Metrics, Plugin, describe, measure
from peer_commands import PEER_MAKERS, PeerMissing
from plugin_process import PluginError
from report import FLOOR, plot, ratios, table
from workloads import WORKLOADS, Workload

try:
    from floor import cpu_per_message
except ImportError as error:
    no_floor = f"{error.name} is not installed"
else:
    no_floor = ""

STARTS = 5  # in one round: they are short, and noisier than the rest


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def arguments() -> argparse.Namespace:
    """The options, with `plugins` and `workloads` as what is left of all of them."""
    parser = argparse.ArgumentParser(prog="python tests/benchmark", description=__doc__)
    option = parser.add_argument
    option("--rounds", type=int, default=5, metavar="N", help="default: 5")
    option("--quick", action="store_true", help="one round with a tenth of the messages")
    only = "a workload or a plugin, instead of all of them; repeatable"
    option("--only", action="append", default=[], metavar="NAME", help=only)
    plugin = "one more plugin, or wsplugin=COMMAND instead of the installed one; repeatable"
    option("--plugin", action="append", default=[], metavar="NAME=COMMAND", help=plugin)
    option("--against", default="node", metavar="NAME", help="whose cost is 1; default: node")
    option("--json", action="store_true", help="print JSON instead of a table")
    option("--plot", type=Path, metavar="FILE.svg", help="write a bar chart of the ratios")
    options = parser.parse_args()

    options.commands = {"wsplugin": [sys.executable, "-m", "wsplugin"]}
    for item in options.plugin:
        name, _, command = item.partition("=")
        options.commands[name] = shlex.split(command)
    plugins = [*options.commands, *PEER_MAKERS]
    workloads = [workload.name for workload in WORKLOADS]
    if unknown := {options.against, *options.only}.difference(plugins, workloads):
        parser.error(f"no {', '.join(unknown)} among {', '.join(plugins + workloads)}")
    chosen = set(options.only).intersection(plugins) or set(plugins)
    options.plugins = [name for name in plugins if name in chosen | {options.against}]
    chosen = set(options.only).intersection(workloads) or set(workloads)
    options.workloads = [workload for workload in WORKLOADS if workload.name in chosen]
    if options.quick:
        options.rounds = 1
        options.workloads = [
            dataclasses.replace(workload, count=max(workload.count // 10, 20))
            for workload in options.workloads
        ]
    return options


def find_plugins(names: Sequence[str], commands: dict[str, list[str]]) -> dict[str, Plugin]:
    """The plugins to measure. A peer may be missing, and that is said; others may not."""
    found = {}
    for name in names:
        try:
            if name in commands:
                found[name] = describe(commands[name])
            else:
                found[name] = describe(*PEER_MAKERS[name]())
        except PeerMissing as error:
            say(f"{name} is left out: {error}")
        except (PluginError, OSError, ValueError) as error:
            sys.exit(f"{name} does not run: {error}")
    return found


def machine_line(plugins: dict[str, Plugin]) -> str:
    """The machine, its load, and what the plugins run on."""
    model = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    parts = [
        model[0] if model else platform.machine(),
        f"{os.cpu_count()} cores",
        f"load {os.getloadavg()[0]:.2f}",
        f"Python {platform.python_version()}",
    ]
    if not no_floor:
        parts += [f"{package} {version(package)}" for package in ("websockets", "msgspec")]
    versions = [plugin.version for plugin in plugins.values()]
    return ", ".join(dict.fromkeys(part for part in parts + versions if part))


class Samples:
    """What was measured, by plugin and workload."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[str, list[Metrics]]] = {}
        self.failures = 0

    def take_turns(self, plugins: dict[str, Plugin], workload: Workload, server: str) -> None:
        """Measures every plugin once, and the floor."""
        for name, plugin in plugins.items():
            if workload.kind == "base64" and not plugin.extended:
                continue
            try:
                self._add(name, workload, measure(plugin, workload, server))
            except (PluginError, OSError, ValueError, LookupError) as error:
                say(f"{name} failed at {workload.name}: {error}")
                self.failures += 1
        if workload.measure == "flood" and not no_floor:
            block, _ = flood_block(workload)
            cpu = cpu_per_message(workload.kind, block, workload.count)
            self._add(FLOOR, workload, {"cpu": cpu})

    def _add(self, name: str, workload: Workload, metrics: Metrics) -> None:
        self.taken.setdefault(name, {}).setdefault(workload.name, []).append(metrics)

    def medians(self) -> dict[str, dict[str, Metrics]]:
        return {
            name: {
                workload: {key: statistics.median(one[key] for one in taken) for key in taken[0]}
                for workload, taken in workloads.items()
            }
            for name, workloads in self.taken.items()
        }


def main() -> int:
    options = arguments()
    plugins = find_plugins(options.plugins, options.commands)
    if no_floor:
        say(f"the floor is left out: {no_floor}")
    machine = machine_line(plugins)
    if not options.json:
        sys.stdout.write(f"{machine}\n")
        sys.stdout.flush()
    samples = Samples()
    server = LoopbackServer()
    try:
        for turn in range(options.rounds):
            for workload in options.workloads:
                say(f"round {turn + 1} of {options.rounds}: {workload.name}")
                for _ in range(STARTS if workload.measure == "start" else 1):
                    samples.take_turns(plugins, workload, server.url)
    finally:
        server.close()

    medians = samples.medians()
    if options.json:
        report = {
            "machine": machine,
            "rounds": options.rounds,
            "against": options.against,
            "medians": medians,
            "ratios": ratios(medians, options.against),
            "over the floor": ratios(medians, FLOOR),
        }
        result = json.dumps(report, indent=2)
    else:
        result = table(medians, options.against)
    sys.stdout.write(f"{result}\n")
    if options.plot:
        options.plot.write_text(plot(medians, options.against, machine), encoding="utf-8")
    return 1 if samples.failures else 0


if __name__ == "__main__":
    sys.exit(main())
