"""A file of training configurations to score, one JSON object a line, as `Workload`s.

A bad line is a fault with its number, the lines after it are still read. Fields are those of docs/cost-model.md; absent
ones (and those that are null) take the value a job of the same kind would have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from launcher.architecture import Architecture
from launcher.cost.gpus import ASSUMED_USABLE_SHARE, usable_gib
from launcher.cost.stacks import STACKS, stack_of_flags
from launcher.cost.workload import Attention, LossKernel, Method, Optimizer, Quantization, Sharding, Workload
from launcher.errors import BadInput
from launcher.faults import fault_lines, printable
from launcher.models import find_architecture

Metric = Literal["alloc", "reserved", "smi", "capacity"]


@dataclass(frozen=True)
class Case:
    """One object of a cases file: its line, counted from 1, its id (None where it has none) and its fields as read."""

    line: int
    id: Any
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class CaseFault:
    """A line that cannot be used: its number, and why."""

    line: int
    reason: str


def read_cases(path: Path) -> Iterator[Case | CaseFault]:
    """Every line of the file that is not blank, in order, as a case or as what is wrong with it.

    Raises:
        BadInput: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as fault:
        raise BadInput(f"{path}: cannot be read ({fault.strerror})") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _case_of_line(number, line)


def _case_of_line(number: int, line: bytes) -> Case | CaseFault:
    try:
        raw = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        return CaseFault(number, "not UTF-8 text")
    except (ValueError, RecursionError) as fault:
        return CaseFault(number, f"not JSON ({str(fault) or 'nested too deeply'})")
    if not isinstance(raw, dict):
        return CaseFault(number, "a JSON object is needed, {...}")
    return Case(number, raw.get("id"), raw)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


# Nobody cuts rows at a length that is no multiple of this: such a length is that of the longest row.
LENGTH_LIMIT_STEP = 64


class _Fields(BaseModel):
    """Fields of one kind read from a case; others are left alone, null is absent."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


class _Shape(_Fields):
    """`architecture` of a case: the fields of `Architecture`, widths that follow from others may be left out."""

    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int | None = Field(default=None, gt=0)
    intermediate_size: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    head_dim: int | None = Field(default=None, gt=0)
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    num_experts: int = Field(default=0, ge=0)
    experts_per_token: int = Field(default=0, ge=0)
    shared_experts: int = Field(default=0, ge=0)
    dense_layers: int = Field(default=0, ge=0)
    dense_intermediate_size: int = Field(default=0, ge=0)
    fused_experts: bool = True
    gated_mlp: bool = True
    other_parameters: int = Field(default=0, ge=0)

    def architecture(self) -> Architecture:
        heads = self.num_attention_heads
        derived = {
            "num_key_value_heads": self.num_key_value_heads or heads,
            "head_dim": self.head_dim or self.hidden_size // heads,
        }
        return Architecture(**{**self.model_dump(), **derived})


class _WorkloadFields(_Fields):
    """The fields of `Workload` that a case gives as they are."""

    method: Method
    rank: int = Field(default=16, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    seq_len: int = Field(gt=0)
    micro_batch: int = Field(default=1, gt=0)
    gradient_checkpointing: bool = True
    attention: Attention = "sdpa"
    optimizer: Optimizer = "adamw"
    gpus: int = Field(default=1, gt=0)
    nodes: int = Field(default=1, gt=0)
    sharding: Sharding = "none"
    cpu_offload: bool = False
    activation_offload: bool = False
    optimizer_in_backward: bool = False
    trained_tokens: int | None = Field(default=None, gt=0)
    weight_bytes: Literal[2, 4] = 2


class _StackFields(_Fields):
    """The fields of `Stack` that a case may set, in place of the row's."""

    loss: LossKernel | None = None
    adapter_bytes: Literal[2, 4] | None = None
    embedding_bytes: Literal[2, 4] | None = None
    autocast: bool | None = None
    repeat_kv: bool | None = None
    experts_quantised: bool | None = None
    old_bitsandbytes: bool | None = None


class _Case(_WorkloadFields, _StackFields):
    """Every field of a case that its `Workload` is made of."""

    model: str | None = None
    architecture: _Shape | None = None
    quantization: Quantization | None = None
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    stack: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_empties(cls, value: Any) -> Any:
        optional = ("architecture", "target_modules")
        return {k: v for k, v in value.items() if v or k not in optional} if isinstance(value, dict) else value


def workload_of_case(raw: Mapping[str, Any]) -> Workload:
    """The configuration a case describes; its shape from `architecture`, else from the model's name.

    The stack is the row of `STACKS` that `stack` names, or the one that agrees best with the flags that are given (`hf`
    where there are none), with these flags.

    Raises:
        BadInput: a field is missing or no value it can have, or the model is not known; one line a fault.
    """
    try:
        case = _Case.model_validate(dict(raw))
    except ValidationError as error:
        raise BadInput(*fault_lines(error, _Case, lambda loc: "case")) from None
    targets = case.target_modules
    flags = {name: getattr(case, name) for name in _StackFields.model_fields if getattr(case, name) is not None}
    return Workload(
        architecture=_architecture(case),
        quantization=case.quantization or ("nf4-dq" if case.method == "qlora" else "none"),
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        rows_are_cut=case.seq_len % LENGTH_LIMIT_STEP == 0,
        stack=stack_of_flags(STACKS.get(case.stack or ""), flags),
        **{name: getattr(case, name) for name in _WorkloadFields.model_fields},
    )


def _architecture(case: _Case) -> Architecture:
    if case.architecture is not None:
        return case.architecture.architecture()
    if case.model is None:
        raise BadInput("case: architecture: missing, and there is no model to look it up by")
    return find_architecture(case.model)


class _Reading(_Fields):
    """How a case is scored: the instrument, and the GPU it has to fit."""

    metric: Metric = "smi"
    gpu_memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    gpu: str | None = None


def metric_of_case(raw: Mapping[str, Any]) -> Metric:
    """What the case's memory was read with; the whole device where it does not say.

    Raises:
        BadInput: no such metric.
    """
    return _reading(raw).metric


def usable_of_case(raw: Mapping[str, Any]) -> float | None:
    """GiB that a program gets of the case's GPU; None where it gives no `gpu_memory_gib`.

    Raises:
        BadInput: no memory size, or an unknown GPU.
    """
    reading = _reading(raw)
    if reading.gpu_memory_gib is None:
        return None
    if reading.gpu is None:
        return reading.gpu_memory_gib * ASSUMED_USABLE_SHARE
    return usable_gib(reading.gpu, reading.gpu_memory_gib)


def _reading(raw: Mapping[str, Any]) -> _Reading:
    try:
        return _Reading.model_validate(dict(raw))
    except ValidationError as error:
        raise BadInput(*fault_lines(error, _Reading, lambda loc: "case")) from None


def case_label(case: Case) -> str:
    """How messages name a case: its line, and its id where it has one."""
    return printable(f"line {case.line}" + (f" ({case.id})" if case.id is not None else ""))
