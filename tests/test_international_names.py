# ruff: noqa: RUF001 - names of hosts in many scripts
"""International names of hosts: by UTS 46 with the package idna, never another domain without."""

import sys
import unicodedata
from collections.abc import Iterator

import pytest

from harness import Plugin
from wsplugin.hosts import normalize_host
from wsplugin.messages import RequestError
from wsplugin.policy import check_policy, parse_url
from wsplugin.settings import Settings

EXTRA = "pip install 'wsplugin[idn]'"


@pytest.fixture(params=[True, False], ids=["with idna", "without idna"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the package idna is there: each test of it is run with and without."""
    if not request.param:
        monkeypatch.setitem(sys.modules, "idna", None)
    return bool(request.param)


@pytest.fixture
def without_idna(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the package."""
    monkeypatch.setitem(sys.modules, "idna", None)


def host_of(url_host: str) -> str:
    return parse_url(f"wss://{url_host}/").host


def encoded(name: str) -> str:
    """Encode labels that are in their one form already (RFC 3492)."""
    return ".".join(
        label if label.isascii() else "xn--" + label.encode("punycode").decode()
        for label in name.split(".")
    )


# Name, and its one form.
SAME = [
    ("bücher.example", "bücher.example"),
    ("BÜCHER.example", "bücher.example"),
    ("bu\u0308cher.example", "bücher.example"),
    ("xn--bcher-kva.example", "bücher.example"),
    ("例え.テスト", "例え.テスト"),
    ("例え。テスト．", "例え.テスト."),
    ("пример.испытание", "пример.испытание"),
    ("παράδειγμα.δοκιμή", "παράδειγμα.δοκιμή"),
    ("مثال.إختبار", "مثال.إختبار"),
    ("ｅｘａｍｐｌｅ.com", "example.com"),
    ("exam\u00adple.com", "example.com"),
    ("１２７.0.0.1", "127.0.0.1"),
    ("a_b.bücher.example", "a_b.bücher.example"),
    ("İ.example", "i\u0307.example"),
    # A capital sigma is never the final one, wherever it stands.
    ("ΑΣ.example", "ασ.example"),
    ("ΣΑΣ", "σασ"),
    ("\U0001d6d3.example", "σ.example"),
]


@pytest.mark.parametrize(("host", "form"), SAME)
def test_what_means_the_same_by_both_rules(host: str, form: str, installed: bool) -> None:
    assert host_of(host) == encoded(form)


# Name, and its one form with the package; without it is refused with words that name the extra.
ONLY_WITH_IDNA = [
    ("faß.test", "faß.test"),
    ("FAẞ.test", "faß.test"),
    ("βόλος.com", "βόλος.com"),
    ("क्\u200dष.test", "क्\u200dष.test"),
    ("نامه\u200cای.com", "نامه\u200cای.com"),
    # Beyond Unicode 3.2.
    ("Ⱡ.test", "ⱡ.test"),
    ("\U0001f130.test", "a.test"),
    ("Ꞑ.test", "ꞑ.test"),
    ("\U0002b740.test", "\U0002b740.test"),
    # Mapped otherwise since then.
    ("Ꭰ.test", "Ꭰ.test"),
    ("\U0002f868.test", "㛼.test"),
]


@pytest.mark.parametrize(("host", "form"), ONLY_WITH_IDNA)
def test_what_would_mean_another_domain(host: str, form: str, installed: bool) -> None:
    if installed:
        assert host_of(host) == encoded(form)
        return
    with pytest.raises(RequestError) as caught:
        parse_url(f"wss://{host}/")
    assert caught.value.code == "invalid-payload"
    assert caught.value.message.startswith("payload.url: ")
    assert EXTRA in caught.value.message


BAD = [
    *("\ud800.test", "a\ufffdb.test", "a\u202eb.test", "a\ue000.test"),
    *("é" * 64 + ".test", "例" * 63, "..é", "é..test", "a，é", "xn--é.test"),
]
ONLY_BAD_WITH_IDNA = [
    "\u0301a.test",
    "☕.test",
    "i❤.ws",
    "ab--é.test",
    "-é.test",
    "é-.test",
    "a·b.test",
]


@pytest.mark.parametrize("host", BAD)
def test_no_names(host: str, installed: bool) -> None:
    with pytest.raises(RequestError, match=r"\Apayload.url: ") as caught:
        parse_url(f"wss://{host}/")
    assert host not in caught.value.message
    assert EXTRA not in caught.value.message


@pytest.mark.parametrize("host", ONLY_BAD_WITH_IDNA)
def test_the_checks_of_idna_2008(host: str) -> None:
    with pytest.raises(RequestError, match="not a valid international host name"):
        parse_url(f"wss://{host}/")


def assigned() -> Iterator[str]:
    """Yield the characters of Unicode 3.2 without the tens of thousands that map to themselves."""
    for number in range(0x80, 0x2FA20):
        character = chr(number)
        name = unicodedata.name(character, "")
        if not name.startswith(("CJK UNIFIED", "HANGUL SYLLABLE", "YI SYLLABLE")):
            yield character


def test_no_character_means_another_domain_without_idna(monkeypatch: pytest.MonkeyPatch) -> None:
    def meanings() -> dict[str, str]:
        found = {}
        for character in assigned():
            try:
                host, _ = normalize_host(f"a{character}b.test", bracketed=False)
            except ValueError:
                continue
            found[character] = host
        return found

    by_uts_46 = meanings()
    monkeypatch.setitem(sys.modules, "idna", None)
    by_idna_2003 = meanings()
    both = by_uts_46.keys() & by_idna_2003.keys()
    assert len(both) > 1500
    assert {each: by_idna_2003[each] for each in both} == {each: by_uts_46[each] for each in both}


@pytest.mark.parametrize("pattern", ["Faß.test", "*.FAẞ.test"])
def test_allow_host_goes_by_the_same_rules(pattern: str, installed: bool) -> None:
    if not installed:
        with pytest.raises(ValueError, match=r"\Aallow_hosts: .*wsplugin\[idn\]"):
            Settings(allow_hosts=(pattern,))
        return
    settings = Settings(allow_hosts=(pattern,))
    host = pattern.replace("*", "a")
    check_policy(parse_url(f"wss://{host}/"), settings)
    check_policy(parse_url("wss://a.xn--fa-hia.test/"), Settings(allow_hosts=("*.faß.test",)))
    with pytest.raises(RequestError, match="--allow-host"):
        check_policy(parse_url(f"wss://{host.lower().replace('ß', 'ss')}/"), settings)


@pytest.mark.usefixtures("without_idna")
def test_a_sigma_at_the_end_of_a_pattern() -> None:
    assert Settings(allow_hosts=("*.ΑΣ",)).allow_hosts == ("*.xn--mxa0b",)


WITHOUT = "import sys; sys.modules['idna'] = None; from wsplugin.cli import main; main()"


def test_the_process_with_and_without() -> None:
    payload = {"url": "wss://faß.test/"}
    with Plugin("--allow-host", "fass.test") as plugin:
        error = plugin.request("websocket-create", payload)["error"]
        assert error["code"] == "forbidden"
    with Plugin(command=[sys.executable, "-c", WITHOUT]) as plugin:
        error = plugin.request("websocket-create", payload)["error"]
        assert error["code"] == "invalid-payload"
        assert EXTRA in error["errMsg"]


@pytest.mark.parametrize(("host", "loads"), [("xn--fa-hia.test", False), ("faß.test", True)])
def test_the_package_is_loaded_with_the_first_international_name(host: str, loads: bool) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "wsplugin"]
    with Plugin("--allow-host", "other.test", command=command) as plugin:
        answer = plugin.request("websocket-create", {"url": f"wss://{host}/"})
        assert answer["error"]["code"] == "forbidden"
        plugin.finish()
    modules = {line.rsplit(b"|")[-1].strip() for line in plugin.stderr.splitlines()}
    assert (b"idna" in modules) == loads
