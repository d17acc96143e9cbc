"""The log on stderr: its lines, its levels, and whose records reach it."""

import datetime
import gc
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from harness import TIMEOUT, Listener, Plugin, close_frame, echo_server
from wsplugin import Settings
from wsplugin.log import SILENT, make_formatter
from wsplugin.session import Session, serve

LINE = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([A-Z]+) (wsplugin(?:\.[a-z]+)+): (.+)"
)


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not hasattr(time, "tzset"):
        pytest.skip("this system cannot change its time zone")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "IST-5:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
@pytest.mark.parametrize(
    ("created", "written"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_738_367_999.999, "2025-01-31T23:59:59.999Z"),
        (1_738_367_999.0625, "2025-01-31T23:59:59.062Z"),
    ],
)
def test_a_record_on_a_line(created: float, written: str) -> None:
    record = logging.LogRecord("wsplugin.x", logging.INFO, "x", 1, "%s: %d", ("ws-1", 5), None)
    record.created = created
    record.msecs = int((created - int(created)) * 1000) + 0.0
    assert make_formatter().format(record) == f"{written} INFO wsplugin.x: ws-1: 5"


def conversation(level: str) -> list[tuple[str, str, str]]:
    """Return the records of a short conversation without mishaps: level, logger, text."""
    before = datetime.datetime.now(datetime.UTC)
    with echo_server() as server, Plugin("--log-level", level) as plugin:
        id = plugin.create(server.url)
        plugin.event(id, "open")
        plugin.request("websocket-close", {"id": id})
        plugin.event(id, "close")
        assert plugin.finish() == ([], 0)
    after = datetime.datetime.now(datetime.UTC)
    records = []
    for line in plugin.stderr.decode().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        written = datetime.datetime.fromisoformat(match[1])
        assert before - datetime.timedelta(milliseconds=1) <= written <= after
        before = written
        records.append((match[2], match[3], match[4]))
    return records


def test_debug_says_more_than_info_and_info_more_than_warning() -> None:
    debug, info, warning = map(conversation, ("debug", "info", "warning"))
    assert warning == []
    assert {level for level, _, _ in info} == {"INFO"}
    assert {level for level, _, _ in debug} == {"INFO", "DEBUG"}

    def texts(records: list[tuple[str, str, str]]) -> list[str]:
        return [re.sub(r":\d+$", "", text) for level, _, text in records if level == "INFO"]

    assert texts(debug) == texts(info) != []
    assert any(text.startswith("ws-1: closed with 1000 (host)") for text in texts(info))


def test_debug_says_what_runs_and_under_which_options() -> None:
    options = ("--proxy", "http://me:s3cret@proxy:3128", "--max-line", "77KiB", "--linger", "0")
    with Plugin("--log-level", "debug", *options) as plugin:
        plugin.finish()
    log = plugin.stderr.decode()
    assert (
        f"on Python {sys.version.split()[0]}, {sys.platform}; process {plugin.process.pid}" in log
    )
    for name in Settings.__struct_fields__:
        assert f" DEBUG wsplugin.log: {name}: " in log
    assert "max_line: 78848\n" in log
    assert "proxy: a URL\n" in log
    assert "s3cret" not in log


def test_the_end_of_a_connection_says_its_reason_unless_others_have_worded_it() -> None:
    with Listener() as gone:
        pass
    with Listener() as listener, Plugin("--log-level", "info") as plugin:
        plugin.events_to_close(plugin.create(gone.url))

        id, peer = listener.open(plugin)
        with peer:
            plugin.send({"action": "app-background"})
            peer.expect_close()
            peer.send(close_frame(1001))
        plugin.events_to_close(id)

        id, peer = listener.open(plugin)
        with peer:
            peer.send(close_frame(4000, "a word of the server's"))
            peer.expect_close()
        plugin.events_to_close(id)

        id, peer = listener.open(plugin)
        with peer:
            plugin.request("websocket-close", {"id": id, "reason": "a word of the app's"})
            peer.expect_close()
            peer.send(close_frame(1000))
        plugin.events_to_close(id)
        plugin.finish()
    refused = f"cannot connect to 127.0.0.1:{gone.port}: Connection refused"
    assert re.findall(r"ws-\d: closed with .*", plugin.stderr.decode()) == [
        f"ws-1: closed with 1006 (failure): {refused}",
        "ws-2: closed with 1001 (background): application entered background",
        "ws-3: closed with 4000 (server)",
        "ws-4: closed with 1000 (host)",
    ]


# --- whose records ------------------------------------------------------------------------------

