"""What `launcher show` prints: a job with everything it inherits, its schedule, and what a preset overrides.

The text is YAML that `launcher` reads again; all that is not a field of the job stands in comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.data.prepare import prepare_job
from launcher.errors import BadInput
from launcher.job import JobSpec, load_job
from launcher.presets import flatten, load_preset
from launcher.schedule import Schedule, plan_schedule

_PLAIN = re.compile(r"[A-Za-z/][\w./:-]*(?<!:)|[\dhms.]*\d[hms]|[\d.]+GiB")
_NOT_TEXT = ("true", "false", "null")
_MARK_COLUMN = 48


def describe_job(path: Path, preset: str | None = None, train_examples: int | None = None) -> dict[str, Any]:
    """The resolved job as plain JSON values: spec, overridden fields, the effective system prompt, the schedule.

    Args:
        path: the job file.
        preset: a preset's name or file.
        train_examples: the number of training examples; counted from the job's data unless given. Where the data is
            not there yet, `schedule` is None and `schedule_note` says why.

    Raises:
        BadInput: the job has faults, or its schedule cannot work.
    """
    spec = load_job(path, preset)
    note = None
    if train_examples is None:
        train_examples, note = _count_train_examples(spec)
    return {
        "job": str(path),
        "preset": preset,
        "spec": spec.resolved(),
        "overridden": _overridden(path, preset),
        "system_prompt": spec.system_prompt_text(),
        "train_examples": train_examples,
        "schedule": None if train_examples is None else describe_schedule(_schedule(path, spec, train_examples)),
        "schedule_note": note,
    }


def render_job(path: Path, preset: str | None = None, train_examples: int | None = None) -> str:
    """The same as `describe_job`, as YAML for people: each overridden field says what it was."""
    job = describe_job(path, preset, train_examples)
    title = job["job"] + (f" with preset {preset}" if preset else "")
    lines = [f"# {title}", *_section_lines(job["spec"], _marks(job), job["system_prompt"]), "", *_schedule_lines(job)]
    return "\n".join(lines)


def describe_schedule(schedule: Schedule) -> dict[str, Any]:
    """A schedule as plain JSON values, with the steps of its evaluations and saves."""
    return {
        "optimizer_steps": schedule.optimizer_steps,
        "steps_per_epoch": schedule.steps_per_epoch,
        "effective_batch": schedule.effective_batch,
        "warmup_steps": schedule.warmup_steps,
        "eval_steps": schedule.eval_steps,
        "save_steps": schedule.save_steps,
        "evaluations": schedule.evaluations,
        "evaluation_points": schedule.evaluation_points,
        "save_points": schedule.save_points,
        "patience_from_step": schedule.patience_from_step,
    }


def _schedule(path: Path, spec: JobSpec, train_examples: int) -> Schedule:
    try:
        return plan_schedule(train_examples, spec.train, spec.early_stopping)
    except BadInput as fault:
        raise BadInput(*(f"{path}: {line}" for line in fault.faults)) from None


def _count_train_examples(spec: JobSpec) -> tuple[int | None, str | None]:
    """How many examples the job trains on, or why nobody can tell yet: a job may be written before its data."""
    source = spec.data.source
    if source.startswith("builtin:"):
        return len(prepare_job(spec).train), None
    if not Path(source).exists():
        return None, f"not known before the data is there: {source} does not exist"
    try:
        return len(prepare_job(spec).train), None
    except BadInput as fault:
        return None, f"not known before the data can be read: {fault.faults[0]}"


def _overridden(path: Path, preset: str | None) -> dict[str, dict[str, Any]]:
    if preset is None:
        return {}
    before, after = dict(flatten(load_job(path).resolved())), dict(flatten(load_job(path, preset).resolved()))
    return {key: {"was": before[key], "now": after[key]} for key, _ in flatten(load_preset(preset).overrides)}


def _marks(job: Mapping[str, Any]) -> dict[str, str]:
    def mark(change: Mapping[str, Any]) -> str:
        same = change["was"] == change["now"]
        return f"preset {job['preset']}: " + ("the same in the job" if same else f"was {_scalar(change['was'])}")

    return _unused(job["spec"]) | {path: mark(change) for path, change in job["overridden"].items()}


def _unused(spec: Mapping[str, Any]) -> dict[str, str]:
    """The fields that another field makes void, with the reason."""
    unused = {}
    if spec["train"]["batch"] == "max":
        unused["train.accumulation"] = "not used: global_batch / the micro-batch found"
    if spec["train"]["max_steps"] is not None:
        unused["train.epochs"] = "not used: max_steps counts"
    if spec["method"]["kind"] == "full":
        unused |= {f"method.{field}": "not used by full" for field in ("r", "alpha", "dropout", "target_modules")}
    return unused


def _section_lines(
    section: Mapping[str, Any], marks: Mapping[str, str], prompt: str | None, prefix: str = ""
) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in section.items():
        path = prefix + key
        if path == "data.system_prompt.text" and section["file"] is not None:
            # The file is what the job names; its text is shown as the model gets it, and is no second source.
            yield from (f"{indent}#   {line}".rstrip() for line in (prompt or "").splitlines())
        elif isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _section_lines(value, marks, prompt, f"{path}.")
        else:
            line = f"{indent}{key}: {_scalar(value)}"
            yield f"{line:<{_MARK_COLUMN}}  # {marks[path]}" if path in marks else line


def _scalar(value: Any) -> str:
    """A value as YAML 1.2 on one line."""
    if isinstance(value, list):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)


def _schedule_lines(job: Mapping[str, Any]) -> Iterator[str]:
    schedule = job["schedule"]
    if schedule is None:
        yield f"# schedule: {job['schedule_note']}"
        return
    train, stopping = job["spec"]["train"], job["spec"]["early_stopping"]
    length = f"max_steps {train['max_steps']}" if train["max_steps"] else f"{train['epochs']:g} epochs"
    yield (
        f"# schedule: {schedule['optimizer_steps']} optimizer steps ({job['train_examples']} training examples, "
        f"effective batch {schedule['effective_batch']}, {schedule['steps_per_epoch']} steps an epoch, {length})"
    )
    yield f"#   warm-up: {schedule['warmup_steps']} steps"
    for what, interval, points in (
        ("evaluations", schedule["eval_steps"], schedule["evaluation_points"]),
        ("saves", schedule["save_steps"], schedule["save_points"]),
    ):
        yield f"#   {what}: {len(points)}, every {interval} steps and at the end: {_shorten(points)}"
    if stopping["patience"] is not None:
        waits = f", from step {schedule['patience_from_step']} on" if schedule["patience_from_step"] else ""
        yield f"#   patience: {stopping['patience']} evaluations without a gain above {stopping['threshold']:g}{waits}"


def _shorten(points: list[int]) -> str:
    shown = [str(point) for point in points]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:6], "...", *shown[-2:]])
