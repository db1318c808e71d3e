"""The verb `launch`: rent what a plan says, train there, bring everything home, and leave nothing behind."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from launcher.cli.jobs import DEFAULT_RUNS_DIR, AsJson, Jobs, Preset, RunsDir, load_all, wide_console
from launcher.cli.live import watching
from launcher.cli.plan import gather_wanted, plan_sentence, read_limits
from launcher.errors import BadInput, Interrupted, LauncherError, Refused
from launcher.planning.choices import Objective

if TYPE_CHECKING:
    from launcher.cost.offer import Provider
    from launcher.cost.rental import Rental
    from launcher.planning.plan import Plan


def add_commands(app: typer.Typer) -> None:
    """Add this file's verb to the command."""
    app.command()(launch)


def launch(
    job: Jobs,
    number: Annotated[int, typer.Option("--plan", min=1, help="Which plan, as `launcher plan` numbers them.")] = 1,
    max_usd: Annotated[str | None, typer.Option("--max-usd", help="Cap on the whole launch, in US dollars.")] = None,
    deadline: Annotated[str | None, typer.Option("--deadline", help="Time limit of the launch, such as 6h.")] = None,
    objective: Annotated[Objective, typer.Option("--objective", help="What plans are ranked by.")] = Objective.CHEAPEST,
    provider: Annotated[list[str] | None, typer.Option("--provider", help="Only this: vast, lambda or runpod.")] = None,
    gpu: Annotated[list[str] | None, typer.Option("--gpu", help="Only these GPUs.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="Take in offers that may be taken away at any time.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of this group of runs; a time stamp if left out.")
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    preset: Preset = None,
    as_json: AsJson = False,
) -> None:
    """Rent, train, bring home, tear down; never above the cap, and confirmed by the provider's own list."""
    from launcher.cloud.rentals import RealClouds
    from launcher.cost.ledger import default_ledger
    from launcher.cost.limits import SpendLimits
    from launcher.launching.clusters import clusters_of
    from launcher.launching.launch import planned_folders, run_launch
    from launcher.plan import make_plan
    from launcher.prediction import predictions_of, write_predictions
    from launcher.reconcile import Observer
    from launcher.rundir import new_group_id
    from launcher.runs import list_run_rows, results_table
    from launcher.settings import load_settings

    console = wide_console(stderr=as_json)
    limits, settings, specs = read_limits(max_usd, deadline, spot), load_settings(), load_all(job, preset)
    result = make_plan(specs, gather_wanted(gpu, _rented(provider or settings.providers)), limits, objective)
    if len(result.planned.plans) < number:
        raise Refused(f"launch: there are {len(result.planned.plans)} plans for this; `launcher plan` says why")
    plan = result.planned.plans[number - 1]
    console.print(f"{plan.shape.describe(len(specs))}: {plan_sentence(plan)}; at most {plan.worst_case_usd:.2f} usd")
    if not yes and not typer.confirm("Rent it?", default=False, err=True):
        raise Interrupted("nothing was rented")
    group = name or new_group_id()
    clusters = clusters_of(plan, specs, group, runs_dir / f"launch-{group}")
    folders = planned_folders(clusters, runs_dir)
    observer = Observer(default_ledger(), RealClouds())
    write_predictions(folders, predictions_of(plan, result.jobs, limits, result.gathered.gathered_at))
    console.print(f"rentals: {', '.join(cluster.name for cluster in clusters)}", soft_wrap=True)
    spend_limits = SpendLimits(settings.max_usd_per_month, settings.max_usd_at_once)
    try:
        with watching(console) as watch:
            rentals = run_launch(clusters, folders, observer, spend_limits, watch)
    except KeyboardInterrupt:
        raise Interrupted("stopped; everything that was rented is gone") from None
    rows = [row for row in list_run_rows(runs_dir) if row["id"] in {folder.id for folder in folders}]
    if as_json:
        typer.echo(json.dumps({"runs": rows, "cost": _cost(plan, rentals)}, indent=2))
    else:
        console.print(results_table(rows))
        _print_cost(console, plan, rentals)
    failed = [folder.read_record() for folder in folders]
    errors = [f"{record.id}: {record.error}" for record in failed if record.error]
    if errors:
        raise LauncherError("\n".join(errors))


def _rented(names: Sequence[str]) -> tuple[Provider, ...]:
    """Providers by name.

    Raises:
        BadInput: a name that is none.
    """
    from launcher.cost.offer import RENTED

    unknown = [name for name in names if name not in RENTED]
    if unknown:
        raise BadInput(f"--provider: {unknown[0]!r}: one of {', '.join(RENTED)} is needed")
    return tuple(name for name in RENTED if name in names)


def _cost(plan: Plan, rentals: Sequence[Rental]) -> dict[str, Any]:
    """What it cost, by the ledger, beside what the plan said."""
    from launcher.planning.plan import quantiles_json

    now = time.time()
    return {
        "usd": {rental.name: rental.usd(now) for rental in rentals},
        "predicted_usd": quantiles_json(plan.usd),
        "worst_case_usd": plan.worst_case_usd,
    }


def _print_cost(console: Console, plan: Plan, rentals: Sequence[Rental]) -> None:
    now = time.time()
    for rental in rentals:
        usd = rental.usd(now)
        shown = "cost not known" if usd is None else f"{usd:.4f} usd"
        console.print(Text(f"{rental.name}: {shown}, confirmed gone by {rental.newest.provider}'s list"))
    interval = f"{plan.usd.p10:.2f} to {plan.usd.p90:.2f}"
    console.print(f"predicted: {plan.usd.p50:.2f} usd ({interval}), at most {plan.worst_case_usd:.2f}")
