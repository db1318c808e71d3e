"""Charts as inline SVG whose colours are the page's own CSS variables, so that they follow its light and dark scheme.

matplotlib draws with marker colours that stand nowhere else; these are replaced by `var(--name)` in its output.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES_COLOURS = 6
INK, MUTED, LINE, PAGE = "#010203", "#010204", "#010205", "#010206"
GOOD, WARN, BAD = "#010207", "#010208", "#010209"
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", PAGE: "--page"}
VARIABLES |= {GOOD: "--good", WARN: "--warn", BAD: "--bad"}
VARIABLES |= {f"#0102{16 + i:02x}": f"--series-{i + 1}" for i in range(SERIES_COLOURS)}
MARKERS, GLYPHS = ("o", "s", "^", "D", "v", "P"), ("●", "■", "▲", "◆", "▼", "✚")
LOG_FROM_RATIO = 20.0  # a loss that falls further than this is drawn on a logarithmic scale

STYLE = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's own font
    "svg.hashsalt": "report",  # the same ids for the same chart
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Curve:
    """One line of a chart. `colour` counts from 0; `points` are (x, y). A `sparse` curve shows each of its points."""

    name: str
    colour: int
    points: Sequence[tuple[float, float]]
    sparse: bool = False
    highlighted_x: float | None = None


@dataclass(frozen=True)
class Interval:
    """A value with its bounds, where it has any."""

    value: float
    low: float | None
    high: float | None

    @property
    def bounds(self) -> tuple[float, float]:
        """Both bounds; the value itself where there is none."""
        return (self.value if self.low is None else self.low), (self.value if self.high is None else self.high)


@dataclass(frozen=True)
class Comparison:
    """One row of the interval chart: base and tuned, each None where it was not evaluated."""

    label: str
    colour: int
    base: Interval | None
    tuned: Interval | None


def series_colour(index: int) -> str:
    """The marker colour that becomes the page's `--series-N`."""
    return f"#0102{16 + index % SERIES_COLOURS:02x}"


def line_chart(curves: Sequence[Curve], x_label: str, y_label: str, share: bool = False, money: bool = False) -> str:
    """Curves over steps or, with `money`, over US dollars; `share` fixes the y axis to 0..1. Returns an SVG element."""
    from matplotlib.ticker import LogLocator

    figure, axes = new_figure(5.4, 3.0)
    for curve in curves:
        _draw_curve(axes, curve)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(x=0.02)
    axes.set_xlim(left=0)
    values = [y for curve in curves for _, y in curve.points]
    if share:
        axes.set_ylim(-0.03, 1.03)
    elif values and min(values) > 0 and max(values) / min(values) > LOG_FROM_RATIO:
        axes.set_yscale("log", subs=())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    elif values and min(values) >= 0:
        axes.set_ylim(bottom=0)
    if money:
        axes.xaxis.set_major_formatter(lambda x, _: f"${x:.4g}")
    return to_svg(figure)


def _draw_curve(axes: Axes, curve: Curve) -> None:
    x, y = [p[0] for p in curve.points], [p[1] for p in curve.points]
    style: dict[str, Any] = {"color": series_colour(curve.colour), "linewidth": 1.6}
    if curve.sparse:
        style |= {"marker": MARKERS[curve.colour % len(MARKERS)], "markersize": 4.5}
    axes.plot(x, y, **style)
    best = [(a, b) for a, b in curve.points if a == curve.highlighted_x]
    if best:
        axes.plot(
            *best[-1], "o", markersize=11, markerfacecolor="none", markeredgecolor=style["color"], markeredgewidth=1.2
        )


def interval_chart(rows: Sequence[Comparison], x_label: str) -> str:
    """Base and tuned with their intervals on one axis from 0 to 1, first row on top. Returns an SVG element."""
    figure, axes = new_figure(10.4, 0.6 + 0.42 * len(rows))
    for place, row in enumerate(reversed(rows)):
        # A little apart, because the intervals of base and tuned may overlap.
        if row.base is not None:
            _draw_interval(axes, row.base, place - 0.13, MUTED, filled=False)
        if row.tuned is not None:
            _draw_interval(axes, row.tuned, place + 0.13, series_colour(row.colour), filled=True)
    label_rows(axes, [row.label for row in rows])
    axes.set_xlim(0, 1)
    axes.set_xlabel(x_label)
    return to_svg(figure)


def _draw_interval(axes: Axes, interval: Interval, place: float, colour: str, filled: bool) -> None:
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2.2, alpha=0.5)
    face = colour if filled else "none"
    axes.plot(interval.value, place, "o", markersize=6.5, markeredgecolor=colour, markerfacecolor=face, clip_on=False)


def label_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Labelled rows in place of a y axis: the first label on top, at the highest of 0, 1, 2, ..."""
    axes.set_yticks(range(len(labels)), list(reversed(labels)), parse_math=False)
    axes.tick_params(axis="y", length=0, pad=12, labelcolor=INK)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches, without pyplot and its global state."""
    figure, [axes] = new_panels(width, height)
    return figure, axes


def new_panels(width: float, height: float, **grid: Any) -> tuple[Figure, list[Axes]]:
    """The same with several axes, in reading order; `grid` is that of `Figure.subplots`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, list(figure.subplots(**grid, squeeze=False).flat)


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element of the page: its colours, its fonts, ids of its own."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for marker, variable in VARIABLES.items():
        svg = svg.replace(marker, f"var({variable})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # The viewBox alone lets the page scale it; the picture's text alternative stands on the figure around it.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true" focusable="false"', svg, count=1)
    return _with_own_ids(svg.strip())


def _with_own_ids(svg: str) -> str:
    """Give every id a prefix of this chart's own: several charts stand in one page."""
    prefix = f"c{zlib.crc32(svg.encode('utf-8')):x}-"
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
