"""How far a run is and what it has cost: the meter, and the newest state for the live table."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from launcher.cost.budget import BudgetGuard
from launcher.errors import Interrupted
from launcher.rundir import RunFolder

PROGRESS_INTERVAL_SECONDS = 0.5


class Meter:
    """Seconds and dollars since the first paid second of the run, earlier legs of a resumed run included."""

    def __init__(self, guard: BudgetGuard, started_at: float, elapsed_before_s: float = 0.0) -> None:
        self.guard, self.started_at, self.elapsed_before_s = guard, started_at, elapsed_before_s
        # Monotonic from here on: a clock that is set back must not lower the bill.
        self._began = time.monotonic() - (time.time() - started_at)

    def elapsed_s(self) -> float:
        return self.elapsed_before_s + time.monotonic() - self._began

    def usd(self) -> float | None:
        return self.guard.usd(self.elapsed_s())

    @property
    def hard_stop_at(self) -> float:
        """Seconds since the epoch at which the run must have ended; infinite where nothing limits it."""
        return self.started_at - self.elapsed_before_s + self.guard.hard_stop_at_s


@dataclass
class Progress:
    """The newest state of the run, for the live table; written at most twice a second."""

    folder: RunFolder
    meter: Meter
    total_steps: int
    values: dict[str, Any] = field(default_factory=dict)
    written_at: float = 0.0

    def update(self, phase: str, urgent: bool = False, **values: Any) -> None:
        """Take in new values, and write all of them if it is time or `urgent`."""
        self.values.update(values)
        now = time.time()
        if not urgent and now - self.written_at < PROGRESS_INTERVAL_SECONDS:
            return
        self.written_at = now
        elapsed = self.meter.elapsed_s()
        row = {
            "phase": phase,
            **self.values,
            "total_steps": self.total_steps,
            "elapsed_s": elapsed,
            "usd": self.meter.guard.usd(elapsed),
            "updated_at": now,
        }
        self.folder.write_json(self.folder.progress_file, row)

    def raise_if_stop_requested(self) -> None:
        """Raise Interrupted when the user asked this run to stop."""
        reason = stop_request(self.folder)
        if reason is not None:
            raise Interrupted(reason)


def stop_request(folder: RunFolder) -> str | None:
    """Why somebody asked this run to stop, or None."""
    try:
        return folder.stop_file.read_text(encoding="utf-8").strip() or "stop requested"
    except FileNotFoundError:
        return None
