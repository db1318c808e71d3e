"""A process of its own that ends a hung trainer at the hard stop: it shares no code path with training.

`python -m launcher.train.deadline --pid P --pid-created T --at SECONDS_SINCE_EPOCH --run-dir DIR --reason TEXT`
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

POLL_SECONDS = 1.0
GRACE_SECONDS = 10.0


@contextmanager
def deadline_process(run_dir: Path, at: float, reason: str, grace_s: float = GRACE_SECONDS) -> Iterator[None]:
    """Have this process ended at `at` (seconds since the epoch; infinite: never), unless the block is left before."""
    if math.isinf(at):
        yield
        return
    me = psutil.Process()
    command = [sys.executable, "-m", "launcher.train.deadline", "--pid", str(me.pid)]
    command += ["--pid-created", repr(me.create_time()), "--at", repr(at), "--grace", repr(grace_s)]
    command += ["--run-dir", str(run_dir), "--reason", reason]
    with subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL) as watcher:
        try:
            yield
        finally:
            watcher.terminate()


def watch(pid: int, pid_created: float, at: float, grace_s: float, run_dir: Path, reason: str) -> bool:
    """Wait for the process to end by itself; end it at `at`. True when it had to be ended."""
    process = same_process(pid, pid_created)
    while process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        left = at - time.time()
        if left <= 0:
            end(process, grace_s, run_dir, reason)
            return True
        time.sleep(min(left, POLL_SECONDS))
    return False


def end(process: psutil.Process, grace_s: float, run_dir: Path, reason: str) -> None:
    """Write down why, ask the process to end, then kill it and its children."""
    (run_dir / "deadline.json").write_text(json.dumps({"reason": reason, "at": time.time()}), encoding="utf-8")
    me = psutil.Process().pid
    family = [process, *(child for child in process.children(recursive=True) if child.pid != me)]
    for member in family:
        _signal(member.terminate)
    _, alive = psutil.wait_procs(family, timeout=grace_s)
    for member in alive:
        _signal(member.kill)


def same_process(pid: int, created: float) -> psutil.Process | None:
    """The process, unless it is gone and its id belongs to a later one."""
    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - created) < 1.0 else None
    except psutil.NoSuchProcess:
        return None


def _signal(send: object) -> None:
    assert callable(send)
    try:
        send()
    except psutil.NoSuchProcess:
        return


def main() -> None:
    """Parse and watch."""
    parser = argparse.ArgumentParser(description="End a process at a given time.")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--pid-created", type=float, required=True)
    parser.add_argument("--at", type=float, required=True)
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--reason", required=True)
    options = parser.parse_args()
    watch(options.pid, options.pid_created, options.at, options.grace, options.run_dir, options.reason)


if __name__ == "__main__":
    main()
