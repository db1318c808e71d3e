"""The live table, drawn from run folders."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from launcher.cli.live import jobs_table
from launcher.rundir import RunFolder, RunRecord, RunState, now_iso


def table_text(folder: RunFolder) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(jobs_table([folder]))
    return console.export_text()


def new_folder(tmp_path: Path) -> RunFolder:
    record = RunRecord(
        id="x", job="veran-tools", group="g", state=RunState.RUNNING, created_at=now_iso(), total_steps=40
    )
    return RunFolder.create(tmp_path, "x", record)


def test_a_job_that_has_not_begun_shows_nothing_as_zero(tmp_path: Path) -> None:
    text = table_text(new_folder(tmp_path))
    assert "0/40" in text and "0.0000" not in text and "–" in text


def test_a_job_in_training(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    progress = {"phase": "training", "step": 10, "total_steps": 40, "loss": 1.25, "exact_match": 0.5, "usd": 0.0123}
    folder.write_json(
        folder.progress_file, progress | {"projected_usd": 0.05, "eta_s": 75.0, "tokens_per_second": 4100.0}
    )
    text = table_text(folder)
    for shown in ("training", "10/40", "1.250", "0.50", "4,100", "0.0123", "0.0500", "1:15"):
        assert shown in text


def test_while_answers_are_generated_the_bar_counts_prompts(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    progress = {"phase": "evaluating", "step": 40, "total_steps": 40, "answered": 333, "prompts": 333}
    folder.write_json(folder.progress_file, progress | {"answered": 0})
    empty = table_text(folder).count("━")
    folder.write_json(folder.progress_file, progress)
    assert empty < table_text(folder).count("━")
