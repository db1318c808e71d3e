"""When training stops early and which checkpoint is kept: on curves one can check by hand."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cost.stopping import BestCheckpoint, DivergenceStop, Patience, StopDecision, ValueStop

METRICS = st.floats(0, 1)


def stops(rule: Patience | DivergenceStop, values: list[float]) -> tuple[int, StopDecision] | None:
    """The first step (counted from 1) at which the rule speaks."""
    for step, value in enumerate(values, start=1):
        decision = rule.update(step, value)
        if decision is not None:
            return step, decision
    return None


def value_stops(rule: ValueStop, curve: list[tuple[float, float]]) -> tuple[int, StopDecision] | None:
    """The same for (metric, usd) pairs."""
    for step, (value, usd) in enumerate(curve, start=1):
        decision = rule.update(step, value, usd)
        if decision is not None:
            return step, decision
    return None


# --- patience --------------------------------------------------------------------------------------------------------


def test_patience_ends_after_that_many_evaluations_without_gain() -> None:
    found = stops(Patience("max", 3, 0.001), [0.1, 0.4, 0.4, 0.4005, 0.3, 0.9])
    assert found is not None and found[0] == 5
    assert found[1].kind == "patience"
    assert "0.001 in 3 evaluations" in found[1].reason and "0.4000 at step 2" in found[1].reason


def test_a_loss_improves_by_falling() -> None:
    assert stops(Patience("min", 2, 0.001), [2.0, 1.5, 1.0, 0.8]) is None
    assert stops(Patience("min", 2, 0.001), [1.0, 1.1, 1.2]) is not None


def test_small_gains_add_up() -> None:
    creeping = [0.5 + 0.0006 * i for i in range(20)]
    assert stops(Patience("max", 2, 0.001), creeping) is None


def test_patience_waits_for_its_step_and_counts_what_came_before() -> None:
    rule = Patience("max", 2, 0.0, from_step=300)
    decisions = [rule.update(step, 0.5) for step in (100, 200, 250, 300)]
    assert decisions[:3] == [None] * 3 and decisions[3] is not None


def test_no_patience_means_never() -> None:
    assert stops(Patience("max", None, 0.001), [0.5] * 100) is None


def test_an_evaluation_that_is_no_number_is_no_gain() -> None:
    found = stops(Patience("max", 2, 0.0), [math.nan, math.nan])
    assert found is not None and found[0] == 2
    assert stops(Patience("max", 2, 0.0), [0.5, math.nan, 0.6]) is None


@given(
    st.lists(METRICS, min_size=1, max_size=40), st.integers(1, 5), st.floats(0, 0.1), st.sampled_from(["max", "min"])
)
def test_patience_never_speaks_while_the_last_evaluations_brought_a_new_best(values, patience, threshold, goal) -> None:
    rule = Patience(goal, patience, threshold)
    better = max if goal == "max" else min
    for step, value in enumerate(values, start=1):
        decision = rule.update(step, value)
        if step > patience:
            before, recent = better(values[: step - patience]), better(values[step - patience : step])
            gain = recent - before if goal == "max" else before - recent
            if gain > threshold + 1e-12:
                assert decision is None
            if len(set(values[step - patience - 1 : step])) == 1 and value == values[0]:
                assert decision is not None or rule.waited < patience


# --- value -----------------------------------------------------------------------------------------------------------


def test_value_stops_where_the_next_dollar_gains_less_than_it_costs() -> None:
    # 0.10 more exact match with every doubling: after u dollars a further one gains 0.10 / ln 2 / u = 14.4 / u points.
    curve = [(0.1 + 0.1 * math.log2(usd), usd) for usd in range(1, 60)]
    found = value_stops(ValueStop("max", usd_per_point=2.0), curve)
    assert found is not None
    step, decision = found
    assert step == 29  # 14.43 / 29 * 2 = 0.995, one dollar earlier 1.03
    assert decision.kind == "value"
    assert "0.497 points" in decision.reason and "0.995 usd at 2 usd a point" in decision.reason


@given(st.floats(0.01, 0.5), st.floats(0.05, 20), st.sampled_from(["max", "min"]))
def test_on_an_exact_curve_the_estimate_is_its_derivative(per_e_fold: float, usd_per_step: float, goal: str) -> None:
    sign = 1 if goal == "max" else -1
    rule = ValueStop(goal, usd_per_point=1.0)
    for i in range(1, 8):
        rule.update(i, sign * per_e_fold * math.log(i * usd_per_step), i * usd_per_step)
    assert rule.expected_points_per_usd() == pytest.approx(100 * per_e_fold / (7 * usd_per_step), rel=1e-6)


def test_noise_makes_value_stopping_slower_not_faster() -> None:
    flat = [(0.5, usd) for usd in range(1, 5)]
    noisy = [(0.5 + noise, usd) for noise, usd in zip((0.03, -0.03, -0.03, 0.03), range(1, 5), strict=True)]
    assert value_stops(ValueStop("max", 5.0), flat) is not None
    assert value_stops(ValueStop("max", 5.0), noisy) is None


def test_value_never_stops_without_what_a_point_is_worth_or_what_it_costs() -> None:
    flat = [(0.5, float(usd)) for usd in range(1, 100)]
    assert value_stops(ValueStop("max", None), flat) is None
    rule = ValueStop("max", 1.0)
    assert [rule.update(step, 0.5, None) for step in range(20)] == [None] * 20


def test_value_needs_its_evaluations_and_its_step() -> None:
    flat = [(0.5, float(usd)) for usd in range(1, 100)]
    assert value_stops(ValueStop("max", 0.01), flat)[0] == 4
    assert value_stops(ValueStop("max", 0.01, from_step=50), flat)[0] == 50
    assert value_stops(ValueStop("max", 0.01, evaluations=8), flat)[0] == 8


def test_a_falling_metric_is_worth_nothing() -> None:
    falling = [(0.9 - 0.1 * i, 1.0 + i) for i in range(6)]
    step, decision = value_stops(ValueStop("max", 1000.0), falling)
    assert step == 4 and "at most 0 points, worth 0 usd" in decision.reason


def test_spend_that_does_not_move_decides_nothing() -> None:
    assert value_stops(ValueStop("max", 0.01), [(0.5, 1.0)] * 10) is None


# --- divergence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_at_once(loss: float) -> None:
    found = stops(DivergenceStop(), [2.0, 1.0, loss])
    assert found is not None and found[0] == 3
    assert found[1].kind == "divergence" and str(loss) in found[1].reason and "step 3" in found[1].reason


def test_twenty_steps_above_three_times_the_best_stop() -> None:
    found = stops(DivergenceStop(), [1.0] * 30 + [3.1] * 30)
    assert found is not None and found[0] == 50
    assert "for 20 steps" in found[1].reason and "1.0000" in found[1].reason


def test_one_good_step_in_between_starts_the_count_anew() -> None:
    assert stops(DivergenceStop(), [1.0] * 30 + ([3.1] * 19 + [1.0]) * 5) is None


def test_a_loss_that_rises_twofold_is_no_divergence() -> None:
    assert stops(DivergenceStop(), [1.0] * 30 + [2.9] * 100) is None


def test_a_single_lucky_batch_is_not_the_best() -> None:
    assert stops(DivergenceStop(), [0.1] * 30 + [0.001] + [0.1] * 60) is None


@given(st.lists(st.floats(0.5, 1.4), min_size=1, max_size=200))
def test_a_loss_within_a_factor_of_three_never_stops(losses: list[float]) -> None:
    assert stops(DivergenceStop(), losses) is None


# --- the best checkpoint ---------------------------------------------------------------------------------------------


def test_the_best_is_exact_match_then_f1_then_the_later_step() -> None:
    best = BestCheckpoint()
    kept = [best.update(*row) for row in [(40, 0.67, 0.80), (80, 0.60, 0.99), (120, 0.67, 0.85), (160, 0.67, 0.84)]]
    assert kept == [True, False, True, False] and best.step == 120
    assert best.update(200, 0.67, 0.85) and best.step == 200


def test_for_a_loss_the_lowest_is_best() -> None:
    best = BestCheckpoint("min")
    for step, loss in ((40, 1.0), (80, 0.5), (120, 0.7)):
        best.update(step, loss, 0.0)
    assert best.step == 80


def test_a_nan_is_never_best() -> None:
    best = BestCheckpoint()
    assert not best.update(40, math.nan, 1.0) and best.step is None
    best.update(80, 0.1, 0.1)
    assert not best.update(120, math.nan, 1.0) and best.step == 80
    assert best.update(160, 0.1, 0.2) and not best.update(200, 0.1, math.nan)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=30))
def test_the_best_is_the_maximum_of_metric_f1_and_step(rows: list[tuple[float, float]]) -> None:
    best = BestCheckpoint()
    for step, (metric, f1) in enumerate(rows):
        best.update(step, metric, f1)
    assert best.step == max((metric, f1, step) for step, (metric, f1) in enumerate(rows))[2]


# --- resume ----------------------------------------------------------------------------------------------------------


@given(st.lists(METRICS, min_size=1, max_size=60), st.integers(0, 60))
def test_a_resumed_run_stops_where_the_uninterrupted_one_does(values: list[float], cut: int) -> None:
    def rules() -> tuple[Patience, ValueStop, DivergenceStop, BestCheckpoint]:
        return Patience("max", 3, 0.01), ValueStop("max", 0.5), DivergenceStop(), BestCheckpoint()

    def feed(rules, first: int, part: list[float]) -> list[object]:
        patience, value, divergence, best = rules
        said: list[object] = []
        for step, metric in enumerate(part, start=first):
            said += [patience.update(step, metric), value.update(step, metric, 0.1 * (step + 1))]
            said += [divergence.update(step, metric * 9), best.update(step, metric, metric)]
        return said

    whole = feed(rules(), 0, values)
    before, after = rules(), rules()
    said = feed(before, 0, values[:cut])
    for old, new in zip(before, after, strict=True):
        new.load_state(json.loads(json.dumps(old.state_dict(), allow_nan=False)))
    assert said + feed(after, min(cut, len(values)), values[cut:]) == whole
