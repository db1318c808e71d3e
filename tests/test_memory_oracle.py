"""The closed form against the real libraries on the meta device: peak allocated bytes agree within 1 %."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from launcher.cost import memory_terms
from launcher.cost.memory import GIB, estimate_memory
from launcher.cost.stacks import STACKS
from launcher.cost.workload import Workload
from launcher.models import find_architecture
from tests import meta_memory
from tests.meta_memory import our_loss, transformers_loss

pytestmark = pytest.mark.slow

SHAPES = {name: find_architecture(name) for name in ("Qwen2.5-7B", "llama-3.1-8b")}
# What autocast and the optimizer add is left out of both: 16-bit weights and adapters, no states.
SIXTEEN_BITS = {"adapter_bytes": 2, "quantised_adapter_bytes": None, "master_bytes": 2}


@pytest.fixture(scope="module", autouse=True)
def _attention() -> Iterator[None]:
    with meta_memory.meta_attention():
        yield


def closed_form_bytes(job: Workload) -> float:
    return estimate_memory(job).alloc_gib * GIB - memory_terms.optimizer_bytes(job)


def workload(shape: str, method: str, seq_len: int, stack: str, **changes: object) -> Workload:
    fields: dict = {
        "architecture": SHAPES[shape],
        "method": method,
        "quantization": "nf4-dq" if method == "qlora" else "none",
        "seq_len": seq_len,
        "micro_batch": 1,
        "stack": dataclasses.replace(STACKS[stack], **SIXTEEN_BITS),
        "trained_tokens": 256 if stack == "launcher" else None,
    }
    return Workload(**{**fields, **changes})


@pytest.mark.parametrize("stack", ["hf", "launcher"])
@pytest.mark.parametrize("seq_len", [1024, 4096])
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_whole_model(shape: str, method: str, seq_len: int, stack: str) -> None:
    job = workload(shape, method, seq_len, stack)
    measured = meta_memory.extrapolated_peak_bytes(job, our_loss if stack == "launcher" else transformers_loss)
    assert closed_form_bytes(job) == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch": 4},
        {"gradient_checkpointing": False},
        {"quantization": "nf4"},
        {"rank": 128},
    ],
    ids=str,
)
def test_what_else_a_job_may_choose(changes: dict) -> None:
    job = workload("llama-3.1-8b", "qlora", 1024, "hf", **changes)
    assert closed_form_bytes(job) == pytest.approx(
        meta_memory.extrapolated_peak_bytes(job, transformers_loss), rel=0.01
    )


def test_dropping_a_term_is_noticed() -> None:
    """The agreement is no accident of large weights: without the logits it is gone."""
    job = workload("Qwen2.5-7B", "qlora", 4096, "hf")
    measured = meta_memory.extrapolated_peak_bytes(job, transformers_loss)
    assert measured - estimate_memory(job).components["logits"] * GIB < 0.6 * measured
