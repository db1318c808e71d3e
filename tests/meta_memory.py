"""Peak memory of real models without weights or a GPU: transformers, PEFT and bitsandbytes on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import bitsandbytes
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, masking_utils
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from launcher.architecture import Architecture
from launcher.cost.workload import Workload
from launcher.train.trainer import ToolCallTrainer

ATTENTION = "meta_kernel"
LossFunction = Callable[[torch.nn.Module, Workload], torch.Tensor]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, each once, from the moment an operation returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._storages: dict[int, weakref.ref] = {}

    def add(self, tensor: torch.Tensor) -> None:
        """Count this tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, lambda _: self._free(key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _free(self, key: int, size: int) -> None:
        del self._storages[key]
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in tree_iter(result):
            if isinstance(item, torch.Tensor) and item.is_meta:
                self.add(item)
        return result


@contextmanager
def meta_attention() -> Iterator[None]:
    """FlashAttention as PyTorch's own operator, and no search for packed rows, which would read values."""

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: Any = None, **_: Any) -> Any:
        operator = torch.ops.aten._scaled_dot_product_flash_attention
        return operator(query, key, value, 0.0, True, False, scale=scaling)[0].transpose(1, 2).contiguous(), None

    find_packed = masking_utils.find_packed_sequence_indices
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention)
    masking_utils.ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, lambda *_, **__: None)
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = find_packed


def build_model(workload: Workload, layers: int) -> torch.nn.Module:
    """The workload's model with this many layers, 16-bit weights and adapters (autocast knows no meta device)."""
    model = _empty_model(workload.architecture, layers)
    if workload.method == "qlora":
        _quantise(model, workload.quantization == "nf4-dq")
    if workload.method != "full":
        adapters = LoraConfig(r=workload.rank, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, adapters, autocast_adapter_dtype=False).to(torch.bfloat16)
        model.enable_input_require_grads()
    if workload.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def _empty_model(shape: Architecture, layers: int) -> torch.nn.Module:
    config_type, model_type = (Qwen2Config, Qwen2ForCausalLM) if shape.qkv_bias else (LlamaConfig, LlamaForCausalLM)
    names = "hidden_size num_attention_heads num_key_value_heads intermediate_size vocab_size tie_word_embeddings"
    fields = {name: getattr(shape, name) for name in names.split()}
    config = config_type(**fields, num_hidden_layers=layers, use_cache=False, attn_implementation=ATTENTION)
    with torch.device("meta"):
        return model_type(config).to(torch.bfloat16)


def _quantise(model: torch.nn.Module, double: bool) -> None:
    for name, linear in list(model.named_modules()):
        if isinstance(linear, torch.nn.Linear) and name != "lm_head":
            options = {"compress_statistics": double, "quant_type": "nf4", "quant_storage": torch.bfloat16}
            replacement = bitsandbytes.nn.Linear4bit(
                linear.in_features, linear.out_features, compute_dtype=torch.bfloat16, device="meta", **options
            )
            replacement.bias = linear.bias
            weight = bitsandbytes.nn.Params4bit(linear.weight.data, requires_grad=False, module=replacement, **options)
            replacement.weight = weight._quantize("meta")
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, replacement)


def transformers_loss(model: torch.nn.Module, workload: Workload) -> torch.Tensor:
    """transformers' own loss over all positions."""
    rows = torch.zeros(workload.micro_batch, workload.seq_len, dtype=torch.long, device="meta")
    return model(input_ids=rows, labels=rows).loss


def our_loss(model: torch.nn.Module, workload: Workload) -> torch.Tensor:
    """`ToolCallTrainer.compute_loss` on one row; how many positions are trained is said, as meta labels hold none."""
    assert workload.trained_tokens is not None and workload.micro_batch == 1
    rows = torch.zeros(1, workload.seq_len, dtype=torch.long, device="meta")
    trainer = SimpleNamespace(args=SimpleNamespace(average_tokens_across_devices=False))

    def chosen(mask: torch.Tensor) -> torch.Tensor:
        return torch.empty(workload.trained_tokens, mask.ndim, dtype=torch.long, device="meta")

    with mock.patch.object(torch.Tensor, "nonzero", chosen):
        return ToolCallTrainer.compute_loss(trainer, model, {"input_ids": rows, "labels": rows})  # type: ignore[arg-type]


def peak_bytes(workload: Workload, loss: LossFunction, layers: int) -> int:
    """Peak of two micro-steps of a model with this many layers; the second meets the first one's gradients."""
    model = build_model(workload, layers)
    tracker = LiveBytes()
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            tracker.add(tensor)
            state = getattr(tensor, "quant_state", None)
            if state is not None:
                tracker.add(state.absmax)
                if state.nested:
                    tracker.add(state.state2.absmax)
    with tracker:
        for _ in range(2):
            loss(model, workload).backward()
    return tracker.peak


def extrapolated_peak_bytes(workload: Workload, loss: LossFunction) -> float:
    """The whole model's peak from those of two and four layers: every further layer adds the same."""
    two, four = (peak_bytes(workload, loss, layers) for layers in (2, 4))
    return two + (four - two) / 2 * (workload.architecture.num_hidden_layers - 2)
