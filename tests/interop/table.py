"""The table in README.md."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

README: Final = Path(__file__).parent / "README.md"
_TABLE: Final = re.compile(r"(?<=<!-- made by the command -->\n).*?(?=<!-- end -->)", re.DOTALL)


def cells(text: str) -> list[list[str]]:
    """Return the cells of the table in a text, the head's first, without the rule below it."""
    found = _TABLE.search(text)
    assert found
    head, _, *rows = found[0].strip().splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)]


def with_table(text: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the text with another table in the place of its own."""
    lines = [f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows)]
    return _TABLE.sub(lambda _: "".join(lines), text)
