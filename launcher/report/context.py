"""What the report shows, worked out once for both its forms: plain values that the templates only lay out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.evaluate.bootstrap import Estimate, Ratio, paired_difference
from launcher.evaluate.targets import TargetRow, compare_with_targets
from launcher.report.estimates import estimate_table
from launcher.report.facts import FactTable, fact_table
from launcher.report.failures import FailureSummary, summarize_failures
from launcher.report.view import RunView

PART_TITLES = {"extra_test": "Extra test set", "test": "The plan's test examples"}
PART_NOTES = {
    "extra_test": "Many fills of phrasings that training never saw; used for no decision. The figures to go by.",
    "test": "The small held-out set of the plan: one example is several points, so read it with its interval.",
}


@dataclass(frozen=True)
class MetricKind:
    """A metric as shown: its form (share, rate, seconds, usd) and what it means."""

    name: str
    title: str
    form: str
    meaning: str


METRICS = (
    MetricKind("exact_match", "Exact match", "share", "the right tools in the right order with the right arguments"),
    MetricKind("tool_accuracy", "Tool accuracy", "share", "the right tools in the right order"),
    MetricKind("parameter_f1", "Parameter F1", "share", "over tool, key and value of every argument"),
    MetricKind("validity", "Validity", "share", "calls and nothing else, each accepted by its tool's schema"),
    MetricKind("execution_rate", "Execution rate", "share", "at least one call that would run, instead of prose"),
    MetricKind("tokens_per_second", "Tokens per second", "rate", "new tokens, batched generation"),
    MetricKind("time_to_first_token_s", "Time to first token", "seconds", "one prompt alone, median"),
    MetricKind("usd_per_million_tokens", "Cost of a million tokens", "usd", "new tokens, at the price of this machine"),
)


@dataclass(frozen=True)
class Cell:
    """Base against tuned for one metric of one run, each with `value`, `low`, `high`; `change` with its interval."""

    base: Mapping[str, float | None]
    tuned: Mapping[str, float | None]
    change: Estimate | None


@dataclass(frozen=True)
class PartTable:
    """One part of the data: a row per metric, a cell per run."""

    part: str
    title: str
    note: str
    sizes: tuple[str, ...]
    rows: tuple[tuple[MetricKind, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class ToolRow:
    """One tool of one run on the part by which the run is judged; None where a model was not evaluated."""

    tool: str
    examples: int
    base: Mapping[str, Any]
    tuned: Mapping[str, Any]


@dataclass(frozen=True)
class RunContext:
    """One run, ready to be laid out. `part` is the part by which it is judged, None where nothing was evaluated."""

    view: RunView
    part: str | None
    headline: str
    verdict: Cell | None
    targets: tuple[TargetRow, ...]
    tools: tuple[ToolRow, ...]
    failures: FailureSummary | None
    estimates: FactTable
    split: FactTable
    audit: FactTable
    environment: FactTable
    spec_json: str


def run_context(view: RunView) -> RunContext:
    """Work out everything the report says of one run."""
    part = next((p for p in PART_TITLES if view.scores("tuned", p).get("metrics")), None)
    part = part or next((p for p in PART_TITLES if view.scores("base", p).get("metrics")), None)
    tuned_rows = view.predictions[("tuned", part)] if part else []
    return RunContext(
        view=view,
        part=part,
        headline=_headline(view, part),
        verdict=_cell(view, part, "exact_match") if part else None,
        targets=tuple(
            compare_with_targets(view.scores("tuned", part) if part else {}, view.spec_value("targets") or {})
        ),
        tools=_tool_rows(view, part) if part else (),
        failures=summarize_failures(tuned_rows) if tuned_rows else None,
        estimates=estimate_table(view),
        split=fact_table(view.split),
        audit=fact_table(view.audit),
        environment=fact_table(view.environment),
        spec_json=json.dumps(view.spec, indent=2, ensure_ascii=False) if view.spec else "",
    )


def part_tables(views: Sequence[RunView]) -> list[PartTable]:
    """The result tables, one for each part that any run was evaluated on."""
    return [
        PartTable(
            part=part,
            title=PART_TITLES[part],
            note=PART_NOTES[part],
            sizes=tuple(_size(view, part) for view in views),
            rows=tuple((kind, tuple(_cell(view, part, kind.name) for view in views)) for kind in METRICS),
        )
        for part in PART_TITLES
        if any(view.scores(model, part).get("metrics") for view in views for model in ("base", "tuned"))
    ]


def _size(view: RunView, part: str) -> str:
    scores = view.scores("tuned", part) or view.scores("base", part)
    if not scores.get("examples"):
        return "not evaluated"
    return f"{scores['examples']} prompts of {scores.get('templates', '?')} phrasings"


def _cell(view: RunView, part: str, name: str) -> Cell:
    base, tuned = view.metric("base", part, name), view.metric("tuned", part, name)
    return Cell(base, tuned, _change(view, part, name, base["value"], tuned["value"]))


def _change(view: RunView, part: str, name: str, base: float | None, tuned: float | None) -> Estimate | None:
    """Tuned minus base, with an interval where the predictions of both say which prompts each got right."""
    if base is None or tuned is None:
        return None
    rows = {row.get("id"): row for row in view.predictions[("base", part)]}
    pairs = [(rows[row.get("id")], row) for row in view.predictions[("tuned", part)] if row.get("id") in rows]
    if not pairs or not all(name in one and name in other for one, other in pairs):
        return Estimate(tuned - base, None, None)
    ones = [1.0] * len(pairs)
    before: Ratio = ([float(one[name]) for one, _ in pairs], ones)
    after: Ratio = ([float(other[name]) for _, other in pairs], ones)
    templates = [str(other.get("template")) for _, other in pairs]
    samples = view.spec_value("evaluate", "bootstrap_samples") or 2000
    change = paired_difference(before, after, templates, samples, view.spec_value("data", "seed") or 0)
    return Estimate(tuned - base, change.low, change.high)


def _headline(view: RunView, part: str | None) -> str:
    """One sentence: what tuning did to the metric that counts."""
    if part is None:
        return "Not evaluated."
    base, tuned = (view.metric(model, part, "exact_match") for model in ("base", "tuned"))
    examples = (view.scores("tuned", part) or view.scores("base", part)).get("examples")
    prompts = f"of {examples} prompts in phrasings that training never saw"
    if tuned["value"] is None:
        return f"The base is exactly right on {_percent(base['value'])} {prompts}; the tuned model was not evaluated."
    span = f" (95 % interval {_percent(tuned['low'])} to {_percent(tuned['high'])})" if tuned["low"] is not None else ""
    before = f"; the base on {_percent(base['value'])}" if base["value"] is not None else ""
    return f"Exactly right on {_percent(tuned['value'])} {prompts}{span}{before}."


def _percent(value: float | None) -> str:
    return "an unknown share" if value is None else f"{value * 100:.0f} %"


def _tool_rows(view: RunView, part: str) -> tuple[ToolRow, ...]:
    base, tuned = (view.scores(model, part).get("per_tool", {}) for model in ("base", "tuned"))
    return tuple(
        ToolRow(tool, (tuned.get(tool) or base[tool]).get("examples", 0), base.get(tool, {}), tuned.get(tool, {}))
        for tool in {**tuned, **base}
    )
