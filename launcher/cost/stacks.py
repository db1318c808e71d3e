"""Training stacks: what programs do with memory where a job leaves it open. A job names a row, never a flag.

Every row says which program, which version, and where that was read.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

from launcher.cost.workload import Stack
from launcher.errors import BadInput

# Blocks of P to 2P, P a power of two, rounded up to sixteenths of P: P/32 too large on average, over sizes spread
# evenly by their logarithm.
POWER_OF_TWO_ROUNDING = 1 + 1 / (64 * math.log(2))

_ROWS = (
    # This launcher: transformers 5.17, TRL 1.16 `SFTTrainer`, PEFT 0.21, bitsandbytes 0.50; loss in train/trainer.py,
    # precisions in train/model.py. PEFT makes adapters fp32 (`autocast_adapter_dtype`), TRL those of a quantised base
    # 16-bit (trl/trainer/sft_trainer.py).
    Stack(name="launcher", loss="trained_positions", adapter_bytes=4, quantised_adapter_bytes=2, master_bytes=4),
    # TRL 1.16 as it comes: fused LM head and loss (trl/trainer/sft_trainer.py, `loss_type="chunked_nll"`).
    Stack(name="trl", loss="fused", adapter_bytes=4, quantised_adapter_bytes=2),
    # transformers from 4.46: `ForCausalLMLoss` (transformers/loss/loss_utils.py).
    Stack(name="hf", loss="hf"),
    # transformers before 4.46 with PEFT: logits in fp32 beside the 16-bit ones. As in PEFT's FSDP and DeepSpeed guides
    # (huggingface/peft, docs/source/accelerate).
    Stack(name="hf-2024", loss="hf_old"),
    # QwenLM/Qwen finetune.py of 2023: torch 2.0's AdamW in steps of whole lists, one adapter for the fused q, k, v,
    # fp32 logits by autocast alone, which DeepSpeed does without (modeling_qwen.py).
    Stack(
        name="qwen-2023",
        loss="hf_old",
        adapter_bytes=4,
        fused_qkv=True,
        step_copies=2,
        loss_by_autocast=True,
    ),
    # AnswerDotAI/fsdp_qlora train.py: pure bf16, the output kept through backward, keys repeated (transformers 4.37).
    Stack(name="fsdp-qlora", loss="hf_old_held", repeat_kv=True),
    # Unsloth's comparison baseline: transformers with FlashAttention 2 after `prepare_model_for_kbit_training`, which
    # makes embeddings fp32 (docs.unsloth.ai/basics/unsloth-benchmarks).
    Stack(name="hf-kbit", loss="hf_old_held", adapter_bytes=4, embedding_bytes=4, repeat_kv=True),
    # huggingface/peft method_comparison/MetaMathQA/run.py: no autocast, gradients dropped before each forward pass,
    # the output kept through backward.
    Stack(name="peft-benchmark", loss="hf", adapter_bytes=4, autocast=False, accumulates=False, logits_held=True),
    # Axolotl of 2025 with cut cross-entropy, embeddings cast back to 16 bits (axolotl/loaders/model.py); it sets
    # roundup_power2_divisions:16 (axolotl/utils/__init__.py).
    Stack(name="axolotl", loss="fused", adapter_bytes=4, block_rounding=POWER_OF_TWO_ROUNDING),
    Stack(
        name="axolotl-experts",
        loss="fused",
        adapter_bytes=4,
        experts_quantised=True,
        block_rounding=POWER_OF_TWO_ROUNDING,
    ),
    # torchtune's recipes with torch.compile: a linear cross-entropy in chunks, or 16-bit logits in chunks
    # (torchtune/modules/loss).
    Stack(name="torchtune", loss="linear_ce", accumulates=False, compiled=True),
    Stack(name="torchtune-chunk", loss="chunk", accumulates=False, compiled=True),
    # Lightning-AI/litgpt of 2024, bitsandbytes 0.42 (litgpt/finetune/lora.py).
    Stack(name="litgpt", loss="litgpt", old_bitsandbytes=True, code="litgpt"),
)
STACKS: Mapping[str, Stack] = {stack.name: stack for stack in _ROWS}


def find_stack(name: str) -> Stack:
    """The row of this name.

    Raises:
        BadInput: there is none; the message gives the nearest names.
    """
    if name in STACKS:
        return STACKS[name]
    near = difflib.get_close_matches(name, STACKS, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(STACKS)}"
    raise BadInput(f"stack: {name!r}: unknown; {hint}")


def stack_of_flags(base: Stack | None, flags: Mapping[str, Any]) -> Stack:
    """`base` with these fields set; without a base, the row that agrees with most of them, and on the loss first.

    It keeps a row's name while it equals the row, else it is `custom`.
    """
    if "adapter_bytes" in flags:
        flags = {"quantised_adapter_bytes": None, **flags}
    row = base or max(STACKS.values(), key=lambda row: _agreement(row, flags))
    changed = dataclasses.replace(row, **flags)
    return row if changed == row else dataclasses.replace(changed, name="custom")


def _agreement(row: Stack, flags: Mapping[str, Any]) -> tuple[bool, int]:
    same = sum(getattr(row, name) == value for name, value in flags.items())
    return row.loss == flags.get("loss", "hf"), same
