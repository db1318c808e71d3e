"""The phrasings examples are made from: the frozen pool, its split by data seed, and the extra ones for training.

Every kind of request (a tool, or a workflow such as `load+shot`) has a list of phrasings with named slots. Which of the
pool's phrasings are for test and validation depends on the data seed alone, never on anything added later.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from launcher.errors import LauncherError

# The pool is frozen: test phrasings come out of it, so it was fixed before any phrasing was written for training.
POOL_SHA256 = "1af60a3c0d189ff09c6be40cf9e9952958b04451565736cf760a3c026aec9815"
HELD_OUT_PER_TOOL = {"test": 4, "validation": 2}
HELD_OUT_PER_WORKFLOW = {"test": 3, "validation": 2}


@dataclass(frozen=True)
class Phrasing:
    """One way to ask for one kind of request. `id` is the template id of every example made from it."""

    id: str
    kind: str
    text: str


@cache
def load_pool() -> dict[str, tuple[Phrasing, ...]]:
    """The frozen pool by kind, in file order.

    Raises:
        LauncherError: the file is not the one whose hash is committed.
    """
    raw = (files("launcher.data") / "phrasings" / "pool.yaml").read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != POOL_SHA256:
        raise LauncherError(
            f"launcher/data/phrasings/pool.yaml: sha256 {found[:12]}... is not the committed {POOL_SHA256[:12]}...; "
            "the pool is frozen, add phrasings to training.yaml instead"
        )
    return _parse(raw, "{kind}/{index:02d}")


@cache
def load_training() -> tuple[Phrasing, ...]:
    """The phrasings added for training only; they never reach test or validation."""
    raw = (files("launcher.data") / "phrasings" / "training.yaml").read_bytes()
    return tuple(phrasing for phrasings in _parse(raw, "{kind}/x{index:02d}").values() for phrasing in phrasings)


def is_workflow(kind: str) -> bool:
    """Whether the kind is several calls (`load+run+shot`) and not one tool (`mesen2.run`)."""
    return "+" in kind


def split_pool(seed: int) -> dict[str, tuple[Phrasing, ...]]:
    """The pool's phrasings as `test`, `validation` and `train`: a seeded draw for each kind."""
    parts: dict[str, list[Phrasing]] = {"test": [], "validation": [], "train": []}
    for kind, phrasings in load_pool().items():
        held_out = HELD_OUT_PER_WORKFLOW if is_workflow(kind) else HELD_OUT_PER_TOOL
        # A string seed is hashed with SHA-512: the same order on every machine and Python.
        order = list(range(len(phrasings)))
        random.Random(f"split-{seed}-{kind}").shuffle(order)
        first, second = held_out["test"], held_out["test"] + held_out["validation"]
        for part, chosen in (("test", order[:first]), ("validation", order[first:second]), ("train", order[second:])):
            parts[part].extend(phrasings[index] for index in sorted(chosen))
    return {part: tuple(chosen) for part, chosen in parts.items()}


def _parse(raw: bytes, id_format: str) -> dict[str, tuple[Phrasing, ...]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser, ten times faster, where libyaml is there
    by_kind: dict[str, list[str]] = yaml.load(raw, Loader=loader)
    return {
        kind: tuple(Phrasing(id_format.format(kind=kind, index=index), kind, text) for index, text in enumerate(texts))
        for kind, texts in by_kind.items()
    }
