"""Carry a plan out: intent, creation, training, everything home, teardown, the provider's word that nothing is left.

Whatever happens in between, the end is the same: what is of use is copied, SkyPilot lets go, our own teardown asks the
provider until its list is empty. Each cluster ends at its hard stop less a reserve for that, whatever its task does.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.cloud import sky_command
from launcher.cost.ledger import SECONDS_PER_HOUR, Rental
from launcher.cost.limits import SpendLimits, reserve
from launcher.launching.clusters import Cluster
from launcher.reconcile import Observer
from launcher.rundir import RunFolder, RunRecord, RunState, now_iso
from launcher.teardown import TeardownUnconfirmed, tear_down
from launcher.watch import ensure_watcher

# A list is asked every second while something is being created, so that the ledger knows since when it is paid for.
CREATING_LOOK_S, LOOK_S, COPY_S = 1.0, 15.0, 5.0
INTRODUCTION_S = 60.0  # SkyPilot's command takes some seconds to start
# Kept back of a cluster's time to copy and to tear down, at most a quarter of it.
RESERVE_S, RESERVE_SHARE = 180.0, 0.25
REMOTE_RUNS = "sky_workdir/runs"
# Not copied while training goes on: what is large, and what belongs to this side.
LEFT_OUT_MEANWHILE = ("checkpoints/", "adapter/", "*.lock", "wandb/")
LEFT_OUT = ("*.lock",)

Watch = Callable[[Sequence[RunFolder]], None]


@dataclass
class _Active:
    """A cluster under way: SkyPilot's process, and until when it may go on (seconds since the epoch)."""

    cluster: Cluster
    process: subprocess.Popen[bytes]
    ends_at: float
    reason: str | None = None
    introduction: subprocess.Popen[bytes] | None = None

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def is_reachable(self, wait_s: float = 0.0) -> bool:
        """Whether files can be copied from it; asks SkyPilot how to reach it, and waits so long for the answer."""
        if sky_command.is_reachable(self.cluster.name):
            return True
        if self.introduction is None or self.introduction.poll() is not None:
            self.introduction = sky_command.introduce(self.cluster.name)
        if wait_s:
            with suppress(subprocess.TimeoutExpired):
                self.introduction.wait(wait_s)
        return sky_command.is_reachable(self.cluster.name)


def run_launch(
    clusters: Sequence[Cluster], folders: Sequence[RunFolder], observer: Observer, limits: SpendLimits, watch: Watch
) -> list[Rental]:
    """Rent, train, bring home, end; the rentals as they stand in the ledger, each confirmed gone.

    The intents stand in the ledger, and a watcher runs, before anything is created.

    Raises:
        Refused: a limit across runs would be broken; nothing was rented.
        TeardownUnconfirmed: something may still be rented.
        KeyboardInterrupt: the user's; everything was ended before it is raised again.
    """
    now = observer.clock.now()
    reserve(observer.ledger, [cluster.intent(now) for cluster in clusters], limits, observer.clock.now)
    active: list[_Active] = []
    try:
        ensure_watcher([cluster.provider for cluster in clusters])
        for cluster in clusters:
            active.append(_Active(cluster, _submit(cluster), now + _usable_s(cluster)))
        _follow(active, folders, observer, watch)
    finally:
        with _without_interrupts():
            rentals = _end(active, folders, clusters, observer)
    return rentals


def _submit(cluster: Cluster) -> subprocess.Popen[bytes]:
    return sky_command.submit(cluster.config, cluster.name, cluster.folder, cluster.secrets)


def _usable_s(cluster: Cluster) -> float:
    seconds = cluster.hours * SECONDS_PER_HOUR
    return seconds - min(RESERVE_S, RESERVE_SHARE * seconds)


def _follow(active: Sequence[_Active], folders: Sequence[RunFolder], observer: Observer, watch: Watch) -> None:
    """Look, copy and show until every cluster's task has ended or its time is up."""
    with ThreadPoolExecutor(max_workers=1) as copier:
        _until_over(active, folders, observer, watch, copier)


