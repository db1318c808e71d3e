"""Runs a server, and ends it, and the machine, when nobody has asked it anything for a while.

`python3 -m launcher.node.idle_server --idle-minutes 20 --metrics http://127.0.0.1:8000/metrics -- vllm serve ...`

To SkyPilot a server is a running job and its node never idle. Whether somebody asks is read from the server's own
metrics (Prometheus text), so nothing stands between it and its users. The standard library is enough: a server has an
environment of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

# vLLM's names (docs.vllm.ai, Production Metrics): requests under way, and those that have been answered.
RUNNING = ("vllm:num_requests_running", "vllm:num_requests_waiting")
FINISHED = ("vllm:request_success_total",)
IDLE_MINUTES = 20.0
START_MINUTES = 45.0  # a large model is downloaded and loaded first
POLL_SECONDS = 5.0
ANSWER_SECONDS = 5.0
STOP_SECONDS = 30.0
TEARDOWN_SECONDS = 120.0


@dataclass(frozen=True)
class Activity:
    """What the server says of its requests: how many are under way, how many were answered since it started."""

    running: float
    finished: float


@dataclass
class IdleTimer:
    """Decides when a server has been idle too long. Pure: `now` is a monotonic clock in seconds."""

    idle_s: float
    start_s: float
    began_at: float
    last: Activity | None = None
    asked_at: float = 0.0

    def update(self, activity: Activity | None, now: float) -> None:
        """Take in what the server says now; None: it does not answer, which is no request either."""
        if activity is None:
            return
        if self.last is None or activity.running > 0 or activity.finished != self.last.finished:
            self.asked_at = now
        self.last = activity

    def verdict(self, now: float) -> str | None:
        """Why the server is to be ended now, or None."""
        if self.last is None:
            waited = now - self.began_at
            return f"it did not come up within {waited / 60:.1f} minutes" if waited > self.start_s else None
        idle = now - self.asked_at
        return f"nobody has asked it anything for {idle / 60:.1f} minutes" if idle > self.idle_s else None


def parse_metrics(text: str) -> dict[str, float]:
    """Prometheus' text format as the sum over all labels of each metric; lines of another kind are left out."""
    totals: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        value = rest.rpartition("} ")[2].split(" ")[0]
        with suppress(ValueError):
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals


def activity_of(totals: Mapping[str, float], running: Sequence[str], finished: Sequence[str]) -> Activity | None:
    """Requests under way and answered; None where none of these metrics is there."""
    if not any(name in totals for name in (*running, *finished)):
        return None
    return Activity(sum(totals.get(name, 0.0) for name in running), sum(totals.get(name, 0.0) for name in finished))


def read_metrics(url: str) -> str | None:
    """The server's metrics, or None while it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
            return answer.read().decode("utf-8", "replace")
    except (urllib.error.URLError, OSError, ValueError):
        return None


def run_until_idle(
    server: subprocess.Popen[bytes], timer: IdleTimer, read: Callable[[], Activity | None], poll_s: float
) -> str | None:
    """Wait until the server has been idle too long and return why it is to be ended; None: it has ended by itself."""
    while server.poll() is None:
        now = time.monotonic()
        timer.update(read(), now)
        reason = timer.verdict(now)
        if reason is not None:
            return reason
        with suppress(subprocess.TimeoutExpired):
            server.wait(poll_s)
    return None


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and what it started; it leads a process group of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, serve, end; 0 after an idle server was ended, otherwise the server's own exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m launcher.node.idle_server", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--idle-minutes", type=float, default=IDLE_MINUTES)
    parser.add_argument("--start-minutes", type=float, default=START_MINUTES, help="time in which it must come up")
    parser.add_argument("--metrics", required=True, metavar="URL", help="its metrics, Prometheus text")
    parser.add_argument("--running", action="append", metavar="NAME", help="metrics of requests under way")
    parser.add_argument("--finished", action="append", metavar="NAME", help="metrics of requests answered")
    parser.add_argument("--poll", type=float, default=POLL_SECONDS, metavar="SECONDS")
    parser.add_argument("--teardown", help="shell command that ends this machine's rental, after the server's end")
    parser.add_argument("server", nargs="+", metavar="COMMAND", help="the server, after --")
    options = parser.parse_args(arguments)

    def read() -> Activity | None:
        text = read_metrics(options.metrics)
        totals = {} if text is None else parse_metrics(text)
        return activity_of(totals, options.running or RUNNING, options.finished or FINISHED)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the server is ended too
    timer = IdleTimer(60 * options.idle_minutes, 60 * options.start_minutes, began_at=time.monotonic())
    server = subprocess.Popen(options.server, start_new_session=True)
    try:
        reason = run_until_idle(server, timer, read, options.poll)
    finally:
        stop(server)
    if reason is None:
        return server.returncode
    print(f"idle_server: ended the server: {reason}", flush=True)
    if options.teardown:
        subprocess.run(["bash", "-c", options.teardown], timeout=TEARDOWN_SECONDS, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
