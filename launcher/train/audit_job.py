"""The mask audit of a job that is not trained yet: its tokenizer, data and trainer, but none of its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from launcher.data.prepare import PreparedData
from launcher.job import JobSpec
from launcher.rundir import RunFolder
from launcher.schedule import plan_schedule
from launcher.train.build import build_trainer
from launcher.train.mask_audit import MaskAudit, audit_trainer, check_masks
from launcher.train.model import load_tokenizer
from launcher.train.trainer import ToolCallTrainer


def audit_job(spec: JobSpec, data: PreparedData) -> MaskAudit:
    """Audit the batches the job's trainer would make.

    Raises:
        BadInput: the tokenizer cannot be had, or its chat template cannot be trained on.
        Refused: the job would not train what it should.
    """
    with trainer_without_weights(spec, data) as trainer:
        audit = audit_trainer(trainer, spec, data)
    check_masks(audit)
    return audit


@contextmanager
def trainer_without_weights(spec: JobSpec, data: PreparedData) -> Iterator[ToolCallTrainer]:
    """The job's trainer around a stand-in for its model: its rows and batches are those of the real one.

    Raises:
        BadInput: the tokenizer cannot be had, or its chat template cannot be trained on.
    """
    tokenizer = load_tokenizer(spec)
    schedule = plan_schedule(len(data.train), spec.train, spec.early_stopping)
    # No adapters: the names of their modules are those of the real model.
    without_adapters = spec.model_copy(update={"method": spec.method.model_copy(update={"kind": "full"})})
    with tempfile.TemporaryDirectory() as folder:
        yield build_trainer(without_adapters, data, tokenizer, _stand_in(tokenizer), schedule, RunFolder(Path(folder)))


def _stand_in(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model of a few numbers in place of one that may take hours to load; batches do not depend on it."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    return Qwen2ForCausalLM(config)
