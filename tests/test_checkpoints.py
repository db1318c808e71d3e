"""Checkpoints that are whole or not there: killed in mid-save, full disks, damage, and what is deleted when."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from launcher.errors import LauncherError
from launcher.train.checkpoints import (
    MANIFEST,
    checkpoint_path,
    checkpoint_step,
    commit_checkpoint,
    explained_disk_faults,
    faults_of,
    newest_complete,
    prune,
)

FILES = {
    "adapter_model.safetensors": b"w" * 4000,
    "optimizer.pt": b"o" * 9000,
    "scheduler.pt": b"s" * 100,
    "rng_state.pth": b"r" * 200,
    "trainer_state.json": b'{"global_step": 1}',
}


def write_files(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def save(checkpoints: Path, step: int, files: dict[str, bytes] = FILES) -> Path:
    """As the trainer does: into a folder of its own, which is gone afterwards."""
    final, own = checkpoint_path(checkpoints, step), checkpoints / f".saving-{step:06d}"
    try:
        commit_checkpoint(write_files(own / f"checkpoint-{step}", files), final, step)
    finally:
        shutil.rmtree(own)
    return final


def steps(checkpoints: Path) -> list[int]:
    return sorted(checkpoint_step(path) for path in checkpoints.glob("step-*"))


def test_a_committed_checkpoint_is_whole_and_found(tmp_path: Path) -> None:
    final = save(tmp_path, 40)
    assert final.name == "step-000040" and checkpoint_step(final) == 40
    assert {path.name for path in final.iterdir()} == {*FILES, MANIFEST}
    manifest = json.loads((final / MANIFEST).read_text())
    assert manifest["step"] == 40
    assert manifest["files"]["optimizer.pt"]["bytes"] == 9000 and len(manifest["files"]["optimizer.pt"]["sha256"]) == 64
    assert newest_complete(tmp_path) == (final, [])


def test_the_newest_is_by_step_not_by_name_or_time(tmp_path: Path) -> None:
    for step in (1_000_000, 999_999, 40):
        save(tmp_path, step)
    found, faults = newest_complete(tmp_path)
    assert found is not None and checkpoint_step(found) == 1_000_000 and faults == []


def test_no_checkpoints_yet(tmp_path: Path) -> None:
    assert newest_complete(tmp_path) == (None, [])
    assert newest_complete(tmp_path / "not made yet") == (None, [])


def test_everything_is_synced_before_the_name_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    at_rename: list[set[str]] = []
    real_fsync, real_rename = os.fsync, Path.rename
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: (synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name), real_fsync(handle)),
    )
    monkeypatch.setattr(Path, "rename", lambda self, to: (at_rename.append(set(synced)), real_rename(self, to))[1])
    save(tmp_path, 40, FILES | {"optimizer_0/shard.distcp": b"x"})
    assert at_rename[0] >= {*FILES, MANIFEST, "shard.distcp", "optimizer_0", "checkpoint-40"}
    assert synced.index(MANIFEST) > max(synced.index(name) for name in FILES)
    assert synced[-1] == tmp_path.name


# --- killed in mid-save ----------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.test_checkpoints import save

checkpoints, calls_left = Path(sys.argv[1]), int(sys.argv[3])
save(checkpoints, 1)
owner = os if sys.argv[2] == "fsync" else Path
real = getattr(owner, sys.argv[2])

def deadly(*args, **kwargs):
    global calls_left
    calls_left -= 1
    if calls_left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)

setattr(owner, sys.argv[2], deadly)
save(checkpoints, 2)
print("saved")
"""


def run_killed(checkpoints: Path, call: str, calls_before: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(checkpoints), call, str(calls_before)],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("call", "calls_before"), [("write_bytes", 2), ("fsync", 0), ("fsync", 5), ("rename", 0)])
def test_killed_in_mid_save_the_one_before_is_found(tmp_path: Path, call: str, calls_before: int) -> None:
    assert run_killed(tmp_path, call, calls_before).returncode == -signal.SIGKILL
    found, faults = newest_complete(tmp_path)
    assert found == checkpoint_path(tmp_path, 1)
    assert any(".saving-000002: saving it was cut off" in fault for fault in faults)
    assert steps(tmp_path) == [1]
    prune(tmp_path, keep=3, protect=set())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_killed_after_the_rename_the_new_one_is_found(tmp_path: Path) -> None:
    assert run_killed(tmp_path, "fsync", 7).returncode == -signal.SIGKILL
    assert newest_complete(tmp_path)[0] == checkpoint_path(tmp_path, 2)


# --- damage ----------------------------------------------------------------------------------------------------------


def truncate(final: Path) -> None:
    with (final / "optimizer.pt").open("r+b") as file:
        file.truncate(100)


def flip_a_bit(final: Path) -> None:
    content = bytearray((final / "adapter_model.safetensors").read_bytes())
    content[1234] ^= 1
    (final / "adapter_model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "optimizer.pt: 100 bytes, 9000 were written"),
        (flip_a_bit, "adapter_model.safetensors: damaged"),
        (lambda final: (final / "scheduler.pt").unlink(), "scheduler.pt: missing"),
        (lambda final: (final / MANIFEST).unlink(), "no manifest.json: saving it was cut off"),
        (lambda final: (final / MANIFEST).write_text('{"step": 80, "fi'), "manifest.json is damaged"),
        (lambda final: (final / MANIFEST).write_text('{"step": 80, "files": ["a"]}'), "manifest.json is damaged"),
        (lambda final: (final / MANIFEST).write_text("[]"), "manifest.json is damaged"),
    ],
    ids=["truncated", "bit flip", "file gone", "no manifest", "half manifest", "other manifest", "list"],
)
def test_a_damaged_checkpoint_is_passed_over_and_reported(tmp_path: Path, damage, said: str) -> None:
    good = save(tmp_path, 40)
    damage(save(tmp_path, 80))
    found, faults = newest_complete(tmp_path)
    assert found == good
    assert len(faults) == 1 and said in faults[0] and "step-000080" in faults[0]


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_without_optimizer_schedule_or_random_state_it_is_not_resumed_from(tmp_path: Path, name: str) -> None:
    good = save(tmp_path, 40)
    save(tmp_path, 80, {file: content for file, content in FILES.items() if file != name})
    found, faults = newest_complete(tmp_path)
    assert found == good and f"no {name}, so that it cannot be resumed faithfully" in faults[0]


