"""The inputs that reach what has been reached so far: one line of base64 each, a file a target."""

import base64
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent / "corpus"


def load(target: str) -> list[bytes]:
    """Return the inputs of a target."""
    path = FOLDER / f"{target}.txt"
    return [base64.b64decode(line) for line in path.read_text(encoding="ascii").splitlines()]


def store(path: Path, inputs: list[bytes]) -> None:
    """Write inputs."""
    lines = (base64.b64encode(data).decode() + "\n" for data in inputs)
    path.write_text("".join(lines), encoding="ascii")
