"""The exact token counts of a job: its trainer's own rows, made with the model's tokenizer and none of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from datasets import disable_progress_bars, enable_progress_bars, is_progress_bar_enabled
from trl import SFTTrainer

from launcher.data.prepare import PreparedData
from launcher.data.token_count import RowCounts
from launcher.job import JobSpec
from launcher.train.audit_job import trainer_without_weights
from launcher.train.mask_rows import IGNORED
from launcher.train.row_lengths import row_lengths


def count_rows(spec: JobSpec, data: PreparedData, source: str) -> RowCounts:
    """Count the rows the job would train on.

    Args:
        source: what to say about where the counts come from.

    Raises:
        BadInput: the tokenizer cannot be had, or its chat template cannot be trained on.
    """
    with _without_progress_bars(), trainer_without_weights(spec, data) as trainer:
        return rows_of_trainer(trainer, source)


def training_rows(spec: JobSpec, data: PreparedData) -> int:
    """The rows of one epoch: the examples, or what they are packed into."""
    return count_rows(spec, data, "counted").rows if spec.train.packing else len(data.train)


def rows_of_trainer(trainer: SFTTrainer, source: str) -> RowCounts:
    """The rows of a trainer's dataset; a packed row holds several examples."""
    rows = trainer.train_dataset
    trained = sum(
        int((np.asarray(row["labels"]) != IGNORED).sum()) for row in rows.select_columns("labels").with_format("numpy")
    )
    lengths = row_lengths(trainer)
    tokens = sum(length * count for length, count in lengths)
    is_packed = "seq_lengths" in rows.column_names
    examples = sum(map(len, rows["seq_lengths"])) if is_packed else len(rows)
    return RowCounts(
        lengths=lengths,
        trained_tokens=trained,
        prompt_tokens=(tokens - trained) / examples if examples else 0.0,
        answer_tokens=trained / examples if examples else 0.0,
        is_padded=not trainer.padding_free,
        source=source,
    )


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """A plan prints its table, not how far the rows of each job are."""
    were_shown = is_progress_bar_enabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            enable_progress_bars()
