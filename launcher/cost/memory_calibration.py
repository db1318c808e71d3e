"""Peak memory that earlier runs measured, in place of a prediction."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from launcher.cost.calibration import (
    SAME_SIZE,
    CalibrationRecord,
    gpu_key,
    installed_versions,
    is_comparable,
    is_same,
    measured_workload,
)
from launcher.cost.memory import MemoryEstimate, estimate_memory
from launcher.cost.workload import Workload

# How far a peak may lie from what was measured: the allocator's order of events differs between runs (the very same
# configuration), and what the closed form misses need not grow as it does (other lengths and micro-batches). Assumed.
SAME_MARGIN = 0.03
OTHER_MARGIN = 0.08


def calibrated_memory(
    workload: Workload,
    gpu_name: str,
    records: Sequence[CalibrationRecord],
    versions: Mapping[str, str] | None = None,
) -> MemoryEstimate | None:
    """The estimate moved to what runs of this model with this stack on this GPU reserved; None where there was none.

    Runs of the very same configuration count alone where there are any. Otherwise the closed form is scaled by how far
    it was off on the others, the median of them.
    """
    peaks = [record for record in records if record.peak_reserved_gib is not None]
    if not peaks:
        return None
    here = installed_versions() if versions is None else versions
    wanted = gpu_key(gpu_name)
    usable = [r for r in peaks if gpu_key(r.gpu) == wanted and _is_same_model(r, workload, here)]
    same = [record for record in usable if is_same(record, workload)]
    if not usable:
        return None
    ratio = statistics.median(_ratio(record, workload) for record in same or usable)
    return _moved(estimate_memory(workload), ratio, SAME_MARGIN if same else OTHER_MARGIN)


def _is_same_model(record: CalibrationRecord, workload: Workload, versions: Mapping[str, str]) -> bool:
    size = record.parameters / workload.architecture.parameters
    return abs(size - 1) <= SAME_SIZE and is_comparable(record, workload, versions)


def _ratio(record: CalibrationRecord, workload: Workload) -> float:
    """What a run reserved, over what the closed form says it reserves."""
    assert record.peak_reserved_gib is not None
    return record.peak_reserved_gib / estimate_memory(measured_workload(record, workload)).reserved_gib


def _moved(estimate: MemoryEstimate, ratio: float, margin: float) -> MemoryEstimate:
    """The estimate with torch's part times `ratio`; what lies outside torch stays."""
    outside = estimate.expected_gib - estimate.reserved_gib
    reserved = estimate.reserved_gib * ratio
    expected = reserved + outside
    part = expected / estimate.expected_gib
    return dataclasses.replace(
        estimate,
        components={name: gib * part for name, gib in estimate.components.items()},
        expected_gib=expected,
        low_gib=reserved * (1 - margin) + outside,
        high_gib=reserved * (1 + margin) + outside,
        alloc_gib=estimate.alloc_gib * ratio,
        reserved_gib=reserved,
    )
