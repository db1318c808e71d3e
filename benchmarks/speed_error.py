"""Error of the speed model on published runs, leave-one-source-out; `--fit` writes the constants that ship.

    python -m benchmarks.speed_error          table of errors and interval coverage
    python -m benchmarks.speed_error --fit    fits anew and rewrites launcher/assets/speed.json, then the table

Each source's points are predicted with constants fitted to the other sources only, and their chips count as unmeasured
unless another source has them. A constant starts from what is known of the hardware (`PRIORS`) and leaves it as far as
the points ask: least squares on logarithms, Huber weights, priors as one more residual each.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from launcher.cost.gpus import GpuModel
from launcher.cost.speed import predicted_speed
from launcher.cost.speed_cases import read_case
from launcher.cost.speed_constants import FITTED, Constants, Fitted, Program
from launcher.cost.utilisation import micro_step
from launcher.cost.workload import Workload

POINTS = Path(__file__).parent.parent / "launcher" / "assets" / "throughput.json"

# Constant -> value, standard deviation of its logarithm, where that comes from.
PRIORS = {
    "gemm_share": (0.75, 0.10, "H100 bf16 780 of 989 TFLOPS (gist Chillee/2ec89696); less for shapes below the best"),
    "tflops_per_watt": (0.75, 0.25, "assumed, between A100 (about 250 at 400 W) and H100 (780 at 700 W, same gist)"),
    "attention_share": (0.5, 0.20, "FlashAttention-2, A100, forward and backward 50 to 73 % of peak (Dao 2023)"),
    "traffic": (1.0, 0.30, "bytes counted kernel by kernel"),
    "fused": (0.5, 0.30, "assumed: fused kernels read and write once where eager ones do twice"),
    "dequantise_share": (0.3, 0.40, "assumed; bitsandbytes' kernels are far from the bandwidth limit"),
    "launch_us": (12.0, 0.50, "assumed: an eager PyTorch operation with its module's Python, 5 to 30 us"),
    "pcie_share": (0.4, 0.40, "NCCL sees 24 GB/s a slot and 10 across sockets on 8x RTX 4090 (nccl-tests issue 307)"),
    "nvlink_share": (0.7, 0.30, "about 200 of 300 GB/s on 8x A100 (nccl-tests issue 149)"),
}
NAMES = tuple(PRIORS)
START = np.log([value for value, _, _ in PRIORS.values()])
PRIOR_DEVIATIONS = np.array([deviation for _, deviation, _ in PRIORS.values()])
NOISE = 0.15  # of one published point, and where Huber's weights begin to fall
HUBER = 1.5
ROUNDS = 15
UNMEASURED_DEVIATION = 0.2
COVERAGE = 0.90
Z90 = statistics.NormalDist().inv_cdf(0.95)


@dataclass(frozen=True)
class Point:
    """One published run."""

    id: str
    group: str
    workload: Workload
    gpu: GpuModel
    program: Program
    measured: float


@dataclass(frozen=True)
class Error:
    """One run's error: logarithm of predicted over measured, and its deviation before scaling."""

    point: Point
    log_error: float
    deviation: float

    @property
    def relative(self) -> float:
        return math.exp(self.log_error) - 1


def read_points() -> list[Point]:
    """The points that ship with the package."""
    rows = json.loads(POINTS.read_text(encoding="utf-8"))["points"]
    return [Point(row["id"], row["group"], *read_case(row), row["tokens_per_second_per_gpu"]) for row in rows]


def fit(points: Sequence[Point]) -> Constants:
    """The constants that these points and the priors ask for (Gauss-Newton with reweighting)."""
    theta = START.copy()
    measured = np.log([point.measured for point in points])
    for _ in range(ROUNDS):
        predicted = _log_speeds(points, theta)
        slopes = np.stack(
            [(_log_speeds(points, theta + step) - predicted) / 1e-4 for step in 1e-4 * np.eye(len(theta))]
        )
        residuals = (measured - predicted) / NOISE
        weights = np.minimum(1, HUBER / np.maximum(np.abs(residuals), 1e-9))
        scaled = slopes / NOISE
        normal = (scaled * weights) @ scaled.T + np.diag(PRIOR_DEVIATIONS**-2)
        pull = scaled @ (weights * residuals) - (theta - START) / PRIOR_DEVIATIONS**2
        theta = theta + np.linalg.solve(normal, pull)
    return _constants(theta)


def _constants(theta: np.ndarray) -> Constants:
    return Constants(**dict(zip(NAMES, np.exp(theta).tolist(), strict=True)))


