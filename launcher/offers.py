"""Every offer there is, each provider's from the best source at hand: asked live, a catalog, the shipped snapshot."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from launcher.cost.catalogs import catalog_path, read_sky_catalog, read_snapshot, snapshot_dates
from launcher.cost.intake import Intake
from launcher.cost.ledger import launcher_home
from launcher.cost.offer import PROVIDERS, RENTED, Offer, Provider
from launcher.cost.own import read_own
from launcher.errors import BadInput

LIVE_TIMEOUT_S = 10.0
# For catalogs that are renewed unasked, and for those that the user asked to renew.
REFRESH_TIMEOUT_S = 3.0
ASKED_REFRESH_TIMEOUT_S = 30.0
_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class PriceSource:
    """Where the prices of one provider come from, and how old they are.

    dates: ISO dates of the prices with their numbers of offers; None: nobody wrote it down, `undated` says what is
    known. cpu_rows: machines without a GPU that were passed over. sold_out: listed without capacity.
    """

    provider: Provider
    kind: Literal["live", "catalog", "snapshot", "own"]
    where: str
    dates: tuple[tuple[str | None, int], ...]
    undated: str = "undated"
    cpu_rows: int = 0
    sold_out: int = 0

    def line(self, now: float) -> str:
        """One line for people: source, date and age, number of offers; `now` in seconds since the epoch."""
        dates = [f"{count} offers {self._dated(date, now)}" for date, count in self.dates] or ["0 offers"]
        rest = [f"{self.sold_out} listed without capacity"] if self.sold_out else []
        rest += [f"{self.cpu_rows} machines without a GPU passed over"] if self.cpu_rows else []
        return f"{self.provider}: {self.where}: {', '.join(dates + rest)}"

    def _dated(self, date: str | None, now: float) -> str:
        return self.undated if date is None else f"of {date} ({_age(date, now)})"

    def to_json(self, now: float) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "provider": self.provider,
            "source": self.kind,
            "where": self.where,
            "dates": [
                {"priced_at": date, "age_hours": None if date is None else _age_hours(date, now), "offers": count}
                for date, count in self.dates
            ],
            "undated": self.undated if any(date is None for date, _ in self.dates) else None,
            "sold_out": self.sold_out,
            "cpu_rows": self.cpu_rows,
        }


@dataclass(frozen=True)
class Gathered:
    """All offers, what was left out and what could not be asked, and where each provider's prices come from."""

    offers: tuple[Offer, ...]
    warnings: tuple[str, ...]
    sources: tuple[PriceSource, ...]
    gathered_at: float

    def source_lines(self) -> list[str]:
        """One line a provider: source and age of its prices."""
        return [source.line(self.gathered_at) for source in self.sources]

    def sources_json(self) -> list[dict[str, Any]]:
        """The sources as plain JSON values."""
        return [source.to_json(self.gathered_at) for source in self.sources]


def gather_offers(
    *,
    providers: Sequence[Provider] = PROVIDERS,
    own: Path | None = None,
    offline: bool = False,
    refresh: bool = False,
) -> Gathered:
    """Every offer of these providers; the provider `own` is the user's own machines.

    A provider whose key is at hand is asked; the catalogs of the others are renewed when they are due. Without an
    answer within seconds, what lies on this machine is used.

    Args:
        providers: whose offers.
        own: the file of the user's machines; `$LAUNCHER_HOME/own.yaml` where there is one.
        offline: ask nobody.
        refresh: renew the catalogs although they are not due, or a download failed a moment ago.

    Raises:
        BadInput: the file of the user's machines is wrong.
    """
    now = time.time()
    rented = [provider for provider in RENTED if provider in providers]
    live, warnings = ({}, []) if offline else _ask(rented, refresh, now)
    offers: list[Offer] = []
    sources = []
    for provider in rented:
        intake = live.get(provider) or _from_files(provider, warnings)
        warnings += intake.warnings()
        offers += intake.offers
        sources.append(_source(intake))
    own_path = own or launcher_home() / "own.yaml"
    if "own" in providers and (own is not None or own_path.exists()):
        machines = read_own(own_path)
        offers += machines
        sources.append(PriceSource(provider="own", kind="own", where=str(own_path), dates=_dates(machines)))
    return Gathered(tuple(offers), tuple(warnings), tuple(sources), now)


