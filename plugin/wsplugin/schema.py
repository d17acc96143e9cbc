"""The JSON Schema of every line in both directions, generated from the types of the contract."""

import inspect
from typing import Any, Final

import msgspec

from wsplugin.messages import (
    PROTOCOL,
    CreateAnswer,
    DescribeAnswer,
    DoneAnswer,
    ErrorAnswer,
    Event,
    PingAnswer,
)
from wsplugin.requests import HostLine

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Return one schema; ``$defs/HostLine`` and ``$defs/PluginLine`` are the two directions."""
    (host, *plugin), components = msgspec.json.schema_components(
        [HostLine, DoneAnswer, CreateAnswer, DescribeAnswer, PingAnswer, ErrorAnswer, Event],
        ref_template="#/$defs/{name}",
    )
    definitions = {name: plain(components[name]) for name in sorted(components)}
    return {
        "$schema": DIALECT,
        "title": f"wsplugin wire contract, protocol {PROTOCOL}",
        "description": "One line of JSON: from the host (HostLine) or to the host (PluginLine).",
        "anyOf": [{"$ref": "#/$defs/HostLine"}, {"$ref": "#/$defs/PluginLine"}],
        "$defs": {
            "HostLine": plain(host),
            "PluginLine": {"anyOf": plugin},
            **definitions,
        },
    }


def plain(part: Any) -> Any:
    """Leave out ``discriminator``, which is OpenAPI's and stops strict validators.

    And the indentation of docstrings, which Python itself leaves out since 3.13: the schema is the
    same on every version.
    """
    if isinstance(part, dict):
        return {key: plain(value) for key, value in part.items() if key != "discriminator"}
    if isinstance(part, list):
        return [plain(value) for value in part]
    return inspect.cleandoc(part) if isinstance(part, str) else part


def schema_text() -> str:
    """Return the schema as indented JSON, with a line end."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"
