"""Predicted speed of one line of a cases file (`launcher speed --cases`); its fields: docs/speed-model.md."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from launcher.cost.cases import workload_of_case
from launcher.cost.gpus import GpuModel, find_gpu
from launcher.cost.speed import FUSED_FRAMEWORKS, predicted_speed
from launcher.cost.speed_constants import Fitted, Program, load_fitted
from launcher.cost.spread import Spread
from launcher.cost.workload import Workload
from launcher.errors import BadInput

# fsdp4xTP2: sharded over 4 groups, 2 GPUs sharing each row's work.
_SHARDING = re.compile(r"(?P<sharding>ddp|zero2|zero3|fsdp)[1-9]\d*xTP(?P<tensor_parallel>[1-9]\d*)")
_WATTS = re.compile(r"(\d+) W\b")


def score_case(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`id`, `tokens_per_second_per_gpu`, and `low` and `high`, the 5th and 95th percentile.

    Raises:
        BadInput: a field is missing or no value it can have, or the model or GPU is not known.
    """
    speed = case_speed(raw, load_fitted())
    return {
        "id": raw.get("id"),
        "tokens_per_second_per_gpu": _shown(speed.median),
        "low": _shown(speed.quantile(0.05)),
        "high": _shown(speed.quantile(0.95)),
    }


def _shown(tokens_per_second: float) -> float:
    """Five digits that count: a slow machine is never shown as standing still."""
    return float(f"{tokens_per_second:.5g}")


def case_speed(raw: Mapping[str, Any], fitted: Fitted) -> Spread:
    """The case's speed from given constants."""
    workload, gpu, program = read_case(raw)
    return predicted_speed(workload, gpu, program, fitted)


def read_case(raw: Mapping[str, Any]) -> tuple[Workload, GpuModel, Program]:
    """What a case trains, on which GPU, with what kind of program; `stack` is free text, its first word the framework.

    A power limit in `stack` (`500 W H100`) counts, and so does selective recomputation (`selective AC`).

    Raises:
        BadInput: as for `score_case`.
    """
    if not isinstance(raw.get("gpu"), str):
        raise BadInput(f"case: gpu: {raw.get('gpu')!r}: a GPU's name is needed")
    stack = raw.get("stack") or "hf"
    if not isinstance(stack, str) or not isinstance(raw.get("compile", False), bool):
        raise BadInput("case: stack, compile: text, and true or false, are needed")
    split = _SHARDING.fullmatch(str(raw.get("sharding")))
    workload = workload_of_case({**raw, "sharding": split["sharding"]} if split else raw)
    gpu, limit = find_gpu(raw["gpu"]), _WATTS.search(stack)
    program = Program(
        fused=stack.split()[0] in FUSED_FRAMEWORKS,
        compiled=raw.get("compile", False),
        selective_recompute="selective AC" in stack,
        tensor_parallel=int(split["tensor_parallel"]) if split else 1,
    )
    return workload, dataclasses.replace(gpu, watts=float(limit[1])) if limit else gpu, program
