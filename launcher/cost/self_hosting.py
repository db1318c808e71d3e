"""What it costs a month to serve one's own model on rented GPUs: by the hour, always on, or on demand.

All three are hours of one GPU x its price. A month is 730.5 hours (365.25 x 24 / 12).

- by the hour: calls are collected and answered in batch windows, each of which starts the machine and runs it at full
  load. Cheapest, and nobody gets an answer between two windows.
- always on: as many GPUs as the busiest hour needs, all month.
- on demand: the machine starts when a call comes and stops after `idle_minutes` without one. Sessions of calls arrive
  at random (a Poisson process of rate r an hour), so of the time a share 1 - 1 / (r s + e^(r t)) is paid: one cycle is
  1 / r hours off, s hours of start-up, and (e^(r t) - 1) / r hours until a gap longer than the idle time t (the mean
  wait for the first gap of length t in a Poisson process; Ross, Introduction to Probability Models, chapter 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

HOURS_PER_MONTH = 730.5
_MOST_EXPONENT = 50.0  # e^50 idle times between two gaps: on all month


class Mode(StrEnum):
    """How the model is served; the two on-demand modes differ in how its calls arrive."""

    BY_HOUR = "by-hour"
    ALWAYS_ON = "always-on"
    ON_DEMAND_CLUSTERED = "on-demand, clustered"
    ON_DEMAND_SPREAD = "on-demand, spread"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """One's own model on one kind of GPU.

    usd_per_hour: of one GPU. tokens_per_second: of one GPU under full load, input and output tokens together.
    tokens_per_call: input and output together. startup_minutes: from the first call to the first answer of a machine
    that is off (paid). idle_minutes: without a call before it is stopped. windows_per_month: batch windows.
    calls_per_session: calls that come together where they are clustered. peak_factor: busiest hour over the mean hour.
    """

    usd_per_hour: float
    tokens_per_second: float
    tokens_per_call: float
    startup_minutes: float = 8.0
    idle_minutes: float = 15.0
    windows_per_month: float = 30.0
    calls_per_session: float = 100.0
    peak_factor: float = 3.0

    def work_hours(self, calls: float) -> float:
        """GPU hours a month at full load."""
        return calls * self.tokens_per_call / self.tokens_per_second / 3600

    def gpus(self, mode: Mode, calls: float) -> int:
        """How many GPUs this many calls a month need; batch windows are spread over the month as they fit."""
        if mode == Mode.BY_HOUR:
            hours = self._window_hours(calls)
            return max(1, math.ceil(hours / HOURS_PER_MONTH))
        return max(1, math.ceil(self.work_hours(calls) * self.peak_factor / HOURS_PER_MONTH))

    def hours(self, mode: Mode, calls: float) -> float:
        """GPU hours a month that are paid for."""
        if mode == Mode.BY_HOUR:
            return self._window_hours(calls)
        always = self.gpus(mode, calls) * HOURS_PER_MONTH
        if mode == Mode.ALWAYS_ON:
            return always
        together = self.calls_per_session if mode == Mode.ON_DEMAND_CLUSTERED else 1.0
        sessions = max(1.0, calls / together)  # a session is one call at least
        return min(always, always * self._paid_share(sessions) + self.work_hours(calls))

    def usd(self, mode: Mode, calls: float) -> float:
        """US dollars a month."""
        return self.usd_per_hour * self.hours(mode, calls)

    def usd_per_call_at_full_load(self) -> float:
        """The least a call can cost on this GPU, however many there are."""
        return self.usd_per_hour * self.tokens_per_call / self.tokens_per_second / 3600

    def _window_hours(self, calls: float) -> float:
        windows = min(self.windows_per_month, math.ceil(calls))  # never more windows than calls
        return self.work_hours(calls) + windows * self.startup_minutes / 60

    def _paid_share(self, sessions: float) -> float:
        """Share of the month that one machine is on for this many sessions a month."""
        rate = sessions / HOURS_PER_MONTH
        exponent = rate * self.idle_minutes / 60
        if exponent > _MOST_EXPONENT:
            return 1.0
        return 1 - 1 / (rate * self.startup_minutes / 60 + math.exp(exponent))
