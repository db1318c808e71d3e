"""How many tokens a job trains on: counted with the model's tokenizer where that is at hand, else estimated.

A count is remembered in `$LAUNCHER_HOME/token-counts.jsonl`, so only the first plan of a job loads the tokenizer.
Nothing is ever downloaded for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from launcher.cost.ledger import launcher_home
from launcher.cost.spread import Spread
from launcher.data.characters import estimate_rows
from launcher.data.prepare import EXTRA_TEST, PreparedData, prepare_job
from launcher.data.split import PARTS
from launcher.data.token_count import RowCounts, remember_counts, remembered_counts
from launcher.errors import BadInput
from launcher.job import EarlyStoppingSpec, EvaluateSpec, JobSpec, TrainSpec
from launcher.models import BUILTIN_MODELS, is_folder_id, model_location

COUNTS_FILE = "token-counts.jsonl"
# Raised when the same input would be counted differently: older counts are then made anew.
VERSION = 1
VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
OTHER_FILES = ("tokenizer_config.json", "chat_template.jinja", "merges.txt", "added_tokens.json", "config.json")
REQUIRED_FILES = ("tokenizer_config.json", "config.json")

# Of rows that are stated, not seen: the longest in mean rows, the answer's share, the tenth and ninetieth percentile.
STATED_LONGEST = 2.0
STATED_ANSWER_SHARE = 0.1
STATED_FACTORS = (0.7, 1.0, 1.5)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenCount:
    """The tokens of one job, of one epoch unless said otherwise.

    examples: training rows kept (packed rows where the job packs). tokens: without padding. padded_tokens: as batched,
    the mean over shuffles; packed rows have no padding. longest: tokens of the longest row, at most `max_length`.
    trained_tokens: positions with a loss. prompt_tokens, answer_tokens: means, for evaluation by generation.
    spread: a factor around the counts, exactly 1 when counted. source: where they come from, in words.
    evaluation_examples: prompts of `validation`, `test` and `extra_test`.
    """

    examples: int
    tokens: float
    padded_tokens: float
    longest: int
    trained_tokens: float
    prompt_tokens: float
    answer_tokens: float
    spread: Spread
    source: str
    evaluation_examples: Mapping[str, int]

    @property
    def is_counted(self) -> bool:
        """Whether the model's own tokenizer counted."""
        return self.spread == Spread(1.0)


def count_tokens(spec: JobSpec, micro_batch: int) -> TokenCount:
    """The tokens of a job in micro-batches of this many rows.

    Raises:
        BadInput: the data cannot be read, the model's chat template cannot be trained on, or no row keeps an answer.
    """
    same_rows = json.dumps(_with_the_same_rows(spec).resolved(), sort_keys=True)
    rows, prompts = _rows_of(same_rows, _fingerprint(spec.data.source), launcher_home())
    return TokenCount(
        examples=rows.rows,
        tokens=rows.tokens,
        padded_tokens=rows.padded_tokens(micro_batch),
        longest=rows.longest,
        trained_tokens=rows.trained_tokens,
        prompt_tokens=rows.prompt_tokens,
        answer_tokens=rows.answer_tokens,
        spread=Spread(1.0) if rows.low == rows.high else Spread.from_quantiles(rows.low, 1.0, rows.high),
        source=rows.source,
        evaluation_examples=dict(prompts),
    )


def training_rows(spec: JobSpec, data: PreparedData) -> int:
    """The rows of one epoch: the examples, or what they are packed into."""
    return count_tokens(spec, 1).examples if spec.train.packing else len(data.train)


def stated_tokens(spec: JobSpec, micro_batch: int, rows: int, tokens_per_row: float) -> TokenCount:
    """The tokens of a job whose data is not there yet, from what its user expects of it.

    Every row is taken as long as stated and an answer as a tenth of it; the interval is wide.
    """
    train = max(1, round(rows * spec.data.splits.train))
    longest = min(spec.train.max_length, math.ceil(tokens_per_row * STATED_LONGEST))
    tokens = min(tokens_per_row, spec.train.max_length)
    answer = max(1.0, STATED_ANSWER_SHARE * tokens)
    padded = tokens if micro_batch == 1 else (tokens + longest) / 2
    return TokenCount(
        examples=train,
        tokens=train * tokens,
        padded_tokens=train * padded,
        longest=longest,
        trained_tokens=train * answer,
        prompt_tokens=tokens - answer,
        answer_tokens=answer,
        spread=Spread.from_quantiles(*STATED_FACTORS),
        source=f"stated: {rows} rows of {tokens_per_row:g} tokens",
        evaluation_examples={
            "validation": round(rows * spec.data.splits.validation),
            "test": round(rows * spec.data.splits.test),
            EXTRA_TEST: 0,
        },
    )


def _with_the_same_rows(spec: JobSpec) -> JobSpec:
    """A job with these rows and every other value a default: a plan that changes the others need not count again."""
    return JobSpec(
        name=spec.name,
        model=spec.model,
        data=spec.data,
        train=TrainSpec(max_length=spec.train.max_length, packing=spec.train.packing),
        early_stopping=EarlyStoppingSpec(patience=None),
        evaluate=EvaluateSpec(extra_test_examples=spec.evaluate.extra_test_examples),
        budget=spec.budget,
    )


