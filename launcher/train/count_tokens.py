"""The exact token counts of a job: its trainer's own rows, made with the model's tokenizer and none of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from datasets import disable_progress_bars, enable_progress_bars, is_progress_bar_enabled
from trl import SFTTrainer

from launcher.data.prepare import PreparedData
from launcher.data.token_count import RowCounts, histogram
from launcher.job import JobSpec
from launcher.train.audit_job import trainer_without_weights
from launcher.train.mask_rows import IGNORED


def count_rows(spec: JobSpec, data: PreparedData, source: str) -> RowCounts:
    """Count the rows the job would train on.

    Args:
        source: what to say about where the counts come from.

    Raises:
        BadInput: the tokenizer cannot be had, or its chat template cannot be trained on.
    """
    with _without_progress_bars(), trainer_without_weights(spec, data) as trainer:
        return rows_of_trainer(trainer, source)


def rows_of_trainer(trainer: SFTTrainer, source: str) -> RowCounts:
    """The rows of a trainer's dataset; a packed row holds several examples."""
    rows = trainer.train_dataset
    lengths = [len(tokens) for tokens in rows["input_ids"]]
    trained = sum(label != IGNORED for labels in rows["labels"] for label in labels)
    examples = sum(map(len, rows["seq_lengths"])) if "seq_lengths" in rows.column_names else len(lengths)
    tokens = sum(lengths)
    return RowCounts(
        lengths=histogram(lengths),
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
