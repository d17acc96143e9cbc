"""What the documents name exists, and what exists is named in the reference."""

import re
import typing
from pathlib import Path

import pytest

from wsplugin.messages import (
    ACTIONS,
    FEATURES,
    Cause,
    ConnectionErrorCode,
    RequestErrorCode,
)
from wsplugin.options import make_parser
from wsplugin.schema import schema

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("plugin", "tests", "host_examples", ".github")
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(
            path
            for part in PARTS
            for path in (ROOT / part).rglob("*.md")
            if not {"node_modules", "suite", "target"} & set(path.parts)
        ),
    ]
)
# Links are absolute in what the package index shows.
REPOSITORY = re.compile("https://github.com/wsplugin/wsplugin/(?:blob|tree)/main/")
REFERENCE = (ROOT / "plugin/README.md").read_text(encoding="utf-8")
OPTIONS = {
    option
    for action in make_parser()._actions
    for option in action.option_strings
    if option.startswith("--")
}
# Options of other programs that the documents show.
OTHERS = {
    "wsplugin replay": {"--speed"},
    "pip": {"--group", "--target"},
    "pytest": {"--log-cli-level"},
    "plugin/standalone/build.py": {"--target"},
    "tests/benchmark": {"--rounds", "--plot", "--plugin"},
    "tests/simulation": {"--runs", "--jobs", "--seed", "--trace"},
}
each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """Leave out what stands in fences, where nothing is a link or a heading."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return what headings are called in links, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.*)$", prose(text_of(document)), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in headings
    }


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(text_of(document)))
    for link in links:
        path, _, anchor = link.partition("#")
        if ours := REPOSITORY.match(path):
            target = ROOT / path[ours.end() :]
        elif re.match(r"[a-z]+:", link):
            continue
        else:
            target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@each_document
def test_files_that_are_named_exist(document: Path) -> None:
    named = re.findall(
        r"(?<![\w/.])((?:plugin|tests|host_examples|\.ci|\.github)/[\w./-]*\w)", text_of(document)
    )
    for name in named:
        if "node_modules" not in name:
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", ["README.md", "plugin/README.md", "SECURITY.md"])
def test_options_that_are_named_exist(name: str) -> None:
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*[a-z])", text_of(ROOT / name)))
    assert named - OPTIONS - set().union(*OTHERS.values()) == set()


def test_the_reference_names_every_option() -> None:
    table = REFERENCE.partition("## Options")[2].partition("\n## ")[0]
    assert {option for option in OPTIONS if f"`{option}" not in table} == set()


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("## Actions", ACTIONS),
        ("## Errors", typing.get_args(RequestErrorCode)),
        ("## Errors", typing.get_args(ConnectionErrorCode)),
        ("## Events", typing.get_args(Cause)),
        ("## Versions", FEATURES),
    ],
)
def test_the_reference_names_every_word_of_the_contract(
    heading: str, words: tuple[str, ...]
) -> None:
    section = REFERENCE.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    assert [word for word in words if f"`{word}`" not in section] == []


def test_the_reference_names_every_field() -> None:
    fields = {
        field
        for definition in schema()["$defs"].values()
        for field in definition.get("properties", {})
    }
    named = set(re.findall(r"`\"?(\w+)\"?`", REFERENCE)) | set(re.findall(r"\"(\w+)\":", REFERENCE))
    assert fields - named == set()
