"""Verbs on data: `data generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from launcher.cli.jobs import AsJson, wide_console
from launcher.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Tool-call data: make it, look at it.")


@app.callback()
def _data() -> None:
    """Keep `generate` a verb of its own while it is the only one."""


@app.command()
def generate(
    out: Annotated[Path | None, typer.Option("--out", help="Folder for examples.jsonl and extra_test.jsonl.")] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Data seed: which phrasings are held out, which values.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Make the specialists plan's 854 examples, and say how far their test phrasings are from training."""
    from launcher.data.generator import generate_report, write_generated

    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise BadInput(f"{out}: exists and is not an empty folder; choose another --out")
        write_generated(seed, out)
    report = generate_report(seed)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(report, out)


def _print(report: dict[str, object], out: Path | None) -> None:
    console = wide_console()
    for name, value in report.items():
        if isinstance(value, dict):
            table = Table(title=name.replace("_", " "), title_justify="left", box=None, show_header=False)
            for key, entry in value.items():
                table.add_row(str(key), _shown(entry))
            console.print(table)
        elif not isinstance(value, list):
            console.print(f"{name.replace('_', ' ')}: {value}")
    if out is not None:
        console.print(f"written to {out}", soft_wrap=True)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {entry}" for key, entry in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)
