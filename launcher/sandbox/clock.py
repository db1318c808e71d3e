"""The cloud's clock: the machine's own, or one that stands still until it is told to go on."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the epoch, and waiting."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return that much later."""
        ...


class RealClock:
    """The machine's clock, which never goes back while the cloud runs: bills must not shrink."""

    def __init__(self) -> None:
        self._started_at = time.time()
        self._started = time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._started_at + time.monotonic() - self._started

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class VirtualClock:
    """Time passes only when somebody says so, or waits."""

    def __init__(self, now: float = 1_767_225_600.0) -> None:
        self._now = now
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let that much time pass at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, 0 or more."""
        assert seconds >= 0
        with self._lock:
            self._now += seconds
