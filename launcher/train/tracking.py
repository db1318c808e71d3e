"""W&B: one run per job, one group per launch, the id of our run; offline unless the job says otherwise.

Offline, a resumed run becomes a second folder with the same id, whose own step counter starts anew: read such runs
on `train/global_step`, which every row carries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import wandb

from launcher.job import JobSpec
from launcher.rundir import RunFolder, RunRecord


class Tracker:
    """Sends rows to W&B; does nothing where the job disables tracking."""

    def __init__(self, spec: JobSpec, folder: RunFolder, record: RunRecord) -> None:
        self.run = wandb.init(
            mode=spec.tracking.wandb,
            project=spec.tracking.project,
            group=record.group,
            name=record.job,
            id=record.id,
            resume="allow" if spec.tracking.wandb == "online" else None,
            job_type="finetune",
            tags=list(spec.tracking.tags),
            config=spec.resolved(),
            dir=str(folder.wandb_dir),
            settings=wandb.Settings(
                console="off",  # log.txt holds it
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,  # the machine's own statistics would cost a thread per run
                quiet=True,
            ),
        )
        self.run.define_metric("train/global_step")
        self.run.define_metric("*", step_metric="train/global_step")

    def log(self, step: int, values: dict[str, Any]) -> None:
        """One row, with the optimizer step it belongs to."""
        self.run.log({"train/global_step": step, **values})

    def finish(self, summary: dict[str, Any], failed: bool) -> None:
        """Write the figures the run is known by, and close it."""
        self.run.summary.update(summary)
        self.run.finish(exit_code=1 if failed else 0)


def offline_files(folder: RunFolder) -> list[Path]:
    """The W&B files of a run, oldest first; `wandb sync` takes their folders."""
    return sorted((folder.wandb_dir / "wandb").glob("offline-run-*/*.wandb"))
