"""Run programs in turn, several rounds, and compare their medians; the machine the figures hold for."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from launcher.train.session import describe_environment

Measure = Callable[[], float]


def in_turn(variants: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Measure every variant once per round, so that a drift of the machine meets all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            seconds[name].append(measure())
    return seconds


def wall_seconds(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Wall time of a command that must succeed."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **(environment or {})})
    return time.perf_counter() - began


def child_json(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """The JSON object in the last line that `python -m module` prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def print_ratios(title: str, seconds: Mapping[str, Sequence[float]], against: Mapping[str, float], ours: str) -> None:
    """One row a variant: median, spread, and ours divided by it, beside the aim."""
    table = Table(title=title, title_justify="left", box=None)
    for column in ("variant", "median s", "min", "max", "ours / this", "aim"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    our_median = statistics.median(seconds[ours])
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = "" if name == ours else f"{our_median / median:.2f}x"
        aim = f"≤ {against[name]:g}x" if name in against else ""
        table.add_row(name, f"{median:.3f}", f"{min(values):.3f}", f"{max(values):.3f}", ratio, aim)
    Console(width=110).print(table)


def print_machine() -> None:
    """The machine and library versions, in two lines."""
    facts = describe_environment()
    libraries = facts["libraries"]
    assert isinstance(libraries, dict)
    print(f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB, Python {facts['python']}")
    print(", ".join(f"{name} {version}" for name, version in libraries.items()), flush=True)
