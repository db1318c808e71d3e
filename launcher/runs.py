"""The list of runs with what each reached, from their run folders; a broken folder is shown, not hidden."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import BadInput
from launcher.rundir import RunFolder, RunState, list_runs

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

METRICS = ("exact_match", "tool_accuracy", "parameter_f1", "validity", "execution_rate")
FROM_RECORD = ("id", "job", "group", "preset", "seed", "state", "started_at", "stop_reason", "error")
BROKEN = "broken"
STATE_STYLE = {
    "running": "cyan",
    "succeeded": "green",
    "stopped": "yellow",
    "failed": "red",
    "lost": "red",
    BROKEN: "red",
}
UNKNOWN = "–"  # never shown as zero


def list_run_rows(runs_dir: Path) -> list[dict[str, Any]]:
    """One row per run below `runs_dir`, oldest first, as JSON values.

    Keys: id, job, group, preset, seed, state, started_at, stop_reason, error, usd; `base` and `tuned` with METRICS on
    the extra test set, `base_small` and `tuned_small` on the plan's test set. What is not known is None. A folder that
    cannot be read has the state `broken` and says why in `error`.
    """
    return [_row(folder) for folder in [*list_runs(runs_dir), *_folders_without_record(runs_dir)]]


def _folders_without_record(runs_dir: Path) -> list[RunFolder]:
    """Run folders that lost their `run.json`, or were cut off before they had one."""
    if not runs_dir.is_dir():
        return []
    paths = sorted(path for path in runs_dir.iterdir() if (path / "checkpoints").is_dir())
    return [RunFolder(path) for path in paths if not (path / "run.json").is_file()]


def _row(folder: RunFolder) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys((*FROM_RECORD, "usd", "base", "tuned", "base_small", "tuned_small"))
    row["id"] = folder.id
    try:
        record = folder.read_record()
        row |= {key: getattr(record, key) for key in FROM_RECORD} | {"id": folder.id, "state": str(record.state)}
        row["usd"] = _number(_read_object(folder, folder.progress_file).get("usd"))
        if record.state.is_final and record.usd is not None:
            row["usd"] = _number(record.usd)
        evaluation = _read_object(folder, folder.evaluation_file)
    except (BadInput, OSError, ValueError) as fault:
        return row | {"state": BROKEN, "error": _reason(fault)}
    for model in ("base", "tuned"):
        row[model] = _metrics(evaluation, model, "extra_test")
        row[f"{model}_small"] = _metrics(evaluation, model, "test")
    return row


def _reason(fault: Exception) -> str:
    if isinstance(fault, OSError):
        return f"{fault.filename}: {fault.strerror}"
    return str(fault)


def _read_object(folder: RunFolder, path: Path) -> dict[str, Any]:
    """A JSON object of the run, empty where it was not written yet; ValueError where it is something else."""
    try:
        content = folder.read_json(path)
    except ValueError as fault:
        raise ValueError(f"{path}: not JSON ({fault})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def _metrics(evaluation: Mapping[str, Any], model: str, part: str) -> dict[str, float | None] | None:
    """The metrics of one part, or None where it was not evaluated."""
    content: Any = evaluation
    for key in (model, part, "metrics"):
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not content:
        return None
    entries = {name: content.get(name) for name in METRICS}
    return {name: _number(entry.get("value")) if isinstance(entry, dict) else None for name, entry in entries.items()}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def results_table(rows: Sequence[Mapping[str, Any]]) -> Group:
    """The rows of `list_run_rows` for a terminal of 80 columns: a table, and below it why runs did not finish."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("exact match", "tools", "F1", "small test", "usd"):
        table.add_column(name, justify="right", no_wrap=True)
    reasons = []
    for row in rows:
        style = STATE_STYLE.get(row["state"], "")
        table.add_row(
            Text(row["id"]),
            Text(row["state"], style),
            _gain(row["base"], row["tuned"], "exact_match"),
            _share(row["tuned"], "tool_accuracy"),
            _share(row["tuned"], "parameter_f1"),
            _gain(row["base_small"], row["tuned_small"], "exact_match"),
            UNKNOWN if row["usd"] is None else f"{row['usd']:.4f}",
        )
        reason = row["error"] or row["stop_reason"]
        if reason and row["state"] != RunState.SUCCEEDED:
            reasons.append(Text.assemble((f"{row['id']}: ", style), str(reason)))
    return Group(table, *reasons)


def _share(metrics: Mapping[str, float | None] | None, name: str) -> str:
    value = metrics.get(name) if metrics else None
    return UNKNOWN if value is None else f"{value:.2f}"


def _gain(base: Mapping[str, Any] | None, tuned: Mapping[str, Any] | None, name: str) -> Text:
    from rich.text import Text

    return Text.assemble((f"{_share(base, name)} → ", "dim"), (_share(tuned, name), "bold"))
