"""When to stop training early, and which checkpoint to keep: decisions with their reasons, no clock, no files.

Every rule carries its state through `state_dict` and `load_state`, so that a resumed run goes on counting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

Goal = Literal["max", "min"]
DIVERGED_FACTOR = 3.0
DIVERGED_STEPS = 20
# Losses of single batches scatter: the best of a thousand can lie far below any typical one, and three times that would
# be reached by a healthy run. So the best is that of a running mean.
BEST_LOSS_WINDOW = 10
POINT = 0.01


@dataclass(frozen=True)
class StopDecision:
    """Stop, and why. `kind`: done, requested, divergence, budget, deadline, patience or value."""

    kind: str
    reason: str


class _Stateful:
    """A rule whose attributes named in `_state` are its memory."""

    _state: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint carries, as JSON values."""
        values = {name: getattr(self, name) for name in self._state}
        return {name: list(value) if isinstance(value, list) else value for name, value in values.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for name in self._state:
            value = state[name]
            setattr(self, name, list(value) if isinstance(value, list) else value)


def _gain(goal: Goal, before: float, after: float) -> float:
    return after - before if goal == "max" else before - after


class Patience(_Stateful):
    """Stop when the metric has not improved by more than `threshold` in `patience` evaluations in a row.

    An improvement is measured from the last value that was one, so that small steps add up. Evaluations before
    `from_step` are counted, but none of them stops the run. `patience` None: never stop. A NaN is no improvement.
    """

    _state = ("best", "best_step", "waited")

    def __init__(self, goal: Goal, patience: int | None, threshold: float, from_step: int = 0) -> None:
        self.goal, self.patience, self.threshold, self.from_step = goal, patience, threshold, from_step
        self.best: float | None = None
        self.best_step = 0
        self.waited = 0

    def update(self, step: int, value: float) -> StopDecision | None:
        """Take in an evaluation; the decision where patience is at its end."""
        is_better = self.best is None or _gain(self.goal, self.best, value) > self.threshold
        if is_better and not math.isnan(value):
            self.best, self.best_step, self.waited = value, step, 0
        else:
            self.waited += 1
        if self.patience is None or self.waited < self.patience or step < self.from_step:
            return None
        best = (
            "no evaluation gave a number"
            if self.best is None
            else f"the best was {self.best:.4f} at step {self.best_step}"
        )
        return StopDecision(
            "patience",
            f"patience: no gain above {self.threshold:g} in {self.waited} evaluations; {best}, now {value:.4f}",
        )


class ValueStop(_Stateful):
    """Stop when a further dollar is expected to gain less than it costs.

    Fits `metric = a + b ln(usd)` by least squares to the last `evaluations` ones. Assumption: returns diminish as those
    of a logarithm do, the limit of the power laws that learning curves follow (Hestness et al. 2017; the family is one
    of those of Domhan et al. 2015). The gain per further dollar is then b / usd, and less for every dollar after it, so
    that the first time it is too small is the time to stop. As evaluations are few and noisy, b is taken one
    standard error above its fit. Stop when

        (b + standard error) / usd / 0.01 * usd_per_point < 1

    A point is 0.01 of the metric; `usd_per_point` is what the user says it is worth (None: never stop). Needs
    `evaluations` of them, the last at `from_step` or later, and what the run had cost at each.
    """

    _state = ("history",)

    def __init__(self, goal: Goal, usd_per_point: float | None, from_step: int = 0, evaluations: int = 4) -> None:
        assert evaluations >= 3, "a line through two points has no standard error"
        self.goal, self.usd_per_point, self.from_step, self.evaluations = goal, usd_per_point, from_step, evaluations
        self.history: list[list[float]] = []

    def update(self, step: int, value: float, usd: float | None) -> StopDecision | None:
        """Take in an evaluation and what the run has cost so far; None where that is unknown."""
        if usd is None or usd <= 0 or not math.isfinite(value):
            return None
        self.history = [*self.history, [value, usd]][-self.evaluations :]
        if self.usd_per_point is None or len(self.history) < self.evaluations or step < self.from_step:
            return None
        points_per_usd = self.expected_points_per_usd()
        if points_per_usd is None or points_per_usd * self.usd_per_point >= 1:
            return None
        (first, first_usd), (last, last_usd) = self.history[0], self.history[-1]
        return StopDecision(
            "value",
            f"value: a further dollar is expected to gain at most {max(points_per_usd, 0):.3g} points, worth "
            f"{max(points_per_usd * self.usd_per_point, 0):.3g} usd at {self.usd_per_point:g} usd a point "
            f"({first:.4f} at {first_usd:.3g} usd, {last:.4f} at {last_usd:.3g} usd)",
        )

    def expected_points_per_usd(self) -> float | None:
        """The upper estimate of the gain of the next dollar, in points; None where the spend did not move."""
        xs = [math.log(usd) for _, usd in self.history]
        ys = [_gain(self.goal, 0.0, value) for value, _ in self.history]
        x_mean, y_mean = fmean(xs), fmean(ys)
        spread = sum((x - x_mean) ** 2 for x in xs)
        if len(xs) < 3 or spread == 0:
            return None
        slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
        residual = sum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
        standard_error = math.sqrt(residual / (len(xs) - 2) / spread)
        return (slope + standard_error) / self.history[-1][1] / POINT


class DivergenceStop(_Stateful):
    """Stop on a NaN or infinite loss at once, and on a loss above 3 x its best for 20 steps in a row.

    The best is the lowest mean of ten successive losses (of fewer at the start).
    """

    _state = ("best", "above", "recent")

    def __init__(self) -> None:
        self.best: float | None = None
        self.above = 0
        self.recent: list[float] = []

    def update(self, step: int, loss: float) -> StopDecision | None:
        """Take in the loss of an optimizer step."""
        if not math.isfinite(loss):
            return StopDecision("divergence", f"divergence: the loss is {loss} at step {step}; lower the learning rate")
        self.recent = [*self.recent, loss][-BEST_LOSS_WINDOW:]
        mean = fmean(self.recent)
        self.best = mean if self.best is None else min(self.best, mean)
        self.above = self.above + 1 if loss > DIVERGED_FACTOR * self.best else 0
        if self.above < DIVERGED_STEPS:
            return None
        return StopDecision(
            "divergence",
            f"divergence: the loss was above {DIVERGED_FACTOR:g} x its best ({self.best:.4f}) for {self.above} steps, "
            f"now {loss:.4f} at step {step}; lower the learning rate",
        )


class BestCheckpoint(_Stateful):
    """Which step to keep: the best metric, then the best second metric (parameter F1), then the later step.

    With 27 to 33 evaluation examples the metric ties often, and keeping the first of equals costs up to 0.17.
    """

    _state = ("step", "score")

    def __init__(self, goal: Goal = "max") -> None:
        self.goal = goal
        self.step: int | None = None
        self.score: list[float] | None = None

    def update(self, step: int, metric: float, second: float) -> bool:
        """Take in an evaluation; True when it is the one to keep, which one without a number never is."""
        if not math.isfinite(metric):
            return False
        score = [_gain(self.goal, 0.0, metric), second if math.isfinite(second) else -1.0]
        if self.score is not None and score < self.score:
            return False
        self.step, self.score = step, score
        return True
