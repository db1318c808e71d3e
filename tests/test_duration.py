"""Duration: phases add up to an interval, and more work, a slower line or more preemptions never make it shorter."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.architecture import Architecture
from launcher.cost.duration import Duration, Work, estimate_duration, with_preemptions
from launcher.cost.gpus import find_gpu
from launcher.cost.spread import Spread
from launcher.cost.stacks import STACKS
from launcher.cost.workload import Workload
from launcher.errors import BadInput

CODER_32B = Architecture(
    hidden_size=5120,
    num_hidden_layers=64,
    num_attention_heads=40,
    num_key_value_heads=8,
    intermediate_size=27648,
    vocab_size=152064,
    head_dim=128,
    qkv_bias=True,
)
QLORA = Workload(
    architecture=CODER_32B,
    method="qlora",
    quantization="nf4-dq",
    seq_len=1024,
    micro_batch=1,
    stack=STACKS["launcher"],
    trained_tokens=150,
)
WORK = Work(
    train_tokens=2052 * 700,
    token_count_spread=None,
    micro_steps=2052,
    optimizer_steps=129,
    evaluations=8,
    prompts_per_evaluation=85,
    prompt_tokens=600,
    answer_tokens=50,
    final_prompts=770,
    saves=8,
    checkpoint_gib=0.75,
)
PHASES = [
    "provisioning",
    "environment",
    "model download",
    "load",
    "probe",
    "training",
    "evaluation",
    "checkpoints",
    "teardown",
]


def estimate(work: Work = WORK, gpu: str = "A100", line: float | None = 1.0, **changes: object) -> Duration:
    return estimate_duration(dataclasses.replace(QLORA, **changes), work, find_gpu(gpu), "vast", line)


def changed(**changes: object) -> Work:
    return dataclasses.replace(WORK, **changes)


def test_every_phase_has_a_time_and_says_where_it_comes_from() -> None:
    duration = estimate()
    assert list(duration.terms) == PHASES
    assert all(term.median > 0 for term in duration.terms.values())
    assert list(duration.sources) == PHASES and all(duration.sources.values())


def test_the_whole_is_more_than_the_training_and_about_the_sum_of_its_phases() -> None:
    duration = estimate()
    phases_h = sum(term.median for term in duration.terms.values()) / 3600
    assert duration.hours.p50 > duration.training_hours.p50
    assert phases_h <= duration.hours.p50 <= 1.2 * phases_h


def test_a_one_hour_job_pays_a_good_part_for_what_is_not_training() -> None:
    duration = estimate()
    share = 1 - duration.training_hours.p50 / duration.hours.p50
    assert 0.15 <= share <= 0.6


@pytest.mark.parametrize("seconds", [600])
def test_a_32b_over_a_gigabit_line_downloads_in_about_ten_minutes(seconds: float) -> None:
    assert estimate().terms["model download"].median == pytest.approx(seconds, rel=0.15)


def test_an_unknown_line_widens_the_download_and_a_very_fast_one_counts_as_five_gigabit() -> None:
    unknown, known = estimate(line=None).terms["model download"], estimate(line=1.0).terms["model download"]
    assert unknown.above > known.above
    assert estimate(line=40.0).terms["model download"] == estimate(line=5.0).terms["model download"]


def test_an_own_machine_is_neither_provisioned_nor_torn_down() -> None:
    duration = estimate_duration(QLORA, WORK, find_gpu("RTX4090"), "own", None)
    assert duration.terms["provisioning"].median == duration.terms["teardown"].median == 0
    assert duration.sources["provisioning"] == "own machine"


def test_short_rows_take_longer_per_token() -> None:
    rows = changed(train_tokens=WORK.train_tokens / 4)
    assert estimate(rows).training_hours.p50 > estimate().training_hours.p50 / 4


def test_a_measured_speed_gives_the_training_time_and_narrows_it() -> None:
    prior = estimate()
    measured = estimate_duration(QLORA, WORK, find_gpu("A100"), "vast", 1.0, Spread(500.0, 0.03, 0.03))
    assert measured.terms["training"].median == pytest.approx(WORK.train_tokens / 500)
    assert measured.sources["training"] == "calibrated"
    width = [d.training_hours.p90 / d.training_hours.p10 for d in (measured, prior)]
    assert width[0] < width[1]


def test_estimated_token_counts_widen_the_training_time() -> None:
    estimated = estimate(changed(token_count_spread=Spread(1.0, 0.2, 0.2)))
    assert estimated.training_hours.p90 > estimate().training_hours.p90
    assert estimated.training_hours.p10 < estimate().training_hours.p10


def test_two_gpus_share_the_training() -> None:
    halved = changed(micro_steps=WORK.micro_steps // 2)
    two = estimate(halved, gpus=2, sharding="ddp").training_hours.p50
    assert estimate().training_hours.p50 / 2 <= two <= 0.6 * estimate().training_hours.p50


def test_a_job_without_evaluations_and_saves_spends_nothing_on_them() -> None:
    bare = estimate(changed(evaluations=0, final_prompts=0, saves=0))
    assert bare.terms["evaluation"].median == bare.terms["checkpoints"].median == 0


# --- properties --------------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 20_000), more=st.integers(1, 20_000), rows=st.integers(1, 4096))
@settings(max_examples=50)
def test_more_tokens_never_shorter(steps: int, more: int, rows: int) -> None:
    few, many = (
        estimate(changed(micro_steps=n, train_tokens=n * rows, optimizer_steps=n)) for n in (steps, steps + more)
    )
    assert many.training_hours.p50 >= few.training_hours.p50
    assert many.hours.p50 >= few.hours.p50


@given(tokens=st.floats(1, 1e7), more=st.floats(0, 1e7))
@settings(max_examples=50)
def test_longer_rows_never_shorter(tokens: float, more: float) -> None:
    short, long = (estimate(changed(train_tokens=n)).training_hours.p50 for n in (tokens, tokens + more))
    assert long >= short * (1 - 1e-12)


@given(
    gpu=st.sampled_from(["RTX4090", "A100", "H100", "L40S", "RTX5090", "B200", "T4"]),
    line=st.none() | st.floats(0.05, 20),
    spread=st.none() | st.floats(0, 0.5).map(lambda s: Spread(1.0, s, s)),
)
@settings(max_examples=50)
def test_the_interval_contains_its_median(gpu: str, line: float | None, spread: Spread | None) -> None:
    duration = estimate(changed(token_count_spread=spread), gpu, line)
    for hours in (duration.hours, duration.training_hours):
        assert 0 < hours.p10 <= hours.p50 <= hours.p90 < math.inf


@given(slow=st.floats(0.05, 20), faster=st.floats(1, 10))
@settings(max_examples=50)
def test_a_faster_line_never_longer(slow: float, faster: float) -> None:
    assert estimate(line=slow * faster).hours.p50 <= estimate(line=slow).hours.p50 * (1 + 1e-9)


@given(rate=st.floats(0, 0.5), more=st.floats(0, 0.5), interval=st.floats(0, 7200))
@settings(max_examples=50)
def test_more_preemptions_never_cheaper(rate: float, more: float, interval: float) -> None:
    duration = estimate()
    rarely, often = (with_preemptions(duration, r, interval).hours for r in (rate, rate + more))
    # Percentiles come from a fixed set of draws, so they are exact to a small part only.
    assert often.p50 >= rarely.p50 * 0.999 and often.p90 >= rarely.p90 * 0.999


# --- preemptions -------------------------------------------------------------------------------------------------


def test_without_preemptions_nothing_is_lost() -> None:
    duration = estimate()
    assert with_preemptions(duration, 0.0, 600).hours == duration.hours


def test_each_preemption_pays_the_fixed_costs_and_half_a_checkpoint_interval_again() -> None:
    duration = estimate()
    lost = with_preemptions(duration, 1e-6, 600, restart_s=60).terms["preemptions"]
    fixed = sum(duration.terms[phase].median for phase in PHASES[:5])
    mean = lost.median * math.exp(lost.above**2 / 2)
    assert mean == pytest.approx(1e-6 * duration.hours.p50 * (60 + fixed + 300), rel=1e-4)


def test_a_job_that_loses_time_as_fast_as_it_gains_it_is_refused() -> None:
    with pytest.raises(BadInput, match="never end"):
        with_preemptions(estimate(), 10, 7200)


@pytest.mark.parametrize("figures", [(-1, 600), (math.nan, 600), (0.1, -1), (0.1, math.inf)])
def test_bad_preemption_figures_are_refused(figures: tuple[float, float]) -> None:
    with pytest.raises(BadInput):
        with_preemptions(estimate(), *figures)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_tokens": 0},
        {"train_tokens": math.nan},
        {"micro_steps": 0},
        {"optimizer_steps": 0},
        {"saves": -1},
        {"answer_tokens": math.inf},
    ],
)
def test_amounts_that_cannot_be_are_refused_by_name(changes: dict) -> None:
    with pytest.raises(BadInput, match=next(iter(changes))):
        estimate(changed(**changes))


@pytest.mark.parametrize("line", [0, -1, math.nan])
def test_a_line_without_speed_is_refused(line: float) -> None:
    with pytest.raises(BadInput, match="download_gbit_s"):
        estimate(line=line)
