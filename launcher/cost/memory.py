"""Peak memory of a training configuration: of one GPU, by component, with bounds, and of the host.

A micro-step has five moments at which memory can peak: the end of the forward pass, the loss, the backward pass of the
last layer, that of the first (when all gradients are there), and the optimizer's step. Each is a sum of closed forms;
the largest is the peak.
The forms stand in `memory_terms` and `memory_activations`; docs/cost-model.md says how far off they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from launcher.cost import memory_activations as activations
from launcher.cost import memory_terms as terms
from launcher.cost.cases import Metric, metric_of_case, usable_of_case, workload_of_case
from launcher.cost.host_memory import host_components
from launcher.cost.memory_bounds import bounds
from launcher.cost.workload import Workload

GIB = 2**30
COMPONENTS = (
    "weights",
    "adapters",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "dequantisation",
    "communication",
    "context",
    "fragmentation",
)
# CUDA context and cuBLAS workspace: 0.3 to 0.7 GiB between driver versions, not seen by torch. NCCL's channels of one
# communicator: 0.35 GiB on top where GPUs talk.
CONTEXT_GIB = 0.55
NCCL_GIB = 0.35
# cuBLAS takes 32 MiB for each of the two threads that compute from torch's own pool (aten/src/ATen/cuda/
# CublasHandlePool.cpp), and the last segments of 2 and 20 MiB for small blocks are partly empty.
LIBRARIES_GIB = 0.15


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory in GiB.

    components: of the whole device, as nvidia-smi shows it; they add up to `expected_gib`. low_gib, high_gib: bounds of
    the same; `fits` is decided on the upper one. alloc_gib, reserved_gib: what torch reports as peak allocated and peak
    reserved. host_gib: peak host memory per machine, while loading or training.
    """

    components: Mapping[str, float]
    expected_gib: float
    low_gib: float
    high_gib: float
    alloc_gib: float
    reserved_gib: float
    host_gib: float
    host_components: Mapping[str, float]

    def in_metric(self, metric: Metric) -> tuple[float, float, float]:
        """Expected value, lower and upper bound, as this instrument reads them (capacity: the whole device)."""
        value = {"alloc": self.alloc_gib, "reserved": self.reserved_gib}.get(metric, self.expected_gib)
        return value, value * self.low_gib / self.expected_gib, value * self.high_gib / self.expected_gib

    def fits(self, usable_gib: float) -> Literal["yes", "tight", "no"]:
        """Whether it fits a GPU with this much memory: yes if the upper bound does, tight if only the expected does."""
        if self.high_gib <= usable_gib:
            return "yes"
        return "tight" if self.expected_gib <= usable_gib else "no"


@dataclass(frozen=True)
class _Moment:
    """What is alive at one moment beside weights, adapters, optimizer states and buffers, in bytes."""

    gradients: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    dequantisation: float = 0.0
    optimizer: float = 0.0
    fragmentation: float = 0.0

    @property
    def allocated(self) -> float:
        return self.gradients + self.activations + self.logits + self.dequantisation + self.optimizer


def estimate_memory(workload: Workload) -> MemoryEstimate:
    """Peak memory of one GPU and of its machine under this configuration.

    The bounds are the largest of any moment's, so that they grow with whatever makes a moment larger.
    """
    moments = list(_moments(workload))
    lasting = _lasting(workload)
    of_moments = [_components(workload, lasting, moment) for moment in moments]
    components = max(of_moments, key=lambda parts: sum(parts.values()))
    expected = sum(components.values())
    enclosing = [bounds(parts, is_sharded=workload.gpus > 1) for parts in of_moments]
    paged = lasting["optimizer"] if workload.optimizer == "paged_8bit" else 0.0
    in_torch = sum(lasting.values()) - paged
    allocated = in_torch + max(moment.allocated for moment in moments)
    host = host_components(workload)
    return MemoryEstimate(
        components=components,
        expected_gib=expected,
        low_gib=max(low for low, _ in enclosing),
        high_gib=max(high for _, high in enclosing),
        alloc_gib=workload.stack.block_rounding * allocated / GIB,
        reserved_gib=expected - _outside_torch_gib(workload) - paged / GIB,
        host_gib=sum(host.values()),
        host_components=host,
    )


