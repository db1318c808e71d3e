"""Training stacks: what programs do with memory where a job leaves it open. A job names a row, never a flag.

Every row says which program, which version, and where that was read.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from launcher.cost.workload import Stack
from launcher.errors import BadInput

_ROWS = (
    # This launcher: transformers 5.17, TRL 1.16 `SFTTrainer`, PEFT 0.21, bitsandbytes 0.50; loss in train/trainer.py.
    Stack(name="launcher", loss="trained_positions", master_bytes=4),
    # TRL 1.16 as it comes: fused LM head and loss (trl/trainer/sft_trainer.py, `loss_type="chunked_nll"`).
    Stack(name="trl", loss="fused"),
    # transformers from 4.46: `ForCausalLMLoss` (transformers/loss/loss_utils.py).
    Stack(name="hf", loss="hf"),
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


def stack_of_flags(base: Stack, flags: Mapping[str, Any]) -> Stack:
    """`base` with these fields set; named after the row it then equals, else `custom`."""
    changed = dataclasses.replace(base, **flags)
    return next((row for row in STACKS.values() if dataclasses.replace(row, name=changed.name) == changed), changed)
