"""Claim against result: right, wrong, or not to be checked, with one sentence why. Nothing here is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from launcher.seeds.claims import Claim
from launcher.seeds.expression import Interval, evaluate, evaluate_interval

TIGHT = "tight: the expected peak fits, its upper bound does not; only a run tells"


class Verdict(StrEnum):
    """What comes of a claim."""

    RIGHT = "right"
    WRONG = "wrong"
    UNCHECKED = "cannot be checked"


@dataclass(frozen=True)
class Result:
    """What was computed: exact arithmetic (`low` to `high`), or a planner's figure with its median in between.

    low, high: None where nothing could be computed; `facts` then has the `reason`. fits: of a memory row, `yes`,
    `tight` or `no`. facts: further numbers and words for the sentence.
    """

    low: float | None
    high: float | None
    median: float | None = None
    fits: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A claim with its result and verdict."""

    claim: Claim
    result: Result
    verdict: Verdict
    because: str

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values; `recomputed` has the median under `p50` where there is one."""
        claim, result = self.claim, self.result
        if result.median is None:
            recomputed = {"low": result.low, "high": result.high}
        else:
            recomputed = {"p10": result.low, "p50": result.median, "p90": result.high}
        return {
            "id": claim.id,
            "table": claim.table,
            "document": claim.document,
            "section": claim.section,
            "says": claim.says,
            "unit": claim.unit,
            "claimed": None if claim.claimed is None else list(claim.claimed),
            "recomputed": recomputed,
            "fits": result.fits,
            "verdict": self.verdict,
            "because": self.because,
            "arithmetic": claim.recompute,
            "assumptions": [*claim.assumptions, *claim.sources],
        }


def arithmetic(claim: Claim) -> Result:
    """The result of a claim's `recompute` over the numbers it gives and assumes."""
    assert claim.recompute is not None
    names: dict[str, Interval] = {**claim.given, **claim.assumed}
    low, high = evaluate_interval(claim.recompute, names)
    ends = {name: end for name, (end, _) in names.items()}
    derived = {name: evaluate(text, ends) for name, text in claim.derived.items()}
    return Result(low, high, facts={**ends, **derived})


def judge(claim: Claim, result: Result) -> Row:
    """The row of a claim: its verdict by the rule it names, and its sentence with the result's numbers."""
    if result.low is None or result.high is None:
        return Row(claim, result, Verdict.UNCHECKED, result.facts["reason"])
    numbers = {"got": result.low if result.median is None else result.median}
    numbers |= {"got_low": result.low, "got_high": result.high}
    sentence = claim.because.format(**numbers, **result.facts)
    if claim.unchecked is not None:
        return Row(claim, result, Verdict.UNCHECKED, f"{sentence}; {claim.unchecked}")
    if claim.compare == "memory" and result.fits == "tight":
        return Row(claim, result, Verdict.UNCHECKED, f"{sentence}; {TIGHT}")
    holds = (
        result.fits == "yes" if claim.compare == "memory" else _holds(claim, (result.low, result.high), result.median)
    )
    return Row(claim, result, Verdict.RIGHT if holds else Verdict.WRONG, sentence)


def _holds(claim: Claim, got: Interval, median: float | None) -> bool:
    assert claim.claimed is not None
    claimed = _loosened(claim.claimed, claim.tolerance)
    match claim.compare:
        case "inside":
            return _within(claim.claimed, _loosened(got, claim.tolerance))
        case "covers":
            return _within(got, claimed)
        case "at_most":
            return got[1] <= claimed[1]
        case "at_least":
            return got[0] >= claimed[0]
        case "interval":
            assert median is not None
            inside = _within(claim.claimed, _loosened(got, claim.tolerance))
            return inside or claimed[0] <= median <= claimed[1]
    return all(_near(one, other, claim.tolerance) for one, other in zip(got, claim.claimed, strict=True))


def _within(inner: Interval, outer: Interval) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _loosened(interval: Interval, tolerance: float) -> Interval:
    low, high = interval
    return low - abs(low) * tolerance, high + abs(high) * tolerance


def _near(one: float, other: float, tolerance: float) -> bool:
    # A tolerance of 0 still forgives the last bits of a float.
    return abs(one - other) <= max(tolerance * abs(other), 1e-9 * max(1.0, abs(other)))
