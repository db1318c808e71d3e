"""What the model will really be trained on, read off the trainer's own batches before the first step.

A wrong mask trains without an error and with a good-looking loss. docs/mask-audit.md lists the traps and their checks.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTTrainer

from launcher.data.chat import prompt_messages
from launcher.data.examples import ToolExample
from launcher.errors import Refused
from launcher.evaluate.generate import prompt_tokens, stop_tokens
from launcher.train.mask_rows import IGNORED, Row, RowChecker

if TYPE_CHECKING:
    from launcher.data.prepare import PreparedData
    from launcher.job import JobSpec

Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]
COLUMNS = ("input_ids", "labels", "seq_lengths")
EXCERPT = 300  # characters of a row in a fault
UNSEPARATED = "examples packed into one row without position_ids would read each other"
PADDING_TRAINED = "labels stand on the padding"


@dataclass(frozen=True)
class MaskAudit:
    """What stands in the training batches. Tokens are counted without padding; trained ones carry a label.

    Attributes:
        rows_given: examples of the job. rows_kept: those found in the batches, packed or not.
        trained_min, trained_median, trained_max: trained tokens of an example.
        longest_row: tokens of the longest row of the dataset, which with packing holds several examples.
        sample_context, sample_trained: the first example, split into what is read and what is trained.
        faults: why this job must not be trained, one line each. notes: what is odd but harmless.
    """

    rows_given: int
    rows_kept: int
    tokens: int
    trained_tokens: int
    trained_share: float
    trained_min: int
    trained_median: float
    trained_max: int
    longest_row: int
    sample_context: str
    sample_trained: str
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The audit as JSON values."""
        return dataclasses.asdict(self)


def check_masks(audit: MaskAudit) -> None:
    """Let a sound job pass.

    Raises:
        Refused: the job would not train what it should; every reason on a line of its own.
    """
    if audit.faults:
        raise Refused("\n".join(f"mask audit: {fault}" for fault in audit.faults))


def audit_trainer(trainer: SFTTrainer, spec: JobSpec, data: PreparedData) -> MaskAudit:
    """Audit the training set of a job's trainer."""
    return audit_masks(
        trainer.train_dataset,
        trainer.data_collator,
        trainer.processing_class,
        examples=data.train,
        system_prompt=spec.system_prompt_text() or "",
        tools=data.tool_set.functions() if spec.data.system_prompt.tools else None,
        tool_names=data.tool_set.names,
        stops=stop_tokens(trainer.model, trainer.processing_class),
        max_length=spec.train.max_length,
        packed=spec.train.packing,
    )


def audit_masks(
    train_dataset: Dataset,
    data_collator: Collator,
    tokenizer: PreTrainedTokenizerBase,
    *,
    examples: Sequence[ToolExample],
    system_prompt: str,
    tools: list[dict[str, Any]] | None,
    tool_names: Sequence[str],
    stops: Collection[int],
    max_length: int,
    packed: bool = False,
    batch: int = 16,
) -> MaskAudit:
    """Collate the whole tokenised training set as training will, and compare every row with its example.

    Args:
        train_dataset: as the trainer holds it, with `input_ids` and `labels`.
        examples: what the set was made from, in any order.
        tools: the schemas that inference puts into the prompt; None: the prompt has no tools.
        tool_names: the job's tools, whether or not they stand in the prompt.
        stops: the tokens that end an answer at inference.
        packed: several examples stand in one row.
        batch: rows collated at once.
    """
    assert examples
    prompts = prompt_tokens(tokenizer, (prompt_messages(example, system_prompt) for example in examples), tools)
    checker = RowChecker(tokenizer, examples, prompts, tool_names, tools is not None, stops, max_length)
    tally = Tally()
    tally.general_faults += [f"{reason}: {place}" for reason, place in checker.prompt_template_faults()]
    tally.general_faults += _padding_faults(tokenizer)
    in_order = not packed and len(train_dataset) == len(examples)
    rows = _collated_rows(train_dataset, data_collator, batch, packed, tally)
    for number, row in enumerate(rows):
        tally.add_row(row, checker)
        for reason, place in checker.faults(row, number if in_order else None):
            tally.add_fault(reason, place)
    lengths = [len(ids) for ids in train_dataset["input_ids"]]
    return tally.audit(len(examples), max(lengths, default=0), max(map(len, prompts)), max_length)


