"""The main job end to end, shortened: real Ray, real training, real W&B files, real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.rundir import RunFolder
from tests.conftest import ROOT, read_jsonl

pytestmark = pytest.mark.slow
SPECIALISTS = ("veran-tools", "farore-debug", "nayru-editor")
Writer = Callable[..., Any]


def launcher(*arguments: object, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launcher", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def descendants_named(marker: str) -> list[psutil.Process]:
    """Processes of this machine that carry a marker in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if marker in " ".join(process.cmdline()) or marker in process.environ().get("RAY_AUTH_TOKEN_PATH", ""):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [p for p in found if p.pid != os.getpid()]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Three specialists at once, as `launcher run` trains them, twelve steps each."""
    folder = tmp_path_factory.mktemp("group")
    preset = folder / "short.yaml"
    preset.write_text((ROOT / "tests/data/presets/short.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    jobs = [folder / f"{name}.yaml" for name in SPECIALISTS]
    for path in jobs:
        shipped = ROOT / "jobs" / path.name
        text = shipped.read_text(encoding="utf-8").replace("extends: ", f"extends: {ROOT / 'jobs'}/")
        text = text.replace("file: prompts/", f"file: {ROOT / 'jobs'}/prompts/")
        # Twelve steps learn nothing, which patience would see.
        changes = "evaluate: {extra_test_examples: 24, bootstrap_samples: 200}\nearly_stopping: {patience: null}\n"
        path.write_text(f"{text}\n{changes}", encoding="utf-8")
    done = launcher("run", *jobs, "--local", "--preset", preset, "--runs-dir", folder / "runs", "--name", "g", "--json")
    return folder / "runs", done


class TestThreeAtOnce:
    def test_all_succeed_and_are_listed(self, group: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
        done = group[1]
        assert done.returncode == 0, done.stderr
        rows = {row["job"]: row for row in json.loads(done.stdout)}
        assert set(rows) == set(SPECIALISTS)
        for row in rows.values():
            assert row["state"] == "succeeded"
            assert row["usd"] > 0
            for scores in ("base", "tuned", "base_small", "tuned_small"):
                assert 0 <= row[scores]["exact_match"] <= 1

    def test_run_folder_is_the_record(self, group: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
        runs_dir, _ = group
        folder = RunFolder(runs_dir / "veran-tools-g")
        for path in (
            folder.spec_file, folder.split_file, folder.environment_file, folder.audit_file, folder.log_file,
            folder.metrics_file, folder.evaluation_file, folder.ledger_file, folder.report_file, folder.summary_file,
            folder.adapter_dir / "adapter_model.safetensors",
        ):  # fmt: skip
            assert path.is_file() and path.stat().st_size, path
        assert len(read_jsonl(folder.predictions_dir / "tuned-extra_test.jsonl")) == 24
        steps = [row["step"] for row in folder.read_metrics() if row["kind"] == "train"]
        assert steps == list(range(1, 13))
        evaluated = [row["step"] for row in folder.read_metrics() if row["kind"] == "eval"]
        assert evaluated == [2, 4, 6, 8, 10, 12]

    def test_jobs_overlap_in_time(self, group: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
        runs_dir, _ = group
        records = [RunFolder(runs_dir / f"{name}-g").read_record() for name in SPECIALISTS]
        assert max(r.started_at or "" for r in records) < min(r.ended_at or "" for r in records)

    def test_wandb_offline_files_tell_the_same(self, group: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
        from tests.wandb_files import read_offline_run

        runs_dir, _ = group
        ids = set()
        for name in SPECIALISTS:
            folder = RunFolder(runs_dir / f"{name}-g")
            run = read_offline_run(folder)
            assert run.group == "g"
            assert run.config["name"] == name and run.config["method"]["r"] == 16
            ids.add(run.id)
            logged = {row["train/global_step"]: row["train/loss"] for row in run.history if "train/loss" in row}
            losses = {row["step"]: row["loss"] for row in folder.read_metrics() if row["kind"] == "train"}
            assert logged == pytest.approx(losses)
            usd = [row["cost/usd"] for row in run.history if "cost/usd" in row]
            assert len(usd) == 12 and usd == sorted(usd)
        assert ids == {f"{name}-g" for name in SPECIALISTS}

    def test_nothing_is_left_running(self, group: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
        assert not descendants_named(str(group[0]))

    def test_a_second_group_of_that_name_is_refused(
        self, group: tuple[Path, subprocess.CompletedProcess[str]], short_preset: Writer
    ) -> None:
        runs_dir, _ = group
        job = ROOT / "jobs/veran-tools.yaml"
        done = launcher("run", job, "--local", "--preset", short_preset(), "--runs-dir", runs_dir, "--name", "g")
        assert done.returncode == 2
        assert "exists already" in done.stderr and "launcher resume" in done.stderr


def test_one_failing_job_does_not_take_the_other_down(tmp_path: Path, short_job: Writer, short_preset: Writer) -> None:
    good = short_job("nayru-editor", name="good")
    # Rows of 112 tokens and a limit of 48: the calls would be cut off, which the mask audit sees.
    bad = short_job("veran-tools", name="bad", train={"max_length": 48})
    runs_dir = tmp_path / "runs"
    done = launcher(
        "run", good, bad, "--local", "--preset", short_preset(max_length=None), "--runs-dir", runs_dir, "--name", "x"
    )
    assert done.returncode == 1
    assert "bad-x" in done.stderr
    assert RunFolder(runs_dir / "good-x").read_record().state == "succeeded"
    assert RunFolder(runs_dir / "bad-x").read_record().state == "failed"


def test_ctrl_c_saves_and_resume_goes_on(tmp_path: Path, short_job: Writer, short_preset: Writer) -> None:
    runs_dir = tmp_path / "runs"
    preset = short_preset(max_steps=80, eval_steps=20, save_steps=20)
    command = [sys.executable, "-m", "launcher", "run", str(short_job()), "--local", "--preset", preset]
    command += ["--runs-dir", str(runs_dir), "--name", "c"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = RunFolder(runs_dir / "veran-tools-c")
    wait_for(lambda: any(row["kind"] == "train" for row in folder.read_metrics()), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "launcher resume c" in said
    stopped = folder.read_record()
    assert stopped.state == "stopped" and stopped.stop_reason == "interrupted by the user"
    assert 0 < stopped.step < 80
    assert not descendants_named(str(runs_dir))

    changed = launcher("resume", "c", "--runs-dir", runs_dir)
    assert changed.returncode == 0, changed.stderr
    assert folder.read_record().state == "succeeded"
    steps = [row["step"] for row in folder.read_metrics() if row["kind"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == 80


def test_a_killed_worker_is_reported_and_resumed_from_its_checkpoint(
    tmp_path: Path, short_job: Writer, short_preset: Writer
) -> None:
    runs_dir = tmp_path / "runs"
    preset = short_preset(max_steps=60, eval_steps=10, save_steps=10)
    command = [sys.executable, "-m", "launcher", "run", str(short_job()), "--local", "--preset", preset]
    command += ["--runs-dir", str(runs_dir), "--name", "k"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = RunFolder(runs_dir / "veran-tools-k")
    wait_for(lambda: (folder.checkpoints_dir / "step-000020").is_dir(), process)
    worker = folder.read_record().pid
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "process died" in said
    assert folder.read_record().state == "failed"

    resumed = launcher("resume", "veran-tools-k", "--runs-dir", runs_dir)
    assert resumed.returncode == 0, resumed.stderr
    rows = folder.read_metrics()
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 61))
    assert next(row["step"] for row in rows if row["kind"] == "resume") >= 20


def test_two_groups_at_once_on_one_machine(tmp_path: Path, short_job: Writer, short_preset: Writer) -> None:
    """One by the command, one by the Ray program by hand."""
    job, preset = str(short_job()), short_preset()
    programs = {"one": ["launcher", "run", job, "--local"], "two": ["ray_jobs.specialists", job]}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", *program, "--preset", preset, "--runs-dir", str(tmp_path / "runs"), "--name", name],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name, program in programs.items()
    ]  # fmt: skip
    printed = [process.communicate(timeout=400) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    [row] = json.loads(printed[1][0].splitlines()[-1])
    assert (row["id"], row["state"]) == ("veran-tools-two", "succeeded")
    for name in ("one", "two"):
        assert RunFolder(tmp_path / f"runs/veran-tools-{name}").read_record().state == "succeeded"


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        if process.poll() is not None:
            raise AssertionError(f"ended early with {process.returncode}: {process.communicate()[1]}")
        time.sleep(0.2)
    process.kill()
    raise AssertionError("waited in vain")
