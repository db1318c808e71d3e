"""What was spent, from the ledger alone: every rental with its hours, its price and who said it; summed if wished."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from launcher.cost.ledger import LOCAL, Rental
from launcher.cost.rental import SECONDS_PER_HOUR

By = Literal["run", "month", "provider"]
Line = dict[str, Any]


def spend(rentals: Iterable[Rental], now: float, by: By | None = None) -> dict[str, Any]:
    """`{"total_usd", "unknown", "lines"}` as JSON values, the lines oldest first.

    Without `by`: one line a rental, with run, group, provider, rental, offer, machines (how many were seen), started_at
    and ended_at (ISO, UTC; None: not ended), hours (of all its machines together), usd_per_hour, price_source, usd,
    state (open, ended). With it: one line a run, a month (UTC, of a rental's beginning) or a provider, with usd, hours
    and rentals. `unknown`: rentals whose cost is not known; a sum leaves them out, and is None where nothing in it is
    known, never 0.
    """
    chosen = list(rentals)
    lines = [_line(rental, now) for rental in chosen]
    return {
        "total_usd": _sum(line["usd"] for line in lines) if lines else 0.0,
        "unknown": [line["rental"] for line in lines if line["usd"] is None],
        "lines": lines if by is None else _grouped(lines, by),
    }


def _line(rental: Rental, now: float) -> Line:
    began, ended = _times(rental)
    return {
        "run": rental.first.run_id,
        "group": rental.first.group,
        "provider": rental.newest.provider,
        "rental": rental.name,
        "offer": rental.newest.offer,
        "machines": len(rental.machines),
        "started_at": _iso(began),
        "ended_at": None if ended is None else _iso(ended),
        "hours": _hours(rental, now, began, ended),
        "usd_per_hour": _usd_per_hour(rental),
        "price_source": ", ".join(_price_sources(rental)),
        "usd": rental.usd(now),
        "state": "open" if rental.is_open else "ended",
    }


def _times(rental: Rental) -> tuple[float, float | None]:
    """From when on it is paid for, and until when; an intent of which no machine was seen counts from its writing."""
    machines = rental.machines.values()
    began = min((machine.since for machine in machines), default=rental.first.at)
    if rental.is_open:
        return began, None
    ends = [machine.ended_at for machine in machines]
    known = [end for end in ends if end is not None]
    return began, max(known) if known else rental.newest.at


def _hours(rental: Rental, now: float, began: float, ended: float | None) -> float | None:
    """Paid hours; None for a local process that ended without a word."""
    if rental.machines:
        return math.fsum(machine.seconds(now) for machine in rental.machines.values()) / SECONDS_PER_HOUR
    if ended is None and rental.newest.provider == LOCAL:
        return None
    return ((now if ended is None else ended) - began) / SECONDS_PER_HOUR


def _usd_per_hour(rental: Rental) -> float | None:
    """Of one machine, the dearest; None where it is not known of one of them."""
    prices = [machine.usd_per_hour for machine in rental.machines.values()] or [rental.newest.usd_per_hour]
    known = [price for price in prices if price is not None]
    return max(known) if len(known) == len(prices) else None


def _price_sources(rental: Rental) -> list[str]:
    sources = [machine.price_source for machine in rental.machines.values()] or [rental.newest.price_source]
    return sorted({source for source in sources if source})


def _grouped(lines: Sequence[Line], by: By) -> list[Line]:
    key_of: dict[str, Callable[[Line], str]] = {
        "run": lambda line: line["run"],
        "month": lambda line: line["started_at"][:7],
        "provider": lambda line: line["provider"],
    }
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(key_of[by](line), []).append(line)
    return [
        {
            by: key,
            "rentals": len(members),
            "hours": _sum(line["hours"] for line in members),
            "usd": _sum(line["usd"] for line in members),
            "unknown": [line["rental"] for line in members if line["usd"] is None],
        }
        for key, members in groups.items()
    ]


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
