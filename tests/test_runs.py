"""The listing of runs: what each reached, nulls where nothing is known, and broken folders shown as such."""

import io
import json

import pytest
from rich.console import Console

from launcher.rundir import RunFolder, RunRecord, RunState
from launcher.runs import list_run_rows, results_table

RECORD = RunRecord("veran-1", "veran-tools", "1", RunState.SUCCEEDED, "2026-01-08T12:00:00+00:00")
RATES = {"exact_match": 0.8, "tool_accuracy": 0.9, "parameter_f1": 0.85, "validity": 1.0, "execution_rate": 1.0}


def scores(**changes):
    metrics = {name: {"value": value, "low": 0.1, "high": 1.0} for name, value in (RATES | changes).items()}
    return {"examples": 300, "templates": 16, "metrics": metrics, "per_tool": {}}


def make_run(runs_dir, run_id="veran-1", **changes):
    fields = {**RECORD.__dict__, "id": run_id, **changes}
    return RunFolder.create(runs_dir, run_id, RunRecord(**fields))


def shown(rows):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(results_table(rows))
    return console.export_text()


def test_a_finished_run_with_both_evaluations(tmp_path):
    folder = make_run(tmp_path, started_at="2026-01-08T12:00:05+00:00", stop_reason="all steps done", usd=0.0123)
    base = {"test": scores(exact_match=0.0), "extra_test": scores(exact_match=0.01)}
    tuned = {"test": scores(exact_match=0.7), "extra_test": scores()}
    folder.write_json(folder.evaluation_file, {"base": base, "tuned": tuned})

    [row] = list_run_rows(tmp_path)

    assert (row["id"], row["job"], row["state"]) == ("veran-1", "veran-tools", "succeeded")
    assert (row["started_at"], row["stop_reason"]) == ("2026-01-08T12:00:05+00:00", "all steps done")
    assert row["usd"] == 0.0123
    assert row["tuned"] == RATES
    assert [row[key]["exact_match"] for key in ("base", "base_small", "tuned_small")] == [0.01, 0.0, 0.7]
    text = shown([row])
    assert "0.01 → 0.80" in text
    assert "0.0123" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_run_that_did_not_finish_says_why(tmp_path):
    make_run(tmp_path, state=RunState.STOPPED, stop_reason="deadline: 6 h are over")
    make_run(tmp_path, "veran-2", state=RunState.FAILED, error="no weights [there]")
    text = shown(list_run_rows(tmp_path))
    assert "veran-1: deadline: 6 h are over" in text
    assert "veran-2: no weights [there]" in text


def test_what_is_not_known_is_null_and_the_rows_are_json(tmp_path):
    make_run(tmp_path, state=RunState.PLANNED)
    [row] = json.loads(json.dumps(list_run_rows(tmp_path), allow_nan=False))
    assert row["state"] == "planned"
    assert [row[key] for key in ("base", "tuned", "base_small", "tuned_small", "usd", "started_at")] == [None] * 6
    assert "– → –" in shown([row])


def test_a_run_under_way_shows_its_newest_spend_and_the_base_score(tmp_path):
    folder = make_run(tmp_path, state=RunState.RUNNING, usd=0.001)
    folder.write_json(folder.progress_file, {"phase": "training", "usd": 0.004})
    folder.write_json(folder.evaluation_file, {"base": {"test": scores(), "extra_test": scores()}})
    [row] = list_run_rows(tmp_path)
    assert row["usd"] == 0.004
    assert row["base"]["exact_match"] == 0.8
    assert row["tuned"] is None


def test_a_part_without_examples_is_unknown_not_zero(tmp_path):
    folder = make_run(tmp_path)
    empty = {"examples": 0, "templates": 0, "metrics": {}, "per_tool": {}}
    folder.write_json(folder.evaluation_file, {"tuned": {"test": empty, "extra_test": scores()}})
    [row] = list_run_rows(tmp_path)
    assert row["tuned_small"] is None


@pytest.mark.parametrize(
    ("file", "content", "state"),
    [
        ("run.json", "{", "broken"),
        ("run.json", "[]", "broken"),
        ("run.json", '{"state": "asleep"}', "broken"),
        ("run.json", b"\xff\xfe", "broken"),
        ("run.json", None, "broken"),
        ("evaluation.json", "{", "broken"),
        ("evaluation.json", "[1]", "broken"),
        ("progress.json", "not json", "broken"),
        ("evaluation.json", '{"base": 3, "tuned": {"extra_test": {"metrics": {"exact_match": "x"}}}}', "succeeded"),
        ("evaluation.json", '{"tuned": {"extra_test": {"metrics": {"exact_match": {"value": NaN}}}}}', "succeeded"),
    ],
)
def test_a_broken_folder_is_shown_and_hides_no_other(tmp_path, file, content, state):
    make_run(tmp_path, "good-1")
    path = make_run(tmp_path, "bad-1").path / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    rows = {row["id"]: row for row in list_run_rows(tmp_path)}

    assert rows["good-1"]["state"] == "succeeded"
    assert rows["bad-1"]["state"] == state
    assert json.dumps(list(rows.values()), allow_nan=False)
    text = shown(list(rows.values()))
    assert "bad-1" in text
    if state == "broken":
        assert file in rows["bad-1"]["error"]
        assert file in text.replace("\n", "")


def test_other_folders_and_an_absent_runs_folder_are_no_runs(tmp_path):
    (tmp_path / "notes").mkdir()
    assert list_run_rows(tmp_path) == []
    assert list_run_rows(tmp_path / "nowhere") == []
