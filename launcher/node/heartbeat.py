"""Ends a run whose steps have stopped coming, in minutes and not at the deadline; its last checkpoint stays.

`python -m launcher.node.heartbeat --runs-dir runs --while-pid $$`

A process of its own that reads the run folders only: it shares no code with training that could hang with it. What it
ends is found `stopped` with the reason, as after a deadline, and can be resumed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from launcher.errors import LauncherError
from launcher.rundir import RunFolder, RunState
from launcher.train.deadline import end, same_process

POLL_SECONDS = 1.0
# Five times the slowest normal step or batch of answers, and never less than three minutes: a validation or a save
# between two steps is no hang, and the machine's other jobs slow this one down now and then.
FACTOR = 5.0
LEAST_SILENCE_SECONDS = 180.0
# Until there are step times: the longest that compiling kernels and a first batch have any reason to take. Assumed.
FIRST_SILENCE_SECONDS = 900.0
FEWEST_INTERVALS = 5
INTERVALS_KEPT = 1000
GRACE_SECONDS = 10.0
WATCHED_PHASES = ("training", "evaluating")  # the others have no steps; their deadlines are the launch's


@dataclass(frozen=True)
class Beat:
    """What a run shows of its progress: the phase, and how many steps or answers it has done in it."""

    phase: str
    count: int
    alive_at: float  # what else it wrote, seconds since the epoch: a sign of life, but no step


@dataclass
class Pulse:
    """The beats of one run. Pure: `now` is a monotonic clock in seconds."""

    first_silence_s: float = FIRST_SILENCE_SECONDS
    intervals: deque[float] = field(default_factory=lambda: deque(maxlen=INTERVALS_KEPT))
    last: Beat | None = None
    moved_at: float = 0.0  # when a step or an answer was last seen
    alive_at: float = 0.0  # when anything was last seen
    slowest_batch_s: float = 0.0  # of answers; a validation between two steps is a few such batches

    def update(self, beat: Beat, now: float) -> None:
        """Take in what the run shows now."""
        if self.last is None or beat.phase != self.last.phase or beat.count < self.last.count:
            self.intervals.clear()  # steps and answers have each their own pace; a resumed run counts from less
            self.moved_at = self.alive_at = now
        elif beat.count > self.last.count:
            self._record(now - self.moved_at, beat)
            self.moved_at = self.alive_at = now
        elif beat.alive_at > self.last.alive_at:
            self.alive_at = now
        self.last = beat

    def _record(self, seconds: float, beat: Beat) -> None:
        if beat.phase == "evaluating":  # answers come in batches: the batch is the beat
            self.slowest_batch_s = max(self.slowest_batch_s, seconds)
            self.intervals.append(seconds)
        elif self.last is not None:
            self.intervals.append(seconds / (beat.count - self.last.count))

    @property
    def limit_s(self) -> float:
        """The longest silence that is no hang."""
        if len(self.intervals) < FEWEST_INTERVALS:
            return self.first_silence_s
        return max(LEAST_SILENCE_SECONDS, FACTOR * max(percentile_99(self.intervals), self.slowest_batch_s))

    def hang(self, now: float) -> str | None:
        """Why the run counts as hung, or None: it does not."""
        silent_s = now - self.alive_at
        if self.last is None or self.last.phase not in WATCHED_PHASES or silent_s <= self.limit_s:
            return None
        after = f"after {'step' if self.last.phase == 'training' else 'answer'} {self.last.count}"
        return f"heartbeat: nothing for {silent_s:.0f} s {after} (at most {self.limit_s:.0f} s are normal); ended"


def percentile_99(values: Sequence[float]) -> float:
    """The smallest value that at least 99 % of the values do not exceed."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def read_beat(folder: RunFolder) -> Beat | None:
    """What the run's folder shows; None before it shows anything.

    A checkpoint that grows is a sign of life: a large one takes minutes in which no step comes.
    """
    progress = folder.read_json(folder.progress_file)
    if progress is None:
        return None
    evaluating = progress["phase"] == "evaluating"
    # Base and tuned model are evaluated apart; a resumed run's step never falls below that of its checkpoint.
    count = progress.get("answered" if evaluating else "step") or 0
    return Beat(progress["phase"], count, max(progress["updated_at"], _newest_write(folder.checkpoints_dir)))


def _newest_write(checkpoints_dir: Path) -> float:
    """When a checkpoint under way was last written to; 0 where there is none."""
    newest = 0.0
    for path in checkpoints_dir.glob(".saving-*/**/*"):
        try:
            newest = max(newest, path.stat().st_mtime)
        except FileNotFoundError:  # it was named meanwhile
            continue
    return newest


class Watch:
    """All running runs of a folder, each with its pulse."""

    def __init__(self, runs_dir: Path, first_silence_s: float = FIRST_SILENCE_SECONDS) -> None:
        self.runs_dir, self.first_silence_s = runs_dir, first_silence_s
        self.pulses: dict[tuple[str, int], Pulse] = {}  # by run and process: a resumed run begins anew

    def poll(self, now: float) -> list[str]:
        """Look at every running run once; end those that hang, and say which and why."""
        ended = []
        for record_file in sorted(self.runs_dir.glob("*/run.json")):
            folder = RunFolder(record_file.parent)
            process = trainer_of(folder)
            beat = None if process is None else read_beat(folder)
            if process is None or beat is None:
                continue
            pulse = self.pulses.setdefault((folder.id, process.pid), Pulse(self.first_silence_s))
            pulse.update(beat, now)
            reason = pulse.hang(now)
            if reason is not None:
                end(process, GRACE_SECONDS, folder.path, reason)
                ended.append(f"run {folder.id}: {reason}")
        return ended


def trainer_of(folder: RunFolder) -> psutil.Process | None:
    """The process that trains this run now, or None."""
    try:
        record = folder.read_record()
    except (LauncherError, OSError):  # no record, or not yet
        return None
    if record.state != RunState.RUNNING or record.pid is None or record.pid_created_at is None:
        return None
    return same_process(record.pid, record.pid_created_at)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, and watch until the given process is gone."""
    parser = argparse.ArgumentParser(
        prog="python -m launcher.node.heartbeat", description="End runs whose steps have stopped coming."
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--while-pid", type=int, required=True, help="ends with this process, such as the job's shell")
    parser.add_argument("--first-silence", type=float, default=FIRST_SILENCE_SECONDS, help="seconds, before step times")
    options = parser.parse_args(arguments)
    watch = Watch(options.runs_dir, options.first_silence)
    try:
        owner = psutil.Process(options.while_pid)
    except psutil.NoSuchProcess:
        return
    while owner.is_running() and owner.status() != psutil.STATUS_ZOMBIE:
        for line in watch.poll(time.monotonic()):
            print(line, flush=True)
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
