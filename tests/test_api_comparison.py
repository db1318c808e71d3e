"""One's own model against an API: what it costs, where the lines cross, and that no crossover is invented."""

from __future__ import annotations

import dataclasses
import math
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.cost.api_comparison import ApiPrice, Comparison, Traffic, compare
from launcher.cost.break_even import first_break_even
from launcher.cost.self_hosting import HOURS_PER_MONTH, Mode, Serving
from launcher.cost.serving_speed import POINTS, published_speed
from launcher.cost.spread import Spread
from launcher.errors import BadInput

TODAY = date(2026, 11, 21)
TRAFFIC = Traffic(calls=300_000, input_tokens=1500, output_tokens=150)
PRICE = ApiPrice(input_usd_per_million=3.0, output_usd_per_million=15.0, priced_on=date(2026, 11, 1))
SERVING = Serving(usd_per_hour=1.39, tokens_per_second=1.0, tokens_per_call=1.0)
SPEED = Spread.from_quantiles(1600, 2000, 3500)
POSITIVE = st.floats(0.01, 1e6)


def run(**changes: object) -> Comparison:
    arguments: dict = {
        "traffic": TRAFFIC,
        "price": PRICE,
        "serving": SERVING,
        "speed": SPEED,
        "modes": list(Mode),
        "today": TODAY,
    }
    return compare(**(arguments | changes))  # type: ignore[arg-type]


def test_the_api_bill_is_tokens_times_price() -> None:
    assert run().api_usd == pytest.approx(300_000 * (1500 * 3 + 150 * 15) / 1e6)


def test_by_hour_is_work_plus_one_start_a_window() -> None:
    (cost,) = run(modes=[Mode.BY_HOUR], speed=Spread(2000.0)).modes
    work = 300_000 * 1650 / 2000 / 3600
    assert cost.gpu_hours.p50 == pytest.approx(work + 30 * 8 / 60)
    assert cost.usd.p50 == pytest.approx(1.39 * cost.gpu_hours.p50)


def test_always_on_needs_as_many_gpus_as_the_busiest_hour() -> None:
    busy = dataclasses.replace(TRAFFIC, calls=3_000_000)
    (cost,) = run(traffic=busy, modes=[Mode.ALWAYS_ON], speed=Spread(2000.0)).modes
    mean_load = 3_000_000 * 1650 / 2000 / 3600 / HOURS_PER_MONTH
    assert cost.gpus == math.ceil(3 * mean_load) == 3
    assert cost.usd.p50 == pytest.approx(3 * HOURS_PER_MONTH * 1.39)


def test_one_call_on_demand_pays_start_up_idle_time_and_its_work() -> None:
    serving = dataclasses.replace(SERVING, tokens_per_second=2000.0, tokens_per_call=1650.0)
    assert serving.hours(Mode.ON_DEMAND_SPREAD, 1) == pytest.approx((8 + 15) / 60, rel=0.01)


def test_spread_calls_keep_an_on_demand_machine_awake_and_clustered_ones_do_not() -> None:
    costs = {cost.mode: cost for cost in run().modes}
    assert costs[Mode.ON_DEMAND_SPREAD].usd.p50 == pytest.approx(costs[Mode.ALWAYS_ON].usd.p50, rel=0.001)
    assert costs[Mode.ON_DEMAND_CLUSTERED].usd.p50 < 0.9 * costs[Mode.ALWAYS_ON].usd.p50


def test_break_even_is_where_the_bills_are_equal() -> None:
    (cost,) = run(modes=[Mode.ALWAYS_ON], speed=Spread(2000.0)).modes
    per_call = (1500 * 3 + 150 * 15) / 1e6
    assert cost.break_even.calls == pytest.approx(HOURS_PER_MONTH * 1.39 / per_call)
    assert cost.break_even.words == f"from {cost.break_even.calls:,.0f} calls a month"


def test_a_step_back_above_the_break_even_is_said() -> None:
    # At full load a call costs just less than at the API, so the second GPU makes the first calls above it dear again.
    per_call = 1.39 * 3 * 1650 / 2000 / 3600
    price = ApiPrice(
        input_usd_per_million=1.2 * per_call / 1650 * 1e6,
        output_usd_per_million=1.2 * per_call / 1650 * 1e6,
        priced_on=TODAY,
    )
    (cost,) = run(price=price, modes=[Mode.ALWAYS_ON], speed=Spread(2000.0)).modes
    assert cost.break_even.words.endswith("but not just above each further GPU")


def test_an_api_below_the_price_of_gpu_time_is_never_beaten() -> None:
    cheap = ApiPrice(input_usd_per_million=0.01, output_usd_per_million=0.02, priced_on=TODAY)
    for cost in run(price=cheap, training_usd=30.0).modes:
        assert cost.break_even.calls is None
        assert cost.break_even.words.startswith("never: a call costs")
        assert cost.payback_months is None
        assert cost.payback.startswith("never")
    assert run(price=cheap).cheapest == "the API"


def test_training_is_paid_back_by_what_a_month_saves() -> None:
    (cost,) = run(modes=[Mode.BY_HOUR], training_usd=100.0).modes
    assert cost.payback_months == pytest.approx(100 / cost.saves_usd.p50)


