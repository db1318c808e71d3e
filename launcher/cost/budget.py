"""The budget guard: price x time against the cap, decided before each stretch of work, not after it.

Pure: the time that has passed is an argument everywhere. Money is US dollars, time is seconds.

Time is cut into stretches (steps, evaluations, saves). Before the next ones, the guard asks whether they would still
end in time: each may last `multiple` times the longest of its kind so far, and a `reserve` is kept for saving and the
end. What it promises, for any sequence of stretches (tests/test_budget.py):

    If the stretches between two decisions last no longer, together, than the reserve plus `multiple` times the longest
    seen of each, the run ends within the cap and the deadline. Otherwise it overshoots by at most those stretches, and
    the process at `hard_stop_at_s` ends it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from launcher.cost.stopping import StopDecision
from launcher.errors import BadInput

SECONDS_PER_HOUR = 3600.0
RESERVE_S = 30.0
MULTIPLE = 1.5


class Stretch(StrEnum):
    """Kinds of work between two decisions."""

    STEP = "step"
    EVALUATION = "evaluation"
    SAVE = "save"
    FINAL_EVALUATION = "final evaluation"


class BudgetGuard:
    """Knows what the run has cost and whether it may go on.

    Args:
        usd_per_hour: price of the machine; None on a machine nobody is paid for, where only the deadline counts.
        max_usd: the cap on the whole run.
        deadline_s: limit on the run's time; None: no limit.
        reserve_s: kept back for saving, uploading and tearing down.
        multiple: how many times the longest stretch so far the next one may last.

    Raises:
        BadInput: a price or a cap that is not a positive, finite number.
    """

    def __init__(
        self,
        usd_per_hour: float | None,
        max_usd: float,
        deadline_s: float | None = None,
        reserve_s: float = RESERVE_S,
        multiple: float = MULTIPLE,
    ) -> None:
        named = {"resources.usd_per_hour": usd_per_hour, "budget.max_usd": max_usd, "budget.deadline": deadline_s}
        faults = [
            f"{name}: {value}: a positive, finite number is needed"
            for name, value in named.items()
            if value is not None and not (math.isfinite(value) and value > 0)
        ]
        if faults:
            raise BadInput(*faults)
        self.usd_per_hour, self.max_usd, self.deadline_s = usd_per_hour, max_usd, deadline_s
        self.reserve_s, self.multiple = reserve_s, multiple
        self.longest_s: dict[Stretch, float] = {}
        self.total_s: dict[Stretch, float] = {}
        self.count: dict[Stretch, int] = {}

    @property
    def cap_at_s(self) -> float:
        """Elapsed seconds at which the cap is reached; infinite where no price is known."""
        return math.inf if self.usd_per_hour is None else self.max_usd / self.usd_per_hour * SECONDS_PER_HOUR

    @property
    def hard_stop_at_s(self) -> float:
        """Elapsed seconds at which somebody outside must end the run: the cap or the deadline, whichever is first."""
        return min(self.cap_at_s, math.inf if self.deadline_s is None else self.deadline_s)

    def usd(self, elapsed_s: float) -> float | None:
        """What the run has cost; None where no price is known."""
        return None if self.usd_per_hour is None else self.usd_per_hour * elapsed_s / SECONDS_PER_HOUR

    def record(self, kind: Stretch, seconds: float) -> None:
        """Take note of a stretch that has ended."""
        self.longest_s[kind] = max(self.longest_s.get(kind, 0.0), seconds)
        self.total_s[kind] = self.total_s.get(kind, 0.0) + seconds
        self.count[kind] = self.count.get(kind, 0) + 1

    def allowance_s(self, kinds: Iterable[Stretch]) -> float:
        """How long these stretches may last together; one of a kind never seen has the reserve alone."""
        return sum(self.multiple * self.longest_s.get(kind, 0.0) for kind in kinds)

    def decide(self, elapsed_s: float, coming: Iterable[Stretch]) -> StopDecision | None:
        """Stop now, or None: the coming stretches, a save and the reserve still fit."""
        ends_at_s = elapsed_s + self.allowance_s([*coming, Stretch.SAVE]) + self.reserve_s
        if ends_at_s <= self.hard_stop_at_s:
            return None
        if self.cap_at_s <= self.hard_stop_at_s:
            assert self.usd_per_hour is not None
            spent, end = self.usd(elapsed_s), self.usd(ends_at_s)
            return StopDecision(
                "budget",
                f"budget: {spent:.4f} usd spent; the next stretch and the reserve of {self.reserve_s:g} s could reach "
                f"{end:.4f} usd, over the cap of {self.max_usd:g} usd",
            )
        return StopDecision(
            "deadline",
            f"deadline: {elapsed_s:.0f} s passed; the next stretch and the reserve of {self.reserve_s:g} s could reach "
            f"{ends_at_s:.0f} s, over the deadline of {self.deadline_s:.0f} s",
        )

    def remaining_s(self, steps_left: int, evaluations_left: int, saves_left: int) -> float | None:
        """Expected seconds to the end, from the means so far and one final evaluation; None before the first step."""
        if not self.count.get(Stretch.STEP):
            return None
        left = {
            Stretch.STEP: steps_left,
            Stretch.EVALUATION: evaluations_left,
            Stretch.SAVE: saves_left,
            Stretch.FINAL_EVALUATION: 1,
        }
        return sum(number * self._mean_s(kind) for kind, number in left.items())

    def _mean_s(self, kind: Stretch) -> float:
        return self.total_s[kind] / self.count[kind] if self.count.get(kind) else 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint carries."""
        return {"longest_s": dict(self.longest_s), "total_s": dict(self.total_s), "count": dict(self.count)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for name in ("longest_s", "total_s", "count"):
            setattr(self, name, {Stretch(kind): value for kind, value in state[name].items()})
