"""One run's speed and memory as a record that later plans can use."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from peft import PeftModel

from launcher.cost.calibration import CalibrationRecord, installed_versions
from launcher.cost.spread import Spread
from launcher.cost.workload import Attention
from launcher.job import JobSpec
from launcher.jobparts import OWN_STACK
from launcher.rundir import RunFolder
from launcher.train.row_lengths import row_lengths
from launcher.train.session import device_name
from launcher.train.trainer import ToolCallTrainer
from launcher.train.worst_case import WorstCase

ATTENTION: dict[str, Attention] = {"sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash"}


@dataclass(frozen=True)
class Measured:
    """What was measured before the first step: the widest step there can be, and the seconds to load the model."""

    worst: WorstCase
    load_s: float

    @property
    def peak_reserved_gib(self) -> float | None:
        """Reserved by torch's allocator in the widest step; None on a CPU."""
        return None if self.worst.peak_bytes is None else self.worst.peak_bytes / 2**30


def measured_record(
    spec: JobSpec, folder: RunFolder, trainer: ToolCallTrainer, measured: Measured, speed: Spread, steps: int
) -> CalibrationRecord:
    """The record of one run on one device; `speed` is in tokens per second with padding, over `steps` steps."""
    train, method, device = spec.train, spec.method, trainer.args.device
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else None
    return CalibrationRecord(
        at=time.time(),
        run_id=folder.id,
        gpu=device_name(),
        gpu_memory_gib=memory,
        gpus=1,
        model=spec.model.id,
        family=trainer.model.config.model_type,
        parameters=base_parameters(trainer),
        method=method.kind,
        quantization="nf4-dq" if method.kind == "qlora" else "none",
        rank=None if method.kind == "full" else method.r,
        seq_len=row_lengths(trainer)[-1][0],
        micro_batch=measured.worst.micro_batch,
        gradient_checkpointing=train.gradient_checkpointing,
        attention=ATTENTION[spec.model.attention],
        weight_bytes=4 if train.precision == "fp32" else 2,
        sharding="none",
        stack=OWN_STACK,
        versions=installed_versions(),
        tokens_per_second_per_gpu=speed.median,
        tokens_per_second_low=speed.quantile(0.1),
        tokens_per_second_high=speed.quantile(0.9),
        peak_reserved_gib=measured.peak_reserved_gib,
        load_s=measured.load_s,
        steps=steps,
    )


def trained_parameters(trainer: ToolCallTrainer) -> int:
    """Weights that training changes."""
    return sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)


def base_parameters(trainer: ToolCallTrainer) -> int:
    """Weights of the base model; PEFT counts four-bit ones as the two that a byte holds."""
    model = trainer.model
    if not isinstance(model, PeftModel):
        return sum(p.numel() for p in model.parameters())
    trained, everything = model.get_nb_trainable_parameters()
    return int(everything - trained)
