"""The providers' lists against the ledger: what is seen is written down, and nothing is ended here.

Order matters. A list is asked for first and the ledger read after it: an intent is in the ledger before a machine is
created, so what is in the list and not in the ledger is unknown for certain. And of two processes that look at once
neither may undo what the other knows: a list says nothing about what was written down after it was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import cast

from launcher.cloud.rentals import Clouds, ProviderFailed
from launcher.cloud.rented import MachineStatus, Rented
from launcher.cost.ledger import Ledger, LedgerEntry, LedgerEvent, Rental
from launcher.cost.offer import Provider
from launcher.cost.rental import Machine
from launcher.errors import BadInput

NAME_PREFIX = "launcher-"
# Lambda's limit of 57 (`sky/clouds/lambda_cloud.py`) less the 9 that SkyPilot appends; a longer name is cut off by it,
# and then no list shows whose machine it is.
MOST_NAME_LENGTH = 48
UNKNOWN_RUN = "(unknown)"
# How often the ledger gets a line for a machine of which nothing else is to be said.
HEARTBEAT_S = 600.0


@dataclass(frozen=True)
class Clock:
    """Time, as seconds since the epoch, and waiting; tests have their own."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


class Observer:
    """Looks at the providers' lists and writes into the ledger what they show.

    Whoever creates something looks every second until it is there, so that the ledger knows to a second since when it
    is paid for: from the time of the last list that did not have it.

    latest: the last list of each provider that was had.
    """

    def __init__(self, ledger: Ledger, clouds: Clouds, clock: Clock | None = None) -> None:
        self.ledger, self.clouds, self.clock = ledger, clouds, clock or Clock()
        self.latest: dict[Provider, list[Rented]] = {}
        self._last_asked_at: dict[Provider, float] = {}

    def look(self, provider: Provider) -> list[Rented]:
        """The provider's list, after the ledger was brought up to it.

        Raises:
            ProviderFailed: the list cannot be had; the ledger is as before.
            LauncherError: the ledger cannot be read or written.
        """
        asked_at = self.clock.now()
        listed = self.clouds.machines(provider)
        sight = _Sight(self.ledger, provider, asked_at, self.clock.now(), self._last_asked_at.get(provider))
        sight.record(listed)
        self._last_asked_at[provider] = asked_at
        self.latest[provider] = listed
        return listed

    def look_at(self, providers: Iterable[str]) -> dict[str, str]:
        """Look at each of these; why not, for those that could not be asked."""
        failures = {}
        for provider in sorted(set(providers)):
            try:
                self.look(cast(Provider, provider))
            except ProviderFailed as fault:
                failures[provider] = fault.reason
        return failures


def rental_name(group: str, number: int) -> str:
    """The name of a group's cluster, by which the providers' lists can be asked for its machines.

    Raises:
        BadInput: it is too long to stay whole there.
    """
    name = f"{NAME_PREFIX}{group}-{number}"
    if len(name) > MOST_NAME_LENGTH:
        most = MOST_NAME_LENGTH - (len(name) - len(group))
        raise BadInput(f"name {group!r}: {len(group)} characters; at most {most}, or no list shows whose a machine is")
    return name


def rental_of(name: str, rentals: Iterable[Rental]) -> Rental | None:
    """The rental to which a machine of this name belongs: `launcher-g-1` to `launcher-g-1-3fa2-head`."""
    owners = [rental for rental in rentals if f"{_on_cloud(name)}-".startswith(f"{_on_cloud(rental.name)}-")]
    return max(owners, key=lambda rental: len(rental.name), default=None)


def _on_cloud(name: str) -> str:
    """As SkyPilot writes it to providers (`make_cluster_name_on_cloud` in `sky/utils/common_utils.py`)."""
    return name.replace(".", "-").replace("_", "-").lower()


