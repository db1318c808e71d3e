"""Three fine-tunes at once against one after another, and against the work they hold divided by the cores.

Ray's own start is left out of all figures; a worker's start and imports are in.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.timing import child_json, print_machine

JOBS = ("veran-tools", "farore-debug", "nayru-editor")
STEPS = 120


def main() -> None:
    """Train three short jobs both ways and print the ratios."""
    print_machine()
    together = child_json("benchmarks.makespan", "together")
    alone = sum(child_json("benchmarks.makespan", name)["makespan_s"] for name in JOBS)
    cores = psutil.cpu_count(logical=True) or 1
    floor = together["cpu_seconds"] / cores
    print(f"makespan of three at once, {STEPS} steps each: {together['makespan_s']:.1f} s")
    for name, seconds, aim in (
        ("one after another", alone, ""),
        (f"total work / {cores} cores", floor, "   aim ≤ 1.10x"),
    ):
        print(f"  {name:<22}{seconds:8.1f} s   at once / this: {together['makespan_s'] / seconds:.2f}x{aim}")


def measure_here(names: Sequence[str]) -> dict[str, float]:
    """Makespan and CPU seconds of these jobs at once, workers included, Ray's start excluded."""
    from launcher.job import JobSpec, load_job
    from launcher.run import create_runs, plan_run
    from launcher.train.parallel import POLL_SECONDS, JobRequest, run_in_parallel

    def shorter(spec: JobSpec) -> JobSpec:
        resolved = spec.resolved()
        resolved["train"] |= {"max_steps": STEPS, "eval_steps": "auto", "save_steps": "auto"}
        resolved["evaluate"]["extra_test_examples"] = 60
        return JobSpec.from_resolved(resolved)

    with tempfile.TemporaryDirectory() as folder:
        specs = [shorter(load_job(Path(f"jobs/{name}.yaml"), "tiny")) for name in names]
        runs = create_runs([plan_run(spec, "tiny") for spec in specs], Path(folder), "benchmark")
        requests = [JobRequest(run.path, gpus=1) for run in runs]
        polls: list[float] = []
        run_in_parallel(requests, runs[0].path, lambda: polls.append(time.perf_counter()), lambda reason: None)
        # The first poll comes half a second after the tasks were submitted: Ray is up by then.
        makespan = polls[-1] - polls[0] + POLL_SECONDS
        cpu = sum(_cpu_seconds(run.path) for run in runs)
    return {"makespan_s": makespan, "cpu_seconds": cpu}


def _cpu_seconds(run_dir: Path) -> float:
    return float(json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["cpu_seconds"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", nargs="?", choices=("together", *JOBS))
    chosen = parser.parse_args().variant
    if chosen is None:
        main()
    else:
        print(json.dumps(measure_here(JOBS if chosen == "together" else (chosen,))))
