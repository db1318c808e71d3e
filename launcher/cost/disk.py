"""Disk that a job needs: weights, checkpoints kept, packages; for SkyPilot's `disk_size` and the bill."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.cost.duration import Work
from launcher.cost.fixed_times import BYTES_PER_PUBLISHED_WEIGHT
from launcher.cost.workload import Workload

GIB = 2**30
# Unpacked torch with its CUDA libraries is about 8 GiB, the rest of the lock 3, uv's cache is linked to it. Assumed.
ENVIRONMENT_GIB = 12.0
# Image, driver files and logs of a provider's machine. Assumed.
SYSTEM_GIB = 10.0
DATA_GIB = 1.0  # examples, tokenised copies and predictions of a job that fits a machine. Assumed
MARGIN = 0.1  # a full disk ends a run that has been paid for


@dataclass(frozen=True)
class Disk:
    """GiB by item."""

    items: Mapping[str, float]

    @property
    def total(self) -> float:
        """GiB, margin included."""
        return sum(self.items.values())

    @property
    def disk_size(self) -> int:
        """For SkyPilot's `disk_size`: whole GB, rounded up, in GiB where a provider counts so."""
        return math.ceil(self.total)


def shared_disk(jobs: Sequence[tuple[str, Disk]]) -> Disk:
    """The disk of one machine for several jobs, each with the name of its base model.

    Weights lie there once per model, checkpoints and results once per job, the rest once.
    """
    once = jobs[0][1].items
    weights = dict(jobs)
    items = {
        "weights": sum(disk.items["weights"] for disk in weights.values()),
        "quantised copy": sum(disk.items["quantised copy"] for disk in weights.values()),
        "checkpoints": sum(disk.items["checkpoints"] for _, disk in jobs),
        "final weights": sum(disk.items["final weights"] for _, disk in jobs),
        **{name: once[name] for name in ("environment", "data", "system")},
    }
    return _with_margin(items)


def _with_margin(items: Mapping[str, float]) -> Disk:
    return Disk({**items, "margin": MARGIN * sum(items.values())})


def disk_gib(workload: Workload, work: Work, keep_checkpoints: int, keeps_quantised_copy: bool = False) -> Disk:
    """The disk of one job.

    Weights are downloaded in 16 bits whatever the method; bitsandbytes quantises while loading, so a copy in 4 bits is
    written only where asked for. One checkpoint more than are kept lies there while it is written.
    """
    shape = workload.architecture
    adapter_bytes = workload.adapter_parameters * workload.stack.adapter_bytes
    final_bytes = shape.parameters * workload.stack.master_bytes if workload.method == "full" else adapter_bytes
    others = shape.parameters - shape.linear_parameters
    quantised = (shape.linear_parameters * 4.127 / 8 + others * 2) if keeps_quantised_copy else 0.0
    items = {
        "weights": shape.parameters * BYTES_PER_PUBLISHED_WEIGHT / GIB,
        "quantised copy": quantised / GIB,
        "checkpoints": (min(work.saves, keep_checkpoints) + 1) * work.checkpoint_gib,
        "final weights": final_bytes / GIB,
        "environment": ENVIRONMENT_GIB,
        "data": DATA_GIB,
        "system": SYSTEM_GIB,
    }
    return _with_margin(items)
