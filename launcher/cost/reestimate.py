"""How long a run still takes, and how fast it is, from its first steps. Pure: the times are arguments.

Tokens count padding, which the GPU computes too.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from launcher.cost.spread import Quantiles, Spread

# The first steps compile kernels, fill caches and make the optimizer's state.
WARM_UP_STEPS, MEASURED_STEPS = 5, 20
FEWEST_STEPS = 3


@dataclass(frozen=True)
class StepSample:
    """One optimizer step: the tokens of its micro-batches on one GPU, and how long it took."""

    tokens: float
    seconds: float


def steps_to_measure(steps: int) -> tuple[int, int]:
    """Warm-up steps and measured steps of a run of so many: together about a third of a short one, but four."""
    measured = min(MEASURED_STEPS, max(FEWEST_STEPS, steps // 4))
    return min(WARM_UP_STEPS, max(1, measured // 4)), measured


def mean_speed(samples: Sequence[StepSample]) -> Spread:
    """Tokens per second over these steps, as sure as their mean is."""
    assert samples
    seconds, tokens = (math.fsum(getattr(sample, name) for sample in samples) for name in ("seconds", "tokens"))
    fixed, per_token = _step_time(samples)
    deviation = _mean_error(samples, fixed, per_token, math.inf) * len(samples) / seconds
    return Spread(tokens / seconds, deviation, deviation)


def reestimate(samples: Sequence[StepSample], steps_left: int, tokens_left: float) -> Quantiles:
    """Seconds that the steps left will take, from the steps so far.

    A step takes `fixed + per_token x tokens` (least squares, neither below 0). Rows are shuffled, so the steps left are
    like those measured, and what is unsure is their mean: residual deviation x sqrt(1/measured + 1/left), both counts
    taken for as many independent steps as neighbours that are alike are worth, with Student's t for few of them.
    """
    assert samples and steps_left >= 0 and tokens_left >= 0
    fixed, per_token = _step_time(samples)
    expected = fixed * steps_left + per_token * tokens_left
    if not expected:
        return Quantiles(0.0, 0.0, 0.0)
    reach = _student(len(samples) - 2) * steps_left * _mean_error(samples, fixed, per_token, steps_left)
    return Quantiles(expected * expected / (expected + reach), expected, expected + reach)


def _step_time(samples: Sequence[StepSample]) -> tuple[float, float]:
    """Seconds per step and per token; where the slope or the rest would be negative, the other alone."""
    xs, ys = [s.tokens for s in samples], [s.seconds for s in samples]
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    spread = math.fsum((x - mean_x) ** 2 for x in xs)
    # Lengths that hardly differ say nothing about the slope.
    slope = 0.0
    if spread > (1e-6 * mean_x) ** 2:
        slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    if slope <= 0:
        return mean_y, 0.0
    if slope * mean_x > mean_y:
        return 0.0, math.fsum(x * y for x, y in zip(xs, ys, strict=True)) / math.fsum(x * x for x in xs)
    return mean_y - slope * mean_x, slope


def _mean_error(samples: Sequence[StepSample], fixed: float, per_token: float, steps_left: float) -> float:
    """Standard error, in seconds, of the mean of `steps_left` further steps, predicted from these."""
    residuals = [s.seconds - fixed - per_token * s.tokens for s in samples]
    count = len(residuals)
    squares = math.fsum(r * r for r in residuals)
    if not squares:
        return 0.0
    deviation = math.sqrt(squares / max(1, count - 2))
    # A busy neighbour slows several steps in a row: with correlation r, n steps are worth n (1 - r) / (1 + r).
    alike = min(0.9, max(0.0, math.fsum(a * b for a, b in itertools.pairwise(residuals)) / squares))
    worth = (1 - alike) / (1 + alike)
    return deviation * math.sqrt((1 / count + 1 / max(1.0, steps_left)) / worth)


def _student(freedom: int) -> float:
    """The 90th percentile of Student's t, by Fisher's expansion (Abramowitz and Stegun 26.7.5, two terms)."""
    z, n = NormalDist().inv_cdf(0.9), max(1, freedom)
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
