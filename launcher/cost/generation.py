"""Seconds that the job's own evaluation takes: a pass over each prompt, then greedy generation by transformers.

Generation reads all weights for each token of a batch and launches every kernel for it; both are slow in eager
transformers, so the result is known to a factor of two only (one published check: 83 ms a token, 34B in 4 bits on an
A100, litgpt tutorials/resource-tables.md; this model says 50 ms).
"""

from __future__ import annotations

import math

from launcher.cost.gpus import GpuModel
from launcher.cost.interconnect import gather_seconds, stored_bytes
from launcher.cost.speed_constants import Constants, Program
from launcher.cost.utilisation import launch_seconds, sustained_flops
from launcher.cost.workload import Workload

# Prompts of a batch on one GPU while the job evaluates: train.eval_batch of a job, its default.
BATCH = 8
# A loss pass over prompt and answer, and the prefill of generation.
PASSES_OVER_PROMPT = 2


def evaluation_seconds(
    workload: Workload, gpu: GpuModel, constants: Constants, prompts: int, prompt_tokens: float, answer_tokens: float
) -> float:
    """Seconds to evaluate `prompts` prompts, spread over the workload's GPUs; token counts are means per prompt."""
    if not prompts:
        return 0.0
    batches = math.ceil(prompts / (BATCH * workload.gpus))
    batch = min(BATCH, prompts)
    step = _decode_seconds(workload, gpu, constants)
    # Two FLOPs a weight and token (Kaplan et al. 2020, section 2.1); at least what one decoding step takes.
    flops = 2 * workload.architecture.active_linear_parameters * batch * (prompt_tokens + answer_tokens)
    over_prompt = math.hypot(flops / sustained_flops(gpu, constants), step)
    return batches * (PASSES_OVER_PROMPT * over_prompt + answer_tokens * step)


def _decode_seconds(workload: Workload, gpu: GpuModel, constants: Constants) -> float:
    """One forward pass with one token per prompt: memory-bound or launch-bound, the slower decides."""
    share = constants.gemm_share if workload.quantization == "none" else constants.dequantise_share
    reading = stored_bytes(workload) / (gpu.memory_gb_per_s * 1e9 * share)
    launch = launch_seconds(workload, Program(), constants, passes=1)
    return math.hypot(reading, launch) + gather_seconds(workload, gpu, Program(), constants)
