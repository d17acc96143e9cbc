"""The format of transcripts: how they are read, and how lines are compared with them."""

import re
from typing import Any

import msgspec
import pytest

from wsplugin.recording.placeholders import difference
from wsplugin.recording.transcript import (
    Continue,
    Die,
    Elapsed,
    EndOfStdin,
    Late,
    LineIn,
    LineOut,
    LinesOut,
    Mismatch,
    ScriptLine,
    Server,
    Signal,
    Split,
    Transcript,
    TranscriptError,
    parse,
    take,
)


def test_parsing() -> None:
    transcript = parse(
        r"""
# A story.
@options --linger 5 --ca-file "a b"
@options --proxy none
@server chat tls
  accept X: 1
  # not a step
# nor this
  echo
@server quiet

# +0.5s
> {"id": 1, "url": "ws://127.0.0.1:<chat>/<other>"}
>| \x41\x0a<chat>
>
< {"id": "<1>"}
<~ 1
<~ 2

<~ 3
@continue chat
@late 2
@split
@signal SIGTERM
@end-of-stdin
@die
@exit 3
"""
    )
    assert transcript.options == ("--linger", "5", "--ca-file", "a b", "--proxy", "none")
    assert transcript.servers == (
        Server(5, "chat", "tls", (ScriptLine(6, "accept X: 1"), ScriptLine(9, "echo"))),
        Server(10, "quiet", "plain", ()),
    )
    assert transcript.steps == (
        Elapsed(12, 0.5),
        LineIn(13, '{"id": 1, "url": "ws://127.0.0.1:<chat>/<other>"}'),
        LineIn(14, r"\x41\x0a<chat>", raw=True),
        LineIn(15, ""),
        LinesOut(16, (LineOut(16, '{"id": "<1>"}', {"id": "<1>"}),)),
        LinesOut(17, (LineOut(17, "1", 1), LineOut(18, "2", 2))),
        LinesOut(20, (LineOut(20, "3", 3),)),
        Continue(21, "chat"),
        Late(22, 2.0),
        Split(23),
        Signal(24, "SIGTERM"),
        EndOfStdin(25),
        Die(26),
    )
    assert transcript.exit_status == 3
    assert transcript.has_faults
    assert [step.data({"chat": "80"}) for step in transcript.steps if isinstance(step, LineIn)] == [
        b'{"id": 1, "url": "ws://127.0.0.1:80/<other>"}\n',
        b"A\n80",
        b"\n",
    ]


def test_empty_transcript() -> None:
    assert parse("\n# nothing\n") == Transcript((), (), (), 0)


def test_line_ends_of_windows() -> None:
    assert parse("> 1\r\n@exit 1\r\n") == parse("> 1\n@exit 1\n")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hello", "line 1: expected a line that begins with"),
        (">hello", "line 1: expected a line that begins with"),
        ("#hello", "line 1: expected a line that begins with"),
        ("  accept", "line 1: expected a line that begins with"),
        ("@server a\n\n  accept", "line 3: expected a line that begins with"),
        ("\n< {", "line 2: the line out is not JSON"),
        ("<~", "line 1: the line out is not JSON"),
        ("> 1\n@options --linger 5", "line 2: @options comes before everything else"),
        ("@exit 1\n@server a", "line 2: @server comes before everything else"),
        ("@options 'a", "line 1: No closing quotation"),
        ("@server", "line 1: no such directive: @server"),
        ("@server A", "line 1: a server cannot be called 'A'"),
        ("@server ca", "line 1: a server cannot be called 'ca'"),
        ("@server a\n@server a", "line 2: there is a server 'a' already"),
        ("@server a udp", "line 1: a server is tls, absent, untouched"),
        ("@server a tls absent", "line 1: a server is tls, absent, untouched"),
        ("@continue a", "line 1: there is no server 'a'"),
        ("@signal TERM", "line 1: no such directive: @signal TERM"),
        ("@exit", "line 1: no such directive: @exit"),
        ("@exit -1", "line 1: no such directive: @exit -1"),
        ("@exit 1\n> 1", "line 2: nothing can follow @exit"),
        ("@exit 1\n@exit 1", "line 2: nothing can follow @exit"),
        ("@late soon", "line 1: not a number of seconds: 'soon'"),
        ("# +1.2.3s", "line 1: not a number of seconds: '1.2.3'"),
        ("@end-of-stdin\n> 1", "line 2: a line in after the end of stdin"),
        ("@end-of-stdin now", "line 1: no such directive: @end-of-stdin now"),
        ("@jump", "line 1: no such directive: @jump"),
    ],
)
def test_no_transcript(text: str, error: str) -> None:
    with pytest.raises(TranscriptError, match="^" + re.escape(error)):
        parse(text)


