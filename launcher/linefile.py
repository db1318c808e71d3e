"""A file of JSON objects, one a line, that several processes append to: caches and measurements.

A line that a crash cut off, or that no longer is JSON, is left out and counted: such a file is never worth a failure.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

LOCK_TIMEOUT_S = 10.0


def append_object(path: Path, value: dict[str, Any]) -> None:
    """Add one line, alone with the file; a line that was cut off before it stays a line of its own.

    Raises:
        OSError: the file cannot be written, or another process holds its lock.
    """
    line = json.dumps(value, allow_nan=False).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_S), path.open("a+b") as file:
        if file.tell() > 0:
            file.seek(-1, 2)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def read_objects(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file, oldest first, and how many lines hold none; a file that is not there holds nothing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [], 0
    objects, broken = [], 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            objects.append(value)
        else:
            broken += 1
    return objects, broken
