"""A rental as the ledger's lines tell it: its machines, from when to when each is paid for, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from launcher.cost.ledger_entry import LOCAL, LedgerEntry, LedgerEvent

SECONDS_PER_HOUR = 3600.0
MachineKey = tuple[str, str]  # provider, the provider's id of the machine


@dataclass(frozen=True)
class Machine:
    """One machine of a rental. Times are seconds since the epoch, of this computer's clock.

    usd_per_hour: the highest price its provider told, None: none told. since: from when on it is paid for. seen_at:
    when it was last in the provider's list. stopped_at: when the provider answered our request to end it; gone_at:
    when the list no longer had it.
    """

    provider: str
    instance_id: str
    usd_per_hour: float | None
    price_source: str
    since: float
    seen_at: float
    stopped_at: float | None = None
    gone_at: float | None = None
    note: str = ""

    @property
    def ended_at(self) -> float | None:
        """Until when it is paid for; None: it is there still, for all we know.

        Until our request to end it was answered, or, where it went by itself, until it was missed: the ledger is never
        below the bill.
        """
        if self.gone_at is None:
            return None
        return self.gone_at if self.stopped_at is None else self.stopped_at

    def seconds(self, now: float) -> float:
        """How long it has been paid for by `now`."""
        end = max(now, self.seen_at) if self.ended_at is None else self.ended_at
        return max(0.0, end - self.since)

    def usd(self, now: float) -> float | None:
        """What it has cost by `now`; None where its price is not known."""
        return None if self.usd_per_hour is None else self.usd_per_hour * self.seconds(now) / SECONDS_PER_HOUR


@dataclass(frozen=True)
class Rental:
    """All lines of one rental, as its first and its newest line and what they say about its cost.

    newest: with the limits that stand, where the line itself does not state them. intent_at: of the newest intent.
    """

    first: LedgerEntry
    newest: LedgerEntry
    stated_usd: float | None
    intent_at: float
    providers: tuple[str, ...]
    machines: Mapping[MachineKey, Machine] = field(default_factory=dict)

    @classmethod
    def beginning(cls, entry: LedgerEntry) -> Rental:
        """A rental whose first line this is."""
        return cls(entry, entry, None, entry.at, ()).with_line(entry)

    def with_line(self, entry: LedgerEntry) -> Rental:
        """The rental with one more line."""
        before = self.newest
        newest = replace(
            entry,
            deadline_at=before.deadline_at if entry.deadline_at is None else entry.deadline_at,
            max_usd=before.max_usd if entry.max_usd is None else entry.max_usd,
            machines=before.machines if entry.instance_id else entry.machines,
            offer=entry.offer or before.offer,
        )
        return replace(
            self,
            newest=newest,
            stated_usd=self.stated_usd if entry.usd is None else entry.usd,
            intent_at=entry.at if entry.event == LedgerEvent.INTENT else self.intent_at,
            providers=tuple(dict.fromkeys((*self.providers, entry.provider))),
            machines=_with_line(self.machines, entry) if entry.instance_id else self.machines,
        )

    @property
    def name(self) -> str:
        return self.first.rental

    @property
    def is_open(self) -> bool:
        """Not confirmed gone as a whole, so taken to be still spending."""
        return self.newest.event != LedgerEvent.CONFIRMED_GONE or bool(self.newest.instance_id)

    @property
    def present(self) -> list[Machine]:
        """Its machines that no list has shown to be gone."""
        return [machine for machine in self.machines.values() if machine.gone_at is None]

    def usd(self, now: float) -> float | None:
        """What it has cost by `now`; None where that is not known.

        What is open at a provider spends until now, whatever was heard of it last. A local process that ended without
        a word cost nobody a bill, and until when it ran is not known.
        """
        if not self.is_open and self.stated_usd is not None:
            return self.stated_usd
        if self.machines:
            return self._usd_of_machines(now)
        price = self.newest.usd_per_hour
        if price is None or (self.is_open and self.newest.provider == LOCAL):
            return self.stated_usd
        end = max(now, self.newest.at) if self.is_open else self.newest.at
        cost = price * self.newest.machines * (end - self.first.at) / SECONDS_PER_HOUR
        return max(self.stated_usd or 0.0, cost)

    @property
    def spends_usd_per_hour(self) -> float | None:
        """What its machines that are there cost an hour together; of a mere intent, as planned; None: not known."""
        if not self.machines:
            price = self.newest.usd_per_hour
            return None if price is None else price * self.newest.machines
        prices = [machine.usd_per_hour for machine in self.present]
        known = [price for price in prices if price is not None]
        return math.fsum(known) if len(known) == len(prices) else None

    def _usd_of_machines(self, now: float) -> float | None:
        costs = [machine.usd(now) for machine in self.machines.values()]
        known = [usd for usd in costs if usd is not None]
        return math.fsum(known) if len(known) == len(costs) else None

    def is_overdue(self, now: float) -> bool:
        """Still there at its deadline, or after its cap was spent."""
        deadline, cap, usd = self.newest.deadline_at, self.newest.max_usd, self.usd(now)
        return self.is_open and (
            (deadline is not None and now >= deadline) or (cap is not None and usd is not None and usd > cap)
        )


def _with_line(machines: Mapping[MachineKey, Machine], entry: LedgerEntry) -> dict[MachineKey, Machine]:
    key = (entry.provider, entry.instance_id)
    since = entry.at if entry.since is None else entry.since
    machine = machines.get(key)
    if machine is None:
        machine = Machine(entry.provider, entry.instance_id, entry.usd_per_hour, entry.price_source, since, entry.at)
    if entry.usd_per_hour is not None and entry.usd_per_hour > (machine.usd_per_hour or 0.0):
        machine = replace(machine, usd_per_hour=entry.usd_per_hour, price_source=entry.price_source)
    match entry.event:
        case LedgerEvent.STOPPED:
            machine = replace(machine, stopped_at=entry.at)
        case LedgerEvent.CONFIRMED_GONE:
            machine = replace(machine, gone_at=entry.at)
        case LedgerEvent.STARTED:
            # Two processes may have seen it first. Each knows when it was not there yet: the later one is nearer.
            machine = replace(machine, since=max(machine.since, since), seen_at=max(machine.seen_at, entry.at))
        case _:
            machine = replace(machine, seen_at=max(machine.seen_at, entry.at), stopped_at=None, gone_at=None)
    return {**machines, key: replace(machine, note=entry.note or machine.note)}


@dataclass(frozen=True)
class Spend:
    """A sum, and the rentals that are not in it because what they cost is not known."""

    usd: float
    unknown: tuple[str, ...]
