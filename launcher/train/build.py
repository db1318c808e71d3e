"""From a job to its trainer: the spec's names turned into those of TRL and transformers, every default said."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig

from launcher.data.prepare import PreparedData
from launcher.evaluate.score import quick_metrics
from launcher.job import JobSpec
from launcher.rundir import RunFolder
from launcher.schedule import Schedule
from launcher.train.callbacks import RunCallback
from launcher.train.dataset import build_dataset
from launcher.train.mask_audit import MaskAudit
from launcher.train.model import lora_config
from launcher.train.trainer import ToolCallTrainer
from launcher.train.worst_case import WorstCase, largest_micro_batch, use_micro_batch, worst_case_step


def training_arguments(spec: JobSpec, schedule: Schedule, folder: RunFolder) -> SFTConfig:
    """The job's training section for the Trainer.

    Everything TRL would set by itself to bf16, checkpointing or a length of 1,024 is said here.
    """
    train = spec.train
    on_cpu = not torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(folder.checkpoints_dir),
        seed=train.seed,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        per_device_train_batch_size=schedule.micro_batch,
        per_device_eval_batch_size=train.eval_batch,
        gradient_accumulation_steps=schedule.accumulation,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        adam_beta2=train.adam_beta2,
        max_grad_norm=train.max_grad_norm,
        optim=train.optimizer,
        lr_scheduler_type=train.schedule,
        warmup_steps=schedule.warmup_steps,
        max_steps=schedule.optimizer_steps,
        bf16=train.precision == "bf16",
        gradient_checkpointing=train.gradient_checkpointing,
        logging_steps=train.logging_steps,
        logging_nan_inf_filter=False,  # a NaN loss must be seen, not averaged away
        eval_strategy="steps",
        eval_steps=schedule.eval_steps,
        save_strategy="steps",
        save_steps=schedule.save_steps,
        save_total_limit=None,  # old checkpoints are pruned by our own rule, which keeps the best
        load_best_model_at_end=False,  # it keeps the first of equals: see BestCheckpoint
        max_length=train.max_length,
        packing=train.packing,
        eval_packing=False,
        assistant_only_loss=True,
        report_to="none",
        disable_tqdm=True,
        train_sampling_strategy="random",
    )


def build_trainer(
    spec: JobSpec,
    data: PreparedData,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    schedule: Schedule,
    folder: RunFolder,
    callback: RunCallback | None = None,
) -> ToolCallTrainer:
    """The trainer of a job: its data rendered and tokenised, its adapters in place."""
    system_prompt = spec.system_prompt_text() or ""
    tools = data.tool_set.functions() if spec.data.system_prompt.tools else None

    cap = spec.evaluate.max_new_tokens

    def answer_metrics(model: torch.nn.Module) -> dict[str, float]:
        return quick_metrics(
            model,
            tokenizer,
            data.validation,
            system_prompt=system_prompt,
            tool_set=data.tool_set,
            tools_in_prompt=spec.data.system_prompt.tools,
            batch=spec.evaluate.batch,
            max_new_tokens=None if cap == "auto" else cap,
        )

    options: dict[str, Any] = {"callbacks": [callback]} if callback else {}
    trainer = ToolCallTrainer(
        model=model,
        args=training_arguments(spec, schedule, folder),
        train_dataset=build_dataset(data.train, system_prompt, tools, tokenizer),
        eval_dataset=build_dataset(data.validation, system_prompt, tools, tokenizer),
        processing_class=tokenizer,
        peft_config=lora_config(spec),
        checkpoints_dir=folder.checkpoints_dir,
        answer_metrics=answer_metrics,
        **options,
    )
    trainer.remove_callback(PrinterCallback)
    if callback is not None:
        callback.trainer = trainer
        trainer.before_commit = callback.save_state
    return trainer


def fit_micro_batch(trainer: ToolCallTrainer, spec: JobSpec, schedule: Schedule, audit: MaskAudit) -> WorstCase:
    """Train the worst step there can be, so that running out of memory is found now; put everything back.

    With `batch: max` the largest micro-batch that carries it is taken; the effective batch stays as stated.

    Returns:
        What that step took.

    Raises:
        LauncherError: not even the smallest allowed micro-batch fits.
    """
    if spec.train.batch != "max":
        return worst_case_step(trainer, audit.longest_row, schedule.micro_batch)
    candidates = [schedule.micro_batch, *schedule.smaller_micro_batches]
    worst = largest_micro_batch(trainer, audit.longest_row, candidates)
    fitting = schedule.with_micro_batch(worst.micro_batch)
    use_micro_batch(trainer, fitting.micro_batch, fitting.accumulation)
    return worst
