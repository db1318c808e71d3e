"""The verb `settings`: what holds for every run, and where it comes from."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.table import Table

from launcher.cli.jobs import AsJson, wide_console


def add_commands(app: typer.Typer) -> None:
    """Add this file's verb to the command."""
    app.command()(settings)


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
