"""Scores against a job's targets: which tier each metric has reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.jobparts import TARGET_METRICS

TIERS = ("mvp", "production", "stretch")


@dataclass(frozen=True)
class TargetRow:
    """One metric against its tiers. `reached` is the highest tier held, None for none or where `value` is unknown."""

    metric: str
    value: float | None
    tiers: dict[str, float]
    reached: str | None


def compare_with_targets(
    scores: Mapping[str, Any], targets: Mapping[str, Mapping[str, float | None]]
) -> list[TargetRow]:
    """Compare the metrics of one part with the job's targets, in the order the job states them.

    Args:
        scores: SCORES of docs/structure.md.
        targets: metric to tier to value, as in a resolved job; `latency_ms` is the time to the first token.
    """
    rows = []
    for metric, stated in targets.items():
        tiers = {tier: float(value) for tier in TIERS if (value := stated.get(tier)) is not None}
        value = _measured(scores, metric)
        reached = [tier for tier, bound in tiers.items() if value is not None and _holds(metric, value, bound)]
        rows.append(TargetRow(metric, value, tiers, reached[-1] if reached else None))
    return rows


def _measured(scores: Mapping[str, Any], metric: str) -> float | None:
    name, factor = ("time_to_first_token_s", 1000.0) if metric == "latency_ms" else (metric, 1.0)
    value = scores.get("metrics", {}).get(name, {}).get("value")
    return None if value is None else value * factor


def _holds(metric: str, value: float, bound: float) -> bool:
    higher_is_better = TARGET_METRICS.get(metric, True)
    return value >= bound if higher_is_better else value <= bound
