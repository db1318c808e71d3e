"""What lies on one GPU through the whole of training: weights, adapters, gradients, optimizer states, gathered shards.

Bytes throughout. h: hidden size, V: vocabulary, P: weights of a layer or model, N: GPUs that share parameters.
"""

from __future__ import annotations

from launcher.architecture import Architecture, Linear
from launcher.cost.workload import Workload

# Bytes of one quantised weight's code, and of the constants of its block. nf4: 4 bits, an fp32 maximum per 64 weights;
# nf4-dq: that maximum in 8 bits, itself in blocks of 256 with an fp32 maximum (Dettmers et al. 2023, QLoRA, section 3;
# bitsandbytes/functional.py `quantize_4bit`). int4: GPTQ in groups of 128, an fp16 scale and a 4-bit zero a group.
CODE_BYTES = 0.5
BLOCK_BYTES = {"nf4": 4 / 64, "nf4-dq": 1 / 64 + 4 / (64 * 256), "int4": 2.5 / 128}
# Moments of AdamW per trainable weight: in the weight's own precision (torch.optim), in fp32, or in 8 bits with an fp32
# maximum per 256 (bitsandbytes/optim/optimizer.py). Paged ones are managed memory, outside of torch's allocator.
FP32_MOMENTS = 8.0
EIGHT_BIT_MOMENTS = 2 * (1 + 4 / 256)
# FSDP holds the layer at work and the next one (backward prefetch; torch/distributed/fsdp/_limiter_utils.py lets two
# gathers be under way). Their stream has blocks of its own, one more layer's of which wait to be reused.
GATHERED_LAYERS = 2
# DeepSpeed ZeRO-3 keeps up to this many gathered elements (`stage3_max_live_parameters`, deepspeed/runtime/zero/
# config.py), and copies a bucket once more while it puts the shards together (partition_parameters.py,
# `AllGatherCoalescedHandle.wait`).
MAX_LIVE_ELEMENTS = 1e9
# Elements of a ZeRO-2 reduction bucket, two of them with overlapping communication (deepspeed/runtime/zero/config.py).
ZERO2_BUCKET_ELEMENTS = 5e8


def parameter_shards(workload: Workload) -> int:
    """Over how many GPUs the weights are spread."""
    return workload.gpus if workload.sharding in ("zero3", "fsdp") else 1


def state_shards(workload: Workload) -> int:
    """Over how many GPUs gradients and optimizer states are spread."""
    return workload.gpus if workload.sharding in ("zero2", "zero3", "fsdp") else 1


def is_parameter_offloaded(workload: Workload) -> bool:
    """Whether weights wait in host memory, as CPU offload does where parameters are sharded."""
    return workload.cpu_offload and workload.sharding in ("zero3", "fsdp")


def trainable_parameters(workload: Workload) -> int:
    """Weights that get gradients: the adapters, or all."""
    return workload.architecture.parameters if workload.method == "full" else workload.adapter_parameters


def adapter_bytes(workload: Workload) -> int:
    """Bytes of one adapter weight."""
    stack = workload.stack
    quantised = workload.quantization != "none"
    return stack.quantised_adapter_bytes or stack.adapter_bytes if quantised else stack.adapter_bytes


def trainable_bytes(workload: Workload) -> int:
    """Bytes of one trainable weight, and so of its gradient (torch: a gradient has its weight's precision)."""
    return weight_width(workload) if workload.method == "full" else adapter_bytes(workload)


def weight_width(workload: Workload) -> int:
    """Bytes of one weight that is not quantised."""
    own = workload.stack.master_bytes if workload.method == "full" else 2
    return max(own, workload.weight_bytes)


def quantised_parameters(workload: Workload) -> int:
    """Weights held in 4 bits: all linear layers but the output head; routed experts only where the stack does it.

    transformers quantises `nn.Linear` alone and leaves the output embedding (quantizers/base.py,
    `get_keys_to_not_convert`), so experts that are 3-D parameters stay in 16 bits.
    """
    if workload.quantization == "none" or workload.method == "full":
        return 0
    architecture = workload.architecture
    experts = workload.stack.experts_quantised or not architecture.fused_experts
    head = architecture.vocab_size * architecture.hidden_size if workload.stack.code == "litgpt" else 0
    return architecture.linear_parameters + (architecture.expert_parameters if experts else 0) + head


