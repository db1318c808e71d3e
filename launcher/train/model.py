"""The tokenizer and the model of a job, in the precision and quantisation its method asks for."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from launcher.errors import BadInput
from launcher.job import JobSpec
from launcher.models import model_location
from launcher.train.quantize import nf4_config, repair_cpu_four_bit


def load_tokenizer(spec: JobSpec) -> PreTrainedTokenizerBase:
    """The base model's tokenizer.

    Raises:
        BadInput: it is neither on this machine nor reachable, or has no chat template.
    """
    location = model_location(spec.model.id)
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, revision=spec.model.revision)
    except (OSError, ValueError) as fault:
        raise BadInput(f"model.id: {spec.model.id!r}: no tokenizer found ({str(fault).splitlines()[0]})") from None
    if tokenizer.chat_template is None:
        raise BadInput(f"model.id: {spec.model.id!r} has no chat template; use an instruct model")
    return tokenizer


def load_model(spec: JobSpec) -> PreTrainedModel:
    """The base model, ready for adapters.

    bf16 weights for LoRA in bf16 (adapters stay fp32), NF4 for QLoRA, fp32 master weights for full fine-tuning.

    Raises:
        BadInput: the weights are neither on this machine nor reachable.
    """
    compute = torch.bfloat16 if spec.train.precision == "bf16" else torch.float32
    options: dict[str, Any] = {
        "dtype": torch.float32 if spec.method.kind == "full" else compute,
        "attn_implementation": spec.model.attention,
        "revision": spec.model.revision,
    }
    if spec.method.kind == "qlora":
        repair_cpu_four_bit()
        options["quantization_config"] = nf4_config(compute)
    try:
        model = AutoModelForCausalLM.from_pretrained(model_location(spec.model.id), **options)
    except (OSError, ValueError) as fault:
        raise BadInput(f"model.id: {spec.model.id!r}: cannot be loaded ({str(fault).splitlines()[0]})") from None
    model.config.use_cache = False
    return model


def lora_config(spec: JobSpec) -> LoraConfig | None:
    """PEFT's configuration of the job's adapters; None for full fine-tuning."""
    if spec.method.kind == "full":
        return None
    targets = spec.method.target_modules
    return LoraConfig(
        r=spec.method.r,
        lora_alpha=spec.method.alpha,
        lora_dropout=spec.method.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
