"""What one micro-step lays down on the GPU: tensors kept for the backward pass, temporaries, logits. Bytes.

T: tokens of the micro-step, h: hidden size, i: MLP width, L: layers, V: vocabulary, r: rank. Kept tensors are those of
transformers' decoder layers with PEFT's LoRA layers, in 16 bits (tests/test_memory_oracle.py runs them).
"""

from __future__ import annotations

from launcher.cost.memory_terms import adapter_bytes, dequantised_bytes, largest_linear, quantised_parameters
from launcher.cost.workload import Workload

# Bytes per token and vocabulary entry that are alive at the loss's peak. hf: log-softmax, its gradient and that of the
# logits, fp32 (transformers/loss/loss_utils.py `ForCausalLMLoss`); hf_old: and the logits in 16 bits; hf_old_held: all
# logits in fp32 stay with the output; litgpt: logits and log-softmax in fp32, taken 128 positions at a time, so that
# gradients never add up (litgpt/utils.py `chunked_cross_entropy`); chunk: 16-bit logits.
LOSS_BYTES = {"hf": 12, "hf_old": 14, "hf_old_held": 16, "litgpt": 8, "chunk": 2, "trained_positions": 12}
# A loss that is left to autocast stays in 16 bits without it: logits, shifted logits, log-softmax, gradient.
SIXTEEN_BIT_LOSS_BYTES = 8
LITGPT_CHUNK = 128
# TRL's fused head works on tiles of 4096 positions x 32768 entries in 16 bits.
TILE_POSITIONS, TILE_BYTES_PER_POSITION = 4096, 2 * 32768


def stored_bytes(workload: Workload) -> float:
    """What the forward pass leaves for the backward pass: with checkpointing each layer's input, T x 2h, else all.

    Offloaded activations are on the GPU for the layer at work and the next one.
    """
    layers = workload.architecture.num_hidden_layers
    per_token = 2 * workload.architecture.hidden_size
    if not workload.gradient_checkpointing:
        dense = layers - workload.architecture.expert_layers
        return dense * layer_bytes(workload, is_expert=False) + (layers - dense) * layer_bytes(workload, is_expert=True)
    return (min(2, layers) if workload.activation_offload else layers) * workload.tokens * per_token


def largest_layer_bytes(workload: Workload) -> float:
    """What one layer keeps, of the kind that keeps most."""
    kinds = {False} if not workload.architecture.expert_layers else {True, not workload.architecture.dense_layers}
    return max(layer_bytes(workload, is_expert) for is_expert in kinds)


def layer_bytes(workload: Workload, is_expert: bool) -> float:
    """All that one layer keeps for its backward pass, T x the sum of:

    8h: fp32 copies in the two RMSNorms. 2h each: the inputs of q, k, v and of gate, up where they carry adapters.
    2ad + 4kd: queries, keys and values (4ad where keys are repeated). 2ad + 4a: attention's output and its
    log-sum-exp. 6i: gate, its activation and up. 2i: the input of an adapted down. 2r for each adapter. Dropout keeps
    its output and a mask, 3 x the input, of each adapter; adapters in fp32 without autocast an fp32 copy of the input.
    """
    if workload.stack.code == "litgpt":
        return workload.tokens * _litgpt_layer(workload)
    if workload.stack.compiled:
        return workload.tokens * _compiled_layer(workload, is_expert)
    architecture = workload.architecture
    per_token = 8 * architecture.hidden_size + _attention_kept(workload) + _mlp_kept(workload, is_expert)
    if workload.method == "full":
        per_token += 4 * architecture.hidden_size + 2 * _active_width(workload, is_expert)
    else:
        per_token += _adapter_inputs(workload, is_expert)
    return workload.tokens * per_token


def _compiled_layer(workload: Workload, is_expert: bool) -> float:
    """What torch.compile keeps: its partitioner repeats norms, activation and their product instead.

    torch/_functorch/partitioners.py `min_cut_rematerialization_partition`: the two inputs of the norms, attention's
    tensors, gate and up, and the adapters' narrow products.
    """
    width = _active_width(workload, is_expert)
    ranks = 2 * workload.rank * len(workload.targets)
    return 4 * workload.architecture.hidden_size + _attention_kept(workload) + 4 * width + ranks


def _active_width(workload: Workload, is_expert: bool) -> int:
    """Width of all MLPs that one token passes through in a layer."""
    architecture = workload.architecture
    if is_expert:
        return architecture.intermediate_size * (architecture.experts_per_token + architecture.shared_experts)
    return architecture.dense_intermediate_size if architecture.num_experts else architecture.intermediate_size


