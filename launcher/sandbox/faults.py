"""Faults that the emulated providers commit when they are asked to, in the order in which they were asked for.

`how`, by the operation it spoils:

- create: `capacity`: refused, nothing left. `429`, `500`: refused with that status. `reset`: the connection breaks and
  nothing was done. `lost`: done, and the answer never arrives. `late`: lost, and the list shows the instance `seconds`
  later only. `stuck`: it boots for ever. `slow`: it boots `seconds` longer. `wrong_gpu`: the host has another card than
  the list says. `price_up`: it is billed `factor` times the price that was quoted.
- terminate: `429`, `500`, `reset`, `lost`. `twice_fail`: `500`, twice. `stuck`: accepted, and the instance stays, and
  is billed. `late`: done, and the list shows it for another `seconds`. `slow`: the answer comes `seconds` later.
- list: `429`, `500`, `reset`, `slow`.
- price: the same, `capacity`: nothing is on offer, and `price_up`: from this quote on the market is dearer by `factor`.
"""

from __future__ import annotations

import threading
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Operation = Literal["create", "terminate", "list", "price"]
How = Literal[
    "capacity", "429", "500", "reset", "lost", "late", "stuck", "slow", "wrong_gpu", "price_up", "twice_fail"
]  # fmt: skip
_BROKEN = frozenset({"429", "500", "reset", "slow"})
POSSIBLE: dict[Operation, frozenset[str]] = {
    "create": _BROKEN | {"capacity", "lost", "late", "stuck", "wrong_gpu", "price_up"},
    "terminate": _BROKEN | {"lost", "late", "stuck", "twice_fail"},
    "list": _BROKEN,
    "price": _BROKEN | {"capacity", "price_up"},
}


class Fault(BaseModel):
    """One fault, committed `times` times. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Literal["*", "vast", "lambda", "runpod"] = "*"
    op: Operation
    how: How
    times: int = Field(default=1, ge=1)
    seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    factor: float = Field(default=1.5, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _must_be_possible(self) -> Self:
        possible = POSSIBLE[self.op]
        if self.how not in possible:
            raise ValueError(f"how: {self.how!r}: for {self.op} one of {', '.join(sorted(possible))} is needed")
        return self


class FaultPlan:
    """The faults still to come; threads may ask at once."""

    def __init__(self, *faults: Fault) -> None:
        self._lock = threading.Lock()
        self._pending: list[Fault] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Commit this one after those that were asked for before."""
        if fault.how == "twice_fail":
            fault = fault.model_copy(update={"how": "500", "times": 2 * fault.times})
        with self._lock:
            self._pending.append(fault)

    def take(self, provider: str, op: Operation) -> Fault | None:
        """The fault that is due for this request, one time fewer to come; None: nothing goes wrong."""
        with self._lock:
            for position, fault in enumerate(self._pending):
                if fault.op == op and fault.provider in ("*", provider):
                    left = fault.times - 1
                    self._pending[position : position + 1] = [fault.model_copy(update={"times": left})] if left else []
                    return fault
        return None

    def clear(self) -> None:
        """Nothing more goes wrong."""
        with self._lock:
            self._pending.clear()

    def pending(self) -> list[Fault]:
        """What is still to come, in order."""
        with self._lock:
            return list(self._pending)
