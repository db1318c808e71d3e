"""Verbs on job files: `show`, `check`, `run`, `resume`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from launcher.cli.live import watching
from launcher.cli.show import describe_job, render_job
from launcher.errors import BadInput, Interrupted, LauncherError
from launcher.job import JobSpec, load_job
from launcher.rundir import RunFolder, RunState

DEFAULT_RUNS_DIR = Path("runs")
LOCAL_PRESET = "tiny"
PIPE_WIDTH = 120

Job = Annotated[Path, typer.Argument(metavar="JOB", help="A job file, such as jobs/veran-tools.yaml.")]
Jobs = Annotated[list[Path], typer.Argument(metavar="JOB...", help="Job files, such as jobs/veran-tools.yaml.")]
Preset = Annotated[str | None, typer.Option("--preset", help="Named overrides for another ground: tiny, or a file.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where run folders lie.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else there.")]


def add_commands(app: typer.Typer) -> None:
    """Add this file's verbs to the command."""
    for verb in (show, check, run, resume):
        app.command()(verb)


def show(job: Job, preset: Preset = None, as_json: AsJson = False) -> None:
    """Print a job with everything it inherits, its schedule, and what a preset overrides."""
    if as_json:
        typer.echo(json.dumps(describe_job(job, preset), indent=2))
    else:
        Console(soft_wrap=True).print(render_job(job, preset), highlight=False, markup=False)


def check(job: Job, preset: Preset = None, as_json: AsJson = False) -> None:
    """Check a job without training: the spec, the data, the schedule, and what would be trained on."""
    from launcher.check import check_job

    report = check_job(load_job(job, preset), preset)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    for line in report["lines"]:
        console.print(line, markup=False)


def run(
    job: Jobs,
    local: Annotated[bool, typer.Option("--local", help="On this machine (renting is a verb of its own).")] = False,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Named overrides; `none` for the job as written.")
    ] = LOCAL_PRESET,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of this group of runs; a time stamp if left out.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Training seed, in place of the job's.")] = None,
    data_seed: Annotated[
        int | None, typer.Option("--data-seed", min=0, help="Data seed, in place of the job's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune one job or several at once, evaluate base and tuned, and write a report."""
    if not local:
        raise BadInput("run: add --local to train on this machine")
    from launcher.run import create_runs, plan_run

    chosen = None if preset in (None, "none") else preset
    specs = [spec.with_seeds(train=seed, data=data_seed) for spec in load_all(job, chosen)]
    folders = create_runs([plan_run(spec, chosen) for spec in specs], runs_dir, name)
    _train_and_report(folders, resuming=False, as_json=as_json)


def resume(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or the id of a group of runs.")],
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    max_usd: Annotated[
        float | None, typer.Option("--max-usd", help="Another cap for each run, what it has cost so far included.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Continue stopped, failed or lost runs from their newest complete checkpoint."""
    from launcher.run import runs_to_resume

    _train_and_report(runs_to_resume(runs_dir, run_id, max_usd), resuming=True, as_json=as_json)


def wide_console(stderr: bool = False, width: int = PIPE_WIDTH) -> Console:
    """A console whose tables keep all their columns, within `width`, where the output is a file or a pipe."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=width)


def load_all(jobs: Sequence[Path], preset: str | None) -> list[JobSpec]:
    """Load every job file, and report the faults of all of them together."""
    specs, faults = [], []
    for path in jobs:
        try:
            specs.append(load_job(path, preset))
        except BadInput as fault:
            faults += fault.faults
    if faults:
        raise BadInput(*faults)
    return specs


def _train_and_report(folders: Sequence[RunFolder], resuming: bool, as_json: bool) -> None:
    from launcher.report import write_report
    from launcher.run import train_runs
    from launcher.runs import list_run_rows, results_table

    console = wide_console(stderr=as_json)
    console.print(f"runs: {', '.join(folder.id for folder in folders)}", soft_wrap=True)
    interrupted = False
    with watching(console) as watch:
        try:
            train_runs(folders, watch, resume=resuming)
        except KeyboardInterrupt:
            interrupted = True
    records = [folder.read_record() for folder in folders]
    report = write_report(list(folders), None)
    rows = [row for row in list_run_rows(folders[0].path.parent) if row["id"] in {f.id for f in folders}]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        console.print(results_table(rows))
        console.print(f"report: {report}", soft_wrap=True)
    if interrupted:
        group = records[0].group
        raise Interrupted(f"stopped and saved; go on with `launcher resume {group}`")
    failed = [record for record in records if record.state == RunState.FAILED]
    if failed:
        raise LauncherError("\n".join(f"{record.id}: {record.error}" for record in failed))
