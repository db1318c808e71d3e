"""Training speed of one GPU: tokens per second with a 90 % interval, from the shape, the GPU's data sheet and nine
constants fitted to published runs (`launcher.cost.speed_constants`)."""

from __future__ import annotations

import math

from launcher.cost.gpus import GpuModel
from launcher.cost.speed_constants import Fitted, Program, load_fitted
from launcher.cost.spread import Spread
from launcher.cost.utilisation import (
    attention_flops_per_token,
    matmul_flops_per_token,
    micro_step,
    recomputed_share,
)
from launcher.cost.workload import Workload

# Programs with kernels of their own for norms, rotary, activation and loss, whether or not they call torch.compile.
FUSED_FRAMEWORKS = ("nemo", "torchtitan", "llm-foundry", "unsloth")


def flops_per_token(workload: Workload) -> float:
    """Hardware FLOPs per token, what checkpointing computes again included; formulas: `launcher.cost.utilisation`."""
    recomputed = recomputed_share(workload, Program())
    return matmul_flops_per_token(workload, recomputed) + attention_flops_per_token(workload, recomputed)


def tokens_per_second_per_gpu(
    workload: Workload,
    gpu: GpuModel,
    compile: bool = False,
    framework: str = "hf",
    calibration: Spread | None = None,
    accumulation: float = 1.0,
) -> Spread:
    """Tokens a GPU trains on per second, padding included.

    `quantile(0.05)` and `quantile(0.95)` of the result enclose 90 % of the published points, each predicted without its
    own source (benchmarks/README.md).

    Args:
        calibration: tokens per second per GPU measured with this stack on this GPU, for this workload; it takes the
            place of the prediction.
        accumulation: micro-steps per optimizer step; matters to full fine-tuning.
    """
    if calibration is not None:
        return calibration
    program = Program(fused=framework in FUSED_FRAMEWORKS, compiled=compile, accumulation=accumulation)
    return predicted_speed(workload, gpu, program, load_fitted())


def predicted_speed(workload: Workload, gpu: GpuModel, program: Program, fitted: Fitted) -> Spread:
    """The same from given constants."""
    step = micro_step(workload, gpu, program, fitted.constants)
    unmeasured = 0.0 if gpu.chip in fitted.chips else fitted.unmeasured_deviation
    deviation = fitted.interval_factor * math.hypot(step.deviation(), unmeasured)
    speed = workload.tokens / program.tensor_parallel / step.seconds
    return Spread(speed, deviation, deviation)
