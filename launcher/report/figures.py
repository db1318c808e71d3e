"""The report's charts with their captions and text alternatives, from the run folders' figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.report.charts import Comparison, Curve, Interval, interval_chart, line_chart
from launcher.report.context import PART_TITLES, RunContext
from launcher.report.view import RunView, number


@dataclass(frozen=True)
class Chart:
    """One chart: inline SVG, what it shows in a caption, and in words for who cannot see it."""

    svg: str
    caption: str
    alternative: str


def result_chart(contexts: Sequence[RunContext]) -> Chart | None:
    """Exact match of base and tuned with intervals, a row for each run and part."""
    rows: list[Comparison] = []
    words: list[str] = []
    for place, context in enumerate(contexts):
        for part, title in PART_TITLES.items():
            base, tuned = (_interval(context.view, model, part) for model in ("base", "tuned"))
            if base is None and tuned is None:
                continue
            short = "extra test" if part == "extra_test" else "test"
            rows.append(Comparison(f"{context.view.job}, {short}" if len(contexts) > 1 else title, place, base, tuned))
            words.append(f"{context.view.job}, {title.lower()}: base {_say(base)}; tuned {_say(tuned)}")
    if not rows:
        return None
    caption = "Exact match with 95 % intervals over phrasings. Hollow and grey: base. Filled: tuned."
    return Chart(interval_chart(rows, "exact match"), caption, "Exact match. " + ". ".join(words) + ".")


def _interval(view: RunView, model: str, part: str) -> Interval | None:
    metric = view.metric(model, part, "exact_match")
    return None if metric["value"] is None else Interval(metric["value"], metric["low"], metric["high"])


def _say(interval: Interval | None) -> str:
    if interval is None:
        return "not evaluated"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f}, interval {interval.low:.2f} to {interval.high:.2f}"


def training_charts(views: Sequence[RunView]) -> list[Chart]:
    """Loss and exact match, each against steps and against spend; those without a single point are left out."""
    charts = [
        _chart(views, "loss", "step", "Loss against steps. Line: training batches. Marks: validation examples."),
        _chart(
            views, "exact_match", "step", "Exact match on the validation examples against steps. Ring: the step kept."
        ),
        _chart(views, "loss", "usd", "Loss against spend."),
        _chart(views, "exact_match", "usd", "Exact match on the validation examples against spend."),
    ]
    return [chart for chart in charts if chart is not None]


def _chart(views: Sequence[RunView], metric: str, along: str, caption: str) -> Chart | None:
    curves = [curve for place, view in enumerate(views) for curve in _curves(view, place, metric, along)]
    curves = [curve for curve in curves if curve.points]
    # Nothing was metered where no price is known: spend that never moves says nothing.
    if not curves or (along == "usd" and all(x == 0 for curve in curves for x, _ in curve.points)):
        return None
    x_label = "optimizer step" if along == "step" else "US dollars spent"
    svg = line_chart(curves, x_label, metric.replace("_", " "), share=metric == "exact_match", money=along == "usd")
    words = [_describe(curve, along) for curve in curves]
    return Chart(svg, caption, f"{caption} " + "; ".join(words) + ".")


def _curves(view: RunView, place: int, metric: str, along: str) -> list[Curve]:
    best_step = view.record.best_step if view.record else None
    if metric == "exact_match":
        points = _points(view, "eval", "exact_match", along)
        ring = [number(row.get(along)) for row in view.curve("eval") if row.get("step") == best_step]
        return [Curve(view.job, place, points, sparse=True, highlighted_x=ring[-1] if ring else None)]
    return [
        Curve(f"{view.job}, training", place, _points(view, "train", "loss", along)),
        Curve(f"{view.job}, validation", place, _points(view, "eval", "eval_loss", along), sparse=True),
    ]


def _points(view: RunView, kind: str, key: str, along: str) -> list[tuple[float, float]]:
    pairs = ((number(row.get(along)), number(row.get(key))) for row in view.curve(kind))
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def _describe(curve: Curve, along: str) -> str:
    """A curve in words: where it starts and ends."""

    def at(point: tuple[float, float]) -> str:
        place = f"step {point[0]:g}" if along == "step" else f"{point[0]:.4g} US dollars"
        return f"{point[1]:.3g} at {place}"

    return f"{curve.name}: from {at(curve.points[0])} to {at(curve.points[-1])}"
