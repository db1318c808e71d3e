"""What caps and deadlines allow: the most a plan can cost, and the first rule it breaks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from launcher.cost.offer import Offer
from launcher.jobparts import BudgetSpec
from launcher.planning.plan import Limits, Plan, Refusal, refusal
from launcher.planning.shapes import Shape

SECONDS_PER_HOUR = 3600.0


def cap_usd(budgets: Sequence[BudgetSpec], limits: Limits) -> float:
    """Dollars that all jobs together may cost."""
    caps = sum(budget.max_usd for budget in budgets)
    return caps if limits.max_usd is None else min(caps, limits.max_usd)


def deadline_hours(budgets: Sequence[BudgetSpec], limits: Limits, shape: Shape) -> float:
    """Hours the plan may take: the jobs' deadlines, one after another where they queue, and the plan's own."""
    rounds = math.ceil(len(budgets) / (shape.at_once * shape.jobs_apart))
    longest = max(math.inf if budget.deadline is None else budget.deadline for budget in budgets)
    own = math.inf if limits.deadline_s is None else limits.deadline_s
    return min(longest * rounds, own) / SECONDS_PER_HOUR


def worst_case_usd(budgets: Sequence[BudgetSpec], limits: Limits, offer: Offer, shape: Shape) -> float:
    """The most the rules let a plan cost: its cap, or every machine until the deadline if that is less.

    Both hold from the first paid second to the confirmed end (docs/money.md).
    """
    until_deadline = offer.usd_per_hour * shape.machines * deadline_hours(budgets, limits, shape)
    return min(cap_usd(budgets, limits), until_deadline)


def broken_rule(plan: Plan, budgets: Sequence[BudgetSpec], limits: Limits) -> Refusal | None:
    """The first rule a plan breaks, if any: price per hour, cap, deadline. The 90th percentile must keep to them."""
    offer, shape = plan.offer, plan.shape
    ceilings = [budget.max_usd_per_hour for budget in budgets if budget.max_usd_per_hour is not None]
    # Jobs that run on one machine at once share its price.
    usd_per_hour = offer.usd_per_hour * shape.nodes_per_job / shape.at_once
    if ceilings and usd_per_hour > min(ceilings):
        reason = f"{usd_per_hour:.2f} usd an hour for a job is above budget.max_usd_per_hour {min(ceilings):g}"
        return refusal(offer, "usd_per_hour", reason, usd_per_hour)
    cap = cap_usd(budgets, limits)
    if plan.usd.p90 > cap:
        return refusal(offer, "cap", f"may cost {plan.usd.p90:.2f} usd (p90); the cap is {cap:g}", plan.usd.p90)
    deadline = deadline_hours(budgets, limits, shape)
    if plan.hours.p90 > deadline:
        reason = f"may take {plan.hours.p90:.1f} h (p90); the deadline is {deadline:.3g} h"
        return refusal(offer, "deadline", reason, plan.hours.p90)
    return None
