"""The verb `offers`: what can be rented, cheapest first, and where every price comes from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.cli.jobs import AsJson, wide_console
from launcher.cost.offer import PROVIDERS, Provider, positive_number
from launcher.cost.offerings import Row, Wanted, as_rows, parse_counts, ranked, wanted_gpu
from launcher.errors import BadInput
from launcher.faults import printable
from launcher.offers import Gathered, gather_offers
from launcher.units import parse_memory

ROWS_SHOWN = 40
FILE_WIDTH = 240  # of a table in a file or a pipe: nothing is cut off


def add_commands(app: typer.Typer) -> None:
    """Add this file's verb to the command."""
    app.command()(offers)


def offers(
    gpu: Annotated[
        list[str] | None,
        typer.Option("--gpu", metavar="NAME", help="Only this: RTX4090, A100-80GB, H100 (any form); several times."),
    ] = None,
    min_memory: Annotated[
        str | None, typer.Option("--min-memory", metavar="GIB", help="GiB of one GPU at least, such as 40.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option("--gpus", metavar="RANGE", help="GPUs of the machine: 1, 1..8 or 4...")
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help=f"Only this: {', '.join(PROVIDERS)}; several times.")
    ] = None,
    spot: Annotated[
        bool | None, typer.Option("--spot/--on-demand", help="Only those that may be taken away, or only the others.")
    ] = None,
    own: Annotated[Path | None, typer.Option("--own", help="File of your own machines (docs/offers.md).")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no provider; files on this machine only.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Download the price catalogs anew first.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows of the table.")] = ROWS_SHOWN,
    as_json: AsJson = False,
) -> None:
    """List offers by dollars per hour, with the source and the age of every price."""
    if offline and refresh:
        raise BadInput("offers: --offline and --refresh: one of them")
    wanted = _wanted(gpu, min_memory, gpus, provider, spot)
    gathered = gather_offers(providers=wanted.providers or PROVIDERS, own=own, offline=offline, refresh=refresh)
    chosen = ranked(gathered.offers, wanted)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(offer) for offer in chosen], indent=2))
    elif chosen:
        rows = as_rows(chosen)
        wide_console(width=FILE_WIDTH).print(offers_table(rows[:limit]))
        if len(rows) > limit:
            typer.echo(f"and {len(rows) - limit} more; --limit {len(rows)} shows them")
    print_sources(gathered, Console(stderr=as_json, soft_wrap=True, highlight=False))
    if not chosen:
        Console(stderr=True).print("no offer fits these conditions", soft_wrap=True)


def print_sources(gathered: Gathered, console: Console) -> None:
    """Where each provider's prices come from and how old they are, and what was left out (on stderr)."""
    for line in gathered.source_lines():
        console.print(f"prices: {printable(line)}", markup=False)
    warn = Console(stderr=True, soft_wrap=True, highlight=False)
    for line in gathered.warnings:
        warn.print(f"[yellow]note:[/] {escape(printable(line))}")


def offers_table(rows: list[Row]) -> Table:
    """The offers as a table, equal ones in several places in one row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("usd/h", "per GPU"):
        table.add_column(name, justify="right", min_width=7)
    table.add_column("provider", min_width=11)
    table.add_column("GPU", min_width=14, no_wrap=True)
    for name in ("GiB", "vCPUs", "RAM GiB"):
        table.add_column(name, justify="right", min_width=len(name))
    table.add_column("price from", min_width=8, no_wrap=True)
    for name in ("instance type", "where"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in _cells(row)))
    return table


def _cells(row: Row) -> list[str]:
    offer, more = row.offer, len(row.places) - 1
    return [
        f"{offer.usd_per_hour:.3f}",
        f"{offer.usd_per_hour / offer.gpus:.3f}",
        offer.provider + (" spot" if offer.spot else ""),
        f"{offer.gpus}x {offer.gpu}",
        f"{offer.gpu_memory_gib:g}",
        _or_unknown(offer.vcpus),
        _or_unknown(offer.host_memory_gib),
        f"{offer.source} {(offer.priced_at or 'undated')[:10]}",
        offer.instance_type,
        row.places[0] + (f" +{more}" if more else ""),
    ]


def _or_unknown(amount: float | None) -> str:
    return "?" if amount is None else f"{amount:.0f}"


def _wanted(
    gpu: list[str] | None, min_memory: str | None, gpus: str | None, provider: list[str] | None, spot: bool | None
) -> Wanted:
    fewest, most = parse_counts(gpus) if gpus is not None else (1, Wanted.most_gpus)
    unknown = [name for name in provider or [] if name not in PROVIDERS]
    if unknown:
        raise BadInput(*(f"--provider: {name!r}: one of {', '.join(PROVIDERS)} is needed" for name in unknown))
    return Wanted(
        gpus=tuple(wanted_gpu(name) for name in gpu or []),
        min_memory_gib=0.0 if min_memory is None else _gib(min_memory),
        fewest_gpus=fewest,
        most_gpus=most,
        providers=tuple(cast(Provider, name) for name in provider or []),
        spot=spot,
    )


def _gib(text: str) -> float:
    """`40` or `40GiB`; the option's help says GiB, so that a bare number is clear."""
    gib = positive_number(text)
    if gib is not None:
        return gib
    try:
        return parse_memory(text)
    except ValueError:
        raise BadInput(f"--min-memory: {text!r}: GiB of one GPU are needed, such as 40 or 40GiB") from None