def _log_speeds(points: Sequence[Point], theta: np.ndarray) -> np.ndarray:
    constants = _constants(theta)
    speeds = []
    for point in points:
        step = micro_step(point.workload, point.gpu, point.program, constants)
        speeds.append(point.workload.tokens / point.program.tensor_parallel / step.seconds)
    return np.log(speeds)


def leave_one_source_out(points: Sequence[Point]) -> list[Error]:
    """Every point predicted from the other sources."""
    errors = []
    for group in dict.fromkeys(point.group for point in points):
        others = [point for point in points if point.group != group]
        fitted = Fitted(fit(others), 1.0, UNMEASURED_DEVIATION, frozenset(point.gpu.chip for point in others))
        errors += [_error(point, fitted) for point in points if point.group == group]
    return errors


def unfitted_errors(points: Sequence[Point]) -> list[Error]:
    """Every point predicted from the priors alone."""
    fitted = Fitted(_constants(START), 1.0, UNMEASURED_DEVIATION, frozenset())
    return [_error(point, fitted) for point in points]


def _error(point: Point, fitted: Fitted) -> Error:
    speed = predicted_speed(point.workload, point.gpu, point.program, fitted)
    return Error(point, math.log(speed.median / point.measured), speed.below)


def interval_factor(errors: Sequence[Error]) -> float:
    """What the deviations are multiplied by so that the 90 % interval covers 90 % of further runs like these.

    The rank is that of split conformal prediction, (n + 1) x coverage (Lei et al. 2018, section 2.2).
    """
    reaches = sorted(abs(error.log_error) / (Z90 * error.deviation) for error in errors)
    return reaches[math.ceil(COVERAGE * (len(reaches) + 1)) - 1]


def write_fitted(points: Sequence[Point], errors: Sequence[Error]) -> None:
    """Fit all points and write what ships, with its provenance."""
    constants = fit(points)
    stored = {
        "about": "Written by `python -m benchmarks.speed_error --fit`; docs/speed-model.md explains.",
        "fitted": date.today().isoformat(),
        "points": len(points),
        "sources": sorted({point.group for point in points}),
        "constants": {
            name: {
                "value": float(f"{getattr(constants, name):.4g}"),
                "prior": value,
                "prior_deviation": deviation,
                "prior_source": source,
            }
            for name, (value, deviation, source) in PRIORS.items()
        },
        # Rounded up, so that the outermost covered point stays covered.
        "interval": {
            "factor": math.ceil(interval_factor(errors) * 1000) / 1000,
            "unmeasured_deviation": UNMEASURED_DEVIATION,
        },
        "chips": sorted({point.gpu.chip for point in points}),
    }
    FITTED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def print_table(errors: Sequence[Error], factor: float) -> None:
    """Errors by source, leave-one-source-out, and how many points the 90 % interval covers."""
    print(f"{'source':<12}{'n':>4}{'median':>9}{'worst':>9}{'bias':>8}{'covered':>10}")
    for group in [*dict.fromkeys(error.point.group for error in errors), "ALL"]:
        chosen = [error for error in errors if group in (error.point.group, "ALL")]
        relative = [error.relative for error in chosen]
        median = statistics.median(abs(value) for value in relative)
        worst, bias = max(relative, key=abs), statistics.median(relative)
        covered = sum(abs(error.log_error) <= Z90 * factor * error.deviation + 1e-12 for error in chosen)
        print(
            f"{group:<12}{len(chosen):>4}{median:>9.1%}{worst:>+9.1%}{bias:>+8.1%}{covered:>6}/{len(chosen)}"
            f"{covered / len(chosen):>6.0%}"
        )
    reach = statistics.median(math.exp(Z90 * factor * error.deviation) for error in errors)
    print(f"leave-one-source-out; the 90 % interval is x/÷ {reach:.2f} in the median")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fit", action="store_true", help="rewrite launcher/assets/speed.json")
    parser.add_argument("--points", action="store_true", help="print every point")
    arguments = parser.parse_args()
    points = read_points()
    errors = leave_one_source_out(points)
    if arguments.fit:
        write_fitted(points, errors)
    if arguments.points:
        for error in errors:
            point = error.point
            print(f"{point.id:<5}{point.gpu.name:<14}{point.measured:>9.0f} tok/s{error.relative:>+8.1%}")
    print_table(errors, interval_factor(errors))
    unfitted = [abs(error.relative) for error in unfitted_errors(points)]
    print(f"priors alone, nothing fitted: median {statistics.median(unfitted):.1%}")


if __name__ == "__main__":
    main()
