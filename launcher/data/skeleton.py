"""The skeleton of a request: what is left of it without its values; and how near two skeletons are.

Two requests with one skeleton were made from one phrasing, so they may never stand in two parts of a split.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

_QUOTED = r"\"[^\"\n]*\"|`[^`\n]*`|(?<!\w)'[^'\n]*'(?!\w)"
_PATH = r"(?:[\w.~-]*/)+[\w.-]*\w|\w[\w-]*\.[A-Za-z]\w{1,4}\b"
_NUMBER = r"\$[0-9A-Fa-f]+\b|\b0x[0-9A-Fa-f]+\b|-?\b\d+(?:\.\d+)?\b"
_VALUE = re.compile(f"{_QUOTED}|{_PATH}|{_NUMBER}")


def skeleton(text: str) -> str:
    """A request with quoted strings, paths, file names and numbers replaced by `#`, in lower case, blanks joined."""
    return " ".join(replace_values(text).lower().split())


def replace_values(text: str) -> str:
    """The text with `#` in place of every quoted string, path, file name and number."""
    return _VALUE.sub("#", text)


def similarity(held_out: str, training: str) -> float:
    """Word-level similarity of two skeletons, 0 to 1: difflib's ratio, twice the matched words over all words."""
    return difflib.SequenceMatcher(None, held_out.split(), training.split()).ratio()


def nearest(text: str, held_out: Sequence[str]) -> float:
    """The highest similarity of one training skeleton to any of the held-out ones; 0 where there are none."""
    words, bag = _words(text), _bag(text)
    matcher = difflib.SequenceMatcher(None, (), words)
    best = 0.0
    for bound, other in sorted(((_bound(bag, _bag(other)), other) for other in held_out), reverse=True):
        if bound <= best:
            break
        matcher.set_seq1(_words(other))
        best = max(best, matcher.ratio())
    return best


class NearestSkeletons:
    """For each held-out skeleton the nearest of the training skeletons added so far."""

    def __init__(self, held_out: Iterable[str]) -> None:
        self.nearest: dict[str, tuple[float, str]] = dict.fromkeys(held_out, (0.0, ""))

    def add(self, training: str) -> None:
        """Take one more training skeleton into account."""
        words, bag = _words(training), _bag(training)
        matcher = difflib.SequenceMatcher(None, (), words)
        for text, (best, _) in self.nearest.items():
            if _bound(bag, _bag(text)) > best:
                matcher.set_seq1(_words(text))
                if matcher.ratio() > best:
                    self.nearest[text] = (matcher.ratio(), training)

    def similarities(self) -> list[float]:
        """Of every held-out skeleton to its nearest, ascending."""
        return sorted(best for best, _ in self.nearest.values())

    def median(self) -> float:
        """The median similarity; of an even number the upper of the two in the middle. 0 where nothing is held out."""
        ascending = self.similarities()
        return ascending[len(ascending) // 2] if ascending else 0.0

    def highest(self) -> float:
        """The similarity of the held-out skeleton that is nearest to training; 0 where nothing is held out."""
        return max(self.similarities(), default=0.0)


def _bound(one: frozenset[tuple[str, int]], other: frozenset[tuple[str, int]]) -> float:
    """Words in common, in whatever order, bound the ratio from above; much cheaper than the ratio itself."""
    return 2 * len(one & other) / ((len(one) + len(other)) or 1)


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@lru_cache(maxsize=4096)
def _bag(text: str) -> frozenset[tuple[str, int]]:
    """The words as a set that counts repetitions: the second `#` is another element than the first."""
    seen: Counter[str] = Counter()
    bag = []
    for word in _words(text):
        seen[word] += 1
        bag.append((word, seen[word]))
    return frozenset(bag)
