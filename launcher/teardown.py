"""Ending rentals for certain: terminate, list, and again, until the provider's own list has nothing under the name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from launcher.cloud.rentals import ProviderFailed, way_out
from launcher.cost.ledger import LedgerEvent, Rental
from launcher.cost.offer import Provider
from launcher.cost.rental import Machine
from launcher.errors import LauncherError
from launcher.reconcile import Observer, machine_line

# Before each try; a list may lag behind by some seconds, and a server that fails may come back within this.
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
# Lists were seen that show a machine only this long after it was rented (a create call whose reply was lost).
LATE_S = 60.0


class TeardownUnconfirmed(LauncherError):
    """Something may still be rented; one line each, with what a user can do about it."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def tear_down(names: Iterable[str], observer: Observer, pauses_s: Sequence[float] = PAUSES_S) -> list[Rental]:
    """End these rentals, all at once, and confirm it; what was confirmed is returned, with its cost.

    `confirmed_gone` is written of a rental only when every provider it has to do with has answered with a list that
    holds nothing under its name. There is one try after each pause; an end is confirmed by the try after it.

    Raises:
        TeardownUnconfirmed: after every try something is listed still, or a provider does not answer.
        LauncherError: the ledger cannot be read or written.
    """
    pending, confirmed = list(dict.fromkeys(names)), []
    reasons: dict[str, str] = {}
    for pause_s in pauses_s:
        if not pending:
            break
        observer.clock.sleep(pause_s)
        reasons = {}
        for name in _try(pending, observer, reasons):
            pending.remove(name)
            confirmed.append(name)
    rentals = {rental.name: rental for rental in observer.ledger.rentals()}
    if pending:
        raise TeardownUnconfirmed([line for name in pending for line in _unconfirmed(rentals[name], reasons)])
    return [rentals[name] for name in confirmed]


def look_again(names: Iterable[str], observer: Observer, after_s: float = LATE_S) -> list[Rental]:
    """Ask again some time after a teardown, for machines that the lists did not show then, and end those.

    `launcher watch` does so on every pass; this is for a launch whose watcher may have ended.

    Returns:
        The rentals of which something had turned up.

    Raises:
        TeardownUnconfirmed: as for `tear_down`, also where a provider could not be asked.
    """
    wanted = set(names)
    observer.clock.sleep(after_s)
    rentals = [rental for rental in observer.ledger.rentals() if rental.name in wanted]
    failures = observer.look_at({provider for rental in rentals for provider in rental.providers})
    late = [rental.name for rental in observer.ledger.rentals() if rental.name in wanted and rental.is_open]
    ended = tear_down(late, observer)
    if failures:
        raise TeardownUnconfirmed([f"{provider}: not asked again: {why}" for provider, why in failures.items()])
    return ended


def _try(names: list[str], observer: Observer, reasons: dict[str, str]) -> list[str]:
    """Look, then end what is there; the names under which nothing is. `reasons`: what failed, by provider."""
    chosen = _named(names, observer)
    failures = observer.look_at({provider for rental in chosen for provider in rental.providers})
    reasons.update(failures)
    confirmed = []
    for rental in _named(names, observer):  # with what was just seen
        for machine in rental.present:
            _terminate(rental, machine, observer, reasons)
        if not rental.present and not set(rental.providers) & failures.keys():
            _confirm(rental, observer)
            confirmed.append(rental.name)
    return confirmed


def _named(names: list[str], observer: Observer) -> list[Rental]:
    found = [rental for rental in observer.ledger.rentals() if rental.name in names]
    missing = set(names) - {rental.name for rental in found}
    if missing:
        raise LauncherError(f"no rental of this name in the ledger: {', '.join(sorted(missing))}")
    return found


def _terminate(rental: Rental, machine: Machine, observer: Observer, reasons: dict[str, str]) -> None:
    """Ask for a machine's end, also where the list cannot be had: what the ledger knows of it is enough."""
    try:
        observer.clouds.terminate(cast(Provider, machine.provider), machine.instance_id)
    except ProviderFailed as fault:
        reasons.setdefault(machine.provider, fault.reason)
        return
    # Every time: an earlier yes may have been followed by nothing, while the list could not be had.
    observer.ledger.append(machine_line(rental, machine, LedgerEvent.STOPPED, observer.clock.now()))


def _confirm(rental: Rental, observer: Observer) -> None:
    now = observer.clock.now()
    if rental.machines:
        usd, note = rental.usd(now), ""
    else:
        usd, note = 0.0, "never seen in a provider's list"
    line = rental.newest.later(LedgerEvent.CONFIRMED_GONE, usd, note, now)
    observer.ledger.append(replace(line, instance_id="", since=None))


def _unconfirmed(rental: Rental, reasons: dict[str, str]) -> list[str]:
    """One line a machine that may still be there, or one for the rental where none was ever seen."""
    lines = []
    for machine in rental.present:
        price = "price unknown" if machine.usd_per_hour is None else f"{machine.usd_per_hour:.2f} usd/h"
        why = reasons.get(machine.provider, "it is in the provider's list still")
        lines.append(
            f"{machine.provider} {machine.instance_id} ({rental.name}, {rental.newest.offer or 'machine'}, {price}): "
            f"not confirmed gone: {why}; end it by hand: "
            f"{way_out(machine.provider, machine.instance_id)}"
        )
    silent = [provider for provider in rental.providers if provider in reasons]
    return lines or [
        f"{provider} ({rental.name}): not confirmed that nothing is there: {reasons[provider]}; look for that name: "
        f"{way_out(provider, 'ID')}"
        for provider in silent
    ]
