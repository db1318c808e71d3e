"""The user's settings: defaults without a file, every fault at once with one, and no secret in any message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launcher.addresses import SCHEMES, parse_address
from launcher.cli.app import run
from launcher.errors import BadInput
from launcher.settings import Settings, in_force, load_settings, settings_file

SECRET = "T0SECRET"
WEBHOOK = f"https://hooks.slack.com/services/{SECRET}"


def write(content: Any) -> Path:
    path = settings_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def faults(content: Any) -> list[str]:
    path = write(content)
    with pytest.raises(BadInput) as error:
        load_settings()
    assert all(line.startswith(f"{path}: ") for line in error.value.faults)
    return [line.removeprefix(f"{path}: ") for line in error.value.faults]


def test_without_a_file_the_defaults_hold(own_home: Path) -> None:
    assert settings_file() == own_home / "settings.yaml"
    settings = load_settings()
    assert (settings.max_usd_per_month, settings.max_usd_at_once, settings.notify) == (None, None, ())
    assert (settings.price_tolerance, settings.providers) == (0.10, ("vast", "lambda", "runpod"))
    assert {setting.source for setting in in_force(settings)} == {"default"}


def test_a_file_says_what_differs() -> None:
    write({"max_usd_per_month": "$50", "max_usd_at_once": 20, "notify": [WEBHOOK], "providers": ["lambda"]})
    settings = load_settings()
    assert (settings.max_usd_per_month, settings.max_usd_at_once, settings.providers) == (50.0, 20.0, ("lambda",))
    assert settings.price_tolerance == 0.10
    assert {s.name: s.source for s in in_force(settings)}["price_tolerance"] == "default"
    assert {s.name: s.source for s in in_force(settings)}["providers"] == "file"


def test_every_fault_comes_at_once() -> None:
    found = faults(
        {
            "max_usd_per_month": 0,
            "max_usd_at_once": "lots",
            "price_tolerance": 10,
            "providers": ["aws"],
            "notify": ["ftp://example.org/x", 5],
            "max_usd_a_month": 3,
        }
    )
    assert found == [
        "max_usd_per_month: 0: an amount in US dollars above 0 and finite is needed; for 'no limit' leave the field "
        "out",
        "max_usd_at_once: 'lots': an amount above 0 in US dollars is needed, such as 15 usd or $15",
        "notify.0: (not shown): an address that begins with https://, http://, ntfys://, ntfy://, smtps://, smtp:// "
        "is needed",
        "notify.1: text is needed; put the address in quotes",
        "price_tolerance: 10: should be less than or equal to 1",
        "providers.0: 'aws': one of vast, lambda, runpod is needed",
        "max_usd_a_month: unknown key; did you mean max_usd_per_month?",
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"max_usd_per_month": 10, "max_usd_at_once": 20}, "max_usd_at_once: 20: above max_usd_per_month 10"),
        ({"providers": []}, "providers: a list: one or more of vast, lambda, runpod are needed"),
        ({"notify": {"url": WEBHOOK}}, "notify: a mapping: a list of addresses is needed"),
        ({"notify": [WEBHOOK, WEBHOOK]}, "notify.1: https://hooks.slack.com/...: stands there twice"),
        ({"max_usd_per_month": float("nan")}, "max_usd_per_month: nan: an amount in US dollars above 0 and finite"),
    ],
)
def test_what_cannot_hold_is_refused(content: dict[str, Any], line: str) -> None:
    assert [fault[: len(line)] for fault in faults(content)] == [line]


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "notify: [a\n", "a: 1\n---\nb: 2\n", "\x00"])
def test_what_is_no_mapping_is_one_line(content: str) -> None:
    write(content)
    with pytest.raises(BadInput) as error:
        load_settings()
    assert len(error.value.faults) == 1


# --- addresses -------------------------------------------------------------------------------------------------------


def test_addresses_of_each_kind() -> None:
    assert parse_address(WEBHOOK).kind == "webhook"
    ntfy = parse_address("ntfys://:tk_a%2Fb@push.example.org:8443/runs")
    assert (ntfy.url, ntfy.topic, ntfy.user, ntfy.password) == ("https://push.example.org:8443/", "runs", "", "tk_a/b")
    assert parse_address("https://ntfy.sh/runs").topic == "runs"
    assert parse_address("ntfy://[::1]:80/runs").url == "http://[::1]:80/"
    mail = parse_address("smtps://me%40example.org:p%3Aw@mail.example.org/?to=a@b.c,d@e.f")
    assert (mail.user, mail.password, mail.port, mail.is_encrypted) == ("me@example.org", "p:w", 465, True)
    assert (mail.sender, mail.recipients) == ("me@example.org", ("a@b.c", "d@e.f"))
    assert parse_address("smtp://mail.example.org/?to=a@b.c").port == 587
    assert parse_address("smtp://mail.example.org/?to=a@b.c").sender == "a@b.c"


@pytest.mark.parametrize(
    "text",
    [
        "",
        SECRET,
        f"https:///{SECRET}",
        f"https://me:{SECRET}@example.org/",
        f"https://host:port{SECRET}/",
        f"ftp://example.org/{SECRET}",
        f"ntfys://example.org/{SECRET}/more",
        "ntfys://example.org/",
        f"smtp://me:{SECRET}@example.org/",
        f"smtp://me:{SECRET}@example.org/?to=nobody",
        f"smtp://me:{SECRET}@example.org/?to=a@b.c&cc={SECRET}",
        f"https://example.org/{SECRET} ",
        f"https://example.org/{SECRET}\n",
        f"https://[{SECRET}/",
    ],
)
def test_what_is_no_address_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"needed|missing|known|for ntfy") as error:
        parse_address(text)
    assert SECRET not in str(error.value)
    assert all(SECRET not in line for line in faults({"notify": [text]}))


@given(
    st.sampled_from([*SCHEMES, "ftp", ""]),
    st.sampled_from(["", f"{SECRET}@", f"me:{SECRET}@", f"me:{SECRET}:{SECRET}@"]),
    st.sampled_from(["example.org", "[::1]", "", "[", "a:b:c"]),
    st.text(max_size=8),
)
def test_no_address_ever_shows_its_secret(scheme: str, login: str, host: str, noise: str) -> None:
    text = f"{scheme}://{login}{host}/{SECRET}{noise}?to={SECRET}@b.c"
    try:
        address = parse_address(text)
    except ValueError as fault:
        assert SECRET not in str(fault)
    else:
        assert SECRET not in address.shown and SECRET not in repr(address)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_shows_what_is_in_force_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    path = write({"max_usd_per_month": 50, "notify": [WEBHOOK]})
    assert run(["settings"]) == 0
    shown = capsys.readouterr().out
    assert str(path) in shown and "https://hooks.slack.com/..." in shown and SECRET not in shown
    assert run(["settings", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["file"] == str(path) and answer["exists"] is True
    assert answer["settings"]["max_usd_per_month"] == {"value": 50.0, "source": "file"}
    assert answer["settings"]["max_usd_at_once"] == {"value": None, "source": "default"}
    assert answer["settings"]["notify"]["value"] == ["https://hooks.slack.com/..."]


def test_the_command_names_the_faults(capsys: pytest.CaptureFixture[str]) -> None:
    write({"max_usd_per_month": -1})
    assert run(["settings", "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "max_usd_per_month: -1: " in said.err


def test_settings_are_plain_data() -> None:
    assert Settings.model_validate(Settings().model_dump(mode="json")) == Settings()
