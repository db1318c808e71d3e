"""The charts of a plan's page with their captions and text alternatives, from the JSON of `launcher plan --json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.cost.gpus import usable_gib
from launcher.report import formats
from launcher.report.charts import GLYPHS, Interval
from launcher.report.memory_chart import CardMark, MemoryBar, Verdict, memory_chart
from launcher.report.plan_charts import NARROW, WIDE, LimitLines, PlanMark, interval_rows_chart, trade_off_chart

Json = Mapping[str, Any]
PROVIDER_COLOURS = {"vast": 0, "lambda": 1, "runpod": 2, "own": 3}
MOST_ROWS, MOST_CARDS, MOST_BARS = 16, 16, 6
COLOURED_COMPONENTS = 4  # the others are seldom wide enough to be told apart


@dataclass(frozen=True)
class PlanChart:
    """One chart for wide and for narrow pages: inline SVG, a caption, and what it shows for who cannot see it.

    `legend`: glyph, colour (counted from 0) and name of what the chart itself does not name.
    """

    wide: str
    narrow: str
    caption: str
    alternative: str
    legend: tuple[tuple[str, int, str], ...] = ()


def trade_off(plans: Sequence[Json], limits: LimitLines) -> PlanChart:
    """Dollars against hours; the plans that no other beats in both are joined and named."""
    front = pareto_front(plans)
    marks = {id(plan): _mark(plan, short_name(plan)) for plan in plans}
    named = [marks[id(plan)] for plan in front]
    words = "; ".join(f"{short_name(p)}: {_money(p)} and {_time(p)}" for p in front)
    return _chart(
        lambda width: trade_off_chart(list(marks.values()), named, limits, width),
        "Each mark is a plan at its median, its cross the 10th to 90th percentile. Filled, joined and named: no other "
        "plan is both cheaper and faster.",
        f"Cost against time of {_counted(len(plans), 'plan')}. Not beaten in both, fastest first: {words}.",
        _provider_legend(plans),
    )


def intervals(plans: Sequence[Json], limits: LimitLines) -> PlanChart:
    """Dollars and hours of the first plans with their bounds."""
    shown = plans[:MOST_ROWS]

    def draw(width: float) -> str:
        name = long_name if width >= WIDE else short_name
        marks = [_mark(plan, f"{rank}. {name(plan)}") for rank, plan in enumerate(shown, start=1)]
        return interval_rows_chart(marks, limits, width)

    rest = f" The first {len(shown)} of {len(plans)} plans." if len(shown) < len(plans) else ""
    limit = " Dashed: the limits." if limits != LimitLines() else ""
    words = "; ".join(f"{rank}. {long_name(p)}: {_range(p)}" for rank, p in enumerate(shown, start=1))
    return _chart(
        draw,
        "Bar: the 10th to 90th percentile. Mark: the median. Upright stroke: the most that the caps let it cost."
        + limit
        + rest,
        f"Cost of each plan. {words}.",
        _provider_legend(shown),
    )


def memory(fits: Sequence[Json], plans: Sequence[Json], refused: Sequence[Json]) -> PlanChart | None:
    """Peak memory by component of these fits, against the cards of plans and of refusals for memory; None without."""
    if not fits or not (plans or any(refusal["rule"] == "memory" for refusal in refused)):
        return None
    bars = [_bar(fit) for fit in fits]
    need = max(bars, key=lambda bar: bar.peak.bounds[1])
    cards, left_out = _cards(plans, refused, need.peak.bounds[1])
    sizes = {name: max(bar.components[name] for bar in bars) for name in bars[0].components}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:COLOURED_COMPONENTS]
    rest = [name for name, size in sizes.items() if size > 0 and name not in largest]
    rest_named = [f"the rest: {', '.join(rest)}"] if rest else []
    fitting = [card.label for card in cards if card.verdict == "yes"]
    tight = [card.label for card in cards if card.verdict == "tight"]
    high = need.peak.bounds[1]
    finding = f"The most is {need.peak.value:.1f} GiB, up to {high:.1f}, of {need.label.replace(chr(10), ', ')}."
    verdicts = f"Fits: {', '.join(fitting) or 'no card'}." + (f" Tight: {', '.join(tight)}." if tight else "")
    return _chart(
        lambda width: memory_chart(bars, cards, largest, width),
        "Above: the peak on one GPU by component, its stroke up to the upper bound. Below: what a program "
        "gets of each card. It fits where the upper bound does, and is tight where only the expected value does. On "
        "several GPUs one job is shared by them; no and tight name the most GPUs that were tried."
        + (f" {left_out} more cards are not drawn." if left_out else ""),
        f"Peak memory on one GPU. {finding} {verdicts}",
        tuple(("■", colour, name) for colour, name in enumerate([*largest, *rest_named])),
    )


def pareto_front(plans: Sequence[Json]) -> list[Json]:
    """The plans that no other one beats in median dollars and median hours, fastest first."""
    front: list[Json] = []
    for plan in sorted(plans, key=lambda plan: (plan["hours"]["p50"], plan["usd"]["p50"])):
        if not front or plan["usd"]["p50"] < front[-1]["usd"]["p50"]:
            front.append(plan)
    return front


def shown_fits(plans: Sequence[Json]) -> list[Json]:
    """Every job of the first plan, then of each other sharding the job that needs most."""
    fits = list(plans[0]["jobs"]) if plans else []
    for plan in plans[1:]:
        if plan["jobs"][0]["gpus"] not in {fit["gpus"] for fit in fits}:
            fits.append(max(plan["jobs"], key=lambda fit: fit["peak_high_gib"]))
    return fits[:MOST_BARS]


def card_name(card: Json) -> str:
    """The card of a plan or a refusal: RTX 4090 24 GB."""
    return f"{card['gpu']} {card['gpu_memory_gib']:g} GB"


def short_name(plan: Json) -> str:
    """Provider, count and card: vast 4x RTX 4090; 3 machines of one A100 each are 3 × vast A100."""
    machines = f"{plan['machines']} × " if plan["machines"] > 1 else ""
    gpus = f"{plan['gpus']}x " if plan["gpus"] > 1 else ""
    return f"{machines}{plan['provider']} {gpus}{plan['gpu']}{' spot' if plan['spot'] else ''}"


def long_name(plan: Json) -> str:
    """The same with the memory of one card."""
    return short_name(plan).replace(plan["gpu"], card_name(plan))


def _chart(
    draw: Callable[[float], str], caption: str, alternative: str, legend: tuple[tuple[str, int, str], ...]
) -> PlanChart:
    return PlanChart(draw(WIDE), draw(NARROW), caption, alternative, legend)


def _mark(plan: Json, label: str) -> PlanMark:
    colour = PROVIDER_COLOURS[plan["provider"]]
    return PlanMark(label, colour, _interval(plan["hours"]), _interval(plan["usd"]), plan["worst_case_usd"])


def _interval(quantiles: Json) -> Interval:
    return Interval(quantiles["p50"], quantiles["p10"], quantiles["p90"])


def _bar(fit: Json) -> MemoryBar:
    over = f", over {fit['gpus']} GPUs" if fit["gpus"] > 1 else ""
    label = f"{fit['job']}\nmicro-batch {fit['micro_batch']}{over}"
    return MemoryBar(label, fit["components_gib"], Interval(fit["peak_gib"], fit["peak_low_gib"], fit["peak_high_gib"]))


def _cards(plans: Sequence[Json], refused: Sequence[Json], need_gib: float) -> tuple[list[CardMark], int]:
    """The cards nearest to the need, largest first, and how many were left out."""
    marks: dict[str, CardMark] = {}
    for plan in sorted(plans, key=lambda plan: plan["jobs"][0]["gpus"]):
        gpus = plan["jobs"][0]["gpus"]
        words = "fits" if gpus == 1 else f"fits on {gpus} GPUs"
        marks.setdefault(card_name(plan), CardMark(card_name(plan), plan["usable_gib"], "yes", words))
    # Of a card that was tried in several counts, the verdict of the most GPUs stands.
    for refusal in sorted(refused, key=lambda refusal: -refusal["gpus"]):
        if refusal["rule"] == "memory":
            usable, verdict = usable_gib(refusal["gpu"], refusal["gpu_memory_gib"]), _refused_verdict(refusal)
            words = f"{verdict} on {_counted(refusal['gpus'], 'GPU')}"
            marks.setdefault(card_name(refusal), CardMark(card_name(refusal), usable, verdict, words))
    nearest = sorted(marks.values(), key=lambda mark: abs(math.log(mark.usable_gib / need_gib)))[:MOST_CARDS]
    return sorted(nearest, key=lambda mark: (-mark.usable_gib, mark.label)), len(marks) - len(nearest)


def _refused_verdict(refusal: Json) -> Verdict:
    return "tight" if refusal["reason"].startswith("tight") else "no"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _provider_legend(plans: Sequence[Json]) -> tuple[tuple[str, int, str], ...]:
    present = {plan["provider"] for plan in plans}
    return tuple((GLYPHS[colour], colour, name) for name, colour in PROVIDER_COLOURS.items() if name in present)


def _money(plan: Json) -> str:
    return formats.estimated_usd(plan["usd"]["p50"])


def _time(plan: Json) -> str:
    return formats.estimated_hours(plan["hours"]["p50"])


def _range(plan: Json) -> str:
    low, mid, high = (formats.estimated_usd(plan["usd"][p]) for p in ("p10", "p50", "p90"))
    return f"{mid}, {low} to {high}, at most {formats.estimated_usd(plan['worst_case_usd'])}"
