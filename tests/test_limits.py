"""Limits across runs: never a launch that could break one, and what is not known never counts as nothing."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from launcher.cost.ledger import Ledger
from launcher.cost.ledger_entry import LOCAL, LedgerEntry, LedgerEvent
from launcher.cost.limits import SpendLimits, Standing, refuse_over_limits, reserve, standing, worst_case_usd
from launcher.cost.rental import Rental
from launcher.errors import BadInput, LauncherError, Refused

HOUR_S = 3600.0
UTC = ZoneInfo("UTC")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
MONTH_START = datetime(2026, 11, 1, tzinfo=UTC).timestamp()


def entry(rental: str = "a", at: float = NOW, event: str = "intent", **changes: object) -> LedgerEntry:
    fields = {"run_id": "veran-1", "group": "g", "provider": "vast", "usd_per_hour": 1.0, "max_usd": 5.0}
    return LedgerEntry(at=at, event=LedgerEvent(event), rental=rental, **(fields | changes))  # type: ignore[arg-type]


def rental(*lines: LedgerEntry) -> Rental:
    found = Rental.beginning(lines[0])
    for line in lines[1:]:
        found = found.with_line(line)
    return found


def gone(usd: float | None, at: float = NOW, **changes: object) -> Rental:
    first = entry(at=at - HOUR_S, event="intent", **changes)
    return rental(first, dataclasses.replace(first, at=at, event=LedgerEvent.CONFIRMED_GONE, usd=usd))


def stand(*rentals: Rental, now: float = NOW) -> Standing:
    return standing(rentals, now, UTC)


def allows(rentals: Sequence[Rental], launch_usd: float, limits: SpendLimits, now: float = NOW) -> bool:
    try:
        refuse_over_limits(standing(rentals, now, UTC), launch_usd, limits)
    except Refused:
        return False
    return True


# --- the worst case of one rental ------------------------------------------------------------------------------------


def test_an_open_rental_counts_at_its_cap_or_until_its_deadline() -> None:
    since = NOW - HOUR_S
    assert worst_case_usd(rental(entry(at=since)), NOW) == 5.0
    assert worst_case_usd(rental(entry(at=since, deadline_at=NOW + 2 * HOUR_S)), NOW) == pytest.approx(3.0)
    assert worst_case_usd(rental(entry(at=since, max_usd=None, deadline_at=NOW + HOUR_S)), NOW) == pytest.approx(2.0)


def test_several_machines_each_spend() -> None:
    three = entry(at=NOW, machines=3, max_usd=None, deadline_at=NOW + HOUR_S)
    assert worst_case_usd(rental(three), NOW) == pytest.approx(3.0)


def test_more_machines_than_were_meant_count_as_many_as_there_are() -> None:
    lines = [entry(max_usd=None, deadline_at=NOW + HOUR_S)]
    lines += [entry(event="started", max_usd=None, instance_id=name, usd_per_hour=2.0) for name in ("i1", "i2")]
    assert worst_case_usd(rental(*lines), NOW) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (entry(max_usd=None), "no cap, and no deadline"),
        (entry(at=NOW - HOUR_S, deadline_at=NOW - 1), "past its deadline or over its cap"),
        (entry(at=NOW - 6 * HOUR_S), "past its deadline or over its cap"),
        (entry(max_usd=None, deadline_at=NOW + HOUR_S, instance_id="i1", usd_per_hour=None), "at a known price"),
    ],
)
def test_what_nothing_bounds_lets_nothing_more_through(line: LedgerEntry, why: str) -> None:
    now = stand(rental(line))
    assert math.isinf(now.open_usd)
    for limits in (SpendLimits(max_usd_per_month=1e6), SpendLimits(max_usd_at_once=1e6)):
        with pytest.raises(Refused, match=why):
            refuse_over_limits(now, 0.01, limits)


def test_what_a_rental_cost_and_nobody_knows_counts_as_its_cap() -> None:
    machine = entry(event="started", instance_id="i1", usd_per_hour=None)
    ended = entry(event="confirmed_gone", usd=None)
    assert stand(rental(entry(), machine, ended)).ended_usd == 5.0
    unknown = rental(machine, dataclasses.replace(ended, max_usd=None))
    assert stand(dataclasses.replace(unknown, newest=dataclasses.replace(unknown.newest, max_usd=None))).unbounded


# --- the month -------------------------------------------------------------------------------------------------------


def test_a_month_holds_what_ended_in_it() -> None:
    before = gone(4.0, at=MONTH_START - 1)
    within = gone(2.0, at=MONTH_START + 1)  # began the month before, counts whole
    assert stand(before, within).ended_usd == 2.0
    assert stand(before, within).month == "since 2026-11-01 00:00 UTC"


def test_the_month_is_that_of_the_users_clock() -> None:
    now = datetime(2026, 10, 31, 23, 30, tzinfo=UTC).timestamp()  # half past midnight of the first in Berlin
    spent = gone(3.0, at=now - HOUR_S)
    assert standing([spent], now, UTC).ended_usd == 3.0
    in_berlin = standing([spent], now, ZoneInfo("Europe/Berlin"))
    assert (in_berlin.ended_usd, in_berlin.month) == (0.0, "since 2026-11-01 00:00 CET")


def test_a_change_of_the_clock_within_the_month_does_not_move_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        found = standing([], datetime(2026, 10, 28, tzinfo=UTC).timestamp())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found.month_start == datetime(2026, 9, 30, 22, tzinfo=UTC).timestamp()
    assert found.month == "since 2026-10-01 00:00 CEST"


def test_local_runs_are_not_rented() -> None:
    assert stand(gone(4.0, provider=LOCAL), rental(entry(provider=LOCAL))).month_usd == 0.0


# --- refusing --------------------------------------------------------------------------------------------------------


def test_a_refusal_names_limit_figures_and_what_is_left() -> None:
    now = stand(gone(30.0), rental(entry("b", at=NOW, max_usd=15.0)))
    with pytest.raises(Refused) as refused:
        refuse_over_limits(now, 10.0, SpendLimits(max_usd_per_month=50.0, max_usd_at_once=20.0))
    assert str(refused.value).splitlines() == [
        "max_usd_per_month: 50.00 usd: 30.00 usd spent since 2026-11-01 00:00 UTC, 15.00 usd committed to what is "
        "rented now and 10.00 usd for this launch at worst make 55.00 usd; 5.00 usd are left",
        "max_usd_at_once: 20.00 usd: 15.00 usd committed to what is rented now and 10.00 usd for this launch at worst "
        "make 25.00 usd; 5.00 usd are left",
    ]
    refuse_over_limits(now, 5.0, SpendLimits(max_usd_per_month=50.0, max_usd_at_once=20.0))


def test_cents_add_up() -> None:
    assert allows([gone(0.1)], 0.2, SpendLimits(max_usd_per_month=0.3))
    assert not allows([gone(0.1)], 0.21, SpendLimits(max_usd_per_month=0.3))


def test_an_unknown_worst_case_is_refused_only_under_a_limit() -> None:
    refuse_over_limits(stand(), None, SpendLimits())
    with pytest.raises(Refused, match="not known"):
        refuse_over_limits(stand(), None, SpendLimits(max_usd_at_once=5.0))


@pytest.mark.parametrize("usd", [0.0, -1.0, math.nan, math.inf])
def test_a_worst_case_that_is_no_amount_is_bad_input(usd: float) -> None:
    with pytest.raises(BadInput, match="worst case"):
        refuse_over_limits(stand(), usd, SpendLimits(max_usd_at_once=5.0))


USD = st.floats(0.001, 30.0)
LIMITS = st.builds(SpendLimits, st.none() | st.floats(0.1, 300.0), st.none() | st.floats(0.1, 300.0))


@st.composite
def rentals(draw: st.DrawFn) -> Rental:
    """A rental of any kind that a ledger may tell of, most of them with something that bounds them."""
    is_open = draw(st.booleans())
    began = NOW - draw(st.floats(0.0, 3.0 if is_open else 40 * 24.0)) * HOUR_S
    line = entry(
        draw(st.uuids()).hex,
        at=began,
        usd_per_hour=draw(st.floats(0.1, 4.0)),
        max_usd=draw(st.sampled_from([None, 2.0, 40.0, 80.0])),
        deadline_at=draw(st.sampled_from([None, NOW + 1, NOW + HOUR_S, NOW + 9 * HOUR_S])),
        machines=draw(st.integers(1, 4)),
    )
    lines = [line]
    for number in range(draw(st.sampled_from([0, 0, 1, 4]))):
        price = draw(st.sampled_from([None, 0.5, 0.5, 4.0]))
        started = dataclasses.replace(
            line, event=LedgerEvent.STARTED, instance_id=f"i{number}", usd_per_hour=price, max_usd=None
        )
        lines.append(started)
    if not is_open:
        end = draw(st.floats(began, NOW))
        lines.append(dataclasses.replace(line, at=end, event=LedgerEvent.CONFIRMED_GONE, usd=draw(st.none() | USD)))
    return rental(*lines)


@settings(max_examples=300)
@given(st.lists(rentals(), max_size=4), USD, st.floats(1.0, 1.5), st.sampled_from([0.5, 1.0]), st.data())
def test_what_is_let_through_never_breaks_a_limit(
    those: list[Rental], launch_usd: float, slack: float, launch_share: float, data: st.DataObject
) -> None:
    """Whatever open rentals and the launch then come to, within what bounds them, no limit is broken."""
    now = stand(*those)
    # Limits that just let it through: with them, counting anything too low shows.
    limits = SpendLimits(*(slack * usd + launch_usd if usd < 1e6 else 1e6 for usd in (now.month_usd, now.open_usd)))
    if not allows(those, launch_usd, limits):
        return
    ends = {each.first.rental: _some_end(each, data) for each in those}
    launch_end = launch_share * launch_usd
    opened = math.fsum(ends[each.first.rental] for each in those if each.is_open)
    ended = math.fsum(ends[each.first.rental] for each in those if not each.is_open and each.newest.at >= MONTH_START)
    assert opened + launch_end <= (limits.max_usd_at_once or math.inf) + 1e-6
    assert ended + opened + launch_end <= (limits.max_usd_per_month or math.inf) + 1e-6


def _some_end(each: Rental, data: st.DataObject) -> float:
    """What a rental may come to: nothing here is taken from the code under test but what it has cost so far."""
    so_far = each.usd(NOW)
    if not each.is_open:
        return each.newest.max_usd or 0.0 if so_far is None else so_far
    bound = each.newest.max_usd or math.inf
    if each.is_overdue(NOW):  # what should have ended it did not
        return 1e9
    if so_far is not None and each.newest.deadline_at is not None:
        prices = [machine.usd_per_hour or 0.0 for machine in each.present] or [
            (each.newest.usd_per_hour or 0.0)
        ] * each.newest.machines
        bound = min(bound, so_far + sum(prices) * max(0.0, each.newest.deadline_at - NOW) / HOUR_S)
    low = so_far or 0.0
    return low + data.draw(st.sampled_from([0.0, 0.5, 1.0])) * (max(low, min(bound, 1e9)) - low)


@given(st.lists(rentals(), max_size=4), rentals(), USD, LIMITS)
def test_one_rental_more_never_allows_more(
    those: list[Rental], another: Rental, launch_usd: float, limits: SpendLimits
) -> None:
    assert allows(those, launch_usd, limits) or not allows([*those, another], launch_usd, limits)


@given(st.lists(rentals(), max_size=4), USD, st.floats(1.0, 3.0), LIMITS)
def test_a_dearer_launch_is_never_allowed_where_a_cheaper_one_is_not(
    those: list[Rental], launch_usd: float, factor: float, limits: SpendLimits
) -> None:
    assert allows(those, launch_usd, limits) or not allows(those, launch_usd * factor, limits)


@given(rentals(), USD, USD, LIMITS)
def test_a_higher_bill_never_allows_more(one: Rental, more_usd: float, launch_usd: float, limits: SpendLimits) -> None:
    dearer = dataclasses.replace(one, stated_usd=(one.usd(NOW) or 0.0) + more_usd, machines={})
    assume(one.usd(NOW) is not None)  # an unknown bill counts as the cap, and may turn out lower
    assert allows([one], launch_usd, limits) or not allows([dearer], launch_usd, limits)


# --- check and intent in one -----------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home" / "ledger.jsonl")


def test_intents_are_written_only_if_they_fit_together(ledger: Ledger) -> None:
    limits = SpendLimits(max_usd_at_once=12.0)
    reserve(ledger, [entry("a"), entry("b")], limits, lambda: NOW)
    assert [line.rental for line in ledger.open_rentals()] == ["a", "b"]
    with pytest.raises(Refused, match="max_usd_at_once"):
        reserve(ledger, [entry("c")], limits, lambda: NOW)
    assert len(ledger.entries()) == 2
    reserve(ledger, [entry("d", max_usd=2.0)], limits, lambda: NOW)


def test_of_launches_at_the_same_moment_only_as_many_go_through_as_fit(ledger: Ledger) -> None:
    outcomes: list[bool] = []

    def launch(name: str) -> None:
        try:
            reserve(Ledger(ledger.path), [entry(name)], SpendLimits(max_usd_at_once=12.0), lambda: NOW)
            outcomes.append(True)
        except Refused:
            outcomes.append(False)

    threads = [threading.Thread(target=launch, args=(f"r{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 4 + [True] * 2 and len(ledger.open_rentals()) == 2


def test_an_intent_without_any_bound_is_refused_under_a_limit(ledger: Ledger) -> None:
    with pytest.raises(Refused, match="not known"):
        reserve(ledger, [entry(max_usd=None)], SpendLimits(max_usd_per_month=12.0), lambda: NOW)
    assert ledger.entries() == []


def test_a_ledger_that_cannot_be_kept_lets_nothing_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LauncherError, match="cannot be"):
        reserve(Ledger(tmp_path / "file" / "ledger.jsonl"), [entry()], SpendLimits(), lambda: NOW)