def _ask(providers: Sequence[Provider], refresh: bool, now: float) -> tuple[dict[Provider, Intake], list[str]]:
    """Ask providers whose key is at hand and renew the catalogs of the others, all at once; answers and warnings."""
    # HTTP takes as long to import as everything else here together; a plan offline has no use for it.
    from launcher.cloud.fetch import SourceFailed, in_parallel
    from launcher.cloud.live_offers import live_questions
    from launcher.cloud.refresh import failed_lately, is_due, mark_failure, refresh_catalog

    priced_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    questions = live_questions(providers, LIVE_TIMEOUT_S, priced_at)
    others = [provider for provider in providers if provider not in questions]
    if refresh:
        due = [provider for provider in others if is_due(provider, now, pull_after_s=0.0)]
    else:
        due = [] if failed_lately(now) else [provider for provider in others if is_due(provider, now)]
    patience_s = ASKED_REFRESH_TIMEOUT_S if refresh else REFRESH_TIMEOUT_S
    tasks: dict[Provider, Callable[[], Intake | None]] = dict(questions)
    tasks |= {provider: partial(refresh_catalog, provider, patience_s) for provider in due}
    answers = in_parallel(tasks, max(LIVE_TIMEOUT_S if questions else 0.0, patience_s if due else 0.0))

    failures = {provider: answer for provider, answer in answers.items() if isinstance(answer, SourceFailed)}
    warnings = [
        f"{name}: not asked live: {failures[name]}; prices from files" for name in questions if name in failures
    ]
    not_renewed = [provider for provider in due if provider in failures]
    if not_renewed:
        reason = failures[not_renewed[0]]
        warnings.append(f"{', '.join(not_renewed)}: price catalogs not renewed: {reason}")
    if due:
        mark_failure(bool(not_renewed))
    return {name: answer for name, answer in answers.items() if isinstance(answer, Intake)}, warnings


def _from_files(provider: Provider, warnings: list[str]) -> Intake:
    """SkyPilot's catalog of a provider, or the shipped snapshot; a catalog that is of no use is a warning."""
    if os.path.exists(catalog_path(provider)):  # False also where the folder may not be read
        try:
            intake = read_sky_catalog(provider)
        except BadInput as fault:
            warnings += fault.faults
        else:
            if intake.offers:
                return intake
            warnings += [*intake.warnings(), f"{intake.what}: no offers in it; snapshot used"]
    return read_snapshot(provider)


def _source(intake: Intake) -> PriceSource:
    where = {
        "live": "asked live",
        "catalog": f"SkyPilot's catalog {intake.what}",
        "snapshot": "snapshot that ships with this version",
    }
    return PriceSource(
        provider=intake.provider,
        kind=intake.source,
        where=where[intake.source],
        dates=_dates(intake.offers),
        undated=snapshot_dates()["undated"].get(intake.provider, "undated"),
        cpu_rows=intake.cpu_rows,
        sold_out=intake.sold_out,
    )


def _dates(offers: Iterable[Offer]) -> tuple[tuple[str | None, int], ...]:
    return tuple(Counter(offer.priced_at for offer in offers).most_common())


def _age_hours(date: str, now: float) -> float:
    """Hours since an ISO date or time; a date without a time began at midnight UTC."""
    moment = datetime.fromisoformat(date)
    since = now - (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return round(max(0.0, since / _HOUR_S), 2)


def _age(date: str, now: float) -> str:
    hours = _age_hours(date, now)
    if hours < 1:
        return "less than an hour old"
    return f"{hours:.0f} h old" if hours < 48 else f"{hours // 24:.0f} days old"
