"""Atomic checkpoints: written aside, checksummed, then named; a half-written one is never found.

A complete checkpoint is a folder `step-NNNNNN` whose `manifest.json`, written last, lists every file with its size and
SHA-256. What is being written, replaced or deleted has a name that starts with `.saving-`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from launcher.errors import LauncherError

MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d{6,})")
UNFINISHED = ".saving-"
# Without these a resumed run starts, in silence, with fresh moments, another rate or another order. The patterns behind
# the first of each are the names that FSDP, DeepSpeed and several processes give them.
NEEDED_TO_RESUME = {
    "optimizer.pt": ("optimizer.pt", "optimizer.bin", "optimizer_*/*", "global_step*/*"),
    "scheduler.pt": ("scheduler.pt",),
    "rng_state.pth": ("rng_state*.pth",),
    "trainer_state.json": ("trainer_state.json",),
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def checkpoint_path(checkpoints_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies: `checkpoints/step-000040`."""
    return checkpoints_dir / f"step-{step:06d}"


def checkpoint_step(path: Path) -> int:
    """The optimizer step a checkpoint was made at, from its name."""
    match = NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


# --- saving ----------------------------------------------------------------------------------------------------------


def commit_checkpoint(written: Path, final: Path, step: int) -> None:
    """Make a written folder the checkpoint `final`: sync its files, write the manifest, rename, sync the folder above.

    `written` must lie on the same file system; on a fault it is deleted. A folder that has the name already is put
    aside first and deleted afterwards: killed in between, the run goes on from the checkpoint before.

    Raises:
        LauncherError: the disk is full or cannot be written; older checkpoints are untouched.
    """
    with explained_disk_faults(final):
        try:
            files = {path.relative_to(written).as_posix(): _sync_and_describe(path) for path in _files(written)}
            manifest = written / MANIFEST
            manifest.write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")
            _sync(manifest)
            for folder in [written, *(path for path in written.rglob("*") if path.is_dir())]:
                _sync(folder)
            replaced = _set_aside(final) if final.exists() else None
            written.rename(final)
            _sync(final.parent)
            if replaced is not None:
                shutil.rmtree(replaced, ignore_errors=True)
        except OSError:
            shutil.rmtree(written, ignore_errors=True)
            raise


@contextmanager
def explained_disk_faults(final: Path) -> Iterator[None]:
    """Around everything that writes a checkpoint: faults of the disk as one clear line.

    Raises:
        LauncherError: in place of OSError, and of what torch and safetensors make of it when the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as fault:
        raise save_failed(final, fault) from fault
    except RuntimeError as fault:
        # torch.save's writer reports a full disk as `[enforce fail at inline_container.cc:672] . unexpected pos 576`.
        if "inline_container" not in str(fault):
            raise
        raise save_failed(final, fault) from fault


def save_failed(target: Path, fault: Exception) -> LauncherError:
    """What to tell the user when a checkpoint could not be saved."""
    code = fault.errno if isinstance(fault, OSError) else None
    text = fault.strerror or str(fault) if isinstance(fault, OSError) else str(fault).splitlines()[0]
    is_full = code in _DISK_FULL or any(f"os error {number}" in text for number in _DISK_FULL)
    why = "the disk is full" if is_full else text if code else f"the disk is full, or {text}"
    return LauncherError(
        f"{target}: not saved ({why}); older checkpoints are intact: make room, then `launcher resume`"
    )


# --- finding ---------------------------------------------------------------------------------------------------------


def faults_of(checkpoint: Path, contents: bool = True) -> list[str]:
    """What is wrong with a checkpoint, one line each; none for a complete one that a run can be resumed from.

    Without `contents` the files' sizes are compared, and not their hashes.
    """
    try:
        manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        step = manifest["step"]
    except (FileNotFoundError, NotADirectoryError):
        return [f"{checkpoint}: no {MANIFEST}: saving it was cut off"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{checkpoint}: {MANIFEST} is damaged"]
    faults = [
        f"{checkpoint}: no {name}, so that it cannot be resumed faithfully"
        for name, patterns in NEEDED_TO_RESUME.items()
        if not any(fnmatch(file, pattern) for file in files for pattern in patterns)
    ]
    if NAME.fullmatch(checkpoint.name) and step != checkpoint_step(checkpoint):
        faults.append(f"{checkpoint}: is named otherwise than the step it was made at ({step})")
    for name, (size, digest) in files.items():
        path = checkpoint / name
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif path.stat().st_size != size:
            faults.append(f"{path}: {path.stat().st_size} bytes, {size} were written")
        elif contents and _sha256(path) != digest:
            faults.append(f"{path}: damaged (its SHA-256 differs)")
    return faults


def newest_complete(checkpoints_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is complete, and what is wrong with those that are newer."""
    faults = [f"{path}: saving it was cut off" for path in _unfinished(checkpoints_dir) if any(path.iterdir())]
    for checkpoint in reversed(_checkpoints(checkpoints_dir)):
        found = faults_of(checkpoint)
        if not found:
            return checkpoint, faults
        faults += found
    return None, faults


# --- tidying ---------------------------------------------------------------------------------------------------------


def prune(checkpoints_dir: Path, keep: int, protect: Collection[int]) -> None:
    """Delete checkpoints until `keep` are left, damaged ones first, then the oldest; and what interrupted saves left.

    Never deleted: the steps of `protect`, and the newest complete one. Not to be called while one is being saved.
    """
    for leftover in _unfinished(checkpoints_dir):
        shutil.rmtree(leftover, ignore_errors=True)
    existing = _checkpoints(checkpoints_dir)
    complete = [path for path in existing if not faults_of(path, contents=False)]
    damaged = [path for path in existing if path not in complete]
    spare = [path for path in [*damaged, *complete[:-1]] if checkpoint_step(path) not in protect]
    for path in spare[: max(0, len(existing) - keep)]:
        shutil.rmtree(_set_aside(path), ignore_errors=True)


def _set_aside(checkpoint: Path) -> Path:
    """Take its name from a checkpoint that is to be deleted, so that a half-deleted one does not look like one."""
    aside = checkpoint.with_name(f"{UNFINISHED}deleted-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)


def _checkpoints(checkpoints_dir: Path) -> list[Path]:
    if not checkpoints_dir.is_dir():
        return []
    return sorted((p for p in checkpoints_dir.iterdir() if NAME.fullmatch(p.name)), key=checkpoint_step)


def _unfinished(checkpoints_dir: Path) -> list[Path]:
    return sorted(checkpoints_dir.glob(f"{UNFINISHED}*"))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


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
