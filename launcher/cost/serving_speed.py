"""How many tokens a second one GPU serves, from published measurements, where the user has none of their own.

GPUStack's performance lab (github.com/gpustack/gpustack, docs/performance-lab, read in November 2026): vLLM 0.11,
SGLang 0.5.5 or TensorRT-LLM 1.2 on one GPU under saturating load, input and output tokens together. The interval is the
lowest, the median and the highest of the ten figures of a page: five mixes of prompt and answer length, default vLLM
and the best engine they found. So it is over kinds of traffic and engines; a server that is not saturated gives less.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from launcher.cost.spread import Spread

SOURCE = "GPUStack performance lab, docs/performance-lab/{page}.md, one GPU under saturating load"


@dataclass(frozen=True)
class ServingPoint:
    """Published total tokens per second of one model on one GPU, one figure a traffic mix and engine."""

    billion_parameters: float
    gpus: tuple[str, ...]
    gpu_memory_gib: float
    page: str
    tokens_per_second: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Lowest and highest figure as the 10th and 90th percentile."""
        figures = self.tokens_per_second
        return Spread.from_quantiles(min(figures), median(figures), max(figures))


# Dense models in 16 bits (the best engine on H100 serves FP8). Order: ShareGPT, short, medium, long, very long prompts;
# default vLLM, then the best engine.
POINTS = (
    ServingPoint(
        14.8, ("A100", "A100-PCIe"), 80.0, "qwen3-14b/a100",
        (3922.41, 4916.63, 5967.13, 5153.42, 4430.14, 5770.24, 8762.17, 7474.00, 6418.65, 4413.82),
    ),
    ServingPoint(
        14.8, ("H100",), 80.0, "qwen3-14b/h100",
        (6595.66, 5796.73, 10597.19, 9218.03, 8298.56, 10426.27, 16884.75, 14764.26, 12257.62, 10014.29),
    ),
    ServingPoint(
        32.8, ("A100", "A100-PCIe"), 80.0, "qwen3-32b/a100",
        (1730.98, 2656.71, 2521.38, 1837.08, 1798.45, 2054.21, 3535.54, 2715.90, 2037.67, 1580.36),
    ),
    ServingPoint(
        32.8, ("H100",), 80.0, "qwen3-32b/h100",
        (2352.82, 4005.62, 3195.30, 2148.69, 2771.81, 4284.68, 6826.33, 5901.95, 4929.16, 4068.16),
    ),
)  # fmt: skip
NEAR = 1.25  # a model up to this factor larger or smaller is served by scaling with its size


def published_speed(billion_parameters: float, gpu: str, gpu_memory_gib: float | None) -> tuple[Spread, str] | None:
    """Tokens per second of one GPU and where the figure is from; None where nobody near was measured.

    No memory size: any that was measured. Speed is scaled with 1 / parameters: reading weights and multiplying by them
    both grow with their number.
    """
    near = [
        point
        for point in POINTS
        if gpu in point.gpus
        and gpu_memory_gib in (None, point.gpu_memory_gib)
        and 1 / NEAR <= billion_parameters / point.billion_parameters <= NEAR
    ]
    if not near:
        return None
    (point,) = near
    return point.spread.times(point.billion_parameters / billion_parameters), SOURCE.format(page=point.page)
