"""The sections of a job: model, method, data, training, stop rules, targets, evaluation, machine, caps, tracking.

Inside, durations are seconds, money US dollars, memory GiB. Rules over several fields stand where the fields stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from launcher.units import Gib, Seconds, Usd

BUILTIN_SOURCES = ("builtin:specialists",)
Metric = Literal["exact_match", "loss"]
OWN_STACK = "launcher"


def refuse(conflicts: Iterable[str]) -> None:
    """Raise one validation error for rules over several fields, each as `field: what is wrong and what would do`."""
    found = list(conflicts)
    if found:
        raise PydanticCustomError("conflict", "fields in conflict", {"conflicts": found})


def _count_or(word: str) -> BeforeValidator:
    def parse(value: Any) -> Any:
        if value == word or (type(value) is int and 1 <= value <= 10_000_000):
            return value
        raise ValueError(f"a whole number from 1, or {word}, is needed")

    return BeforeValidator(parse)


def _module_names(value: Any) -> Any:
    if value == "all-linear":
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    raise ValueError("a list of module names, or all-linear, is needed")


def _distinct(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if values is not None and (not values or not all(values)):
        raise ValueError("at least one entry is needed, none of them empty; to take all, leave the field out")
    if values is not None and len(set(values)) < len(values):
        raise ValueError(f"{next(v for v in values if values.count(v) > 1)} stands there twice")
    return values


def _known_source(source: str) -> str:
    if source.startswith("builtin:") and source not in BUILTIN_SOURCES:
        raise ValueError(f"{', '.join(BUILTIN_SOURCES)}, or a path, is needed")
    return source


AutoSteps = Annotated[int | Literal["auto"], _count_or("auto")]
Text = Annotated[str, Field(min_length=1)]
# YAML and JSON know only lists; inside they are tuples, because a spec never changes.
Names = Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(_distinct)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class ModelSpec(Section):
    """The base model. `id`: a Hugging Face id, `builtin:tiny-base`, or a folder (starting with `.`, `/` or `~`)."""

    id: Text
    revision: Text = "main"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"


class MethodSpec(Section):
    """What is trained. `full` trains all weights and has no use for the other fields."""

    kind: Literal["lora", "qlora", "full"] = "lora"
    r: Annotated[int, Field(ge=1, le=4096)] = 16
    alpha: Annotated[int, Field(ge=1, le=65536)] = 32
    dropout: Share = 0.05
    target_modules: Annotated[tuple[str, ...] | Literal["all-linear"], BeforeValidator(_module_names)] = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )


class SystemPromptSpec(Section):
    """The system prompt: from `file`, or written as `text`; `tools`: whether the tool schemas stand in the prompt.

    `load_job` fills `text` from `file`, so a resolved spec does not change when the file does.
    """

    file: Text | None = None
    text: Text | None = None
    length: Literal["full", "first_sentence"] = "full"
    tools: bool = True


class Splits(Section):
    """Shares of the examples; `test` may be 0 where the test set comes from elsewhere."""

    train: Annotated[float, Field(gt=0, lt=1)] = 0.8
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _sum_is_one(self) -> Self:
        total = self.train + self.validation + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            refuse([f"train + validation + test: {total:.6g}; they must sum to 1"])
        return self


class DataSpec(Section):
    """The examples: `builtin:specialists` or a path; `tools` takes a subset by full tool names, None takes all."""

    source: Annotated[Text, AfterValidator(_known_source)]
    tools: Names | None = None
    system_prompt: SystemPromptSpec = SystemPromptSpec()
    splits: Splits = Splits()
    seed: Seed = 0


class TrainSpec(Section):
    """The training arguments. `max_steps`, where given, counts instead of `epochs`.

    `batch: max` is the largest micro-batch that fits; `global_batch` then says the examples of one optimizer step.
    `stack`: the training program that memory and speed are planned for; runs of this launcher use its own.
    """

    batch: Annotated[int | Literal["max"], _count_or("max")] = 4
    eval_batch: Count = 8
    accumulation: Count = 4
    global_batch: Count | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-5
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    epochs: Annotated[float, Field(gt=0, le=1000)] = 3.0
    max_steps: Count | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Share = 0.1
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = True
    optimizer: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "adamw_torch_fused"
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    logging_steps: Count = 10
    eval_steps: AutoSteps = "auto"
    save_steps: AutoSteps = "auto"
    keep_checkpoints: Count = 3
    load_best: bool = True
    metric: Metric = "exact_match"
    max_length: Annotated[int, Field(ge=16, le=1_048_576)] = 2048
    packing: bool = False
    seed: Seed = 0
    stack: Text = OWN_STACK

    @property
    def effective_batch(self) -> int:
        """Examples per optimizer step."""
        if self.batch == "max":
            assert self.global_batch is not None
            return self.global_batch
        return self.batch * self.accumulation

    @model_validator(mode="after")
    def _batch_is_stated_once(self) -> Self:
        if self.batch == "max" and self.global_batch is None:
            refuse(["global_batch: missing; batch: max needs it (examples per optimizer step, such as 16)"])
        if self.batch != "max" and self.global_batch not in (None, self.effective_batch):
            refuse(
                [
                    f"global_batch: {self.global_batch}; batch {self.batch} x accumulation {self.accumulation} is "
                    f"{self.effective_batch}: leave global_batch out, or write batch: max"
                ]
            )
        return self


class EarlyStoppingSpec(Section):
    """When to stop before the end: no gain above `threshold` over `patience` evaluations (None: patience is off).

    Both rules wait for the later of `min_steps` and `min_fraction` of the planned steps. `usd_per_point` is what one
    point (0.01) of the metric is worth to the user; None: the worth of further training is not weighed.
    """

    metric: Metric = "exact_match"
    patience: Annotated[int, Field(ge=1, le=1000)] | None = 3
    threshold: Annotated[float, Field(ge=0)] = 0.001
    min_steps: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    min_fraction: Share = 0.0
    usd_per_point: Usd | None = None


class Tiers(Section):
    """One metric's targets, each at least as strict as the one before."""

    mvp: Annotated[float, Field(ge=0)] | None = None
    production: Annotated[float, Field(ge=0)] | None = None
    stretch: Annotated[float, Field(ge=0)] | None = None


