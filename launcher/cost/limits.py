"""Limits across runs: what this month has cost and what is committed now, and whether one more launch still fits.

Pure but for `reserve`: rentals, the time and the time zone are passed in. Money is US dollars, times are seconds since
the epoch. A launch is let through only if every bound below keeps to its limit:

    month    = sum(usd of rentals that ended this month) + sum(worst case of open rentals) + worst case of the launch
    at once  =                                             sum(worst case of open rentals) + worst case of the launch

The **worst case** of an open rental is the least of its cap and what it comes to at its price until its deadline, and
never less than what it has cost. One that is past its deadline or over its cap has none: what should have ended it did
not, so nothing says what it will come to, and under a limit nothing more is rented until it is gone. The same holds for
one with neither cap nor deadline. What a rental cost and nobody knows counts as its cap.

A rental counts whole in the month in which it ended, although part of it fell into the month before: its bill is known
as one sum only, and a month is never counted too low. Local runs are not rented, so they are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from filelock import FileLock, Timeout

from launcher.cost.ledger import LOCK_TIMEOUT_S, Ledger
from launcher.cost.ledger_entry import LOCAL, LedgerEntry
from launcher.cost.offer import valid_price
from launcher.cost.rental import SECONDS_PER_HOUR, Rental
from launcher.errors import BadInput, LauncherError, Refused

# Sums of cents are compared to the millionth of a dollar, or 0.1 + 0.2 would be above 0.3.
_DIGITS = 6


@dataclass(frozen=True)
class SpendLimits:
    """What all rentals together may cost; None: no such limit."""

    max_usd_per_month: float | None = None
    max_usd_at_once: float | None = None


@dataclass(frozen=True)
class Standing:
    """What the ledger says now.

    month_start: when the current month began in local time; `month`: that moment in words. ended_usd: rentals that
    ended this month. open_usd: worst cases of the open ones, infinite where one has none. unbounded: why, one line
    each.
    """

    month_start: float
    month: str
    ended_usd: float
    open_usd: float
    unbounded: tuple[str, ...]

    @property
    def month_usd(self) -> float:
        """The most this month can come to without another launch."""
        return self.ended_usd + self.open_usd


def standing(rentals: Sequence[Rental], now: float, zone: tzinfo | None = None) -> Standing:
    """What this month has cost and what is committed; `zone` is the user's, None: this machine's."""
    start, month = _month(now, zone)
    rented = [rental for rental in rentals if rental.first.provider != LOCAL]
    opened = [rental for rental in rented if rental.is_open]
    ended = [rental for rental in rented if not rental.is_open and rental.newest.at >= start]
    return Standing(
        month_start=start,
        month=month,
        ended_usd=math.fsum(worst_case_usd(rental, now) for rental in ended),
        open_usd=math.fsum(worst_case_usd(rental, now) for rental in opened),
        unbounded=tuple(
            f"{rental.first.provider} {rental.first.rental} (run {rental.first.run_id}): {_why_unbounded(rental, now)}"
            for rental in (*opened, *ended)
            if math.isinf(worst_case_usd(rental, now))
        ),
    )


def worst_case_usd(rental: Rental, now: float) -> float:
    """The most a rental can come to; infinite where nothing bounds it."""
    known, cap = rental.usd(now), rental.newest.max_usd
    if not rental.is_open and known is not None:
        return known
    if rental.is_overdue(now):
        return math.inf
    bounds = [math.inf if cap is None else cap]
    if known is not None and rental.newest.deadline_at is not None:
        hours_left = max(0.0, rental.newest.deadline_at - now) / SECONDS_PER_HOUR
        bounds.append(known + _usd_per_hour(rental) * hours_left)
    return max(known or 0.0, min(bounds))


def _usd_per_hour(rental: Rental) -> float:
    """What an hour of it costs at most: as many machines as were meant, or those that are there if that is more."""
    prices = [entry.usd_per_hour for entry in (rental.first, rental.newest) if entry.usd_per_hour is not None]
    meant = max(prices, default=0.0) * rental.newest.machines
    return max(meant, math.fsum(machine.usd_per_hour or 0.0 for machine in rental.present))


def refuse_over_limits(standing: Standing, launch_usd: float | None, limits: SpendLimits) -> None:
    """Raise Refused where a launch whose worst case is `launch_usd` could break a limit; one line a limit.

    Raises:
        Refused: it could; None, for a worst case nobody knows, always can where there is a limit.
        BadInput: `launch_usd` is zero, negative, infinite or NaN.
    """
    if launch_usd is not None and valid_price(launch_usd) is None:
        raise BadInput(f"worst case: {launch_usd}: a positive, finite number of dollars is needed")
    sums = (
        ("max_usd_per_month", limits.max_usd_per_month, _month_parts(standing), standing.month_usd),
        ("max_usd_at_once", limits.max_usd_at_once, _open_part(standing), standing.open_usd),
    )
    faults = []
    for name, limit, parts, counted in sums:
        if limit is None:
            continue
        if launch_usd is None:
            faults.append(f"{name}: {_usd(limit)}: the worst case of this launch is not known, so it may be above it")
        elif math.isinf(counted):
            faults += [f"{name}: {_usd(limit)}: nothing bounds {line}" for line in standing.unbounded]
        elif round(counted + launch_usd - limit, _DIGITS) > 0:
            faults.append(
                f"{name}: {_usd(limit)}: {parts} and {_usd(launch_usd)} for this launch at worst make "
                f"{_usd(counted + launch_usd)}; {_left(limit - counted)}"
            )
    if faults:
        raise Refused("\n".join(faults))


def reserve(
    ledger: Ledger, intents: Sequence[LedgerEntry], limits: SpendLimits, clock: Callable[[], float]
) -> Standing:
    """Check a launch against the limits and write its intents, with no other launch in between.

    The worst case is that of the intents themselves. Two launches that each fit alone but not together are thus never
    both let through.

    Raises:
        Refused: a limit could be broken; nothing is written.
        BadInput: an intent is not fit to be kept.
        LauncherError: the ledger cannot be read or written.
    """
    lock = FileLock(f"{ledger.path}.launch.lock", timeout=LOCK_TIMEOUT_S)
    try:
        ledger.path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise LauncherError(f"{ledger.path}: another launch has held its lock for {LOCK_TIMEOUT_S:g} s") from None
    except OSError as fault:
        raise LauncherError(f"{ledger.path}: cannot be locked ({fault.strerror or fault})") from None
    try:
        now = clock()
        found = standing(ledger.rentals(), now)
        launch_usd = math.fsum(worst_case_usd(Rental.beginning(entry), now) for entry in intents)
        refuse_over_limits(found, launch_usd if math.isfinite(launch_usd) else None, limits)
        for entry in intents:
            ledger.append(entry)
    finally:
        lock.release()
    return found


def _why_unbounded(rental: Rental, now: float) -> str:
    if not rental.is_open:
        return "what it cost is not known, and it had no cap"
    if rental.is_overdue(now):
        return "it is past its deadline or over its cap and not confirmed gone; `launcher down --all` ends it"
    return "it has no cap, and no deadline at a known price"


def _month(now: float, zone: tzinfo | None) -> tuple[float, str]:
    """When the month began in local time, and that moment in words.

    The naive local midnight goes through the machine's zone rules anew, so that a change to summer time within the
    month does not move it.
    """
    first = datetime.fromtimestamp(now, zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0)
    shown = first.astimezone(zone)
    return shown.timestamp(), f"since {shown:%Y-%m-%d %H:%M} {shown.tzname()}"


def _month_parts(standing: Standing) -> str:
    return f"{_usd(standing.ended_usd)} spent {standing.month}, {_open_part(standing)}"


def _open_part(standing: Standing) -> str:
    return f"{_usd(standing.open_usd)} committed to what is rented now"


def _left(usd: float) -> str:
    return f"{_usd(usd)} are left" if usd > 0 else "nothing is left"


def _usd(amount: float) -> str:
    return f"{amount:.2f} usd"
