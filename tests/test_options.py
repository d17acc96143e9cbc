"""The command line: what each option takes and refuses, and that the process says so."""

import json
import re
import select
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trustme

from harness import PLUGIN, TIMEOUT, Listener, Plugin, environment
from wsplugin import __version__
from wsplugin.options import parse
from wsplugin.settings import Settings

OPTIONS = (
    "--max-connections", "--open-timeout", "--close-timeout", "--ping-interval", "--ping-timeout",
    "--at-limit",
    "--max-message-size", "--max-line", "--max-send-buffer", "--allow-host", "--allow-insecure",
    "--block-private", "--ca-file", "--proxy", "--linger", "--log-level", "--schema", "--version",
    "--help", "--record", "--record-redact-data", "--client-cert", "--pin", "--no-system-ca",
    "--exit-timeout", "--parent-pid",
)  # fmt: skip

PIN = "sha256/" + "A" * 43 + "="

GOOD: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["--max-connections", "1"], {"max_connections": 1}),
    (["--max-connections", "1000"], {"max_connections": 1000}),
    (["--open-timeout", "0.5"], {"open_timeout": 0.5}),
    (["--open-timeout", "86400"], {"open_timeout": 86400}),
    (["--close-timeout=3"], {"close_timeout": 3}),
    (["--ping-interval", "0"], {"ping_interval": 0}),
    (["--ping-interval", "1.5", "--ping-timeout", "0"], {"ping_interval": 1.5, "ping_timeout": 0}),
    (["--max-message-size", "1"], {"max_message_size": 1}),
    (["--max-message-size", "3KiB"], {"max_message_size": 3 * 2**10}),
    (["--max-line", "2MiB"], {"max_line": 2 * 2**20}),
    (["--max-send-buffer", "1GiB"], {"max_send_buffer": 2**30}),
    (["--max-send-buffer", "100", "--max-send-buffer", "200"], {"max_send_buffer": 200}),
    (["--allow-host", "Example.COM."], {"allow_hosts": ("example.com",)}),
    (["--allow-host", "*.Example.com"], {"allow_hosts": ("*.example.com",)}),
    (["--allow-host", "a.b", "--allow-host=c.d"], {"allow_hosts": ("a.b", "c.d")}),
    (["--allow-host", "127.0.0.1"], {"allow_hosts": ("127.0.0.1",)}),
    (["--allow-host", "[::1]"], {"allow_hosts": ("::1",)}),
    (["--allow-insecure"], {"allow_insecure": True}),
    (["--block-private"], {"block_private": True}),
    (["--proxy", "none"], {"proxy": "none"}),
    *(
        (["--proxy", url], {"proxy": url})
        for url in (
            "http://proxy:3128",
            "https://proxy",
            "http://user:secret@[::1]:8080/",
            "socks5://proxy:1080",
            "socks5h://proxy:1080",
            "socks4://proxy:1080",
            "socks4a://proxy:1080",
        )
    ),
    (["--pin", f"Example.COM.={PIN}"], {"pins": (f"example.com={PIN}",)}),
    (["--pin", f"*.a.b={PIN}", f"--pin=[::1]={PIN}"], {"pins": (f"*.a.b={PIN}", f"::1={PIN}")}),
    (["--linger", "0"], {}),
    (["--linger", "2.5"], {"linger": 2.5}),
    (["--at-limit", "refuse"], {"at_limit": "refuse"}),
    (["--exit-timeout", "0.1"], {"exit_timeout": 0.1}),
    (["--parent-pid", "1"], {}),
    (["--parent-pid", f"{2**31 - 1}"], {}),
]


@pytest.mark.parametrize(("arguments", "changed"), GOOD)
def test_good_options(arguments: list[str], changed: dict[str, Any]) -> None:
    settings, level = parse(arguments)
    assert settings == Settings(**changed)
    assert level == "warning"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_log_levels(level: str) -> None:
    assert parse(["--log-level", level]) == (Settings(), level)


