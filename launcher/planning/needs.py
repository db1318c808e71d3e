"""What one job asks of any machine, whatever it costs: its workload per GPU and its work in amounts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from launcher.architecture import Architecture
from launcher.cost.disk import Disk, disk_gib
from launcher.cost.duration import Work
from launcher.cost.fixed_times import BYTES_PER_PUBLISHED_WEIGHT
from launcher.cost.stacks import find_stack
from launcher.cost.workload import Attention, Method, Optimizer, Quantization, Stack, Workload
from launcher.errors import BadInput
from launcher.job import JobSpec
from launcher.models import find_architecture
from launcher.schedule import Schedule, plan_schedule
from launcher.tokens import TokenCount

OPTIMIZERS: dict[str, Optimizer] = {
    "adamw_torch_fused": "adamw",
    "adamw_torch": "adamw",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_8bit",
}
ATTENTION: dict[str, Attention] = {"sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash"}
METHODS: dict[str, Method] = {"lora": "lora", "qlora": "qlora", "full": "full"}
QUANTIZATION: dict[str, Quantization] = {"qlora": "nf4-dq", "lora": "none", "full": "none"}

# A row's answer may be longer than the mean one; logits of one micro-batch are reserved for this many mean answers.
LONGEST_ANSWER_IN_MEANS = 3.0
# An estimated longest row is taken at this quantile of what the estimate may be off by.
LONGEST_ROW_QUANTILE = 0.99
# What a save holds beside the adapter weights: the optimizer's two states a weight, in the same precision.
SAVED_COPIES = 3
CountTokens = Callable[[JobSpec, int], TokenCount]


@dataclass(frozen=True)
class JobNeeds:
    """One job with everything that memory and duration need of it; `count` gives its tokens by micro-batch."""

    spec: JobSpec
    architecture: Architecture
    stack: Stack
    count: CountTokens

    @classmethod
    def of(cls, spec: JobSpec, count: CountTokens) -> JobNeeds:
        """The needs of a job.

        Raises:
            BadInput: an unknown model or stack, or rows longer than the model's context.
        """
        architecture = find_architecture(spec.model.id)
        if architecture.max_context is not None and spec.train.max_length > architecture.max_context:
            raise BadInput(
                f"{spec.name}: train.max_length: {spec.train.max_length}: {spec.model.id} has a context of "
                f"{architecture.max_context} tokens; write at most that"
            )
        return cls(spec, architecture, find_stack(spec.train.stack), count)

    @cached_property
    def tokens(self) -> TokenCount:
        """The job's token counts at micro-batch 1; rows, lengths and source do not depend on the micro-batch."""
        return self.count(self.spec, 1)

    @cached_property
    def schedule(self) -> Schedule:
        """Steps, evaluations and saves.

        Raises:
            BadInput: the schedule cannot work.
        """
        return plan_schedule(self.tokens.examples, self.spec.train, self.spec.early_stopping)

    @property
    def sequence_length(self) -> int:
        """Tokens of the longest row that will be trained on, high where it is estimated: it decides what fits."""
        most = self.spec.train.max_length
        if self.spec.train.packing:
            return most
        return min(most, math.ceil(self.tokens.longest * self.tokens.spread.quantile(LONGEST_ROW_QUANTILE)))

    def micro_batches(self, gpus: int) -> list[int]:
        """Rows per GPU and micro-step that make up the job's batch on this many GPUs, largest first, none above it."""
        train = self.spec.train
        most = train.effective_batch if train.batch == "max" else train.batch
        sizes = [m for m in range(min(most, train.effective_batch), 0, -1) if train.effective_batch % (m * gpus) == 0]
        return sizes or [1]

    def accumulation(self, micro_batch: int, gpus: int) -> int:
        """Micro-steps per optimizer step, so that its examples stay those of the job."""
        return max(1, self.spec.train.effective_batch // (micro_batch * gpus))

    def workload(self, micro_batch: int, gpus: int = 1, nodes: int = 1) -> Workload:
        """One GPU's share of a step, with the longest row everywhere."""
        spec, length = self.spec, self.sequence_length
        return Workload(
            architecture=self.architecture,
            method=METHODS[spec.method.kind],
            quantization=QUANTIZATION[spec.method.kind],
            seq_len=length,
            micro_batch=micro_batch,
            stack=self.stack,
            rank=spec.method.r,
            target_modules=spec.method.target_modules,
            lora_dropout=spec.method.dropout,
            gradient_checkpointing=spec.train.gradient_checkpointing,
            attention=ATTENTION[spec.model.attention],
            optimizer=OPTIMIZERS[spec.train.optimizer],
            gpus=gpus,
            nodes=nodes,
            sharding="none" if gpus == 1 else "fsdp",
            trained_tokens=self._trained_tokens(micro_batch, length),
            weight_bytes=4 if spec.train.precision == "fp32" else 2,
        )

    def _trained_tokens(self, micro_batch: int, length: int) -> int:
        # Our loss takes the logits of every column that is trained in any row: rows that end at different places add.
        columns = min(length, round(micro_batch * LONGEST_ANSWER_IN_MEANS * self.tokens.answer_tokens))
        return micro_batch * max(1, columns)

    def work(self, micro_batch: int, gpus: int = 1) -> Work:
        """What the whole job does at this micro-batch."""
        counted, schedule = self.count(self.spec, micro_batch), self.schedule
        epochs = schedule.optimizer_steps / schedule.steps_per_epoch
        rows = counted.evaluation_examples
        return Work(
            train_tokens=counted.padded_tokens * epochs,
            token_count_spread=counted.spread,
            micro_steps=schedule.optimizer_steps * self.accumulation(micro_batch, gpus),
            optimizer_steps=schedule.optimizer_steps,
            evaluations=schedule.evaluations,
            prompts_per_evaluation=rows["validation"],
            prompt_tokens=counted.prompt_tokens,
            answer_tokens=counted.answer_tokens,
            final_prompts=2 * (rows["test"] + rows["extra_test"]),
            saves=len(schedule.save_points),
            checkpoint_gib=self.checkpoint_gib,
        )

    def disk(self, workload: Workload, micro_batch: int) -> Disk:
        """The disk of the machine this job runs on."""
        return disk_gib(workload, self.work(micro_batch, workload.gpus), self.spec.train.keep_checkpoints)

    @property
    def weights_gb(self) -> float:
        """GB of the published weights, in 16 bits."""
        return self.architecture.parameters * BYTES_PER_PUBLISHED_WEIGHT / 1e9

    @property
    def sent_gb(self) -> float:
        """GB of all checkpoints sent to the checkpoint store."""
        return len(self.schedule.save_points) * self.checkpoint_gib * 2**30 / 1e9

    @property
    def checkpoint_gib(self) -> float:
        """One saved checkpoint: the trained weights and their optimizer states."""
        workload = self.workload(1)
        if workload.method == "full":
            return self.architecture.parameters * self.stack.master_bytes * SAVED_COPIES / 2**30
        return workload.adapter_parameters * self.stack.adapter_bytes * SAVED_COPIES / 2**30
