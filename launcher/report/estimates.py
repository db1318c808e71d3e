"""What a run was thought to take and what it took: predicted by its plan, re-estimated from its first steps, final."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.report import formats
from launcher.report.facts import FactTable
from launcher.report.view import RunView, number


def estimate_table(view: RunView) -> FactTable:
    """A row for each estimate there is, and the final figures; without any estimate the table is empty."""
    estimates = [*_predicted(view), *_reestimated(view)]
    if not estimates:
        return FactTable((), (), ())
    final = ("final", (formats.seconds(view.elapsed_s), formats.usd(view.usd))) if _has_ended(view) else None
    return FactTable(_facts(view), ("time", "cost"), (*estimates, *([] if final is None else [final])))


def _predicted(view: RunView) -> list[tuple[str, tuple[str, str]]]:
    hours, usd = (_object(view.prediction.get(name)) for name in ("hours", "usd"))
    seconds = {p: value * 3600 for p, value in hours.items() if number(value) is not None}
    if not seconds:
        return []
    return [("predicted by the plan", (_range(seconds, formats.seconds), _range(usd, formats.usd)))]


def _reestimated(view: RunView) -> list[tuple[str, tuple[str, str]]]:
    """One row for each leg of the run that was long enough to be measured."""
    return [
        (
            f"re-estimated at step {row['step']}",
            (_range(_object(row.get("total_s")), formats.seconds), _range(_object(row.get("total_usd")), formats.usd)),
        )
        for row in view.curve("calibration")
    ]


def _facts(view: RunView) -> tuple[tuple[str, str], ...]:
    """The speed that was measured, and how far off the re-estimate was."""
    facts = []
    measured, errors = view.curve("calibration"), view.curve("calibration_error")
    if measured:
        row = measured[-1]
        speed, steps = formats.rate(number(row.get("tokens_per_second_per_gpu"))), row.get("steps_measured")
        facts.append(("tokens per second with padding", f"{speed}, over {steps} steps"))
        peak = number(row.get("peak_reserved_gib"))
        if peak is not None:
            facts.append(("memory reserved at most", f"{peak:.1f} GiB"))
    for name, title in (("training", "error of the re-estimate, steps alone"), ("total", "error of the re-estimate")):
        error = _object(errors[-1].get(name)) if errors else {}
        share = number(error.get("error"))
        if share is not None:
            where = "inside" if error.get("is_inside") else "outside"
            facts.append((title, f"{share:+.1%}, {where} its 10th to 90th percentile".replace("-", "−")))
    return tuple(facts)


def _has_ended(view: RunView) -> bool:
    return view.record is not None and view.record.state.is_final


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _range(quantiles: Mapping[str, Any], form: Any) -> str:
    """`median (10th to 90th percentile)`."""
    low, mid, high = (number(quantiles.get(p)) for p in ("p10", "p50", "p90"))
    return formats.UNKNOWN if mid is None else f"{form(mid)} ({form(low)} to {form(high)})"
