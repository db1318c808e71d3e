"""How many tokens the training rows of a job have: by length, padded or packed as they will be, and remembered.

Pure arithmetic on lengths; where they come from stands in `launcher.train.count_tokens` (counted) and
`launcher.data.characters` (estimated).
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.linefile import append_object, read_objects

# TRL packs what `Dataset.map` hands it at once, its default of 1,000 examples (trl/data_utils.py, `pack_dataset`).
EXAMPLES_PACKED_TOGETHER = 1000

Histogram = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RowCounts:
    """The training rows of one job, as the trainer batches them.

    lengths: (tokens of a row, rows of that length), shortest first. trained_tokens: positions with a loss, all rows.
    prompt_tokens, answer_tokens: means over the examples, of what is read and what is trained. is_padded: the rows of
    a micro-batch are padded to the longest; packed rows are laid end to end instead. low, high: factors on the counts
    at the 10th and the 90th percentile, 1 when counted. source: where the counts come from, in words.
    """

    lengths: Histogram
    trained_tokens: float
    prompt_tokens: float
    answer_tokens: float
    is_padded: bool
    source: str
    low: float = 1.0
    high: float = 1.0

    @property
    def rows(self) -> int:
        """Rows of one epoch."""
        return sum(rows for _, rows in self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of one epoch without padding."""
        return sum(length * rows for length, rows in self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row; 0 where there is none."""
        return self.lengths[-1][0] if self.lengths else 0

    def padded_tokens(self, micro_batch: int) -> float:
        """Expected tokens of one epoch in micro-batches of this many rows, padding included."""
        return expected_padded_tokens(self.lengths, micro_batch) if self.is_padded else float(self.tokens)


def histogram(lengths: Iterable[int]) -> Histogram:
    """Row lengths as (length, rows), shortest first."""
    return tuple(sorted(Counter(lengths).items()))


def expected_padded_tokens(lengths: Histogram, micro_batch: int) -> float:
    """Mean over all shuffles of the tokens of one epoch, each micro-batch padded to its longest row.

    Exact: any m of n shuffled rows are a uniform subset, and its longest row is at most L with probability
    C(F, m) / C(n, m), where F rows are no longer than L. The last micro-batch holds the rows that are left.
    """
    assert micro_batch >= 1
    rows = sum(count for _, count in lengths)
    full, rest = divmod(rows, micro_batch)
    padded = full * micro_batch * _expected_longest(lengths, micro_batch) if full else 0.0
    return padded + (rest * _expected_longest(lengths, rest) if rest else 0.0)


def _expected_longest(lengths: Histogram, drawn: int) -> float:
    rows = sum(count for _, count in lengths)
    expected, reached, share_before = 0.0, 0, 0.0
    for length, count in lengths:
        reached += count
        share = math.prod((reached - i) / (rows - i) for i in range(drawn)) if reached >= drawn else 0.0
        expected += length * (share - share_before)
        share_before = share
    return expected


def pack_lengths(lengths: Sequence[int], capacity: int) -> list[int]:
    """Tokens of the rows that examples of these lengths are packed into: best fit decreasing, as TRL's `bfd`.

    Examples longer than `capacity` are cut to it.
    """
    rows: list[int] = []
    for start in range(0, len(lengths), EXAMPLES_PACKED_TOGETHER):
        free: list[int] = []  # tokens left in each open row, ascending
        for length in sorted(
            (min(n, capacity) for n in lengths[start : start + EXAMPLES_PACKED_TOGETHER]), reverse=True
        ):
            place = bisect_left(free, length)
            insort(free, (free.pop(place) if place < len(free) else capacity) - length)
        rows += [capacity - left for left in free]
    return rows


# --- what is remembered between plans --------------------------------------------------------------------------------


def remembered_counts(path: Path, key: str) -> RowCounts | None:
    """The counts filed under `key`, or None; a damaged entry counts as none."""
    objects, _ = read_objects(path)
    entry = next((entry for entry in reversed(objects) if entry.get("key") == key), None)
    return None if entry is None else _from_json(entry)


def remember_counts(path: Path, key: str, counts: RowCounts) -> None:
    """File counts under `key`.

    Raises:
        OSError: the file cannot be written.
    """
    append_object(path, {"key": key, **dataclasses.asdict(counts)})


def _from_json(entry: dict[str, Any]) -> RowCounts | None:
    try:
        lengths = tuple((int(length), int(rows)) for length, rows in entry["lengths"])
        return RowCounts(
            lengths=lengths,
            trained_tokens=float(entry["trained_tokens"]),
            prompt_tokens=float(entry["prompt_tokens"]),
            answer_tokens=float(entry["answer_tokens"]),
            is_padded=bool(entry["is_padded"]),
            source=str(entry["source"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