def _until_over(
    active: Sequence[_Active], folders: Sequence[RunFolder], observer: Observer, watch: Watch, copier: Executor
) -> None:
    # Files are copied beside: a slow line must not keep the lists from being asked every second.
    looked_at = copied_at = 0.0
    copying: Future[None] | None = None
    while not all(each.is_over for each in active):
        now = observer.clock.now()
        present = {rental.name for rental in observer.ledger.rentals() if rental.present}
        creating = any(each.cluster.name not in present for each in active if not each.is_over)
        if now - looked_at >= (CREATING_LOOK_S if creating else LOOK_S):
            observer.look_at({each.cluster.provider for each in active})
            looked_at = now
        if now - copied_at >= COPY_S and (copying is None or copying.done()):
            there = [each for each in active if each.cluster.name in present]
            copying, copied_at = copier.submit(_copy, there, folders, LEFT_OUT_MEANWHILE), now
        watch(folders)
        for each in active:
            if now >= each.ends_at and not each.is_over:
                each.reason = "budget or deadline: its time was up"
                _stop(each)
        observer.clock.sleep(0.5)


def _copy(
    active: Sequence[_Active], folders: Sequence[RunFolder], leave_out: Sequence[str], wait_s: float = 0.0
) -> None:
    runs_dir = folders[0].path.parent
    for each in active:
        if each.is_reachable(wait_s):
            sky_command.copy_from(each.cluster.name, REMOTE_RUNS, runs_dir, leave_out)


def _end(
    active: Sequence[_Active], folders: Sequence[RunFolder], clusters: Sequence[Cluster], observer: Observer
) -> list[Rental]:
    """Everything home, everything gone."""
    present = {rental.name for rental in observer.ledger.rentals() if rental.present}
    _copy([each for each in active if each.cluster.name in present], folders, LEFT_OUT, INTRODUCTION_S)
    for each in active:
        _stop(each)
    names = [cluster.name for cluster in clusters]
    try:
        # First the bill, then SkyPilot: a launch that it is still at may rent once more until it has let go.
        with suppress(TeardownUnconfirmed):  # the second try decides
            tear_down(names, observer)
        with ThreadPoolExecutor() as pool:
            list(pool.map(sky_command.let_go, names))
        tear_down(names, observer)
    finally:
        _settle(active, folders)
    return [rental for rental in observer.ledger.rentals() if rental.name in names]


def _stop(each: _Active) -> None:
    """End SkyPilot's command, and what it started, if it still runs; the launch goes on in its server until let go."""
    if each.is_over:
        return
    os.killpg(each.process.pid, signal.SIGTERM)
    try:
        each.process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(each.process.pid, signal.SIGKILL)
        each.process.wait()


def _settle(active: Sequence[_Active], folders: Sequence[RunFolder]) -> None:
    """Give every run that did not come home with a final state one that says why."""
    for folder in folders:
        record = folder.read_record()
        if record.state.is_final:
            continue
        own = next((each for each in active if record.job in {job.name for job in each.cluster.jobs}), None)
        reason = None if own is None else own.reason
        log = "" if own is None else f"; see {own.cluster.folder / 'sky.log'}"
        if reason is not None:
            folder.update_record(state=RunState.STOPPED, stop_reason=reason, ended_at=now_iso())
        else:
            error = f"the launch ended before the run did{log}"
            folder.update_record(state=RunState.FAILED, error=error, ended_at=now_iso())


def planned_folders(clusters: Sequence[Cluster], runs_dir: Path) -> list[RunFolder]:
    """A run folder here for every job, until the node's own comes home and takes its place."""
    folders = []
    for cluster in clusters:
        for spec in cluster.jobs:
            record = RunRecord(
                id=f"{spec.name}-{cluster.group}",
                job=spec.name,
                group=cluster.group,
                state=RunState.PROVISIONING,
                created_at=now_iso(),
                usd_per_hour=cluster.usd_per_hour,
                seed=spec.train.seed,
            )
            folder = RunFolder.create(runs_dir, record.id, record)
            folder.write_json(folder.spec_file, spec.resolved())
            folders.append(folder)
    return folders


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A second Ctrl-C must not cut the teardown short."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