# Metric of a target -> whether higher is better. Shares lie in 0..1; latency_ms is the time to the first token.
TARGET_METRICS = {
    **dict.fromkeys(("exact_match", "tool_accuracy", "parameter_f1", "validity", "execution_rate"), True),
    "tokens_per_second": True,
    "latency_ms": False,
    "usd_per_million_tokens": False,
}
_NOT_SHARES = ("tokens_per_second", "latency_ms", "usd_per_million_tokens")


def _target_conflicts(metric: str, tiers: Tiers) -> Iterable[str]:
    if metric not in TARGET_METRICS:
        yield f"{metric}: unknown metric; one of {', '.join(TARGET_METRICS)} is needed"
        return
    given = {name: value for name, value in tiers if value is not None}
    if not given:
        yield f"{metric}: no tier; at least one of mvp, production, stretch is needed"
    if metric not in _NOT_SHARES:
        for name, value in given.items():
            if value > 1:
                yield f"{metric}.{name}: {value:g}; a share from 0 to 1 is needed (0.9 for 90 %)"
    higher_is_better = TARGET_METRICS[metric]
    if list(given.values()) != sorted(given.values(), reverse=not higher_is_better):
        shown = ", ".join(f"{name} {value:g}" for name, value in given.items())
        yield f"{metric}: {shown}; must not {'fall' if higher_is_better else 'rise'} from mvp to stretch"


def consistent_targets(targets: dict[str, Tiers]) -> dict[str, Tiers]:
    refuse(line for metric, tiers in targets.items() for line in _target_conflicts(metric, tiers))
    return targets


class EvaluateSpec(Section):
    """How base and tuned model are measured. `max_new_tokens: auto`: the longest right answer and a margin."""

    batch: Count = 64
    max_new_tokens: Annotated[int | Literal["auto"], _count_or("auto")] = "auto"
    extra_test_examples: Annotated[int, Field(ge=0, le=1_000_000)] = 300
    bootstrap_samples: Count = 2000


Provider = Literal["vast", "lambda", "runpod"]
Trust = Literal["any", "verified", "datacenter"]


class ResourcesSpec(Section):
    """The machine. `usd_per_hour`: its price, given by hand where nothing is rented, so that spend is metered.

    Whoever owns a host can read what runs on it. `trust`: `any` host, hosts that their marketplace has `verified`, or
    those in a `datacenter` only; None: as `JobSpec.trust` says. `regions`: as providers spell them, None: everywhere.
    `min_reliability`: share of the time that a host was up; a host whose figure is unknown does not pass.
    """

    gpu_memory: Gib | None = None
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    providers: Annotated[tuple[Provider, ...], Field(strict=False), AfterValidator(_distinct)] = (
        *("vast", "lambda", "runpod"),
    )
    spot: bool = False
    usd_per_hour: Usd | None = None
    trust: Trust | None = None
    regions: Names | None = None
    min_reliability: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _spot_exists(self) -> Self:
        if self.spot and self.providers == ("lambda",):
            refuse(["spot: true; lambda has no spot instances: add vast or runpod to providers, or leave spot out"])
        return self


class BudgetSpec(Section):
    """The caps: `max_usd` from the first paid second to the confirmed end, a price ceiling, and a time limit."""

    max_usd: Usd
    max_usd_per_hour: Usd | None = None
    deadline: Seconds | None = None


class TrackingSpec(Section):
    """Weights & Biases; offline writes the same record to the run folder only."""

    wandb: Literal["offline", "online", "disabled"] = "offline"
    project: Text = "specialists"
    tags: Annotated[tuple[Text, ...], Field(strict=False)] = ()
