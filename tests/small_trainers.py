"""What the tests of training share: a dozen examples of three tools, and trainers of the tiny base on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from launcher.data.examples import ToolCall, ToolExample
from launcher.models import model_location
from launcher.train.dataset import build_dataset
from launcher.train.quantize import nf4_config, repair_cpu_four_bit

TINY_BASE = model_location("builtin:tiny-base")
SYSTEM_PROMPT = "You answer with tool calls."
PROPERTIES: dict[str, dict[str, str]] = {
    "emu.run": {"frames": "integer"},
    "emu.read": {"address": "string", "length": "integer"},
    "map.write": {"map": "string", "data": "string", "dry_run": "boolean"},
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Calls {name}.",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in properties.items()},
                "required": list(properties),
            },
        },
    }
    for name, properties in PROPERTIES.items()
]
TOOL_NAMES = tuple(PROPERTIES)


def example(number: int) -> ToolExample:
    """An example of one call, every third one of two; no two instructions are equal."""
    calls = [
        ToolCall("emu.run", {"frames": 10 + number}),
        ToolCall("emu.read", {"address": f"0x{number:04X}", "length": 4 * number}),
        ToolCall("map.write", {"map": f"maps/cave {number}.json", "data": 'a "door"\n', "dry_run": number % 2 == 0}),
    ]
    chosen = (calls[number % 3], *([calls[0]] if number % 3 == 2 else []))
    wish = " then ".join(call.name.replace(".", " ") for call in chosen)
    return ToolExample(
        f"e{number}", f"Please {wish} with number {number}{', and hurry' * (number % 4)}.", chosen, f"t{number}", "test"
    )


EXAMPLES = tuple(example(number) for number in range(12))


def tiny_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tiny base's tokenizer, with another chat template where one is given."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_BASE)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def tiny_model(quantised: bool = False, **options: Any) -> PreTrainedModel:
    """The tiny base in fp32, or its linear layers in NF4."""
    if quantised:
        repair_cpu_four_bit()
        options["quantization_config"] = nf4_config(torch.float32)
    return AutoModelForCausalLM.from_pretrained(TINY_BASE, dtype=torch.float32, **options)


def tiny_arguments(folder: Path, **changes: Any) -> SFTConfig:
    """Every default of TRL that does not fit a small run on a CPU is set."""
    options: dict[str, Any] = {
        "output_dir": str(folder), "use_cpu": True, "dataloader_pin_memory": False, "bf16": False,
        "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
        "logging_steps": 1, "max_steps": 4, "learning_rate": 2e-3, "per_device_train_batch_size": 4,
        "max_length": 384, "assistant_only_loss": True, "seed": 0,
    }  # fmt: skip
    return SFTConfig(**(options | changes))


def tiny_lora() -> LoraConfig:
    """Adapters with dropout, so that the random state matters."""
    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")


def tiny_trainer(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dataset: Dataset | None = None,
    trainer_class: type[SFTTrainer] = SFTTrainer,
    trainer_options: dict[str, Any] | None = None,
    adapters: bool = True,
    **arguments: Any,
) -> SFTTrainer:
    """A trainer on the examples above, or on the dataset given."""
    tokenizer = tokenizer or tiny_tokenizer()
    return trainer_class(
        model=model,
        args=tiny_arguments(folder, **arguments),
        train_dataset=dataset if dataset is not None else build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tokenizer),
        processing_class=tokenizer,
        peft_config=tiny_lora() if adapters else None,
        **(trainer_options or {}),
    )


def losses(trainer: SFTTrainer) -> list[float]:
    """The losses a trainer logged, in order."""
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]
