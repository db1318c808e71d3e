"""The ledger: an append-only record of everything that costs money, one JSON object a line, locked and fsynced.

The lines are `launcher.cost.ledger_entry`, what they say about a rental is `launcher.cost.rental`. A line is never
changed. `intent` is written before a thing exists, `confirmed_gone` after its provider said so; what has an intent and
no `confirmed_gone` is taken to be still spending. Local runs have the provider `local`.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from launcher.cost.ledger_entry import LOCAL, LedgerEntry, LedgerEvent
from launcher.cost.rental import SECONDS_PER_HOUR as SECONDS_PER_HOUR
from launcher.cost.rental import Rental, Spend
from launcher.errors import BadInput, LauncherError

LOCK_TIMEOUT_S = 30.0
# Appended to a line that a crash cut off: the line stays as it is, and no reader takes it for a damaged one.
TORN_MARK = b" #torn"

_log = logging.getLogger(__name__)


def launcher_home() -> Path:
    """Where the ledger and the launcher's own state lie: `$LAUNCHER_HOME`, or `~/.launcher`."""
    return Path(os.environ.get("LAUNCHER_HOME") or Path.home() / ".launcher")


def in_sandbox() -> bool:
    """Whether commands talk to the emulated clouds of `launcher sandbox`: `$LAUNCHER_SANDBOX` is 1."""
    return os.environ.get("LAUNCHER_SANDBOX") == "1"


def state_folder() -> Path:
    """Where the ledger, and what is watched by it, lie; the sandbox has a folder of its own."""
    return launcher_home() / "sandbox" if in_sandbox() else launcher_home()


def default_ledger() -> Ledger:
    """The one ledger of this user, or that of the sandbox."""
    return Ledger(state_folder() / "ledger.jsonl")


class Ledger:
    """Reads and appends; several processes may do so at once.

    `torn_lines`: numbers of the lines that the last reading found cut off by a crash, and left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn_lines: list[int] = []

    # --- writing -------------------------------------------------------------------------------------------------

    def append(self, entry: LedgerEntry) -> None:
        """Add a line and wait until it is on the disk.

        Raises:
            BadInput: the entry is not fit to be kept, above all a rented thing without a price.
            LauncherError: the line cannot be written; nothing may be rented then.
        """
        faults = entry.faults()
        if faults:
            raise BadInput(*(f"ledger: {fault}" for fault in faults))
        line = json.dumps(asdict(entry), allow_nan=False).encode() + b"\n"
        with self._locked():
            is_new = not self.path.exists()
            with self.path.open("a+b", buffering=0) as file:
                _write(file, _end_of_torn_line(file) + line)
                os.fsync(file.fileno())
            if is_new:
                _sync_folder(self.path.parent)

    def copy_run(self, run_id: str, target: Path) -> None:
        """Write the lines of one run into its folder, so that the folder tells its whole story."""
        lines = [json.dumps(asdict(entry)) + "\n" for entry in self.entries() if entry.run_id == run_id]
        target.write_text("".join(lines), encoding="utf-8")

    # --- reading -------------------------------------------------------------------------------------------------

    def entries(self) -> list[LedgerEntry]:
        """Every line, oldest first. A line cut off by a crash is left out and named in `torn_lines`.

        Raises:
            LauncherError: a line is damaged: it is neither a ledger line nor one cut off by a crash.
        """
        self.torn_lines = []
        if not self.path.is_file():
            return []
        with self._locked():
            lines = self.path.read_bytes().split(b"\n")
        found = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            may_be_torn = number == len(lines) or line.endswith(TORN_MARK)
            try:
                found.append(_parse(line.removesuffix(TORN_MARK)))
            except (ValueError, TypeError, KeyError) as fault:
                if not may_be_torn:
                    raise LauncherError(
                        f"{self.path}: line {number}: not a ledger line ({fault}); nothing is rented or counted before "
                        "it is put right by hand: restore the line, or move the file away if nothing is rented"
                    ) from None
                self.torn_lines.append(number)
        if self.torn_lines:
            _log.warning(
                "%s: cut off by a crash and left out: line %s", self.path, ", ".join(map(str, self.torn_lines))
            )
        return found

    def rentals(self) -> list[Rental]:
        """Every rental there ever was, in the order of their first lines."""
        found: dict[str, Rental] = {}
        for entry in self.entries():
            known = found.get(entry.rental)
            found[entry.rental] = known.with_line(entry) if known else Rental.beginning(entry)
        return list(found.values())

    def open_rentals(self) -> list[LedgerEntry]:
        """The newest line of everything at a provider that is not confirmed gone, a mere intent included."""
        return [r.newest for r in self.rentals() if r.is_open and r.newest.provider != LOCAL]

    def overdue(self, now: float) -> list[LedgerEntry]:
        """The newest lines of open rentals past their deadline or over their cap."""
        return [r.newest for r in self.rentals() if r.newest.provider != LOCAL and r.is_overdue(now)]

    def total_usd(self, now: float, run_id: str | None = None, group: str | None = None) -> Spend:
        """What everything, or one run or group, has cost by `now`."""
        chosen = [
            rental
            for rental in self.rentals()
            if run_id in (None, rental.first.run_id) and group in (None, rental.first.group)
        ]
        costs = {rental.first.rental: rental.usd(now) for rental in chosen}
        unknown = tuple(name for name, usd in costs.items() if usd is None)
        return Spend(math.fsum(usd for usd in costs.values() if usd is not None), unknown)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the file; faults of disk and lock as one clear line."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=LOCK_TIMEOUT_S):
                yield
        except Timeout:
            raise LauncherError(f"{self.path}: another process has held its lock for {LOCK_TIMEOUT_S:g} s") from None
        except OSError as fault:
            raise LauncherError(
                f"{self.path}: cannot be read or written ({fault.strerror or fault}); make room, or set LAUNCHER_HOME"
            ) from None


def _parse(line: bytes) -> LedgerEntry:
    """One line as an entry. Fields that a later version added are passed over.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    raw: Any = json.loads(line)
    if not isinstance(raw, dict):
        raise TypeError("no JSON object")
    known = {field.name for field in fields(LedgerEntry)}
    entry = LedgerEntry(**{k: v for k, v in raw.items() if k in known} | {"event": LedgerEvent(raw["event"])})
    faults = entry.faults()
    if faults:
        raise ValueError(faults[0])
    return entry


def _end_of_torn_line(file: io.FileIO) -> bytes:
    """What must be written first so that the next line starts on its own: nothing, unless a crash cut the last one."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else TORN_MARK + b"\n"


def _write(file: io.FileIO, data: bytes) -> None:
    while data:
        written = file.write(data)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[written:]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
