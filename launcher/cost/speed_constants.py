"""What the speed model needs beside data sheets: nine constants, how a program runs its kernels, the shipped values.

Values, each with the prior it started from, are in `launcher/assets/speed.json`, written by
`python -m benchmarks.speed_error --fit` from the published points in `throughput.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

FITTED = Path(__file__).parent.parent / "assets" / "speed.json"


@dataclass(frozen=True)
class Constants:
    """What data sheets do not say.

    gemm_share: of the peak that large matrix products reach when power does not limit them. tflops_per_watt: sustained
    under the card's power limit. attention_share: of the peak, in flash attention. traffic: real memory traffic of
    eager elementwise kernels over the counted bytes. fused: share of that traffic which fused kernels leave.
    dequantise_share: of memory bandwidth while weights are dequantised. launch_us: host time per kernel. pcie_share,
    nvlink_share: of the nominal rate, in collectives.
    """

    gemm_share: float
    tflops_per_watt: float
    attention_share: float
    traffic: float
    fused: float
    dequantise_share: float
    launch_us: float
    pcie_share: float
    nvlink_share: float


@dataclass(frozen=True)
class Program:
    """How a training program runs its kernels.

    fused: own kernels for norms, rotary, activations and loss. compiled: torch.compile, which fuses too.
    selective_recompute: without full checkpointing, about every second matrix product is computed again.
    tensor_parallel: GPUs that share one row's work. accumulation: micro-steps per optimizer step.
    """

    fused: bool = False
    compiled: bool = False
    selective_recompute: bool = False
    tensor_parallel: int = 1
    accumulation: float = 1.0


@dataclass(frozen=True)
class Fitted:
    """The shipped constants; the factor from `TERM_DEVIATIONS` to observed errors; chips that points were measured on.

    unmeasured_deviation: added, in squares, on a chip without a published point.
    """

    constants: Constants
    interval_factor: float
    unmeasured_deviation: float
    chips: frozenset[str]


@lru_cache(maxsize=1)
def load_fitted() -> Fitted:
    """The constants that ship with the package."""
    stored = json.loads(FITTED.read_text(encoding="utf-8"))
    values = {field.name: stored["constants"][field.name]["value"] for field in fields(Constants)}
    interval = stored["interval"]
    return Fitted(Constants(**values), interval["factor"], interval["unmeasured_deviation"], frozenset(stored["chips"]))
