"""What a claim asks the planner: the keys of its `planner` entry, and the workload they mean."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from launcher.architecture import Architecture
from launcher.cost.duration import Work
from launcher.cost.offer import Provider
from launcher.cost.stacks import find_stack
from launcher.cost.workload import Method, Sharding, Workload
from launcher.models import find_architecture

ANSWER_TOKENS = 60  # one tool call; the seeds state none
# Adapter, and two moments of the same width for each of its weights.
CHECKPOINT_COPIES = 3

Kind = Literal[
    "parameters",
    "parameter_ratio",
    "parameter_percent",
    "adapter_megabytes",
    "decode_ratio",
    "memory",
    "hours",
    "cost",
    "same_work",
    "same_work_usd",
    "price",
    "rent",
]


class Setup(BaseModel):
    """One question to the planner. examples: of each job. times: multiplies a price. hours: lowest and highest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    model: str = ""
    other: str = ""
    method: Method = "lora"
    rank: int = 16
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    dropout: float = 0.05
    seq_len: int = 2048
    micro_batch: int = 1
    gpus: int = 1
    nodes: int = 1
    sharding: Sharding = "none"
    global_batch: int = 16
    examples: tuple[int, ...] | int = ()
    tokens_per_example: int = 0
    epochs: int = 1
    validation_examples: int = 0
    evaluations: int = 0
    gpu: str = ""
    gpu_memory_gib: float = 0.0
    provider: Provider = "vast"
    providers: tuple[Provider, ...] = ()
    times: float = 1.0
    hours: tuple[float, float] = (0.0, 0.0)
    reference_gpu: str = ""
    reference_memory_gib: float = 0.0
    reference_hours: float = 0.0
    usd_per_hour: float | None = None

    @property
    def architecture(self) -> Architecture:
        """The shape of `model`."""
        return find_architecture(self.model)

    @property
    def workload(self) -> Workload:
        """One micro-step on one GPU, with this launcher's own stack: the loss is that of the answers."""
        return Workload(
            architecture=self.architecture,
            method=self.method,
            quantization="nf4-dq" if self.method == "qlora" else "none",
            seq_len=self.seq_len,
            micro_batch=self.micro_batch,
            stack=find_stack("launcher"),
            rank=self.rank,
            target_modules=self.targets,
            lora_dropout=0.0 if self.method == "full" else self.dropout,
            gpus=self.gpus,
            nodes=self.nodes,
            sharding=self.sharding,
            trained_tokens=ANSWER_TOKENS * self.micro_batch,
        )

    @property
    def jobs(self) -> tuple[Work, ...]:
        """The work of each job."""
        counts = (self.examples,) if isinstance(self.examples, int) else self.examples
        return tuple(self._work(count) for count in counts)

    def _work(self, examples: int) -> Work:
        saves = max(1, self.evaluations)
        checkpoint = CHECKPOINT_COPIES * self.workload.stack.adapter_bytes * self.workload.adapter_parameters
        return Work(
            train_tokens=float(self.epochs * examples * self.tokens_per_example),
            token_count_spread=None,
            micro_steps=self.epochs * math.ceil(examples / (self.micro_batch * self.gpus)),
            optimizer_steps=self.epochs * math.ceil(examples / self.global_batch),
            evaluations=self.evaluations,
            prompts_per_evaluation=self.validation_examples,
            prompt_tokens=float(self.tokens_per_example),
            answer_tokens=float(ANSWER_TOKENS),
            final_prompts=0,
            saves=saves,
            checkpoint_gib=checkpoint / 2**30,
        )