def _fingerprint(source: str) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a user's data files: what changes when the data does."""
    path = Path(source)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file())


@lru_cache(maxsize=256)
def _rows_of(
    same_rows: str, fingerprint: tuple[tuple[str, int, int], ...], home: Path
) -> tuple[RowCounts, tuple[tuple[str, int], ...]]:
    """The rows of a job and its prompts by part; a planner asks many times for one job."""
    spec = JobSpec.from_resolved(json.loads(same_rows))
    data = _data_of(json.dumps(_data_alone(spec).resolved(), sort_keys=True), fingerprint)
    rows = _counted(spec, data, home / COUNTS_FILE) or _estimated(spec, data)
    if not rows.rows:
        raise BadInput(
            f"train.max_length: {spec.train.max_length}: no example keeps an answer in so few tokens; raise it"
        )
    parts = (*(part for part in PARTS if part != "train"), EXTRA_TEST)
    return rows, tuple((part, len(getattr(data, part))) for part in parts)


@lru_cache(maxsize=4)
def _data_of(data_alone: str, fingerprint: tuple[tuple[str, int, int], ...]) -> PreparedData:
    """The examples of a job; jobs that differ in other things share them."""
    return prepare_job(JobSpec.from_resolved(json.loads(data_alone)))


def _data_alone(spec: JobSpec) -> JobSpec:
    """A job with these examples and every other value a default."""
    return JobSpec(name="data", model=spec.model, data=spec.data, evaluate=spec.evaluate, budget=spec.budget)


def _estimated(spec: JobSpec, data: PreparedData) -> RowCounts:
    return estimate_rows(
        data.train,
        spec.system_prompt_text() or "",
        data.tool_set.functions() if spec.data.system_prompt.tools else None,
        model_id=spec.model.id,
        max_length=spec.train.max_length,
        packing=spec.train.packing,
    )


def _counted(spec: JobSpec, data: PreparedData, counts_file: Path) -> RowCounts | None:
    """The exact counts, remembered or made now; None where the tokenizer is not at hand."""
    folder = tokenizer_folder(spec.model.id, spec.model.revision)
    if folder is None:
        return None
    key = _key(spec, data, folder)
    known = remembered_counts(counts_file, key)
    if known is not None or not _can_tokenize():
        return known
    from launcher.train.count_tokens import count_rows

    local = spec.model_copy(update={"model": spec.model.model_copy(update={"id": str(folder)})})
    rows = count_rows(local, data, f"counted with {spec.model.id}'s tokenizer")
    try:
        remember_counts(counts_file, key, rows)
    except OSError as fault:
        _log.warning("%s: the count is not remembered (%s)", counts_file, fault)
    return rows


def _can_tokenize() -> bool:
    """Whether the training libraries are installed; asking imports none of them."""
    return all(find_spec(name) is not None for name in ("transformers", "trl"))


def _key(spec: JobSpec, data: PreparedData, tokenizer: Path) -> str:
    """A hash of everything the rows depend on."""
    content = {
        "version": VERSION,
        "examples": data.manifest["parts"]["train"]["sha256"],
        "tools": data.tool_set.functions() if spec.data.system_prompt.tools else None,
        "system_prompt": spec.system_prompt_text(),
        "model": spec.model.id,
        "tokenizer": _files_hash(tokenizer),
        "max_length": spec.train.max_length,
        "packing": spec.train.packing,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (*VOCABULARY_FILES, *OTHER_FILES):
        file = folder / name
        digest.update(f"{name}\n".encode() + (file.read_bytes() if file.is_file() else b""))
    return digest.hexdigest()


# --- where a tokenizer lies ------------------------------------------------------------------------------------------


def tokenizer_folder(model_id: str, revision: str = "main") -> Path | None:
    """The folder of a model's tokenizer on this machine, or None: built in, a user's folder, the Hugging Face cache.

    Raises:
        BadInput: there is no such built-in model or folder.
    """
    folders: Iterator[Path]
    if model_id in BUILTIN_MODELS or is_folder_id(model_id) or model_id.startswith("builtin:"):
        folders = iter([Path(model_location(model_id))])
    else:
        folders = _snapshots(model_id, revision)
    return next((folder for folder in folders if _is_complete(folder)), None)


def _is_complete(folder: Path) -> bool:
    has_vocabulary = any((folder / name).is_file() for name in VOCABULARY_FILES)
    return has_vocabulary and all((folder / name).is_file() for name in REQUIRED_FILES)


def _snapshots(model_id: str, revision: str) -> Iterator[Path]:
    """The folder of a revision in the Hugging Face cache: `models--ORG--NAME/snapshots/COMMIT`, named by `refs/`.

    The layout is documented (huggingface_hub, "Understand caching"); asking the library takes longer than a plan.
    """
    repository = _hub_cache() / f"models--{model_id.replace('/', '--')}"
    yield repository / "snapshots" / revision
    try:
        commit = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        return
    yield repository / "snapshots" / commit


def _hub_cache() -> Path:
    """Where huggingface_hub keeps models: its own variables, in its own order."""
    stated = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if stated:
        return Path(stated).expanduser()
    general = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("HF_HOME") or general / "huggingface").expanduser() / "hub"
