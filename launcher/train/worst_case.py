"""The longest, widest training step first, so that running out of memory is found in minutes; then all is put back.

For one process and one device: a sharded model is probed by its own program.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from trl import SFTTrainer

from launcher.errors import LauncherError
from launcher.train.mask_rows import IGNORED

STEPS = 2  # the first makes the optimizer's state, so only the second has everything in memory at once
GIB = 2**30
# Figures that SFTTrainer and our trainer keep themselves while they train.
COUNTERS = (
    *("_metrics", "_total_train_tokens", "current_gradient_accumulation_steps"),
    *("step_loss", "step_tokens", "step_positions", "total_tokens"),
)
WRAPPINGS = ("forward", "_original_forward", "_is_accelerate_prepared")  # what accelerate sets on a prepared model


@dataclass(frozen=True)
class WorstCase:
    """What the largest micro-batch costs: seconds of its second step, reserved device memory (None on a CPU)."""

    micro_batch: int
    seconds: float
    peak_bytes: int | None


def worst_case_step(trainer: SFTTrainer, longest_length: int, micro_batch: int) -> WorstCase:
    """Train two optimizer steps on the largest micro-batch the data can give, then put everything back.

    Forward, backward, clipping and optimizer are the trainer's own, in its precision and with its checkpointing.
    Weights, random states and the trainer's counters are afterwards what they were, to the last bit.

    Args:
        longest_length: tokens of the longest row of the training set.
        micro_batch: rows of a micro-batch.

    Raises:
        LauncherError: it does not fit into memory; the message says what to lower.
    """
    batch = widest_batch(trainer, longest_length, micro_batch)
    try:
        with _everything_put_back(trainer):
            return _probe(trainer, batch, micro_batch)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as fault:
        if not _is_out_of_memory(fault):
            raise
        reason = str(fault).splitlines()[0] if str(fault) else "out of memory"
    # Not inside `except`: the fault's traceback would keep the step's tensors alive.
    trainer.accelerator.free_memory()
    raise _OutOfMemory(_advice(trainer, longest_length, micro_batch, reason))


def largest_micro_batch(trainer: SFTTrainer, longest_length: int, candidates: Sequence[int]) -> WorstCase:
    """The first of these micro-batches, given largest first, whose worst-case step fits into memory.

    Raises:
        LauncherError: not even the last one fits.
    """
    for micro_batch in candidates[:-1]:
        try:
            return worst_case_step(trainer, longest_length, micro_batch)
        except _OutOfMemory:
            continue
    return worst_case_step(trainer, longest_length, candidates[-1])


def use_micro_batch(trainer: SFTTrainer, micro_batch: int, accumulation: int) -> None:
    """Let a trainer that has not begun train in micro-batches of this size."""
    trainer.args.per_device_train_batch_size = micro_batch
    trainer.args.gradient_accumulation_steps = accumulation
    trainer._train_batch_size = trainer.args.train_batch_size


def widest_batch(trainer: SFTTrainer, longest_length: int, micro_batch: int) -> dict[str, Any]:
    """A collated micro-batch as large as the training set can give one.

    All rows are as long as the longest and have as many trained tokens as any row of the data. These stand in
    different columns as far as in the data, because logits are computed for every column in which some row is trained.
    """
    dataset = trainer.train_dataset
    longest = max(dataset.select_columns(["input_ids"]), key=lambda row: len(row["input_ids"]))["input_ids"]
    tokens = (longest * -(-longest_length // len(longest)))[:longest_length]
    trained, columns = _trained_tokens_and_columns(trainer)
    trained = min(trained, longest_length - 1)
    columns = min(columns, longest_length - 1, micro_batch * trained)
    features = []
    for row in range(micro_batch):
        end = longest_length - row * (columns - trained) // max(micro_batch - 1, 1)
        labels = [token if end - trained <= i < end else IGNORED for i, token in enumerate(tokens)]
        features.append({"input_ids": tokens, "labels": labels, "seq_lengths": [longest_length]})
    return trainer.data_collator(features)


def _trained_tokens_and_columns(trainer: SFTTrainer) -> tuple[int, int]:
    """The most trained tokens of a row, and the number of columns in which any row of the data is trained."""
    most = 0
    columns = np.zeros(0, dtype=bool)
    for row in trainer.train_dataset.select_columns(["labels"]).with_format("numpy"):
        is_trained = np.asarray(row["labels"]) != IGNORED
        most = max(most, int(is_trained.sum()))
        wider = np.zeros(max(len(columns), len(is_trained)), dtype=bool)
        wider[: len(columns)] |= columns
        wider[: len(is_trained)] |= is_trained
        columns = wider
    return most, int(columns.sum())


def _probe(trainer: SFTTrainer, batch: dict[str, Any], micro_batch: int) -> WorstCase:
    on_gpu = trainer.args.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(trainer.args.device)
    if trainer.args.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    trainer.optimizer = None
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.create_optimizer())
    trained = (batch["labels"][:, 1:] != IGNORED).sum().to(trainer.args.device)
    seconds = 0.0
    for _ in range(STEPS):
        began = time.perf_counter()
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        trainer.training_step(model, dict(batch), trained)
        if trainer.args.max_grad_norm:
            trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        optimizer.step()
        if trainer.args.gradient_accumulation_steps == 1:
            model.zero_grad()  # otherwise the gradients of earlier micro-batches are still there in the next forward
        if on_gpu:
            torch.cuda.synchronize(trainer.args.device)
        seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_reserved(trainer.args.device) if on_gpu else None
    return WorstCase(micro_batch, seconds, peak)


@contextmanager
def _everything_put_back(trainer: SFTTrainer) -> Iterator[None]:
    """Weights, optimizer, random states, modes and counters as they were, whatever happens inside."""
    model, optimizer = trainer.model, trainer.optimizer
    # Copies on the host: on the device they would count against the memory that is being tested.
    weights = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in _changing_tensors(model)]
    modes = [(module, module.training, vars(module).get("gradient_checkpointing")) for module in model.modules()]
    wrappings = {name: vars(model)[name] for name in WRAPPINGS if name in vars(model)}
    counters = {name: copy.deepcopy(getattr(trainer, name)) for name in COUNTERS if hasattr(trainer, name)}
    python_state, numpy_state = random.getstate(), np.random.get_state()
    device = trainer.args.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            trainer.optimizer = optimizer
            trainer.accelerator.free_memory()
            model.zero_grad(set_to_none=True)
            with torch.no_grad():
                for tensor, value in weights:
                    tensor.copy_(value)
            for name in WRAPPINGS:
                vars(model).pop(name, None)
            vars(model).update(wrappings)
            for module, training, checkpointing in modes:
                module.training = training
                if checkpointing is not None:
                    module.gradient_checkpointing = checkpointing
            for name, value in counters.items():
                setattr(trainer, name, value)
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _changing_tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """What a step can change: trained parameters, and buffers that a forward may update."""
    yield from (parameter for parameter in model.parameters() if parameter.requires_grad)
    yield from model.buffers()


class _OutOfMemory(LauncherError):
    """The worst-case step does not fit into memory."""


def _is_out_of_memory(fault: BaseException) -> bool:
    if isinstance(fault, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(fault).lower()
    return any(sign in text for sign in ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed"))


def _advice(trainer: SFTTrainer, longest_length: int, micro_batch: int, reason: str) -> str:
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    device = trainer.args.device
    where = "host memory"
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / GIB
        where = f"{total:.0f} GiB of {torch.cuda.get_device_name(device)}"
    remedies = [
        *(["train.batch (and raise train.accumulation by as much)"] if micro_batch > 1 else []),
        f"train.max_length below {longest_length}",
    ]
    switches = [
        *([] if trainer.args.gradient_checkpointing else ["train.gradient_checkpointing: true"]),
        *([] if getattr(trainer.model, "is_loaded_in_4bit", False) else ["method.kind: qlora"]),
    ]
    advice = "lower " + ", or ".join(remedies) + (f"; or set {' or '.join(switches)}" if switches else "")
    return (
        f"the largest training step does not fit into {where}: {micro_batch} rows of {longest_length} tokens, "
        f"{trained:,} trained parameters; {advice} [{reason}]"
    )
