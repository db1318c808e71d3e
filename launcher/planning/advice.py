"""What a planner says beside its plans: why the obvious cards are none, and the smallest change that would help."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.cost.gpus import usable_gib
from launcher.cost.memory import estimate_memory
from launcher.cost.workload import Workload
from launcher.job import JobSpec
from launcher.planning.needs import JobNeeds
from launcher.planning.plan import Limits, Plan, Refusal
from launcher.planning.planner import Planned

SHORTEST_LENGTH = 256
MOST_SUGGESTIONS = 3
# Rules whose figure differs from offer to offer, and what that figure is.
MONEY_RULES = {
    "usd_per_hour": "usd an hour for a job, above budget.max_usd_per_hour",
    "cap": "usd at the 90th percentile, above the cap",
    "deadline": "hours at the 90th percentile, above the deadline",
}
PlanSpecs = Callable[[Sequence[JobSpec], Limits], Planned]


@dataclass(frozen=True)
class Suggestion:
    """A change that makes a plan possible, and the plan it makes possible."""

    change: str
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        """The suggestion as JSON values."""
        return {"change": self.change, "plan": self.plan.to_json()}


def why_not(jobs: Sequence[JobNeeds], refused: Sequence[Refusal]) -> list[str]:
    """Why cards that one would think of are no plan, one line a reason, the cards it holds for in front."""
    lines: dict[str, list[str]] = defaultdict(list)
    hardest = max(jobs, key=lambda job: estimate_memory(job.workload(1)).high_gib)
    for each in refused:
        card = f"{each.gpu} {each.gpu_memory_gib:g} GB" if each.gpus == 1 else f"{each.gpus}x {each.gpu}"
        reason = each.reason
        if each.rule in MONEY_RULES:
            card, reason = f"{card} {each.needed:.2f}", MONEY_RULES[each.rule]
        elif each.rule == "memory" and each.gpus == 1:
            reason = _need_line(hardest, each.gpu, each.gpu_memory_gib)
        lines[reason].append(card)
    return [f"{', '.join(cards)}: {reason}" for reason, cards in lines.items()]


def _need_line(job: JobNeeds, gpu: str, gpu_memory_gib: float) -> str:
    usable, workload = usable_gib(gpu, gpu_memory_gib), job.workload(1)
    memory = estimate_memory(workload)
    what = f"{job.spec.method.kind} of {job.spec.model.id.split('/')[-1]}"
    if memory.components["weights"] > usable:
        return f"the weights of {what} alone are {memory.components['weights']:.1f} GiB"
    need = f"{what} at {workload.seq_len} tokens, micro-batch 1, needs up to {memory.high_gib:.1f} of {usable:.1f} GiB"
    verdicts = [(length, _at_length(workload, length).fits(usable)) for length in _shorter(workload.seq_len)]
    tight = next((length for length, verdict in verdicts if verdict == "tight"), None)
    fits = next((length for length, verdict in verdicts if verdict == "yes"), None)
    if memory.fits(usable) == "tight":
        need += f" (tight: {memory.expected_gib:.1f} expected)"
    elif tight is not None:
        need += f"; tight at {tight}"
    return need + (f"; fits at {fits}" if fits else f"; no length from {SHORTEST_LENGTH} tokens on fits for certain")


def _shorter(length: int) -> Iterator[int]:
    """The powers of two below a length, down to the shortest worth training on."""
    shorter = 1 << (length - 1).bit_length() - 1
    while shorter >= SHORTEST_LENGTH:
        yield shorter
        shorter //= 2


def _at_length(workload: Workload, length: int) -> Any:
    trained = None if workload.trained_tokens is None else min(workload.trained_tokens, length * workload.micro_batch)
    return estimate_memory(dataclasses.replace(workload, seq_len=length, trained_tokens=trained))


def smallest_changes(
    specs: Sequence[JobSpec], limits: Limits, refused: Sequence[Refusal], plan: PlanSpecs
) -> list[Suggestion]:
    """Changes that make a plan possible, the least intrusive first: money, then machines, then the training itself."""
    suggestions: list[Suggestion] = []
    for change, changed_specs, changed_limits in _candidates(specs, limits, refused):
        planned = plan(changed_specs, changed_limits)
        if planned.plans:
            suggestions.append(Suggestion(change, planned.plans[0]))
        if len(suggestions) == MOST_SUGGESTIONS:
            break
    return suggestions


def _candidates(
    specs: Sequence[JobSpec], limits: Limits, refused: Sequence[Refusal]
) -> Iterator[tuple[str, Sequence[JobSpec], Limits]]:
    yield from _money_candidates(specs, limits, refused)
    if any(spec.resources.gpu_memory for spec in specs):
        yield "leave resources.gpu_memory out", _changed(specs, "resources", gpu_memory=None), limits
    if any(len(spec.resources.providers) < 3 for spec in specs):
        everyone = ["vast", "lambda", "runpod"]
        yield "allow all providers in resources.providers", _changed(specs, "resources", providers=everyone), limits
    if any(spec.model.attention == "eager" for spec in specs):
        yield "model.attention: sdpa", _changed(specs, "model", attention="sdpa"), limits
    if not all(spec.train.gradient_checkpointing for spec in specs):
        yield "train.gradient_checkpointing: true", _changed(specs, "train", gradient_checkpointing=True), limits
    if any(spec.method.kind == "lora" for spec in specs):
        yield "method.kind: qlora", as_method(specs, "qlora"), limits
    for length in _shorter(max(spec.train.max_length for spec in specs)):
        yield f"train.max_length: {length}", shortened(specs, length), limits
    if any(spec.method.kind == "full" for spec in specs):
        yield "method.kind: lora", as_method(specs, "lora"), limits
        yield "method.kind: qlora", as_method(specs, "qlora"), limits


def _money_candidates(
    specs: Sequence[JobSpec], limits: Limits, refused: Sequence[Refusal]
) -> Iterator[tuple[str, Sequence[JobSpec], Limits]]:
    needed = {rule: min((r.needed for r in refused if r.rule == rule), default=None) for rule in MONEY_RULES}
    if (usd := needed["cap"]) is not None:
        cap = _rounded_up(usd)
        each = _changed(specs, "budget", max_usd=max(cap, *(spec.budget.max_usd for spec in specs)))
        yield f"a cap of {cap:g} usd", each, dataclasses.replace(limits, max_usd=cap)
    if (hours := needed["deadline"]) is not None:
        seconds = _rounded_up(hours) * 3600
        longer = _changed(specs, "budget", deadline=f"{seconds:.0f}s")
        yield f"a deadline of {seconds / 3600:g}h", longer, dataclasses.replace(limits, deadline_s=seconds)
    if (price := needed["usd_per_hour"]) is not None:
        ceiling = _rounded_up(price)
        yield f"budget.max_usd_per_hour: {ceiling:g}", _changed(specs, "budget", max_usd_per_hour=ceiling), limits


def as_method(specs: Sequence[JobSpec], kind: str) -> list[JobSpec]:
    """The same jobs by another method; a memory that the user asked for was meant for the method as given."""
    return _changed(_changed(specs, "resources", gpu_memory=None), "method", kind=kind)


def shortened(specs: Sequence[JobSpec], length: int) -> list[JobSpec]:
    """The same jobs with rows of at most this many tokens."""
    return [_changed([spec], "train", max_length=min(length, spec.train.max_length))[0] for spec in specs]


def _changed(specs: Sequence[JobSpec], section: str, **values: Any) -> list[JobSpec]:
    resolved = [spec.resolved() for spec in specs]
    return [JobSpec.from_resolved({**each, section: {**each[section], **values}}, each["name"]) for each in resolved]


def _rounded_up(value: float) -> float:
    """Up to two significant digits: a figure to write into a file."""
    digits = max(0, 2 - len(f"{int(value)}")) if value >= 1 else 2
    step = 10.0**-digits
    return round((int(value / step) + 1) * step, digits)
