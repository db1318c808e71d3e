"""The node's deadman: at the deadline training may save, then it is ended, then the machine is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launcher.node.deadman import tear_down
from launcher.run import settle
from launcher.rundir import RunFolder, RunRecord, RunState
from tests.conftest import ROOT

# A trainer that saves when it is asked to, and one that hangs and does not listen.
OBEDIENT = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
print(flush=True)
while not (folder / "stop-requested").exists():
    time.sleep(0.02)
(folder / "saved").touch()
"""
HUNG = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(1000)"


def wait_until(condition: Callable[[], object], what: str) -> None:
    """At most half a minute, on however slow a machine."""
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up, f"{what}: still not so after 30 s"
        time.sleep(0.02)


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Callable[[str, str], tuple[RunFolder, subprocess.Popen[bytes]]]]:
    """A function that starts a stand-in for a trainer, with its run folder."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, program: str) -> tuple[RunFolder, subprocess.Popen[bytes]]:
        record = RunRecord(name, name, "group", RunState.RUNNING, "2026-01-08T12:00:00+00:00")
        folder = RunFolder.create(tmp_path / "runs", name, record)
        command = [sys.executable, "-c", program, str(folder.path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None and process.stdout.readline()
        folder.update_record(pid=process.pid, pid_created_at=psutil.Process(process.pid).create_time())
        return folder, process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def deadman(tmp_path: Path, own_home: Path) -> Iterator[Callable[..., psutil.Process]]:
    """A function that starts a deadman and returns it once it watches; its parent has ended by then."""
    pid_file = own_home / "deadman.json"
    started: list[psutil.Process] = []

    def start(seconds: float, grace: float = 2.0, teardown: str | None = None) -> psutil.Process:
        command = [sys.executable, "-m", "launcher.node.deadman", "--at", repr(time.time() + seconds)]
        command += ["--grace", str(grace), "--runs-dir", str(tmp_path / "runs")]
        command += ["--teardown", teardown] if teardown else []
        subprocess.run(command, cwd=ROOT, check=True, timeout=60)
        started.append(psutil.Process(json.loads(pid_file.read_text(encoding="utf-8"))["pid"]))
        return started[-1]

    yield start
    for process in started:
        if process.is_running():
            process.kill()


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_training_saves_the_hung_one_is_ended_and_the_machine_goes(
    train: Callable[..., tuple], deadman: Callable[..., psutil.Process], tmp_path: Path
) -> None:
    obedient_folder, obedient = train("obedient", OBEDIENT)
    hung_folder, hung = train("hung", HUNG)
    torn_down = tmp_path / "torn-down"
    watcher = deadman(seconds=1, grace=0.5, teardown=f"cat /proc/{hung.pid}/status > {torn_down} || true")
    assert obedient.wait(timeout=30) == 0
    assert (obedient_folder.path / "saved").exists()
    assert hung.wait(timeout=60) == -signal.SIGKILL
    wait_until(lambda: is_gone(watcher), "the deadman's own end")
    state = torn_down.read_text(encoding="utf-8")
    assert not state or "zombie" in state, "the machine goes last"
    settle(hung_folder, None)
    record = hung_folder.read_record()
    assert (record.state, record.stop_reason) == (
        RunState.STOPPED,
        "deadline: the node's time is over; ended by its deadman",
    )


def test_it_belongs_to_nobody_and_waits_for_its_time(deadman: Callable[..., psutil.Process], tmp_path: Path) -> None:
    watcher = deadman(seconds=1000, teardown=f"touch {tmp_path}/torn-down")
    assert watcher.pid not in {child.pid for child in psutil.Process().children(recursive=True)}
    assert os.getsid(watcher.pid) != os.getsid(0)
    assert watcher.is_running() and not (tmp_path / "torn-down").exists()


def test_a_second_one_replaces_the_first(deadman: Callable[..., psutil.Process]) -> None:
    first = deadman(seconds=1000)
    second = deadman(seconds=2000)
    wait_until(lambda: is_gone(first), "the first has gone")
    assert second.is_running()


def test_one_that_cannot_start_says_so(own_home: Path, tmp_path: Path) -> None:
    (own_home / "deadman.json").mkdir(parents=True)  # where its name should go
    command = [sys.executable, "-m", "launcher.node.deadman", "--hours", "1", "--runs-dir", str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode != 0 and "the deadman does not start" in answer.stderr


def test_runs_that_cannot_be_read_do_not_save_the_machine(
    train: Callable[..., tuple], deadman: Callable[..., psutil.Process], tmp_path: Path
) -> None:
    folder, _ = train("broken", HUNG)
    (folder.path / "deadline.json").mkdir()
    folder.record_file.unlink()
    folder.record_file.mkdir()
    deadman(seconds=0, grace=0.1, teardown=f"touch {tmp_path}/torn-down")
    wait_until((tmp_path / "torn-down").exists, "torn down")


def test_a_teardown_that_fails_is_tried_again_with_growing_pauses(tmp_path: Path) -> None:
    count = tmp_path / "count"
    pauses: list[float] = []
    tear_down(f"echo x >> {count}; test $(wc -l < {count}) -ge 10", pauses.append)
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_no_deadline_is_no_deadman(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launcher.node.deadman", "--runs-dir", str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 2 and "--hours" in answer.stderr
