"""The ledger: an append-only record of everything that costs money, one JSON object a line, locked and fsynced.

A line is never changed. `intent` is written before a thing exists, `confirmed_gone` after its provider said so; what
has an intent and no `confirmed_gone` is taken to be still spending. Local runs have the provider `local`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from filelock import FileLock

from launcher.errors import BadInput, LauncherError

LOCAL = "local"


class LedgerEvent(StrEnum):
    """What happened to a rental."""

    INTENT = "intent"
    STARTED = "started"
    HEARTBEAT = "heartbeat"
    STOPPED = "stopped"
    CONFIRMED_GONE = "confirmed_gone"


@dataclass(frozen=True)
class LedgerEntry:
    """One line. Times are seconds since the epoch; `usd` is what this rental has cost up to `at`, None: unknown."""

    at: float
    event: LedgerEvent
    run_id: str
    group: str
    provider: str
    rental: str
    usd_per_hour: float | None
    max_usd: float | None = None
    deadline_at: float | None = None
    usd: float | None = None
    note: str = ""

    def later(self, event: LedgerEvent, usd: float | None = None, note: str = "") -> LedgerEntry:
        """The next line of the same rental, as of now."""
        return replace(self, at=time.time(), event=event, usd=usd, note=note)


def launcher_home() -> Path:
    """Where the ledger and the launcher's own state lie: `$LAUNCHER_HOME`, or `~/.launcher`."""
    return Path(os.environ.get("LAUNCHER_HOME") or Path.home() / ".launcher")


def default_ledger() -> Ledger:
    """The one ledger of this user."""
    return Ledger(launcher_home() / "ledger.jsonl")


class Ledger:
    """Reads and appends; several processes may do so at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn_line = False

    def append(self, entry: LedgerEntry) -> None:
        """Add a line and wait until it is on the disk.

        Raises:
            BadInput: a rented thing without a positive, finite price.
            LauncherError: the line cannot be written; nothing may be rented then.
        """
        price = entry.usd_per_hour
        if price is not None and not (math.isfinite(price) and price > 0):
            raise BadInput(f"usd_per_hour: {price}: a positive, finite number is needed")
        if price is None and entry.provider != LOCAL:
            raise BadInput(f"{entry.provider}: a rental without a known price is refused")
        line = json.dumps(asdict(entry)) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"), self.path.open("a+b") as file:
                _end_torn_line(file)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as fault:
            raise LauncherError(f"{self.path}: cannot be written ({fault.strerror}); make room or set LAUNCHER_HOME") from None

    def entries(self) -> Iterator[LedgerEntry]:
        """Every line, oldest first. A last line cut off by a crash is left out, and `torn_line` set.

        Raises:
            LauncherError: a line in the middle is not a ledger line.
        """
        if not self.path.is_file():
            return
        lines = self.path.read_bytes().split(b"\n")
        self.torn_line = False
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                raw = json.loads(line)
                yield LedgerEntry(**(raw | {"event": LedgerEvent(raw["event"])}))
            except (ValueError, TypeError, KeyError) as fault:
                if number == len(lines):
                    self.torn_line = True
                    return
                if line.endswith(TORN_MARK):
                    continue
                raise LauncherError(f"{self.path}: line {number}: not a ledger line ({fault})") from None

    def open_rentals(self) -> list[LedgerEntry]:
        """The newest line of every rental that is not confirmed gone; they count as still spending."""
        newest: dict[str, LedgerEntry] = {}
        for entry in self.entries():
            newest[entry.rental] = entry
        return [entry for entry in newest.values() if entry.event != LedgerEvent.CONFIRMED_GONE]

    def overdue(self, now: float) -> list[LedgerEntry]:
        """Open rentals past their deadline."""
        return [e for e in self.open_rentals() if e.deadline_at is not None and e.deadline_at < now]

    def copy_run(self, run_id: str, target: Path) -> None:
        """Write the lines of one run into its folder, so that the folder tells its whole story."""
        lines = [json.dumps(asdict(entry)) + "\n" for entry in self.entries() if entry.run_id == run_id]
        target.write_text("".join(lines), encoding="utf-8")

    def usd_of(self, run_id: str) -> float | None:
        """What all rentals of a run have cost together; None where the cost of one is unknown."""
        newest: dict[str, float | None] = {}
        for entry in self.entries():
            if entry.run_id == run_id and (entry.usd is not None or entry.rental not in newest):
                newest[entry.rental] = entry.usd
        values = list(newest.values())
        return None if None in values else sum(v for v in values if v is not None)


TORN_MARK = b" #torn"


def _end_torn_line(file: object) -> None:
    """Mark and end a line that a crash cut off, so that the next one starts on its own."""
    import io

    assert isinstance(file, io.BufferedRandom)
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.write(TORN_MARK + b"\n")