def test_ca_file(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    settings, _ = parse(["--ca-file", str(file)])
    assert settings == Settings(ca_file=str(file))
    settings, _ = parse(["--no-system-ca", "--ca-file", str(file)])
    assert settings == Settings(ca_file=str(file), no_system_ca=True)


def test_no_system_ca_needs_another(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--no-system-ca"])
    assert caught.value.code == 2
    assert re.search(r"error: argument --no-system-ca: .*--ca-file", capsys.readouterr().err)


NO_WHOLE = ("", "0", "-1", "1.5", "x", "1e3", "٣", "1_000", "+1", " 1", "9" * 16, "9" * 5000)
NO_SECONDS = ("", "x", "-1", "nan", "inf", "-inf", "1e99", "1,5", "0x10", "5s", "1 2")
NO_SIZE = (
    "", "0", "-1", "1.5", "x", "1kib", "1KB", "1K", "KiB", "1 KiB", "1TiB", "0KiB", "1e3", "٣",
    "1\n", "1_000", "+1", "9999999GiB", "9" * 16,
)  # fmt: skip

BAD: dict[str, tuple[str, ...]] = {
    "--max-connections": NO_WHOLE,
    "--at-limit": ("", "Evict", "both", "refuse "),
    "--open-timeout": ("0", "-0", "0.0", *NO_SECONDS),
    "--close-timeout": ("0", *NO_SECONDS),
    "--ping-interval": NO_SECONDS,
    "--ping-timeout": NO_SECONDS,
    "--max-message-size": NO_SIZE,
    "--max-line": NO_SIZE,
    "--max-send-buffer": NO_SIZE,
    "--allow-host": (
        *("", "*", "*.", "**.a", "*.*.a", "a.*", "*a.com", "a..b", ".a", "a b", "a.com:80", "a/b"),
        *(
            "ws://a.com",
            "user@a.com",
            "*.127.0.0.1",
            "*.[::1]",
            "[::1",
            "::g",
            "[::1]:80",
            "[::1%lo]",
        ),
        *("256.1.1.1", "1.2.3.4.5", "a" * 64, "a\n", "a\0", "é\ud800", "%61.com", "*.0x7f.1"),
    ),
    "--ca-file": ("", "/nonexistent/file", ".", "/dev/null"),
    "--proxy": (
        *("", "ftp://proxy", "http://", "http:///", "http://proxy/path"),
        *("http://proxy?q", "http://proxy#f", "proxy:x", "http://proxy:99999"),
        *("http://proxy:x", "http://[::1", "//proxy"),
    ),
    # More on files in test_client_certificates.py.
    "--client-cert": (
        *("", "=", "a.b=", "/nonexistent/file", ".", "/dev/null", "a.b=/nonexistent/file"),
        *(f"{pattern}={__file__}" for pattern in ("", "*", "a/b", "a b", "a:80", "*.127.0.0.1")),
        *(__file__, f"a.b={__file__}"),
    ),
    "--pin": (
        *("", "a.b", "a.b=", PIN, f"={PIN}", f"*={PIN}", f"a/b={PIN}", f"a.b:443={PIN}"),
        *(f"*.127.0.0.1={PIN}", f"https://a.b={PIN}", f"a.b={PIN}=", f"a.b={PIN} ", f"a.b= {PIN}"),
        *(f"a.b={PIN[:-1]}", f"a.b={PIN[:-2]}=", f"a.b=sha256//{PIN[7:]}", f"a.b=SHA256/{PIN[7:]}"),
        *(f"a.b=sha1/{PIN[7:]}", f"a.b={PIN[7:]}", f"a.b={PIN[:-2]}B=", f"a.b={PIN[:-3]}_A="),
        *(f"a.b={PIN};{PIN}", "a.b=sha256/" + "0" * 64, f"a.b={PIN}\n", f"a.b={PIN[:-2]}٣="),
    ),
    "--linger": NO_SECONDS,
    "--exit-timeout": ("0", "-0", "0.0", "none", *NO_SECONDS),
    "--parent-pid": (*NO_WHOLE, "01x", f"{2**31}", "self"),
    "--log-level": ("", "x", "DEBUG", "warn", "10"),
}


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in BAD.items() for value in values]
)
def test_bad_value(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([f"{option}={value}"])
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert re.search(rf"^wsplugin: error: argument {option}: .", err, re.MULTILINE)


def test_every_option_with_a_value_has_bad_ones() -> None:
    flags = {"--allow-insecure", "--block-private", "--no-system-ca"}
    others = {"--schema", "--version", "--help"}
    files = {"--record", "--record-redact-data"}  # any name may be a file: test_record_replay.py
    assert BAD.keys() == set(OPTIONS) - flags - others - files


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--nope"], ["-x"], ["x"], ["--"], ["--max"], ["--allow-ins"], ["--max-line"], ["-"]),
        *(["--allow-insecure=1"], ["--block-private=no"], ["--version=1"], ["-- max-line", "1"]),
        *(["--max-line", "--linger"], ["--linger", "1", "x"]),
    ],
)
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([*arguments, "--nope"] if arguments == ["--"] else arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert "wsplugin: error: " in err


@pytest.mark.parametrize(
    ("option", "value"), [("--proxy", "ftp://me:s3cret@proxy"), ("--proxy", "http://s3cret@")]
)
def test_message_does_not_repeat_what_may_be_a_secret(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse([option, value])
    assert "s3cret" not in capsys.readouterr().err


# --- the process ------------------------------------------------------------------------------


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*PLUGIN, *arguments], input=stdin, capture_output=True, timeout=TIMEOUT, check=False
    )


