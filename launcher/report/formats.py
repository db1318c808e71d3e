"""How values look in the report, the same in HTML and Markdown. What is unknown is a dash, never a zero."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launcher.report.failures import ShownCall

UNKNOWN = "–"
NOT_AVAILABLE = "n/a"  # there is a value, but too few phrasings for an interval


def share(value: float | None) -> str:
    """A share or an F1 with two decimals."""
    return UNKNOWN if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """A change with its sign."""
    return UNKNOWN if value is None else f"{value:+.2f}".replace("-", "−")


def interval(bounds: Any) -> str:
    """`low to high` of a mapping or an object that has both."""
    low, high = (bounds.get(k) if isinstance(bounds, Mapping) else getattr(bounds, k) for k in ("low", "high"))
    return NOT_AVAILABLE if low is None or high is None else f"{share(low)} to {share(high)}".replace("-", "−")


def usd(value: float | None) -> str:
    """Dollars with as many decimals as say something: $12.40, $0.0213."""
    if value is None:
        return UNKNOWN
    if value >= 1 or round(value, 2) == value:
        return f"${value:,.2f}"
    return f"${value:.4f}" if value >= 0.00005 else f"${value:.1e}"


def seconds(value: float | None) -> str:
    """A time: 3.5 ms, 12.3 s, 4 min 05 s, 2 h 07 min."""
    if value is None:
        return UNKNOWN
    if value < 1:
        return f"{value * 1000:.3g} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def estimated_usd(value: float | None) -> str:
    """Dollars and cents: no estimate is better than that."""
    return usd(value) if value is None or value < 0.01 else f"${value:,.2f}"


def estimated_hours(value: float | None) -> str:
    """Hours as a time to about two digits: 20 s, 3.4 min, 55 min, 2 h 07 min."""
    if value is None:
        return UNKNOWN
    if value < 59.5 / 3600:
        return f"{3600 * value:.0f} s"
    if value < 59.5 / 60:
        return f"{60 * value:.{1 if value < 9.95 / 60 else 0}f} min"
    whole, minutes = divmod(round(60 * value), 60)
    return f"{whole} h {minutes:02} min"


def gib(value: float | None) -> str:
    """GiB with one decimal, without the unit."""
    return UNKNOWN if value is None else f"{value:.1f}"


def age(hours: float | None) -> str:
    """How old something is, roughly: 5 hours, 50 days."""
    if hours is None:
        return UNKNOWN
    count, unit = (round(hours / 24), "day") if hours >= 48 else (round(hours), "hour")
    return f"{count} {unit}{'' if count == 1 else 's'}"


def rate(value: float | None) -> str:
    """A count per second."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def metric(value: float | None, form: str) -> str:
    """A metric by its form (see `context.MetricKind`)."""
    forms: dict[str, Callable[[float | None], str]] = {"share": share, "rate": rate, "seconds": seconds, "usd": usd}
    return forms[form](value)


def target(value: float | None, name: str) -> str:
    """A target or what was measured against it, by the metric's name."""
    if value is None:
        return UNKNOWN
    if name == "latency_ms":
        return f"{value:,.3g} ms" if value < 1000 else f"{value:,.0f} ms"
    if name == "usd_per_million_tokens":
        return usd(value)
    return rate(value) if name == "tokens_per_second" else f"{value:.3f}".removesuffix("0")


def metric_title(name: str) -> str:
    """A metric's name as a job or a file writes it, in words."""
    titles = {"latency_ms": "Time to first token", "usd_per_million_tokens": "Cost of a million tokens"}
    return titles.get(name, name.replace("_", " ").capitalize().replace("f1", "F1"))


def moment(iso: str | None) -> str:
    """An ISO time in UTC without its seconds' fraction and zone."""
    return UNKNOWN if not iso else iso.replace("T", " ").removesuffix("+00:00") + " UTC"


def percent(value: float | None) -> str:
    """A share in whole percent, for words and bar widths."""
    return UNKNOWN if value is None else f"{100 * value:.0f} %"


def markdown(value: Any) -> str:
    """Text that Markdown shows as it is, in a table cell too."""
    flat = re.sub(r"\s+", " ", str(value)).strip()
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", flat)


def code(value: Any) -> str:
    """Text as Markdown code, in a table cell too."""
    flat = re.sub(r"\s+", " ", str(value)).strip().replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{flat}{space}{fence}" if flat else ""


def calls(shown: Sequence[ShownCall]) -> str:
    """Calls in one line: `tool(key=value, key=value); tool(...)`."""
    return "; ".join(
        f"{call.name.text}({', '.join(f'{key.text}={value.text}' for key, value in call.arguments)})" for call in shown
    )


FILTERS: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (
        share,
        signed,
        interval,
        usd,
        seconds,
        estimated_usd,
        estimated_hours,
        gib,
        age,
        rate,
        metric,
        target,
        metric_title,
        moment,
        percent,
        markdown,
        code,
        calls,
    )
}
