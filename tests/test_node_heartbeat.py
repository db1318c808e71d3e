"""The heartbeat: a run whose steps have stopped is ended and says so; slow steps, validations and saves are no hang."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.node.heartbeat import Beat, Pulse, Watch, percentile_99, read_beat
from launcher.run import settle
from launcher.rundir import RunFolder, RunRecord, RunState
from tests.conftest import ROOT

STEPS = st.lists(st.floats(0.1, 600), min_size=5, max_size=300)


def train(pulse: Pulse, step_times: list[float], now: float = 0.0) -> float:
    """Feed a pulse one step after the other; the time after the last."""
    pulse.update(Beat("training", 0, now), now)
    for step, seconds in enumerate(step_times, start=1):
        now += seconds
        pulse.update(Beat("training", step, now), now)
    return now


@given(STEPS)
def test_the_limit_is_five_slow_steps_and_at_least_three_minutes(step_times: list[float]) -> None:
    pulse = Pulse()
    now = train(pulse, step_times)
    limit = max(180, 5 * percentile_99(step_times))
    assert pulse.limit_s == pytest.approx(limit)
    assert pulse.hang(now + 0.99 * limit) is None
    assert "heartbeat: nothing for" in str(pulse.hang(now + 1.01 * limit))


@given(STEPS)
def test_no_pace_seen_before_counts_as_a_hang(step_times: list[float]) -> None:
    pulse = Pulse()
    now = train(pulse, step_times)
    assert pulse.hang(now + max(step_times[-100:])) is None


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_at_least_99_of_100_values_do_not_exceed_the_percentile(values: list[float]) -> None:
    limit = percentile_99(values)
    assert limit in values
    assert sum(value <= limit for value in values) >= 0.99 * len(values)


def test_before_step_times_are_known_it_waits_longer() -> None:
    pulse = Pulse(first_silence_s=900)
    now = train(pulse, [1.0, 1.0])
    assert pulse.hang(now + 800) is None
    assert pulse.hang(now + 901) is not None


@pytest.mark.parametrize("phase", ["loading", "checking", "saving", "done"])
def test_phases_without_steps_are_left_to_their_deadlines(phase: str) -> None:
    pulse = Pulse()
    pulse.update(Beat(phase, 0, 0), 0)
    assert pulse.hang(1e6) is None


def test_a_validation_may_take_as_long_as_the_answers_before_it_did() -> None:
    pulse = Pulse()
    for batch in range(7):
        pulse.update(Beat("evaluating", 64 * batch, 100.0 * batch), 100.0 * batch)
    now = train(pulse, [2.0] * 50, now=700.0)
    assert pulse.hang(now + 450) is None, "a batch of answers took 100 s"
    assert pulse.hang(now + 550) is not None


def test_a_sign_of_life_without_a_step_is_no_silence() -> None:
    pulse = Pulse()
    now = train(pulse, [2.0] * 50)
    for _ in range(10):  # a checkpoint that takes half an hour to write
        now += 170
        pulse.update(Beat("training", 50, now), now)
        assert pulse.hang(now) is None
    assert pulse.hang(now + 181) is not None


def test_a_run_resumed_from_an_earlier_step_starts_its_figures_anew() -> None:
    pulse = Pulse(first_silence_s=900)
    now = train(pulse, [2.0] * 50)
    pulse.update(Beat("training", 40, now), now)
    assert pulse.limit_s == 900


# --- a real process --------------------------------------------------------------------------------------------------


@pytest.fixture
def trainer() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a trainer which hangs and does not listen."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(1000)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def folder(tmp_path: Path, trainer: subprocess.Popen[bytes]) -> RunFolder:
    """The folder of a run under that process, in training."""
    record = RunRecord(
        "one", "veran-tools", "group", RunState.RUNNING, "2026-01-08T12:00:00+00:00",
        pid=trainer.pid, pid_created_at=psutil.Process(trainer.pid).create_time(),
    )  # fmt: skip
    folder = RunFolder.create(tmp_path / "runs", "one", record)
    show(folder, step=0)
    return folder


def show(folder: RunFolder, step: int) -> None:
    folder.write_json(folder.progress_file, {"phase": "training", "step": step, "updated_at": time.time()})


def test_a_hung_trainer_is_ended_and_its_run_says_why(
    folder: RunFolder, trainer: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.node.heartbeat.GRACE_SECONDS", 0.2)
    watch = Watch(folder.path.parent)
    for step in range(10):
        show(folder, step)
        assert watch.poll(now=10.0 * step) == []
    assert watch.poll(now=90.0 + 179) == []
    assert trainer.poll() is None
    [line] = watch.poll(now=90.0 + 181)
    assert line.startswith("run one: heartbeat: nothing for 181 s after step 9")
    assert trainer.wait(timeout=30) != 0

    settle(folder, None)
    record = folder.read_record()
    assert record.state == RunState.STOPPED
    assert str(record.stop_reason).startswith("heartbeat: nothing for 181 s")
    assert watch.poll(now=1000.0) == [], "what has ended is not ended again"


def test_a_growing_checkpoint_is_a_sign_of_life(folder: RunFolder) -> None:
    before = read_beat(folder)
    part = folder.checkpoints_dir / ".saving-000040" / "checkpoint-40" / "optimizer.pt"
    part.parent.mkdir(parents=True)
    part.touch()
    os.utime(part, (time.time() + 60,) * 2)
    after = read_beat(folder)
    assert before is not None and after is not None
    assert after.alive_at > before.alive_at and after.count == before.count


def test_runs_that_are_over_or_unreadable_are_left_alone(folder: RunFolder, trainer: subprocess.Popen[bytes]) -> None:
    broken = folder.path.parent / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{", encoding="utf-8")
    folder.update_record(state=RunState.SUCCEEDED)
    watch = Watch(folder.path.parent, first_silence_s=0)
    assert watch.poll(0.0) == watch.poll(1e6) == []
    assert trainer.poll() is None


def test_it_ends_with_the_process_it_belongs_to(tmp_path: Path) -> None:
    owner = subprocess.Popen(["sleep", "1000"])
    command = [sys.executable, "-m", "launcher.node.heartbeat", "--runs-dir", str(tmp_path), "--while-pid"]
    heartbeat = subprocess.Popen([*command, str(owner.pid)], cwd=ROOT)
    try:
        owner.kill()
        owner.wait()
        assert heartbeat.wait(timeout=30) == 0
    finally:
        heartbeat.kill()
        heartbeat.wait()
        owner.kill()


def test_what_the_heartbeat_reads_is_what_a_run_writes(folder: RunFolder) -> None:
    folder.write_json(folder.progress_file, {"phase": "evaluating", "answered": 64, "prompts": 333, "updated_at": 5.0})
    assert read_beat(folder) == Beat("evaluating", 64, 5.0)
    folder.write_json(folder.progress_file, {"phase": "loading", "updated_at": 6.0})
    assert read_beat(folder) == Beat("loading", 0, 6.0)
    folder.progress_file.unlink()
    assert read_beat(folder) is None
