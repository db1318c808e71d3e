"""How far the memory model may be off: the margins around its expected value."""

from __future__ import annotations

from launcher.cost.workload import Workload


def margins(workload: Workload) -> tuple[float, float]:
    """The share of the expected value by which memory may lie below it, and above it."""
    if workload.gpus > 1:
        return 0.15, 0.25
    return 0.12, 0.118
