"""TRL's `SFTTrainer` with a loss without per-step metrics, generation as evaluation, and atomic checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from launcher.train.checkpoints import checkpoint_path, commit_checkpoint, explained_disk_faults

MetricsFunction = Callable[[torch.nn.Module], dict[str, float]]


class ToolCallTrainer(SFTTrainer):
    """Trains on the assistant's tokens and evaluates by generating answers.

    Attributes:
        step_loss: the loss of the optimizer step under way, mean per trained token, as a device scalar.
        step_tokens: tokens (padding left out) of the optimizer step under way.
        step_positions: the same with padding, which takes as long to compute.
        total_tokens: tokens trained on so far, across resumes.
    """

    def __init__(
        self, *args: Any, checkpoints_dir: Path, answer_metrics: MetricsFunction | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.checkpoints_dir = checkpoints_dir
        self.answer_metrics = answer_metrics
        self.step_loss = torch.zeros((), device=self.args.device)
        self.step_tokens = 0
        self.step_positions = 0
        self.total_tokens = 0
        self.before_commit: Callable[[Path], None] = lambda checkpoint: None
        self.saving_into = checkpoints_dir

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Token-mean negative log-likelihood of the trained positions, from logits at those positions only.

        Stock TRL also computes entropy and accuracy over the vocabulary at every step, which nobody asked for.
        `logits_to_keep` is transformers' own argument, so logit scaling, soft-capping and FSDP hooks stay the model's.
        """
        labels = inputs["labels"][:, 1:]
        trained = labels != -100
        columns = trained.any(dim=0).nonzero().squeeze(1)
        model_inputs = {k: v for k, v in inputs.items() if k != "labels"}
        outputs = model(**model_inputs, use_cache=False, logits_to_keep=columns)
        kept = trained[:, columns]
        logits = outputs.logits[kept].float()
        total = torch.nn.functional.cross_entropy(logits, labels[:, columns][kept], reduction="sum")
        count = kept.sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / count
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *args: Any) -> torch.Tensor:
        """One micro-batch; adds its loss and tokens to those of the optimizer step."""
        self.step_tokens += (
            int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()
        )
        self.step_positions += inputs["input_ids"].numel()
        loss = super().training_step(model, inputs, *args)
        self.step_loss += loss.detach()
        return loss

    def take_step(self) -> tuple[float, int, int]:
        """The loss of the optimizer step just done, its tokens and its positions; starts counting anew."""
        loss, tokens, positions = float(self.step_loss), self.step_tokens, self.step_positions
        self.step_loss.zero_()
        self.step_tokens = self.step_positions = 0
        self.total_tokens += tokens
        return loss, tokens, positions

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """The loss on the evaluation set, and the answer metrics.

        They are added here because `on_evaluate`, where stopping decides, only sees what the loop returned.
        """
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.answer_metrics is not None:
            answers = self.answer_metrics(self.accelerator.unwrap_model(self.model))
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in answers.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's own log: TRL's adds averages of the metrics that `compute_loss` no longer collects."""
        Trainer.log(self, logs, start_time)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Let the Trainer write into a temporary folder, then name it, so that no half checkpoint is ever found."""
        step = self.state.global_step
        final = checkpoint_path(self.checkpoints_dir, step)
        self.saving_into = self.checkpoints_dir / f".saving-{step:06d}"
        shutil.rmtree(self.saving_into, ignore_errors=True)
        written = self.saving_into / f"checkpoint-{step}"
        try:
            with explained_disk_faults(final):
                Trainer._save_checkpoint(self, model, trial)
                self.before_commit(written)
            commit_checkpoint(written, final, step)
        finally:
            shutil.rmtree(self.saving_into, ignore_errors=True)
            self.saving_into = self.checkpoints_dir

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.saving_into)
