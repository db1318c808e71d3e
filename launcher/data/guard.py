"""Which training phrasings may be used: none too near to a phrasing that is held out for test or validation.

All training phrasings, the pool's own and the added ones alike, are ranked by their similarity to the nearest held-out
phrasing; the farthest are kept, as many as leave the test phrasings far enough from training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import groupby

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

    `limit` is the similarity of the nearest training phrasing kept; `left_out` are the training phrasings above it.
    """

    train: tuple[Phrasing, ...]
    validation: tuple[Phrasing, ...]
    test: tuple[Phrasing, ...]
    left_out: tuple[Phrasing, ...]
    limit: float


@cache
def choose_phrasings(seed: int) -> PhrasingChoice:
    """Split the pool by the data seed, add the training phrasings, and leave out what is too near to a held-out one.

    Raises:
        LauncherError: the pool is not the committed one.
    """
    parts = split_pool(seed)
    held_out = {part: tuple(p for p in parts[part] if p.kind != NOT_HELD_OUT) for part in ("test", "validation")}
    shapes = [phrasing_skeleton(p) for part in ("test", "validation") for p in held_out[part]]
    ranked = sorted((nearest(phrasing_skeleton(p), shapes), p.id, p) for p in (*parts["train"], *load_training()))
    distances = NearestSkeletons(phrasing_skeleton(p) for p in held_out["test"])
    kept: list[Phrasing] = []
    limit = 0.0
    for level, group in groupby(ranked, key=lambda entry: entry[0]):
        phrasings = [phrasing for _, _, phrasing in group]
        for phrasing in phrasings:
            distances.add(phrasing_skeleton(phrasing))
        if level > MAX_SIMILARITY or distances.median() > MAX_MEDIAN_SIMILARITY:
            break
        kept += phrasings
        limit = level
    chosen = set(kept)
    left_out = tuple(p for _, _, p in ranked if p not in chosen)
    return PhrasingChoice(tuple(kept), held_out["validation"], held_out["test"], left_out, limit)


def measure_similarity(test: Iterable[Phrasing], train_shapes: Iterable[str]) -> NearestSkeletons:
    """How near each test phrasing's skeleton is to the nearest skeleton of the finished training requests.

    Raises:
        LauncherError: nearer than the limits of this module.
    """
    distances = NearestSkeletons(phrasing_skeleton(phrasing) for phrasing in test)
    for shape in sorted(train_shapes):
        distances.add(shape)
    median, highest = distances.median(), max(distances.similarities(), default=0.0)
    if median > MAX_MEDIAN_SIMILARITY or highest > MAX_SIMILARITY:
        raise LauncherError(
            f"test requests are too near to training requests: median similarity {median:.2f} "
            f"(at most {MAX_MEDIAN_SIMILARITY}), highest {highest:.2f} (at most {MAX_SIMILARITY})"
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
