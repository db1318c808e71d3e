"""The verb `plan`: which offers can run the jobs, what they cost, and at most how much."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.cli.jobs import AsJson, Preset, load_all, wide_console
from launcher.errors import BadInput, Refused
from launcher.planning.choices import Objective
from launcher.units import parse_duration, parse_usd

if TYPE_CHECKING:
    from launcher.cost.spread import Quantiles
    from launcher.offers import Gathered
    from launcher.plan import PlanResult
    from launcher.planning.plan import Plan

ROWS_SHOWN = 12
OptionalJobs = Annotated[list[Path] | None, typer.Argument(metavar="JOB...", help="Job files, planned together.")]


def add_commands(app: typer.Typer) -> None:
    """Add this file's verb to the command."""
    app.command()(plan)


def plan(
    job: OptionalJobs = None,
    max_usd: Annotated[str | None, typer.Option("--max-usd", help="Cap on the whole plan, in US dollars.")] = None,
    deadline: Annotated[str | None, typer.Option("--deadline", help="Time limit of the plan, such as 6h.")] = None,
    objective: Annotated[Objective, typer.Option("--objective", help="What to rank by.")] = Objective.CHEAPEST,
    spot: Annotated[bool, typer.Option("--spot", help="Take in offers that may be taken away at any time.")] = False,
    gpu: Annotated[list[str] | None, typer.Option("--gpu", help="Only these GPUs.")] = None,
    own: Annotated[Path | None, typer.Option("--own", help="File of your own machines.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no provider; catalog files only.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every plan, not only the first twelve.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with pictures to this file.")] = None,
    seeds: Annotated[bool, typer.Option("--seeds", help="The seed documents' cost tables, recomputed.")] = False,
    preset: Preset = None,
    as_json: AsJson = False,
) -> None:
    """Rank offers and shapes for jobs: memory, hours and dollars as intervals, and the worst case."""
    if seeds:
        from launcher.cli.business import print_seed_tables

        print_seed_tables(as_json)
        return
    if not job:
        raise BadInput("plan: a job file is needed, such as jobs/veran-tools.yaml (or --seeds)")
    from launcher.plan import make_plan
    from launcher.planning.plan import Limits

    limits = Limits(_parsed("--max-usd", max_usd, parse_usd), _parsed("--deadline", deadline, parse_duration), spot)
    specs = load_all(job, preset)
    _refuse_twins([spec.name for spec in specs])
    result = make_plan(specs, _gathered(own, offline, gpu), limits, objective)
    if html is not None:
        from launcher.report.plan_page import write_plan_page

        write_plan_page(result.to_json(), html)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        _print(result, every, html)
    if not result.planned.plans:
        raise Refused(f"{', '.join(spec.name for spec in specs)}: no offer can run this within its limits")


def _parsed(option: str, text: str | None, parse: Callable[[Any], float]) -> float | None:
    """An option's value in its unit.

    Raises:
        BadInput: it is none.
    """
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as fault:
        raise BadInput(f"{option}: {text!r}: {fault}") from None


def _refuse_twins(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"jobs: {', '.join(twice)} given more than once; a name may stand once in a plan")


def _gathered(own: Path | None, offline: bool, gpus: Sequence[str] | None) -> Gathered:
    from launcher.cost.offerings import Wanted, ranked, wanted_gpu
    from launcher.offers import gather_offers

    gathered = gather_offers(own=own, offline=offline)
    wanted = Wanted(gpus=tuple(wanted_gpu(name) for name in gpus or ()))
    return dataclasses.replace(gathered, offers=tuple(ranked(gathered.offers, wanted)))


def _print(result: PlanResult, every: bool, html: Path | None) -> None:
    from launcher.planning.ranking import best_by_card

    console = wide_console()
    plans = result.planned.plans
    title = ", ".join(spec.name for spec in result.specs)
    if plans:
        console.print(f"[bold]plans for {escape(title)}[/], {result.objective} first", soft_wrap=True)
        console.print(_table(plans, every))
        _lines(console, plans[0].changes)
    else:
        console.print(f"[bold red]no plan for {escape(title)}[/]")
        _lines(
            console,
            [f"{r.gpu} {r.gpu_memory_gib:g} GB x{r.gpus}: {r.reason}" for r in result.planned.refused[:ROWS_SHOWN]],
        )
    if result.suggestions:
        console.print("\n[bold]the smallest change that would do[/]")
        _lines(console, [f"{s.change}: {_sentence(s.plan)}" for s in result.suggestions])
    if result.why_not:
        console.print("\n[bold]why not[/]")
        _lines(console, result.why_not)
    if result.alternative is not None:
        change, other = result.alternative
        console.print(f"\n[bold]{change}[/], at equal steps, the best plan of each card")
        console.print(_table(best_by_card(other.plans), every) if other.plans else "  no plan either")
    console.print()
    _lines(console, result.notes())
    if html is not None:
        console.print(f"page: {html}", soft_wrap=True)


def _table(plans: Sequence[Plan], every: bool) -> Table:
    shown = plans if every else plans[:ROWS_SHOWN]
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    for name, justify in COLUMNS:
        table.add_column(name, justify=justify, overflow="fold")
    for number, plan in enumerate(shown, start=1):
        table.add_row(str(number), *_cells(plan))
    if len(shown) < len(plans):
        table.caption = f"and {len(plans) - len(shown)} more (--all)"
    return table


COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("#", "right"),
    ("offer", "left"),
    ("shape", "left"),
    ("peak GiB of usable", "right"),
    ("hours p10 p50 p90", "right"),
    ("usd p10 p50 p90", "right"),
    ("at most usd", "right"),
    ("why", "left"),
)


def _cells(plan: Plan) -> tuple[str, ...]:
    memory = plan.tightest.memory
    return (
        offer_words(plan),
        plan.shape.describe(len(plan.fits)),
        f"{memory.expected_gib:.1f}..{memory.high_gib:.1f} of {plan.usable_gib:.1f}",
        _three(plan.hours),
        _three(plan.usd),
        f"{plan.worst_case_usd:.2f}",
        plan.why,
    )


def offer_words(plan: Plan) -> str:
    """An offer in a few words: provider, count, card, memory, price."""
    offer = plan.offer
    where = " spot" if offer.spot else ""
    return f"{offer.provider} {offer.gpus}x {offer.gpu} {offer.gpu_memory_gib:g} GB{where} {offer.usd_per_hour:.2f}/h"


def _three(quantiles: Quantiles) -> str:
    return " ".join(f"{value:.2f}" for value in (quantiles.p10, quantiles.p50, quantiles.p90))


def _sentence(plan: Plan) -> str:
    interval = f"{plan.usd.p10:.2f} to {plan.usd.p90:.2f}"
    return f"{offer_words(plan)}, {plan.usd.p50:.2f} usd ({interval}), {plan.hours.p50:.1f} h"


def _lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(f"  {line}", markup=False, soft_wrap=True)
