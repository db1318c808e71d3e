"""The shape of a transformer: what its configuration says, and the parameter counts that follow from it.

Everything that memory and speed need of a model stands here; where shapes come from stands in `launcher.models`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_MODULES = ("gate_proj", "up_proj", "down_proj")
LINEAR_MODULES = ATTENTION_MODULES + MLP_MODULES


@dataclass(frozen=True)
class Linear:
    """One linear layer of a transformer layer: its name, input and output width."""

    name: str
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Weights, without a bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder-only transformer. Names are those of Hugging Face configurations; widths in elements.

    Experts: `num_experts` routed experts a layer, each `intermediate_size` wide, `experts_per_token` of them active,
    `shared_experts` always active; the first `dense_layers` layers hold one MLP of `dense_intermediate_size` instead.
    `fused_experts`: experts are 3-D parameters, which bitsandbytes and PEFT's linear targets do not reach.
    `gated_mlp`: gate, up and down; otherwise up and down only. `other_parameters`: what the usual norms, biases and
    routers do not cover, counted once for the whole model; below 0 where a family lacks some of them. `max_context`:
    the longest sequence the model was made for, None where unknown. `family`: `model_type` of the configuration.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    head_dim: int
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    num_experts: int = 0
    experts_per_token: int = 0
    shared_experts: int = 0
    dense_layers: int = 0
    dense_intermediate_size: int = 0
    fused_experts: bool = True
    gated_mlp: bool = True
    other_parameters: int = 0
    max_context: int | None = None
    family: str = ""

    @property
    def attention_width(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_key_value_heads * self.head_dim

    @property
    def attention_linears(self) -> tuple[Linear, ...]:
        """q, k, v and o of one layer."""
        hidden, query, key = self.hidden_size, self.attention_width, self.key_value_width
        return (
            Linear("q_proj", hidden, query),
            Linear("k_proj", hidden, key),
            Linear("v_proj", hidden, key),
            Linear("o_proj", query, hidden),
        )

    def mlp_linears(self, width: int) -> tuple[Linear, ...]:
        """The linear layers of one MLP `width` wide."""
        gate = (Linear("gate_proj", self.hidden_size, width),) if self.gated_mlp else ()
        return (*gate, Linear("up_proj", self.hidden_size, width), Linear("down_proj", width, self.hidden_size))

    @property
    def expert_layers(self) -> int:
        """Layers whose MLP is made of experts."""
        return self.num_hidden_layers - self.dense_layers if self.num_experts else 0

    @cached_property
    def dense_linears(self) -> tuple[tuple[Linear, int], ...]:
        """Every linear layer outside the routed experts, with how many layers hold it (shared experts as one MLP)."""
        layers = self.num_hidden_layers
        linears = [(linear, layers) for linear in self.attention_linears]
        if not self.num_experts:
            return (*linears, *((linear, layers) for linear in self.mlp_linears(self.intermediate_size)))
        if self.dense_layers:
            linears += [(linear, self.dense_layers) for linear in self.mlp_linears(self.dense_intermediate_size)]
        if self.shared_experts:
            shared = self.mlp_linears(self.intermediate_size * self.shared_experts)
            linears += [(linear, self.expert_layers) for linear in shared]
        return tuple(linears)

    @property
    def linear_parameters(self) -> int:
        """Weights of all linear layers outside the routed experts and the output head: what bitsandbytes quantises."""
        return sum(linear.parameters * layers for linear, layers in self.dense_linears)

    @property
    def expert_parameters(self) -> int:
        """Weights of all routed experts."""
        one = sum(linear.parameters for linear in self.mlp_linears(self.intermediate_size))
        return one * self.num_experts * self.expert_layers

    @property
    def embedding_parameters(self) -> int:
        """The input embedding, and the output head where it is a matrix of its own."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.linear_parameters + self.expert_parameters + self.embedding_parameters + self.small_parameters

    @property
    def small_parameters(self) -> int:
        """Norms (two a layer and a last one), biases of q, k and v, routers, and what else the model holds."""
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        bias = (self.attention_width + 2 * self.key_value_width) * self.num_hidden_layers if self.qkv_bias else 0
        routers = self.num_experts * self.hidden_size * self.expert_layers
        return norms + bias + routers + self.other_parameters

    @property
    def active_linear_parameters(self) -> int:
        """Linear weights that one token passes through, experts by `experts_per_token`, the output head left out."""
        if not self.num_experts:
            return self.linear_parameters
        return self.linear_parameters + self.expert_parameters * self.experts_per_token // self.num_experts

    def adapter_parameters(self, rank: int, targets: Iterable[str] | Literal["all-linear"]) -> int:
        """LoRA weights, rank x (in + out) per adapted linear layer; routed experts are adapted unless fused."""
        names = set(LINEAR_MODULES if targets == "all-linear" else targets)
        dense = sum(
            rank * (linear.inputs + linear.outputs) * layers
            for linear, layers in self.dense_linears
            if linear.name in names
        )
        if not self.num_experts or self.fused_experts:
            return dense
        per_expert = sum(
            rank * (linear.inputs + linear.outputs)
            for linear in self.mlp_linears(self.intermediate_size)
            if linear.name in names
        )
        return dense + per_expert * self.num_experts * self.expert_layers
