"""One job's training program in this process: curves, resuming, stop rules. A few steps of the real thing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import BadInput, Refused
from launcher.job import load_job
from launcher.run import create_runs, plan_run, runs_to_resume
from launcher.rundir import RunFolder, RunState
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
Writer = Callable[..., Any]


@pytest.fixture
def new_run(tmp_path: Path, short_job: Writer, short_preset: Writer) -> Callable[..., RunFolder]:
    """A function that makes the run folder of a short job; `job` and `train` change it."""

    def make(
        name: str, job: dict[str, Any] | None = None, usd_per_hour: float | None = None, **train: Any
    ) -> RunFolder:
        preset = short_preset(usd_per_hour, **train)
        spec = load_job(short_job(**(job or {})), preset)
        return create_runs([plan_run(spec, preset)], tmp_path / "runs", name)[0]

    return make


def losses(folder: RunFolder) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in folder.read_metrics() if row["kind"] == "train"}


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the run to stop when it has done so many steps, as Ctrl-C does."""
    from launcher.train.callbacks import RunCallback

    original = RunCallback.on_step_end

    def on_step_end(self: RunCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            self.folder.stop_file.write_text("asked by the test", encoding="utf-8")
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(RunCallback, "on_step_end", on_step_end)


def test_a_stopped_and_resumed_run_has_the_curve_of_an_uninterrupted_one(
    new_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher.train.finetune import finetune
    from tests.wandb_files import read_offline_run

    whole = new_run("whole")
    finetune(whole)
    assert whole.read_record().state == RunState.SUCCEEDED

    halved = new_run("halved")
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        finetune(halved)
    stopped = halved.read_record()
    assert (stopped.state, stopped.stop_reason, stopped.step) == ("stopped", "asked by the test", 5)
    halved.stop_file.unlink()
    finetune(halved, resume=True)

    assert losses(halved) == losses(whole)
    assert sorted(losses(halved)) == list(range(1, 13))
    evaluations = [[r for r in f.read_metrics() if r["kind"] == "eval"] for f in (whole, halved)]
    for one, other in zip(*evaluations, strict=True):
        assert {k: v for k, v in one.items() if k not in ("elapsed_s", "usd")} == {
            k: v for k, v in other.items() if k not in ("elapsed_s", "usd")
        }
    final = halved.read_record()
    assert final.state == RunState.SUCCEEDED and final.usd is not None and stopped.usd is not None
    assert final.usd > stopped.usd, "the first leg's spend counts on"
    tracked = read_offline_run(halved)
    assert tracked.files == 2 and tracked.id == "veran-tools-halved"
    steps = [row["train/global_step"] for row in tracked.history if "train/loss" in row]
    assert steps == list(range(1, 13))
    entries = [json.loads(line) for line in halved.ledger_file.read_text(encoding="utf-8").splitlines()]
    assert [entry["event"] for entry in entries] == ["started", "confirmed_gone"] * 2


def test_patience_stops_a_run_that_does_not_learn(new_run: Callable[..., RunFolder]) -> None:
    from launcher.train.finetune import finetune

    job = {"early_stopping": {"patience": 3, "min_fraction": 0.0}}
    folder = new_run("p", job, learning_rate=1e-7)
    finetune(folder)
    record = folder.read_record()
    assert record.state == RunState.STOPPED and record.step == 8
    assert record.stop_reason is not None and record.stop_reason.startswith("patience")
    assert (folder.adapter_dir / "adapter_model.safetensors").is_file()
    assert set(folder.read_json(folder.evaluation_file)) == {"base", "tuned"}


def test_a_nan_loss_stops_at_once_and_says_so(
    new_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher.train.finetune import finetune
    from launcher.train.trainer import ToolCallTrainer

    original = ToolCallTrainer.compute_loss

    def compute_loss(self: ToolCallTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, *args, **kwargs)
        return loss * math.nan if self.state.global_step == 4 else loss

    monkeypatch.setattr(ToolCallTrainer, "compute_loss", compute_loss)
    folder = new_run("nan")
    finetune(folder)
    record = folder.read_record()
    assert record.state == RunState.STOPPED and record.step == 5
    assert record.stop_reason is not None and "nan" in record.stop_reason
    assert record.best_step in (2, 4)


def test_the_budget_stops_below_the_cap_with_the_adapter_saved(
    new_run: Callable[..., RunFolder], own_home: Path
) -> None:
    # 15 usd at 900 usd an hour are a minute, which loading and the reserve already take half of.
    folder = new_run("b", {"budget": {"max_usd_per_hour": None}}, usd_per_hour=900, max_steps=4000)
    run_in_process_of_its_own(folder)
    record = folder.read_record()
    assert record.state == RunState.STOPPED
    assert record.stop_reason is not None and record.stop_reason.startswith("budget")
    assert record.usd is not None and 0 < record.usd <= 15
    assert 0 < record.step < 4000
    assert (folder.adapter_dir / "adapter_model.safetensors").is_file()

    with pytest.raises(Refused, match="--max-usd"):
        runs_to_resume(folder.path.parent, folder.id)
    with pytest.raises(BadInput, match="max_usd"):
        runs_to_resume(folder.path.parent, folder.id, max_usd=-1)
    assert runs_to_resume(folder.path.parent, folder.id, max_usd=30)[0].read_spec().budget.max_usd == 30


def test_a_step_that_never_returns_is_ended_at_the_deadline(new_run: Callable[..., RunFolder]) -> None:
    from launcher.run import settle

    folder = new_run("d", {"budget": {"deadline": "50s"}}, max_steps=4000)
    hang = (
        "from launcher.train.trainer import ToolCallTrainer as T; import time; o = T.training_step\n"
        "T.training_step = lambda s, *a: o(s, *a) if s.state.global_step < 3 else time.sleep(1e6)\n"
    )
    code = run_in_process_of_its_own(folder, hang)
    assert code != 0
    settle(folder, None)
    record = folder.read_record()
    assert record.state == RunState.STOPPED
    assert record.stop_reason is not None and "deadline" in record.stop_reason


def run_in_process_of_its_own(folder: RunFolder, before: str = "") -> int:
    """Train in another process: its deadline process would end this one."""
    program = (
        f"{before}\nfrom pathlib import Path; from launcher.rundir import RunFolder\n"
        f"from launcher.train.finetune import finetune; finetune(RunFolder(Path({str(folder.path)!r})))"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=300, check=False).returncode


def test_a_qlora_job_runs_through_the_same_program(new_run: Callable[..., RunFolder]) -> None:
    from launcher.train.finetune import finetune

    folder = new_run("q", {"method": {"kind": "qlora"}}, max_steps=16, learning_rate=1e-2)
    finetune(folder)
    assert folder.read_record().state == RunState.SUCCEEDED
    curve = losses(folder)
    assert curve[16] < 0.7 * curve[1]
    assert set(folder.read_json(folder.evaluation_file)) == {"base", "tuned"}
