"""The verbs `settings`, what holds for every run, and `doctor`, whether anything stands against renting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.markup import escape
from rich.table import Table

from launcher.cli.jobs import DEFAULT_RUNS_DIR, AsJson, Preset, RunsDir, load_all, wide_console
from launcher.cost.offer import RENTED, Provider
from launcher.errors import BadInput, Refused
from launcher.faults import printable
from launcher.units import parse_usd

_STYLE = {"ok": "green", "note": "yellow", "fault": "bold red", "not checked": "dim"}
_FILE_WIDTH = 200  # of a table in a file or a pipe: nothing is cut off


def add_commands(app: typer.Typer) -> None:
    """Add this file's verbs to the command."""
    for verb in (settings, doctor):
        app.command()(verb)


def doctor(
    job: Annotated[
        list[Path] | None, typer.Argument(metavar="JOB...", help="Job files: their base models and caps are checked.")
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help=f"Only this: {', '.join(RENTED)}; several times.")
    ] = None,
    max_usd: Annotated[
        str | None, typer.Option("--max-usd", help="Worst case in US dollars; the jobs' caps together if left out.")
    ] = None,
    preset: Preset = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check keys, balance, quotas, limits, this machine, and access to base models, before anything is rented."""
    from launcher.doctor import Occasion, examine, faults
    from launcher.settings import load_settings

    unknown = [name for name in provider or [] if name not in RENTED]
    if unknown:
        raise BadInput(*(f"--provider: {name!r}: one of {', '.join(RENTED)} is needed" for name in unknown))
    specs, chosen = load_all(job or [], preset), load_settings()
    occasion = Occasion(
        providers=tuple(cast(Provider, name) for name in dict.fromkeys(provider or chosen.providers)),
        models=tuple((spec.model.id, spec.model.revision) for spec in specs),
        worst_case_usd=_worst_case(max_usd, [spec.budget.max_usd for spec in specs]),
        runs_dir=runs_dir,
    )
    findings = examine(occasion, chosen, offline)
    against = faults(findings)
    if as_json:
        answer = {"findings": [finding.to_json() for finding in findings], "faults": len(against)}
        typer.echo(json.dumps(answer, indent=2))
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        for _ in range(2):
            table.add_column(overflow="fold")
        for finding in findings:
            verdict = f"[{_STYLE[finding.verdict]}]{finding.verdict}[/]"
            table.add_row(verdict, *(escape(printable(text)) for text in (finding.subject, finding.detail)))
        wide_console(width=_FILE_WIDTH).print(table)
    if against:
        raise Refused("\n".join(printable(line) for line in against))


def _worst_case(max_usd: str | None, caps: list[float]) -> float | None:
    if max_usd is not None:
        try:
            return parse_usd(max_usd)
        except ValueError as fault:
            raise BadInput(f"--max-usd: {max_usd!r}: {fault}") from None
    return sum(caps) if caps else None


def settings(as_json: AsJson = False) -> None:
    """Show the settings in force, and which of them the settings file states."""
    from launcher.settings import in_force, load_settings, settings_file

    path = settings_file()
    found = in_force(load_settings())
    if as_json:
        values = {setting.name: {"value": setting.value, "source": setting.source} for setting in found}
        typer.echo(json.dumps({"file": str(path), "exists": path.exists(), "settings": values}, indent=2))
        return
    console = wide_console()
    console.print(f"settings: {path}" + ("" if path.exists() else " (not there: defaults)"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for setting in found:
        table.add_row(setting.name, _shown(setting.value), setting.source)
    console.print(table)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) if value else "none"
    return "no limit" if value is None else f"{value:g}"
