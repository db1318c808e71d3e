"""Which training phrasings may be used: none too near to a phrasing that is held out for test or validation.

The phrasings added for training are ranked by their similarity to the nearest held-out phrasing; the farthest are used,
as many as leave the test phrasings far enough from training: half of them at most 0.65 near, none above 0.90.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from launcher.data.pool import Phrasing, load_training, split_pool
from launcher.data.skeleton import NearestSkeletons, nearest, replace_values, skeleton
from launcher.data.values import CHECKS, CLOSINGS, FILE_TYPES, FORMATS, MEMORY_TYPES, OPENINGS, OPERATIONS, SYMBOLS
from launcher.errors import LauncherError

# Of the test skeletons to their nearest training skeleton.
MAX_MEDIAN_SIMILARITY = 0.65
MAX_SIMILARITY = 0.90
# The plan has one example of `assemble`: it is trained on, so nothing can be held out.
NOT_HELD_OUT = "yaze_debugger.assemble"


@dataclass(frozen=True)
class PhrasingChoice:
    """The phrasings of each part under one data seed.

    `limit` is the similarity to a held-out phrasing up to which training phrasings were added; `left_out` did not fit.
    """

    train: tuple[Phrasing, ...]
    validation: tuple[Phrasing, ...]
    test: tuple[Phrasing, ...]
    left_out: tuple[Phrasing, ...]
    limit: float


@cache
def choose_phrasings(seed: int) -> PhrasingChoice:
    """Split the pool by the data seed, add training phrasings, and leave out those too near to a held-out phrasing.

    The pool's own training phrasings stay, unless the split of this seed has put them too near to its test phrasings.

    Raises:
        LauncherError: the pool is not the committed one.
    """
    parts = split_pool(seed)
    test, validation = (tuple(p for p in parts[part] if p.kind != NOT_HELD_OUT) for part in ("test", "validation"))
    candidates = list(load_training())
    kept = list(parts["train"])
    distances = NearestSkeletons(phrasing_skeleton(phrasing) for phrasing in test)
    for phrasing in kept:
        distances.add(phrasing_skeleton(phrasing))
    if not _is_far_enough(distances):
        candidates, kept = kept + candidates, []
        distances = NearestSkeletons(phrasing_skeleton(phrasing) for phrasing in test)
    # Equally near ones in random order, so that no kind of request is cut before the others.
    random.Random(f"guard-{seed}").shuffle(candidates)
    held_out = [phrasing_skeleton(phrasing) for phrasing in (*test, *validation)]
    ranked = sorted(((nearest(phrasing_skeleton(p), held_out), p) for p in candidates), key=lambda entry: entry[0])
    limit, fitting = 0.0, 0
    for similarity, phrasing in ranked:
        distances.add(phrasing_skeleton(phrasing))
        if not _is_far_enough(distances):
            break
        limit, fitting = similarity, fitting + 1
    chosen = [phrasing for _, phrasing in ranked[:fitting]]
    left_out = tuple(phrasing for _, phrasing in ranked[fitting:])
    return PhrasingChoice((*kept, *chosen), validation, test, left_out, limit)


def _is_far_enough(distances: NearestSkeletons) -> bool:
    return distances.median() <= MAX_MEDIAN_SIMILARITY and distances.highest() <= MAX_SIMILARITY


def measure_similarity(test: Iterable[Phrasing], train_shapes: Iterable[str]) -> NearestSkeletons:
    """How near each test phrasing's skeleton is to the nearest skeleton of the finished training requests.

    Raises:
        LauncherError: nearer than the limits of this module.
    """
    distances = NearestSkeletons(phrasing_skeleton(phrasing) for phrasing in test)
    for shape in sorted(train_shapes):
        distances.add(shape)
    if not _is_far_enough(distances):
        raise LauncherError(
            f"test requests are too near to training requests: median similarity {distances.median():.2f} "
            f"(at most {MAX_MEDIAN_SIMILARITY}), highest {distances.highest():.2f} (at most {MAX_SIMILARITY})"
        )
    return distances


def _any_of(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted({word for word in words if word}, key=lambda w: (-len(w), w)))


_OPENING = re.compile(f"^(?:{_any_of(OPENINGS)})")
_CLOSING = re.compile(f"(?:{_any_of(CLOSINGS)})$")
_CODE = re.compile(rf"(?:\b(?:{_any_of(OPERATIONS)})\b(?: #?\$[0-9A-F]+)?(?: : )?)+")
_FORMAT = re.compile(rf"(?:{_any_of(FORMATS)})\b")
_NAME = re.compile(rf"\b(?:{_any_of([*SYMBOLS, *FILE_TYPES, *CHECKS, *MEMORY_TYPES])})\b")
_SAMPLES = {
    "addr": "0x7E00", "asfmt": "", "check": CHECKS[0], "code": "NOP", "id": "3", "kind": "room", "len": "16",
    "mem": "WRAM", "n": "60", "path": "out/cave3.json", "rom": "oos.sfc", "shot": "boss.png", "sym": "OAM table",
    "val": "0x12",
}  # fmt: skip


def request_skeleton(text: str) -> str:
    """The skeleton of a generated request: no opening, no closing, no names of things, no output format, no values."""
    # Values first: a name may stand inside a path.
    text = replace_values(_CODE.sub("%", text))
    text = _CLOSING.sub("", _OPENING.sub("", text))
    return skeleton(_NAME.sub("@", _FORMAT.sub("", text)))


@cache
def phrasing_skeleton(phrasing: Phrasing) -> str:
    """The skeleton every request made from this phrasing has."""
    return request_skeleton(phrasing.text.format(**_SAMPLES))
