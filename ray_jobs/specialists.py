"""N fine-tunes at once on one machine: the program that runs on a rented node, and by hand.

    python -m ray_jobs.specialists jobs/veran-tools.yaml jobs/farore-debug.yaml jobs/nayru-editor.yaml --preset tiny

One GPU for each job where there are GPUs, a share of the CPUs where there are none. The last line of stdout is one
JSON array, a run each.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from launcher.cli.jobs import load_all, wide_console
from launcher.cli.live import watching
from launcher.errors import Interrupted, LauncherError
from launcher.run import create_runs, plan_run, train_runs
from launcher.runs import list_run_rows


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, print; the exit codes are the launcher's."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.specialists", description=__doc__.split("\n", 1)[0])
    parser.add_argument("jobs", nargs="+", type=Path, metavar="JOB", help="job files")
    parser.add_argument("--preset", help="named overrides, such as tiny")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--name", help="name of this group of runs")
    options = parser.parse_args(arguments)
    console = wide_console(stderr=True)
    try:
        planned = [plan_run(spec, options.preset) for spec in load_all(options.jobs, options.preset)]
        folders = create_runs(planned, options.runs_dir, options.name)
        with watching(console) as watch:
            errors = train_runs(folders, watch)
    except LauncherError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return fault.exit_code
    except KeyboardInterrupt:
        return Interrupted.exit_code
    ids = {folder.id for folder in folders}
    print(json.dumps([row for row in list_run_rows(options.runs_dir) if row["id"] in ids]))
    return LauncherError.exit_code if any(errors.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
