"""A plan: one offer, one shape, what each job gets of it, and its hours and dollars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.cost.offer import Offer
from launcher.cost.spread import Quantiles
from launcher.planning.fit import Fit
from launcher.planning.shapes import Shape

# What may rule an offer out, in the order in which it is asked.
RULES = ("precision", "gpu_memory", "memory", "host memory", "usd_per_hour", "cap", "deadline")


@dataclass(frozen=True)
class Limits:
    """What a plan may cost and take. None: no limit of this kind beside those of the jobs themselves."""

    max_usd: float | None = None
    deadline_s: float | None = None
    spot: bool = False

    def to_json(self) -> dict[str, Any]:
        """The limits as JSON values."""
        hours = None if self.deadline_s is None else self.deadline_s / 3600
        return {"max_usd": self.max_usd, "deadline_hours": hours, "spot": self.spot}


@dataclass(frozen=True)
class Plan:
    """Jobs on machines. `usd` and `hours` are of all machines together, hours until the last one is gone.

    `worst_case_usd`: the most that the caps let it cost. `also_in`: further regions at the same price.
    `changes`: what the jobs would change for it. `conditions`: what must be asked for or checked when it is taken.
    `disk_gib`: of one machine. `phases`: median hours of one machine by phase.
    """

    offer: Offer
    usable_gib: float
    shape: Shape
    fits: tuple[Fit, ...]
    hours: Quantiles
    usd: Quantiles
    worst_case_usd: float
    disk_gib: float
    phases: Mapping[str, float]
    also_in: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    why: str = ""
    speed_sources: tuple[str, ...] = ()

    @property
    def tightest(self) -> Fit:
        """The job that needs most of a GPU."""
        return max(self.fits, key=lambda fit: fit.memory.high_gib)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; units stand in the names."""
        offer, tightest = self.offer, self.tightest
        return {
            "provider": offer.provider,
            "instance_type": offer.instance_type,
            "gpu": offer.gpu,
            "gpus": offer.gpus,
            "gpu_memory_gib": offer.gpu_memory_gib,
            "usable_gib": round(self.usable_gib, 2),
            "region": offer.region,
            "also_in": list(self.also_in),
            "spot": offer.spot,
            "usd_per_hour": offer.usd_per_hour,
            "price_source": offer.source,
            "priced_at": offer.priced_at,
            "machines": self.shape.machines,
            "shape": self.shape.describe(len(self.fits)),
            "peak_gib": round(tightest.memory.expected_gib, 2),
            "peak_high_gib": round(tightest.memory.high_gib, 2),
            "hours": quantiles_json(self.hours),
            "usd": quantiles_json(self.usd),
            "worst_case_usd": round(self.worst_case_usd, 2),
            "disk_gib": self.disk_gib,
            "phase_hours": {name: round(hours, 4) for name, hours in self.phases.items()},
            "jobs": [fit_json(fit) for fit in self.fits],
            "changes": list(self.changes),
            "conditions": list(self.conditions),
            "speed_from": list(self.speed_sources),
            "why": self.why,
        }


@dataclass(frozen=True)
class Refusal:
    """A kind of machine that is no plan, and why.

    `rule`: what it breaks, one of `RULES`. `needed`: what would have been enough, in the unit of the rule: GiB, usd or
    hours; 0 where nothing would.
    """

    gpu: str
    gpu_memory_gib: float
    gpus: int
    provider: str
    rule: str
    reason: str
    needed: float

    def to_json(self) -> dict[str, Any]:
        """The refusal as JSON values."""
        return dict(vars(self))


def refusal(offer: Offer, rule: str, reason: str, needed: float) -> Refusal:
    """The refusal of an offer."""
    return Refusal(offer.gpu, offer.gpu_memory_gib, offer.gpus, offer.provider, rule, reason, needed)


def quantiles_json(quantiles: Quantiles) -> dict[str, float]:
    """p10, p50 and p90, rounded to what the eye can use and the arithmetic can bear."""
    return {name: float(f"{getattr(quantiles, name):.4g}") for name in ("p10", "p50", "p90")}


def fit_json(fit: Fit) -> dict[str, Any]:
    return {
        "job": fit.job,
        "gpus": fit.gpus,
        "sharding": fit.workload.sharding,
        "micro_batch": fit.micro_batch,
        "accumulation": fit.accumulation,
        "sequence_length": fit.workload.seq_len,
        "peak_gib": round(fit.memory.expected_gib, 2),
        "peak_low_gib": round(fit.memory.low_gib, 2),
        "peak_high_gib": round(fit.memory.high_gib, 2),
        "fits": fit.verdict,
        "components_gib": {name: round(gib, 3) for name, gib in fit.memory.components.items()},
        "host_gib": round(fit.memory.host_gib, 1),
    }
