"""The run folder: one execution of one job, and every path in it. The folder is the record of the run."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from filelock import FileLock, Timeout

from launcher.errors import BadInput

if TYPE_CHECKING:
    from launcher.job import JobSpec

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunState(StrEnum):
    """Where a run stands. `stopped` has a `stop_reason`; `lost` means its process is gone without a word."""

    PLANNED = "planned"
    PROVISIONING = "provisioning"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.STOPPED, RunState.FAILED, RunState.LOST)


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` holds. Times are ISO 8601 in UTC, money in US dollars."""

    id: str
    job: str
    group: str
    state: RunState
    created_at: str
    started_at: str | None = None
    ended_at: str | None = None
    stop_reason: str | None = None
    error: str | None = None
    usd: float | None = None
    usd_per_hour: float | None = None
    preset: str | None = None
    seed: int | None = None
    step: int = 0
    total_steps: int | None = None
    best_step: int | None = None
    cpu_seconds: float | None = None
    wandb_id: str | None = None
    pid: int | None = None
    pid_created_at: float | None = None
    host: str | None = None  # where that process runs; None: here


def now_iso() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_group_id() -> str:
    """An id for jobs started together; sorts by time and does not collide: `20260108-120000-3fa2`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a part; fsynced before it is named.

    Raises:
        OSError: the disk is full or the folder is gone; the old file is untouched and no temporary file is left.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it unreadable for others, and reports are shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class RunFolder:
    """Every path of one run, and the reading and writing of its small JSON files."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.id = path.name
        self.record_file = self.path / "run.json"
        self.spec_file = self.path / "spec.json"
        self.split_file = self.path / "split.json"
        self.environment_file = self.path / "environment.json"
        self.log_file = self.path / "log.txt"
        self.metrics_file = self.path / "metrics.jsonl"
        self.progress_file = self.path / "progress.json"
        self.evaluation_file = self.path / "evaluation.json"
        self.prediction_file = self.path / "prediction.json"
        self.audit_file = self.path / "mask_audit.json"
        self.ledger_file = self.path / "ledger.jsonl"
        self.report_file = self.path / "report.html"
        self.summary_file = self.path / "report.md"
        self.stop_file = self.path / "stop-requested"
        self.deadline_file = self.path / "deadline.json"
        self.data_dir = self.path / "data"
        self.adapter_dir = self.path / "adapter"
        self.checkpoints_dir = self.path / "checkpoints"
        self.predictions_dir = self.path / "predictions"
        self.wandb_dir = self.path

    @classmethod
    def create(cls, runs_dir: Path, run_id: str, record: RunRecord) -> RunFolder:
        """Make a new, empty run folder.

        Raises:
            BadInput: the id is not a plain name, or a folder of that name exists.
        """
        if not RUN_ID.fullmatch(run_id):
            raise BadInput(f"run id {run_id!r}: letters, digits, '.', '_' and '-' only, 100 at most")
        folder = cls(runs_dir / run_id)
        try:
            folder.path.mkdir(parents=True)
        except FileExistsError:
            raise BadInput(folder.already_exists()) from None
        for part in (folder.data_dir, folder.checkpoints_dir, folder.predictions_dir):
            part.mkdir()
        folder.write_record(record)
        return folder

    @classmethod
    def open(cls, runs_dir: Path, run_id: str) -> RunFolder:
        """Find the folder of a run by its id.

        Raises:
            BadInput: there is no such run.
        """
        folder = cls(runs_dir / run_id)
        if not RUN_ID.fullmatch(run_id) or not folder.record_file.is_file():
            known = sorted(f.id for f in list_runs(runs_dir))
            hint = f"runs there: {', '.join(known[-5:])}" if known else "there are no runs there"
            raise BadInput(f"run {run_id!r}: not found in {runs_dir.absolute()}; {hint}")
        return folder

    def already_exists(self) -> str:
        """What to tell somebody who wants to make this run anew."""
        ways_out = f"continue it with `launcher resume {self.id}`, choose another --name, or delete the folder"
        return f"{self.path}: exists already; {ways_out}"

    def read_record(self) -> RunRecord:
        """The record as last written, with `lost` in place of an active state whose process here is gone."""
        fields = {f.name for f in dataclasses.fields(RunRecord)}
        try:
            raw = json.loads(self.record_file.read_text(encoding="utf-8"))
            record = RunRecord(**{k: v for k, v in raw.items() if k in fields} | {"state": RunState(raw["state"])})
        except (ValueError, TypeError, KeyError, AttributeError) as fault:
            raise BadInput(f"{self.record_file}: not a run record ({fault})") from None
        is_here = record.host in (None, platform.node())
        if is_here and record.pid is not None and not record.state.is_final and not self._is_alive(record):
            return dataclasses.replace(record, state=RunState.LOST)
        return record

    def read_spec(self) -> JobSpec:
        """The resolved spec the run was started with.

        Raises:
            BadInput: it is missing or damaged.
        """
        from launcher.job import JobSpec  # pydantic, which most readers of run folders do not need

        raw = self.read_json(self.spec_file)
        if raw is None:
            raise BadInput(f"{self.spec_file}: missing; the run was never started properly, start a new one")
        return JobSpec.from_resolved(raw, str(self.spec_file))

    def write_record(self, record: RunRecord) -> None:
        write_atomically(self.record_file, json.dumps(dataclasses.asdict(record), indent=2) + "\n")

    def update_record(self, **changes: Any) -> RunRecord:
        """Change some fields of the record and write it back."""
        record = dataclasses.replace(self.read_record(), **changes)
        self.write_record(record)
        return record

    def claim(self) -> FileLock:
        """Take the run for this process, so that two cannot write one run.

        Raises:
            BadInput: another living process holds it.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise BadInput(f"run {self.id}: another process is working on it; wait for it, or stop it first") from None
        return lock

    def read_json(self, path: Path) -> Any | None:
        """The content of one of the run's JSON files, or None where it was not written yet."""
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def write_json(self, path: Path, value: Any) -> None:
        write_atomically(path, json.dumps(value, indent=2, sort_keys=False) + "\n")

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to `metrics.jsonl`; `row["kind"]` is train, eval or stop (see docs/structure.md)."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of `metrics.jsonl`; a last line cut off by a crash is left out."""
        if not self.metrics_file.is_file():
            return []
        rows = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def drop_metrics_after(self, step: int) -> None:
        """Forget the figures of steps a resumed run will do again, so that no step stands there twice."""
        kept = [row for row in self.read_metrics() if row["step"] <= step and row["kind"] != "stop"]
        write_atomically(self.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))

    @staticmethod
    def _is_alive(record: RunRecord) -> bool:
        try:
            process = psutil.Process(record.pid)
        except psutil.NoSuchProcess:
            return False
        # A reused process id belongs to a later process.
        return record.pid_created_at is None or abs(process.create_time() - record.pid_created_at) < 1.0


def list_runs(runs_dir: Path) -> Iterator[RunFolder]:
    """Every run folder below `runs_dir`, by the time in its name where it has one, then by name."""
    if not runs_dir.is_dir():
        return
    folders = [RunFolder(p) for p in runs_dir.iterdir() if (p / "run.json").is_file()]
    yield from sorted(folders, key=lambda folder: (folder.path.stat().st_ctime, folder.id))


def group_members(runs_dir: Path, group: str) -> list[RunFolder]:
    """The runs of a group; folders with a damaged record belong to none."""
    members = []
    for folder in list_runs(runs_dir):
        try:
            if folder.read_record().group == group:
                members.append(folder)
        except BadInput:
            continue
    return members
