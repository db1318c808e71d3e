"""Lay the report out with its two templates, and write both files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launcher.errors import BadInput, LauncherError
from launcher.evaluate.targets import TIERS
from launcher.report.charts import GLYPHS, SERIES_COLOURS
from launcher.report.context import part_tables, run_context
from launcher.report.figures import result_chart, training_charts
from launcher.report.templates import template_environment
from launcher.report.view import RunView, read_run
from launcher.rundir import RunFolder, write_atomically

HTML_TEMPLATE, MARKDOWN_TEMPLATE = "report.html.j2", "report.md.j2"
SHOWN_TEMPLATES = 10  # phrasings with failures, for each run


def write_report(folders: Sequence[RunFolder], out: Path | None) -> Path:
    """Write the report of one run, or of several side by side, as HTML and as Markdown beside it.

    Args:
        folders: the runs, in the order shown; a run named twice is shown once.
        out: the HTML file, or a folder for it. None: into the run's own folder; several runs get each their own
            report, and one for all of them in the folder above.

    Returns:
        The HTML file.

    Raises:
        BadInput: no runs given.
        LauncherError: the files cannot be written.
    """
    distinct = list({folder.path: folder for folder in folders}.values())
    if not distinct:
        raise BadInput("report: no runs given; `launcher runs` lists them")
    views = [read_run(folder) for folder in distinct]
    if out is None and len(views) > 1:
        for view in views:
            _write([view], view.folder.report_file)
    return _write(views, _html_file(views, out))


def _html_file(views: Sequence[RunView], out: Path | None) -> Path:
    if out is not None:
        return out / "report.html" if out.is_dir() else out
    first = views[0].folder
    if len(views) == 1:
        return first.report_file
    groups = dict.fromkeys(view.record.group if view.record else view.folder.id for view in views)
    return first.path.parent / f"report-{'+'.join(groups)[:100]}.html"


def _write(views: Sequence[RunView], html_file: Path) -> Path:
    markdown_file = html_file.with_suffix(".md")
    context = _template_context(views)
    environment = template_environment()
    try:
        html_file.parent.mkdir(parents=True, exist_ok=True)
        for name, path in ((HTML_TEMPLATE, html_file), (MARKDOWN_TEMPLATE, markdown_file)):
            # A model may write half of a surrogate pair, which no file in UTF-8 can hold.
            text = environment.get_template(name).render(context).encode("utf-8", "replace").decode("utf-8")
            write_atomically(path, text)
    except OSError as fault:
        raise LauncherError(f"{html_file}: the report cannot be written ({fault.strerror or fault})") from None
    return html_file


def _template_context(views: Sequence[RunView]) -> dict[str, Any]:
    runs = [run_context(view) for view in views]
    return {
        "title": ", ".join(dict.fromkeys(view.job for view in views)),
        "generated_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "runs": runs,
        "tables": part_tables(views),
        "tiers": TIERS,
        "uses_preset": any(view.record and view.record.preset for view in views),
        "result_chart": result_chart(runs),
        "charts": training_charts(views),
        "glyphs": GLYPHS,
        "series_colours": SERIES_COLOURS,
        "shown_templates": SHOWN_TEMPLATES,
    }
