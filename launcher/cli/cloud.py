"""Verbs on what is rented: `status`, `spend`, `watch`, `down`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.cli.jobs import DEFAULT_RUNS_DIR, AsJson, RunsDir, wide_console
from launcher.errors import BadInput, Interrupted, LauncherError, Refused
from launcher.runs import UNKNOWN

if TYPE_CHECKING:
    from launcher.cost.ledger import Rental
    from launcher.reconcile import Observer

# Verbs that look at the ledger themselves; all others say one line when something in it is overdue.
RECONCILING = ("launch", "status", "logs", "stop", "down", "spend", "resume", "watch")


class By(StrEnum):
    """What `spend` sums up by."""

    RUN = "run"
    MONTH = "month"
    PROVIDER = "provider"


def add_commands(app: typer.Typer) -> None:
    """Add this file's verbs to the command."""
    for verb in (status, spend, watch, down):
        app.command()(verb)


def overdue_line() -> str | None:
    """One line where the ledger holds an overdue rental; asks nobody, and never fails a command that has other work."""
    from launcher.cost.ledger import default_ledger

    ledger = default_ledger()
    if not ledger.path.exists():
        return None
    try:
        overdue = ledger.overdue(time.time())
    except LauncherError as fault:
        return str(fault).splitlines()[0]
    if not overdue:
        return None
    more = f" and {len(overdue) - 1} more" if len(overdue) > 1 else ""
    return f"{overdue[0].rental} at {overdue[0].provider}{more}: overdue; `launcher watch --once` ends it"


def status(runs_dir: RunsDir = DEFAULT_RUNS_DIR, as_json: AsJson = False) -> None:
    """Show what is rented now, by the providers' own lists, with its cost so far and what is wrong with it."""
    from launcher.status import status as find_status

    found = find_status(_observer(), runs_dir)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = wide_console()
    if found["rentals"]:
        console.print(_status_table(found["rentals"]))
    else:
        console.print(_nothing(found["asked"]), soft_wrap=True)
    for row in found["rentals"]:
        for line in row["wrong"]:
            console.print(Text.assemble((f"{row['rental']}: ", "red"), line), soft_wrap=True)
    for provider, reason in found["unreachable"].items():
        console.print(Text(f"{provider}: not asked, so what is rented there is not known: {reason}"), soft_wrap=True)
    if found["others"]:
        console.print(f"{found['others']} other machines on these accounts, not the launcher's", soft_wrap=True)
    console.print("no watcher runs" if found["watcher"] is None else f"watcher: process {found['watcher']}")


