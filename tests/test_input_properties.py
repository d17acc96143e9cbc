"""Any line at all: what the decoder makes of it is what the reference says (hypothesis).

The reference is in ``fuzz_input.py``, which does the same for longer against the process.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz_input import ACTIONS, ANY, INTERESTING, Judge, expect, fuzz
from harness import Plugin
from wsplugin.decoding import decode_request
from wsplugin.messages import SLICE, RequestError
from wsplugin.policy import check_close
from wsplugin.requests import Close

# How long an example takes depends on who else uses the machine.
settings.register_profile("wsplugin", deadline=None)
settings.load_profile("wsplugin")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.sampled_from(INTERESTING),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
names = st.one_of(st.sampled_from(["Url", "ID", "extra", "data", "type", "id", ""]), st.text())


def with_errors(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Return objects that have some of `fields`, mostly right, and now and then others."""
    return st.builds(
        lambda right, wrong, extra: {**right, **wrong, **extra},
        st.fixed_dictionaries({}, optional=fields) | st.fixed_dictionaries(fields),
        st.fixed_dictionaries({}, optional=dict.fromkeys(fields, values)) | st.just({}),
        st.dictionaries(names, values, max_size=1) | st.just({}),
    )


ids = st.one_of(st.none(), st.text(), st.integers(-(2**63), 2**63 - 1))
byte_arrays = st.lists(st.integers(0, 255), max_size=20)
payloads = st.one_of(
    with_errors(
        {
            "url": st.just("ws://127.0.0.1:1/"),
            "headers": st.dictionaries(st.text(), st.text()),
            "protocols": st.lists(st.text()),
            "timeout": st.integers(-1, 3_600_001),
            "perMessageDeflate": st.booleans(),
            "binaryType": st.sampled_from(["arraybuffer", "base64", "blob"]),
        }
    ),
    with_errors({"id": st.just("ws-1"), "type": st.just("text"), "data": st.text()}),
    with_errors({"id": st.just("ws-1"), "type": st.just("arraybuffer"), "data": byte_arrays}),
    with_errors({"id": st.just("ws-1"), "type": st.just("base64"), "data": st.just("aGk=")}),
    with_errors({"id": st.just("ws-1"), "code": st.integers(0, 5000), "reason": st.text()}),
    with_errors({}),
    values,
)
requests = with_errors({"id": ids, "action": st.sampled_from(ACTIONS), "payload": payloads})
documents = st.builds(
    lambda value, escape, blanks: json.dumps(
        value, ensure_ascii=escape, separators=(f",{blanks}", f":{blanks}")
    ).encode(errors="surrogatepass"),
    requests | values,
    st.booleans(),
    st.sampled_from(["", " ", "\r", "\t \t"]),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a document with something cut out or put in."""
    line = draw(documents)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(line)))
        to = draw(st.integers(at, min(len(line), at + 5)))
        line = line[:at] + draw(st.binary(max_size=3)) + line[to:]
    return line


def outcome(line: bytes) -> tuple[str, Any] | None:
    """Return what becomes of a line: error code or "ok", and id; None if it is ignored."""
    try:
        request = decode_request(line)
    except RequestError as error:
        return error.code, error.id
    if request is None:
        return None
    try:
        if isinstance(request, Close):
            code, reason = request.payload.code, request.payload.reason
            check_close(1000 if code is None else code, reason or "")
    except RequestError as error:
        return error.code, request.id
    return "ok", request.id


def check(line: bytes) -> None:
    expected = expect(line)
    found = outcome(line)
    # Long lines are decoded in a way of their own.
    assert outcome(line + b" " * SLICE) == found
    if expected is None or found is None:
        assert (found, expected) == (None, None)
        return
    code, id = found
    if expected.id is not ANY:
        assert json.dumps(id) == json.dumps(expected.id)
    if code == "ok":
        assert expected.success
    else:
        assert code in expected.codes
    assert id is None or isinstance(id, int | str)
    if isinstance(id, str):
        id.encode()


@given(documents)
def test_documents(line: bytes) -> None:
    check(line)


@given(damaged())
def test_damaged_documents(line: bytes) -> None:
    check(line)


@given(st.binary())
def test_any_bytes(line: bytes) -> None:
    check(line)


@given(st.text(alphabet='{}[]":,\\ud80019.-+eEtrufalsn \r\t\x00', max_size=40))
def test_anything_that_looks_like_json(text: str) -> None:
    check(text.encode())


@given(ids, payloads)
def test_a_right_envelope_always_gives_its_id_back(id: Any, payload: Any) -> None:
    for action in (*ACTIONS, "nope"):
        line = json.dumps({"payload": payload, "action": action, "id": id}).encode()
        found = outcome(line)
        assert found
        lone = any("\ud800" <= character <= "\udfff" for character in str(id))
        assert found[1] == (None if lone else id)


class Process:
    """One plugin for all examples, replaced once it has failed one."""

    def __init__(self) -> None:
        self._judge: Judge | None = None

    def try_line(self, line: bytes) -> None:
        if self._judge is None:
            self._judge = Judge(Plugin())
        try:
            self._judge.try_line(line)
        except BaseException:
            self._judge.plugin.__exit__(None, None, None)
            self._judge = None
            raise

    def finish(self) -> None:
        if self._judge is not None:
            with self._judge.plugin:
                self._judge.finish()


@pytest.fixture(scope="module", name="process")
def _process() -> Iterator[Process]:
    process = Process()
    yield process
    process.finish()


@settings(max_examples=30)
@given(lines=st.lists(documents | damaged() | st.binary(), max_size=20))
def test_the_process_answers_and_lives(process: Process, lines: list[bytes]) -> None:
    for document in lines:
        for line in document.split(b"\n"):
            process.try_line(line)


def test_fuzzer_for_a_moment() -> None:
    assert fuzz(seconds=1, seed=1) > 0


def test_reference_knows_what_is_refused() -> None:
    """The reference itself, on lines about which there is no doubt."""
    for line, codes, id in [
        (b'{"id":1,"action":"x"}', {"unknown-action"}, 1),
        (b"x", {"invalid-json"}, None),
        (b'{"id":1,"x":"\\ud800"}', {"invalid-json"}, 1),
        (b'{"id":"a","action":"websocket-close","payload":{}}', {"invalid-payload"}, "a"),
        (b"[]", {"invalid-request"}, None),
    ]:
        expected = expect(line)
        assert expected
        assert (expected.codes, expected.success, expected.id) == (frozenset(codes), False, id)
    assert expect(b" \r") is None
    described = expect(b'{"action":"plugin-describe"}')
    assert described
    assert described.success