@pytest.mark.parametrize(
    "arguments", [["--nope"], ["--max-line", "0"], ["--ca-file", "/nonexistent"], ["argument"]]
)
def test_wrong_option_ends_the_process_with_status_2(arguments: list[str]) -> None:
    ended = run(*arguments, stdin=b'{"id":1,"action":"plugin-describe"}\n')
    assert ended.returncode == 2
    assert ended.stdout == b""
    assert b"error: " in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [["--ca-file"], ["replay"]])
def test_messages_are_utf_8_whatever_the_locale_is(command: list[str]) -> None:
    """As the log is, and as hosts read it."""
    variables = environment(PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    with Plugin(*command, "/nowhere/ä.txt", env=variables) as plugin:
        plugin.wait()
    assert "/nowhere/ä.txt" in plugin.stderr.decode()


def test_version() -> None:
    ended = run("--version")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.decode().split() == ["wsplugin", __version__]


def test_help_names_every_option() -> None:
    ended = run("--help")
    assert (ended.returncode, ended.stderr) == (0, b"")
    text = ended.stdout.decode()
    assert set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, re.MULTILINE)) == set(OPTIONS)
    for default in ("default 5", "default 10", "default 20", "16MiB", "64MiB", "warning"):
        assert default in text


def test_schema() -> None:
    ended = run("--schema")
    assert (ended.returncode, ended.stderr) == (0, b"")
    schema = json.loads(ended.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)


def test_limits_are_told_in_bytes_and_milliseconds() -> None:
    options = [
        *("--max-connections", "3", "--max-message-size", "5KiB", "--max-line", "1MiB"),
        *("--max-send-buffer", "77", "--open-timeout", "0.25", "--close-timeout", "1.5"),
    ]
    with Plugin(*options) as plugin:
        response = plugin.request("plugin-describe")["response"]
        assert response["limits"] == {
            "maxConnections": 3,
            "maxMessageSize": 5 * 2**10,
            "maxLine": 2**20,
            "maxSendBuffer": 77,
            "openTimeout": 250,
            "closeTimeout": 1500,
        }


def test_defaults() -> None:
    with Plugin() as plugin:
        assert plugin.request("plugin-describe")["response"] == {
            "name": "wsplugin",
            "version": __version__,
            "protocol": 1,
            "actions": [
                "websocket-create",
                "websocket-send",
                "websocket-close",
                "websocket-pause",
                "websocket-resume",
                "websocket-ping",
                "app-background",
                "plugin-describe",
            ],
            "features": [
                *("nulls", "apps", "host-headers", "no-delay", "open-facts", "close-1005"),
                *("close-timeout", "pause", "ping", "at-limit", "exit-timeout", "parent-pid"),
            ],
            "limits": {
                "maxConnections": 5,
                "maxMessageSize": 16 * 2**20,
                "maxLine": 64 * 2**20,
                "maxSendBuffer": 16 * 2**20,
                "openTimeout": 10_000,
                "closeTimeout": 10_000,
            },
        }


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_the_schema_is_utf_8_whatever_the_terminal(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("--schema").stdout.decode()
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    assert run("--schema").stdout.decode() == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_schema_that_cannot_be_written() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [*PLUGIN, "--schema"], stdout=full, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr == b"wsplugin: cannot write the schema: No space left on device\n"


@pytest.mark.parametrize(
    "options",
    [("--ping-interval", "0"), ("--ping-interval", "0.1", "--ping-timeout", "0")],
    ids=" ".join,
)
def test_pings_off(options: tuple[str, ...]) -> None:
    with Listener() as listener, Plugin(*options) as plugin:
        _, peer = listener.open(plugin)
        with peer:
            assert not select.select([peer.sock], [], [], 0.5)[0]
