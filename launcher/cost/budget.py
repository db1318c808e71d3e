"""The budget guard: price x time against the cap, decided before each stretch of work, not after it.

Pure: the time that has passed is an argument everywhere. Money is US dollars, time is seconds; `elapsed_s` counts paid
seconds from the first one on, over all legs of a resumed run.

Time is cut into stretches (steps, evaluations, saves). Before the next ones the guard asks whether they, a closing save
and the reserve still fit. What it promises, exactly (tests/test_budget.py holds it to this):

    Let the guard last say "go on" at time t, before stretches of the kinds K. Let A be the sum, over K and a closing
    save, of `multiple` times the longest of that kind seen before t (`first_s` for a kind never seen), and let T be the
    time from t until all of it is over: those stretches, the closing save, upload and tear-down. Then the run ends by
    `hard_stop_at_s` + max(0, T - A - reserve_s).

So as long as what comes lasts no longer than the stated multiple of the longest seen plus the reserve, the spend stays
at or under the cap. When one stretch lasts longer and the others keep to their multiple, the overshoot is at most what
that one lasts beyond its multiple and the reserve, so less than that one stretch. It does not come to that where a
process of its own watches (launcher/train/deadline.py): it asks the run to end `grace_s` before `hard_stop_at_s`, and
kills it there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from launcher.cost.stopping import StopDecision
from launcher.errors import BadInput, Refused

SECONDS_PER_HOUR = 3600.0
MULTIPLE = 1.5
# The reserve where none is stated: half a minute, but never more than a quarter of a short run.
RESERVE_S = 30.0
RESERVE_SHARE = 0.25
GRACE_S = 10.0


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
        deadline_s: limit on the run's paid time; None: no limit.
        reserve_s: kept back for upload, tear-down and stretches that last longer than foreseen; None: half a minute,
            at most a quarter of what cap and deadline allow.
        multiple: how many times the longest stretch so far the next one may last.
        first_s: how long the first stretch of a kind may last, besides the reserve.
        spent_usd_before, elapsed_before_s: what earlier legs of a resumed run cost and lasted, where their price was
            another one. Otherwise leave them out: `elapsed_s` counts the earlier legs anyway.

    Raises:
        BadInput: a price, a cap or another figure that is not a positive, finite number; a reserve that leaves nothing.
        Refused: earlier legs have used up the cap or the deadline.
    """

    def __init__(
        self,
        usd_per_hour: float | None,
        max_usd: float,
        deadline_s: float | None = None,
        reserve_s: float | None = None,
        multiple: float = MULTIPLE,
        first_s: float = 0.0,
        spent_usd_before: float = 0.0,
        elapsed_before_s: float = 0.0,
    ) -> None:
        _refuse_bad_numbers(
            positive={"resources.usd_per_hour": usd_per_hour, "budget.max_usd": max_usd, "budget.deadline": deadline_s},
            not_negative={
                "reserve_s": reserve_s,
                "first_s": first_s,
                "spent_usd_before": spent_usd_before,
                "elapsed_before_s": elapsed_before_s,
            },
            multiple=multiple,
        )
        self.usd_per_hour, self.max_usd, self.deadline_s = usd_per_hour, max_usd, deadline_s
        self.spent_usd_before, self.elapsed_before_s = spent_usd_before, elapsed_before_s
        self.multiple, self.first_s = multiple, first_s
        self._refuse_used_up()
        self.reserve_s = min(RESERVE_S, RESERVE_SHARE * self._left_s) if reserve_s is None else reserve_s
        self._refuse_all_reserve()
        self.longest_s: dict[Stretch, float] = {}
        self.total_s: dict[Stretch, float] = {}
        self.count: dict[Stretch, int] = {}

    # --- limits --------------------------------------------------------------------------------------------------

    @property
    def cap_at_s(self) -> float:
        """Elapsed seconds at which the cap is reached; infinite where no price is known."""
        if self.usd_per_hour is None:
            return math.inf
        return self.elapsed_before_s + (self.max_usd - self.spent_usd_before) / self.usd_per_hour * SECONDS_PER_HOUR

    @property
    def hard_stop_at_s(self) -> float:
        """Elapsed seconds at which the run must have ended: at the cap or the deadline, whichever comes first."""
        return min(self.cap_at_s, math.inf if self.deadline_s is None else self.deadline_s)

    @property
    def grace_s(self) -> float:
        """How long before the hard stop a hung run is asked to end, to be over in time; a third of the reserve."""
        return min(GRACE_S, self.reserve_s / 3)

    @property
    def _left_s(self) -> float:
        return self.hard_stop_at_s - self.elapsed_before_s

    # --- spend ---------------------------------------------------------------------------------------------------

    def usd(self, elapsed_s: float) -> float | None:
        """What the run has cost; None where no price is known."""
        if self.usd_per_hour is None:
            return None
        return self.spent_usd_before + self.usd_per_hour * (elapsed_s - self.elapsed_before_s) / SECONDS_PER_HOUR

    def projected_usd(
        self, elapsed_s: float, steps_left: int, evaluations_left: int = 0, saves_left: int = 0
    ) -> float | None:
        """What the run will have cost at its end, as things go; None where price or pace is unknown."""
        remaining = self.remaining_s(steps_left, evaluations_left, saves_left)
        return None if remaining is None else self.usd(elapsed_s + remaining)

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

    # --- deciding ------------------------------------------------------------------------------------------------

    def record(self, kind: Stretch, seconds: float) -> None:
        """Take note of a stretch that has ended."""
        assert math.isfinite(seconds) and seconds >= 0, (kind, seconds)
        self.longest_s[kind] = max(self.longest_s.get(kind, 0.0), seconds)
        self.total_s[kind] = self.total_s.get(kind, 0.0) + seconds
        self.count[kind] = self.count.get(kind, 0) + 1

    def allowance_s(self, kinds: Iterable[Stretch]) -> float:
        """How long these stretches may last together, the reserve not counted."""
        return sum(self.multiple * self.longest_s[k] if k in self.longest_s else self.first_s for k in kinds)

    def decide(self, elapsed_s: float, coming: Iterable[Stretch]) -> StopDecision | None:
        """Stop now, or None: the coming stretches, a closing save and the reserve still fit."""
        coming = list(coming)
        ends_at_s = elapsed_s + self.allowance_s([*coming, Stretch.SAVE]) + self.reserve_s
        if ends_at_s <= self.hard_stop_at_s:
            return None
        what = f"{' and '.join(coming) or 'next stretch'}, a save and the reserve of {self.reserve_s:.3g} s"
        if self.cap_at_s <= self.hard_stop_at_s:
            return StopDecision(
                "budget",
                f"budget: {_usd(self.usd(elapsed_s))} spent; {what} could bring it to {_usd(self.usd(ends_at_s))}, "
                f"over the cap of {_usd(self.max_usd)}",
            )
        return StopDecision(
            "deadline",
            f"deadline: {_seconds(elapsed_s)} passed; {what} could bring it to {_seconds(ends_at_s)}, "
            f"over the deadline of {_seconds(self.hard_stop_at_s)}",
        )

    # --- resume --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint carries."""
        return {"longest_s": dict(self.longest_s), "total_s": dict(self.total_s), "count": dict(self.count)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; what this leg has already seen counts too."""
        for kind in map(Stretch, state["longest_s"]):
            self.longest_s[kind] = max(self.longest_s.get(kind, 0.0), state["longest_s"][kind])
            self.total_s[kind] = self.total_s.get(kind, 0.0) + state["total_s"][kind]
            self.count[kind] = self.count.get(kind, 0) + state["count"][kind]

    # --- refusals ------------------------------------------------------------------------------------------------

    def _refuse_used_up(self) -> None:
        if self.spent_usd_before >= self.max_usd:
            spent = _usd(self.spent_usd_before)
            raise Refused(
                f"budget.max_usd: {self.max_usd:g}: {spent} are spent already; a higher cap is needed to go on"
            )
        if self.deadline_s is not None and self.elapsed_before_s >= self.deadline_s:
            raise Refused(
                f"budget.deadline: {_seconds(self.deadline_s)}: {_seconds(self.elapsed_before_s)} have passed already; "
                "a later deadline is needed to go on"
            )

    def _refuse_all_reserve(self) -> None:
        if self.reserve_s >= self._left_s:
            raise BadInput(
                f"reserve_s: {self.reserve_s:g}: the budget buys {_seconds(self._left_s)}, all of it reserve; "
                "a smaller reserve, a higher budget.max_usd or a later budget.deadline is needed"
            )


def _refuse_bad_numbers(
    positive: Mapping[str, float | None], not_negative: Mapping[str, float | None], multiple: float
) -> None:
    faults = [
        f"{name}: {value}: a positive, finite number is needed"
        for name, value in positive.items()
        if value is not None and not (math.isfinite(value) and value > 0)
    ]
    faults += [
        f"{name}: {value}: a finite number of 0 or more is needed"
        for name, value in not_negative.items()
        if value is not None and not (math.isfinite(value) and value >= 0)
    ]
    if not (math.isfinite(multiple) and multiple >= 1):
        faults.append(f"multiple: {multiple}: a finite number of 1 or more is needed")
    if faults:
        raise BadInput(*faults)


def _usd(amount: float | None) -> str:
    """Cents for sums above a dollar; below it enough digits that a small sum does not read as nothing."""
    assert amount is not None
    return f"{amount:.2f} usd" if amount >= 1 else f"{amount:.3g} usd"


def _seconds(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.3g} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