@dataclass(frozen=True)
class _Sight:
    """One list of one provider: when it was asked for, when the answer was there, when the one before was asked for."""

    ledger: Ledger
    provider: Provider
    asked_at: float
    seen_at: float
    previous_asked_at: float | None

    def record(self, listed: Iterable[Rented]) -> None:
        rentals = self.ledger.rentals()
        there = {machine.id: machine for machine in listed if machine.status != MachineStatus.GONE}
        known = {key[1]: rental for rental in rentals for key in rental.machines if key[0] == self.provider}
        for machine in there.values():
            if machine.id in known:
                self._seen_again(machine, known[machine.id])
            elif machine.name.startswith(NAME_PREFIX):
                self._seen_first(machine, rental_of(machine.name, rentals))
        for rental in rentals:
            for missing in rental.present:
                if missing.provider == self.provider and missing.instance_id not in there:
                    self._missed(missing, rental)

    def _seen_first(self, machine: Rented, rental: Rental | None) -> None:
        if rental is None:
            self.ledger.append(self._line_of_unknown(machine))
            return
        if self._is_older_than_end(rental):
            return
        not_there_at = max(rental.intent_at, self.previous_asked_at or 0.0)
        since = min(self.seen_at, not_there_at, machine.created_at or self.seen_at)
        self._append(rental, LedgerEvent.STARTED, machine, since=max(rental.first.at, since))

    def _seen_again(self, machine: Rented, rental: Rental) -> None:
        before = rental.machines[self.provider, machine.id]
        if self._is_older_than_end(rental) or self.asked_at < (before.gone_at or 0.0):
            return
        runs = machine.status in (MachineStatus.RUNNING, MachineStatus.CREATING)
        runs_on = before.stopped_at is not None and runs and self.asked_at >= before.stopped_at
        is_dearer = (machine.usd_per_hour or 0.0) > (before.usd_per_hour or 0.0)
        is_due = self.seen_at - before.seen_at >= HEARTBEAT_S
        if not rental.is_open or before.gone_at is not None or runs_on or is_dearer or is_due:
            self._append(rental, LedgerEvent.HEARTBEAT, machine)

    def _missed(self, machine: Machine, rental: Rental) -> None:
        """It is no longer listed: gone as we asked, or lost."""
        if self.asked_at < max(machine.seen_at, machine.stopped_at or 0.0):
            return
        note = "" if machine.stopped_at is not None else "lost: gone from the list without our asking"
        self.ledger.append(machine_line(rental, machine, LedgerEvent.CONFIRMED_GONE, self.seen_at, note))

    def _is_older_than_end(self, rental: Rental) -> bool:
        """The list was asked for before the rental was confirmed gone, and may not know it."""
        return not rental.is_open and self.asked_at < rental.newest.at

    def _append(self, rental: Rental, event: LedgerEvent, machine: Rented, since: float | None = None) -> None:
        told = machine.usd_per_hour
        line = _line(rental, event, self.provider, machine.id, self.seen_at)
        line = replace(
            line,
            since=since,
            usd_per_hour=told or rental.newest.usd_per_hour,
            price_source=rental.newest.price_source if told is None else f"{self.provider}'s list",
        )
        if not rental.is_open:  # what turns up under a rental that is over must be ended like any overdue one
            line = replace(line, deadline_at=self.asked_at, note="seen after the rental was confirmed gone")
        self.ledger.append(line)

    def _line_of_unknown(self, machine: Rented) -> LedgerEntry:
        """Nobody here intended it, so nobody ends it in time: it is overdue as it stands."""
        return LedgerEntry(
            at=self.seen_at,
            event=LedgerEvent.STARTED,
            run_id=UNKNOWN_RUN,
            group=UNKNOWN_RUN,
            provider=self.provider,
            rental=machine.name,
            usd_per_hour=machine.usd_per_hour,
            deadline_at=self.asked_at,
            note="in the provider's list, not in the ledger",
            offer=f"{machine.gpus or '?'}x {machine.gpu or '?'}",
            price_source="" if machine.usd_per_hour is None else f"{self.provider}'s list",
            instance_id=machine.id,
            since=min(self.seen_at, self.previous_asked_at or self.seen_at, machine.created_at or self.seen_at),
        )


def machine_line(rental: Rental, machine: Machine, event: LedgerEvent, at: float, note: str = "") -> LedgerEntry:
    """A line about one machine of a rental, at the price that is known of it."""
    line = _line(rental, event, machine.provider, machine.instance_id, at)
    return replace(line, usd_per_hour=machine.usd_per_hour, price_source=machine.price_source, note=note)


def _line(rental: Rental, event: LedgerEvent, provider: str, instance_id: str, at: float) -> LedgerEntry:
    """Without the rental's limits: somebody may be setting others at this moment; the newest stated ones hold."""
    line = rental.newest.later(event, at=at)
    return replace(line, provider=provider, instance_id=instance_id, since=None, deadline_at=None, max_usd=None)


def wrong_with(rental: Rental, now: float) -> list[str]:
    """What is not as it should be with an open rental, one line each."""
    found = []
    present, unpriced = rental.present, [m for m in rental.present if m.usd_per_hour is None]
    if rental.first.run_id == UNKNOWN_RUN:
        found.append("unknown: nobody here intended it")
    elif rental.is_overdue(now):
        found.append("overdue: past its deadline or over its cap")
    if rental.machines and not present:
        found.append("lost: no machine of it is in the provider's list")
    if len(present) > rental.newest.machines:
        found.append(f"{len(present)} machines under one name, {rental.newest.machines} wanted: all of them are billed")
    if unpriced:
        found.append("its price is not known")
    return found
