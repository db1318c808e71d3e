"""The order of plans, and what each has over the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from launcher.planning.choices import Objective
from launcher.planning.plan import Plan

REASONS = {
    Objective.CHEAPEST: "cheapest that fits",
    Objective.FASTEST: "fastest that fits",
    Objective.BALANCED: "least usd x hours of those that fit",
}


def rank_key(objective: Objective) -> Callable[[Plan], tuple[float, float, str]]:
    """Sorts plans best first: by median dollars, by median hours, or by their product."""

    def key(plan: Plan) -> tuple[float, float, str]:
        usd, hours = plan.usd.p50, plan.hours.p50
        first = {Objective.CHEAPEST: usd, Objective.FASTEST: hours, Objective.BALANCED: usd * hours}[objective]
        return first, hours if objective is Objective.CHEAPEST else usd, plan.offer.instance_type

    return key


def explained(plans: Sequence[Plan], objective: Objective) -> tuple[Plan, ...]:
    """The plans with `why`: what the first has over the rest, what each of the rest has over the first."""
    if not plans:
        return ()
    first = plans[0]
    headroom = first.usable_gib - first.tightest.memory.high_gib
    best = dataclasses.replace(first, why=f"{REASONS[objective]}; {headroom:.1f} GiB to spare")
    return (best, *(dataclasses.replace(plan, why=_against(plan, first)) for plan in plans[1:]))


def best_by_card(plans: Iterable[Plan]) -> list[Plan]:
    """The first plan of each card and count, in the order given."""
    first: dict[tuple[str, float, int], Plan] = {}
    for plan in plans:
        first.setdefault((plan.offer.gpu, plan.offer.gpu_memory_gib, plan.offer.gpus), plan)
    return list(first.values())


def _against(plan: Plan, first: Plan) -> str:
    return f"{plan.usd.p50 / first.usd.p50:.2f}x usd, {plan.hours.p50 / first.hours.p50:.2f}x hours of plan 1"
