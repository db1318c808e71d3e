"""Verbs on the question whether to tune at all: `compare-api`, `strategy`; and the tables of `plan --seeds`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import date
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.cli.jobs import AsJson, wide_console
from launcher.cost.tuning_services import Customer
from launcher.errors import BadInput

if TYPE_CHECKING:
    from launcher.cost.api_comparison import Comparison, ModeCost
    from launcher.cost.spread import Quantiles, Spread
    from launcher.cost.strategy import Strategy

SEED_TABLE_WIDTH = 180  # in a file or a pipe
DEFAULT_MODEL = "Qwen/Qwen2.5-Coder-32B-Instruct"


class ServedAs(StrEnum):
    """The ways of serving a person can ask for."""

    BY_HOUR = "by-hour"
    ALWAYS_ON = "always-on"
    ON_DEMAND = "on-demand"
    ALL = "all"


def add_commands(app: typer.Typer) -> None:
    """Add this file's verbs to the command."""
    app.command("compare-api")(compare_api)
    app.command()(strategy)


def compare_api(
    calls_per_month: Annotated[float, typer.Option("--calls-per-month", help="Calls a month.")],
    input_tokens: Annotated[float, typer.Option("--input-tokens", help="Input tokens a call.")],
    output_tokens: Annotated[float, typer.Option("--output-tokens", help="Output tokens a call.")],
    api_input: Annotated[float, typer.Option("--api-input-usd-per-million", help="Price of the API's input.")],
    api_output: Annotated[float, typer.Option("--api-output-usd-per-million", help="Price of the API's output.")],
    price_date: Annotated[str, typer.Option("--price-date", help="The day you read these prices, 2026-11-01.")],
    gpu_usd_per_hour: Annotated[float | None, typer.Option("--gpu-usd-per-hour", help="Price of one GPU.")] = None,
    offer: Annotated[
        str | None,
        typer.Option("--offer", help="Or an offer: PROVIDER/INSTANCE_TYPE, as `launcher offers` lists them."),
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="GPU the speed is looked up for, such as A100-80GB.")] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option("--tokens-per-second", help="That one GPU serves under load, input and output.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="Model whose published serving speed is taken.")
    ] = DEFAULT_MODEL,
    mode: Annotated[ServedAs, typer.Option("--mode", help="How your model is served.")] = ServedAs.ALL,
    own_input_tokens: Annotated[
        float | None, typer.Option("--own-input-tokens", help="Input tokens a call of your model, if other.")
    ] = None,
    own_output_tokens: Annotated[
        float | None, typer.Option("--own-output-tokens", help="Output tokens a call of your model, if other.")
    ] = None,
    training_usd: Annotated[float, typer.Option("--training-usd", help="What the tuning costs, once.")] = 0.0,
    engineer_hours: Annotated[float, typer.Option("--engineer-hours", help="People's hours a month it takes.")] = 0.0,
    engineer_usd_per_hour: Annotated[float, typer.Option("--engineer-usd-per-hour", help="What one costs.")] = 0.0,
    startup_minutes: Annotated[float, typer.Option("--startup-minutes", help="From off to the first answer.")] = 8.0,
    idle_minutes: Annotated[float, typer.Option("--idle-minutes", help="Without a call until it is stopped.")] = 15.0,
    windows_per_month: Annotated[float, typer.Option("--windows-per-month", help="Batch windows a month.")] = 30.0,
    calls_per_session: Annotated[float, typer.Option("--calls-per-session", help="Calls that come together.")] = 100.0,
    peak_factor: Annotated[float, typer.Option("--peak-factor", help="Busiest hour over the mean hour.")] = 3.0,
    as_json: AsJson = False,
) -> None:
    """Compare an API with your own tuned model on rented GPUs: monthly cost, break-even, payback."""
    from launcher.cost.api_comparison import ApiPrice, Traffic, compare
    from launcher.cost.self_hosting import Serving

    gpu_price, gpu_of_offer = _gpu_price(gpu_usd_per_hour, offer)
    speed, source = _serving_speed(tokens_per_second, model, gpu_of_offer or _named_gpu(gpu))
    traffic = Traffic(
        calls=calls_per_month,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        own_input_tokens=own_input_tokens,
        own_output_tokens=own_output_tokens,
    )
    result = compare(
        traffic,
        ApiPrice(input_usd_per_million=api_input, output_usd_per_million=api_output, priced_on=_iso_date(price_date)),
        Serving(
            usd_per_hour=gpu_price,
            tokens_per_second=speed.median,
            tokens_per_call=traffic.own_tokens_per_call,
            startup_minutes=startup_minutes,
            idle_minutes=idle_minutes,
            windows_per_month=windows_per_month,
            calls_per_session=calls_per_session,
            peak_factor=peak_factor,
        ),
        speed,
        _modes(mode),
        date.today(),
        training_usd=training_usd,
        engineer_usd=engineer_hours * engineer_usd_per_hour,
    )
    assumptions = [f"one GPU at {gpu_price:g} usd an hour{f' ({offer})' if offer else ''}", source]
    if as_json:
        typer.echo(json.dumps(_comparison_json(result, assumptions), indent=2))
    else:
        _print_comparison(result, assumptions)