def _widest(workload: Workload) -> int:
    """The largest MLP width of any layer."""
    return max(_active_width(workload, is_expert) for is_expert in {False, bool(workload.architecture.expert_layers)})


def _attention_kept(workload: Workload) -> float:
    architecture = workload.architecture
    query, heads = architecture.attention_width, architecture.num_attention_heads
    key = query if workload.stack.repeat_kv else architecture.key_value_width
    # Eager attention keeps its weights in fp32 and in 16 bits, a row of seq_len for every head.
    scores = 6 * heads * workload.seq_len if workload.attention == "eager" else 0
    return 4 * query + 4 * key + 4 * heads + scores


def _mlp_kept(workload: Workload, is_expert: bool) -> float:
    architecture = workload.architecture
    kept = (6 if architecture.gated_mlp else 4) * _active_width(workload, is_expert)
    # Tokens are gathered by expert, and each expert's output is kept for its weight's gradient.
    routed = 4 * architecture.hidden_size * architecture.experts_per_token if is_expert else 0
    return kept + routed


def _adapter_widths(workload: Workload, is_expert: bool) -> list[int]:
    """Input widths of the layers that carry adapters; fused experts carry none."""
    architecture, targets = workload.architecture, workload.targets
    if is_expert and architecture.fused_experts:
        targets -= {"gate_proj", "up_proj", "down_proj"}
    widths = {"o_proj": architecture.attention_width, "down_proj": _active_width(workload, is_expert)}
    return [widths.get(name, architecture.hidden_size) for name in targets]


def _adapter_inputs(workload: Workload, is_expert: bool) -> float:
    widths = _adapter_widths(workload, is_expert)
    ranks = 2 * workload.rank * len(widths)
    if adapter_bytes(workload) == 4 and not workload.stack.autocast:
        return sum(widths) * (5 if workload.lora_dropout else 4) + 2 * ranks
    if workload.lora_dropout:
        return 3 * sum(widths) + ranks
    hidden, targets = workload.architecture.hidden_size, workload.targets
    if is_expert and workload.architecture.fused_experts:
        targets -= {"gate_proj", "up_proj", "down_proj"}
    shared = hidden * (bool(targets & {"q_proj", "k_proj", "v_proj"}) + bool(targets & {"gate_proj", "up_proj"}))
    down = _active_width(workload, is_expert) if "down_proj" in targets else 0
    return 2 * (shared + down) + ranks


def _litgpt_layer(workload: Workload) -> float:
    """LitGPT's own block (litgpt/model.py, litgpt/lora.py): one layer for q, k and v, whose output lives on as values.

    Beside norms, MLP and attention: rotated queries and repeated keys; the adapters' dropped input and mask; their
    padded output (`index_copy` keeps its source). Grouped keys are repeated, and values then copied.
    """
    architecture = workload.architecture
    hidden, query, key = architecture.hidden_size, architecture.attention_width, architecture.key_value_width
    values = 2 * (query + 2 * key) if key == query else 2 * query
    adapted = {"q_proj": query, "k_proj": key, "v_proj": key}
    kept: float = 8 * hidden + 4 * query + values + 2 * query + 4 * architecture.num_attention_heads
    kept += 6 * architecture.intermediate_size
    names = workload.targets & set(adapted)
    kept += (3 if workload.lora_dropout else 2) * hidden + 2 * sum(adapted[name] for name in names)
    kept += 2 * workload.rank * len(names)
    if workload.method == "qlora" and workload.stack.old_bitsandbytes:
        kept += _kept_inputs(workload)
    return kept


def _kept_inputs(workload: Workload) -> float:
    """Inputs that older bitsandbytes keeps per token: `MatMul4Bit` held them as attributes, not as saved tensors.

    So they live as long as the graph, and LitGPT's loop holds the logits, and with them the graph, until the next
    forward pass is done. Where rows are cut, two batches in a row are as long; the one longest row follows an ordinary
    one, whose inputs are not counted.
    """
    architecture = workload.architecture
    inputs = 4 * architecture.hidden_size + 2 * architecture.attention_width + 2 * architecture.intermediate_size
    return inputs * (2 if workload.rows_are_cut else 1)


