"""The lines between the kit and a host's demo, as types: the script, and what the demo prints.

And the lines of the kit's own report with ``--json``. ``wsplugin certify --schema`` prints them.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from wsplugin.schema import DIALECT, plain


class Call(Struct, tag_field="call", rename="camel", frozen=True, kw_only=True):
    """One line of the script: a call that the demo starts without waiting for earlier ones."""

    id: int
    """What the outcome is printed under; 0 is the start of the first host."""


class Create(Call, tag="create", frozen=True, kw_only=True):
    """Create a connection."""

    as_: str = msgspec.field(name="as")
    """The connection's name in this script."""
    url: str
    headers: dict[str, str] | UnsetType = UNSET
    protocols: list[str] | UnsetType = UNSET
    app: str | UnsetType = UNSET
    host_headers: dict[str, str] | UnsetType = UNSET
    timeout: int | UnsetType = UNSET
    """Milliseconds."""
    delay: int | UnsetType = UNSET
    """Milliseconds that the listener spends on every message after having printed it."""


class Send(Call, tag="send", frozen=True, kw_only=True):
    """Send a message: either ``text`` or ``base64``."""

    to: str
    text: str | UnsetType = UNSET
    base64: bytes | UnsetType = UNSET


class Close(Call, tag="close", frozen=True, kw_only=True):
    """Close a connection."""

    to: str
    code: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    timeout: int | UnsetType = UNSET
    """Milliseconds."""


class Pause(Call, tag="pause", frozen=True, kw_only=True):
    """Have the plugin read no more from this server for now."""

    to: str


class Resume(Call, tag="resume", frozen=True, kw_only=True):
    """Have the plugin read on."""

    to: str


class Ping(Call, tag="ping", frozen=True, kw_only=True):
    """Ask the server for a sign of life."""

    to: str
    timeout: int | UnsetType = UNSET
    """Milliseconds."""


class Background(Call, tag="background", frozen=True, kw_only=True):
    """End all connections, of one app if it is named."""

    app: str | UnsetType = UNSET


class Stop(Call, tag="stop", frozen=True, kw_only=True):
    """Stop the host."""


class Start(Call, tag="start", frozen=True, kw_only=True):
    """Start a new host after a stop or a death; names of connections may be used again."""


class Sleep(Call, tag="sleep", frozen=True, kw_only=True):
    """Read no further line for so long: for scripts by hand, the kit has none."""

    ms: int


class Done(Struct, tag_field="outcome", tag="ok", frozen=True, kw_only=True):
    """The call has succeeded."""

    id: int
    rtt: float | UnsetType = UNSET
    """Milliseconds: of a ping."""
    status: int | UnsetType = UNSET
    """Of a stop: the plugin's exit status, another number than 0 if it has been killed."""


class Refused(Struct, tag_field="outcome", tag="refused", frozen=True, kw_only=True):
    """The plugin has answered with an error."""

    id: int
    code: str
    message: str


class Ended(Struct, tag_field="outcome", tag="ended", frozen=True, kw_only=True):
    """The plugin is gone or is none, or has been stopped; the start has failed."""

    id: int
    message: str


class Invalid(Struct, tag_field="outcome", tag="invalid", frozen=True, kw_only=True):
    """The host itself has refused the call: it cannot be encoded, there is no such connection."""

    id: int
    message: str


Outcome = Done | Refused | Ended | Invalid


class Opened(Struct, tag_field="event", tag="open", frozen=True, kw_only=True):
    """The connection is open."""

    on: str
    headers: dict[str, str]
    protocol: str
    extensions: str


class Message(Struct, tag_field="event", tag="message", frozen=True, kw_only=True):
    """A message has arrived: either ``text`` or ``base64``."""

    on: str
    text: str | UnsetType = UNSET
    base64: bytes | UnsetType = UNSET


class Failed(Struct, tag_field="event", tag="error", frozen=True, kw_only=True):
    """The connection has failed."""

    on: str
    code: str
    message: str
    status: int | UnsetType | None = UNSET
    """Of the HTTP response that refused the opening handshake, if one did."""


class Closed(Struct, tag_field="event", tag="close", frozen=True, kw_only=True):
    """The connection has ended: the last event of each."""

    on: str
    code: int
    reason: str
    cause: str


Event = Opened | Message | Failed | Closed
Calls = Create | Send | Close | Pause | Resume | Ping | Background | Stop | Start | Sleep


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="kebab"):
    """One line of the report that ``--json`` prints."""

    situation: str
    result: Literal["passed", "failed", "expected-failure", "unexpected-pass", "skipped"]
    seconds: float
    expected: str = ""
    """What should have come, if it has failed."""
    came: str = ""
    why: str = ""
    """Why it has been skipped."""


class Summary(Struct, frozen=True, kw_only=True):
    """The last line of the report that ``--json`` prints: how many there were of each."""

    passed: int
    failed: int
    expected_failures: int = msgspec.field(name="expected-failures")
    skipped: int
    seconds: float


def parse_printed(line: bytes) -> Outcome | Event:
    """Parse a line that a demo has printed.

    Raises:
        msgspec.DecodeError: it is none; a ValueError, as are those that say what is wrong with it.

    """
    value: Any = msgspec.json.decode(line)
    is_outcome = isinstance(value, dict) and "outcome" in value
    printed: Outcome | Event = msgspec.convert(value, type=Outcome if is_outcome else Event)
    return printed


def schema() -> dict[str, Any]:
    """Return one schema: ``$defs`` has ``ScriptLine``, ``PrintedLine`` and ``ReportLine``."""
    groups = {
        "ScriptLine": Calls.__args__,
        "PrintedLine": (*Outcome.__args__, *Event.__args__),
        "ReportLine": (Verdict, Summary),
    }
    every = [member for members in groups.values() for member in members]
    references, components = msgspec.json.schema_components(every, ref_template="#/$defs/{name}")
    by_type = dict(zip(every, references, strict=True))
    lines = {
        name: {"anyOf": [by_type[member] for member in members]} for name, members in groups.items()
    }
    return {
        "$schema": DIALECT,
        "title": "wsplugin certify: a host's script, what its demo prints, and the report",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in groups],
        "$defs": lines | {name: plain(components[name]) for name in sorted(components)},
    }


def schema_text() -> str:
    """Return the schema as indented JSON, with a line end."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"