def strategy(
    provider: Annotated[str, typer.Option("--provider", help="Whose model you use now: claude, openai, gemini, open.")],
    monthly_users: Annotated[int, typer.Option("--monthly-users", help="Users a month.")],
    accuracy: Annotated[float, typer.Option("--accuracy", help="Share of right answers that is needed, such as 0.95.")],
    privacy: Annotated[bool, typer.Option("--privacy", help="The data may not leave your machines.")] = False,
    ml_team: Annotated[bool, typer.Option("--ml-team", help="There are people who can train and run models.")] = False,
    monthly_calls: Annotated[float | None, typer.Option("--monthly-calls", help="Requests a month.")] = None,
    budget_usd: Annotated[float | None, typer.Option("--budget-usd", help="Most to spend a month.")] = None,
    customer: Annotated[
        Customer, typer.Option("--customer", help="Of the provider's fine-tuning: new, lapsed, active.")
    ] = Customer.NEW,
    as_json: AsJson = False,
) -> None:
    """Prompts, tuning in the cloud, or your own tuned model: which, why, at what cost, and when to move on."""
    from launcher.cost.strategy import Situation, choose_strategy

    situation = Situation(
        provider=provider.lower(),
        monthly_users=monthly_users,
        accuracy=accuracy,
        privacy=privacy,
        ml_team=ml_team,
        monthly_calls=monthly_calls,
        budget_usd=budget_usd,
        customer=customer,
    )
    answer = choose_strategy(situation, date.today())
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(answer), indent=2))
    else:
        _print_strategy(answer)


def print_seed_tables(as_json: bool) -> None:
    """The seed documents' figures beside what this planner gets, as tables or one JSON array."""
    from launcher.seeds.table import claimed_text, counts, result_text, seed_rows

    rows = seed_rows()
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    console = wide_console(width=SEED_TABLE_WIDTH)
    for title, group in groupby(rows, key=lambda row: row.claim.table):
        table = Table(title=title, title_justify="left", box=None, expand=True)
        for name, ratio in (("claim", 5), ("claimed", 2), ("recomputed", 3), ("verdict", 1), ("why", 6)):
            table.add_column(name, ratio=ratio, overflow="fold", min_width=len(name))
        for row in group:
            where = f"{escape(row.claim.says)} [dim]({row.claim.document}, {escape(row.claim.section)})[/]"
            colour = {"right": "green", "wrong": "red"}.get(row.verdict, "yellow")
            cells = (where, claimed_text(row), result_text(row), f"[{colour}]{row.verdict}[/]", escape(row.because))
            table.add_row(*cells)
        console.print(table)
    console.print(", ".join(f"{number} {verdict}" for verdict, number in counts(rows).items()))


# --- what the options mean -------------------------------------------------------------------------------------------


def _iso_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--price-date: {text!r}: a date such as 2026-11-01 is needed") from None


def _modes(mode: ServedAs) -> list[Any]:
    from launcher.cost.self_hosting import Mode

    # The two on-demand modes are named after the one that is asked for.
    return [each for each in Mode if mode == ServedAs.ALL or each.startswith(mode)]


