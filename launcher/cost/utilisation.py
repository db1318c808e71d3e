"""Where the time of one training micro-step goes on one GPU: a sum of physical terms.

    seconds = sqrt(busy^2 + launch^2 + overlapped communication^2) + communication that cannot overlap
    busy    = matmul + attention + elementwise + dequantise + weights + optimizer

A GPU works while the host prepares the next kernels, so the slower of the two decides, smoothly; the same holds for
transfers over NVLink. PCIe transfers between GPUs without peer access go through the host and are waited for.

Nine constants stand between the data sheets and a real run (`Constants`). Their values, with the prior they started
from and the published points that moved them, are in `launcher/assets/speed.json`, written by
`python -m benchmarks.speed_error --fit`; docs/speed-model.md explains each term.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from launcher.architecture import Linear
from launcher.cost.gpus import GpuModel
from launcher.cost.workload import Workload

FITTED = Path(__file__).parent.parent / "assets" / "speed.json"

# Bytes of one weight. NF4 with its block constants: docs/cost-model.md; int4 (GPTQ, groups of 128) is about the same.
WEIGHT_BYTES = {"none": 2.0, "nf4": 4.5 / 8, "nf4-dq": 4.127 / 8, "int4": 4.25 / 8}
# Adam in 16 bits reads and writes weight and two moments and reads the gradient; with fp32 masters twice that.
OPTIMIZER_BYTES_PER_WEIGHT_BYTE = 7
# Operations of an eager transformer layer in one forward pass: two norms of six, rotary of ten, four attention linears
# and the attention itself, three MLP linears, activation, product, casts and residuals (transformers' LlamaDecoderLayer).
KERNELS_PER_LAYER = 35
# Cast, dropout, A, B, scale, add and the hook around them (peft.tuners.lora.Linear.forward).
KERNELS_PER_ADAPTER = 7
COMPILED_KERNELS = 0.5  # torch.compile fuses about half of the kernels away; assumed
PCIE_GB_PER_S = 32.0  # PCIe 4.0 x16, one direction, the usual slot of rented machines
# One 400 Gbit/s InfiniBand port a GPU in NVLink machines (NVIDIA DGX reference design); 10 Gbit/s Ethernet a machine
# elsewhere, assumed.
FABRIC_GB_PER_S_PER_GPU = 50.0
ETHERNET_GB_PER_S = 1.25
GPUS_PER_NODE = 8
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


@lru_cache(maxsize=1)
def load_fitted() -> Fitted:
    """The constants that ship with the package."""
    stored = json.loads(FITTED.read_text(encoding="utf-8"))
    values = {field.name: stored["constants"][field.name]["value"] for field in fields(Constants)}
    interval = stored["interval"]
    return Fitted(Constants(**values), interval["factor"], interval["unmeasured_deviation"], frozenset(stored["chips"]))


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
    peak = _sustained_flops(gpu, constants)
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
        launch=_launch_seconds(workload, program, constants, recomputed),
        communication=_communication_seconds(workload, gpu, program, constants),
        overlaps=gpu.nvlink_gb_per_s is not None,
    )


def _sustained_flops(gpu: GpuModel, constants: Constants) -> float:
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


def _stored_bytes(workload: Workload) -> float:
    """Bytes of all weights as they lie on the GPUs together."""
    shape = workload.architecture
    linear = shape.linear_parameters * WEIGHT_BYTES[workload.quantization]
    experts = WEIGHT_BYTES[workload.quantization if workload.stack.experts_quantised else "none"]
    return linear + shape.expert_parameters * experts + 2 * (shape.embedding_parameters + shape.small_parameters)


def _dequantised_bytes(workload: Workload, program: Program) -> float:
    """Traffic of dequantising all quantised weights once: read 4 bits, write 16."""
    if workload.quantization == "none":
        return 0.0
    shape = workload.architecture
    weights = shape.linear_parameters + (shape.expert_parameters if workload.stack.experts_quantised else 0)
    return weights * (WEIGHT_BYTES[workload.quantization] + 2) / program.tensor_parallel


def _ranks(workload: Workload, program: Program) -> float:
    """GPUs that share the weights: all but those of the same tensor-parallel group."""
    return max(1.0, workload.gpus / program.tensor_parallel)


def _optimizer_seconds(workload: Workload, gpu: GpuModel, program: Program) -> float:
    """One optimizer step, spread over its micro-steps. Adapters are too small to count."""
    if workload.method != "full":
        return 0.0
    shards = _ranks(workload, program) if workload.sharding in ("zero2", "zero3", "fsdp") else 1
    width = 4 if workload.optimizer == "adamw_fp32" else workload.stack.master_bytes
    traffic = OPTIMIZER_BYTES_PER_WEIGHT_BYTE * width * workload.architecture.parameters / program.tensor_parallel
    if workload.cpu_offload:
        gpus_of_a_node = min(workload.gpus, GPUS_PER_NODE)
        return traffic / shards * gpus_of_a_node / (HOST_GB_PER_S * 1e9) / program.accumulation
    return traffic / shards / (gpu.memory_gb_per_s * 1e9) / program.accumulation


def _launch_seconds(workload: Workload, program: Program, constants: Constants, recomputed: float) -> float:
    adapters = 0 if workload.method == "full" else len(_adapted_linears(workload))
    kernels = (KERNELS_PER_LAYER + KERNELS_PER_ADAPTER * adapters) * workload.architecture.num_hidden_layers
    share = COMPILED_KERNELS if program.compiled else 1.0
    return kernels * (3 + recomputed) * share * constants.launch_us * 1e-6


def _communication_seconds(workload: Workload, gpu: GpuModel, program: Program, constants: Constants) -> float:
    """Gathering shards, reducing gradients and reading what lies in host memory, for one micro-step.

    Sharded weights are gathered twice, forward and backward, each rank receiving the others' shares; gradients are
    reduced once per optimizer step, under ZeRO-3 and FSDP in every micro-step (Rajbhandari et al. 2020, section 7).
    """
    ranks = _ranks(workload, program)
    others = (ranks - 1) / ranks
    stored = _stored_bytes(workload) / program.tensor_parallel
    trained = workload.architecture.parameters if workload.method == "full" else workload.adapter_parameters
    gradients = 2.0 * trained / program.tensor_parallel
    sharded = workload.sharding in ("zero3", "fsdp")
    between = 0.0
    if workload.gpus > 1 and workload.sharding != "none":
        reduced = gradients if sharded else 2 * gradients / program.accumulation
        between = others * (reduced + (2 * stored if sharded else 0.0))
    from_host = 0.0
    if workload.cpu_offload and sharded:
        from_host += 2 * stored / ranks
    if workload.activation_offload:
        shape = workload.architecture
        from_host += 2 * workload.tokens * shape.num_hidden_layers * 2 * shape.hidden_size
    pcie = PCIE_GB_PER_S * constants.pcie_share * 1e9
    return between / _link_bytes_per_s(workload, gpu, program, constants) + from_host / pcie


def _link_bytes_per_s(workload: Workload, gpu: GpuModel, program: Program, constants: Constants) -> float:
    """Bandwidth of one rank's collective: NVLink or PCIe inside a machine, at most the network's share beyond it."""
    if gpu.nvlink_gb_per_s is None:
        inside, fabric = PCIE_GB_PER_S * constants.pcie_share, ETHERNET_GB_PER_S
    else:
        # A ring crosses to the next machine once, through all ports of the machine that its group holds.
        inside = gpu.nvlink_gb_per_s / 2 * constants.nvlink_share
        gpus_of_a_node = workload.gpus / max(workload.nodes, math.ceil(workload.gpus / GPUS_PER_NODE))
        fabric = FABRIC_GB_PER_S_PER_GPU * constants.nvlink_share * gpus_of_a_node / program.tensor_parallel
    across = workload.nodes > 1 or workload.gpus > GPUS_PER_NODE
    return (min(inside, fabric) if across else inside) * 1e9
