"""When to stop training early, and which checkpoint to keep: decisions with their reasons, no clock, no files.

Every rule carries its state through `state_dict` and `load_state`, so that a resumed run goes on counting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Goal = Literal["max", "min"]
DIVERGED_FACTOR = 3.0
DIVERGED_STEPS = 20
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
        return {name: getattr(self, name) for name in self._state}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name in self._state:
            setattr(self, name, state[name])


class Patience(_Stateful):
    """Stop when the metric has not improved by more than `threshold` in `patience` evaluations.

    Evaluations before `from_step` are remembered as the best so far, and never counted against the run. `patience`
    None: never stop.
    """

    _state = ("best", "best_step", "waited")

    def __init__(self, goal: Goal, patience: int | None, threshold: float, from_step: int = 0) -> None:
        self.goal, self.patience, self.threshold, self.from_step = goal, patience, threshold, from_step
        self.best: float | None = None
        self.best_step = 0
        self.waited = 0

    def update(self, step: int, value: float) -> StopDecision | None:
        """Take in an evaluation; a NaN counts as no improvement."""
        gain = math.inf if self.best is None else (value - self.best) * (1 if self.goal == "max" else -1)
        if gain > self.threshold and not math.isnan(value):
            self.best, self.best_step, self.waited = value, step, 0
        else:
            self.waited += 1
        if self.patience is None or self.waited < self.patience or step < self.from_step:
            return None
        return StopDecision(
            "patience",
            f"patience: no gain above {self.threshold:g} in {self.waited} evaluations; "
            f"the best was {self.best:.4f} at step {self.best_step}",
        )


class ValueStop(_Stateful):
    """Stop when the expected gain per further dollar is worth less than the dollar.

    The gain per dollar over the last `window` evaluations is expected to halve over as many dollars again
    (learning curves flatten; Domhan et al. 2015 fit power laws, of which this is the simplest bound): expected points
    per dollar = (metric now - metric `window` evaluations ago) / 0.01 / dollars between / 2. Stop when that, times
    `usd_per_point`, is below 1. Needs `window` + 1 evaluations, at least one of them from `from_step` on.
    """

    _state = ("history",)

    def __init__(self, goal: Goal, usd_per_point: float | None, from_step: int = 0, window: int = 3) -> None:
        self.goal, self.usd_per_point, self.from_step, self.window = goal, usd_per_point, from_step, window
        self.history: list[list[float]] = []

    def update(self, step: int, value: float, usd: float | None) -> StopDecision | None:
        """Take in an evaluation and what the run has cost so far."""
        if usd is None or self.usd_per_point is None:
            return None
        self.history.append([value, usd])
        if len(self.history) <= self.window or step < self.from_step:
            return None
        (then, usd_then), (now, usd_now) = self.history[-1 - self.window], self.history[-1]
        dollars = usd_now - usd_then
        if dollars <= 0:
            return None
        points_per_usd = (now - then) * (1 if self.goal == "max" else -1) / POINT / dollars / 2
        worth = points_per_usd * self.usd_per_point
        if worth >= 1:
            return None
        return StopDecision(
            "value",
            f"value: a further dollar is expected to gain {max(points_per_usd, 0):.2f} points, worth "
            f"{max(worth, 0):.2f} usd at {self.usd_per_point:g} usd a point",
        )


class DivergenceStop(_Stateful):
    """Stop on a NaN or infinite loss at once, and on a loss above 3 x its best for 20 steps in a row."""

    _state = ("best", "above")

    def __init__(self) -> None:
        self.best = math.inf
        self.above = 0

    def update(self, step: int, loss: float) -> StopDecision | None:
        """Take in the loss of an optimizer step."""
        if not math.isfinite(loss):
            return StopDecision("divergence", f"divergence: the loss is {loss} at step {step}; lower the learning rate")
        self.best = min(self.best, loss)
        self.above = self.above + 1 if loss > DIVERGED_FACTOR * self.best else 0
        if self.above < DIVERGED_STEPS:
            return None
        return StopDecision(
            "divergence",
            f"divergence: the loss was above {DIVERGED_FACTOR:g} x its best ({self.best:.4f}) for {self.above} steps, "
            f"now {loss:.4f} at step {step}; lower the learning rate",
        )


class BestCheckpoint(_Stateful):
    """Which step to keep: the best metric, then the best second metric, then the later step.

    With 27 to 33 evaluation examples the metric ties often, and keeping the first of equals costs up to 0.17.
    """

    _state = ("step", "score")

    def __init__(self, goal: Goal = "max") -> None:
        self.goal = goal
        self.step: int | None = None
        self.score: list[float] | None = None

    def update(self, step: int, metric: float, second: float) -> bool:
        """Take in an evaluation; True when it is the one to keep."""
        if math.isnan(metric):
            return False
        score = [metric if self.goal == "max" else -metric, second]
        if self.score is not None and score < self.score:
            return False
        self.step, self.score = step, score
        return True
