"""The supervisor of the Java host, on a clock of the test's where time matters."""

import re

import pytest

from harness import PLUGIN, echo_server
from java_probe import Java, build, fake, needs_java

pytestmark = needs_java

SIMPLE = fake("""
describe()
number = 0
while True:
    number += 1
    say(answer(ask(), id=f"ws-{number}"))
""")


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> Java:
    """Return what runs the program."""
    return Java(build(tmp_path_factory.mktemp("java")), "Supervised")


def test_a_plugin_killed_again_and_again_under_load(java: Java) -> None:
    with echo_server() as server:
        lines = java.run("kills", PLUGIN, URL=server.url)
    assert [line for line in lines if line.startswith("sleep ")] == [
        "sleep 0",
        "sleep 500",
        "sleep 1000",
        "sleep 2000",
        # Three minutes after the first start, and then at once.
        "sleep 176500",
        "sleep 0",
        # Three of the first five are within the last three minutes, and this one.
        "sleep 2000",
    ]
    assert lines.count("1006 failure") == 15
    assert lines.count("closes 3") == 5
    words = "PluginEnded the plugin ended... it was started 5 times in three minutes"
    rest = [line for line in lines if not re.match(r"sleep |1006 |closes ", line)]
    assert rest == [
        words,
        "background done",
        "afterwards done",
        "and again done",
        "status 0",
        "children 0",
        "PluginEnded the supervisor has been stopped",
    ]


def test_a_create_waits_for_the_next_plugin_through_failed_starts(java: Java) -> None:
    lines = java.run("waits", SIMPLE)
    assert [line for line in lines if not line.startswith("sleep ")] == [
        "1006 failure",
        "waits true",
        "done",
        "starts 4",
        "status 0",
    ]
    assert "told in vain" in java.stderr


def test_a_create_that_waits_keeps_the_jvm(java: Java) -> None:
    assert java.run("leaveWaiting", SIMPLE) == ["main returns", "created"]


def test_a_fault_of_the_app_ends_the_supervisor_with_words(java: Java) -> None:
    lines = java.run("faults", SIMPLE)
    fault = "java.lang.IllegalStateException: a starter's fault"
    assert [line for line in lines if not line.startswith("sleep ")] == [
        "1006 failure",
        f"PluginEnded nobody starts the plugin again: {fault}",
        "status 137",
        "not started",
    ]
    assert fault in java.stderr


def test_a_stop_in_the_middle_of_a_start_leaves_no_process(java: Java) -> None:
    status, waiting, children = java.run("stopMeanwhile", SIMPLE)
    assert status == "status 137"
    assert waiting == "PluginEnded the supervisor has been stopped"
    assert children == "children 0"
