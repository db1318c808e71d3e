"""Check a job without training it: spec, schedule, data, and the masks of the real batches."""

from __future__ import annotations

from typing import Any

from launcher.data.prepare import prepare_job
from launcher.job import JobSpec
from launcher.schedule import plan_schedule
from launcher.tokens import training_rows


def check_job(spec: JobSpec, preset: str | None) -> dict[str, Any]:
    """Everything that can be known before the first step, as JSON values; `lines` says it in words.

    Raises:
        BadInput: the data or the schedule cannot work.
        Refused: the mask audit found that the job would not train what it should.
    """
    data = prepare_job(spec)
    schedule = plan_schedule(training_rows(spec, data), spec.train, spec.early_stopping)
    # The audit loads TRL: everything cheaper has passed by now.
    from launcher.train.audit_job import audit_job

    audit = audit_job(spec, data)
    parts = {name: len(getattr(data, name)) for name in ("train", "validation", "test", "extra_test")}
    shown = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in parts.items())
    lines = [
        f"{spec.name}: spec is well-formed" + (f" (preset {preset})" if preset else ""),
        f"data: {shown}; no phrasing stands in two parts",
        f"schedule: {schedule.optimizer_steps} optimizer steps, {schedule.evaluations} evaluations, "
        f"one every {schedule.eval_steps} steps",
        f"masks: {audit.rows_kept} of {audit.rows_given} rows kept, {audit.trained_share:.0%} of tokens trained, "
        f"{audit.trained_min} to {audit.trained_max} a row",
        *(f"note: {note}" for note in audit.notes),
        "nothing stands against it",
    ]
    return {"job": spec.name, "preset": preset, "examples": parts, "audit": audit.to_json(), "lines": lines}
