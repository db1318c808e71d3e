"""What a user reads off a plan: it fits, its interval holds its median, it obeys every cap, and it says why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.cost.calibration import CalibrationRecord
from launcher.cost.gpus import usable_gib
from launcher.cost.memory import estimate_memory
from launcher.cost.memory_calibration import calibrated_memory
from launcher.cost.offer import Offer
from launcher.errors import BadInput
from launcher.job import JobSpec, load_job
from launcher.planning.advice import as_method, shortened, smallest_changes, why_not
from launcher.planning.choices import Objective
from launcher.planning.kinds import kinds_of
from launcher.planning.needs import JobNeeds
from launcher.planning.plan import Limits
from launcher.planning.planner import Planned, Planner
from launcher.planning.shapes import Shape, shapes_for
from launcher.tokens import count_tokens

ROOT = Path(__file__).parent.parent
SPECIALISTS = ("veran-tools", "farore-debug", "nayru-editor")
NO_LIMITS = Limits()


def offer(gpu: str, memory: float, gpus: int = 1, usd: float = 1.0, **changes: Any) -> Offer:
    plain: dict[str, Any] = {
        "provider": "vast",
        "instance_type": f"{gpus}x-{gpu}",
        "vcpus": 16.0 * gpus,
        "host_memory_gib": 128.0 * gpus,
        "region": "somewhere",
        "spot": False,
        "source": "snapshot",
        "priced_at": None,
    }
    return Offer(gpu=gpu, gpu_memory_gib=memory, gpus=gpus, usd_per_hour=usd, **{**plain, **changes})


CARDS = (
    offer("RTX4090", 24, usd=0.4),
    offer("RTX4090", 24, gpus=4, usd=1.6),
    offer("L40S", 48, usd=0.9),
    offer("A100", 80, usd=1.4),
    offer("H100-SXM", 80, usd=2.5),
    offer("H100-SXM", 80, gpus=4, usd=10.0),
)


def specialist(name: str = "veran-tools", **sections: dict[str, Any]) -> JobSpec:
    resolved = load_job(ROOT / "jobs" / f"{name}.yaml").resolved()
    for section, values in sections.items():
        resolved[section] = {**resolved[section], **values}
    return JobSpec.from_resolved(resolved, name)


def planned(
    specs: Sequence[JobSpec],
    offers: Sequence[Offer] = CARDS,
    limits: Limits = NO_LIMITS,
    objective: Objective = Objective.CHEAPEST,
) -> Planned:
    return Planner([JobNeeds.of(spec, count_tokens) for spec in specs], kinds_of(offers), limits).plan(objective)


@pytest.fixture(scope="module")
def qlora() -> JobSpec:
    return as_method([specialist()], "qlora")[0]


# --- fit ---------------------------------------------------------------------------------------------------------


def test_32b_lora_in_16_bits_never_fits_24_or_48_gb() -> None:
    result = planned([specialist()])
    assert {plan.offer.gpu_memory_gib for plan in result.plans if plan.offer.gpus == 1} == {80}
    refused = {(r.gpu, r.gpus): r for r in result.refused}
    assert refused["RTX4090", 1].rule == refused["L40S", 1].rule == "memory"


def test_every_plan_fits_its_card_at_the_upper_bound(qlora: JobSpec) -> None:
    plans = planned([qlora]).plans
    assert plans
    for plan in plans:
        assert all(fit.memory.high_gib <= usable_gib(plan.offer.gpu, plan.offer.gpu_memory_gib) for fit in plan.fits)


def test_a_smaller_micro_batch_is_proposed_with_the_same_global_batch() -> None:
    spec = as_method([specialist(train={"max_length": 4096, "packing": True})], "qlora")[0]
    plan = planned([spec], [offer("RTX5090", 32)]).plans[0]
    fit = plan.fits[0]
    assert fit.micro_batch < 4
    assert fit.micro_batch * fit.accumulation == spec.train.effective_batch == 16
    assert "same global batch 16" in plan.changes[0]


def test_a_job_that_states_more_memory_than_a_card_has_is_not_planned_on_it(qlora: JobSpec) -> None:
    asked = specialist(method={"kind": "qlora"}, resources={"gpu_memory": "80GiB"})
    cards = {plan.offer.gpu_memory_gib for plan in planned([asked]).plans}
    assert cards == {80}, "a card sold as 80 GB is what 80GiB means"


def test_an_offer_with_too_little_host_memory_is_passed_over_for_a_dearer_one(qlora: JobSpec) -> None:
    poor = offer("L40S", 48, usd=0.1, host_memory_gib=1.0)
    rich = offer("L40S", 48, usd=0.9, host_memory_gib=128.0)
    assert planned([qlora], [poor, rich]).plans[0].offer is rich
    assert planned([qlora], [poor]).refused[0].rule == "host memory"


def test_a_model_too_large_for_one_card_is_sharded() -> None:
    plans = planned([specialist()], [offer("RTX5090", 32, gpus=4, usd=2.0)]).plans
    assert plans and plans[0].shape.gpus_per_job == 4
    assert plans[0].fits[0].workload.sharding == "fsdp"


# --- money and time ----------------------------------------------------------------------------------------------


def test_intervals_hold_their_median_and_the_worst_case_is_the_cap() -> None:
    for plan in planned([specialist()]).plans:
        assert 0 < plan.usd.p10 <= plan.usd.p50 <= plan.usd.p90 <= plan.worst_case_usd
        assert 0 < plan.hours.p10 <= plan.hours.p50 <= plan.hours.p90
        deadline_hours = 6.0
        assert plan.worst_case_usd == pytest.approx(min(15.0, plan.offer.usd_per_hour * deadline_hours))


def test_no_plan_breaks_the_cap_the_deadline_or_the_price_ceiling(qlora: JobSpec) -> None:
    free = planned([qlora]).plans
    cap = sorted(plan.usd.p90 for plan in free)[len(free) // 2]
    capped = planned([qlora], limits=Limits(max_usd=cap))
    assert 0 < len(capped.plans) < len(free)
    assert all(plan.usd.p90 <= cap and plan.worst_case_usd <= cap for plan in capped.plans)
    hours = sorted(plan.hours.p90 for plan in free)[0]
    timed = planned([qlora], limits=Limits(deadline_s=hours * 3600 * 1.001))
    assert timed.plans and all(plan.hours.p90 <= hours * 1.001 for plan in timed.plans)
    ceiling = specialist(method={"kind": "qlora"}, budget={"max_usd_per_hour": 1.0})
    assert all(plan.offer.usd_per_hour <= 1.0 for plan in planned([ceiling]).plans)


def test_objectives_rank_by_what_they_say(qlora: JobSpec) -> None:
    cheapest = planned([qlora], objective=Objective.CHEAPEST).plans
    fastest = planned([qlora], objective=Objective.FASTEST).plans
    assert cheapest[0].usd.p50 == min(plan.usd.p50 for plan in cheapest)
    assert fastest[0].hours.p50 == min(plan.hours.p50 for plan in fastest)
    assert "cheapest" in cheapest[0].why and "fastest" in fastest[0].why
    assert "of plan 1" in cheapest[1].why


def test_spot_is_taken_only_when_asked_for_and_pays_for_preemptions(qlora: JobSpec) -> None:
    both = [offer("A100", 80, usd=1.0), offer("A100", 80, usd=1.0, spot=True)]
    assert not any(plan.offer.spot for plan in planned([qlora], both).plans)
    plans = {plan.offer.spot: plan for plan in planned([qlora], both, Limits(spot=True)).plans}
    assert plans[True].hours.p50 > plans[False].hours.p50
    assert plans[True].usd.p50 > plans[False].usd.p50


def test_more_training_is_never_cheaper_nor_shorter() -> None:
    def costs(epochs: float) -> list[tuple[str, float, float]]:
        plans = planned([specialist(train={"epochs": epochs}, budget={"max_usd": 1000.0, "deadline": "100h"})]).plans
        return sorted((p.offer.instance_type, p.usd.p50, p.hours.p50) for p in plans)

    for (name, usd, hours), (longer_name, more_usd, more_hours) in zip(costs(3.0), costs(6.0), strict=True):
        assert name == longer_name and more_usd > usd and more_hours > hours


# --- several jobs ------------------------------------------------------------------------------------------------


def test_three_jobs_are_priced_in_every_shape() -> None:
    specs = [as_method([specialist(name)], "qlora")[0] for name in SPECIALISTS]
    shapes = {(plan.shape.machines, plan.shape.at_once) for plan in planned(specs).plans}
    assert shapes >= {(1, 1), (3, 1), (1, 3)}


def test_one_after_another_costs_less_than_three_machines_and_takes_longer() -> None:
    specs = [as_method([specialist(name)], "qlora")[0] for name in SPECIALISTS]
    plans = planned(specs, [offer("L40S", 48, usd=0.9)]).plans
    queue, apart = (next(p for p in plans if p.shape.machines == machines) for machines in (1, 3))
    assert queue.usd.p50 < apart.usd.p50, "set-up and download are paid once"
    assert queue.hours.p50 > apart.hours.p50


@given(jobs=st.integers(1, 6), gpus=st.sampled_from([1, 2, 4, 8]), degree=st.sampled_from([1, 2, 4, 8]))
def test_shapes_hold_every_job_and_waste_less_than_half(jobs: int, gpus: int, degree: int) -> None:
    for shape in shapes_for(jobs, gpus, degree, multi_node=True):
        assert shape.at_once * degree <= gpus * shape.nodes_per_job
        assert gpus < 2 * jobs * degree or shape.nodes_per_job > 1
        assert shape.machines in (1, jobs) or shape.nodes_per_job == shape.machines
        assert shape.describe(jobs)


def test_only_lambda_spans_machines() -> None:
    assert shapes_for(1, 8, 16, multi_node=True) == [Shape(2, 1, 16, 2)]
    assert shapes_for(1, 8, 16, multi_node=False) == []


# --- advice ------------------------------------------------------------------------------------------------------


def test_a_card_that_is_too_small_is_explained_with_what_would_fit() -> None:
    spec = as_method([specialist(train={"max_length": 4096, "packing": True})], "qlora")[0]
    needs = JobNeeds.of(spec, count_tokens)
    refused = Planner([needs], kinds_of(CARDS), NO_LIMITS).plan().refused
    line = next(line for line in why_not([needs], refused) if "RTX4090 24 GB" in line)
    assert "4096 tokens, micro-batch 1, needs up to" in line
    assert "fits" in line


def test_a_card_smaller_than_the_weights_says_so() -> None:
    needs = JobNeeds.of(specialist(), count_tokens)
    lines = why_not([needs], Planner([needs], kinds_of(CARDS), NO_LIMITS).plan().refused)
    line = next(
        line for line in lines if "the weights of lora of Qwen2.5-Coder-32B-Instruct alone are 61.0 GiB" in line
    )
    assert "RTX4090 24 GB" in line and "L40S 48 GB" in line


@pytest.mark.parametrize(
    ("offers", "changes", "limits", "suggestion"),
    [
        (CARDS, {}, Limits(max_usd=0.05), "a cap of"),
        (CARDS, {}, Limits(deadline_s=60.0), "a deadline of"),
        (CARDS, {"budget": {"max_usd_per_hour": 0.01}}, NO_LIMITS, "budget.max_usd_per_hour"),
        (
            CARDS,
            {"method": {"kind": "qlora"}, "resources": {"gpu_memory": "200GiB"}},
            NO_LIMITS,
            "resources.gpu_memory",
        ),
        ([offer("L40S", 48)], {}, NO_LIMITS, "method.kind: qlora"),
    ],
)
def test_when_nothing_is_possible_the_smallest_change_is_named(
    offers: Sequence[Offer], changes: dict[str, Any], limits: Limits, suggestion: str
) -> None:
    specs = [specialist(**changes)]
    nothing = planned(specs, offers, limits)
    assert not nothing.plans

    def replan(changed: Sequence[JobSpec], changed_limits: Limits) -> Planned:
        try:
            return planned(changed, offers, changed_limits)
        except BadInput:  # rows too short for any answer
            return Planned((), ())

    found = smallest_changes(specs, limits, nothing.refused, replan)
    assert found and found[0].change.startswith((suggestion, f"leave {suggestion}"))


def test_rows_beyond_the_models_context_are_refused() -> None:
    with pytest.raises(BadInput, match=r"train.max_length: 200000: .* context of 131072 tokens"):
        JobNeeds.of(specialist(train={"max_length": 200_000}), count_tokens)


def test_shortening_changes_nothing_else() -> None:
    spec = specialist()
    (shorter,) = shortened([spec], 512)
    assert shorter.train.max_length == 512
    assert shorter.method == spec.method and shorter.budget == spec.budget


@settings(max_examples=25, deadline=None)
@given(usd=st.floats(0.05, 5.0), factor=st.floats(1.01, 10.0))
def test_a_dearer_machine_is_never_the_cheaper_plan(usd: float, factor: float) -> None:
    spec = as_method([specialist(budget={"max_usd": 10_000.0, "max_usd_per_hour": 1000.0})], "qlora")[0]
    needs = [JobNeeds.of(spec, count_tokens)]
    costs = [
        Planner(needs, kinds_of([offer("A100", 80, usd=price)]), NO_LIMITS).plan().plans[0].usd
        for price in (usd, usd * factor)
    ]
    assert all(getattr(costs[0], p) < getattr(costs[1], p) for p in ("p10", "p50", "p90"))


# --- what earlier runs measured ----------------------------------------------------------------------------------


def measured(needs: JobNeeds, micro_batch: int, **changes: Any) -> CalibrationRecord:
    """A record of a run of this job on an A100, twice as fast and a tenth larger than predicted."""
    workload = needs.workload(micro_batch)
    plain: dict[str, Any] = {
        "at": 1.0,
        "run_id": "earlier",
        "gpu": "NVIDIA A100-SXM4-80GB",
        "gpu_memory_gib": 79.1,
        "gpus": 1,
        "model": needs.spec.model.id,
        "family": needs.architecture.family,
        "parameters": needs.architecture.parameters,
        "method": workload.method,
        "quantization": workload.quantization,
        "rank": workload.rank,
        "seq_len": workload.seq_len,
        "micro_batch": micro_batch,
        "gradient_checkpointing": True,
        "attention": workload.attention,
        "weight_bytes": 2,
        "sharding": "none",
        "stack": "launcher",
        "versions": {},
        "tokens_per_second_per_gpu": 3000.0,
        "tokens_per_second_low": 2900.0,
        "tokens_per_second_high": 3100.0,
        "peak_reserved_gib": 1.1 * estimate_memory(workload).reserved_gib,
        "load_s": 60.0,
        "steps": 20,
    }
    return CalibrationRecord(**{**plain, **changes})


def test_a_measured_run_replaces_predicted_speed_and_memory_of_the_same_card(qlora: JobSpec) -> None:
    needs = JobNeeds.of(qlora, count_tokens)
    kinds = kinds_of([offer("A100", 80, usd=1.4), offer("L40S", 48, usd=0.9)])
    prior = {p.offer.gpu: p for p in Planner([needs], kinds, NO_LIMITS).plan().plans}
    after = {p.offer.gpu: p for p in Planner([needs], kinds, NO_LIMITS, [measured(needs, 4)]).plan().plans}
    old, new = prior["A100"], after["A100"]
    assert new.speed_sources == ("calibrated",)
    assert new.phases["training"] < old.phases["training"]
    assert new.fits[0].memory.reserved_gib == pytest.approx(1.1 * old.fits[0].memory.reserved_gib)
    widths = [p.fits[0].memory.high_gib / p.fits[0].memory.expected_gib for p in (old, new)]
    assert widths[1] < widths[0]
    assert sum(new.fits[0].memory.components.values()) == pytest.approx(new.fits[0].memory.expected_gib)
    assert after["L40S"].phases == prior["L40S"].phases, "another card learns nothing from it"


def test_a_run_at_another_micro_batch_moves_the_estimate_less_surely(qlora: JobSpec) -> None:
    needs = JobNeeds.of(qlora, count_tokens)
    workload = needs.workload(4)
    same, other = (calibrated_memory(workload, "A100", [measured(needs, size)], {}) for size in (4, 2))
    assert same is not None and other is not None
    assert same.reserved_gib == pytest.approx(other.reserved_gib, rel=0.05)
    assert same.high_gib / same.expected_gib < other.high_gib / other.expected_gib
    assert calibrated_memory(workload, "H100", [measured(needs, 4)], {}) is None
    assert calibrated_memory(workload, "A100", [measured(needs, 4, peak_reserved_gib=None)], {}) is None
