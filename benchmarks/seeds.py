"""The demo under other seeds: `make demo-seeds`. Two training seeds, then three data seeds, as Markdown tables.

A data seed decides which phrasings are held out and which values are drawn; a training seed the order and the
adapters' start. Groups of runs that are already complete are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.timing import print_machine
from launcher.rundir import RunFolder, RunState

JOBS = ("veran-tools", "farore-debug", "nayru-editor")
TRAINING_SEEDS, DATA_SEEDS = (0, 1), (0, 1, 2)
METRICS = ("exact_match", "tool_accuracy", "parameter_f1", "validity")


def main() -> None:
    """Train what is missing, then print both tables."""
    parser = argparse.ArgumentParser(description="Run the demo under several seeds and print the README's tables.")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    runs_dir = parser.parse_args().runs_dir
    by_training_seed = {seed: complete(runs_dir, seed, DATA_SEEDS[0]) for seed in TRAINING_SEEDS}
    by_data_seed = {seed: complete(runs_dir, TRAINING_SEEDS[0], seed) for seed in DATA_SEEDS}
    print_machine()
    print(f"\nExtra test set, data seed {DATA_SEEDS[0]}, 95 % intervals over phrasings:\n")
    print_table("training seed", by_training_seed)
    print(f"\nThe same with training seed {TRAINING_SEEDS[0]} and three data seeds:\n")
    print_table("data seed", by_data_seed)


def complete(runs_dir: Path, training_seed: int, data_seed: int) -> list[RunFolder]:
    """The demo's three runs under these seeds, trained now unless they are there."""
    name = f"seeds-t{training_seed}-d{data_seed}"
    folders = [RunFolder(runs_dir / f"{job}-{name}") for job in JOBS]
    if all(is_done(folder) for folder in folders):
        return folders
    command = [sys.executable, "-m", "launcher", "run", *(f"jobs/{job}.yaml" for job in JOBS), "--local"]
    command += ["--runs-dir", str(runs_dir), "--name", name]
    command += ["--seed", str(training_seed), "--data-seed", str(data_seed)]
    if folders[0].path.exists():
        command = [sys.executable, "-m", "launcher", "resume", name, "--runs-dir", str(runs_dir)]
    subprocess.run(command, check=True)
    return folders


def is_done(folder: RunFolder) -> bool:
    """Whether the run ended by itself and was evaluated."""
    if not folder.record_file.is_file() or not folder.read_record().state.is_final:
        return False
    has_scores = "tuned" in (folder.read_json(folder.evaluation_file) or {})
    return has_scores and folder.read_record().state in (RunState.SUCCEEDED, RunState.STOPPED)


def print_table(seed_name: str, groups: dict[int, list[RunFolder]]) -> None:
    """One Markdown row a run, and the mean of every seed."""
    print(f"| {seed_name} | specialist | base exact match | exact match | tool accuracy | parameter F1 | valid |")
    print("|---|---|---|---|---|---|---|")
    for seed, folders in groups.items():
        values = []
        for job, folder in zip(JOBS, folders, strict=True):
            scores = json.loads(folder.evaluation_file.read_text(encoding="utf-8"))
            base, tuned = (scores[name]["extra_test"]["metrics"] for name in ("base", "tuned"))
            values.append(tuned["exact_match"]["value"])
            first = f"**{tuned['exact_match']['value']:.2f}** {interval(tuned['exact_match'])}"
            rest = " | ".join(f"{tuned[name]['value']:.2f}" for name in METRICS[1:])
            print(f"| {seed} | {job} | {base['exact_match']['value']:.2f} | {first} | {rest} |")
        print(f"| {seed} | mean | | {statistics.mean(values):.2f} | | | |")


def interval(estimate: dict[str, float | None]) -> str:
    """`(0.70 to 0.91)`, or n/a where there are too few phrasings for one."""
    low, high = estimate["low"], estimate["high"]
    return "(n/a)" if low is None or high is None else f"({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