def spend(
    by: Annotated[By | None, typer.Option("--by", help="One line a run, a month or a provider.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was spent, from the ledger: each rental's hours, price and where the price came from."""
    from launcher.cost.ledger import default_ledger
    from launcher.spend import spend as find_spend

    found = find_spend(default_ledger().rentals(), time.time(), None if by is None else by.value)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = wide_console()
    if found["lines"]:
        console.print(_spend_table(found["lines"], by))
    console.print(f"total: {_usd(found['total_usd'])} usd")
    if found["unknown"]:
        console.print(Text(f"not in it, cost not known: {', '.join(found['unknown'])}"), soft_wrap=True)


def watch(
    once: Annotated[
        bool, typer.Option("--once", help="One look, then leave; exit 1 if something is not sure.")
    ] = False,
    interval: Annotated[str, typer.Option("--interval", help="Time between two looks: 30s, 2m.")] = "30s",
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End after 10 minutes with nothing rented.")] = False,
) -> None:
    """Hold the ledger against the providers' lists, and end what is overdue or unknown; until Ctrl-C."""
    from launcher.units import parse_duration
    from launcher.watch import watch as watch_on
    from launcher.watch import watch_once

    if once:
        observer = _observer()
        done = watch_once(observer)
        for line in done.lines():
            _say(line)
        if done.failures or done.unconfirmed:
            raise LauncherError("not everything is sure: see above")
        _say(_nothing(observer.latest) if done.is_idle else "looked at everything")
        return
    try:
        interval_s = parse_duration(interval)
    except ValueError as fault:
        raise BadInput(f"--interval: {fault}") from None
    try:
        watch_on(_say, interval_s, until_idle)
    except KeyboardInterrupt:
        raise Interrupted("the watcher has ended; what is rented is not watched from here any more") from None


def down(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run, a group of runs, or a rental.")] = None,
    all_rentals: Annotated[bool, typer.Option("--all", help="Everything of the launcher's that is rented.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """End rentals, and confirm with the provider's own list that they are gone."""
    from launcher.teardown import tear_down

    if all_rentals == (run is not None):
        raise BadInput("down: name a run, or say --all: one of them")
    observer = _observer()
    failures, chosen = _chosen(run, observer)
    console = Console(highlight=False, soft_wrap=True)
    for rental in chosen:
        console.print(Text(f"{rental.name}: {rental.newest.provider} {rental.newest.offer}"))
    if chosen and not yes and not typer.confirm(f"end {len(chosen)} rentals?"):
        raise Refused("down: not confirmed; nothing was ended")
    for rental in tear_down([rental.name for rental in chosen], observer):
        console.print(Text(f"{rental.name}: gone, {_usd(rental.usd(time.time()))} usd"))
    if failures:
        raise LauncherError("\n".join(f"{name}: not asked, may hold more: {why}" for name, why in failures.items()))
    if not chosen:
        console.print(_nothing(observer.latest))


def _chosen(run: str | None, observer: Observer) -> tuple[Mapping[str, str], list[Rental]]:
    """The open rentals to be ended; of `--all` also those that only the lists know, and providers that failed."""
    from launcher.watch import rented_rentals

    failures = observer.look_at(observer.clouds.names()) if run is None else {}
    rentals = [rental for rental in rented_rentals(observer.ledger) if rental.is_open]
    if run is None:
        return failures, rentals
    chosen = [r for r in rentals if run in (r.name, r.first.run_id, r.first.group)]
    if not chosen:
        names = ", ".join(rental.name for rental in rentals) or "nothing"
        raise BadInput(f"{run!r}: no open rental of this name; open: {names}")
    return {}, chosen


def _observer() -> Observer:
    from launcher.cloud.rentals import RealClouds
    from launcher.cost.ledger import default_ledger
    from launcher.reconcile import Observer

    return Observer(default_ledger(), RealClouds())


def _nothing(asked: Iterable[str]) -> str:
    """Nothing of ours is known; how sure that is depends on who was asked."""
    names = ", ".join(sorted(asked))
    return f"nothing is rented at {names}" if names else "nothing in the ledger; no provider's key is at hand to ask"


def _say(line: str) -> None:
    typer.echo(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}")


def _status_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rental", "run", "provider", "machine", "status"):
        table.add_column(name, overflow="fold")
    for name in ("usd/h", "usd", "cap", "until"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        machine = UNKNOWN if row["gpu"] is None else f"{row['gpus'] or '?'}x {row['gpu']}"
        until = UNKNOWN if row["deadline_at"] is None else f"{datetime.fromtimestamp(row['deadline_at']):%d %b %H:%M}"
        cells = [row["rental"], row["run"], row["provider"], machine, row["status"]]
        figures = [_usd(row["usd_per_hour"]), _usd(row["usd"]), _usd(row["max_usd"]), until]
        table.add_row(*(Text(cell) for cell in [*cells, *figures]), style="red" if row["wrong"] else None)
    return table


def _spend_table(lines: Sequence[Mapping[str, Any]], by: By | None) -> Table:
    words = [by.value] if by else ["run", "provider", "rental", "offer", "price_source"]
    figures = ["rentals", "hours", "usd"] if by else ["hours", "usd_per_hour", "usd"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in words:
        table.add_column({"price_source": "price from"}.get(name, name), overflow="fold")
    for name in figures:
        table.add_column({"usd_per_hour": "usd/h"}.get(name, name), justify="right", no_wrap=True)
    for line in lines:
        cells = [Text(str(line[name]) or UNKNOWN) for name in words]
        table.add_row(*cells, *(Text(_figure(name, line[name])) for name in figures))
    return table


def _figure(name: str, value: float | None) -> str:
    if value is None or name == "rentals":
        return UNKNOWN if value is None else str(value)
    return f"{value:.2f}" if name == "hours" else _usd(value)


def _usd(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"
