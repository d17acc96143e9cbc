"""JSON values with placeholders, and how they are compared with those that a program has written.

Pure: values in, values and words out. What the placeholders are is said in ``transcript.py``.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_PLACEHOLDER: Final = re.compile(r"<([^<>]+)>")
NUMBER: Final = "<number>"


def substitute(text: str, names: Mapping[str, str]) -> str:
    """Put in the value of every ``<NAME>`` that `names` knows."""
    return _PLACEHOLDER.sub(lambda match: names.get(match[1], match[0]), text)


def example(value: Any) -> Any:
    """Return a value without placeholders that matches `value`."""
    match value:
        case dict():
            return {
                name: example(member)
                for name, member in value.items()
                if not _PLACEHOLDER.fullmatch(name)
            }
        case list():
            return [example(element) for element in value]
        case str() if _is_exact(value):
            return value[2:-1]
        case str() if value == NUMBER:
            return 0
        case str():
            return _PLACEHOLDER.sub(lambda match: match[1], value)
        case _:
            return value


def literal(value: Any) -> Any:
    """Return what matches `value` alone, whatever brackets its strings have."""
    match value:
        case dict():
            return {name: literal(member) for name, member in value.items()}
        # A message may be millions of numbers, and looking at each one would stop the plugin.
        case list() if set(map(type, value)) == {int}:
            return value
        case list():
            return [literal(element) for element in value]
        case str() if _is_exact(value) or _PLACEHOLDER.search(value):
            return f"<={value}>"
        case _:
            return value


def difference(expected: Any, received: Any, path: str = "") -> str | None:
    """Say where `received` is not what `expected`, with its placeholders, says; None if it is.

    Args:
        expected: a JSON value, with placeholders.
        received: a JSON value.
        path: where in the line the two are, for the message.

    """
    match expected, received:
        case dict(), dict():
            return _object_difference(expected, received, path)
        case list(), list() if len(expected) == len(received):
            for index, pair in enumerate(zip(expected, received, strict=True)):
                if found := difference(*pair, f"{path}[{index}]"):
                    return found
            return None
        case str(), str() if _matches(expected, received):
            return None
        case str(), int() | float() if expected == NUMBER and not isinstance(received, bool):
            return None
        # Python takes True for 1, and 1.0 for 1.
        case ((int() | float() | None), _) if type(expected) is type(received):
            if expected == received:
                return None
    return f"{path or 'the line'}: expected {_show(expected)}, not {_show(received)}"


def _object_difference(expected: dict[str, Any], received: dict[str, Any], path: str) -> str | None:
    more = False
    for name, value in expected.items():
        where = f"{path}.{name}" if path else name
        if _PLACEHOLDER.fullmatch(name):
            more = True
        elif name not in received:
            return f"{where}: missing, expected {_show(value)}"
        elif found := difference(value, received[name], where):
            return found
    for name, value in received.items():
        if name not in expected and not more:
            where = f"{path}.{name}" if path else name
            return f"{where}: not expected, but is {_show(value)}"
    return None


def _matches(expected: str, received: str) -> bool:
    if _is_exact(expected):
        return expected[2:-1] == received
    literals = _PLACEHOLDER.split(expected)[::2]
    return re.fullmatch(".*".join(map(re.escape, literals)), received, re.DOTALL) is not None


def _is_exact(text: str) -> bool:
    return text.startswith("<=") and text.endswith(">")


def _show(value: Any) -> str:
    return msgspec.json.encode(value).decode()
