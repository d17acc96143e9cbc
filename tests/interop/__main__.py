"""Tries the plugin with servers that others wrote, and writes the table in README.md."""

import concurrent.futures
import queue
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Final

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from interop.needs import Missing
from interop.routes import ROUTES, Route
from interop.situations import SITUATIONS, Visit
from interop.table import README, with_table
from tls_servers import Authority

FAILED: Final = "**no**"
FAILURES: Final = (AssertionError, OSError, LookupError, ValueError, queue.Empty)
"""What a situation raises that does not come out as it should."""


def row(route: Route) -> list[str]:
    """Try one server; return its row."""
    try:
        version = route.get()
    except Missing as what:
        return [route.name, f"missing: {what}", *[""] * len(SITUATIONS)]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        try:
            with route.open(folder, Authority(folder)) as reached, Visit(reached) as visit:
                return [route.name, version, *(cell(visit, name) for name in SITUATIONS)]
        except FAILURES:
            sys.stderr.write(f"--- {route.name}\n{traceback.format_exc()}")
            return [route.name, version, *[FAILED] * len(SITUATIONS)]


def cell(visit: Visit, name: str) -> str:
    """Try one situation; return its word."""
    try:
        return SITUATIONS[name](visit)
    except FAILURES:
        sys.stderr.write(f"--- {visit.reached.server.name}, {name}\n{traceback.format_exc()}")
        visit.renew()
        return FAILED


def main() -> int:
    """Try all servers; return the exit status: 1 if something does not go, or is missing."""
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        rows = list(threads.map(row, ROUTES))
    head = ["", "version", *SITUATIONS]
    for cells in rows:
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    if not all(all(cells) for cells in rows):
        sys.stdout.write("The table is left as it was.\n")
        return 1
    README.write_text(with_table(README.read_text(encoding="utf-8"), head, rows), encoding="utf-8")
    return 1 if any(FAILED in cells for cells in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
