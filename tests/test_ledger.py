"""The ledger: nothing is lost, nothing is rewritten, and an unknown price never reads as free."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.cost import ledger as module
from launcher.cost.ledger import LOCAL, Ledger, LedgerEntry, LedgerEvent, default_ledger, launcher_home
from launcher.errors import BadInput, LauncherError


def entry(rental: str = "vast-1", at: float = 1000.0, event: str = "started", **changes: object) -> LedgerEntry:
    fields = {
        "run_id": "veran-1", "group": "g1", "provider": "vast", "usd_per_hour": 0.36, "max_usd": 5.0,
        "deadline_at": 10_000.0, "offer": "1x RTX 4090",
    }  # fmt: skip
    return LedgerEntry(at=at, event=LedgerEvent(event), rental=rental, **(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home" / "ledger.jsonl")


def fill(ledger: Ledger, *entries: LedgerEntry) -> None:
    for line in entries:
        ledger.append(line)


# --- writing and reading ---------------------------------------------------------------------------------------------


def test_what_is_appended_is_read_back_in_order(ledger: Ledger) -> None:
    lines = [
        entry(event=event, at=at) for at, event in enumerate(("intent", "started", "stopped", "confirmed_gone"), 1)
    ]
    fill(ledger, *lines)
    assert ledger.entries() == lines and ledger.torn_lines == []
    raw = json.loads(ledger.path.read_text().splitlines()[0])
    assert raw["run_id"] == "veran-1" and raw["usd_per_hour"] == 0.36 and raw["deadline_at"] == 10_000.0


def test_a_line_is_never_rewritten(ledger: Ledger) -> None:
    fill(ledger, entry("a"))
    before = ledger.path.read_bytes()
    fill(ledger, entry("b", note="a note\nof two lines #torn"))
    assert ledger.path.read_bytes().startswith(before)
    assert ledger.entries()[1].note == "a note\nof two lines #torn"


def test_the_home_is_where_the_variable_says(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launcher_home() == own_home
    assert default_ledger().path == own_home / "ledger.jsonl"
    monkeypatch.delenv("LAUNCHER_HOME")
    assert launcher_home() == Path.home() / ".launcher"


def test_no_ledger_is_an_empty_one(ledger: Ledger) -> None:
    assert ledger.entries() == [] and ledger.open_rentals() == [] and ledger.total_usd(now=5.0).usd == 0
    assert not ledger.path.exists()


APPEND_MANY = """
import sys
from pathlib import Path
from launcher.cost.ledger import Ledger, LedgerEntry, LedgerEvent
ledger, name = Ledger(Path(sys.argv[1])), sys.argv[2]
for number in range(60):
    ledger.append(LedgerEntry(1.0, LedgerEvent.STARTED, "r", "g", "vast", f"{name}-{number}", 0.36, note="x" * 300))
