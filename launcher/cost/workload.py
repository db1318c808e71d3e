"""One training configuration as memory and speed see it: model shape, method, tokens per step, sharding, stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from launcher.architecture import LINEAR_MODULES, Architecture

Method = Literal["full", "lora", "qlora"]
Quantization = Literal["none", "nf4", "nf4-dq", "int4"]
Sharding = Literal["none", "ddp", "zero2", "zero3", "fsdp"]
Attention = Literal["flash", "sdpa", "eager"]
# trained_positions: this launcher's own loss, logits at the trained positions only. The others are those of
# docs/cost-model.md; hf, hf_old and hf_old_held are transformers' loss of now and then, fused and linear_ce never hold
# the logits whole, chunk holds them in 16 bits.
LossKernel = Literal["trained_positions", "hf", "hf_old", "hf_old_held", "fused", "linear_ce", "chunk", "litgpt"]
Optimizer = Literal["adamw", "adamw_fp32", "adamw_8bit", "paged_8bit"]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """How a training program spends memory where the job leaves it open.

    adapter_bytes: of one adapter weight (2: 16 bits, 4: fp32); quantised_adapter_bytes: the same over a quantised base,
    None where it is no other. embedding_bytes: of one embedding weight. master_bytes: of one weight under full
    fine-tuning. autocast: torch autocast casts the inputs once for all modules. repeat_kv: keys and values are repeated
    to all heads. experts_quantised: routed experts are held in 4 bits. old_bitsandbytes: the version whose products
    keep their inputs alive with the graph. code: whose model code runs. fused_qkv: q, k and v are one layer with one
    adapter. accumulates: gradients may lie there from an earlier micro-step while the loss is computed.
    step_copies: copies of all trainable weights in fp32 that an optimizer step makes (0: a fused step). logits_held:
    16-bit logits stay with the model's output until the backward pass is over. loss_by_autocast: only autocast turns
    logits into fp32, so that without it they stay in 16 bits. block_rounding: by which factor the allocator enlarges
    what it is asked for. compiled: torch.compile fuses the steps of a layer and repeats cheap ones instead of keeping
    their results.
    """

    name: str
    loss: LossKernel
    adapter_bytes: int = 2
    quantised_adapter_bytes: int | None = None
    embedding_bytes: int = 2
    master_bytes: int = 2
    autocast: bool = True
    repeat_kv: bool = False
    experts_quantised: bool = False
    old_bitsandbytes: bool = False
    code: Literal["transformers", "litgpt"] = "transformers"
    fused_qkv: bool = False
    accumulates: bool = True
    step_copies: int = 0
    logits_held: bool = False
    loss_by_autocast: bool = False
    block_rounding: float = 1.0
    compiled: bool = False


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one GPU does in one micro-step.

    seq_len: tokens of the longest row; micro_batch: rows per GPU. trained_tokens: positions per micro-step at which a
    loss is computed, all of them where None (matters to `trained_positions` only). gpus: over all nodes; `sharding`
    says what they share. nodes: how many machines they stand in. weight_bytes: of one base weight that is neither
    quantised nor trained: 2 in 16 bits, 4 in fp32. rows_are_cut: whether many rows reach seq_len, because they are cut
    there; otherwise it is the length of the one longest row.
    """

    architecture: Architecture
    method: Method
    quantization: Quantization
    seq_len: int
    micro_batch: int
    stack: Stack
    rank: int = 16
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    lora_dropout: float = 0.0
    gradient_checkpointing: bool = True
    attention: Attention = "sdpa"
    optimizer: Optimizer = "adamw"
    gpus: int = 1
    nodes: int = 1
    sharding: Sharding = "none"
    cpu_offload: bool = False
    activation_offload: bool = False
    optimizer_in_backward: bool = False
    trained_tokens: int | None = None
    weight_bytes: int = 2
    rows_are_cut: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of one micro-step on one GPU, padding included."""
        return self.seq_len * self.micro_batch

    @property
    def targets(self) -> frozenset[str]:
        """Names of the linear layers that carry adapters; none under full fine-tuning."""
        if self.method == "full":
            return frozenset()
        return frozenset(LINEAR_MODULES if self.target_modules == "all-linear" else self.target_modules)

    @property
    def adapter_parameters(self) -> int:
        """Trainable LoRA weights; 0 under full fine-tuning."""
        if self.method == "full":
            return 0
        separate = self.architecture.adapter_parameters(self.rank, self.target_modules)
        shared = len({"q_proj", "k_proj", "v_proj"} & self.targets) - 1 if self.stack.fused_qkv else 0
        layers, width = self.architecture.num_hidden_layers, self.architecture.hidden_size
        return separate - max(0, shared) * self.rank * width * layers
