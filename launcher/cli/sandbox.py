"""The verbs below `sandbox`: rehearse launches against emulated providers, for nothing."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.cli.jobs import AsJson, wide_console
from launcher.errors import Refused

app = typer.Typer(
    no_args_is_help=True, help="Emulated Lambda, RunPod and vast.ai with real local hosts: launch for nothing."
)
NetworkNumber = Annotated[
    int, typer.Option("--network", min=0, max=255, help="N of 10.78.N.0/24; two sandboxes need different ones.")
]


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Name what this machine lacks for sandbox hosts, and the line that installs it."""
    from launcher.sandbox.doctor import apt_line, missing

    lacking = missing()
    line = apt_line(lacking)
    if as_json:
        typer.echo(json.dumps({"missing": [need.what for need in lacking], "apt": line}))
    else:
        for need in lacking:
            typer.echo(f"missing: {need.what}: {need.remedy}")
        typer.echo(line or ("everything is there" if not lacking else "nothing of it comes from apt"))
    if lacking:
        raise typer.Exit(Refused.exit_code)


@app.command()
def up(network: NetworkNumber = 0) -> None:
    """Start the sandbox; the first time its image is built (about 90 s)."""
    from launcher.sandbox.sandbox import Sandbox

    console = Console(stderr=True, highlight=False)
    url = Sandbox().up(network, lambda text: console.print(f"sandbox: {escape(text)}", soft_wrap=True))
    console.print(f'sandbox: up at {url}; enter it with: eval "$(launcher sandbox env)"', soft_wrap=True)


@app.command()
def down() -> None:
    """End it: hosts, network, SkyPilot's processes in it. The image stays."""
    from launcher.sandbox.sandbox import Sandbox

    left = Sandbox().down()
    if left:
        raise Refused(f"sandbox: still there: {', '.join(left)}")
    Console(stderr=True).print("sandbox: down, nothing left")


@app.command()
def env() -> None:
    """Print what puts a shell into the sandbox, for eval. Leave it by leaving the shell."""
    from launcher.sandbox.home import as_shell
    from launcher.sandbox.sandbox import Sandbox

    typer.echo(as_shell(Sandbox().variables()))


@app.command()
def status(as_json: AsJson = False) -> None:
    """List what is rented, with its hosts, and the faults still to come."""
    from launcher.sandbox.sandbox import Sandbox

    state = Sandbox().ask("status")
    if as_json:
        typer.echo(json.dumps(state, indent=2))
        return
    columns = ("provider", "name", "instance_type", "state", "is_alive", "ip", "usd_per_hour", "usd")
    wide_console().print(_table(state["instances"], columns) if state["instances"] else "nothing is rented")
    for fault in state["faults"]:
        typer.echo(f"to come: {fault['provider']} {fault['op']} {fault['how']}, {fault['times']} times")


@app.command()
def invoice(as_json: AsJson = False) -> None:
    """Print what the emulated providers charge so far."""
    from launcher.sandbox.sandbox import Sandbox

    charged = Sandbox().ask("invoice")
    if as_json:
        typer.echo(json.dumps(charged, indent=2))
        return
    if charged["lines"]:
        columns = ("provider", "name", "instance_type", "kind", "usd_per_hour", "seconds", "usd")
        wide_console().print(_table(charged["lines"], columns))
    typer.echo(f"total: ${charged['total_usd']:.6f}")


@app.command()
def fault(
    op: Annotated[Literal["create", "terminate", "list", "price"], typer.Argument(help="The operation it spoils.")],
    how: Annotated[str, typer.Argument(help="capacity, 429, 500, reset, lost, late, stuck, slow, wrong_gpu, ...")],
    provider: Annotated[str, typer.Option("--provider", help="vast, lambda or runpod; any.")] = "*",
    times: Annotated[int, typer.Option("--times", min=1, help="How often.")] = 1,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0, help="Of a late or slow one.")] = None,
    factor: Annotated[float | None, typer.Option("--factor", help="Of a price that goes up.")] = None,
) -> None:
    """Let something go wrong, the next time it can (docs/sandbox.md)."""
    from launcher.sandbox.sandbox import Sandbox

    body: dict[str, Any] = {"op": op, "how": how, "provider": provider, "times": times}
    body |= {key: value for key, value in (("seconds", seconds), ("factor", factor)) if value is not None}
    Sandbox().add_fault(body)


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(_shown(row.get(column))) for column in columns))
    return table


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)
