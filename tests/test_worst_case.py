"""The worst-case step finds out whether training fits, and leaves no trace."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from launcher.errors import LauncherError
from launcher.train.trainer import ToolCallTrainer
from launcher.train.worst_case import largest_micro_batch, use_micro_batch, widest_batch, worst_case_step
from tests.small_trainers import losses, tiny_model, tiny_trainer

LONGEST = 160


def new_trainer(folder: Path, **arguments: Any) -> ToolCallTrainer:
    trainer = tiny_trainer(
        folder, tiny_model(), trainer_class=ToolCallTrainer, trainer_options={"checkpoints_dir": folder},
        **({"max_steps": 3} | arguments),
    )  # fmt: skip
    assert isinstance(trainer, ToolCallTrainer)
    return trainer


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> ToolCallTrainer:
    return new_trainer(tmp_path_factory.mktemp("worst"))


def weights(trainer: ToolCallTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@contextmanager
def little_memory(extra_bytes: int) -> Iterator[None]:
    """Let this process have no more than so much memory beyond what it has."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + extra_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {
            "bf16": True,
            "gradient_checkpointing": True,
            "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": 2,
        },
        {"adapters": False, "max_steps": 2},
    ],
    ids=["fp32", "bf16, checkpointing, accumulation", "all weights"],
)
def test_the_curve_is_the_same_with_and_without_it(tmp_path: Path, arguments: dict[str, Any]) -> None:
    without, with_probe = new_trainer(tmp_path / "a", **arguments), new_trainer(tmp_path / "b", **arguments)
    torch.manual_seed(5)
    without.train()
    torch.manual_seed(5)
    found = worst_case_step(with_probe, LONGEST, 4)
    with_probe.train()
    assert found.seconds > 0
    assert losses(with_probe) == losses(without)
    assert with_probe.take_step() == without.take_step()
    assert with_probe.total_tokens == without.total_tokens
    after, expected = weights(with_probe), weights(without)
    assert all(torch.equal(after[name], expected[name]) for name in expected)


def test_it_trains_and_puts_everything_back(trainer: ToolCallTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights(trainer)
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    modes = [module.training for module in trainer.model.modules()]
    changed: list[bool] = []
    real = ToolCallTrainer.training_step

    def watched(self: ToolCallTrainer, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *rest: Any) -> Any:
        assert inputs["input_ids"].shape == (3, LONGEST)
        changed.append(any(not torch.equal(t, before[n]) for n, t in trainer.model.state_dict().items()))
        random.random()
        np.random.rand()
        return real(self, model, inputs, *rest)

    monkeypatch.setattr(ToolCallTrainer, "training_step", watched)
    worst_case_step(trainer, LONGEST, 3)
    assert changed == [False, True], "two steps, and the first one changed the weights"
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert modes == [module.training for module in trainer.model.modules()]
    assert trainer.optimizer is None
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_the_batch_is_as_large_as_the_data_can_give(trainer: ToolCallTrainer) -> None:
    batch = widest_batch(trainer, LONGEST, 4)
    rows = [[label != -100 for label in row["labels"]] for row in trainer.train_dataset]
    most = max(map(sum, rows))
    columns = {i for row in rows for i, is_trained in enumerate(row) if is_trained}
    trained = batch["labels"] != -100
    assert batch["attention_mask"].all(), "no padding"
    assert trained.sum(dim=1).tolist() == [most] * 4
    assert int(trained.any(dim=0).sum()) == min(len(columns), 4 * most)
    alone = widest_batch(trainer, LONGEST, 1)["labels"] != -100
    assert int(alone.any(dim=0).sum()) == most


def test_out_of_memory_is_said_with_what_to_lower(trainer: ToolCallTrainer) -> None:
    before = weights(trainer)
    with little_memory(150 * 2**20), pytest.raises(LauncherError) as caught:
        worst_case_step(trainer, 256, 1024)
    message = str(caught.value)
    assert "1024 rows of 256 tokens" in message
    for remedy in ("train.batch", "train.max_length", "train.gradient_checkpointing: true", "method.kind: qlora"):
        assert remedy in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_the_largest_micro_batch_that_fits_is_taken(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, per_device_train_batch_size=2048, max_steps=2)
    with little_memory(150 * 2**20):
        found = largest_micro_batch(trainer, 256, [2048, 1024, 2, 1])
        assert found.micro_batch == 2
        with pytest.raises(LauncherError, match="1024 rows"):
            largest_micro_batch(trainer, 256, [2048, 1024])
    use_micro_batch(trainer, 2, 4)
    trainer.train()
    assert trainer.state.train_batch_size == 2
    assert trainer.state.global_step == 2
    assert trainer.get_total_train_batch_size(trainer.args) == 8


def test_other_faults_are_not_taken_for_lack_of_memory(
    trainer: ToolCallTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(ToolCallTrainer, "compute_loss", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        worst_case_step(trainer, LONGEST, 2)
    assert trainer.optimizer is None
