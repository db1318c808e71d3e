"""Error of the memory model on published runs.

    python -m benchmarks.memory_error [FILE.jsonl] [--points]

The bounds' shares (`memory_bounds.SHARES`) were set on these points. Leave-one-source-out, they are scaled to the
largest factor that any run of the other sources needs: with so few points that is the rank split conformal prediction
takes at 95 %.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cost.cases import Case, metric_of_case, read_cases, workload_of_case
from launcher.cost.memory import estimate_memory
from launcher.cost.memory_bounds import bounds

POINTS = Path(__file__).parent.parent / "tests" / "data" / "cost" / "memory.jsonl"


@dataclass(frozen=True)
class Scored:
    """One published run: predicted and upper bound over published, and the factor that its bound's shares need."""

    id: str
    group: str
    published_gib: float
    predicted: float
    high: float
    needed_factor: float

    @property
    def error(self) -> float:
        return self.predicted - 1


def score(path: Path) -> list[Scored]:
    """Every run of a file of published points."""
    return [_score(case) for case in read_cases(path) if isinstance(case, Case)]


def _score(case: Case) -> Scored:
    raw, workload = case.raw, workload_of_case(case.raw)
    memory, published = estimate_memory(workload), case.raw["peak_gib"]
    value, _, high = memory.in_metric(metric_of_case(raw))
    is_sharded = workload.gpus > 1
    (_, least), (_, most) = (bounds(memory.components, is_sharded, factor) for factor in (0.0, 1.0))
    needed = (memory.expected_gib * published / value - least) / (most - least)
    return Scored(raw["id"], raw["group"], published, value / published, high / published, needed)


def exceeded_when_left_out(points: Sequence[Scored]) -> list[Scored]:
    """Runs above a bound whose factor comes from the other sources alone."""
    return [
        point
        for point in points
        if point.needed_factor > max(other.needed_factor for other in points if other.group != point.group)
    ]


def print_table(points: Sequence[Scored]) -> None:
    """Errors by source, and how many runs lie above the upper bound."""
    print(f"{'source':<12}{'n':>4}{'median':>9}{'worst':>9}{'bias':>8}{'above high':>12}{'high/peak':>11}")
    for group in [*dict.fromkeys(point.group for point in points), "ALL"]:
        chosen = [point for point in points if group in (point.group, "ALL")]
        errors = [point.error for point in chosen]
        above = sum(point.high < 1 for point in chosen)
        print(
            f"{group:<12}{len(chosen):>4}{statistics.median(map(abs, errors)):>9.1%}{max(errors, key=abs):>+9.1%}"
            f"{statistics.median(errors):>+8.1%}{above:>8}/{len(chosen):<3}"
            f"{statistics.median(point.high for point in chosen):>10.2f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=POINTS, help="published runs, with peak_gib and group")
    parser.add_argument("--points", action="store_true", help="print every run")
    arguments = parser.parse_args()
    points = score(arguments.file)
    if arguments.points:
        for point in points:
            print(
                f"{point.id:<5}{point.group:<11}{point.published_gib:>7.2f} GiB{point.error:>+8.1%}{point.high:>7.2f}x"
            )
    print_table(points)
    above = exceeded_when_left_out(points)
    names = ", ".join(point.id for point in above) or "none"
    print(f"bound calibrated on the other sources: {len(above)}/{len(points)} runs above it ({names})")


if __name__ == "__main__":
    main()
