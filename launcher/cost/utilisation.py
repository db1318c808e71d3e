"""Where the time of one training micro-step goes on one GPU: a sum of physical terms.

    seconds = sqrt(busy^2 + launch^2 + overlapped communication^2) + communication that cannot overlap
    busy    = matmul + attention + elementwise + dequantise + weights + optimizer

A GPU works while the host prepares the next kernels, so the slower of the two decides, smoothly; the same holds for
transfers over NVLink. PCIe transfers between GPUs without peer access go through the host and are waited for.

Nine constants stand between the data sheets and a real run (`launcher.cost.speed_constants`); docs/speed-model.md
explains each term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from launcher.architecture import Linear
from launcher.cost.gpus import GpuModel
from launcher.cost.interconnect import GPUS_PER_NODE, QUANTISED_BYTES, communication_seconds, ranks_of
from launcher.cost.speed_constants import Constants, Program
from launcher.cost.workload import Workload

# Adam in 16 bits reads and writes weight and two moments and reads the gradient; with fp32 masters twice that.
OPTIMIZER_BYTES_PER_WEIGHT_BYTE = 7
# Operations of an eager transformer layer in one forward pass: two norms of six, rotary of ten, four attention linears
# and the attention itself, three MLP linears, activation, product, casts, residuals (transformers' LlamaDecoderLayer).
KERNELS_PER_LAYER = 35
# Cast, dropout, A, B, scale, add and the hook around them (peft.tuners.lora.Linear.forward).
KERNELS_PER_ADAPTER = 7
COMPILED_KERNELS = 0.5  # torch.compile fuses about half of the kernels away; assumed
HOST_GB_PER_S = 50.0  # host memory traffic of an optimizer on the CPU, shared by the machine's GPUs; assumed

# How far each term may be off, as the standard deviation of its logarithm, before scaling to the observed errors.
TERM_DEVIATIONS = {
    "matmul": 0.12,
    "attention": 0.2,
    "elementwise": 0.25,
    "dequantise": 0.4,
    "weights": 0.3,
    "optimizer": 0.5,
    "launch": 0.5,
    "communication": 0.5,
}


@dataclass(frozen=True)
class MicroStep:
    """Seconds of one micro-step on one GPU by term, and the whole; `overlaps`: communication runs beside the work."""

    matmul: float
    attention: float
    elementwise: float
    dequantise: float
    weights: float
    optimizer: float
    launch: float
    communication: float
    overlaps: bool

    @property
    def busy(self) -> float:
        """Seconds in which the GPU computes."""
        return self.matmul + self.attention + self.elementwise + self.dequantise + self.weights + self.optimizer

    @property
    def _covered(self) -> float:
        return math.hypot(self.busy, self.launch, self.communication if self.overlaps else 0.0)

    @property
    def seconds(self) -> float:
        """The whole micro-step."""
        return self._covered + (0.0 if self.overlaps else self.communication)

    def deviation(self) -> float:
        """Standard deviation of the logarithm of `seconds`, terms independent: each by how much it moves the whole."""
        squares = 0.0
        for term, deviation in TERM_DEVIATIONS.items():
            value = getattr(self, term)
            if term == "communication" and not self.overlaps:
                moves = value
            elif term in ("launch", "communication"):
                moves = value**2 / self._covered
            else:
                moves = value * self.busy / self._covered
            squares += (deviation * moves / self.seconds) ** 2
        return math.sqrt(squares)


def recomputed_share(workload: Workload, program: Program) -> float:
    """Share of the forward pass that is computed again in the backward pass."""
    if workload.gradient_checkpointing:
        return 1.0
    return 0.5 if program.selective_recompute else 0.0


def head_share(workload: Workload) -> float:
    """Share of the positions at which the output head is computed: all, but for the loss at trained positions only."""
    if workload.stack.loss != "trained_positions" or workload.trained_tokens is None:
        return 1.0
    return min(1.0, workload.trained_tokens / workload.tokens)


def matmul_flops_per_token(workload: Workload, recomputed: float) -> float:
    """FLOPs of the linear layers, adapters and head, forward, backward and what is `recomputed` of the forward.

    Two per weight and pass; frozen weights need no weight gradient: LoRA 2(2+c)P + (6+2c)p + 4hV, full
    2(3+c)P + 6hV (Kaplan et al. 2020, section 2.1, with the frozen passes left out).
    """
    shape = workload.architecture
    head = shape.hidden_size * shape.vocab_size * head_share(workload)
    if workload.method == "full":
        return 2 * (3 + recomputed) * shape.active_linear_parameters + 6 * head
    adapters = (6 + 2 * recomputed) * workload.adapter_parameters
    return 2 * (2 + recomputed) * shape.active_linear_parameters + adapters + 4 * head


def attention_flops_per_token(workload: Workload, recomputed: float) -> float:
    """FLOPs of causal attention: 2 x seq x width x layers forward, 2.5 times that backward (Dao 2023, FlashAttention-2,
    section 4.1: five products backward for two forward)."""
    shape = workload.architecture
    return 2 * workload.seq_len * shape.attention_width * shape.num_hidden_layers * (3.5 + recomputed)


def micro_step(workload: Workload, gpu: GpuModel, program: Program, constants: Constants) -> MicroStep:
    """Seconds by term of one micro-step of this workload on this GPU."""
    recomputed = recomputed_share(workload, program)
    tokens = workload.tokens / program.tensor_parallel
    memory = gpu.memory_gb_per_s * 1e9
    peak = sustained_flops(gpu, constants)
    passes = 2 + recomputed + (workload.method == "full")
    return MicroStep(
        matmul=tokens * matmul_flops_per_token(workload, recomputed) / peak,
        attention=tokens
        * attention_flops_per_token(workload, recomputed)
        / (peak * constants.attention_share / constants.gemm_share),
        elementwise=tokens * _elementwise_bytes_per_token(workload, program, constants, recomputed) / memory,
        dequantise=passes * _dequantised_bytes(workload, program) / (memory * constants.dequantise_share),
        weights=passes * 2 * _linear_weights(workload) / program.tensor_parallel / memory,
        optimizer=_optimizer_seconds(workload, gpu, program),
        launch=launch_seconds(workload, program, constants, 3 + recomputed),
        communication=communication_seconds(workload, gpu, program, constants),
        overlaps=gpu.nvlink_gb_per_s is not None,
    )


def sustained_flops(gpu: GpuModel, constants: Constants) -> float:
    """FLOPs per second of large matrix products: the smaller of compute and power limit, with a soft corner."""
    compute = constants.gemm_share * gpu.bf16_tflops
    power = constants.tflops_per_watt * gpu.watts
    return float((compute**-4 + power**-4) ** -0.25 * 1e12)


def _elementwise_bytes_per_token(
    workload: Workload, program: Program, constants: Constants, recomputed: float
) -> float:
    """Memory traffic outside matrix products, bytes per token on one GPU, from the reads and writes of each kernel.

    Forward, per layer: two RMSNorms with fp32 copies 36 B per element each, two residuals 6 B each, rotary 16 B per
    query and key element, activation and product 10 B per MLP element; per adapter 5 B in (dropout) and 8 B out (scale,
    add). Backward twice the forward. Logits: bf16, an fp32 copy, log-softmax and their gradients, about 40 B each.
    """
    shape = workload.architecture
    width = shape.attention_width + shape.key_value_width
    mlp = shape.intermediate_size * (max(1, shape.experts_per_token + shape.shared_experts))
    layer = 84 * shape.hidden_size + 16 * width + 10 * mlp
    if workload.method != "full":
        layer += sum(5 * linear.inputs + 8 * linear.outputs for linear in _adapted_linears(workload))
    if workload.attention == "eager":
        layer += 20 * workload.seq_len * shape.num_attention_heads  # scores, mask, fp32 softmax
    logits = 40 * shape.vocab_size * head_share(workload)
    share = constants.fused if program.fused or program.compiled else 1.0
    return constants.traffic * share * (layer * shape.num_hidden_layers * (3 + recomputed) + logits)


def _adapted_linears(workload: Workload) -> list[Linear]:
    names = workload.target_modules
    linears = [linear for linear, _ in workload.architecture.dense_linears]
    return linears if names == "all-linear" else [linear for linear in linears if linear.name in names]


def _linear_weights(workload: Workload) -> int:
    """Weights read in each pass; of the routed experts all, since a batch of tokens meets them all."""
    return workload.architecture.linear_parameters + workload.architecture.expert_parameters


def _dequantised_bytes(workload: Workload, program: Program) -> float:
    """Traffic of dequantising all quantised weights once: read 4 bits, write 16."""
    if workload.quantization not in QUANTISED_BYTES:
        return 0.0
    shape = workload.architecture
    weights = shape.linear_parameters + (shape.expert_parameters if workload.stack.experts_quantised else 0)
    return weights * (QUANTISED_BYTES[workload.quantization] + 2) / program.tensor_parallel


def _optimizer_seconds(workload: Workload, gpu: GpuModel, program: Program) -> float:
    """One optimizer step, spread over its micro-steps. Adapters are too small to count."""
    if workload.method != "full":
        return 0.0
    shards = ranks_of(workload, program) if workload.sharding in ("zero2", "zero3", "fsdp") else 1
    width = 4 if workload.optimizer == "adamw_fp32" else workload.stack.master_bytes
    traffic = OPTIMIZER_BYTES_PER_WEIGHT_BYTE * width * workload.architecture.parameters / program.tensor_parallel
    if workload.cpu_offload:
        gpus_of_a_node = min(workload.gpus, GPUS_PER_NODE)
        return traffic / shards * gpus_of_a_node / (HOST_GB_PER_S * 1e9) / program.accumulation
    return traffic / shards / (gpu.memory_gb_per_s * 1e9) / program.accumulation


def launch_seconds(workload: Workload, program: Program, constants: Constants, passes: float) -> float:
    """Host time of all kernels of so many forward passes; a backward pass counts as two."""
    adapters = 0 if workload.method == "full" else len(_adapted_linears(workload))
    kernels = (KERNELS_PER_LAYER + KERNELS_PER_ADAPTER * adapters) * workload.architecture.num_hidden_layers
    return kernels * passes * (COMPILED_KERNELS if program.compiled else 1.0) * constants.launch_us * 1e-6
