"""The verb `plan`: which offers can run the jobs, what they cost, and at most how much."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.cli.jobs import AsJson, Preset, load_all, wide_console
from launcher.cli.offers import print_sources
from launcher.errors import BadInput, Refused
from launcher.planning.choices import Objective
from launcher.units import parse_duration, parse_usd

if TYPE_CHECKING:
    from launcher.cost.offer import Provider
    from launcher.cost.spread import Quantiles
    from launcher.offers import Gathered
    from launcher.plan import PlanResult
    from launcher.planning.needs import CountTokens
    from launcher.planning.plan import Limits, Plan

ROWS_SHOWN = 12
CARDS_SHOWN = 24
FILE_WIDTH = 200  # of a table in a file or a pipe: nothing is cut off
WIDE_TERMINAL = 150  # columns; below, what each plan has over the first is left out
ONE_MACHINE = "one machine"
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
    rows: Annotated[
        int | None, typer.Option("--rows", min=2, help="Examples, where a job's data is not there yet.")
    ] = None,
    tokens_per_row: Annotated[
        float | None, typer.Option("--tokens-per-row", min=1, help="Tokens of each, prompt and answer.")
    ] = None,
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

    limits = read_limits(max_usd, deadline, spot)
    specs = load_all(job, preset)
    _refuse_twins([spec.name for spec in specs])
    count = _token_counter(rows, tokens_per_row)
    result = make_plan(specs, gather_wanted(gpu, own=own, offline=offline), limits, objective, count)
    if html is not None:
        from launcher.report.plan_page import write_plan_page

        write_plan_page(result.to_json(), html)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
        print_sources(result.gathered, Console(stderr=True, soft_wrap=True, highlight=False))
    else:
        _print(result, every, html)
    if not result.planned.plans:
        raise Refused(f"{', '.join(spec.name for spec in specs)}: no offer can run this within its limits")


def read_limits(max_usd: str | None, deadline: str | None, spot: bool) -> Limits:
    """The limits of a plan, from what stands on the command line.

    Raises:
        BadInput: an amount or a duration cannot be read.
    """
    from launcher.planning.plan import Limits

    return Limits(_parsed("--max-usd", max_usd, parse_usd), _parsed("--deadline", deadline, parse_duration), spot)


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


def _token_counter(rows: int | None, tokens_per_row: float | None) -> CountTokens:
    """What says how many tokens a job has: its data, or what the user states of them.

    Raises:
        BadInput: only one of the two figures is given.
    """
    from launcher.tokens import count_tokens, stated_tokens

    if rows is None and tokens_per_row is None:
        return count_tokens
    if rows is None or tokens_per_row is None:
        raise BadInput("plan: --rows and --tokens-per-row: both are needed where data is stated")
    return lambda spec, micro_batch: stated_tokens(spec, micro_batch, rows, tokens_per_row)


def _refuse_twins(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"jobs: {', '.join(twice)} given more than once; a name may stand once in a plan")


def gather_wanted(
    gpus: Sequence[str] | None,
    providers: Sequence[Provider] | None = None,
    own: Path | None = None,
    offline: bool = False,
) -> Gathered:
    """The offers there are, those with other GPUs than the named ones left out; no providers given: all, and one's own.

    Raises:
        BadInput: a GPU that is none, or a wrong file of one's own machines.
    """
    from launcher.cost.offer import PROVIDERS
    from launcher.cost.offerings import Wanted, ranked, wanted_gpu
    from launcher.offers import gather_offers

    gathered = gather_offers(providers=providers or PROVIDERS, own=own, offline=offline)
    wanted = Wanted(gpus=tuple(wanted_gpu(name) for name in gpus or ()))
    return dataclasses.replace(gathered, offers=tuple(ranked(gathered.offers, wanted)))


def _print(result: PlanResult, every: bool, html: Path | None) -> None:
    from launcher.planning.ranking import best_by_card

    console = wide_console(width=FILE_WIDTH)
    title = escape(", ".join(spec.name for spec in result.specs))
    plans = result.planned.plans
    if plans:
        console.print(f"[bold]plans for {title}[/], {result.objective} first")
        _print_plans(console, plans, every)
    else:
        console.print(f"[bold red]no plan for {title}[/]")
    if result.suggestions:
        console.print("\n[bold]the smallest change that would do[/]")
        _lines(console, [f"{s.change}: {plan_sentence(s.plan)}" for s in result.suggestions])
    _print_why_not(console, result.why_not)
    if result.alternative is not None:
        console.print(f"\n[bold]{result.alternative.change}[/], at equal steps, the best plan of each card")
        _print_plans(console, best_by_card(result.alternative.planned.plans), every, most=CARDS_SHOWN)
        _print_why_not(console, result.alternative.why_not)
    console.print()
    _lines(console, result.notes())
    print_sources(result.gathered, console)
    if html is not None:
        console.print(f"page: {html}", soft_wrap=True)


def _print_plans(console: Console, plans: Sequence[Plan], every: bool, most: int = ROWS_SHOWN) -> None:
    if not plans:
        console.print("  no plan either")
        return
    shown = plans if every else plans[:most]
    has_shapes = any(plan.shape.describe(len(plan.fits)) != ONE_MACHINE for plan in shown)
    left_out = {"shape"} if not has_shapes else set()
    left_out |= {"why"} if console.width < WIDE_TERMINAL else set()
    columns = [column for column in COLUMNS if column.name not in left_out]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column.name, justify=column.justify, no_wrap=column.justify == "right")
    for number, plan in enumerate(shown, start=1):
        table.add_row(str(number), *(column.cell(plan) for column in columns))
    console.print(table)
    if len(shown) < len(plans):
        console.print(f"  and {len(plans) - len(shown)} more (--all)")
    best = plans[0]
    why = [best.why] if "why" in left_out else []
    _lines(console, [f"plan 1: {line}" for line in (*why, *best.changes, *best.conditions)])


def _print_why_not(console: Console, lines: Sequence[str]) -> None:
    if lines:
        console.print("\n[bold]why not[/]")
        _lines(console, lines)


@dataclass(frozen=True)
class Column:
    """One column of the table of plans."""

    name: str
    cell: Callable[[Plan], str]
    justify: Literal["left", "right"] = "right"


def _peak(plan: Plan) -> str:
    memory = plan.tightest.memory
    return f"{memory.expected_gib:.1f}–{memory.high_gib:.1f}/{plan.usable_gib:.1f}"


def _three(quantiles: Quantiles) -> str:
    return " ".join(f"{value:.2f}" for value in (quantiles.p10, quantiles.p50, quantiles.p90))


COLUMNS = (
    Column("offer", lambda plan: _machine(plan), "left"),
    Column("usd/h", lambda plan: f"{plan.offer.usd_per_hour:.2f}"),
    Column("shape", lambda plan: plan.shape.describe(len(plan.fits)), "left"),
    Column("GiB: peak,\nup to/usable", _peak),
    Column("hours\np10  p50  p90", lambda plan: _three(plan.hours)),
    Column("usd\np10  p50  p90", lambda plan: _three(plan.usd)),
    Column("at most", lambda plan: f"{plan.worst_case_usd:.2f}"),
    Column("why", lambda plan: plan.why, "left"),
)


def _machine(plan: Plan) -> str:
    offer = plan.offer
    return f"{offer.provider} {offer.gpus}x {offer.gpu} {offer.gpu_memory_gib:g} GB" + (" spot" if offer.spot else "")


def plan_sentence(plan: Plan) -> str:
    """A plan in one line: the machine, its price, median dollars with their interval, hours."""
    interval = f"{plan.usd.p10:.2f} to {plan.usd.p90:.2f}"
    where = f"{_machine(plan)} at {plan.offer.usd_per_hour:.2f} usd/h"
    return f"{where}: {plan.usd.p50:.2f} usd ({interval}), {plan.hours.p50:.1f} h"


def _lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(f"  {line}", markup=False, soft_wrap=True)
