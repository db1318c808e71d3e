"""GPU models: what a name means, which memory sizes are sold under it, and how much of that a program gets.

The figures, each with its source, are in `launcher/assets/gpus.json`. A name is not a memory size: an RTX 4090 is sold
with 24 and with 48 GiB, an A100 with 40 and with 80.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from launcher.errors import BadInput

TABLE = Path(__file__).parent.parent / "assets" / "gpus.json"
# How far a catalog's figure may lie from the nominal size: drivers show 15,109 MiB for a T4 of 16 GiB.
MEMORY_TOLERANCE = 0.08
# Of the nominal size, on a card whose total nobody published: the lowest share of any card in the table (the T4's,
# which gives up a sixteenth to error correction).
ASSUMED_USABLE_SHARE = 0.91

_MAKERS = re.compile(r"NVIDIA|AMD|INSTINCT|GEFORCE|TESLA|QUADRO|BLACKWELL|GENERATION|EDITION|HBM\d?E?")
_MEMORY = re.compile(r"(?<![A-Z0-9])(\d+(?:\.\d+)?)\s*G(?:I?B)?(?![A-Z0-9])")


@dataclass(frozen=True)
class GpuModel:
    """One GPU model, figures per GPU.

    memories_gib: the sizes sold. bf16_tflops: dense peak of the tensor cores with fp32 accumulation, fp16 where the
    chip has no bf16. memory_gb_per_s: of the slowest size. nvlink_gb_per_s: both directions together; None where the
    card has none, or only by a bridge that a rented machine seldom has. chip: the die, which cards of like utilisation
    share.
    """

    name: str
    memories_gib: tuple[float, ...]
    bf16_tflops: float
    memory_gb_per_s: float
    watts: float
    nvlink_gb_per_s: float | None
    has_bf16: bool
    chip: str
    source: str


def all_gpus() -> tuple[GpuModel, ...]:
    """Every known model."""
    return tuple(model for model, _ in _table())


def find_gpu(name: str, memory_gib: float | None = None) -> GpuModel:
    """The model that a provider or a person calls by this name, whatever the spelling.

    A name that several models share (H100: SXM, and NVL with 94 GiB; RTX 6000: Turing, and Ada with 48 GiB) means the
    first that is sold with `memory_gib`; without a size, or with one in the name, as for `memory_in_name`.

    Raises:
        BadInput: no such GPU (the nearest names are given), or one without CUDA.
    """
    models = _models_named(name)
    size = _size_in(name) if memory_gib is None else memory_gib
    fitting = [model for model in models if size is not None and _nearest(model.memories_gib, size) is not None]
    return (fitting or models)[0]


def snap_memory_gib(gpu: str, memory_gib: float) -> float | None:
    """The size a GPU of this name is sold with that a catalog's figure means; None when there is no such card.

    Raises:
        BadInput: no such GPU.
    """
    return _nearest([size for model in _models_named(gpu) for size in model.memories_gib], memory_gib)


def memory_in_name(name: str) -> float | None:
    """The nominal GiB of one GPU that the name itself states, as in A100-80GB; None where it states none.

    Raises:
        BadInput: no such GPU.
    """
    size = _size_in(name)
    return None if size is None else snap_memory_gib(name, size)


def usable_gib(gpu: str, memory_gib: float) -> float:
    """GiB that drivers and torch report as the total of such a card: less than nominal, a low value where unpublished.

    Raises:
        BadInput: no such GPU.
    """
    measured = _measured_gib(gpu, memory_gib)
    return memory_gib * ASSUMED_USABLE_SHARE if measured is None else min(measured, memory_gib)


def usable_is_measured(gpu: str, memory_gib: float) -> bool:
    """Whether `usable_gib` is a published figure; otherwise it is ASSUMED_USABLE_SHARE of the size.

    Raises:
        BadInput: no such GPU.
    """
    return _measured_gib(gpu, memory_gib) is not None


@lru_cache(maxsize=1024)
def _measured_gib(gpu: str, memory_gib: float) -> float | None:
    model = find_gpu(gpu, memory_gib)
    usable = next(usable for known, usable in _table() if known is model)
    size = _nearest(model.memories_gib, memory_gib)
    return None if size is None else usable[size]


def _nearest(sizes: list[float] | tuple[float, ...], memory_gib: float) -> float | None:
    nearest = min(sizes, key=lambda size: abs(size - memory_gib))
    return nearest if abs(nearest - memory_gib) <= MEMORY_TOLERANCE * nearest else None


@lru_cache(maxsize=1024)
def _models_named(name: str) -> tuple[GpuModel, ...]:
    key = _key(name)
    if key in _without_cuda():
        raise BadInput(f"gpu: {name!r}: has no CUDA; an NVIDIA GPU is needed")
    models = _index().get(key)
    if models is None:
        near = difflib.get_close_matches(key, _index(), n=5, cutoff=0.6)
        names = dict.fromkeys(_index()[match][0].name for match in near)
        hint = f"nearest: {', '.join(names)}" if names else "for example RTX4090, A100-80GB, H100"
        raise BadInput(f"gpu: {name!r}: unknown; {hint}")
    return models


def _key(name: str) -> str:
    """A name without maker, memory size, spaces and punctuation, in capitals; RTX is left out too."""
    bare = _MEMORY.sub(" ", _MAKERS.sub(" ", name.upper().replace("_", " ")))
    return re.sub(r"[^A-Z0-9]", "", bare).removeprefix("RTX")


def _size_in(name: str) -> float | None:
    match = _MEMORY.search(name.upper().replace("_", " "))
    return float(match[1]) if match else None


@lru_cache(maxsize=1)
def _index() -> dict[str, tuple[GpuModel, ...]]:
    index: defaultdict[str, list[GpuModel]] = defaultdict(list)
    for row, (model, _) in zip(_file()["gpus"], _table(), strict=True):
        for spelling in dict.fromkeys(_key(alias) for alias in (model.name, *row["aliases"])):
            index[spelling].append(model)
    return {spelling: tuple(models) for spelling, models in index.items()}


@lru_cache(maxsize=1)
def _without_cuda() -> frozenset[str]:
    return frozenset(_key(name) for name in _file()["without_cuda"])


@lru_cache(maxsize=1)
def _table() -> tuple[tuple[GpuModel, dict[float, float | None]], ...]:
    """Every model with the usable GiB of each of its sizes, None where unpublished."""
    rows = []
    for row in _file()["gpus"]:
        usable = {float(size): gib for size, gib in row["usable_gib"].items()}
        facts = {key: value for key, value in row.items() if key not in ("aliases", "usable_gib")}
        rows.append((GpuModel(memories_gib=tuple(usable), **facts), usable))
    return tuple(rows)


@lru_cache(maxsize=1)
def _file() -> dict:
    return json.loads(TABLE.read_text(encoding="utf-8"))
