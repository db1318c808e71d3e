"""Everything a run folder says, read without ever failing: what is missing is empty, what is broken becomes a note."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from launcher.errors import BadInput
from launcher.rundir import RunFolder, RunRecord

LOG_LINES = 25
MODELS = ("base", "tuned")
PARTS = ("extra_test", "test")


@dataclass(frozen=True)
class RunView:
    """One run as read. `predictions` is by (model, part); `notes` say what could not be read."""

    folder: RunFolder
    record: RunRecord | None
    spec: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluation: dict[str, Any]
    predictions: dict[tuple[str, str], list[dict[str, Any]]]
    progress: dict[str, Any]
    split: dict[str, Any]
    audit: dict[str, Any]
    environment: dict[str, Any]
    prediction: dict[str, Any]
    log_tail: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def job(self) -> str:
        return self.record.job if self.record else self.folder.id

    def scores(self, model: str, part: str) -> dict[str, Any]:
        """SCORES of one model on one part; empty where it was not evaluated."""
        content = self.evaluation.get(model)
        scores = content.get(part) if isinstance(content, dict) else None
        return scores if isinstance(scores, dict) else {}

    def metric(self, model: str, part: str, name: str) -> dict[str, float | None]:
        """`value`, `low` and `high` of one metric, each None where it is not known."""
        entry = self.scores(model, part).get("metrics", {}).get(name)
        entry = entry if isinstance(entry, dict) else {}
        return {key: number(entry.get(key)) for key in ("value", "low", "high")}

    def spec_value(self, *path: str) -> Any:
        """A value of the resolved job, None where the spec does not have it."""
        value: Any = self.spec
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def curve(self, kind: str) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl` of one kind by step; steps that a resume did over again count once, the later."""
        rows: list[dict[str, Any]] = []
        for row in self.metrics:
            if row.get("kind") == "resume":
                rows = [r for r in rows if r["step"] <= row.get("step", 0)]
            elif row.get("kind") == kind and isinstance(row.get("step"), int):
                rows.append(row)
        return rows

    @property
    def elapsed_s(self) -> float | None:
        """Paid seconds, across resumes; the time between start and end where no figure was written."""
        seen = [number(row.get("elapsed_s")) for row in [*self.metrics, self.progress]]
        known = [value for value in seen if value is not None]
        if known:
            return max(known)
        if self.record is None or self.record.started_at is None or self.record.ended_at is None:
            return None
        return (
            datetime.fromisoformat(self.record.ended_at) - datetime.fromisoformat(self.record.started_at)
        ).total_seconds()

    @property
    def usd(self) -> float | None:
        """Spend so far, from the record or the newest line written."""
        seen = [self.record.usd if self.record else None, *(row.get("usd") for row in [*self.metrics, self.progress])]
        known = [value for value in map(number, seen) if value is not None]
        return max(known, default=None)


def number(value: Any) -> float | None:
    """A finite number as it is, anything else as None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def read_run(folder: RunFolder) -> RunView:
    """Read a run folder, whatever state it is in."""
    notes: list[str] = []
    return RunView(
        folder=folder,
        record=_read_record(folder, notes),
        spec=_read_object(folder, folder.spec_file, notes),
        metrics=_objects_only(_read_lines(folder.metrics_file, notes)),
        evaluation=_read_object(folder, folder.evaluation_file, notes),
        predictions={
            (model, part): _objects_only(_read_lines(folder.predictions_dir / f"{model}-{part}.jsonl", notes))
            for model in MODELS
            for part in PARTS
        },
        progress=_read_object(folder, folder.progress_file, notes),
        split=_read_object(folder, folder.split_file, notes),
        audit=_read_object(folder, folder.audit_file, notes),
        environment=_read_object(folder, folder.environment_file, notes),
        prediction=_read_object(folder, folder.prediction_file, notes),
        log_tail=_tail(folder.log_file),
        notes=notes,
    )


def _read_record(folder: RunFolder, notes: list[str]) -> RunRecord | None:
    try:
        return folder.read_record()
    except (BadInput, OSError) as fault:
        notes.append(f"run.json cannot be read: {fault}")
        return None


def _read_object(folder: RunFolder, path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        content = folder.read_json(path)
    except (OSError, ValueError) as fault:
        notes.append(f"{path.name} cannot be read: {fault}")
        return {}
    if content is not None and not isinstance(content, dict):
        notes.append(f"{path.name} is not a JSON object")
        return {}
    return content or {}


def _read_lines(path: Path, notes: list[str]) -> Iterator[Any]:
    """The values of a JSON lines file; broken lines are left out and counted in a note."""
    if not path.is_file():
        return
    broken = 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError:
            broken += 1
    if broken:
        notes.append(f"{path.name}: {broken} line{'s' if broken > 1 else ''} cut off or broken, left out")


def _objects_only(values: Iterator[Any]) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)]


def _tail(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip() for line in deque(file, LOG_LINES)]
    except OSError:
        return []
