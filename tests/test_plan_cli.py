"""The commands `plan`, `fit` and `speed`: what they print, their JSON, their exit codes, and bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.app import run

ROOT = Path(__file__).parent.parent
JOBS = [str(ROOT / "jobs" / f"{name}.yaml") for name in ("veran-tools", "farore-debug", "nayru-editor")]
POINTS = ROOT / "tests" / "data" / "cost"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """A launcher command in a home directory of its own: exit code, stdout, stderr."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SKY_RUNTIME_DIR", raising=False)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return command


def json_of(command: Command, *arguments: str, code: int = 0) -> dict[str, Any]:
    found, out, err = command(*arguments, "--json")
    assert found == code, err
    return json.loads(out)


# --- plan --------------------------------------------------------------------------------------------------------


def test_plan_json_holds_what_a_program_needs(launcher: Command) -> None:
    result = json_of(launcher, "plan", JOBS[0], "--offline")
    assert {"plans", "refused", "alternatives", "suggestions", "prices", "tokens"} <= set(result)
    first = result["plans"][0]
    assert first["usd"]["p10"] <= first["usd"]["p50"] <= first["usd"]["p90"] <= first["worst_case_usd"]
    assert first["peak_high_gib"] <= first["usable_gib"] < first["gpu_memory_gib"]
    assert first["jobs"][0]["job"] == "veran-tools"
    assert sum(first["jobs"][0]["components_gib"].values()) == pytest.approx(first["peak_gib"], abs=0.02)
    assert {entry["provider"] for entry in result["prices"]} == {"vast", "lambda", "runpod"}
    assert result["suggestions"] == []


def test_plan_prices_the_job_as_given_and_as_qlora_against_every_card(launcher: Command) -> None:
    result = json_of(launcher, "plan", JOBS[0], "--offline")
    assert all(plan["gpu_memory_gib"] * plan["gpus"] >= 80 for plan in result["plans"])
    qlora = {(plan["gpu"], plan["gpu_memory_gib"], plan["gpus"]) for plan in result["alternatives"]}
    assert {("RTX4090", 24.0, 4), ("RTX6000-Ada", 48.0, 1), ("L40S", 48.0, 1), ("A100-PCIe", 80.0, 1)} <= qlora
    assert {("RTXPRO6000-Server", 96.0, 1), ("H100", 80.0, 1)} <= qlora


def test_plan_table_says_where_prices_tokens_and_speeds_come_from(launcher: Command) -> None:
    code, out, _ = launcher("plan", *JOBS, "--offline")
    assert code == 0
    for words in ("cheapest first", "why not", "as qlora", "prices: vast: snapshot", "characters per token", "speed:"):
        assert words in out
    assert "3 machines, a job each" in out and "one machine, one job after another" in out


def test_nothing_possible_is_exit_code_3_and_names_the_smallest_change(launcher: Command) -> None:
    code, out, err = launcher("plan", JOBS[0], "--offline", "--max-usd", "0.05")
    assert code == 3
    assert "no plan for veran-tools" in out and "a cap of" in out
    assert "no offer can run this within its limits" in err
    result = json_of(launcher, "plan", JOBS[0], "--offline", "--max-usd", "0.05", code=3)
    assert result["plans"] == [] and result["refused"] and result["suggestions"]


def test_own_machines_are_ranked_with_the_rest(launcher: Command, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "machines:\n- {name: desk, gpu: H100, gpus: 1, memory: 80GiB, watts: 700, usd_per_kwh: 0.30}\n",
        encoding="utf-8",
    )
    first = json_of(launcher, "plan", JOBS[0], "--offline", "--own", str(own))["plans"][0]
    assert first["provider"] == "own"
    assert first["usd_per_hour"] == pytest.approx(0.21)


def test_data_that_is_not_there_yet_can_be_stated(launcher: Command) -> None:
    job = str(ROOT / "jobs" / "osrs-controller.yaml")
    code, _, err = launcher("plan", job, "--offline")
    assert code == 2 and "osrs-controller.jsonl: not found" in err
    result = json_of(launcher, "plan", job, "--offline", "--rows", "1700", "--tokens-per-row", "900")
    assert result["tokens"]["osrs-controller"] == "stated: 1700 rows of 900 tokens"


