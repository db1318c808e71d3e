"""The watcher: a process that holds the ledger against the providers' lists, and ends what is overdue or unknown.

It is for the fault that no other layer sees: the node cannot be reached, or whoever launched is gone. It shares nothing
with a launch but the ledger.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from launcher.cloud.rentals import Clouds, RealClouds
from launcher.cost.ledger import Ledger, Rental, default_ledger, state_folder
from launcher.cost.offer import RENTED, Provider
from launcher.errors import LauncherError
from launcher.reconcile import Clock, Observer, wrong_with
from launcher.rundir import write_atomically
from launcher.teardown import TeardownUnconfirmed, tear_down

INTERVAL_S = 30.0
# Within one pass; what they do not confirm is tried again in the next.
PAUSES_S = (0.0, 1.0, 2.0)
# A watcher that was started for a launch ends after so long with nothing rented: late orphans are seen by then.
IDLE_S = 600.0
START_TIMEOUT_S = 30.0
LOG_FILE = "watch.log"
PID_FILE = "watch.json"
LOCK_FILE = "watch.lock"


@dataclass(frozen=True)
class Pass:
    """What one look at everything found and did.

    failures: providers that could not be asked, and why. ended: rentals that were overdue or unknown and are confirmed
    gone now. unconfirmed: one line for each that may still be there. wrong: what else is not as it should be.
    is_idle: every provider answered and nothing is rented.
    """

    failures: dict[str, str]
    ended: tuple[Rental, ...]
    unconfirmed: tuple[str, ...]
    wrong: tuple[str, ...]
    is_idle: bool

    def lines(self) -> list[str]:
        """All of it, one line each."""
        return [
            *(f"{provider}: not asked: {reason}" for provider, reason in self.failures.items()),
            *self.wrong,
            *(f"{rental.name}: ended, confirmed by the provider's list" for rental in self.ended),
            *self.unconfirmed,
        ]


def rented_rentals(ledger: Ledger) -> list[Rental]:
    """The rentals at providers that have lists."""
    return [rental for rental in ledger.rentals() if rental.newest.provider in RENTED]


def watch_once(observer: Observer) -> Pass:
    """Look at every provider, and end what is overdue or unknown.

    Machines of one name that are too many are reported, not ended: which of them is in use is not to be seen in a list,
    and while a launch moves on to another machine there are two for a moment. Both are counted against the cap.

    Raises:
        LauncherError: the ledger cannot be read or written.
    """
    ledger = observer.ledger
    open_ones = [rental for rental in rented_rentals(ledger) if rental.is_open]
    failures = observer.look_at({*observer.clouds.names(), *(p for rental in open_ones for p in rental.providers)})
    now = observer.clock.now()
    rentals = [rental for rental in rented_rentals(ledger) if rental.is_open]
    wrong = [f"{rental.name}: {line}" for rental in rentals for line in wrong_with(rental, now)]
    overdue = {rental.name for rental in rentals if rental.is_overdue(now)}
    unconfirmed: Sequence[str] = ()
    try:
        tear_down(sorted(overdue), observer, PAUSES_S)
    except TeardownUnconfirmed as fault:
        unconfirmed = fault.lines
    after = rented_rentals(ledger)
    return Pass(
        failures=failures,
        ended=tuple(rental for rental in after if rental.name in overdue and not rental.is_open),
        unconfirmed=tuple(unconfirmed),
        wrong=tuple(wrong),
        is_idle=not failures and not any(rental.is_open for rental in after),
    )


# --- the process -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watching:
    """A watcher that runs: its process, and the providers whose keys it has."""

    pid: int
    created_at: float
    providers: tuple[str, ...]


def watch(say: Callable[[str], None], interval_s: float = INTERVAL_S, until_idle: bool = False) -> None:
    """Watch until interrupted, or until nothing has been rented for IDLE_S; one process at a time.

    Every line goes to `say` and, with the time, into LOG_FILE.

    Raises:
        LauncherError: another watcher runs.
    """
    observer = Observer(default_ledger(), RealClouds(), Clock())
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    note = _into_log_too(say, folder / LOG_FILE)
    goes_on = True
    while goes_on:
        with _only_watcher(folder):
            _write_pid_file(folder, observer.clouds)
            asked = ", ".join(observer.clouds.names()) or "no provider has a key here"
            note(f"watching every {interval_s:g} s: {asked}")
            _pass_after_pass(observer, note, interval_s, until_idle)
        # Whoever wrote an intent in this moment took this watcher for a running one.
        goes_on = any(rental.is_open for rental in rented_rentals(observer.ledger))
    note("nothing is rented any more: the watcher ends")


def _into_log_too(say: Callable[[str], None], path: Path) -> Callable[[str], None]:
    def note(line: str) -> None:
        say(line)
        # A full disk must not end what watches.
        with suppress(OSError), path.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n")

    return note


def _pass_after_pass(observer: Observer, say: Callable[[str], None], interval_s: float, until_idle: bool) -> None:
    said: list[str] = []
    busy_at = time.monotonic()
    while True:
        try:
            done = watch_once(observer)
        except LauncherError as fault:
            lines, is_idle = str(fault).splitlines(), False
        except Exception:  # a fault of ours must not be what nobody watches for
            lines, is_idle = traceback.format_exc().splitlines(), False
        else:
            lines, is_idle = done.lines(), done.is_idle
        for line in lines:
            if line not in said:  # what goes on for hours is said once
                say(line)
        said = lines
        busy_at = busy_at if is_idle else time.monotonic()
        if until_idle and is_idle and time.monotonic() - busy_at >= IDLE_S:
            return
        time.sleep(interval_s)


def running_watcher() -> Watching | None:
    """The watcher that runs for this ledger, None where there is none."""
    try:
        content = json.loads((state_folder() / PID_FILE).read_text(encoding="utf-8"))
        found = Watching(int(content["pid"]), float(content["created_at"]), tuple(content["providers"]))
        process = psutil.Process(found.pid)
        # A reused process id belongs to a later process.
        is_it = abs(process.create_time() - found.created_at) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, TypeError, KeyError, psutil.NoSuchProcess):
        return None
    return found if is_it and _is_locked(state_folder()) else None


def ensure_watcher(providers: Iterable[Provider] = ()) -> int:
    """The id of the process that watches; one is started, in a session of its own, unless one runs.

    To be called after the intent stands in the ledger and before anything is created: an idle watcher looks into the
    ledger once more before it ends, and one that has ended is replaced here.

    Args:
        providers: those that it must be able to ask.

    Raises:
        LauncherError: it does not start, or has no key of a provider; nothing may be rented then.
    """
    running = running_watcher() or _start()
    missing = [provider for provider in providers if provider not in running.providers]
    if missing:
        raise LauncherError(
            f"the watcher (process {running.pid}) has no key for {', '.join(missing)}, so nothing is rented there; "
            f"end it with `kill {running.pid}`, and launch again where the key is at hand"
        )
    return running.pid


def _start() -> Watching:
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (folder / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher", "watch", "--until-idle"],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it writes its log itself
            stderr=log,
            env=os.environ | {"PYTHONPATH": path},
        )
    over = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < over:
        running = running_watcher()
        if running is not None:  # ours, or one that somebody else started in this moment
            return running
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise LauncherError(f"the watcher does not start (see {folder / LOG_FILE}); without it nothing is rented")


def _write_pid_file(folder: Path, clouds: Clouds) -> None:
    """Who watches, for those who ask."""
    me = psutil.Process()
    content = {"pid": me.pid, "created_at": me.create_time(), "providers": clouds.names()}
    write_atomically(folder / PID_FILE, json.dumps(content) + "\n")


@contextmanager
def _only_watcher(folder: Path) -> Iterator[None]:
    try:
        # `_is_locked` holds it for a moment.
        lock = FileLock(folder / LOCK_FILE).acquire(timeout=1.0)
    except Timeout:
        running = running_watcher()
        who = "another process" if running is None else f"process {running.pid}"
        raise LauncherError(f"{who} watches already; its log: {folder / LOG_FILE}") from None
    with lock:
        yield


def _is_locked(folder: Path) -> bool:
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True
