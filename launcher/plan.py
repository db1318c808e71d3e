"""`launcher plan`: job files and offers in, ranked plans and advice out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from launcher.cost.calibration import read_calibrations
from launcher.cost.memory import estimate_memory
from launcher.errors import BadInput
from launcher.job import JobSpec
from launcher.offers import Gathered
from launcher.planning.advice import Suggestion, as_method, smallest_changes, why_not
from launcher.planning.choices import Objective
from launcher.planning.fit import Fit
from launcher.planning.kinds import kinds_of
from launcher.planning.needs import CountTokens, JobNeeds
from launcher.planning.plan import Limits, fit_json
from launcher.planning.planner import Planned, Planner
from launcher.tokens import count_tokens


@dataclass(frozen=True)
class Alternative:
    """The same jobs with one change, planned."""

    change: str
    jobs: tuple[JobNeeds, ...]
    planned: Planned

    @cached_property
    def why_not(self) -> list[str]:
        """Why cards that one would think of are no plan for these jobs either."""
        return why_not(self.jobs, self.planned.refused)

    def to_json(self) -> list[dict[str, Any]]:
        """The plans as JSON values, each with the change."""
        return [{"change": self.change, **plan.to_json()} for plan in self.planned.plans]


@dataclass(frozen=True)
class PlanResult:
    """Everything `launcher plan` says.

    `alternative`: the same jobs by a method that needs less memory, None where there is none.
    """

    specs: tuple[JobSpec, ...]
    jobs: tuple[JobNeeds, ...]
    limits: Limits
    objective: Objective
    planned: Planned
    alternative: Alternative | None
    suggestions: tuple[Suggestion, ...]
    gathered: Gathered

    @cached_property
    def why_not(self) -> list[str]:
        """Why cards that one would think of are no plan."""
        return why_not(self.jobs, self.planned.refused)

    def notes(self) -> list[str]:
        """Where tokens and speeds come from."""
        lines = [f"{job.spec.name}: {job.tokens.examples} rows, {job.tokens.source}" for job in self.jobs]
        speeds = sorted({source for plan in self.planned.plans for source in plan.speed_sources})
        if speeds:
            lines.append(f"speed: {'; '.join(speeds)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values: `plans` and `refused`, and what is said beside them."""
        return {
            "plans": [plan.to_json() for plan in self.planned.plans],
            "refused": [refusal.to_json() for refusal in self.planned.refused],
            "why_not": self.why_not,
            "alternatives": self.alternative.to_json() if self.alternative else [],
            "alternatives_why_not": self.alternative.why_not if self.alternative else [],
            "suggestions": [suggestion.to_json() for suggestion in self.suggestions],
            "tokens": {job.spec.name: job.tokens.source for job in self.jobs},
            "prices": self.gathered.sources_json(),
            "objective": self.objective,
            "limits": self.limits.to_json(),
            "jobs": [_as_given(job) for job in self.jobs],
            "planned_at": datetime.fromtimestamp(self.gathered.gathered_at, UTC).isoformat(timespec="seconds"),
        }


def _as_given(job: JobNeeds) -> dict[str, Any]:
    """A job on one GPU at its smallest step, whether or not any card holds it, as JSON values."""
    workload = job.workload(1)
    fit = Fit(job.spec.name, 1, 1, job.accumulation(1, 1), workload, estimate_memory(workload), "no")
    return {**fit_json(fit), "fits": None, "model": job.spec.model.id, "method": job.spec.method.kind}


def make_plan(
    specs: Sequence[JobSpec],
    gathered: Gathered,
    limits: Limits,
    objective: Objective,
    count: CountTokens = count_tokens,
) -> PlanResult:
    """Plan jobs together over offers; `count` says how many tokens a job has.

    Raises:
        BadInput: an unknown model or stack, rows beyond the model's context, data that cannot be read, a schedule that
            cannot work; the faults of all jobs at once.
    """
    records = read_calibrations()
    jobs = _needs_of(specs, count)
    kinds = kinds_of(gathered.offers)
    planned = Planner(jobs, kinds, limits, records).plan(objective)

    def replan(changed: Sequence[JobSpec], changed_limits: Limits) -> Planned:
        try:
            return Planner(_needs_of(changed, count), kinds, changed_limits, records).plan(objective)
        except BadInput:  # the change makes the job impossible in itself
            return Planned((), ())

    alternative = None
    if any(spec.method.kind == "lora" for spec in specs):
        changed = _needs_of(as_method(specs, "qlora"), count)
        change = "the same jobs as qlora" if len(specs) > 1 else "the same job as qlora"
        alternative = Alternative(change, changed, Planner(changed, kinds, limits, records).plan(objective))
    suggestions = () if planned.plans else tuple(smallest_changes(specs, limits, planned.refused, replan))
    return PlanResult(tuple(specs), jobs, limits, objective, planned, alternative, suggestions, gathered)


def _needs_of(specs: Sequence[JobSpec], count: CountTokens) -> tuple[JobNeeds, ...]:
    jobs, faults = [], []
    for spec in specs:
        try:
            job = JobNeeds.of(spec, count)
            _ = job.schedule  # a schedule that cannot work is bad input, and is found here
            jobs.append(job)
        except BadInput as fault:
            faults += [line if line.startswith(f"{spec.name}:") else f"{spec.name}: {line}" for line in fault.faults]
    if faults:
        raise BadInput(*faults)
    return tuple(jobs)