@dataclass
class Tally:
    """Counts over the rows, filled while they are read."""

    row_tokens: int = 0
    trained: list[int] = field(default_factory=list)
    sample: tuple[str, str] = ("", "")
    thinking: int = 0
    general_faults: list[str] = field(default_factory=list)
    fault_counts: dict[str, int] = field(default_factory=dict)
    first_places: dict[str, str] = field(default_factory=dict)

    def add_row(self, row: Row, checker: RowChecker) -> None:
        """Count a row; the first is kept as the sample."""
        if not self.trained:
            context = checker.text(t for t, label in zip(row.tokens, row.labels, strict=True) if label == IGNORED)
            self.sample = (context, checker.text(row.tokens[p] for p in row.trained))
        self.row_tokens += len(row.tokens)
        self.trained.append(len(row.trained))
        self.thinking += checker.begins_with_thinking(row)

    def add_fault(self, reason: str, place: str) -> None:
        """Count a fault; the first place of each reason is kept."""
        self.fault_counts[reason] = self.fault_counts.get(reason, 0) + 1
        self.first_places.setdefault(reason, place)

    def audit(self, given: int, longest_row: int, longest_prompt: int, max_length: int) -> MaskAudit:
        """The figures and the faults in words."""
        kept, trained = len(self.trained), sum(self.trained)
        faults = self.general_faults
        if kept != given:
            faults.append(
                f"{given - kept} of {given} examples are not in the batches, because they do not fit max_length "
                f"{max_length}; the longest prompt takes {longest_prompt} tokens"
                if kept < given
                else f"{kept} rows were made from {given} examples"
            )
        faults += [self._in_words(reason, count, kept) for reason, count in self.fault_counts.items()]
        notes = []
        if self.thinking:
            notes.append(
                f"{self.thinking} of {kept} answers begin with an empty <think></think> block, as the model's own "
                "template writes it: the tuned model will write it too, and evaluation reads past it"
            )
        return MaskAudit(
            rows_given=given,
            rows_kept=kept,
            tokens=self.row_tokens,
            trained_tokens=trained,
            trained_share=trained / self.row_tokens if self.row_tokens else 0.0,
            trained_min=min(self.trained, default=0),
            trained_median=statistics.median(self.trained) if self.trained else 0.0,
            trained_max=max(self.trained, default=0),
            longest_row=longest_row,
            sample_context=self.sample[0],
            sample_trained=self.sample[1],
            faults=tuple(faults),
            notes=tuple(notes),
        )

    def _in_words(self, reason: str, count: int, kept: int) -> str:
        place = self.first_places[reason].replace("\n", "\\n")
        shown = place if len(place) <= EXCERPT else f"{place[:EXCERPT]}..."
        return f"{reason} ({count} of {kept} rows{', the first: ' if shown else ''}{shown})"


def _padding_faults(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return []
    return [f"padding is {tokenizer.pad_token!r} and the end of the turn {tokenizer.eos_token!r}: they must differ"]


def _collated_rows(dataset: Dataset, collator: Collator, batch: int, packed: bool, tally: Tally) -> Iterator[Row]:
    """The examples of the dataset as the collator puts them into batches, padding left out."""
    columns = dataset.select_columns([name for name in COLUMNS if name in dataset.column_names])
    for start in range(0, len(columns), batch):
        features = [columns[i] for i in range(start, min(start + batch, len(columns)))]
        collated = collator(features)
        if "position_ids" in collated:
            yield from _laid_end_to_end(collated)
            continue
        if packed:
            tally.add_fault(UNSEPARATED, "")
        padding_labels = collated["labels"][collated["attention_mask"] == 0]
        if (padding_labels != IGNORED).any():
            tally.add_fault(PADDING_TRAINED, "")
        for tokens, mask, labels in zip(
            collated["input_ids"], collated["attention_mask"].bool(), collated["labels"], strict=True
        ):
            yield Row(tokens[mask].tolist(), labels[mask].tolist())


def _laid_end_to_end(collated: dict[str, Any]) -> Iterator[Row]:
    """The examples of a padding-free batch: one long row in which positions start at 0 with each example."""
    tokens, labels = collated["input_ids"][0].tolist(), collated["labels"][0].tolist()
    starts = (collated["position_ids"][0] == 0).nonzero().flatten().tolist()
    for begin, end in pairwise([*starts, len(tokens)]):
        yield Row(tokens[begin:end], labels[begin:end])
