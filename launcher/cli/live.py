"""The live table of jobs under way, drawn from their run folders."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from launcher.rundir import RunFolder
from launcher.runs import STATE_STYLE

PLAIN_INTERVAL_SECONDS = 15.0  # between two blocks of lines where the output is no terminal


def jobs_table(folders: Sequence[RunFolder]) -> Table:
    """One row per job: phase, step, loss, exact match, tokens/s, usd so far, projected usd, time left."""
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    table.add_column("job", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    table.add_column("", min_width=12)
    for name in ("step", "loss", "exact match", "tokens/s", "usd", "projected", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    for folder in folders:
        table.add_row(*_cells(folder))
    table.caption = "\n".join(line for folder in folders for line in _reestimate(folder)) or None
    return table


def _reestimate(folder: RunFolder) -> list[str]:
    """What the first steps of a run under way say about the rest of it."""
    record, progress = folder.read_record(), folder.read_json(folder.progress_file) or {}
    line = progress.get("reestimate")
    return [] if line is None or record.state.is_final else [f"{record.job}: {line}"]


def _cells(folder: RunFolder) -> list[Any]:
    record = folder.read_record()
    progress = folder.read_json(folder.progress_file) or {}
    step, total = progress.get("step", 0), progress.get("total_steps") or record.total_steps or 0
    done, of = (progress["answered"], progress["prompts"]) if _is_answering(progress) else (step, total)
    state = record.state if record.state.is_final else progress.get("phase", record.state)
    return [
        record.job,
        f"[{STATE_STYLE.get(record.state, 'default')}]{state}[/]",
        ProgressBar(total=of or 1, completed=done, width=12),
        f"{step}/{total}" if total else "–",
        _number(progress.get("loss"), ".3f"),
        _number(progress.get("exact_match"), ".2f"),
        _number(progress.get("tokens_per_second"), ",.0f"),
        _number(progress.get("usd"), ".4f"),
        _number(progress.get("projected_usd"), ".4f"),
        "" if record.state.is_final else _duration(progress.get("eta_s")),
    ]


def _is_answering(progress: dict[str, Any]) -> bool:
    """While a model is evaluated, the bar counts the prompts answered."""
    return progress.get("phase") == "evaluating" and "answered" in progress


def _number(value: float | None, form: str) -> str:
    # Unknown is never shown as zero.
    return "–" if value is None else format(value, form)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}:{rest:02}"


@contextmanager
def watching(console: Console) -> Iterator[Callable[[Sequence[RunFolder]], None]]:
    """Give a function that shows the state of runs when called: a live table, or plain lines now and then."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=False) as live:
            yield lambda folders: live.update(jobs_table(folders))
        return
    printed_at = -PLAIN_INTERVAL_SECONDS

    def print_sometimes(folders: Sequence[RunFolder]) -> None:
        nonlocal printed_at
        if time.monotonic() - printed_at >= PLAIN_INTERVAL_SECONDS:
            printed_at = time.monotonic()
            console.print(jobs_table(folders))

    yield print_sometimes