def embedding_parameters(workload: Workload) -> int:
    """Input embedding and output head; LitGPT of 2024 ties none (litgpt/model.py), and quantises the head."""
    architecture = workload.architecture
    if workload.stack.code != "litgpt":
        return architecture.embedding_parameters
    matrix = architecture.vocab_size * architecture.hidden_size
    return matrix if quantised_parameters(workload) else 2 * matrix


def weight_bytes(workload: Workload) -> float:
    """The base model's share on one GPU.

    Quantised codes and 16-bit weights are spread over N; the constants of the blocks are not (they are no parameters:
    bitsandbytes' `quant_state`), which is 1 GiB of a 70B on every GPU.
    """
    quantised = quantised_parameters(workload)
    constants = quantised * BLOCK_BYTES.get(workload.quantization, 0.0)
    if is_parameter_offloaded(workload):
        return constants
    return constants + (quantised * CODE_BYTES + plain_weight_bytes(workload)) / parameter_shards(workload)


def plain_weight_bytes(workload: Workload) -> float:
    """All weights that are not quantised, of the whole model."""
    embedding = embedding_parameters(workload)
    rest = _plain_parameters(workload) - embedding
    return embedding * embedding_width(workload) + rest * weight_width(workload)


def _plain_parameters(workload: Workload) -> int:
    architecture = workload.architecture
    layers = architecture.linear_parameters + architecture.expert_parameters + architecture.small_parameters
    matrix = architecture.vocab_size * architecture.hidden_size
    head = matrix if workload.stack.code == "litgpt" and quantised_parameters(workload) else 0
    return embedding_parameters(workload) + head + layers - quantised_parameters(workload)


def embedding_width(workload: Workload) -> int:
    """Bytes of one embedding weight."""
    width = weight_width(workload)
    return width if workload.method == "full" else max(width, workload.stack.embedding_bytes)


def head_bytes(workload: Workload) -> float:
    """The output head, V x h, also where it is the input embedding."""
    return workload.architecture.vocab_size * workload.architecture.hidden_size * embedding_width(workload)


def adapter_weight_bytes(workload: Workload) -> float:
    """The LoRA weights on one GPU, rank x (in + out) of every adapted layer (Hu et al. 2021, section 4.1)."""
    if is_parameter_offloaded(workload):
        return 0.0
    return workload.adapter_parameters * adapter_bytes(workload) / parameter_shards(workload)


def gradient_bytes(workload: Workload) -> float:
    """Gradients on one GPU; none stay where the optimizer steps within the backward pass."""
    if workload.optimizer_in_backward or workload.cpu_offload:
        return 0.0
    return trainable_parameters(workload) * trainable_bytes(workload) / state_shards(workload)


def moment_bytes(workload: Workload) -> float:
    """Bytes of AdamW's two moments per trainable weight."""
    if workload.optimizer in ("adamw_8bit", "paged_8bit"):
        return EIGHT_BIT_MOMENTS
    return FP32_MOMENTS if workload.optimizer == "adamw_fp32" else 2.0 * trainable_bytes(workload)


def optimizer_bytes(workload: Workload) -> float:
    """The optimizer's states on one GPU."""
    if workload.cpu_offload:
        return 0.0
    return trainable_parameters(workload) * moment_bytes(workload) / state_shards(workload)


def step_bytes(workload: Workload) -> float:
    """What the optimizer's step needs beside the states: fp32 copies, where it is not fused.

    torch/optim/adamw.py `_multi_tensor_adamw`: the square root of the second moment, and in torch 2.0 one copy more.
    """
    if workload.cpu_offload or workload.optimizer in ("adamw_8bit", "paged_8bit"):
        return 0.0
    width = moment_bytes(workload) / 2
    return trainable_parameters(workload) * width * workload.stack.step_copies / state_shards(workload)


def cast_bytes(workload: Workload) -> float:
    """16-bit copies of fp32 master weights, which autocast keeps to the end of the forward pass.

    It caches the cast of every fp32 leaf that needs a gradient (aten/src/ATen/autocast_mode.cpp `cached_cast`); sharded
    weights are gathered in 16 bits instead.
    """
    is_cast = workload.method == "full" and workload.stack.autocast and workload.stack.master_bytes == 4
    if not is_cast or workload.weight_bytes == 4 or parameter_shards(workload) > 1:
        return 0.0
    architecture = workload.architecture
    head = architecture.vocab_size * architecture.hidden_size
    return 2.0 * (architecture.linear_parameters + architecture.expert_parameters + head)


