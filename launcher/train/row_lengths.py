"""The lengths of the rows a trainer trains on."""

from __future__ import annotations

from trl import SFTTrainer

from launcher.data.token_count import Histogram, histogram


def row_lengths(trainer: SFTTrainer) -> Histogram:
    """The tokens of each row of a trainer's dataset."""
    return histogram(len(tokens) for tokens in trainer.train_dataset["input_ids"])
