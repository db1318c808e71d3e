"""Peak memory of the host: what loading or training takes of one machine's RAM, GiB."""

from __future__ import annotations

import math

from launcher.cost import memory_terms as terms
from launcher.cost.memory_activations import offloaded_activation_bytes
from launcher.cost.workload import Workload

GIB = 2**30
# A process with torch, the CUDA libraries, transformers, datasets and a tokenizer, its loader and pinned batches.
PROCESS_GIB = 5.0
# The operating system and what else runs on a rented machine.
SYSTEM_GIB = 2.0
# transformers 5 streams tensors to one GPU with four workers (transformers/core_model_loading.py), each of which holds
# the one it works on; the largest is the embedding.
LOADING_WORKERS = 4


def host_components(workload: Workload) -> dict[str, float]:
    """Host memory per machine at its peak, by what it is for; what is not there at that time is 0.

    loading: with sharded weights one 16-bit copy of the model on the first process (accelerate's
    `cpu_ram_efficient_loading`), else the tensors under way. offloaded: what waits in pinned memory for the GPUs.
    processes: one for each GPU.
    """
    local = math.ceil(workload.gpus / workload.nodes)
    loading = _loading_bytes(workload) / GIB
    offloaded = (_offloaded_bytes(workload) + local * offloaded_activation_bytes(workload)) / GIB
    is_loading = loading >= offloaded
    return {
        "loading": loading if is_loading else 0.0,
        "offloaded": 0.0 if is_loading else offloaded,
        "processes": PROCESS_GIB * local,
        "system": SYSTEM_GIB,
    }


def _loading_bytes(workload: Workload) -> float:
    if terms.parameter_shards(workload) > 1:
        return 2.0 * workload.architecture.parameters
    return LOADING_WORKERS * terms.head_bytes(workload)


def _offloaded_bytes(workload: Workload) -> float:
    """The machine's share of offloaded gradients and states, and of the weights where these are offloaded too."""
    if not workload.cpu_offload:
        return 0.0
    states = terms.trainable_bytes(workload) + terms.moment_bytes(workload)
    held = terms.trainable_parameters(workload) * states
    if terms.is_parameter_offloaded(workload):
        held += terms.quantised_parameters(workload) * terms.CODE_BYTES + terms.plain_weight_bytes(workload)
        held += workload.adapter_parameters * terms.adapter_bytes(workload)
    return held / workload.nodes
