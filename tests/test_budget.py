"""The budget guard's promise, held to its exact words on simulated runs, and what it refuses and says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from launcher.cost.budget import BudgetGuard, Stretch
from launcher.errors import BadInput, Refused

SECONDS = st.floats(0, 500)
KINDS = (Stretch.EVALUATION, Stretch.SAVE)


@dataclass
class Outcome:
    """How a simulated run ended. `charged_s` and `lasted_s` are A and T of the promise, from the last "go on"."""

    ended_at_s: float
    charged_s: float
    lasted_s: float
    excess_s: list[float]
    went_on: bool
    stopped: bool


@st.composite
def runs(draw: st.DrawFn) -> tuple[BudgetGuard, list[list[tuple[Stretch, float]]], float, float]:
    """A guard, groups of stretches between two decisions, the closing save, and upload with tear-down."""
    guard = BudgetGuard(
        usd_per_hour=draw(st.floats(0.01, 100)),
        max_usd=draw(st.floats(0.01, 100)),
        deadline_s=draw(st.none() | st.floats(1, 5000)),
        multiple=draw(st.floats(1, 4)),
        first_s=draw(st.floats(0, 100)),
    )
    stretch = st.tuples(st.sampled_from([*KINDS, Stretch.STEP]), SECONDS)
    groups = draw(st.lists(st.lists(stretch, min_size=1, max_size=3), max_size=30))
    return guard, groups, draw(SECONDS), draw(SECONDS)


def simulate(
    guard: BudgetGuard, groups: list[list[tuple[Stretch, float]]], closing_save_s: float, teardown_s: float
) -> Outcome:
    """Run the groups as a trainer does: ask, work, record; save and tear down at the end."""
    now = asked_at = charged = 0.0
    excess: list[float] = []
    went_on = stopped = False
    for group in groups:
        if guard.decide(now, [kind for kind, _ in group]) is not None:
            stopped = True
            break
        went_on, asked_at, excess = True, now, []
        charged = guard.allowance_s([*(kind for kind, _ in group), Stretch.SAVE])
        allowed = [guard.allowance_s([kind]) for kind, _ in group]
        save_allowed = guard.allowance_s([Stretch.SAVE])
        for (kind, seconds), allowance in zip(group, allowed, strict=True):
            now += seconds
            excess.append(max(0.0, seconds - allowance))
            guard.record(kind, seconds)
    if went_on:
        excess.append(max(0.0, closing_save_s - save_allowed))
    ended = now + closing_save_s + teardown_s
    return Outcome(ended, charged, ended - asked_at, excess, went_on, stopped)


@given(runs())
def test_the_run_ends_by_the_hard_stop_plus_what_exceeds_allowance_and_reserve(run) -> None:
    guard = run[0]
    outcome = simulate(*run)
    if outcome.went_on:
        late = max(0.0, outcome.lasted_s - outcome.charged_s - guard.reserve_s)
        assert outcome.ended_at_s <= (guard.hard_stop_at_s + late) * (1 + 1e-9)


@given(runs(), st.data())
def test_spend_stays_under_the_cap_while_no_stretch_exceeds_its_multiple_and_the_reserve(
    run, data: st.DataObject
) -> None:
    guard, groups, *_ = run
    now, charged, closing = 0.0, 0.0, 0.0
    for group in groups:
        kinds = [kind for kind, _ in group]
        if guard.decide(now, kinds) is not None:
            break
        charged = now + guard.allowance_s([*kinds, Stretch.SAVE])
        # One of them may take the whole reserve beyond its multiple; the rest and the closing save keep to theirs.
        shares = data.draw(st.lists(st.floats(0, 1), min_size=len(kinds), max_size=len(kinds)))
        lasting = [guard.allowance_s([kind]) * share for kind, share in zip(kinds, shares, strict=True)]
        late = data.draw(st.integers(0, len(kinds) - 1))
        lasting[late] += guard.reserve_s * data.draw(st.floats(0, 1))
        closing = guard.allowance_s([Stretch.SAVE])
        for kind, seconds in zip(kinds, lasting, strict=True):
            now += seconds
            guard.record(kind, seconds)
    if charged:
        ended = now + closing
        assert guard.usd(ended) <= guard.max_usd * (1 + 1e-9)
        assert guard.deadline_s is None or ended <= guard.deadline_s * (1 + 1e-9)


@given(runs(), st.floats(0, 10_000))
def test_one_stretch_that_lasts_longer_overshoots_by_less_than_itself(run, endless_s: float) -> None:
    guard, groups, *_ = run
    now = 0.0
    for group in groups:
        if guard.decide(now, [group[0][0]]) is not None:
            return
        kind, seconds = group[0][0], min(group[0][1], guard.allowance_s([group[0][0]]))
        now += seconds
        guard.record(kind, seconds)
    if guard.decide(now, [Stretch.STEP]) is not None:
        return
    foreseen = guard.allowance_s([Stretch.STEP]) + guard.reserve_s
    ended = now + endless_s + guard.allowance_s([Stretch.SAVE])
    overshoot = max(0.0, ended - guard.hard_stop_at_s)
    assert overshoot <= max(0.0, endless_s - foreseen) + 1e-6 * guard.hard_stop_at_s
    if guard.usd_per_hour is not None:
        over_usd = guard.usd(ended) - guard.max_usd
        assert over_usd <= guard.usd_per_hour / 3600 * endless_s + 1e-6 * guard.max_usd


@given(st.floats(0.05, 20), st.floats(0, 5), st.floats(1, 3))
@example(1.0, 0.0, 1.0)
def test_it_does_not_stop_too_early(step_s: float, save_s: float, multiple: float) -> None:
    guard = BudgetGuard(usd_per_hour=3.6, max_usd=1.0, reserve_s=10, multiple=multiple, first_s=20)
    groups = [[(Stretch.STEP, step_s), (Stretch.SAVE, save_s)]] * 30_000
    outcome = simulate(guard, groups, 0.0, 0.0)
    assert outcome.stopped
    # What is left unused is one more round, a save and the reserve, as charged.
    unused = guard.hard_stop_at_s - outcome.ended_at_s
    assert unused <= multiple * (step_s + 2 * save_s) + 10 + 1e-6


@given(st.floats(0.5, 50), st.floats(0.5, 50))
def test_a_stretch_longer_than_all_before_is_remembered(short_s: float, long_s: float) -> None:
    guard = BudgetGuard(1.0, 1.0, multiple=2.0)
    for seconds in (short_s, long_s, short_s):
        guard.record(Stretch.STEP, seconds)
    assert guard.allowance_s([Stretch.STEP]) == pytest.approx(2 * max(short_s, long_s))


def test_setup_that_eats_the_budget_stops_the_run_before_its_first_step() -> None:
    guard = BudgetGuard(usd_per_hour=1.0, max_usd=1.0)
    decision = guard.decide(3590.0, [Stretch.STEP])
    assert decision is not None and decision.kind == "budget"
    assert "0.997 usd spent" in decision.reason and "cap of 1.00 usd" in decision.reason


def test_the_first_stretch_of_a_kind_has_the_stated_allowance() -> None:
    guard = BudgetGuard(3.6, 0.1, reserve_s=10, first_s=25, multiple=2)  # the cap is reached after 100 s
    guard.record(Stretch.STEP, 1.0)
    assert guard.decide(38.0, [Stretch.EVALUATION, Stretch.STEP]) is None  # 38 + 25 + 2 + 25 + 10
    assert guard.decide(38.1, [Stretch.EVALUATION, Stretch.STEP]) is not None


@pytest.mark.parametrize(("deadline_s", "kind"), [(None, "budget"), (7200.0, "budget"), (1800.0, "deadline")])
def test_cap_or_deadline_whichever_comes_first(deadline_s: float | None, kind: str) -> None:
    guard = BudgetGuard(usd_per_hour=1.0, max_usd=1.0, deadline_s=deadline_s)
    guard.record(Stretch.STEP, 1.0)
    guard.record(Stretch.SAVE, 1.0)
    assert guard.hard_stop_at_s == (1800.0 if deadline_s == 1800.0 else 3600.0)
    assert guard.decide(guard.hard_stop_at_s - 60, [Stretch.STEP]) is None
    decision = guard.decide(guard.hard_stop_at_s - 32, [Stretch.STEP])
    assert decision is not None and decision.kind == kind and decision.reason.startswith(kind)


def test_without_a_price_the_deadline_still_counts_and_no_cost_is_invented() -> None:
    guard = BudgetGuard(None, 5.0, deadline_s=600)
    guard.record(Stretch.STEP, 1.0)
    assert guard.usd(300) is None and guard.projected_usd(300, 10) is None
    assert guard.decide(100, [Stretch.STEP]) is None
    assert guard.decide(590, [Stretch.STEP]).kind == "deadline"
    assert math.isinf(BudgetGuard(None, 5.0).hard_stop_at_s)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_prices_caps_and_deadlines_that_are_no_positive_number_are_refused(bad: float) -> None:
    with pytest.raises(BadInput) as caught:
        BudgetGuard(usd_per_hour=bad, max_usd=bad, deadline_s=bad)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "resources.usd_per_hour",
        "budget.max_usd",
        "budget.deadline",
    ]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"multiple": 0.9}, "multiple"),
        ({"multiple": math.nan}, "multiple"),
        ({"reserve_s": -1.0}, "reserve_s"),
        ({"reserve_s": 3600.0}, "reserve_s"),
        ({"first_s": math.inf}, "first_s"),
        ({"spent_usd_before": math.nan}, "spent_usd_before"),
    ],
)
def test_other_figures_that_cannot_be_are_refused(arguments: dict[str, float], field: str) -> None:
    with pytest.raises(BadInput, match=f"^{field}:"):
        BudgetGuard(1.0, 1.0, **arguments)


def test_the_default_reserve_is_half_a_minute_and_a_quarter_of_a_short_run() -> None:
    assert BudgetGuard(1.0, 1.0).reserve_s == 30.0
    short = BudgetGuard(1.0, 1.0, deadline_s=40.0)
    assert short.reserve_s == pytest.approx(10.0)
    assert short.grace_s == pytest.approx(10 / 3)  # a hung run is asked to end within the reserve


def test_earlier_legs_count() -> None:
    guard = BudgetGuard(usd_per_hour=2.0, max_usd=3.0, spent_usd_before=1.0, elapsed_before_s=7200.0)
    assert guard.usd(7200.0) == pytest.approx(1.0)
    assert guard.usd(9000.0) == pytest.approx(2.0)
    assert guard.hard_stop_at_s == pytest.approx(10_800.0)
    with pytest.raises(Refused, match=r"3\.00 usd are spent already"):
        BudgetGuard(2.0, 3.0, spent_usd_before=3.0)
    with pytest.raises(Refused, match="deadline"):
        BudgetGuard(2.0, 3.0, deadline_s=60, elapsed_before_s=60)


def test_the_projection_is_the_pace_so_far_and_one_final_evaluation() -> None:
    guard = BudgetGuard(usd_per_hour=3.6, max_usd=100)
    assert guard.projected_usd(50.0, 10) is None
    guard.record(Stretch.FINAL_EVALUATION, 20.0)
    for seconds in (1.0, 3.0):
        guard.record(Stretch.STEP, seconds)
    guard.record(Stretch.EVALUATION, 5.0)
    assert guard.remaining_s(10, 2, 0) == pytest.approx(10 * 2 + 2 * 5 + 20)
    assert guard.projected_usd(50.0, 10, 2) == pytest.approx(0.1)


@given(st.lists(st.tuples(st.sampled_from(list(Stretch)), SECONDS), max_size=20), st.floats(0, 5000))
def test_a_resumed_run_decides_as_the_first_would_have(seen: list[tuple[Stretch, float]], elapsed_s: float) -> None:
    first, second = BudgetGuard(1.0, 1.0), BudgetGuard(1.0, 1.0)
    for kind, seconds in seen:
        first.record(kind, seconds)
    second.load_state(first.state_dict())
    coming = [Stretch.EVALUATION, Stretch.STEP]
    assert second.decide(elapsed_s, coming) == first.decide(elapsed_s, coming)
    assert second.remaining_s(7, 2, 1) == first.remaining_s(7, 2, 1)
