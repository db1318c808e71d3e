"""A process of its own that ends a hung trainer at the hard stop: it shares no code and no clock with training.

`python -m launcher.train.deadline --pid P --pid-created T --at SECONDS_SINCE_EPOCH --run-dir DIR --reason TEXT`

It starts in a tenth of a second (standard library and psutil only), ends by itself when the trainer does, and signals
exactly the process it was given, never a later one with the same id, and the processes that one started.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from launcher.errors import LauncherError

GRACE_SECONDS = 10.0
POLL_SECONDS = 0.2
START_TIMEOUT_SECONDS = 60.0
READY = b"watching\n"
DEADLINE_FILE = "deadline.json"
STOP_FILE = "stop-requested"


# --- in the trainer --------------------------------------------------------------------------------------------------


@contextmanager
def deadline_process(run_dir: Path, at: float, reason: str, grace_s: float = GRACE_SECONDS) -> Iterator[None]:
    """Have this process over by `at` (seconds since the epoch; infinite: never), unless the block is left before.

    It is asked to end (SIGTERM) `grace_s` before, and killed at `at`: what it costs until then is within the cap.

    Raises:
        LauncherError: the watching process does not start; a run without it could cost more than its cap.
    """
    (run_dir / DEADLINE_FILE).unlink(missing_ok=True)  # an earlier leg of the run
    if math.isinf(at):
        yield
        return
    watcher = start_deadline_process(run_dir, at - grace_s, reason, grace_s)
    try:
        yield
    finally:
        watcher.terminate()
        watcher.wait()


def start_deadline_process(
    run_dir: Path, at: float, reason: str, grace_s: float = GRACE_SECONDS
) -> subprocess.Popen[bytes]:
    """Start watching this process, to be asked to end at `at` and killed `grace_s` later; returns once it watches.

    In a session of its own, so that neither Ctrl-C nor a closed terminal ends it.

    Raises:
        LauncherError: it does not start.
    """
    me = psutil.Process()
    command = [sys.executable, "-m", "launcher.train.deadline", "--pid", str(me.pid)]
    command += ["--pid-created", repr(me.create_time()), "--at", repr(at), "--grace", repr(grace_s)]
    command += ["--run-dir", str(run_dir), "--reason", reason]
    # The package need not be installed: a Ray worker finds it through its own path.
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    watcher = subprocess.Popen(
        command,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert watcher.stdout is not None
    with watcher.stdout as answer:
        readable, _, _ = select.select([answer], [], [], START_TIMEOUT_SECONDS)
        if not readable or answer.readline() != READY:
            watcher.kill()
            watcher.wait()
            raise LauncherError(
                "the deadline process does not start; without it nothing ends a hung run, so none is begun"
            )
    return watcher


# --- in the process of its own ---------------------------------------------------------------------------------------


def watch(process: psutil.Process, at: float, grace_s: float, run_dir: Path, reason: str) -> bool:
    """Wait for the process to end by itself; end it at `at`. True when it had to be ended.

    The time is over when the clock says so or when as many seconds have passed, whichever comes first: a clock set
    back, or a machine that slept, must not lengthen a run that is paid for.
    """
    seconds, began = at - time.time(), time.monotonic()
    while _is_alive(process):
        left = min(at - time.time(), seconds - (time.monotonic() - began))
        if left <= 0:
            end(process, grace_s, run_dir, reason)
            return True
        time.sleep(min(left, POLL_SECONDS))
    return False


def end(process: psutil.Process, grace_s: float, run_dir: Path, reason: str) -> None:
    """Write down why, ask the process to end, and kill it and what it started if they have not within `grace_s`."""
    _write_reason(run_dir, reason)
    family = _family(process)
    _signal([process], signal.SIGTERM)
    over = time.monotonic() + grace_s
    while any(map(_is_alive, family)) and time.monotonic() < over:
        # Once it is gone its children can no longer be told, and it may start others until then.
        family += [member for member in _family(process) if member not in family]
        time.sleep(min(POLL_SECONDS, grace_s / 10))
    _signal(family, signal.SIGKILL)


def same_process(pid: int, created: float) -> psutil.Process | None:
    """The process, unless it is gone and its id belongs to a later one."""
    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - created) < 1.0 else None
    except psutil.NoSuchProcess:
        return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all it started but this one, which is its child too."""
    try:
        children = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process, *(child for child in children if child.pid != os.getpid())]


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied as fault:
            print(f"deadline process: {fault}", file=sys.stderr)


def _write_reason(run_dir: Path, reason: str) -> None:
    """For whoever reads the run folder, and for a trainer that still looks. A full disk must not save a hung run."""
    text = json.dumps({"reason": reason, "at": time.time()})
    for name, content in ((DEADLINE_FILE, text), (STOP_FILE, reason)):
        try:
            unfinished = run_dir / f".{name}.unfinished"
            unfinished.write_text(content, encoding="utf-8")
            unfinished.replace(run_dir / name)
        except OSError as fault:
            print(f"deadline process: {name} not written: {fault}", file=sys.stderr)


def main() -> None:
    """Parse and watch."""
    parser = argparse.ArgumentParser(
        prog="python -m launcher.train.deadline", description="End a process at a given time."
    )
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--pid-created", type=float, required=True, help="its creation time, seconds since the epoch")
    parser.add_argument("--at", type=float, required=True, help="when it is asked to end, seconds since the epoch")
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS, help="seconds until it is killed")
    parser.add_argument("--run-dir", type=Path, required=True, help="where the reason is written")
    parser.add_argument("--reason", required=True)
    options = parser.parse_args()
    process = same_process(options.pid, options.pid_created)
    if process is None:
        return
    sys.stdout.buffer.write(READY)
    sys.stdout.close()
    watch(process, options.at, options.grace, options.run_dir, options.reason)


if __name__ == "__main__":
    main()