def test_people_are_part_of_the_bill() -> None:
    without, with_people = run(), run(engineer_usd=500.0)
    for before, after in zip(without.modes, with_people.modes, strict=True):
        assert after.usd.p50 == pytest.approx(before.usd.p50 + 500)
        assert after.break_even.calls is None or after.break_even.calls > (before.break_even.calls or 0)


def test_a_slow_server_is_the_dear_one() -> None:
    (cost,) = run(modes=[Mode.BY_HOUR]).modes
    assert cost.usd.p10 < cost.usd.p50 < cost.usd.p90
    assert cost.saves_usd.p10 < cost.saves_usd.p90


def test_a_shorter_prompt_of_the_own_model_counts() -> None:
    short = dataclasses.replace(TRAFFIC, own_input_tokens=200)
    (cost,), (full,) = (run(traffic=t, modes=[Mode.BY_HOUR]).modes for t in (short, TRAFFIC))
    assert cost.usd.p50 < full.usd.p50 and run(traffic=short).api_usd == run().api_usd


def test_a_price_from_the_future_is_refused_and_an_old_one_named() -> None:
    with pytest.raises(BadInput, match="--price-date: 2026-11-22: in the future"):
        run(price=dataclasses.replace(PRICE, priced_on=TODAY + timedelta(days=1)))
    assert run(price=dataclasses.replace(PRICE, priced_on=TODAY - timedelta(days=90))).warnings == ()
    (line,) = run(price=dataclasses.replace(PRICE, priced_on=TODAY - timedelta(days=91))).warnings
    assert "91 days old" in line


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_price_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(BadInput, match="--gpu-usd-per-hour"):
        run(serving=dataclasses.replace(SERVING, usd_per_hour=value))
    with pytest.raises(BadInput, match="--api-output-usd-per-million"):
        run(price=dataclasses.replace(PRICE, output_usd_per_million=value))


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        run(traffic=Traffic(calls=0, input_tokens=-5, output_tokens=150), training_usd=-1.0)
    assert len(caught.value.faults) == 3


@given(calls=st.floats(1, 1e9), factor=st.floats(1, 100), mode=st.sampled_from(list(Mode)))
def test_more_calls_never_cost_less(calls: float, factor: float, mode: Mode) -> None:
    serving = dataclasses.replace(SERVING, tokens_per_second=2000.0, tokens_per_call=1650.0)
    assert serving.usd(mode, calls * factor) >= serving.usd(mode, calls) * (1 - 1e-12)


@given(calls=st.floats(1, 1e9), mode=st.sampled_from([Mode.ON_DEMAND_CLUSTERED, Mode.ON_DEMAND_SPREAD]))
def test_on_demand_never_costs_more_than_always_on(calls: float, mode: Mode) -> None:
    serving = dataclasses.replace(SERVING, tokens_per_second=2000.0, tokens_per_call=1650.0)
    assert serving.hours(mode, calls) <= serving.hours(Mode.ALWAYS_ON, calls)


@settings(max_examples=50)
@given(fixed=st.floats(0.1, 1e6), per_call=st.floats(1e-6, 1.0))
def test_break_even_of_a_straight_line(fixed: float, per_call: float) -> None:
    found = first_break_even(lambda calls: per_call * calls - fixed)
    expected = fixed / per_call
    if expected <= 1:
        assert found == 1.0
    elif expected <= 1e12:
        assert found == pytest.approx(expected, rel=1e-6)


@settings(max_examples=50)
@given(price=POSITIVE, rent=POSITIVE, calls=st.floats(1, 1e9))
def test_no_figure_is_infinite_or_a_negative_break_even(price: float, rent: float, calls: float) -> None:
    result = run(
        traffic=dataclasses.replace(TRAFFIC, calls=calls),
        price=ApiPrice(input_usd_per_million=price, output_usd_per_million=price, priced_on=TODAY),
        serving=dataclasses.replace(SERVING, usd_per_hour=rent),
        training_usd=10.0,
    )
    for cost in result.modes:
        assert cost.usd.p10 <= cost.usd.p50 <= cost.usd.p90 < math.inf
        assert cost.break_even.calls is None or 1 <= cost.break_even.calls <= 1e12
        assert cost.payback_months is None or cost.payback_months > 0
        assert "inf" not in cost.break_even.words and "nan" not in cost.payback


def test_published_speeds_are_scaled_to_near_sizes_only() -> None:
    speed, source = published_speed(32.8, "H100", 80.0) or (None, "")
    assert speed is not None and speed.quantile(0.1) < speed.median < speed.quantile(0.9)
    assert "qwen3-32b/h100" in source
    smaller, _ = published_speed(30.0, "H100", 80.0) or (None, "")
    assert smaller is not None and smaller.median > speed.median
    assert published_speed(70.6, "H100", 80.0) is None and published_speed(32.8, "RTX4090", 24.0) is None
    assert all(published_speed(p.billion_parameters, gpu, p.gpu_memory_gib) for p in POINTS for gpu in p.gpus)
