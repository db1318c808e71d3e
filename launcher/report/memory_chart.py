"""The chart of peak memory by component against what the cards have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from launcher.report.charts import BAD, GOOD, INK, PAGE, WARN, Interval, label_rows, new_panels, series_colour, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Verdict = Literal["yes", "tight", "no"]
COLOURS: dict[Verdict, str] = {"yes": GOOD, "tight": WARN, "no": BAD}
MARKERS: dict[Verdict, str] = {"yes": "o", "tight": "D", "no": "X"}
WORDS_INCHES, LABELS_INCHES = 1.25, 1.6  # beside a bar, and left of the axes
# A card above this many times the largest need is an arrow, lest the need become too small to see.
SCALE_LIMIT = 1.6
NARROWEST_NUMBERED = 0.5  # inches of the whole figure's width: a segment below has no room for its figure
SMALL = 9.0  # points
BAR_INCHES, CARD_INCHES = 0.42, 0.27


@dataclass(frozen=True)
class MemoryBar:
    """The peak of one job on one GPU, GiB: by component, and with its bounds."""

    label: str
    components: Mapping[str, float]
    peak: Interval


@dataclass(frozen=True)
class CardMark:
    """A card, the GiB that a program gets of it, and whether the job fits, as a verdict and in words."""

    label: str
    usable_gib: float
    verdict: Verdict
    words: str


def memory_chart(bars: Sequence[MemoryBar], cards: Sequence[CardMark], shown: Sequence[str], width: float) -> str:
    """Peaks by component above, the usable memory of each card below, on one axis. Returns an SVG element.

    Args:
        bars: one a job and layout, first on top.
        cards: at least one, first on top.
        shown: components with a colour of their own; the others are drawn together, in the next colour.
        width: of the figure, inches.
    """
    heights = (BAR_INCHES * len(bars), CARD_INCHES * len(cards))
    figure, [upper, lower] = new_panels(width, 0.7 + sum(heights), nrows=2, sharex=True, height_ratios=heights)
    need = max(bar.peak.bounds[1] for bar in bars)
    right = 1.12 * min(SCALE_LIMIT * need, max([need, *(card.usable_gib for card in cards)]))
    right = max(right, need / (1 - WORDS_INCHES / (width - LABELS_INCHES)))
    upper.set_xlim(0, right)
    for place, bar in enumerate(reversed(bars)):
        _draw_bar(upper, bar, place, shown, NARROWEST_NUMBERED / width * right)
    for place, card in enumerate(reversed(cards)):
        _draw_card(lower, card, place)
        if card.usable_gib < right:
            _draw_line_up(upper, lower, card, place)
    label_rows(upper, [bar.label for bar in bars])
    label_rows(lower, [card.label for card in cards])
    upper.tick_params(axis="x", length=0, labelbottom=False)
    upper.spines["bottom"].set_visible(False)
    lower.set_xlabel("GiB of one GPU")
    _turn_inward(figure, lower)
    return to_svg(figure)


def _draw_bar(axes: Axes, bar: MemoryBar, place: float, shown: Sequence[str], numbered_from: float) -> None:
    start = 0.0
    for colour, size in _segments(bar, shown):
        axes.barh(place, size, left=start, height=0.56, color=series_colour(colour), edgecolor=PAGE, linewidth=0.8)
        if size > numbered_from:
            axes.text(start + size / 2, place, f"{size:.1f}", color=PAGE, fontsize=SMALL, ha="center", va="center")
        start += size
    high = bar.peak.bounds[1]
    axes.plot([bar.peak.value, high], [place, place], color=INK, linewidth=1.4, marker="|", markersize=8)
    _write(axes, f"{bar.peak.value:.1f}, up to {high:.1f}", high, place, INK)


def _segments(bar: MemoryBar, shown: Sequence[str]) -> Iterator[tuple[int, float]]:
    """Colour and GiB of each segment; the components without a colour of their own last, together."""
    yield from ((colour, bar.components.get(name, 0.0)) for colour, name in enumerate(shown))
    yield len(shown), sum(gib for name, gib in bar.components.items() if name not in shown)


def _draw_card(axes: Axes, card: CardMark, place: float) -> None:
    right = axes.get_xlim()[1]
    at, marker = (card.usable_gib, MARKERS[card.verdict]) if card.usable_gib < right else (right, ">")
    axes.plot(at, place, marker, color=COLOURS[card.verdict], markersize=6.5, clip_on=False)
    _write(axes, f"{card.usable_gib:.1f} {card.words}", at, place, COLOURS[card.verdict])


def _draw_line_up(upper: Axes, lower: Axes, card: CardMark, place: float) -> None:
    line: dict[str, Any] = {"color": COLOURS[card.verdict], "linewidth": 0.9, "alpha": 0.5, "zorder": 0.5}
    lower.plot([card.usable_gib] * 2, [place, 1e3], scaley=False, **line)
    upper.axvline(card.usable_gib, **line)


def _write(axes: Axes, words: str, x: float, place: float, colour: str) -> None:
    """Words to the right of a mark."""
    box = {"facecolor": PAGE, "edgecolor": "none", "alpha": 0.85, "pad": 0.5}
    style: dict[str, Any] = {"fontsize": SMALL, "color": colour, "va": "center", "bbox": box}
    axes.annotate(words, (x, place), (9, 0), textcoords="offset points", **style).set_in_layout(False)


def _turn_inward(figure: Figure, axes: Axes) -> None:
    """Move words that would leave the axes to the left of their mark."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # settles the layout: where words end is known only then
    for words in axes.texts:
        if words.get_window_extent().x1 > axes.bbox.x1:
            words.set(position=(-9, 0), ha="right")
