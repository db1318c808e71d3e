"""Ends the node at its deadline, whatever hangs: training first, with time to save, then the machine itself.

`python -m launcher.node.deadman --hours 6 --runs-dir runs [--teardown COMMAND]`

It leaves its parent at once and answers to nobody: a cancelled job, a dead shell and a hung trainer do not stop it. One
a node: starting another replaces the first. Without a teardown command the cluster's own autostop does the last part,
because with its programs ended the node is idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from launcher.cost.ledger import launcher_home
from launcher.errors import LauncherError
from launcher.node.heartbeat import trainer_of
from launcher.rundir import RunFolder, write_atomically
from launcher.train.deadline import POLL_SECONDS, READY, STOP_FILE, end, same_process

PID_FILE = "deadman.json"  # in LAUNCHER_HOME
GRACE_SECONDS = 120.0  # to write a last checkpoint of a large model
KILL_GRACE_SECONDS = 5.0
TEARDOWN_SECONDS = 120.0
# A teardown that fails is tried again for as long as the node lives: every try that is left out is paid for.
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0


def wait_until(at: float) -> None:
    """Return at `at` (seconds since the epoch), or when as many seconds have passed, whichever comes first.

    A clock set back must not lengthen a rental.
    """
    seconds, began = at - time.time(), time.monotonic()
    while (left := min(at - time.time(), seconds - (time.monotonic() - began))) > 0:
        time.sleep(min(left, POLL_SECONDS))


def running_runs(runs_dir: Path) -> Iterator[tuple[RunFolder, psutil.Process]]:
    """The runs that a living process trains."""
    for record_file in sorted(runs_dir.glob("*/run.json")):
        folder = RunFolder(record_file.parent)
        process = trainer_of(folder)
        if process is not None:
            yield folder, process


def end_training(runs_dir: Path, reason: str, grace_s: float) -> None:
    """Ask all runs to stop, wait `grace_s` for their checkpoints, and end those that still run."""
    for folder, _ in running_runs(runs_dir):
        try:
            write_atomically(folder.path / STOP_FILE, reason)
        except OSError as fault:  # a full disk must not save a hung run
            print(f"deadman: run {folder.id}: not asked to stop: {fault}", flush=True)
    over = time.monotonic() + grace_s
    while time.monotonic() < over and any(running_runs(runs_dir)):
        time.sleep(POLL_SECONDS)
    for folder, process in running_runs(runs_dir):
        end(process, min(KILL_GRACE_SECONDS, grace_s), folder.path, reason)


def tear_down(command: str, pause: Callable[[float], None] = time.sleep) -> None:
    """Run the command until it succeeds, with growing pauses; a success takes this machine, and this process, away."""
    pause_s = FIRST_PAUSE_SECONDS
    while True:
        try:
            code = subprocess.run(
                ["bash", "-c", command], timeout=TEARDOWN_SECONDS, stdin=subprocess.DEVNULL
            ).returncode
            if code == 0:
                return
            print(f"deadman: teardown failed with exit code {code}", flush=True)
        except (subprocess.TimeoutExpired, OSError) as fault:
            print(f"deadman: teardown: {fault}", flush=True)
        pause(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_SECONDS)


def detach(log: Path) -> int | None:
    """Go on as a process that belongs to nobody: own session, parent 1, output in `log`.

    Twice forked, as SkyPilot's own watchers are, because it ends the descendants of a job that it cancels.

    Returns:
        In the process that goes on: where it writes READY once it watches. None in the one left behind, once it does.

    Raises:
        LauncherError: it does not start; without it nothing ends a node that hangs, so none may be used.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    answer, ready = os.pipe()
    if os.fork():
        os.close(ready)
        os.wait()
        with os.fdopen(answer, "rb") as said:
            if said.read() != READY:
                raise LauncherError(f"the deadman does not start; {log} says why")
        return None
    os.close(answer)
    os.setsid()
    if os.fork():
        os._exit(0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    return ready


def take_over(pid_file: Path) -> None:
    """Become the node's deadman: end the one that was there, and leave this process's name in its place."""
    try:
        earlier = json.loads(pid_file.read_text(encoding="utf-8"))
        process = same_process(earlier["pid"], earlier["created"])
    except (OSError, ValueError, KeyError, TypeError):
        process = None
    me = psutil.Process()
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(pid_file, json.dumps({"pid": me.pid, "created": me.create_time()}))
    if process is not None and process.pid != me.pid:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, detach, wait for the deadline, end everything."""
    parser = argparse.ArgumentParser(prog="python -m launcher.node.deadman", description="End this node at a deadline.")
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument("--at", type=float, help="the deadline, seconds since the epoch")
    when.add_argument("--hours", type=float, help="the deadline, hours from now")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS, help="seconds in which training may save")
    parser.add_argument("--teardown", help="shell command that ends this machine's rental")
    options = parser.parse_args(arguments)
    at = options.at if options.at is not None else time.time() + 3600 * options.hours
    runs_dir, pid_file = options.runs_dir.absolute(), launcher_home().absolute() / PID_FILE
    ready = detach(pid_file.with_suffix(".log"))
    if ready is None:
        return
    take_over(pid_file)
    os.write(ready, READY)
    os.close(ready)
    # The grace is part of the time that was bought.
    wait_until(at - options.grace)
    print("deadman: the deadline is reached", flush=True)
    try:
        end_training(runs_dir, "deadline: the node's time is over; ended by its deadman", options.grace)
    finally:  # whatever is wrong with the runs, the machine goes
        if options.teardown:
            tear_down(options.teardown)


if __name__ == "__main__":
    try:
        main()
    except LauncherError as fault:
        sys.exit(f"error: {fault}")
