"""`launcher fit`: the memory of one configuration, by component, and the cards it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.cost.cases import workload_of_case
from launcher.cost.gpus import all_gpus, find_gpu, usable_gib, usable_is_measured
from launcher.cost.memory import estimate_memory
from launcher.cost.stacks import find_stack
from launcher.cost.workload import Workload
from launcher.errors import BadInput
from launcher.job import load_job
from launcher.models import find_architecture
from launcher.planning.needs import JobNeeds
from launcher.tokens import count_tokens

# What a cases file may leave out and a person asking about one model may too.
DEFAULTS = {"method": "qlora", "seq_len": 2048, "stack": "launcher"}


def workload_from(job: Path | None, preset: str | None, fields: Mapping[str, Any]) -> Workload:
    """The configuration of a job file with these fields changed, or of the fields alone; None is 'not given'.

    Raises:
        BadInput: neither or both of a job and a model are given, or a field has a value it cannot have.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if (job is None) == ("model" not in given):
        raise BadInput("fit: a job file, or --model NAME, or --cases FILE is needed, and only one of them")
    if "stack" in given:
        find_stack(given["stack"])
    if job is None:
        workload = workload_of_case({**DEFAULTS, **given})
        model = str(given["model"])
    else:
        spec = load_job(job, preset)
        needs = JobNeeds.of(spec, count_tokens)
        own = needs.workload(max(needs.micro_batches(given.get("gpus", 1))))
        method_decides = {"quantization": None} if "method" in given else {}
        workload = workload_of_case({**_as_case(own), **method_decides, **given})
        model = spec.model.id
    limit = find_architecture(model).max_context
    if limit is not None and workload.seq_len > limit:
        raise BadInput(f"seq_len: {workload.seq_len}: {model} has a context of {limit} tokens; write at most that")
    return workload


def _as_case(workload: Workload) -> dict[str, Any]:
    """A workload as the fields of a case."""
    fields = {f.name: getattr(workload, f.name) for f in dataclasses.fields(workload)}
    architecture = dataclasses.asdict(workload.architecture)
    targets = workload.target_modules if isinstance(workload.target_modules, str) else list(workload.target_modules)
    return {**fields, "architecture": architecture, "target_modules": targets, "stack": workload.stack.name}


def fit_report(workload: Workload, gpus: Sequence[str] | None = None) -> dict[str, Any]:
    """Peak memory by component, of the host, and for every card (or those named) whether it fits, as JSON values.

    Raises:
        BadInput: an unknown GPU.
    """
    memory = estimate_memory(workload)
    models = all_gpus() if not gpus else tuple(find_gpu(name) for name in gpus)
    sizes = sorted({(size, model.name) for model in models for size in model.memories_gib})
    return {
        "title": describe(workload),
        "components_gib": {name: round(gib, 3) for name, gib in memory.components.items()},
        "peak_gib": round(memory.expected_gib, 3),
        "low_gib": round(memory.low_gib, 3),
        "high_gib": round(memory.high_gib, 3),
        "host_gib": round(memory.host_gib, 2),
        "host_components_gib": {name: round(gib, 2) for name, gib in memory.host_components.items()},
        "gpus": [
            {
                "gpu": name,
                "memory_gib": size,
                "usable_gib": round(usable_gib(name, size), 2),
                "usable_is_measured": usable_is_measured(name, size),
                "fits": memory.fits(usable_gib(name, size)),
            }
            for size, name in sizes
        ],
    }


def describe(workload: Workload) -> str:
    """The configuration in one line."""
    size = workload.architecture.parameters / 1e9
    method = workload.method if workload.method == "full" else f"{workload.method} rank {workload.rank}"
    share = "" if workload.gpus == 1 else f", {workload.sharding} over {workload.gpus} GPUs"
    return (
        f"{size:.3g}B parameters, {method}, {workload.seq_len} tokens x {workload.micro_batch}, "
        f"{workload.optimizer}, stack {workload.stack.name}{share}"
    )
