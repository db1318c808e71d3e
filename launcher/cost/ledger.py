"""The ledger: an append-only record of everything that costs money, one JSON object a line, locked and fsynced.

A line is never changed. `intent` is written before a thing exists, `confirmed_gone` after its provider said so; what
has an intent and no `confirmed_gone` is taken to be still spending. Local runs have the provider `local`.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from launcher.errors import BadInput, LauncherError

LOCAL = "local"
LOCK_TIMEOUT_S = 30.0
SECONDS_PER_HOUR = 3600.0
# Appended to a line that a crash cut off: the line stays as it is, and no reader takes it for a damaged one.
TORN_MARK = b" #torn"

_log = logging.getLogger(__name__)


class LedgerEvent(StrEnum):
    """What happened to a rental."""

    INTENT = "intent"
    STARTED = "started"
    HEARTBEAT = "heartbeat"
    STOPPED = "stopped"
    CONFIRMED_GONE = "confirmed_gone"


@dataclass(frozen=True)
class LedgerEntry:
    """One line. Times are seconds since the epoch; `usd` is what this rental has cost up to `at`, None: not stated.

    `rental` names one thing that is paid for; a run that is resumed or moved has several. `offer` is what was rented,
    or the host. `deadline_at` is when it must be gone.
    """

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
    offer: str = ""

    def later(self, event: LedgerEvent, usd: float | None = None, note: str = "") -> LedgerEntry:
        """The next line of the same rental, as of now."""
        return replace(self, at=time.time(), event=event, usd=usd, note=note)

    def faults(self) -> list[str]:
        """What is wrong with it, one line each. A price that is unknown or zero is refused: it would read as free."""
        names = ("run_id", "group", "provider", "rental", "note", "offer")
        found = [f"{name}: {getattr(self, name)!r}: a text is needed" for name in names if not self._is_text(name)]
        if not _is_number(self.at):
            found.append(f"at: {self.at}: seconds since the epoch are needed")
        for name in ("usd_per_hour", "max_usd", "deadline_at"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                found.append(f"{name}: {value}: a positive, finite number is needed")
        if self.usd is not None and not (_is_number(self.usd) and self.usd >= 0):
            found.append(f"usd: {self.usd}: a finite number of 0 or more is needed")
        if self.usd_per_hour is None and self.provider != LOCAL:
            found.append(f"usd_per_hour: {self.provider}: a rental without a known price is refused")
        return found

    def _is_text(self, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, str) and (bool(value) or name in ("note", "offer"))


@dataclass(frozen=True)
class Rental:
    """All lines of one rental, as its first and its newest line and what they say about its cost."""

    first: LedgerEntry
    newest: LedgerEntry
    stated_usd: float | None

    @property
    def is_open(self) -> bool:
        """Not confirmed gone, so taken to be still spending."""
        return self.newest.event != LedgerEvent.CONFIRMED_GONE

    def usd(self, now: float) -> float | None:
        """What it has cost by `now`; None where that is not known.

        What is open at a provider spends until now, whatever was heard of it last. A local process that ended without
        a word cost nobody a bill, and until when it ran is not known.
        """
        if not self.is_open and self.stated_usd is not None:
            return self.stated_usd
        price = self.newest.usd_per_hour
        if price is None or (self.is_open and self.newest.provider == LOCAL):
            return self.stated_usd
        end = max(now, self.newest.at) if self.is_open else self.newest.at
        return max(self.stated_usd or 0.0, price * (end - self.first.at) / SECONDS_PER_HOUR)

    def is_overdue(self, now: float) -> bool:
        """Still there after its deadline, or after its cap was spent."""
        deadline, cap, usd = self.newest.deadline_at, self.newest.max_usd, self.usd(now)
        return self.is_open and (
            (deadline is not None and now > deadline) or (cap is not None and usd is not None and usd > cap)
        )


@dataclass(frozen=True)
class Spend:
    """A sum, and the rentals that are not in it because what they cost is not known."""

    usd: float
    unknown: tuple[str, ...]


def launcher_home() -> Path:
    """Where the ledger and the launcher's own state lie: `$LAUNCHER_HOME`, or `~/.launcher`."""
    return Path(os.environ.get("LAUNCHER_HOME") or Path.home() / ".launcher")


def default_ledger() -> Ledger:
    """The one ledger of this user."""
    return Ledger(launcher_home() / "ledger.jsonl")


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
            first, stated = (known.first, known.stated_usd) if known else (entry, None)
            found[entry.rental] = Rental(first, entry, stated if entry.usd is None else entry.usd)
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