def _lasting(workload: Workload) -> dict[str, float]:
    """What is there at every moment, bytes."""
    return {
        "weights": terms.weight_bytes(workload),
        "adapters": terms.adapter_weight_bytes(workload),
        "optimizer": terms.optimizer_bytes(workload),
        "communication": terms.communication_bytes(workload),
    }


def _outside_torch_gib(workload: Workload) -> float:
    return CONTEXT_GIB + (NCCL_GIB if workload.gpus > 1 else 0.0)


def _components(workload: Workload, lasting: Mapping[str, float], moment: _Moment) -> dict[str, float]:
    """The whole device at one moment, GiB."""
    rounded = (workload.stack.block_rounding - 1) * (sum(lasting.values()) + moment.allocated)
    unusable = moment.fragmentation + rounded + terms.communication_fragmentation_bytes(workload)
    return {
        "weights": lasting["weights"] / GIB,
        "adapters": lasting["adapters"] / GIB,
        "gradients": moment.gradients / GIB,
        "optimizer": (lasting["optimizer"] + moment.optimizer) / GIB,
        "activations": moment.activations / GIB,
        "logits": moment.logits / GIB,
        "dequantisation": moment.dequantisation / GIB,
        "communication": lasting["communication"] / GIB + _outside_torch_gib(workload) - CONTEXT_GIB,
        "context": CONTEXT_GIB,
        "fragmentation": unusable / GIB + LIBRARIES_GIB,
    }


def _moments(workload: Workload) -> Iterator[_Moment]:
    """The moments at which memory can peak, in the order they come."""
    gradients = terms.gradient_bytes(workload)
    early = gradients if workload.stack.accumulates else 0.0
    stored, layer = activations.stored_bytes(workload), activations.largest_layer_bytes(workload)
    # Under checkpointing the layer's forward pass is repeated; otherwise its tensors are among those stored.
    repeated = layer if workload.gradient_checkpointing else 0.0
    temporary, workspace = activations.temporary_bytes(workload)
    cast = terms.cast_bytes(workload)
    kept_cast = 0.0 if workload.gradient_checkpointing else cast
    yield _Moment(gradients=early, activations=stored, dequantisation=cast)
    if workload.method == "full" and early == 0.0:
        early = _head_gradient_bytes(workload)
    yield _Moment(
        gradients=early,
        activations=stored + activations.final_norm_bytes(workload),
        logits=activations.loss_bytes(workload),
        dequantisation=activations.head_workspace_bytes(workload) + kept_cast,
        fragmentation=activations.loss_fragmentation_bytes(workload),
    )
    yield _Moment(
        gradients=early,
        activations=stored + repeated + temporary,
        dequantisation=workspace + kept_cast,
        fragmentation=activations.layer_fragmentation_bytes(workload),
    )
    if workload.method == "full":
        yield _Moment(gradients=gradients + _embedding_copy_bytes(workload), activations=layer + temporary)
    yield _Moment(gradients=gradients, optimizer=terms.step_bytes(workload))


def _head_gradient_bytes(workload: Workload) -> float:
    """The output head's gradient, the first there is; a chunked loss adds each chunk's to the sum so far."""
    if workload.cpu_offload:
        return 0.0
    chunked = workload.stack.loss in ("linear_ce", "fused")
    return terms.head_bytes(workload) * (2 if chunked else 1) / terms.state_shards(workload)


def _embedding_copy_bytes(workload: Workload) -> float:
    """The embedding's gradient before it is added to an earlier one: of another micro-step, or of the head it is."""
    is_added = workload.architecture.tie_word_embeddings or workload.stack.accumulates
    if not is_added or workload.optimizer_in_backward or workload.cpu_offload:
        return 0.0
    return terms.head_bytes(workload) / terms.state_shards(workload)


def score_case(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`id`, `peak_gib`, `low_gib` and `high_gib` in the case's own metric, and `fits` where it has `gpu_memory_gib`.

    Raises:
        BadInput: a field is missing or no value it can have, or the model or GPU is not known.
    """
    memory = estimate_memory(workload_of_case(raw))
    expected, low, high = memory.in_metric(metric_of_case(raw))
    scored = {"id": raw.get("id"), "peak_gib": round(expected, 3), "low_gib": round(low, 3), "high_gib": round(high, 3)}
    usable = usable_of_case(raw)
    return scored if usable is None else {**scored, "fits": memory.fits(usable)}
