"""Planning: a cold `launcher plan` against a warm `sky gpus list`, and many offers times many jobs in one process."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.timing import Measure, in_turn, print_machine, print_ratios, wall_seconds
from launcher.cost.catalogs import SNAPSHOT
from launcher.cost.offer import Offer
from launcher.job import load_job
from launcher.offers import gather_offers
from launcher.planning.kinds import kinds_of
from launcher.planning.needs import JobNeeds
from launcher.planning.plan import Limits
from launcher.planning.planner import Planner
from launcher.tokens import count_tokens

ROUNDS = 5
MANY_OFFERS, MANY_JOBS = 10_000, 50
SCRIPTS = Path(sys.executable).parent
JOBS = Path(__file__).parent.parent / "jobs"


def main() -> None:
    """Time the two commands in turn, after one warm-up each; then plan many jobs over many offers."""
    print_machine()
    with tempfile.TemporaryDirectory() as home, _sky_server_of(home) as environment:
        print_ratios("cold plan", in_turn(_variants(environment), ROUNDS), {SKY: 0.3}, ours=OURS)
    seconds = many_plans_seconds(MANY_OFFERS, MANY_JOBS)
    print(f"{MANY_OFFERS} offers x {MANY_JOBS} jobs: {seconds:.2f} s (aim: under 2 s)")


@contextmanager
def _sky_server_of(home: str) -> Iterator[dict[str, str]]:
    """The environment of a SkyPilot with a home of its own; its API server, which a command starts, is stopped after.

    A server of another home would answer in its place, so it is stopped before, too.
    """
    # Without a network SkyPilot can list only what lies under its home.
    shutil.copytree(SNAPSHOT, Path(home) / ".sky" / "catalogs", ignore=shutil.ignore_patterns("*.md", "*.json"))
    environment = {**os.environ, "HOME": home, "LAUNCHER_HOME": str(Path(home) / ".launcher")}
    stop = [str(SCRIPTS / "sky"), "api", "stop"]
    subprocess.run(stop, env=environment, check=False, capture_output=True)
    try:
        yield environment
    finally:
        subprocess.run(stop, env=environment, check=False, capture_output=True)


OURS, SKY = "launcher plan jobs/veran-tools.yaml", "sky gpus list --infra lambda (server warm)"


def _variants(environment: dict[str, str]) -> dict[str, Measure]:
    plan = [str(SCRIPTS / "launcher"), "plan", str(JOBS / "veran-tools.yaml")]
    sky = [str(SCRIPTS / "sky"), "gpus", "list", "--infra", "lambda"]
    for command in (plan, sky, sky):
        wall_seconds(command, environment)
    return {OURS: lambda: wall_seconds(plan, environment), SKY: lambda: wall_seconds(sky, environment)}


def many_plans_seconds(offers: int, jobs: int) -> float:
    """Seconds to plan `jobs` different jobs, one plan each, over `offers` offers at different prices."""
    many = list(itertools.islice(_varied(gather_offers(offline=True).offers), offers))
    spec = load_job(JOBS / "veran-tools.yaml")
    lengths = [
        spec.model_copy(update={"train": spec.train.model_copy(update={"max_length": 1024 + 16 * i})})
        for i in range(jobs)
    ]
    count_tokens(spec, 1)
    began = time.perf_counter()
    kinds = kinds_of(many)
    for each in lengths:
        Planner([JobNeeds.of(each, count_tokens)], kinds, Limits()).plan()
    return time.perf_counter() - began


def _varied(offers: tuple[Offer, ...]) -> itertools.chain[Offer]:
    """The same offers again and again, each time at another price in another place."""
    rounds = itertools.count()
    return itertools.chain.from_iterable(
        (dataclasses.replace(o, usd_per_hour=o.usd_per_hour * (1 + r / 1000), region=f"{o.region} {r}") for o in offers)
        for r in rounds
    )


if __name__ == "__main__":
    main()
