"""Charts of plans: cost against time with those that nothing beats, and the interval of each plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from launcher.report.charts import (
    BAD,
    INK,
    MARKERS,
    MUTED,
    PAGE,
    Interval,
    label_rows,
    new_figure,
    new_panels,
    series_colour,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

WIDE, NARROW = 9.4, 4.9  # inches: the page shows the one that its own width can carry with readable letters
LOG_FROM_RATIO = 8.0  # a longer range is drawn on a logarithmic scale
FAINT = 0.35
LIMIT_DASHES = (0, (4, 3))
SMALL = 9.0  # points
MARK_PIXELS = 6  # half the width of a mark, at the 100 dots per inch that matplotlib lays out with
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0.4, 1), (0.4, -1), (1, 0.3))
# Where a name may stand, in points from its mark, near first.
PLACES = tuple((x * r, y * r) for r in (9, 22, 36, 52, 70, 90) for x, y in DIRECTIONS)


@dataclass(frozen=True)
class PlanMark:
    """One plan in a chart. `colour` counts from 0; `at_most_usd`: the most that the caps let it cost."""

    label: str
    colour: int
    hours: Interval
    usd: Interval
    at_most_usd: float


@dataclass(frozen=True)
class LimitLines:
    """What the plan may cost and take, None where it was not limited."""

    max_usd: float | None = None
    deadline_hours: float | None = None


def trade_off_chart(plans: Sequence[PlanMark], front: Sequence[PlanMark], limits: LimitLines, width: float) -> str:
    """Dollars against hours of all plans with their 10th to 90th percentiles; those of `front` joined and named."""
    figure, axes = new_figure(width, 0.25 * width + 2.8)
    for plan in plans:
        _draw_cross(axes, plan, strong=plan in front)
    steps = sorted((plan.hours.value, plan.usd.value) for plan in front)
    axes.plot([x for x, _ in steps], [y for _, y in steps], drawstyle="steps-post", color=INK, linewidth=1, zorder=1.5)
    scale_axis(axes, "x", [b for plan in plans for b in plan.hours.bounds], limits.deadline_hours)
    scale_axis(axes, "y", [b for plan in plans for b in plan.usd.bounds], limits.max_usd)
    _draw_limits(axes, limits)
    axes.grid(axis="x", visible=True)
    axes.set_xlabel("hours")
    axes.set_ylabel("US dollars")
    axes.yaxis.set_major_formatter(_dollars)
    _name_apart(figure, axes, [(plan.hours.value, plan.usd.value, plan.label) for plan in front])
    return to_svg(figure)


def _draw_cross(axes: Axes, plan: PlanMark, strong: bool) -> None:
    colour, hours, usd = series_colour(plan.colour), plan.hours, plan.usd
    line: dict[str, Any] = {"color": colour, "alpha": 0.8 if strong else FAINT, "linewidth": 1.4 if strong else 0.8}
    axes.plot(hours.bounds, [usd.value] * 2, zorder=2, **line)
    axes.plot([hours.value] * 2, usd.bounds, zorder=2, **line)
    axes.plot(
        hours.value,
        usd.value,
        MARKERS[plan.colour % len(MARKERS)],
        markersize=7.5 if strong else 5,
        markeredgecolor=colour,
        markerfacecolor=colour if strong else PAGE,
        zorder=3 if strong else 2.5,
    )


def _draw_limits(axes: Axes, limits: LimitLines) -> None:
    words: dict[str, Any] = {"color": BAD, "fontsize": SMALL, "textcoords": "offset points"}
    if limits.max_usd is not None:
        axes.axhline(limits.max_usd, color=BAD, linewidth=1.2, linestyle=LIMIT_DASHES)
        edge: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "ha": "right"}
        axes.annotate(f"cap {_dollars(limits.max_usd)}", (1, limits.max_usd), (-3, 3), **edge, **words)
    if limits.deadline_hours is not None:
        axes.axvline(limits.deadline_hours, color=BAD, linewidth=1.2, linestyle=LIMIT_DASHES)
        edge = {"xycoords": axes.get_xaxis_transform(), "va": "bottom", "rotation": 90}
        axes.annotate(f"deadline {limits.deadline_hours:.3g} h", (limits.deadline_hours, 0), (3, 4), **edge, **words)


def _name_apart(figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Name points (x, y, text), each where its name covers no words and no point and stays inside the axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # settles the layout: where a point stands is known only then
    marks = [Bbox([xy, xy]).padded(MARK_PIXELS) for xy in axes.transData.transform([(x, y) for x, y, _ in points])]
    taken = [words.get_window_extent() for words in axes.texts]
    for x, y, text in points:
        name = axes.annotate(
            text,
            (x, y),
            PLACES[0],
            textcoords="offset points",
            fontsize=SMALL,
            color=INK,
            zorder=5,
            bbox={"facecolor": PAGE, "edgecolor": "none", "alpha": 0.8, "pad": 1},
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkB": 4},
        )
        name.set_in_layout(False)

        def put(place: tuple[float, float], name: Annotation = name) -> Bbox:
            name.set(position=place, ha="left" if place[0] > 0 else "right", va="bottom" if place[1] > 0 else "top")
            name.update_positions(renderer)
            return Text.get_window_extent(name)  # without its leader

        def harm(place: tuple[float, float]) -> int:
            box = put(place)
            inside = axes.bbox.count_contains(box.corners()) == 4
            return box.count_overlaps(marks) + 2 * box.count_overlaps(taken) + (0 if inside else 5)

        taken.append(put(min(PLACES, key=harm)))


def interval_rows_chart(plans: Sequence[PlanMark], limits: LimitLines, width: float) -> str:
    """Dollars and hours of each plan, first on top: 10th to 90th percentile, the median, and the most it can cost."""
    beside = width >= WIDE
    grid: dict[str, Any] = {"ncols": 2, "width_ratios": (3, 2)} if beside else {"nrows": 2}
    figure, [left, right] = new_panels(width, (0.8 + 0.3 * len(plans)) * (1 if beside else 2), **grid)
    for place, plan in enumerate(reversed(plans)):
        _draw_row(left, plan.usd, place, plan.colour)
        _draw_row(right, plan.hours, place, plan.colour)
        left.plot(plan.at_most_usd, place, "|", color=INK, markersize=12, markeredgewidth=2)
    scale_axis(left, "x", [v for plan in plans for v in (*plan.usd.bounds, plan.at_most_usd)], limits.max_usd)
    scale_axis(right, "x", [v for plan in plans for v in plan.hours.bounds], limits.deadline_hours)
    left.xaxis.set_major_formatter(_dollars)
    labels = [plan.label for plan in plans]
    label_rows(left, labels)
    label_rows(right, [""] * len(labels) if beside else labels)
    left.set_xlabel("US dollars")
    right.set_xlabel("hours")
    for axes, limit in ((left, limits.max_usd), (right, limits.deadline_hours)):
        if limit is not None:
            axes.axvline(limit, color=BAD, linewidth=1.2, linestyle=LIMIT_DASHES)
    return to_svg(figure)


def _draw_row(axes: Axes, interval: Interval, place: float, colour: int) -> None:
    shade = series_colour(colour)
    axes.plot(interval.bounds, [place, place], color=shade, linewidth=3, alpha=0.55, solid_capstyle="butt")
    axes.plot(interval.value, place, MARKERS[colour % len(MARKERS)], color=shade, markersize=6.5)


def scale_axis(axes: Axes, name: Literal["x", "y"], values: Sequence[float], limit: float | None) -> None:
    """Make room for the values and their limit; logarithmic where they lie far apart."""
    from matplotlib.ticker import LogLocator, NullLocator

    every = [*values, limit] if limit is not None else list(values)
    low, high = min(every), max(every)
    if low > 0 and high / low > LOG_FROM_RATIO:
        axes.set(**{f"{name}scale": "log", f"{name}lim": (low / 1.25, high * 1.25)})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    else:
        axes.set(**{f"{name}lim": (0, high * 1.12)})


def _dollars(value: float, _: object = None) -> str:
    return f"${value:,.4g}"
