"""Disk: room for the weights in 16 bits, the checkpoints kept, the packages and a margin."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.architecture import Architecture
from launcher.cost.disk import disk_gib
from tests.test_duration import CODER_32B, QLORA, WORK


@given(layers=st.integers(1, 100), hidden=st.integers(64, 16384), saves=st.integers(0, 50), kept=st.integers(1, 10))
def test_the_weights_always_fit(layers: int, hidden: int, saves: int, kept: int) -> None:
    shape: Architecture = dataclasses.replace(CODER_32B, num_hidden_layers=layers, hidden_size=hidden)
    disk = disk_gib(dataclasses.replace(QLORA, architecture=shape), dataclasses.replace(WORK, saves=saves), kept)
    assert disk.disk_size >= disk.total >= shape.parameters * 2 / 2**30


def test_a_32b_downloads_61_gib_whatever_the_method() -> None:
    for method, quantization in (("qlora", "nf4-dq"), ("lora", "none")):
        job = dataclasses.replace(QLORA, method=method, quantization=quantization)
        assert disk_gib(job, WORK, 3).items["weights"] == pytest.approx(61.0, abs=0.1)


def test_items_and_margin_add_up() -> None:
    disk = disk_gib(QLORA, WORK, 3)
    assert disk.total == pytest.approx(sum(disk.items.values()))
    assert disk.items["margin"] == pytest.approx(0.1 * (disk.total - disk.items["margin"]))
    assert isinstance(disk.disk_size, int) and disk.disk_size - 1 < disk.total <= disk.disk_size


def test_one_checkpoint_more_than_are_kept_has_room() -> None:
    assert disk_gib(QLORA, WORK, 3).items["checkpoints"] == pytest.approx(4 * WORK.checkpoint_gib)
    two = dataclasses.replace(WORK, saves=2)
    assert disk_gib(QLORA, two, 3).items["checkpoints"] == pytest.approx(3 * WORK.checkpoint_gib)


def test_a_quantised_copy_takes_room_only_where_it_is_kept() -> None:
    assert disk_gib(QLORA, WORK, 3).items["quantised copy"] == 0
    kept = disk_gib(QLORA, WORK, 3, keeps_quantised_copy=True).items["quantised copy"]
    assert math.isclose(kept, 17.9, abs_tol=0.1)


def test_full_fine_tuning_keeps_all_weights_at_the_end() -> None:
    full = dataclasses.replace(QLORA, method="full", quantization="none")
    assert disk_gib(full, WORK, 1).items["final weights"] > disk_gib(QLORA, WORK, 1).items["final weights"]
