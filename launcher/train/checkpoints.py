"""Atomic checkpoints: written aside, checksummed, then named; a half-written one is never found.

A complete checkpoint is a folder `step-NNNNNN` whose `manifest.json`, written last, lists every file with its size and
SHA-256.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError

MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d{6,})")
# Without these a resumed run starts, in silence, with fresh moments, another rate or another order.
NEEDED_TO_RESUME = ("optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth")


def checkpoint_path(checkpoints_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies: `checkpoints/step-000040`."""
    return checkpoints_dir / f"step-{step:06d}"


def checkpoint_step(path: Path) -> int:
    """The optimizer step a checkpoint was made at, from its name."""
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def commit_checkpoint(written: Path, final: Path, step: int) -> None:
    """Make a written folder the checkpoint `final`: sync its files, write the manifest, rename, sync the folder above.

    Raises:
        LauncherError: the disk is full or cannot be written; older checkpoints are untouched.
    """
    try:
        files = {str(path.relative_to(written)): _sync_and_describe(path) for path in _files(written)}
        manifest = written / MANIFEST
        manifest.write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")
        _sync(manifest)
        if final.exists():
            shutil.rmtree(final)
        written.rename(final)
        _sync(final.parent)
    except OSError as fault:
        raise save_failed(final, fault) from fault


def save_failed(target: Path, fault: OSError) -> LauncherError:
    """What to tell the user when a checkpoint could not be saved."""
    why = "the disk is full" if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else str(fault.strerror or fault)
    return LauncherError(
        f"{target}: not saved ({why}); older checkpoints are intact: make room, then `launcher resume`"
    )


def faults_of(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint, one line each; none for a complete one that a run can be resumed from."""
    try:
        manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except FileNotFoundError:
        return [f"{checkpoint}: no {MANIFEST}: saving it was cut off"]
    except (ValueError, KeyError, TypeError):
        return [f"{checkpoint}: {MANIFEST} is damaged"]
    faults = [f"{checkpoint}: {name} is missing, so it cannot be resumed" for name in NEEDED_TO_RESUME if name not in files]
    for name, wanted in files.items():
        path = checkpoint / name
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif path.stat().st_size != wanted["bytes"]:
            faults.append(f"{path}: {path.stat().st_size} bytes, {wanted['bytes']} were written")
        elif _sha256(path) != wanted["sha256"]:
            faults.append(f"{path}: damaged (its SHA-256 differs)")
    return faults


def newest_complete(checkpoints_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is complete, and what is wrong with those that are newer."""
    faults: list[str] = []
    for checkpoint in reversed(_checkpoints(checkpoints_dir)):
        found = faults_of(checkpoint)
        if not found:
            return checkpoint, faults
        faults += found
    return None, faults


def prune(checkpoints_dir: Path, keep: int, protect: Collection[int]) -> None:
    """Delete the oldest checkpoints beyond `keep`, and folders an interrupted save left; never a protected step."""
    for leftover in checkpoints_dir.glob(".saving-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    existing = _checkpoints(checkpoints_dir)
    spare = [path for path in existing[:-1] if checkpoint_step(path) not in protect]
    for path in spare[: max(0, len(existing) - keep)]:
        # Renamed first, so that a half-deleted one does not look like a checkpoint.
        doomed = path.with_name(f".saving-deleted-{path.name}")
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _checkpoints(checkpoints_dir: Path) -> list[Path]:
    if not checkpoints_dir.is_dir():
        return []
    return sorted((p for p in checkpoints_dir.iterdir() if NAME.fullmatch(p.name)), key=checkpoint_step)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync_and_describe(path: Path) -> dict[str, Any]:
    _sync(path)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
