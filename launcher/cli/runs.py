"""Verbs on runs: `runs` lists them, `report` draws them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from launcher.cli.jobs import DEFAULT_RUNS_DIR, AsJson, RunsDir, wide_console
from launcher.rundir import RunFolder, group_members


def add_commands(app: typer.Typer) -> None:
    """Add this file's verbs to the command."""
    for verb in (runs, report):
        app.command()(verb)


def runs(runs_dir: RunsDir = DEFAULT_RUNS_DIR, as_json: AsJson = False) -> None:
    """List runs: state, spend, and exact match before and after tuning."""
    from launcher.runs import list_run_rows, results_table

    rows = list_run_rows(runs_dir)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        wide_console().print(results_table(rows))
    else:
        Console(stderr=True).print(f"no runs in {runs_dir.absolute()}", soft_wrap=True)


def report(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run ids, or ids of groups of runs.")],
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    out: Annotated[Path | None, typer.Option("--out", help="The HTML file to write; a .md goes beside it.")] = None,
) -> None:
    """Write report.html and report.md for one run or several side by side."""
    from launcher.report import write_report

    folders = [f for i in run_ids for f in group_members(runs_dir, i) or [RunFolder.open(runs_dir, i)]]
    path = write_report(folders, out)
    Console(highlight=False).print(f"report: {path}", soft_wrap=True)
