"""Run jobs on this machine: check everything, make the run folders, train all at once, report.

Nothing is written before every job has passed its checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher.cost.budget import BudgetGuard
from launcher.data.prepare import PreparedData, prepare_job, write_prepared
from launcher.errors import BadInput, LauncherError, Refused
from launcher.job import JobSpec
from launcher.jobparts import OWN_STACK
from launcher.models import weights_gib
from launcher.prediction import predict_here, write_predictions
from launcher.rundir import RunFolder, RunRecord, RunState, group_members, new_group_id, now_iso
from launcher.schedule import plan_schedule
from launcher.tokens import training_rows

Watch = Callable[[Sequence[RunFolder]], None]

# Beside the weights a local run holds activations, optimizer state and the libraries.
HOST_MEMORY_HEADROOM = 1.25


@dataclass(frozen=True)
class PlannedRun:
    """A job that passed every check that needs no model: what its run folder will hold."""

    spec: JobSpec
    data: PreparedData
    total_steps: int
    preset: str | None


def plan_run(spec: JobSpec, preset: str | None) -> PlannedRun:
    """Prepare a job's data and its schedule, and see whether the model fits this machine.

    Raises:
        BadInput: the data or the schedule cannot work.
        Refused: the model does not fit this machine's memory.
    """
    refuse_other_stack(spec)
    refuse_oversized_model(spec)
    data = prepare_job(spec)
    schedule = plan_schedule(training_rows(spec, data), spec.train, spec.early_stopping)
    return PlannedRun(spec, data, schedule.optimizer_steps, preset)


def refuse_other_stack(spec: JobSpec) -> None:
    """Raise BadInput when the job names a training program that is planned for here, but not run."""
    if spec.train.stack != OWN_STACK:
        raise BadInput(
            f"{spec.name}: train.stack: {spec.train.stack!r}: this launcher trains with its own; "
            "leave the field out to run the job"
        )


def refuse_oversized_model(spec: JobSpec) -> None:
    """Raise Refused when the weights alone would not fit the memory of this machine."""
    needed = weights_gib(spec.model.id, spec.method.kind, spec.train.precision)
    if needed is None:
        return
    total = psutil.virtual_memory().total / 2**30
    if needed * HOST_MEMORY_HEADROOM > total:
        raise Refused(
            f"{spec.name}: {spec.model.id} needs about {needed:.0f} GiB for its weights and this machine has "
            f"{total:.0f} GiB; try `--preset tiny` here, or rent a GPU"
        )


def create_runs(planned: Sequence[PlannedRun], runs_dir: Path, name: str | None) -> list[RunFolder]:
    """Make a run folder for every planned job; they share one group.

    Raises:
        BadInput: a folder of that name exists, or two jobs have the same name.
    """
    names = [plan.spec.name for plan in planned]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise BadInput(f"jobs: {', '.join(twice)} given more than once; a name may stand once in a group")
    group = name or new_group_id()
    wanted = [RunFolder(runs_dir / f"{n}-{group}") for n in names]
    faults = [folder.already_exists() for folder in wanted if folder.path.exists()]
    if faults:
        raise BadInput(*faults)
    folders = [_create_run(plan, runs_dir, group) for plan in planned]
    write_predictions(folders, predict_here([plan.spec for plan in planned]))
    return folders


def _create_run(plan: PlannedRun, runs_dir: Path, group: str) -> RunFolder:
    spec = plan.spec
    record = RunRecord(
        id=f"{spec.name}-{group}",
        job=spec.name,
        group=group,
        state=RunState.PLANNED,
        created_at=now_iso(),
        usd_per_hour=spec.resources.usd_per_hour,
        preset=plan.preset,
        seed=spec.train.seed,
        total_steps=plan.total_steps,
    )
    folder = RunFolder.create(runs_dir, record.id, record)
    folder.write_json(folder.spec_file, spec.resolved())
    write_prepared(plan.data, folder)
    return folder


def train_runs(folders: Sequence[RunFolder], watch: Watch, resume: bool = False) -> dict[str, str | None]:
    """Train all runs at once and return, for each run id, None or why it failed.

    Raises:
        KeyboardInterrupt: the user stopped them; all are saved and can be resumed.
    """
    from launcher.train.parallel import JobRequest, run_in_parallel

    requests = []
    for folder in folders:
        spec = folder.read_spec()
        folder.stop_file.unlink(missing_ok=True)
        requests.append(JobRequest(folder.path, spec.resources.gpus, resume))

    def ask_to_stop(reason: str) -> None:
        for folder in folders:
            folder.stop_file.write_text(reason, encoding="utf-8")

    outcomes: dict[Path, str | None] = {}
    try:
        outcomes = run_in_parallel(requests, folders[0].path, lambda: watch(folders), ask_to_stop)
    finally:
        for folder in folders:
            settle(folder, outcomes.get(folder.path))
    return {folder.id: folder.read_record().error for folder in folders}


def settle(folder: RunFolder, why_worker_died: str | None) -> None:
    """Give a run whose worker died without a word its final state."""
    record = folder.read_record()
    if record.state in (RunState.SUCCEEDED, RunState.STOPPED, RunState.FAILED):
        return
    deadline = folder.read_json(folder.deadline_file)
    if deadline is not None:
        folder.update_record(state=RunState.STOPPED, stop_reason=deadline["reason"], ended_at=now_iso())
    else:
        error = why_worker_died or "its process ended without a word"
        folder.update_record(state=RunState.FAILED, error=error, ended_at=now_iso())


def runs_to_resume(runs_dir: Path, run_or_group: str, max_usd: float | None = None) -> list[RunFolder]:
    """The unfinished runs named by a run id or a group id; `max_usd` replaces their cap.

    Raises:
        BadInput: there is no such run, or it is running, or it has nothing left to do.
        Refused: its cap or its deadline is used up.
    """
    folders = group_members(runs_dir, run_or_group) or [RunFolder.open(runs_dir, run_or_group)]
    resumable = []
    for folder in folders:
        record = folder.read_record()
        if not record.state.is_final and record.state != RunState.PLANNED:
            raise BadInput(f"run {folder.id}: is {record.state} under process {record.pid}; stop it first")
        if record.state != RunState.SUCCEEDED:
            resumable.append(folder)
    if not resumable:
        raise BadInput(f"run {run_or_group}: has done all its steps; there is nothing to resume")
    for folder in resumable:
        if max_usd is not None:
            raise_cap(folder, max_usd)
        elif (folder.read_record().stop_reason or "").startswith("budget"):
            raise Refused(f"run {folder.id}: its budget stopped it; `launcher resume --max-usd` raises the cap")
        refuse_used_up_budget(folder)
    return resumable


def raise_cap(folder: RunFolder, max_usd: float) -> None:
    """Give a run another cap for its next leg.

    Raises:
        BadInput: it is not a positive, finite number.
    """
    changed = folder.read_spec().resolved()
    changed["budget"]["max_usd"] = max_usd
    folder.write_json(folder.spec_file, JobSpec.from_resolved(changed, "--max-usd").resolved())


def refuse_used_up_budget(folder: RunFolder) -> None:
    """Raise Refused where the earlier legs of a run have used up its cap or its deadline."""
    spec, progress = folder.read_spec(), folder.read_json(folder.progress_file) or {}
    try:
        BudgetGuard(
            spec.resources.usd_per_hour,
            spec.budget.max_usd,
            spec.budget.deadline,
            spent_usd_before=progress.get("usd") or 0.0,
            elapsed_before_s=progress.get("elapsed_s") or 0.0,
        )
    except LauncherError as fault:
        raise Refused(f"run {folder.id}: {fault} (`launcher resume --max-usd` raises the cap)") from None
