"""What runs measure of themselves: the time still to come, the speed of later plans, and how far off both were."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from launcher.architecture import Architecture
from launcher.cli.live import jobs_table
from launcher.cost.calibration import (
    CalibrationRecord,
    append,
    calibrated_speed,
    calibration_file,
    installed_versions,
    read,
    read_calibrations,
)
from launcher.cost.reestimate import StepSample, mean_speed, reestimate, steps_to_measure
from launcher.cost.workload import Stack, Workload
from launcher.report.estimates import estimate_table
from launcher.report.view import read_run
from launcher.report.write import write_report
from launcher.rundir import RunFolder
from tests.conftest import read_jsonl
from tests.synthetic_runs import write_run

ARCHITECTURE = Architecture(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    vocab_size=128256,
    head_dim=128,
    family="llama",
)
WORKLOAD = Workload(
    architecture=ARCHITECTURE,
    method="qlora",
    quantization="nf4-dq",
    seq_len=1024,
    micro_batch=4,
    stack=Stack(name="launcher", loss="trained_positions"),
)
RECORD = CalibrationRecord(
    at=1_767_874_800.0,
    run_id="r",
    gpu="NVIDIA GeForce RTX 4090",
    gpu_memory_gib=23.5,
    gpus=1,
    model="meta-llama/Llama-3.1-8B-Instruct",
    family="llama",
    parameters=ARCHITECTURE.parameters,
    method="qlora",
    quantization="nf4-dq",
    rank=16,
    seq_len=1024,
    micro_batch=4,
    gradient_checkpointing=True,
    attention="sdpa",
    weight_bytes=2,
    sharding="none",
    stack="launcher",
    versions={"torch": "2.13.0", "trl": "1.16.0"},
    tokens_per_second_per_gpu=2000.0,
    tokens_per_second_low=1950.0,
    tokens_per_second_high=2060.0,
    peak_reserved_gib=11.2,
    load_s=40.0,
    steps=20,
)
VERSIONS = {"torch": "2.13.1", "trl": "1.17.0"}
# 8 to 200 seconds a step, 100 to 100,000 tokens.
SAMPLES = st.lists(
    st.builds(StepSample, st.floats(1e2, 1e5), st.floats(1e-3, 2e2)),
    min_size=3,
    max_size=25,
)


def flops(workload: Workload) -> float:
    return workload.architecture.parameters * (6 if workload.gradient_checkpointing else 4)


def speed(*records: CalibrationRecord, gpu: str = "RTX4090", **changes: Any) -> Any:
    return calibrated_speed(dataclasses.replace(WORKLOAD, **changes), gpu, records, flops, VERSIONS)


# --- the time still to come ------------------------------------------------------------------------------------------


@given(SAMPLES, st.integers(0, 1000), st.floats(0, 1e7))
def test_the_interval_contains_its_median(samples: list[StepSample], steps: int, tokens: float) -> None:
    left = reestimate(samples, steps, tokens)
    assert 0 <= left.p10 <= left.p50 <= left.p90 < math.inf


@given(SAMPLES, st.integers(1, 1000), st.floats(0, 1e7), st.floats(0, 1e7))
def test_more_tokens_never_take_less_time(samples: list[StepSample], steps: int, tokens: float, more: float) -> None:
    few, many = reestimate(samples, steps, tokens), reestimate(samples, steps, tokens + more)
    for one, other in zip(dataclasses.astuple(few), dataclasses.astuple(many), strict=True):
        assert one <= other * (1 + 1e-9)


@given(st.floats(1e-2, 1e2), st.floats(1e2, 1e5), st.integers(3, 25), st.integers(1, 10_000))
def test_a_constant_step_leaves_nothing_unsure(seconds: float, tokens: float, measured: int, steps: int) -> None:
    left = reestimate([StepSample(tokens, seconds)] * measured, steps, tokens * steps)
    assert left.p50 == pytest.approx(seconds * steps)
    assert left.p90 - left.p10 <= 1e-6 * left.p50


def test_steps_of_other_lengths_are_told_from_slow_ones() -> None:
    samples = [StepSample(tokens, 0.5 + tokens * 1e-3) for tokens in (900, 1500, 1100, 2000, 1300)]
    left = reestimate(samples, 10, 30_000)
    assert left.p50 == pytest.approx(5 + 30) and left.p90 - left.p10 < 1e-6


def test_nothing_left_takes_no_time() -> None:
    assert dataclasses.astuple(reestimate([StepSample(10, 1.0)] * 3, 0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("measured", [5, 20])
def test_eight_of_ten_runs_end_inside_the_interval(measured: int) -> None:
    rng, inside, runs = random.Random(0), 0, 600
    for _ in range(runs):
        lengths = [rng.gauss(4000, 600) for _ in range(measured + 300)]
        steps = [StepSample(x, (0.2 + x * 1e-4) * rng.lognormvariate(0, 0.1)) for x in lengths]
        left = reestimate(steps[:measured], 300, 300 * 4000)
        inside += left.p10 <= sum(step.seconds for step in steps[measured:]) <= left.p90
    assert 0.74 <= inside / runs <= 0.88


def test_slow_steps_in_a_row_make_it_less_sure() -> None:
    alternating = [StepSample(100, 1.0 if i % 2 else 2.0) for i in range(20)]
    in_a_row = [StepSample(100, 1.0 if i < 10 else 2.0) for i in range(20)]
    widths = [reestimate(samples, 100, 10_000) for samples in (alternating, in_a_row)]
    assert widths[1].p90 - widths[1].p50 > 2 * (widths[0].p90 - widths[0].p50)


def test_the_speed_is_that_of_all_steps_together() -> None:
    measured = mean_speed([StepSample(1000, 1.0), StepSample(3000, 2.0), StepSample(2000, 1.6)])
    assert measured.median == pytest.approx(6000 / 4.6)
    assert measured.quantile(0.1) < measured.median < measured.quantile(0.9)


# --- the speed of later plans ----------------------------------------------------------------------------------------


def test_the_same_configuration_gives_its_own_speed_with_a_tight_interval() -> None:
    found = speed(RECORD)
    assert found.median == 2000
    assert found.quantile(0.1) / found.median > 0.85 and found.quantile(0.9) / found.median < 1.15


def test_another_configuration_is_scaled_by_its_flops_and_less_sure() -> None:
    same, longer, other = speed(RECORD), speed(RECORD, seq_len=4096), speed(RECORD, gradient_checkpointing=False)
    assert longer.median == 2000 and longer.below > same.below
    assert other.median == pytest.approx(3000)
    assert speed(RECORD, seq_len=65536).below > longer.below, "the further away, the less sure"
    twice = dataclasses.replace(RECORD, parameters=2 * RECORD.parameters, model="a larger one")
    assert speed(twice).median == pytest.approx(4000) and speed(twice).below > same.below


def test_the_same_configuration_counts_alone_where_there_is_one() -> None:
    near = dataclasses.replace(RECORD, seq_len=512, tokens_per_second_per_gpu=1955.0)
    assert speed(RECORD, near, near).median == 2000


def test_several_runs_count_by_their_median_and_as_they_differ() -> None:
    runs = [
        dataclasses.replace(RECORD, tokens_per_second_per_gpu=s, tokens_per_second_low=s, tokens_per_second_high=s)
        for s in (1000.0, 2000.0, 2200.0)
    ]
    found = speed(*runs)
    assert found.median == pytest.approx(2000) and found.below > 0.3


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "NVIDIA H100 80GB HBM3"},
        {"stack": "hf"},
        {"method": "lora", "quantization": "none"},
        {"sharding": "fsdp"},
        {"gpus": 2},
        {"family": "qwen2"},
        {"weight_bytes": 4},
        {"versions": {"torch": "3.0.0"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_not_comparable_is_ignored(change: dict[str, Any]) -> None:
    assert speed(dataclasses.replace(RECORD, **change)) is None


def test_a_library_that_is_not_installed_here_is_not_compared() -> None:
    record = dataclasses.replace(RECORD, versions={"bitsandbytes": "9.0"})
    assert speed(record) is not None


def test_no_record_is_no_speed() -> None:
    assert speed() is None


# --- the file --------------------------------------------------------------------------------------------------------


def test_what_was_appended_is_read_back(own_home: Path) -> None:
    assert read_calibrations() == []
    append(calibration_file(), RECORD)
    later = dataclasses.replace(RECORD, run_id="s", gpu="AMD EPYC", gpu_memory_gib=None, peak_reserved_gib=None)
    append(calibration_file(), later)
    assert calibration_file() == own_home / "calibration.jsonl"
    assert read_calibrations() == [RECORD, later]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '"text"',
        json.dumps(dataclasses.asdict(RECORD) | {"tokens_per_second_per_gpu": 0}),
        json.dumps(dataclasses.asdict(RECORD) | {"tokens_per_second_per_gpu": math.nan}),
        json.dumps(dataclasses.asdict(RECORD) | {"tokens_per_second_low": 3000.0}),
        json.dumps(dataclasses.asdict(RECORD) | {"method": "magic"}),
    ],
)
def test_a_broken_line_is_counted_and_the_rest_still_used(tmp_path: Path, line: str) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(line + "\n", encoding="utf-8")
    append(file, RECORD)
    assert read(file) == ([RECORD], 1)


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(json.dumps(dataclasses.asdict(RECORD) | {"colour": "blue"}) + "\n", encoding="utf-8")
    assert read(file) == ([RECORD], 0)


# --- what is shown ---------------------------------------------------------------------------------------------------

CALIBRATION = {
    "kind": "calibration",
    "step": 25,
    "steps_measured": 20,
    "tokens_per_second_per_gpu": 4100.0,
    "peak_reserved_gib": 11.2,
    "total_s": {"p10": 170.0, "p50": 180.0, "p90": 200.0},
    "total_usd": {"p10": 0.0024, "p50": 0.0025, "p90": 0.0028},
}
ERROR = {
    "kind": "calibration_error",
    "step": 400,
    "training": None,
    "total": {"actual_s": 187.0, "error": -0.037, "is_inside": True},
}


def test_the_report_sets_prediction_reestimate_and_end_beside_each_other(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    assert estimate_table(read_run(folder)).rows == ()
    prediction = {"hours": {"p10": 0.04, "p50": 0.05, "p90": 0.08}, "usd": {"p10": 0.002, "p50": 0.003, "p90": 0.004}}
    folder.write_json(folder.prediction_file, prediction)
    folder.append_metrics(CALIBRATION)
    folder.append_metrics(ERROR)
    table = estimate_table(read_run(folder))
    assert [name for name, _ in table.rows] == ["predicted by the plan", "re-estimated at step 25", "final"]
    assert table.rows[1][1] == ("3 min 00 s (2 min 50 s to 3 min 20 s)", "$0.0025 ($0.0024 to $0.0028)")
    assert dict(table.facts)["error of the re-estimate"] == "−3.7%, inside its 10th to 90th percentile"
    html = write_report([folder], None).read_text(encoding="utf-8")
    markdown = folder.summary_file.read_text(encoding="utf-8")
    for text in (html, markdown):
        assert "re-estimated at step 25" in text and "predicted by the plan" in text and "11.2 GiB" in text


def test_a_damaged_estimate_does_not_break_the_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    folder.prediction_file.write_text('{"hours": 3}', encoding="utf-8")
    folder.append_metrics({"kind": "calibration", "step": 25, "total_s": "soon"})
    write_report([folder], None)
    assert "re-estimated at step 25 | – | –" in folder.summary_file.read_text(encoding="utf-8")


def test_the_live_table_shows_the_line_while_the_run_goes_on(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    folder.write_json(folder.progress_file, {"phase": "training", "reestimate": "re-estimated at step 25"})

    def shown() -> str:
        console = Console(width=200, file=io.StringIO(), record=True)
        console.print(jobs_table([folder]))
        return console.export_text()

    assert "re-estimated" not in shown(), "the run has ended"
    folder.update_record(state="running", pid=None)
    assert "veran-tools: re-estimated at step 25" in shown()


# --- a real run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "expected"), [(1000, (5, 20)), (80, (5, 20)), (12, (1, 3)), (2, (1, 3))])
def test_short_runs_are_measured_on_fewer_steps(steps: int, expected: tuple[int, int]) -> None:
    assert steps_to_measure(steps) == expected


@pytest.mark.slow
def test_a_run_is_calibrated_and_the_next_plan_knows_its_speed(
    tmp_path: Path,
    short_job: Callable[..., Path],
    short_preset: Callable[..., str],
    own_home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from launcher.job import load_job
    from launcher.models import find_architecture
    from launcher.run import create_runs, plan_run
    from launcher.train.finetune import finetune
    from launcher.train.session import device_name
    from tests.wandb_files import read_offline_run

    preset = short_preset(max_steps=32, eval_steps=8, save_steps=8)
    spec = load_job(short_job(), preset)
    folder: RunFolder = create_runs([plan_run(spec, preset)], tmp_path / "runs", "c")[0]
    finetune(folder)

    (row,) = [row for row in folder.read_metrics() if row["kind"] == "calibration"]
    assert (row["step"], row["steps_measured"]) == (10, 8)
    assert row["remaining_s"]["p10"] < row["remaining_s"]["p50"] < row["remaining_s"]["p90"]
    assert row["total_s"]["p50"] == pytest.approx(row["elapsed_s"] + row["remaining_s"]["p50"])
    assert row["total_usd"]["p50"] == pytest.approx(row["total_s"]["p50"] * 0.05 / 3600)
    lines = [line for line in capsys.readouterr().out.splitlines() if "re-estimated" in line]
    assert len(lines) == 1 and lines[0].startswith("re-estimated at step 10 from 8 steps: ")
    assert folder.read_json(folder.progress_file)["reestimate"] == lines[0]

    (error,) = [row for row in folder.read_metrics() if row["kind"] == "calibration_error"]
    actual = error["total"]["actual_s"]
    assert error["total"]["error"] == pytest.approx(error["total"]["predicted_s"]["p50"] / actual - 1)
    assert actual == pytest.approx(error["elapsed_s"], abs=0.5)
    assert 0 < error["training"]["actual_s"] < actual
    assert [name for name, _ in estimate_table(read_run(folder)).rows] == ["re-estimated at step 10", "final"]

    history = [r for r in read_offline_run(folder).history if "calibration/remaining_s_p50" in r]
    assert [r["train/global_step"] for r in history] == [10]

    (record,) = read_calibrations()
    assert len(read_jsonl(own_home / "calibration.jsonl")) == 1
    architecture = find_architecture("builtin:tiny-base")
    assert (record.gpu, record.gpu_memory_gib, record.run_id) == (device_name(), None, folder.id)
    assert (record.parameters, record.family) == (architecture.parameters, architecture.family)
    assert record.versions == installed_versions() and record.load_s is not None and record.peak_reserved_gib is None
    planned = Workload(
        architecture=architecture, method="lora", quantization="none", rank=16, seq_len=record.seq_len, micro_batch=8,
        stack=Stack(name="launcher", loss="trained_positions"), gradient_checkpointing=False, weight_bytes=4,
    )  # fmt: skip
    found = calibrated_speed(planned, device_name(), read_calibrations(), flops)
    assert found is not None and found.median == pytest.approx(row["tokens_per_second_per_gpu"])
    assert calibrated_speed(planned, "H100", read_calibrations(), flops) is None