def communication_bytes(workload: Workload) -> float:
    """Buffers that sharding needs on every GPU: gathered layers, reduction buckets."""
    if workload.gpus == 1:
        return 0.0
    if workload.sharding == "fsdp":
        layers = GATHERED_LAYERS * (
            2 if workload.method == "full" else 1
        )  # with their gradients, before they are spread
        return _root_bytes(workload) + layers * layer_weight_bytes(workload)
    if workload.sharding == "zero3":
        return _zero3_bytes(workload)
    bucket = trainable_parameters(workload) * trainable_bytes(workload)
    if workload.sharding == "zero2":
        return min(bucket, 2 * ZERO2_BUCKET_ELEMENTS * trainable_bytes(workload))
    # DistributedDataParallel's buckets are a second copy of the gradients (torch/nn/parallel/distributed.py,
    # `gradient_as_bucket_view`).
    return bucket


def communication_fragmentation_bytes(workload: Workload) -> float:
    """Blocks that FSDP has reserved beside the gathered layers: one more, and shards on their way from the host."""
    if workload.gpus == 1 or workload.sharding != "fsdp":
        return 0.0
    shards = GATHERED_LAYERS / workload.gpus if is_parameter_offloaded(workload) else 0.0
    return layer_weight_bytes(workload) * (1 + shards)


def _root_bytes(workload: Workload) -> float:
    """FSDP's root unit, embedding and head: gathered at the first layer and kept to the end of the step."""
    return workload.architecture.embedding_parameters * 2


def _zero3_bytes(workload: Workload) -> float:
    """Live parameters and their copies; embedding and head, too large to be among them, one each; never all twice."""
    total = quantised_parameters(workload) * CODE_BYTES + 2 * _plain_parameters(workload)
    live = min(MAX_LIVE_ELEMENTS * 2, total)
    return min(2 * live + 2 * 2 * workload.architecture.vocab_size * workload.architecture.hidden_size, 2 * total)


def layer_weight_bytes(workload: Workload) -> float:
    """One gathered layer, the largest: its codes, or its weights in 16 bits."""
    if not quantised_parameters(workload):
        return max(2.0 * (linear + experts) for linear, experts in _layer_kinds(workload.architecture))
    are_quantised = workload.stack.experts_quantised or not workload.architecture.fused_experts
    expert_bytes = CODE_BYTES if are_quantised else 2
    return max(linear * CODE_BYTES + experts * expert_bytes for linear, experts in _layer_kinds(workload.architecture))


def _layer_kinds(architecture: Architecture) -> list[tuple[int, int]]:
    """Of each kind of layer the model has: weights of its linear layers, and those of its routed experts."""
    attention = sum(linear.parameters for linear in architecture.attention_linears)
    kinds = []
    if architecture.expert_layers < architecture.num_hidden_layers:
        width = architecture.dense_intermediate_size if architecture.num_experts else architecture.intermediate_size
        kinds.append((attention + _mlp_parameters(architecture, width), 0))
    if architecture.expert_layers:
        shared = _mlp_parameters(architecture, architecture.intermediate_size * architecture.shared_experts)
        kinds.append((attention + shared, architecture.expert_parameters // architecture.expert_layers))
    return kinds


def _mlp_parameters(architecture: Architecture, width: int) -> int:
    return sum(linear.parameters for linear in architecture.mlp_linears(width))


def largest_linear(workload: Workload) -> Linear:
    """The linear layer whose dequantised copy is the largest."""
    return max((linear for linear, _ in workload.architecture.dense_linears), key=lambda linear: linear.parameters)


def dequantised_bytes(workload: Workload) -> float:
    """The 16-bit copy that one product works on, with the fp32 maxima of its blocks (bitsandbytes `dequantize_4bit`).

    Quantised experts are one parameter a layer, so all of them are dequantised at once, and backward keeps the copy.
    AutoGPTQ multiplies by an ordinary product of unpacked weights and scales (qlinear_cuda_old.py), which autograd
    keeps for every linear layer of the layer at work.
    """
    if not quantised_parameters(workload):
        return 0.0
    architecture = workload.architecture
    if workload.quantization == "int4":
        layer = max(linear for linear, _ in _layer_kinds(architecture))
        return 2.0 * (layer + largest_linear(workload).parameters)
    workspace = largest_linear(workload).parameters * (2 + 4 / 64)
    if workload.stack.experts_quantised and architecture.expert_layers:
        return workspace + architecture.expert_parameters / architecture.expert_layers * 2
    return workspace
