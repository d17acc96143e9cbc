"""Every way to a server, in every situation. See README.md beside this file."""

import os
from pathlib import Path

import pytest

from interop.needs import Missing
from interop.routes import ROUTES, Route
from interop.situations import SITUATIONS, Visit
from interop.table import README, cells
from tls_servers import Authority

NAMES = [route.name for route in ROUTES]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="ends servers by their process groups")
@pytest.mark.parametrize("route", ROUTES, ids=NAMES)
def test_a_server_that_others_wrote(route: Route, tmp_path: Path, authority: Authority) -> None:
    try:
        route.get()
    except Missing as what:
        # .ci/run says that all has been installed that can be.
        if os.environ.get("INTEROP") == "installed":
            raise
        pytest.skip(f"not on this machine: {what}")
    with route.open(tmp_path, authority) as reached, Visit(reached) as visit:
        for situation in SITUATIONS.values():
            situation(visit)


def test_the_table_has_every_route_and_every_situation() -> None:
    head, *rows = cells(README.read_text(encoding="utf-8"))
    assert head[2:] == list(SITUATIONS)
    assert [row[0] for row in rows] == NAMES
