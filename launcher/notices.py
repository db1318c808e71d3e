"""Notices of a run: done, stopped, the cap coming near, preempted, teardown unconfirmed. Each is sent once per run.

A notice never holds up a run: `Notifier.notify` returns at once, a thread of its own does the sending, and what cannot
be sent is logged and left. Which notice went where is kept on the disk, so that a launcher that is started anew, and
the watcher beside it, do not say it twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock
from filelock import Timeout as LockTimeout

from launcher.addresses import Address
from launcher.cloud.fetch import SourceFailed
from launcher.cost.ledger import in_sandbox, state_folder
from launcher.rundir import now_iso, write_atomically

TIMEOUT_S = 10.0
# A try at once and two more: a server that restarts is back by then, and a run's end waits no longer for it.
PAUSES_S = (2.0, 8.0)
LOCK_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 30.0
# Statuses of HTTP that another try may get past; the rest say that the address or the message is wrong.
_MAY_PASS = {408, 425, 429, 500, 502, 503, 504}

_log = logging.getLogger(__name__)


class NoticeKind(StrEnum):
    """What a notice tells."""

    DONE = "done"
    STOPPED = "stopped"
    CAP_50 = "cap 50 %"
    CAP_80 = "cap 80 %"
    CAP_100 = "cap 100 %"
    PREEMPTED = "preempted"
    TEARDOWN_UNCONFIRMED = "teardown unconfirmed"


_CAP_SHARES = ((1.0, NoticeKind.CAP_100), (0.8, NoticeKind.CAP_80), (0.5, NoticeKind.CAP_50))


@dataclass(frozen=True)
class Notice:
    """One thing that happened to a run. usd: spent so far, max_usd: its cap; None: not known, and not said.

    number: tells apart things that may happen to one run several times, such as its second preemption.
    """

    kind: NoticeKind
    run_id: str
    why: str = ""
    usd: float | None = None
    max_usd: float | None = None
    number: int = 1

    @property
    def text(self) -> str:
        """The notice in one sentence."""
        said = f"{self.run_id}: {self.kind}" + (f": {self.why}" if self.why else "")
        if self.usd is None:
            return said
        return f"{said}; {self.usd:.2f} usd spent" + (f" of {self.max_usd:.2f}" if self.max_usd is not None else "")

    @property
    def key(self) -> str:
        """What it is kept under: one notice of a run has one."""
        return self.kind if self.number == 1 else f"{self.kind} {self.number}"

    def fields(self) -> dict[str, Any]:
        """The notice as JSON values, for programs that receive it."""
        return {
            "kind": self.kind.value,
            "run": self.run_id,
            "why": self.why,
            "usd": self.usd,
            "max_usd": self.max_usd,
            "at": now_iso(),
        }


def cap_notice(run_id: str, usd: float | None, max_usd: float | None) -> Notice | None:
    """The notice that is due at this spend: the highest of 50, 80 and 100 % of the cap that is reached, or None."""
    if usd is None or max_usd is None:
        return None
    for share, kind in _CAP_SHARES:
        if usd >= share * max_usd:
            return Notice(kind, run_id, usd=usd, max_usd=max_usd)
    return None


Send = Callable[[Notice, Address], None]


def send_notice(notice: Notice, address: Address) -> None:
    """Send a notice to an address, once.

    Raises:
        SourceFailed: it was not taken.
    """
    from launcher.cloud.notify import Message, send  # mail takes long to import

    where = "launcher (sandbox)" if in_sandbox() else "launcher"
    title, text = f"{where}: {notice.run_id}: {notice.kind}", f"{where}: {notice.text}"
    send(Message(title, text, notice.fields()), address, TIMEOUT_S)


class Notifier:
    """Sends notices to all addresses in a thread of its own; use it as a context manager, or call `close`.

    folder: where is kept what was sent; None: beside the ledger. send, pause: for tests.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        folder: Path | None = None,
        send: Send = send_notice,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._addresses = tuple(addresses)
        self._folder = state_folder() / "notices" if folder is None else folder
        self._send, self._pause = send, pause
        self._waiting: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def notify(self, notice: Notice) -> None:
        """Have a notice sent, unless this run's was sent before; returns at once and never raises."""
        if not self._addresses:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="notices", daemon=True)
            self._thread.start()
        self._waiting.put(notice)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Wait until what is waiting was sent or given up, but no longer than this."""
        if self._thread is None:
            return
        self._waiting.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("notices: not all were sent within %g s", timeout_s)
        self._thread = None

    def _work(self) -> None:
        while (notice := self._waiting.get()) is not None:
            try:
                self._deliver(notice)
            except Exception as fault:  # a notice never stops a run, whatever is wrong with it
                _log.warning("notices: %s of %s not sent (%s)", notice.kind, notice.run_id, type(fault).__name__)

    def _deliver(self, notice: Notice) -> None:
        """Send it to every address it has not been sent to, and keep what was."""
        path = self._folder / f"{notice.run_id}.json"
        with self._alone(path):
            sent = _read(path)
            for address in self._addresses:
                key = f"{notice.key} -> {_fingerprint(address)}"
                if key not in sent and self._sent(notice, address):
                    sent[key] = now_iso()
                    with contextlib.suppress(OSError):  # said twice is better than not at all
                        write_atomically(path, json.dumps(sent, indent=2) + "\n")

    def _sent(self, notice: Notice, address: Address) -> bool:
        for pause_s in (*PAUSES_S, None):
            try:
                self._send(notice, address)
                return True
            except SourceFailed as fault:
                reason = str(fault)
                if fault.status is not None and fault.status not in _MAY_PASS:
                    break
            if pause_s is not None:
                self._pause(pause_s)
        _log.warning("notices: %s of %s not sent to %s: %s", notice.kind, notice.run_id, address.shown, reason)
        return False

    @contextlib.contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """No other process sends notices of this run meanwhile; where no lock can be had, it is sent all the same."""
        lock = FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_S)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (OSError, LockTimeout):
            _log.warning("notices: %s cannot be locked; a notice may be sent twice", path)
        try:
            yield
        finally:
            lock.release()


def _fingerprint(address: Address) -> str:
    """Tells addresses apart in the file without writing their secrets there."""
    return f"{address.kind} {hashlib.sha256(address.text.encode()).hexdigest()[:12]}"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
