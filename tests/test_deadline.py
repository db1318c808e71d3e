"""The process that ends a hung trainer: real processes, real signals, and nothing left behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launcher.errors import LauncherError
from launcher.rundir import RunFolder
from launcher.train import deadline
from launcher.train.deadline import deadline_process, same_process, start_deadline_process
from launcher.train.session import count_time_of_hung_leg

ROOT = Path(__file__).parent.parent
REASON = "deadline: 6 h passed and training did not answer"

# A trainer whose step never returns; it has started a process of its own and, where asked to, ignores SIGTERM.
HUNG = """
import os, signal, subprocess, sys, time
from pathlib import Path
from launcher.train.deadline import deadline_process

folder, how, seconds, grace = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
if how == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
with deadline_process(folder, time.time() + seconds, sys.argv[5], grace_s=grace):
    print("hung", flush=True)
    while True:
        pass
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def start(started: list[subprocess.Popen[str]], program: str, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    started.append(process)
    return process


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until(condition, what: str) -> None:
    """At most half a minute, on however slow a machine."""
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up, f"{what}: still not so after 30 s"
        time.sleep(0.02)


def watchers(run_dir: Path) -> list[psutil.Process]:
    """The deadline processes of a run, alive, whoever started them."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        is_alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if "launcher.train.deadline" in command and str(run_dir) in command and is_alive:
            found.append(process)
    return found


@pytest.mark.parametrize(("how", "ended_by"), [("deaf", signal.SIGKILL), ("listening", signal.SIGTERM)])
def test_a_step_that_never_returns_is_ended_and_what_it_started_too(
    started: list[subprocess.Popen[str]], tmp_path: Path, how: str, ended_by: int
) -> None:
    trainer = start(started, HUNG, tmp_path, how, 1.0, 0.5, REASON)
    assert trainer.stdout is not None
    child = int(trainer.stdout.readline())
    assert trainer.wait(timeout=30) == -ended_by
    wait_until(lambda: is_gone(child), "what the trainer started is gone")
    wait_until(lambda: not watchers(tmp_path), "the deadline process is gone")
    written = json.loads((tmp_path / "deadline.json").read_text())
    assert written["reason"] == REASON and written["at"] <= time.time()
    assert (tmp_path / "stop-requested").read_text() == REASON


def test_it_is_over_by_the_stated_moment_the_grace_lies_before_it(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    trainer = start(started, HUNG, tmp_path, "listening", 1000.0, 998.5, REASON)
    assert trainer.wait(timeout=60) == -signal.SIGTERM  # asked after a second and a half, not after a thousand
    assert trainer.stdout is not None
    psutil.Process(int(trainer.stdout.readline())).kill()  # what the trainer started has the whole grace
    wait_until(lambda: not watchers(tmp_path), "the deadline process is gone")


def test_a_normal_end_leaves_no_process_and_no_reason_behind(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with deadline_process(tmp_path, time.time() + 1000, REASON):
        [watcher] = watchers(tmp_path)
        assert os.getsid(watcher.pid) != os.getsid(0)  # Ctrl-C and a closed terminal do not reach it
    assert {child.pid for child in psutil.Process().children()} <= before
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_no_process_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="diverged"), deadline_process(tmp_path, time.time() + 1000, REASON):
        raise ValueError("diverged")
    assert watchers(tmp_path) == []


def test_it_ends_by_itself_when_the_trainer_was_killed(started: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    trainer = start(started, HUNG, tmp_path, "deaf", 1000.0, 1.0, REASON)
    assert trainer.stdout is not None
    child = psutil.Process(int(trainer.stdout.readline()))
    assert trainer.stdout.readline() == "hung\n"
    assert len(watchers(tmp_path)) == 1
    trainer.kill()  # and not waited for: a zombie is gone too
    try:
        wait_until(lambda: not watchers(tmp_path), "the deadline process is gone")
    finally:
        child.kill()
    assert not (tmp_path / "deadline.json").exists()


def test_a_later_process_with_the_same_id_is_never_touched(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    stranger = start(started, "import time; print(flush=True); time.sleep(1000)")
    assert stranger.stdout is not None
    stranger.stdout.readline()
    created = psutil.Process(stranger.pid).create_time()
    assert same_process(stranger.pid, created) is not None
    assert same_process(stranger.pid, created - 5) is None
    command = [sys.executable, "-m", "launcher.train.deadline", "--pid", str(stranger.pid), "--at", "1", "--grace", "0"]
    command += ["--pid-created", repr(created - 5), "--run-dir", str(tmp_path), "--reason", REASON]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert done.stdout == b"" and stranger.poll() is None and list(tmp_path.iterdir()) == []


def test_a_run_folder_that_cannot_be_written_saves_no_hung_run(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    trainer = start(started, HUNG, folder, "deaf", 1.0, 0.5, REASON)
    assert trainer.stdout is not None
    trainer.stdout.readline()
    folder.rmdir()
    assert trainer.wait(timeout=30) == -signal.SIGKILL
    assert not folder.exists()


def test_a_clock_set_back_does_not_lengthen_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Path] = []
    clock = iter([1000.0, *[-1e9] * 50])  # ends the test where the clock alone is asked
    monkeypatch.setattr(deadline.time, "time", lambda: next(clock))
    monkeypatch.setattr(deadline, "end", lambda process, grace, run_dir, reason: ended.append(run_dir))
    assert deadline.watch(psutil.Process(), 1000.3, 0.0, tmp_path, REASON)
    assert ended == [tmp_path]


def test_without_a_limit_there_is_no_process(tmp_path: Path) -> None:
    with deadline_process(tmp_path, math.inf, REASON):
        assert watchers(tmp_path) == []


def test_the_reason_of_an_earlier_leg_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "deadline.json").write_text("{}")
    with deadline_process(tmp_path, math.inf, REASON):
        assert not (tmp_path / "deadline.json").exists()


def test_the_hours_a_run_hung_are_paid_for_when_it_is_resumed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json(folder.progress_file, {"elapsed_s": 100.0, "updated_at": 5000.0, "step": 3})
    folder.write_json(folder.deadline_file, {"reason": REASON, "at": 8600.0})
    for _ in range(2):  # once, however often it is resumed
        count_time_of_hung_leg(folder)
        assert folder.read_json(folder.progress_file) == {"elapsed_s": 3700.0, "updated_at": 8600.0, "step": 3}
    assert not folder.deadline_file.exists()


def test_the_names_in_the_run_folder_are_those_the_run_looks_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.deadline_file.name == deadline.DEADLINE_FILE and folder.stop_file.name == deadline.STOP_FILE


def test_no_run_begins_without_its_deadline_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(LauncherError, match="deadline process does not start"):
        start_deadline_process(tmp_path, time.time() + 1000, REASON)


def test_it_imports_nothing_heavy() -> None:
    program = "import sys, launcher.train.deadline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "ray", "numpy", "pydantic", "yaml", "filelock", "wandb"}
