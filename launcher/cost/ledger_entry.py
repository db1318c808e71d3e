"""One line of the ledger: what happened to a rental, when, and what is wrong with a line that may not be kept."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from enum import StrEnum

LOCAL = "local"


class LedgerEvent(StrEnum):
    """What happened to a rental, or to one of its machines where the line names one.

    intent: it is about to be created. started: first seen in its provider's list. heartbeat: seen there again, or said
    so itself. stopped: its provider answered our request to end it. confirmed_gone: the provider's list no longer has
    it; of the whole rental: nothing under its name is left.
    """

    INTENT = "intent"
    STARTED = "started"
    HEARTBEAT = "heartbeat"
    STOPPED = "stopped"
    CONFIRMED_GONE = "confirmed_gone"


@dataclass(frozen=True)
class LedgerEntry:
    """One line. Times are seconds since the epoch; `usd` is what this rental has cost up to `at`, None: not stated.

    `rental` names one thing that is paid for; a run that is resumed or moved has several. At a provider it is the name
    of the cluster, with which the names of its machines begin. `offer` is what was rented, or the host. `deadline_at`
    is when it must be gone.

    `usd_per_hour`: of one machine. `machines`: how many there should be. `price_source`: who said the price.
    `instance_id`: the provider's id of the one machine that the line is about, empty: the whole rental. `since`: from
    when on that machine is paid for, as far as is known; None: `at`.
    """

    at: float
    event: LedgerEvent
    run_id: str
    group: str
    provider: str
    rental: str
    usd_per_hour: float | None
    max_usd: float | None = None
    deadline_at: float | None = None
    usd: float | None = None
    note: str = ""
    offer: str = ""
    machines: int = 1
    price_source: str = ""
    instance_id: str = ""
    since: float | None = None

    def later(
        self, event: LedgerEvent, usd: float | None = None, note: str = "", at: float | None = None
    ) -> LedgerEntry:
        """The next line of the same rental, as of now unless a time is given."""
        return replace(self, at=time.time() if at is None else at, event=event, usd=usd, note=note)

    def faults(self) -> list[str]:
        """What is wrong with it, one line each. A price that is unknown or zero is refused: it would read as free.

        A machine that was found at a provider, and the end of a rental, are recorded whatever they cost.
        """
        required = ("run_id", "group", "provider", "rental")
        optional = ("note", "offer", "price_source", "instance_id")
        found = [f"{name}: {getattr(self, name)!r}: a text is needed" for name in required if not self._is_text(name)]
        found += [
            f"{name}: {getattr(self, name)!r}: a text is needed"
            for name in optional
            if not isinstance(getattr(self, name), str)
        ]
        if not _is_number(self.at):
            found.append(f"at: {self.at}: seconds since the epoch are needed")
        for name in ("usd_per_hour", "max_usd", "deadline_at", "since"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                found.append(f"{name}: {value}: a positive, finite number is needed")
        if self.usd is not None and not (_is_number(self.usd) and self.usd >= 0):
            found.append(f"usd: {self.usd}: a finite number of 0 or more is needed")
        if type(self.machines) is not int or self.machines < 1:
            found.append(f"machines: {self.machines}: a whole number of 1 or more is needed")
        is_record = bool(self.instance_id) or self.event == LedgerEvent.CONFIRMED_GONE
        if self.usd_per_hour is None and self.provider != LOCAL and not is_record:
            found.append(f"usd_per_hour: {self.provider}: a rental without a known price is refused")
        return found

    def _is_text(self, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, str) and bool(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
