"""Seconds that GPUs spend on each other and on host memory in one micro-step: shards gathered, gradients reduced."""

from __future__ import annotations

import math

from launcher.cost.gpus import GpuModel
from launcher.cost.speed_constants import Constants, Program
from launcher.cost.workload import Workload

# Bytes of one quantised weight. NF4 with its block constants: docs/cost-model.md; int4: GPTQ in groups of 128.
QUANTISED_BYTES = {"nf4": 4.5 / 8, "nf4-dq": 4.127 / 8, "int4": 4.25 / 8}
PCIE_GB_PER_S = 32.0  # PCIe 4.0 x16, one direction, the usual slot of rented machines
# One 400 Gbit/s InfiniBand port a GPU in NVLink machines (NVIDIA DGX reference design); 10 Gbit/s Ethernet a machine
# elsewhere, assumed.
FABRIC_GB_PER_S_PER_GPU = 50.0
ETHERNET_GB_PER_S = 1.25
GPUS_PER_NODE = 8
SHARDS_WEIGHTS = ("zero3", "fsdp")


def stored_bytes(workload: Workload) -> float:
    """Bytes of all weights as they lie on the GPUs together."""
    shape = workload.architecture
    plain = float(workload.weight_bytes)
    quantised = QUANTISED_BYTES.get(workload.quantization, plain)
    experts = quantised if workload.stack.experts_quantised else plain
    others = shape.embedding_parameters + shape.small_parameters
    return shape.linear_parameters * quantised + shape.expert_parameters * experts + others * plain


def ranks_of(workload: Workload, program: Program) -> float:
    """GPUs that share the weights: all but those of the same tensor-parallel group."""
    return max(1.0, workload.gpus / program.tensor_parallel)


def communication_seconds(workload: Workload, gpu: GpuModel, program: Program, constants: Constants) -> float:
    """Gathering shards, reducing gradients and reading what lies in host memory, for one micro-step.

    Sharded weights are gathered twice, forward and backward, each rank receiving the others' shares; gradients are
    reduced once per optimizer step, under ZeRO-3 and FSDP in every micro-step (Rajbhandari et al. 2020, section 7).
    """
    trained = workload.architecture.parameters if workload.method == "full" else workload.adapter_parameters
    gradients = 2.0 * trained / program.tensor_parallel
    sharded = workload.sharding in SHARDS_WEIGHTS
    between = 0.0
    if workload.sharding != "none":
        reduced = gradients if sharded else 2 * gradients / program.accumulation
        between = _others(workload, program) * reduced / _link_bytes_per_s(workload, gpu, program, constants)
    return between + 2 * gather_seconds(workload, gpu, program, constants) + _from_host(workload, program, constants)


def gather_seconds(workload: Workload, gpu: GpuModel, program: Program, constants: Constants) -> float:
    """Seconds in which a rank receives the other ranks' shares of all weights once; 0 where weights are not sharded."""
    if workload.sharding not in SHARDS_WEIGHTS:
        return 0.0
    received = _others(workload, program) * stored_bytes(workload) / program.tensor_parallel
    return received / _link_bytes_per_s(workload, gpu, program, constants)


def _others(workload: Workload, program: Program) -> float:
    """Share of the weights that the other ranks hold."""
    return 1 - 1 / ranks_of(workload, program)


def _from_host(workload: Workload, program: Program, constants: Constants) -> float:
    """Seconds over PCIe: offloaded shards forward and backward, offloaded activations there and back."""
    moved = 0.0
    if workload.cpu_offload and workload.sharding in SHARDS_WEIGHTS:
        moved += 2 * stored_bytes(workload) / program.tensor_parallel / ranks_of(workload, program)
    if workload.activation_offload:
        shape = workload.architecture
        moved += 2 * workload.tokens * shape.num_hidden_layers * 2 * shape.hidden_size
    return moved / (PCIE_GB_PER_S * constants.pcie_share * 1e9)


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
