"""The page of `launcher plan --html`: its pictures and tables in one file that loads nothing, from the plan's JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launcher.errors import BadInput, LauncherError
from launcher.report import plan_figures as figures
from launcher.report.charts import SERIES_COLOURS
from launcher.report.formats import estimated_hours as hours
from launcher.report.formats import estimated_usd as usd
from launcher.report.plan_charts import LimitLines
from launcher.report.plan_figures import Json
from launcher.report.templates import template_environment
from launcher.rundir import write_atomically

TEMPLATE = "plan.html.j2"
OPEN_ROWS = 20  # of the plans; the others are folded away
NAMED_JOBS = 4  # in the title
BEST = {"cheapest": "Cheapest", "fastest": "Fastest", "balanced": "Least cost times time"}


def write_plan_page(result_json: Mapping[str, Any], file: Path) -> Path:
    """Write the page of a plan, whole or not at all.

    Args:
        result_json: what `launcher plan --json` prints.
        file: the page; its folder must be there.

    Returns:
        The file.

    Raises:
        BadInput: the folder is missing, or `file` is a folder.
        LauncherError: the file cannot be written.
    """
    if file.is_dir():
        raise BadInput(f"--html: {file}: is a folder; name a file in it, such as {file / 'plan.html'}")
    if not file.parent.is_dir():
        raise BadInput(f"--html: {file}: there is no folder {file.parent}; create it first")
    page = template_environment().get_template(TEMPLATE).render(_context(result_json))
    try:
        write_atomically(file, page)
    except OSError as fault:
        raise LauncherError(f"{file}: the page cannot be written ({fault.strerror or fault})") from None
    return file


def _context(result: Json) -> dict[str, Any]:
    plans, alternatives = result["plans"], result["alternatives"]
    return {
        "title": _title(list(result["tokens"])),
        "headline": _headline(result),
        "generated_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "result": result,
        "best": plans[0] if plans else None,
        "phases": _phases(plans[0]["phase_hours"]) if plans else [],
        "charts": _charts(result),
        "speeds": Counter(source for plan in plans for source in plan["speed_from"]).most_common(),
        "long_name": figures.long_name,
        "card_name": figures.card_name,
        "sentence": plan_sentence,
        "series_colours": SERIES_COLOURS,
        "plan_rows": _rows(plans, plans[:OPEN_ROWS]),
        "alternative_rows": _rows(alternatives, _first_of_each_card(alternatives)),
    }


def _charts(result: Json) -> dict[str, figures.PlanChart | None]:
    """The charts by name; without a plan only those of memory."""
    plans, alternatives, given = result["plans"], result["alternatives"], result.get("limits", {})
    limits = LimitLines(given.get("max_usd"), given.get("deadline_hours"))
    fits = figures.shown_fits(plans) or result.get("jobs", [])
    return {
        "memory": figures.memory(fits, plans, result["refused"]),
        "alternative_memory": figures.memory(figures.shown_fits(alternatives), alternatives, []),
        "trade_off": figures.trade_off(plans, limits) if plans else None,
        "intervals": figures.intervals(plans, limits) if plans else None,
    }


def _rows(plans: Sequence[Json], shown: Sequence[Json]) -> tuple[list[tuple[int, Json]], list[tuple[int, Json]]]:
    """The plans with their ranks: those shown at once, and those folded away."""
    at_once = {id(plan) for plan in shown}
    ranked = list(enumerate(plans, start=1))
    return [r for r in ranked if id(r[1]) in at_once], [r for r in ranked if id(r[1]) not in at_once]


def _first_of_each_card(plans: Sequence[Json]) -> list[Json]:
    first: dict[str, Json] = {}
    for plan in plans:
        first.setdefault(figures.card_name(plan), plan)
    return list(first.values())


def _title(jobs: Sequence[str]) -> str:
    shown = jobs if len(jobs) <= NAMED_JOBS else [*jobs[: NAMED_JOBS - 1], f"{len(jobs) - NAMED_JOBS + 1} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _headline(result: Json) -> str:
    """The answer in one sentence."""
    if result["plans"]:
        return f"{BEST[result['objective']]} of those that fit: {plan_sentence(result['plans'][0])}."
    if result["suggestions"]:
        first = result["suggestions"][0]
        return (
            f"Nothing fits within the limits. The smallest change that would do: {first['change']}. "
            f"Then: {plan_sentence(first['plan'])}."
        )
    return "Nothing fits within the limits, and no single change that was tried makes it fit."


def plan_sentence(plan: Json) -> str:
    """One plan in a sentence without its full stop."""
    cost, time = plan["usd"], plan["hours"]
    return (
        f"{figures.long_name(plan)} in {plan['region']}, {plan['shape']}: {usd(cost['p50'])} "
        f"({usd(cost['p10'])} to {usd(cost['p90'])}) in {hours(time['p50'])} "
        f"({hours(time['p10'])} to {hours(time['p90'])}), "
        f"at most {usd(plan['worst_case_usd'])}"
    )


def _phases(phase_hours: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Phase, hours, share of all of them; what takes no time is left out."""
    whole = sum(phase_hours.values())
    return [(name, value, value / whole) for name, value in phase_hours.items() if value > 0]
