"""What a user gets wrong: one clear line that names the place, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.app import run
from tests.conftest import SHORT_PRESET

Writer = Callable[..., Any]
GOOD_RECORD = {
    "id": "synthetic_mesen2_run_0001",
    "instruction": "Run 60 frames",
    "tool_calls": [{"tool": "mesen2.run", "parameters": {"frames": 60}, "rationale": "", "expected_output": ""}],
    "success_criteria": "done",
}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs a command line, expects exit code 2 and no run folder, and returns what was said."""

    def check(*arguments: object, code: int = 2) -> str:
        runs_dir = tmp_path / "runs"
        before = sorted(runs_dir.rglob("*"))
        assert (
            run(
                [*map(str, arguments), "--runs-dir", str(runs_dir)]
                if arguments[0] in RUN_VERBS
                else [*map(str, arguments)]
            )
            == code
        )
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        assert sorted(runs_dir.rglob("*")) == before
        return said.err

    return check


RUN_VERBS = ("run", "resume", "report")


def job_on(source: Path, short_job: Writer, **data: Any) -> Path:
    return short_job("farore-debug", data={"source": str(source), **data})


def run_arguments(job: Path) -> tuple[object, ...]:
    return ("run", job, "--local", "--preset", SHORT_PRESET)


def test_missing_job_file(refused: Callable[..., str]) -> None:
    said = refused("run", "jobs/veran-tolls.yaml", "--local")
    assert "jobs/veran-tolls.yaml" in said and len(said.splitlines()) == 1


def test_broken_yaml_names_file_and_line(refused: Callable[..., str], tmp_path: Path) -> None:
    job = tmp_path / "broken.yaml"
    job.write_text("name: x\n  model: [\n", encoding="utf-8")
    said = refused(*run_arguments(job))
    assert "broken.yaml:2" in said


def test_unknown_key_and_negative_budget_come_together(refused: Callable[..., str], short_job: Writer) -> None:
    job = short_job(train={"learning_rte": 0.1}, budget={"max_usd": "-15 usd"})
    said = refused(*run_arguments(job))
    assert "train.learning_rte" in said and "did you mean learning_rate" in said
    assert "budget.max_usd" in said and "-15" in said


def test_faults_of_all_jobs_come_together(refused: Callable[..., str], short_job: Writer) -> None:
    one = short_job(name="one", train={"epochs": -1})
    two = short_job(name="two", train={"seed": "x"})
    said = refused("run", one, two, "--local", "--preset", SHORT_PRESET)
    assert "one.yaml" in said and "two.yaml" in said


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["empty"]),
        (["not json"], ["examples.jsonl", "1"]),
        ([GOOD_RECORD | {"tool_calls": [{"tool": "mesen2.rum", "parameters": {}}]}], ["mesen2.rum", "mesen2.run"]),
        ([GOOD_RECORD | {"tool_calls": [{"tool": "mesen2.run", "parameters": "{frames"}]}], ["parameters", "JSON"]),
        ([GOOD_RECORD | {"tool_calls": [{"tool": "mesen2.run", "parameters": {"frames": "many"}}]}], ["frames"]),
    ],
    ids=["empty", "not JSON", "unknown tool", "arguments not JSON", "against the schema"],
)
def test_bad_data(
    refused: Callable[..., str], tmp_path: Path, short_job: Writer, lines: list[Any], words: list[str]
) -> None:
    source = tmp_path / "examples.jsonl"
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    source.write_text(text, encoding="utf-8")
    said = refused(*run_arguments(job_on(source, short_job)))
    assert "examples.jsonl" in said
    for word in words:
        assert word in said


def test_missing_data_file(refused: Callable[..., str], tmp_path: Path, short_job: Writer) -> None:
    assert "gone.jsonl" in refused(*run_arguments(job_on(tmp_path / "gone.jsonl", short_job)))


def test_subset_without_examples(refused: Callable[..., str], tmp_path: Path, short_job: Writer) -> None:
    source = tmp_path / "examples.jsonl"
    source.write_text(json.dumps(GOOD_RECORD) + "\n", encoding="utf-8")
    said = refused(*run_arguments(job_on(source, short_job, tools=["mesen2.screenshot"])))
    assert "mesen2.screenshot" in said


def test_unknown_tool_in_the_subset(refused: Callable[..., str], short_job: Writer) -> None:
    said = refused(*run_arguments(short_job(data={"tools": ["mesen2.screenshoot"]})))
    assert "mesen2.screenshoot" in said and "mesen2.screenshot" in said


def test_run_folder_exists(refused: Callable[..., str], tmp_path: Path, short_job: Writer) -> None:
    (tmp_path / "runs/veran-tools-mine").mkdir(parents=True)
    said = refused(*run_arguments(short_job()), "--name", "mine")
    assert "exists already" in said and "launcher resume veran-tools-mine" in said


def test_run_id_that_is_a_path(refused: Callable[..., str], short_job: Writer) -> None:
    assert "letters, digits" in refused(*run_arguments(short_job()), "--name", "../elsewhere")


def test_same_job_twice(refused: Callable[..., str], short_job: Writer) -> None:
    job = short_job()
    assert "more than once" in refused("run", job, job, "--local", "--preset", SHORT_PRESET)


def test_unknown_preset(refused: Callable[..., str], short_job: Writer) -> None:
    said = refused("run", short_job(), "--local", "--preset", "tinny")
    assert "tinny" in said and "tiny" in said


def test_model_that_does_not_fit_is_refused(refused: Callable[..., str], short_job: Writer) -> None:
    said = refused("run", short_job(), "--local", "--preset", "none", code=3)
    assert "GiB" in said and "--preset tiny" in said


@pytest.mark.parametrize("verb", ["resume", "report"])
def test_unknown_run(refused: Callable[..., str], verb: str) -> None:
    assert "nobody" in refused(verb, "nobody")


def test_schedule_of_the_plan_is_refused_with_the_way_out(refused: Callable[..., str], short_job: Writer) -> None:
    job = short_job(train={"eval_steps": 50, "save_steps": 100}, early_stopping={"patience": 3})
    said = refused("check", job)
    assert "eval_steps" in said and "eval_steps: auto" in said
