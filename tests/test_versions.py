"""What a release promises to hosts that were written for an earlier one."""

from typing import Any

import msgspec
import pytest

from test_transcripts import SCHEMA_1_0
from wsplugin.messages import FEATURES
from wsplugin.schema import schema

SCHEMA = schema()
FEATURES_1_1 = {
    *("nulls", "apps", "host-headers", "no-delay", "open-facts", "close-1005", "close-timeout"),
    *("pause", "ping", "at-limit", "exit-timeout", "parent-pid"),
}
# Fields and types that 1.0 did not have, and the feature that a host asks for before it uses them.
ADDED = {
    "app": "apps",
    "headers": "host-headers",
    "CreatePayload.tcpNoDelay": "no-delay",
    "ClosePayload.timeout": "close-timeout",
    "OpenPayload.protocol": "open-facts",
    "OpenPayload.extensions": "open-facts",
    "OpenPayload.profile": "open-facts",
    "Profile": "open-facts",
    "Description.features": "nulls",
    "ConnectionPayload": "pause",
    "Pause": "pause",
    "Resume": "pause",
    "Ping": "ping",
    "PingPayload": "ping",
    "PingAnswer": "ping",
    "RoundTrip": "ping",
}


def fields(definitions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the fields of each type, and what is said of them."""
    return {
        name: definition.get("properties", {})
        for name, definition in definitions.items()
        if "properties" in definition
    }


def types(place: Any) -> set[str]:
    """Return what a field may be: names of types, of references, and values."""
    found = set()
    for one in place.get("anyOf", [place]):
        found |= {str(value) for value in one.get("enum", [])}
        found |= {str(one[key]) for key in ("$ref", "type", "const") if key in one}
    return found


def test_features_only_grow() -> None:
    assert set(FEATURES) >= FEATURES_1_1
    assert len(set(FEATURES)) == len(FEATURES)


@pytest.mark.parametrize("name", fields(SCHEMA_1_0["$defs"]))
def test_no_field_of_1_0_has_gone_or_changed_its_type(name: str) -> None:
    """More may be allowed there, but nothing that was is no more."""
    old, new = fields(SCHEMA_1_0["$defs"])[name], fields(SCHEMA["$defs"])[name]
    for field, place in old.items():
        assert types(place) <= types(new[field]), field
    required = set(SCHEMA["$defs"][name].get("required", ()))
    was_required = set(SCHEMA_1_0["$defs"][name].get("required", ()))
    if is_from_the_plugin(name):
        assert required >= was_required
    else:
        assert required == was_required


def is_from_the_plugin(name: str) -> bool:
    """Tell whether a type is part of a line to the host."""
    reached: set[str] = set()
    waiting = [SCHEMA["$defs"]["PluginLine"]]
    while waiting:
        text = msgspec.json.encode(waiting.pop()).decode()
        for each, definition in SCHEMA["$defs"].items():
            if f'"#/$defs/{each}"' in text and each not in reached:
                reached.add(each)
                waiting.append(definition)
    return name in reached


def test_every_addition_has_a_feature() -> None:
    old, new = fields(SCHEMA_1_0["$defs"]), fields(SCHEMA["$defs"])
    added = set()
    for name, places in new.items():
        if name not in old:
            added.add(name)
            continue
        added |= {
            field if field in ("app", "headers") and name != "CreatePayload" else f"{name}.{field}"
            for field in places
            if field not in old[name]
        }
    assert added == set(ADDED)
    assert set(ADDED.values()) <= set(FEATURES)