@pytest.mark.parametrize(
    ("expected", "received", "found"),
    [
        ({"a": 1, "b": [1, None]}, {"b": [1, None], "a": 1}, None),
        ({"a": 1}, {"a": 2}, "a: expected 1, not 2"),
        ({"a": {"b": [0, 1]}}, {"a": {"b": [0, 2]}}, "a.b[1]: expected 1, not 2"),
        ({"a": 1}, {}, "a: missing, expected 1"),
        ({}, {"a": 1}, "a: not expected, but is 1"),
        ({"a": {}}, {"a": {"b": 1}}, "a.b: not expected, but is 1"),
        ({"<more>": ""}, {"a": 1}, None),
        ({"a": 1, "<more>": ""}, {"b": 1}, "a: missing, expected 1"),
        ([1], [1, 2], "the line: expected [1], not [1,2]"),
        # Python's equality is not JSON's.
        (1, True, "the line: expected 1, not true"),
        (True, 1, "the line: expected true, not 1"),
        (1, 1.0, "the line: expected 1, not 1.0"),
        (None, 0, "the line: expected null, not 0"),
        (0, False, "the line: expected 0, not false"),
        ({}, [], "the line: expected {}, not []"),
        ("1", 1, 'the line: expected "1", not 1'),
        # Placeholders.
        ("<text>", "anything", None),
        ("<text>", "", None),
        ("<text>", "two\nlines", None),
        ("<text>", 1, 'the line: expected "<text>", not 1'),
        ("a: <b> (--c)", "a: x (--c)", None),
        ("a: <b> (--c)", "a: x (--d)", 'the line: expected "a: <b> (--c)", not "a: x (--d)"'),
        ("a.<b>", "aXb", 'the line: expected "a.<b>", not "aXb"'),
        ("ws://h:<chat>/", "ws://h:80/", None),
        ("<=<b>bold</b>>", "<b>bold</b>", None),
        ("<=<b>bold</b>>", "<i>bold</i>", 'the line: expected "<=<b>bold</b>>", not'),
        ("1 < 2", "1 < 2", None),
        ("<>", "<>", None),
    ],
)
def test_difference(expected: Any, received: Any, found: str | None) -> None:
    if found is None:
        assert difference(expected, received) is None
    else:
        assert (difference(expected, received) or "").startswith(found)


def group(*values: Any) -> list[LineOut]:
    texts = [msgspec.json.encode(value).decode() for value in values]
    return [LineOut(number, text, msgspec.json.decode(text)) for number, text in enumerate(texts)]


def event(id: str, name: str) -> Any:
    return {"event": "websocket-event", "payload": {"id": id, "name": name, "payload": {}}}


def test_lines_in_any_order() -> None:
    lines = group(event("ws-1", "error"), event("ws-1", "close"), {"id": 1}, event("ws-2", "close"))
    for number in (3, 2, 0):
        assert take(lines, lines[number].text.encode() + b"\n") is lines[number]
    with pytest.raises(Mismatch, match=r'^line 0: payload.name: expected "error", not "close"\n'):
        take(lines, lines[1].text.encode())
    with pytest.raises(Mismatch, match=r"^line 0: "):
        take(lines, b'{"id":2}\n')


def test_mismatch_shows_both_lines() -> None:
    with pytest.raises(Mismatch) as caught:
        take(group({"id": 1}), b'{"id":2}\n')
    assert str(caught.value) == (
        'line 0: id: expected 1, not 2\n  expected: {"id":1}\n  received: {"id":2}'
    )
    with pytest.raises(Mismatch, match=r"^line 0: not JSON"):
        take(group({"id": 1}), b"Traceback\n")
