"""The results for people: a table, and a plot in plain SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from workloads import WORKLOADS

FLOOR = "floor"
"""The name that stands beside the plugins' for the two libraries alone."""

TIMES = "\N{MULTIPLICATION SIGN}"

Results = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Medians by plugin, workload and metric, in seconds or bytes."""

WORDS = {
    "wall": "wall time",
    "cpu": "CPU time",
    "memory": "idle memory",
    "peak": "peak memory",
    "p50": "p50",
    "p99": "p99",
}
COLORS = ("#2f6fb5", "#d98324", "#5b9a4a", "#9a5bb0", "#b0534f", "#6b7280")
WIDTH, LEFT, TOP, BAR, GAP, LONGEST = 800, 265, 88, 13, 8, 380  # pixels


class Row(NamedTuple):
    """One metric of one workload, for every plugin that has it."""

    label: str
    values: dict[str, float]
    in_bytes: bool
    plotted: bool

    def ratio(self, plugin: str, against: str) -> float | None:
        if plugin == against or not {plugin, against} <= self.values.keys():
            return None
        return self.values[plugin] / self.values[against]

    def quantity(self, plugin: str) -> str:
        """The value with its unit, or nothing."""
        if plugin not in self.values:
            return ""
        value = self.values[plugin]
        if self.in_bytes:
            return f"{value / 2**20:.1f} MiB"
        return f"{value * 1e3:.2f} ms" if value >= 0.001 else f"{value * 1e6:.1f} µs"


def rows(results: Results) -> list[Row]:
    """All that was measured, in the order of the workloads."""
    found = []
    for workload in WORKLOADS:
        taken = {name: of.get(workload.name, {}) for name, of in results.items()}
        for metric, word in WORDS.items():
            values = {name: metrics[metric] for name, metrics in taken.items() if metric in metrics}
            label = f"{workload.name} {word}"
            in_bytes = metric in ("memory", "peak")
            if values:
                found.append(Row(label, values, in_bytes, metric in workload.plotted))
    return found


def ratios(results: Results, against: str) -> dict[str, dict[str, float]]:
    """Every value over that of one plugin, by row and plugin."""
    return {
        row.label: {name: ratio for name in results if (ratio := row.ratio(name, against))}
        for row in rows(results)
        if against in row.values
    }


def table(results: Results, against: str) -> str:
    """Every median with its ratio; below, the CPU time of the floods over the floor."""
    lines = [" " * 32 + "".join(f"{name:>20}" for name in results)]
    for row in rows(results):
        cells = ""
        for name in results:
            ratio = row.ratio(name, against)
            cells += f"{row.quantity(name):>12}" + (f"{ratio:>7.2f}{TIMES}" if ratio else " " * 8)
        lines.append(f"{row.label:32}{cells}")
    for label, over in ratios(results, FLOOR).items():
        cells = "".join(
            f"{over[name]:>19.2f}{TIMES}" if name in over else " " * 20 for name in results
        )
        lines.append(f"{label + ' / floor':32}{cells}")
    return "\n".join(line.rstrip() for line in lines)


def plot(results: Results, against: str, machine: str) -> str:
    """A bar chart of the ratios, with the figures beside the bars."""
    shown = [row for row in rows(results) if row.plotted and against in row.values]
    colors = dict(zip([n for n in results if n not in (against, FLOOR)], COLORS, strict=False))
    every = [row.ratio(name, against) or 0 for row in shown for name in colors]
    unit = LONGEST / max([1, *every])  # pixels of a ratio of 1
    y = TOP
    bars, figures = [], []
    for row in shown:
        label = escape(f"{row.label} ({row.quantity(against)})")
        figures.append(f'<text x="{LEFT - 8}" y="{y + 10}" text-anchor="end">{label}</text>')
        for name, color in colors.items():
            if ratio := row.ratio(name, against):
                width = ratio * unit
                box = f'x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 1}"'
                bars.append(f'<rect {box} fill="{color}"/>')
                figure = f"{ratio:.2f}{TIMES} ({row.quantity(name)})"
                figures.append(f'<text x="{LEFT + width + 5:.1f}" y="{y + 10}">{figure}</text>')
                y += BAR
        y += GAP
    legend = " ".join(
        f'<tspan fill="{color}">■</tspan> {escape(name)}' for name, color in colors.items()
    )
    newline = "\n"  # which an f-string's braces cannot hold in Python 3.11
    title = escape(f"Cost against {against} (dashed line: 1{TIMES}); shorter is better")
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" \
font-family="sans-serif" font-size="11" fill="#222">
<rect width="100%" height="100%" fill="#fff"/>
<text x="12" y="22" font-size="15">{title}</text>
<text x="12" y="42" font-size="9">{escape(machine)}</text>
<text x="12" y="66" font-size="13" xml:space="preserve">{legend}</text>
{newline.join(bars)}
<path d="M{LEFT + unit:.1f} {TOP - 6}V{y - GAP}" stroke="#888" stroke-dasharray="3 3"/>
<g stroke="#fff" stroke-width="3" paint-order="stroke">
{newline.join(figures)}
</g>
</svg>
"""