def temporary_bytes(workload: Workload) -> tuple[float, float]:
    """Gradients and copies within one layer's backward pass, and the dequantised weights at work then.

    T (4i + 2h) in the MLP, or T (2i + 2h) at a product with a dequantised weight; eager attention's scores.
    """
    architecture = workload.architecture
    hidden = architecture.hidden_size
    width = _widest(workload)
    plain, workspace = workload.tokens * (4 * width + 2 * hidden), dequantised_bytes(workload)
    if workload.attention == "eager":
        plain = max(plain, 8 * architecture.num_attention_heads * workload.seq_len * workload.tokens)
    product = workload.tokens * (2 * width + 2 * hidden)
    return (product, workspace) if workspace + product > plain else (plain, 0.0)


def loss_bytes(workload: Workload) -> float:
    """Logits, loss and their gradients at their peak, T x V x LOSS_BYTES; tiles only where the head is fused.

    `trained_positions` is T of the trained positions alone.
    """
    vocabulary, stack = workload.architecture.vocab_size, workload.stack
    if stack.loss in ("fused", "linear_ce"):
        return _tile_bytes(workload)
    per_entry = LOSS_BYTES[stack.loss] + (2 if stack.logits_held else 0)
    if is_sixteen_bit_loss(workload):
        per_entry = SIXTEEN_BIT_LOSS_BYTES
    return _loss_tokens(workload) * vocabulary * per_entry + (_tile_bytes(workload) if stack.loss == "chunk" else 0)


def is_sixteen_bit_loss(workload: Workload) -> bool:
    """Whether logits stay in 16 bits: where only autocast would change that, and DeepSpeed trains without autocast."""
    return workload.stack.loss_by_autocast and workload.sharding in ("zero2", "zero3")


def final_norm_bytes(workload: Workload) -> float:
    """Between the last layer and the logits: the norm's fp32 copy, and the head's input where the head is trained."""
    return workload.tokens * workload.architecture.hidden_size * (8 if workload.method == "full" else 4)


def head_workspace_bytes(workload: Workload) -> float:
    """LitGPT quantises the output head too: its weights in fp16 and, cast once more, in bf16.

    Lightning quantises from fp16 (lightning/fabric/plugins/precision/bitsandbytes.py `_quantize_weight`), and older
    bitsandbytes gives that precision back before it casts.
    """
    if workload.stack.code != "litgpt" or workload.method != "qlora":
        return 0.0
    return 2 * 2 * workload.architecture.vocab_size * workload.architecture.hidden_size


def _loss_tokens(workload: Workload) -> int:
    """Positions whose logits are computed."""
    if workload.stack.loss == "trained_positions" and workload.trained_tokens is not None:
        return min(workload.tokens, workload.trained_tokens)
    return workload.tokens


def _tile_bytes(workload: Workload) -> float:
    tile = min(workload.tokens, TILE_POSITIONS) * TILE_BYTES_PER_POSITION
    return tile + 14 * workload.architecture.hidden_size * workload.tokens


def loss_fragmentation_bytes(workload: Workload) -> float:
    """What torch's allocator has reserved and cannot use at the loss.

    Blocks of a layer's forward pass, four MLP-wide and ten hidden-wide ones in 16 bits, are freed by then, but too
    small for logits; so are the 16-bit logits where those in fp32 come next. Blocks are not merged across allocations
    from the driver (c10/cuda/CUDACachingAllocator.cpp). The counts are those of meta-device runs replayed through a
    model of it.
    """
    if workload.stack.loss in ("fused", "linear_ce"):
        return layer_fragmentation_bytes(workload)
    architecture = workload.architecture
    logits = 0 if is_sixteen_bit_loss(workload) else 2 * _loss_tokens(workload) * architecture.vocab_size
    return logits + workload.tokens * (8 * _widest(workload) + 20 * architecture.hidden_size)


def layer_fragmentation_bytes(workload: Workload) -> float:
    """The same in a layer's backward pass: two MLP-wide blocks, one dequantised weight's, and those of dropout."""
    single = largest_linear(workload).parameters * 2 if quantised_parameters(workload) else 0
    dropped = 0
    if workload.lora_dropout and workload.gradient_checkpointing:
        dropped = 3 * sum(_adapter_widths(workload, is_expert=bool(workload.architecture.expert_layers)))
    return single + workload.tokens * (4 * _widest(workload) + dropped)


def offloaded_activation_bytes(workload: Workload) -> float:
    """Layer inputs of one GPU that wait in host memory."""
    if not (workload.activation_offload and workload.gradient_checkpointing):
        return 0.0
    return 2 * workload.architecture.hidden_size * workload.architecture.num_hidden_layers * workload.tokens
