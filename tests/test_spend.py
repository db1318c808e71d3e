"""What the user sees of money: spend, status, down, and the line that every other command prints."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cli.app import run
from launcher.cloud import rentals
from launcher.cost.ledger import LOCAL, Ledger, LedgerEntry, LedgerEvent, default_ledger
from launcher.cost.offer import RENTED
from launcher.spend import spend
from tests.rental_servers import KEY, Emulated, emulated

HOUR_S = 3600.0
JANUARY = 1_767_225_600.0  # 2026-01-01 00:00 UTC
HEAD = "launcher-g-1-3fa2-head"


def line(rental: str, at: float, event: str, **changes: object) -> LedgerEntry:
    fields = {"run_id": "veran-1", "group": "g", "provider": "vast", "usd_per_hour": 0.5, "price_source": "live"}
    return LedgerEntry(at=at, event=LedgerEvent(event), rental=rental, **(fields | changes))  # type: ignore[arg-type]


def machine(
    rental: str, began: float, hours: float, usd_per_hour: float | None, **changes: object
) -> list[LedgerEntry]:
    """The lines of one machine, from the intent to the confirmed end."""
    end = began + hours * HOUR_S
    told = {"instance_id": f"{rental}-id", "usd_per_hour": usd_per_hour, "price_source": "vast's list"} | changes
    return [
        line(rental, began - 60, "intent", **changes),
        line(rental, began + 1, "started", since=began, **told),
        line(rental, end, "stopped", **told),
        line(rental, end + 20, "confirmed_gone", **told),
        line(rental, end + 20, "confirmed_gone", usd=None if usd_per_hour is None else usd_per_hour * hours, **changes),
    ]


@pytest.fixture
def ledger(own_home: Path) -> Ledger:
    return default_ledger()


def fill(ledger: Ledger, *entries: LedgerEntry) -> None:
    for entry in entries:
        ledger.append(entry)


# --- spend -----------------------------------------------------------------------------------------------------------


def test_a_rental_costs_its_hours_at_the_price_that_was_charged(ledger: Ledger) -> None:
    fill(ledger, *machine("launcher-g-1", JANUARY, 2.0, 0.42))
    found = spend(ledger.rentals(), now=JANUARY + 1e6)
    [row] = found["lines"]
    assert found["total_usd"] == row["usd"] == pytest.approx(0.84)
    assert row["hours"] == pytest.approx(2.0) and row["usd_per_hour"] == 0.42 and row["price_source"] == "vast's list"
    assert row["started_at"] == "2026-01-01T00:00:00+00:00" and row["ended_at"] == "2026-01-01T02:00:00+00:00"
    assert row["state"] == "ended" and row["machines"] == 1


def test_what_is_open_costs_until_now(ledger: Ledger) -> None:
    fill(ledger, *machine("launcher-g-1", JANUARY, 2.0, 0.42)[:2])
    found = spend(ledger.rentals(), now=JANUARY + 10 * HOUR_S)
    assert found["total_usd"] == pytest.approx(4.2) and found["lines"][0]["ended_at"] is None


def test_unknown_is_named_and_never_zero(ledger: Ledger) -> None:
    fill(ledger, *machine("launcher-x-1", JANUARY, 2.0, None, run_id="(unknown)"))
    found = spend(ledger.rentals(), now=JANUARY + 1e6)
    assert found["total_usd"] is None and found["unknown"] == ["launcher-x-1"] and found["lines"][0]["usd"] is None
    fill(ledger, *machine("launcher-g-1", JANUARY, 2.0, 0.42))
    found = spend(ledger.rentals(), now=JANUARY + 1e6)
    assert found["total_usd"] == pytest.approx(0.84) and found["unknown"] == ["launcher-x-1"]


def test_sums_by_run_month_and_provider(ledger: Ledger) -> None:
    fill(ledger, *machine("launcher-g-1", JANUARY, 1.0, 1.0, run_id="a"))
    fill(ledger, *machine("launcher-g-2", JANUARY + 40 * 24 * HOUR_S, 2.0, 1.0, run_id="a", provider="runpod"))
    fill(ledger, *machine("launcher-g-3", JANUARY, 4.0, 1.0, run_id="b"))
    found = {by: spend(ledger.rentals(), JANUARY + 1e7, by) for by in ("run", "month", "provider")}  # type: ignore[arg-type]
    sums = {by: {row[by]: round(row["usd"], 6) for row in answer["lines"]} for by, answer in found.items()}
    assert sums == {
        "run": {"a": 3.0, "b": 4.0},
        "month": {"2026-01": 5.0, "2026-02": 2.0},
        "provider": {"vast": 5.0, "runpod": 2.0},
    }
    assert all(answer["total_usd"] == pytest.approx(7.0) for answer in found.values())


def test_an_empty_ledger_is_nothing_spent(ledger: Ledger) -> None:
    assert spend(ledger.rentals(), now=JANUARY) == {"total_usd": 0.0, "unknown": [], "lines": []}


def test_a_local_run_without_a_price_is_unknown(ledger: Ledger) -> None:
    fill(ledger, line("local-1", JANUARY, "started", provider=LOCAL, usd_per_hour=None, price_source=""))
    [row] = spend(ledger.rentals(), now=JANUARY + 1e6)["lines"]
    assert row["usd"] is None and row["hours"] is None


@given(
    rentals_=st.lists(
        st.tuples(
            st.floats(0, 1e7), st.floats(0, 1e3), st.one_of(st.none(), st.floats(1e-4, 1e3)), st.sampled_from("ab")
        ),
        max_size=6,
    ),
    by=st.sampled_from(["run", "month", "provider"]),
)
def test_groups_add_up_to_the_total(rentals_: list[tuple[float, float, float | None, str]], by: str) -> None:
    from launcher.cost.rental import Rental

    found = []
    for number, (after, hours, price, run_id) in enumerate(rentals_):
        first, *rest = machine(f"launcher-g-{number}", JANUARY + after, hours, price, run_id=run_id)
        rental = Rental.beginning(first)
        for entry in rest:
            rental = rental.with_line(entry)
        found.append(rental)
    whole, grouped = spend(found, JANUARY + 1e9), spend(found, JANUARY + 1e9, by)  # type: ignore[arg-type]
    assert whole["total_usd"] == grouped["total_usd"] and whole["unknown"] == grouped["unknown"]
    assert sum(row["rentals"] for row in grouped["lines"]) == len(found)
    assert sum(row["usd"] or 0.0 for row in grouped["lines"]) == pytest.approx(whole["total_usd"] or 0.0)
    assert sorted(name for row in grouped["lines"] for name in row["unknown"]) == sorted(whole["unknown"])


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Emulated]:
    """The emulated clouds as those of all three accounts, at this moment."""
    monkeypatch.setattr(rentals, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LAUNCHER_SANDBOX", raising=False)
    with emulated() as running:
        running.time.advance(max(0.0, time.time() - running.time.now()))
        for provider in RENTED:
            monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
            monkeypatch.setenv(f"LAUNCHER_{provider.upper()}_URL", f"{running.url}/{provider}")
        yield running


def intend(ledger: Ledger, hours: float = 1.0, rental: str = "launcher-g-1", at: float | None = None) -> None:
    now = time.time() if at is None else at
    fill(ledger, line(rental, now, "intent", deadline_at=now + hours * HOUR_S, max_usd=5.0, offer="1x RTX 4090"))


def test_spend_as_json_is_json_alone(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    fill(ledger, *machine("launcher-g-1", JANUARY, 2.0, 0.42))
    assert run(["spend", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_usd"] == pytest.approx(0.84)
    assert run(["spend", "--by", "month"]) == 0
    shown = capsys.readouterr().out
    assert "2026-01" in shown and "total: 0.8400 usd" in shown
    assert run(["spend", "--by", "moon"]) == 2


def test_status_joins_lists_and_ledger(ledger: Ledger, clouds: Emulated, capsys: pytest.CaptureFixture[str]) -> None:
    intend(ledger)
    machine_there = clouds.rent("vast", HEAD)
    clouds.rent("lambda", "my-notebook")
    clouds.rent("runpod", "launcher-other-1-head")
    assert run(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    known, unknown = found["rentals"]
    assert (known["rental"], known["id"], known["run"]) == ("launcher-g-1", machine_there.id, "veran-1")
    assert known["status"] == "creating" and known["wrong"] == [] and known["max_usd"] == 5.0
    assert "unknown" in unknown["wrong"][0]
    assert found["others"] == 1 and found["unreachable"] == {} and found["watcher"] is None
    assert len(clouds.rented()) == 3  # looking ends nothing


def test_status_says_when_a_provider_does_not_answer(
    ledger: Ledger, clouds: Emulated, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    intend(ledger)
    monkeypatch.setenv("LAUNCHER_VAST_URL", f"{clouds.url}/nobody")
    assert run(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "vast" in found["unreachable"] and found["rentals"][0]["status"] == "not asked"
    assert run(["status"]) == 0
    assert "vast: not asked, so what is rented there is not known" in capsys.readouterr().out


def test_down_ends_one_run_or_everything(ledger: Ledger, clouds: Emulated, capsys: pytest.CaptureFixture[str]) -> None:
    intend(ledger)
    clouds.rent("vast", HEAD)
    clouds.rent("runpod", "launcher-other-1-head")
    clouds.rent("lambda", "my-notebook")
    assert run(["down"]) == 2 and run(["down", "nobody", "--yes"]) == 2
    assert "open: launcher-g-1" in capsys.readouterr().err
    assert run(["down", "veran-1", "--yes"]) == 0
    assert "launcher-g-1: gone" in capsys.readouterr().out
    assert [instance.order.name for instance in clouds.rented()] == ["launcher-other-1-head", "my-notebook"]
    assert run(["down", "--all", "--yes"]) == 0
    assert [instance.order.name for instance in clouds.rented()] == ["my-notebook"]
    assert not [rental for rental in ledger.rentals() if rental.is_open]


def test_down_asks_first(ledger: Ledger, clouds: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    intend(ledger)
    clouds.rent("vast", HEAD)
    monkeypatch.setattr("typer.confirm", lambda _: False)
    assert run(["down", "--all"]) == 3
    assert len(clouds.rented()) == 1


def test_watch_once_ends_what_is_overdue(
    ledger: Ledger, clouds: Emulated, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    intend(ledger, at=time.time() - 2 * HOUR_S)
    clouds.rent("vast", HEAD)
    assert run(["watch", "--once"]) == 0
    assert "launcher-g-1: ended, confirmed" in capsys.readouterr().out and clouds.rented() == []
    monkeypatch.setenv("LAUNCHER_VAST_URL", f"{clouds.url}/nobody")
    assert run(["watch", "--once"]) == 1
    assert "vast: not asked" in capsys.readouterr().out


def test_other_commands_say_one_line_when_something_is_overdue(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["runs", "--json"]) == 0
    assert "rented" not in capsys.readouterr().err
    for number in (1, 2):
        intend(ledger, rental=f"launcher-g-{number}", at=time.time() - 2 * HOUR_S)
    assert run(["runs", "--json"]) == 0
    shown = capsys.readouterr()
    lines = [text for text in shown.err.splitlines() if text.startswith("rented:")]
    assert lines == ["rented: launcher-g-1 at vast and 1 more: overdue; `launcher watch --once` ends it"]
    assert json.loads(shown.out) == []
    assert run(["spend", "--json"]) == 0
    assert "rented:" not in capsys.readouterr().err


def test_a_damaged_ledger_does_not_stop_other_commands(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    intend(ledger)
    ledger.path.write_text("rubbish\n" + ledger.path.read_text())
    assert run(["runs", "--json"]) == 0
    assert "not a ledger line" in capsys.readouterr().err
    assert run(["spend"]) == 1