STRANGERS = """
import logging
from wsplugin.log import configure_logging
handler = configure_logging("debug")
for name in ("websockets.client", "asyncio", "concurrent.futures", "wspluginx", None):
    for level in ("DEBUG", "WARNING", "ERROR", "CRITICAL"):
        logging.getLogger(name).log(logging.getLevelName(level), "a stranger's")
logging.getLogger("wsplugin.manager").debug("our own")
handler.drain()
"""


def test_nothing_of_the_libraries_reaches_stderr_and_of_strangers_only_errors() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STRANGERS], capture_output=True, timeout=TIMEOUT, text=True
    )
    assert ended.returncode == 0
    assert [line.partition("Z ")[2] for line in ended.stderr.splitlines()] == [
        "ERROR wspluginx: a stranger's",
        "CRITICAL wspluginx: a stranger's",
        "ERROR root: a stranger's",
        "CRITICAL root: a stranger's",
        "DEBUG wsplugin.manager: our own",
    ]


def test_the_logger_for_libraries_is_silent_whatever_the_host_does(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.captureWarnings(True)
    try:
        for logger in (SILENT, logging.LoggerAdapter(SILENT, {})):
            for level in (logging.DEBUG, logging.INFO, logging.CRITICAL):
                assert not logger.isEnabledFor(level)
                logger.log(level, "x")
    finally:
        logging.captureWarnings(False)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert SILENT.name not in logging.Logger.manager.loggerDict


# --- who waits ------------------------------------------------------------------------------------

FLOOD = """
import logging, os, signal
from wsplugin.log import configure_logging
handler = configure_logging("info")
logger = logging.getLogger("wsplugin")
if hasattr(signal, "setitimer"):
    # A record of a signal handler comes in the middle of another.
    signal.signal(signal.SIGALRM, lambda *_: logger.info("a signal"))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
for number in range(20_000):
    logger.info("%d", number)
if hasattr(signal, "setitimer"):
    signal.setitimer(signal.ITIMER_REAL, 0)
os.write(1, b"done")
os.read(0, 1)
handler.drain()
"""


def test_nobody_waits_for_a_reader_and_what_he_reads_is_in_order() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        bound = threading.Timer(TIMEOUT, process.kill)
        bound.start()
        try:
            assert process.stdout.read(4) == b"done"
            _, log = process.communicate(b"\n")
        finally:
            process.kill()
            bound.cancel()
    texts = [line.partition("wsplugin: ")[2] for line in log.decode().splitlines()]
    numbers = [int(text) for text in texts if text != "a signal"]
    assert numbers == sorted(set(numbers))
    assert numbers[:100] == list(range(100))
    # What the pipe holds, and what waits for it.
    assert 1000 <= len(texts) < 10_000


# --- what asyncio finds ---------------------------------------------------------------------------


def fail(secret: object) -> None:
    raise ValueError(f"it was {secret}")


async def fail_later(secret: object) -> None:
    fail(secret)


class Stubborn:
    """Fails as a callback that has no name."""

    def __call__(self, secret: object) -> None:
        fail(secret)


def in_a_callback(session: Session) -> None:
    session._loop.call_soon(fail, "s3cret")


def in_a_callback_without_a_name(session: Session) -> None:
    session._loop.call_soon(Stubborn(), b"s3cret")


def in_a_task(session: Session) -> None:
    task = session._loop.create_task(fail_later("s3cret"))
    # It is noticed when the task is forgotten.
    task.add_done_callback(lambda task: session._loop.call_soon(gc.collect))


def in_a_task_that_is_lost(session: Session) -> None:
    session._loop.call_exception_handler({"message": "Task was destroyed but it is pending!"})


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (in_a_callback, r"Exception in callback fail: ValueError in fail, line \d+"),
        (in_a_callback_without_a_name, r"Exception in callback .*: ValueError in fail, line \d+"),
        (in_a_task, r"Task exception was never retrieved: ValueError in fail, line \d+"),
        (in_a_task_that_is_lost, r"Task was destroyed but it is pending!"),
    ],
)
def test_what_asyncio_catches_is_told_without_its_words(
    where: Callable[[Session], None],
    said: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    sink = os.open(os.devnull, os.O_WRONLY)

    class EndOfStdin(logging.Handler):
        """Ends the session as soon as there is a record of it."""

        def emit(self, record: logging.LogRecord) -> None:
            os.close(writer)

    monkeypatch.setattr(logging.getLogger("wsplugin.session"), "handlers", [EndOfStdin()])
    try:
        assert serve(reader, sink, Settings(), where) == 0
    finally:
        os.close(reader)
        os.close(sink)
    records = [record for record in caplog.records if record.name == "wsplugin.session"]
    assert [record.levelname for record in records] == ["ERROR"]
    assert re.fullmatch(said, records[0].getMessage())
    assert "s3cret" not in caplog.text
    assert "\n" not in records[0].getMessage()