def test_a_page_is_written(launcher: Command, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    code, out, _ = launcher("plan", JOBS[0], "--offline", "--html", str(page))
    assert code == 0 and str(page) in out
    assert "<svg" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan"], "a job file is needed"),
        (["plan", JOBS[0], "--max-usd", "0"], "--max-usd: '0'"),
        (["plan", JOBS[0], "--deadline", "6"], "--deadline: '6'"),
        (["plan", JOBS[0], "--gpu", "RTX4900"], "gpu: 'RTX4900': unknown; nearest: RTX4090"),
        (["plan", JOBS[0], JOBS[0]], "veran-tools given more than once"),
        (["plan", JOBS[0], "--rows", "10"], "--tokens-per-row"),
        (["fit"], "a job file, or --model NAME, or --cases FILE"),
        (["fit", "--model", "nonsense-9b"], "model: 'nonsense-9b': unknown"),
        (["fit", "--model", "Qwen2.5-7B", "--seq-len", "999999"], "context of 131072 tokens"),
        (["fit", "--model", "Qwen2.5-7B", "--stack", "trol"], "stack: 'trol': unknown; did you mean trl?"),
        (["fit", "--model", "Qwen2.5-7B", "--method", "lorra"], "method"),
        (["fit", "--model", "Qwen2.5-7B", "--gpu", "4091"], "gpu: '4091': unknown"),
        (["fit", "--model", "Qwen2.5-7B", "--micro-batch", "0"], "--micro-batch"),
        (["speed", "--cases", "no-such-file"], "no-such-file: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(launcher: Command, arguments: list[str], message: str) -> None:
    code, out, err = launcher(*arguments)
    assert code == 2
    assert message in err
    assert out == ""


# --- fit and speed -----------------------------------------------------------------------------------------------


def test_fit_says_which_cards_hold_a_32b_by_qlora(launcher: Command) -> None:
    arguments = ["--model", "Qwen2.5-Coder-32B", "--method", "qlora", "--seq-len", "2048", "--stack", "trl"]
    report = json_of(launcher, "fit", *arguments)
    assert report["peak_gib"] == pytest.approx(21.9, rel=0.03)
    fits = {(row["gpu"], row["memory_gib"]): row["fits"] for row in report["gpus"]}
    assert fits["RTX4090", 24.0] == "tight"
    assert fits["RTX4090", 48.0] == fits["RTX5090", 32.0] == "yes"
    assert fits["RTX3060", 12.0] == "no"


def test_fit_takes_a_job_and_changes_to_it(launcher: Command) -> None:
    as_given = json_of(launcher, "fit", JOBS[0])
    smaller = json_of(launcher, "fit", JOBS[0], "--micro-batch", "1", "--method", "qlora")
    assert as_given["peak_gib"] > 61 > smaller["peak_gib"]


def test_fit_reads_a_config_of_any_model(launcher: Command) -> None:
    folder = ROOT / "launcher" / "assets" / "tiny-base"
    report = json_of(launcher, "fit", "--model", str(folder), "--method", "lora", "--seq-len", "256")
    assert 0 < report["components_gib"]["weights"] < 0.01


@pytest.mark.parametrize(("verb", "file", "answer"), [("fit", "memory", "peak_gib"), ("speed", "throughput", "low")])
def test_a_bad_line_is_named_the_rest_is_scored_and_the_exit_code_is_2(
    launcher: Command, tmp_path: Path, verb: str, file: str, answer: str
) -> None:
    lines = (POINTS / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    unknown = json.dumps({**json.loads(lines[0]), "model": "nonsense-9b", "architecture": None})
    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join([lines[0], "{broken", lines[1], unknown, lines[2]]), encoding="utf-8")
    code, out, err = launcher(verb, "--cases", str(cases), "--json")
    assert code == 2
    scored = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in scored] == [json.loads(line)["id"] for line in lines]
    assert all(row[answer] > 0 for row in scored)
    assert "line 2: not JSON" in err
    assert "line 4" in err and "nonsense-9b" in err


def test_a_job_for_another_stack_is_planned_but_not_run(launcher: Command, short_job: Callable[..., Path]) -> None:
    job = short_job(train={"stack": "axolotl"})
    assert json_of(launcher, "fit", str(job))["peak_gib"] > 0
    code, _, err = launcher("run", str(job), "--local")
    assert code == 2
    assert "train.stack: 'axolotl'" in err


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["check"], ["plan", "--offline"]])
def test_json_of_a_command_that_loads_the_training_libraries_is_json_alone(
    tmp_path: Path, arguments: list[str]
) -> None:
    command = [sys.executable, "-m", "launcher", *arguments, JOBS[0], "--preset", "tiny", "--json"]
    environment = {**os.environ, "HOME": str(tmp_path), "LAUNCHER_HOME": str(tmp_path / "launcher")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert isinstance(json.loads(done.stdout), dict)