def _gpu_price(usd_per_hour: float | None, offer: str | None) -> tuple[float, tuple[str, float | None] | None]:
    """US dollars an hour of one GPU; of an offer also its GPU and memory."""
    if (usd_per_hour is None) == (offer is None):
        raise BadInput("compare-api: give the price of a GPU, either --gpu-usd-per-hour or --offer")
    if usd_per_hour is not None:
        return usd_per_hour, None
    from launcher.offers import gather_offers

    assert offer is not None
    provider, _, instance_type = offer.partition("/")
    found = [
        each for each in gather_offers().offers if (each.provider, each.instance_type) == (provider, instance_type)
    ]
    if not found:
        raise BadInput(f"--offer: {offer!r}: no such offer; `launcher offers` lists them as PROVIDER and INSTANCE_TYPE")
    best = min(found, key=lambda each: each.usd_per_hour)
    return best.usd_per_hour / best.gpus, (best.gpu, best.gpu_memory_gib)


def _named_gpu(name: str | None) -> tuple[str, float | None] | None:
    """Our name of a GPU as a person writes it, and its memory where that is written too."""
    if name is None:
        return None
    from launcher.cost.gpus import find_gpu, memory_in_name

    return find_gpu(name).name, memory_in_name(name)


def _serving_speed(
    tokens_per_second: float | None, model: str, gpu: tuple[str, float | None] | None
) -> tuple[Spread, str]:
    from launcher.cost.serving_speed import published_speed
    from launcher.cost.spread import Spread

    if tokens_per_second is not None:
        return Spread(tokens_per_second), f"{tokens_per_second:g} tokens a second and GPU, as given"
    from launcher.models import find_architecture

    billions = find_architecture(model).parameters / 1e9
    found = published_speed(billions, *gpu) if gpu else None
    if found is None:
        what = f"a {billions:.1f}B model on {gpu[0]}" if gpu else "an unnamed GPU (--gpu)"
        raise BadInput(f"--tokens-per-second: nobody has published a figure for {what}; measure it and give it here")
    speed, source = found
    low, high = speed.quantile(0.1), speed.quantile(0.9)
    return (
        speed,
        f"{low:,.0f} to {high:,.0f} tokens a second and GPU, {billions:.1f}B on {gpu[0] if gpu else ''}: {source}",
    )


# --- printing --------------------------------------------------------------------------------------------------------


def _comparison_json(result: Comparison, assumptions: Sequence[str]) -> dict[str, Any]:
    return dataclasses.asdict(result) | {"assumptions": [*assumptions, *result.assumptions]}


def _print_comparison(result: Comparison, assumptions: Sequence[str]) -> None:
    console = wide_console()
    console.print(f"API: {result.api_usd:,.2f} usd a month ({result.api_usd_per_call:.5f} a call)", soft_wrap=True)
    table = Table("your own model", "GPUs", "GPU hours", "usd a month p10 / p50 / p90", "saves", box=None)
    table.add_column("break-even", ratio=1)
    table.add_column("training paid back", ratio=1)
    for cost in result.modes:
        table.add_row(*_mode_cells(cost))
    console.print(table)
    console.print(f"cheapest: [bold]{escape(result.cheapest)}[/]", soft_wrap=True)
    _print_lines(console, "assumed", [*assumptions, *result.assumptions])
    _print_lines(console, "warning", result.warnings)


def _mode_cells(cost: ModeCost) -> list[str]:
    return [
        cost.mode,
        str(cost.gpus),
        f"{cost.gpu_hours.p50:,.1f}",
        _quantiles(cost.usd),
        f"{cost.saves_usd.p50:,.2f}",
        cost.break_even.words,
        cost.payback,
    ]


def _quantiles(quantiles: Quantiles) -> str:
    return " / ".join(f"{each:,.2f}" for each in (quantiles.p10, quantiles.p50, quantiles.p90))


def _print_strategy(answer: Strategy) -> None:
    console = wide_console()
    console.print(f"[bold]{answer.path}[/]", soft_wrap=True)
    _print_lines(console, "because", answer.reasons)
    _print_lines(console, "move on when", answer.graduation)
    table = Table("path", "setup usd", "usd a month", "basis", box=None)
    for cost in answer.costs:
        setup = _range(cost.setup_low_usd, cost.setup_high_usd)
        table.add_row(cost.path, setup, _range(cost.monthly_low_usd, cost.monthly_high_usd), escape(cost.basis))
    console.print(table)
    _print_lines(console, "not sold", answer.not_sold)
    _print_lines(console, "the chapter", answer.corrections)
    _print_lines(console, "warning", answer.warnings)


def _range(low: float, high: float) -> str:
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _print_lines(console: Console, head: str, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(f"[dim]{head}:[/] {escape(line)}", soft_wrap=True)