def test_the_files_of_several_processes_are_as_good(tmp_path: Path) -> None:
    sharded = {
        "optimizer_0/__0_0.distcp": b"x", "rng_state_0.pth": b"x", "rng_state_1.pth": b"y",
        "scheduler.pt": b"x", "trainer_state.json": b"{}",
    }  # fmt: skip
    assert faults_of(save(tmp_path, 40, sharded)) == []


def test_a_renamed_checkpoint_is_not_taken_for_a_later_step(tmp_path: Path) -> None:
    save(tmp_path, 40).rename(checkpoint_path(tmp_path, 80))
    assert newest_complete(tmp_path)[0] is None


# --- full disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("calls_before", [0, 3, 5])
def test_a_disk_full_while_saving_leaves_the_older_ones_and_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, calls_before: int
) -> None:
    good = save(tmp_path, 40)
    calls = [OSError(code, os.strerror(code)) if i == calls_before else None for i in range(20)]

    def full(handle: int) -> None:
        fault = calls.pop(0)
        if fault is not None:
            raise fault

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LauncherError) as caught:
        save(tmp_path, 80)
    assert "step-000080: not saved (the disk is full)" in str(caught.value) and "launcher resume" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert steps(tmp_path) == [40] and faults_of(good) == []
    assert newest_complete(tmp_path) == (good, [])


def test_another_fault_of_the_disk_keeps_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    written = write_files(tmp_path / ".saving-000080")
    with pytest.raises(LauncherError, match="Input/output error"):
        commit_checkpoint(written, checkpoint_path(tmp_path, 80), 80)
    assert list(tmp_path.iterdir()) == []  # what was written is deleted, to make room


def test_what_the_libraries_make_of_a_full_disk_is_explained_and_nothing_else(tmp_path: Path) -> None:
    torch_says = "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534\nframe #0"
    for fault in (
        SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
        RuntimeError(torch_says),
    ):
        with pytest.raises(LauncherError, match="not saved") as caught, explained_disk_faults(tmp_path / "step-000040"):
            raise fault
        assert "the disk is full" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="CUDA"), explained_disk_faults(tmp_path):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


REALLY_FULL = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from launcher.errors import LauncherError
from launcher.train.checkpoints import explained_disk_faults

folder = Path(sys.argv[1])
tensors = {"a": torch.zeros(1_000_000)}
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
for write in (
    lambda: torch.save(tensors, folder / "optimizer.pt"),
    lambda: save_file(tensors, folder / "model.safetensors"),
    lambda: (folder / "trainer_state.json").write_text("x" * 2_000_000),
):
    try:
        with explained_disk_faults(folder / "step-000040"):
            write()
    except LauncherError as fault:
        print(fault)
"""


@pytest.mark.slow
def test_torch_safetensors_and_python_on_a_file_system_that_takes_no_more(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REALLY_FULL, str(tmp_path)],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all("step-000040: not saved (the disk is full" in line for line in lines)


# --- saving a step again, and deleting -------------------------------------------------------------------------------


def test_a_step_saved_again_replaces_the_first(tmp_path: Path) -> None:
    truncate(save(tmp_path, 40))
    final = save(tmp_path, 40, FILES | {"scheduler.pt": b"new"})
    assert (final / "scheduler.pt").read_bytes() == b"new" and newest_complete(tmp_path)[0] == final
    assert steps(tmp_path) == [40] and not list(tmp_path.glob(".saving-deleted-*"))


def test_pruning_keeps_the_newest_and_the_protected(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, step)
    prune(tmp_path, keep=3, protect={10})
    assert steps(tmp_path) == [10, 40, 50]


def test_pruning_never_deletes_the_newest_complete_one(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save(tmp_path, 20)
    for step in (30, 40):
        truncate(save(tmp_path, step))
    prune(tmp_path, keep=1, protect=set())
    assert steps(tmp_path) == [20]


@settings(max_examples=12, deadline=None)
@given(
    damaged=st.lists(st.booleans(), min_size=1, max_size=5),
    keep=st.integers(1, 4),
    protect=st.sets(st.integers(1, 5), max_size=2),
)
def test_pruning_keeps_no_more_than_it_must(
    tmp_path_factory: pytest.TempPathFactory, damaged: list[bool], keep: int, protect: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    for step, is_damaged in enumerate(damaged, start=1):
        final = save(folder, step, {name: content[:8] for name, content in FILES.items()})
        if is_damaged:
            (final / MANIFEST).unlink()
    before = steps(folder)
    prune(folder, keep, protect)
    left = steps(folder)
    complete = [step for step, is_damaged in enumerate(damaged, start=1) if not is_damaged]
    must = (protect & set(before)) | set(complete[-1:])
    assert must <= set(left)
    assert len(left) == max(len(must), min(keep, len(before)))
    if complete:
        assert newest_complete(folder)[0] == checkpoint_path(folder, complete[-1])
