"""95 % intervals by resampling phrasing templates, because a phrasing is mostly all right or all wrong.

Intervals over prompts would take twenty fills of one phrasing for twenty independent trials: far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.evaluate.metrics import ExampleScore

CONFIDENCE = 0.95
# The range of k values covers their median with probability 1 - 2^(1-k), which reaches 0.95 at k = 6: with fewer
# templates no resampling of them can give a 95 % interval.
FEWEST_TEMPLATES = 6
BLOCK = 1_000_000  # counts drawn at a time: 8 MB

# Numerators and denominators of a ratio, one pair an example: the metric is the sum of one over the sum of the other.
Ratio = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `low` and `high` are None where the templates cannot give one."""

    value: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


def metric_ratios(scores: Sequence[ExampleScore]) -> dict[str, Ratio]:
    """Every metric of `mean_scores` as a ratio of sums over examples."""
    ones = [1.0] * len(scores)
    counts = [s.parameters for s in scores]
    hits = [2.0 * c.true_positives for c in counts]
    return {
        "exact_match": ([float(s.exact_match) for s in scores], ones),
        "tool_accuracy": ([float(s.tool_accuracy) for s in scores], ones),
        "parameter_f1": (hits, [h + c.false_positives + c.false_negatives for h, c in zip(hits, counts, strict=True)]),
        "validity": ([float(s.validity) for s in scores], ones),
        "execution_rate": ([float(s.executed) for s in scores], ones),
    }


def template_intervals(
    ratios: Mapping[str, Ratio], templates: Sequence[str], samples: int, seed: int
) -> dict[str, Estimate]:
    """Each ratio with its interval: templates drawn with replacement, the ratio pooled over their examples.

    The interval is the percentile interval, with percentiles moved outwards for few templates (Hesterberg, "What
    teachers should know about the bootstrap", 2015, section 5.3): the plain one is narrow like a z interval with the
    variance divided by k. Where all templates are wholly wrong, or all wholly right, there is nothing to resample,
    and the exact binomial bound for k of k templates stands in.

    Args:
        ratios: by name; each entry of a ratio belongs to the example at the same place of `templates`.
        templates: the phrasing template of each example.
        samples: bootstrap samples.
        seed: of the resampling.
    """
    sums = _sums_by_template([column for ratio in ratios.values() for column in ratio], templates)
    drawn = _resampled_sums(sums, samples, seed) if len(sums) >= FEWEST_TEMPLATES else None
    estimates = {}
    for i, name in enumerate(ratios):
        per_template = _ratio(sums[:, 2 * i], sums[:, 2 * i + 1])
        value = float(_ratio(sums[:, 2 * i].sum(), sums[:, 2 * i + 1].sum()))
        if drawn is None:
            estimates[name] = Estimate(value, None, None)
        elif np.all(per_template == 0) or np.all(per_template == 1):
            estimates[name] = _unanimous(value, len(sums))
        else:
            estimates[name] = _percentile_interval(value, _ratio(drawn[:, 2 * i], drawn[:, 2 * i + 1]), len(sums))
    return estimates


def paired_difference(base: Ratio, tuned: Ratio, templates: Sequence[str], samples: int, seed: int) -> Estimate:
    """`tuned` minus `base` on the same examples, with its interval over the same draws of templates.

    Narrower than the two intervals suggest where both models find the same phrasings hard.
    """
    sums = _sums_by_template([*base, *tuned], templates)
    totals = sums.sum(axis=0)
    value = float(_ratio(totals[2], totals[3]) - _ratio(totals[0], totals[1]))
    if len(sums) < FEWEST_TEMPLATES:
        return Estimate(value, None, None)
    drawn = _resampled_sums(sums, samples, seed)
    differences = _ratio(drawn[:, 2], drawn[:, 3]) - _ratio(drawn[:, 0], drawn[:, 1])
    return _percentile_interval(value, differences, len(sums))


def _sums_by_template(columns: Sequence[Sequence[float]], templates: Sequence[str]) -> NDArray[np.float64]:
    """Sum each column within each template; shape (templates, columns)."""
    names, place = np.unique(np.asarray(templates, dtype=np.str_), return_inverse=True)
    sums = np.zeros((len(names), len(columns)))
    for i, column in enumerate(columns):
        np.add.at(sums[:, i], place, np.asarray(column, dtype=np.float64))
    return sums


def _resampled_sums(sums: NDArray[np.float64], samples: int, seed: int) -> NDArray[np.float64]:
    """Column sums of `samples` draws of as many templates as there are, with replacement; shape (samples, columns)."""
    generator = np.random.default_rng(seed)
    templates = len(sums)
    block = max(1, BLOCK // templates)
    shares = np.full(templates, 1 / templates)
    sizes = [min(block, samples - done) for done in range(0, samples, block)]
    return np.concatenate([generator.multinomial(templates, shares, size=size) @ sums for size in sizes])


def _ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    # 1 where nothing was asked and nothing given: the convention of ParameterCounts.f1.
    return np.divide(
        numerator, denominator, out=np.ones_like(np.asarray(denominator)), where=np.asarray(denominator) > 0
    )


def _percentile_interval(value: float, drawn: NDArray[np.float64], templates: int) -> Estimate:
    tail = NormalDist().cdf(
        math.sqrt(templates / (templates - 1)) * _student_quantile((1 - CONFIDENCE) / 2, templates - 1)
    )
    low, high = (float(bound) for bound in np.quantile(drawn, [tail, 1 - tail]))
    # All templates alike say nothing of how the next would do: no interval, never one of zero width.
    return Estimate(value, low, high) if high > low else Estimate(value, None, None)


def _student_quantile(probability: float, freedom: int) -> float:
    """Student's t quantile, by its expansion in 1 / degrees of freedom (Abramowitz and Stegun, 26.7.5).

    Off by less than 0.003 from five degrees of freedom on.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def _unanimous(value: float, templates: int) -> Estimate:
    """Clopper and Pearson's bound for none, or all, of `templates` trials."""
    bound = ((1 - CONFIDENCE) / 2) ** (1 / templates)
    return Estimate(value, 0.0, 1 - bound) if value == 0 else Estimate(value, bound, 1.0)
