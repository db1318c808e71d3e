"""What the emulated providers charge, to the second and whatever a client believes; pure, the time is passed in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from launcher.cost.ledger import SECONDS_PER_HOUR

Kind = Literal["compute", "storage"]


@dataclass
class Meter:
    """Something billed by time: from `started_at` until `ended_at`, seconds since the epoch; None: still running."""

    kind: Kind
    usd_per_hour: float
    started_at: float
    ended_at: float | None = None

    def stop(self, at: float) -> None:
        """End it, unless it has ended before."""
        if self.ended_at is None:
            self.ended_at = max(at, self.started_at)

    def seconds(self, now: float) -> float:
        """How long it has run by `now`."""
        end = now if self.ended_at is None else min(now, self.ended_at)
        return max(0.0, end - self.started_at)

    def usd(self, now: float) -> float:
        """What it has cost by `now`."""
        return self.usd_per_hour * self.seconds(now) / SECONDS_PER_HOUR

    def line(self, now: float) -> dict[str, Any]:
        """Its line of the invoice."""
        return {
            "kind": self.kind,
            "usd_per_hour": self.usd_per_hour,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "seconds": self.seconds(now),
            "usd": self.usd(now),
        }


@dataclass
class Traffic:
    """Gigabytes moved in one direction, at the price of one."""

    direction: Literal["upload", "download"]
    usd_per_gb: float
    gb: float = 0.0

    def line(self) -> dict[str, Any]:
        """Its line of the invoice."""
        return {
            "kind": self.direction,
            "usd_per_gb": self.usd_per_gb,
            "gb": self.gb,
            "usd": self.usd_per_gb * self.gb,
        }


@dataclass
class Bill:
    """Everything one instance is charged for. `usd_per_hour` of `compute` is that of the whole machine."""

    compute: Meter
    storage: Meter | None = None
    traffic: list[Traffic] = field(default_factory=list)

    def stop_compute(self, at: float) -> None:
        """The machine is off; its disk is kept, and billed."""
        self.compute.stop(at)

    def stop(self, at: float) -> None:
        """Nothing of it is left to bill."""
        self.compute.stop(at)
        if self.storage is not None:
            self.storage.stop(at)

    def lines(self, now: float) -> list[dict[str, Any]]:
        """The lines of the invoice, without those of traffic where nothing moved."""
        timed = [meter.line(now) for meter in (self.compute, self.storage) if meter is not None]
        return timed + [traffic.line() for traffic in self.traffic if traffic.gb]


def invoice(bills: Iterable[tuple[dict[str, Any], Bill]], now: float) -> dict[str, Any]:
    """All bills as one: `{"total_usd": ..., "lines": [...]}`; each line begins with what identifies its instance."""
    lines = [identity | line for identity, bill in bills for line in bill.lines(now)]
    return {"total_usd": math.fsum(line["usd"] for line in lines), "lines": lines}
