"""Whether a job fits a GPU, and with which micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.cost.calibration import CalibrationRecord
from launcher.cost.memory import MemoryEstimate, estimate_memory
from launcher.cost.memory_calibration import calibrated_memory
from launcher.cost.workload import Workload
from launcher.planning.needs import JobNeeds

Verdict = Literal["yes", "tight", "no"]
DEGREES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Fit:
    """A job on one kind of GPU: the micro-batch taken, what it needs, and whether that fits."""

    job: str
    gpus: int
    micro_batch: int
    accumulation: int
    workload: Workload
    memory: MemoryEstimate
    verdict: Verdict


class Fitter:
    """Finds the largest micro-batch of a job that fits; remembers estimates, which no price changes.

    Args:
        records: peaks that earlier runs measured; they come before the closed form.
    """

    def __init__(self, records: Sequence[CalibrationRecord] = ()) -> None:
        self.records = records
        self._estimates: dict[tuple[str, int, int, int], tuple[Workload, MemoryEstimate]] = {}

    def fit(self, needs: JobNeeds, gpu: str, usable_gib: float, gpus: int = 1, nodes: int = 1) -> Fit:
        """The job's own micro-batch where it fits, else the largest smaller one of the same global batch that does.

        Where none fits, the verdict is that of the smallest.
        """
        sizes = needs.micro_batches(gpus)
        for size in sizes:
            found = self._fit(needs, gpu, usable_gib, size, gpus, nodes)
            if found.verdict == "yes":
                return found
        return found

    def _fit(self, needs: JobNeeds, gpu: str, usable_gib: float, size: int, gpus: int, nodes: int) -> Fit:
        key = (needs.spec.name, size, gpus, nodes)
        if key not in self._estimates:
            workload = needs.workload(size, gpus, nodes)
            self._estimates[key] = (workload, estimate_memory(workload))
        workload, predicted = self._estimates[key]
        memory = calibrated_memory(workload, gpu, self.records) or predicted
        verdict = memory.fits(usable_gib)
        return Fit(needs.spec.name, gpus, size, needs.accumulation(size, gpus), workload, memory, verdict)