"""


def test_two_processes_at_once_lose_nothing(ledger: Ledger) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", APPEND_MANY, str(ledger.path), name]) for name in ("a", "b")]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    written = [line.rental for line in ledger.entries()]
    assert sorted(written) == sorted(f"{name}-{number}" for name in ("a", "b") for number in range(60))
    assert [r for r in written if r.startswith("a")] == [f"a-{number}" for number in range(60)]


def test_every_line_is_on_the_disk_before_append_returns(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_size), real(handle)))
    fill(ledger, entry("a"), entry("b"))
    assert ledger.path.stat().st_size in synced


def test_a_lock_held_for_ever_is_a_clear_error(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.05)
    ledger.path.parent.mkdir(parents=True)
    with FileLock(f"{ledger.path}.lock"), pytest.raises(LauncherError, match="another process has held its lock"):
        ledger.append(entry())


# --- crashes ---------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(cut=st.integers(1, 400))
def test_a_last_line_cut_off_anywhere_is_left_out_and_the_next_one_stands(tmp_path: Path, cut: int) -> None:
    ledger = Ledger(tmp_path / "cut.jsonl")
    ledger.path.unlink(missing_ok=True)
    fill(ledger, entry("a"), entry("b"))
    whole = ledger.path.read_bytes()
    second = len(whole) // 2
    kept = whole[: max(second, len(whole) - cut)]
    ledger.path.write_bytes(kept)
    complete = ["a", "b"] if len(kept) >= len(whole) - 1 else ["a"]

    assert [line.rental for line in ledger.entries()] == complete
    assert ledger.torn_lines == ([2] if len(kept) > second and complete == ["a"] else [])
    ledger.append(entry("c"))
    assert [line.rental for line in ledger.entries()] == [*complete, "c"]
    assert ledger.path.read_bytes().startswith(kept)


def test_a_torn_line_is_reported(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    fill(ledger, entry("a"))
    with ledger.path.open("ab") as file:
        file.write(b'{"at": 12, "eve')
    with caplog.at_level(logging.WARNING):
        ledger.entries()
    assert "cut off by a crash" in caplog.text and "line 2" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [b"rubbish", b"[1, 2]", b"17", b'{"at": 1}', b"\xff\xfe", b'{"event": "eaten"}'],
    ids=["text", "list", "number", "fields missing", "bytes", "unknown event"],
)
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(ledger: Ledger, damage: bytes) -> None:
    fill(ledger, entry("a"), entry("b"), entry("c"))
    lines = ledger.path.read_bytes().split(b"\n")
    ledger.path.write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    with pytest.raises(LauncherError, match=r"ledger\.jsonl: line 2: not a ledger line"):
        ledger.open_rentals()


def test_a_price_turned_to_zero_by_hand_is_an_error_too(ledger: Ledger) -> None:
    fill(ledger, entry("a"), entry("b"))
    ledger.path.write_text(ledger.path.read_text().replace("0.36", "0.0"))
    with pytest.raises(LauncherError, match=r"line 1.*usd_per_hour"):
        ledger.entries()


def test_fields_of_a_later_version_are_passed_over(ledger: Ledger) -> None:
    fill(ledger, entry("a"))
    raw = json.loads(ledger.path.read_text()) | {"region": "eu"}
    ledger.path.write_text(json.dumps(raw) + "\n")
    assert ledger.entries() == [entry("a")]


def test_a_full_disk_is_one_clear_line_and_the_ledger_stays_readable(ledger: Ledger) -> None:
    fill(ledger, entry("a"))
    size = ledger.path.stat().st_size
    program = (
        "import resource, sys; from pathlib import Path; from launcher.cost.ledger import *; "
        "from launcher.errors import LauncherError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 50}, {size + 50}))\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "try: ledger.append(ledger.entries()[0].later(LedgerEvent.STOPPED))\n"
        "except LauncherError as fault: print(fault)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ledger.path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "cannot be read or written" in done.stdout and len(done.stdout.splitlines()) == 1
    assert [line.rental for line in ledger.entries()] == ["a"]
    ledger.append(entry("b"))
    assert [line.rental for line in ledger.entries()] == ["a", "b"]


# --- prices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("price", [None, 0, 0.0, -1.0, math.nan, math.inf])
def test_nothing_is_rented_without_a_price(ledger: Ledger, price: float | None) -> None:
    with pytest.raises(BadInput, match="usd_per_hour"):
        ledger.append(entry(usd_per_hour=price))
    assert not ledger.path.exists()


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_a_local_price_may_be_unknown_but_not_nonsense(ledger: Ledger, price: float) -> None:
    ledger.append(entry(provider=LOCAL, usd_per_hour=None))
    with pytest.raises(BadInput, match="usd_per_hour"):
        ledger.append(entry(provider=LOCAL, usd_per_hour=price))


def test_all_faults_of_an_entry_at_once(ledger: Ledger) -> None:
    with pytest.raises(BadInput) as caught:
        ledger.append(entry(run_id="", at=math.nan, max_usd=0.0, deadline_at=-5.0, usd=-1.0))
    assert len(caught.value.faults) == 5


# --- what is rented, and what it has cost ----------------------------------------------------------------------------


def test_open_is_what_is_not_confirmed_gone_an_intent_included(ledger: Ledger) -> None:
    fill(
        ledger,
        entry("intended", event="intent"),
        entry("running", event="heartbeat"),
        entry("stopped", event="stopped"),
        entry("gone", event="confirmed_gone"),
        entry("here", provider=LOCAL),
    )
    assert [line.rental for line in ledger.open_rentals()] == ["intended", "running", "stopped"]


def test_overdue_is_past_the_deadline_or_over_the_cap(ledger: Ledger) -> None:
    fill(
        ledger,
        entry("late", at=0.0, deadline_at=7200.0),
        entry("dear", at=0.0, deadline_at=None, usd_per_hour=2.0, max_usd=3.0),
        entry("neither", at=0.0, deadline_at=9000.0),
        entry("late and gone", at=0.0, deadline_at=7200.0, event="confirmed_gone"),
    )
    assert ledger.overdue(now=5000.0) == []
    assert [line.rental for line in ledger.overdue(now=6000.0)] == ["dear"]
    assert [line.rental for line in ledger.overdue(now=8000.0)] == ["late", "dear"]


def test_a_rental_costs_from_its_first_line_to_its_confirmed_end(ledger: Ledger) -> None:
    fill(ledger, entry("a", at=0.0, event="intent", usd_per_hour=2.0), entry("a", at=600.0, usd_per_hour=2.0))
    assert ledger.total_usd(now=3600.0).usd == pytest.approx(2.0)
    fill(ledger, entry("a", at=3600.0, event="stopped", usd_per_hour=2.0))
    assert ledger.total_usd(now=5400.0).usd == pytest.approx(3.0)  # still spending until it is confirmed gone
    fill(ledger, entry("a", at=5400.0, event="confirmed_gone", usd_per_hour=2.0))
    assert ledger.total_usd(now=99_999.0).usd == pytest.approx(3.0)


def test_a_bill_counts_before_the_reckoning(ledger: Ledger) -> None:
    fill(ledger, entry("a", at=0.0), entry("a", at=3600.0, event="confirmed_gone", usd=0.5))
    assert ledger.total_usd(now=3600.0).usd == 0.5


def test_totals_of_a_run_and_of_a_group(ledger: Ledger) -> None:
    for run, group, rental in (("r1", "g1", "a"), ("r1", "g1", "b"), ("r2", "g1", "c"), ("r3", "g2", "d")):
        fill(ledger, entry(rental, at=0.0, run_id=run, group=group, usd_per_hour=1.0))
        fill(ledger, entry(rental, 3600.0, "confirmed_gone", run_id=run, group=group, usd_per_hour=1.0))
    assert ledger.total_usd(now=9e9).usd == pytest.approx(4.0)
    assert ledger.total_usd(now=9e9, group="g1").usd == pytest.approx(3.0)
    assert ledger.total_usd(now=9e9, run_id="r1").usd == pytest.approx(2.0)
    assert ledger.total_usd(now=9e9, run_id="r1", group="g2").usd == 0


def test_unknown_costs_are_named_not_counted_as_nothing(ledger: Ledger) -> None:
    fill(
        ledger,
        entry("priced", at=0.0, event="confirmed_gone", usd=0.25),
        entry("no price", at=0.0, provider=LOCAL, usd_per_hour=None, event="confirmed_gone"),
        entry("ended without a word", at=0.0, provider=LOCAL),
    )
    spend = ledger.total_usd(now=9e9)
    assert spend.usd == 0.25 and spend.unknown == ("no price", "ended without a word")


def test_a_run_folder_gets_its_own_lines(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, entry("a"), entry("b", run_id="other"), entry("a", event="confirmed_gone"))
    ledger.copy_run("veran-1", tmp_path / "ledger.jsonl")
    assert [line.rental for line in Ledger(tmp_path / "ledger.jsonl").entries()] == ["a", "a"]
