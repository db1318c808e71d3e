"""A positive quantity known to a factor, and the sum of several of them.

A `Spread` is a log-normal on each side of its median: seconds, dollars, tokens per second. Sums are taken by a fixed
set of draws, so the same plan gives the same figures every time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()
DRAWS = 1024


@dataclass(frozen=True)
class Spread:
    """Median, and the standard deviation of the logarithm below and above it; a median of 0 is exactly 0."""

    median: float
    below: float = 0.0
    above: float = 0.0

    @classmethod
    def from_quantiles(cls, low: float, mid: float, high: float, share: float = 0.8) -> Spread:
        """From three quantiles, `low` and `high` enclosing `share` of the cases: 0.8 for the 10th and the 90th.

        Raises:
            ValueError: they are not positive, finite and in order.
        """
        if not (0 < low <= mid <= high < math.inf):
            raise ValueError(f"{low}, {mid}, {high}: positive, finite quantiles in rising order are needed")
        reach = _NORMAL.inv_cdf(0.5 + share / 2)
        return cls(mid, math.log(mid / low) / reach, math.log(high / mid) / reach)

    def quantile(self, share: float) -> float:
        """The value that this share of the cases stays below."""
        reach = _NORMAL.inv_cdf(share)
        return self.median * math.exp(reach * (self.below if reach < 0 else self.above))

    def times(self, factor: float) -> Spread:
        """The same quantity in another unit."""
        return Spread(self.median * factor, self.below, self.above)

    def inverse(self) -> Spread:
        """One over it: seconds per token from tokens per second."""
        return Spread(1 / self.median, self.above, self.below)


@dataclass(frozen=True)
class Quantiles:
    """The 10th, 50th and 90th percentile of a sum."""

    p10: float
    p50: float
    p90: float

    def times(self, factor: float) -> Quantiles:
        """The same quantity in another unit."""
        return Quantiles(self.p10 * factor, self.p50 * factor, self.p90 * factor)

    def plus(self, amount: float) -> Quantiles:
        """The same quantity with a known amount added."""
        return Quantiles(self.p10 + amount, self.p50 + amount, self.p90 + amount)


def total(terms: Sequence[Spread], known: float = 0.0) -> Quantiles:
    """The sum of independent terms and a known amount.

    Latin hypercube sampling: every term's own distribution is met exactly, the terms are paired by a fixed shuffle.
    """
    if not terms:
        return Quantiles(known, known, known)
    reach = _reaches(len(terms))
    below, above = (np.array([[getattr(t, side)] for t in terms]) for side in ("below", "above"))
    medians = np.array([[term.median] for term in terms])
    draws = (medians * np.exp(reach * np.where(reach < 0, below, above))).sum(axis=0) + known
    low, mid, high = np.quantile(draws, (0.1, 0.5, 0.9))
    return Quantiles(float(low), float(mid), float(high))


@lru_cache(maxsize=32)
def _reaches(terms: int) -> np.ndarray:
    """Standard normal draws, one row a term, each row the same stratified values in another order."""
    values = np.array([_NORMAL.inv_cdf((i + 0.5) / DRAWS) for i in range(DRAWS)])
    shuffle = np.random.default_rng(0)
    return np.stack([shuffle.permutation(values) for _ in range(terms)])
