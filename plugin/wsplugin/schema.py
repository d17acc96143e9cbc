"""The JSON Schema of every line in both directions, generated from the types of the contract."""

from typing import Any, Final

import msgspec

from wsplugin.messages import CreateAnswer, DescribeAnswer, DoneAnswer, ErrorAnswer, Event, Request

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Return one schema; ``$defs/HostLine`` and ``$defs/PluginLine`` are the two directions."""
    (host, *plugin), components = msgspec.json.schema_components(
        [Request, DoneAnswer, CreateAnswer, DescribeAnswer, ErrorAnswer, Event],
        ref_template="#/$defs/{name}",
    )
    definitions = {name: components[name] for name in sorted(components)}
    return {
        "$schema": DIALECT,
        "title": "wsplugin wire contract, protocol 1",
        "description": "One line of JSON: from the host (HostLine) or to the host (PluginLine).",
        "anyOf": [{"$ref": "#/$defs/HostLine"}, {"$ref": "#/$defs/PluginLine"}],
        "$defs": {
            "HostLine": host,
            "PluginLine": {"anyOf": plugin},
            **definitions,
        },
    }


def schema_text() -> str:
    """Return the schema as indented JSON, with a line end."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"
