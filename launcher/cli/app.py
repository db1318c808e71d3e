"""The `launcher` command. The only place that catches `LauncherError`: one line a fault, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from launcher import __version__
from launcher.cli import account, business, cloud, data, fit, jobs, launch, offers, plan, runs, sandbox
from launcher.errors import LauncherError

app = typer.Typer(
    name="launcher",
    help="Fine-tune tool-calling models on rented GPUs, with the spend known before and bounded while it runs.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
jobs.add_commands(app)
runs.add_commands(app)
offers.add_commands(app)
fit.add_commands(app)
plan.add_commands(app)
launch.add_commands(app)
business.add_commands(app)
account.add_commands(app)
cloud.add_commands(app)
app.add_typer(data.app, name="data")
app.add_typer(sandbox.app, name="sandbox")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"launcher {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["LAUNCHER_DEBUG"] = "1"
    if context.invoked_subcommand not in cloud.RECONCILING and (line := cloud.overdue_line()):
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]rented:[/] {escape(line)}")


def main() -> None:
    """Run the command line and leave with its exit code: 0, 1 failed, 2 bad input, 3 refused, 130 interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; print its errors; return its exit code."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    command = typer.main.get_command(app)
    try:
        command.main(arguments, prog_name="launcher")
    except LauncherError as fault:
        if os.environ.get("LAUNCHER_DEBUG"):
            traceback.print_exc()
        for line in str(fault).splitlines():
            console.print(f"[bold red]error:[/] {escape(line)}")
        return fault.exit_code
    except SystemExit as done:  # typer has printed its own errors (exit code 2) and its help by now
        return done.code if isinstance(done.code, int) else int(bool(done.code))
    return 0
