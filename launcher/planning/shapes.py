"""How jobs are laid out on machines: one machine for all of them, or a machine for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.cost.duration import Duration
from launcher.cost.spread import Spread

# Paid once per machine, however many jobs run on it; everything else is paid per job.
FULL_NODE = 8  # a job spans machines only where one machine more is not a larger machine
DOWNLOAD = "model download"
MACHINE_TERMS = ("provisioning", "environment", DOWNLOAD, "teardown")


@dataclass(frozen=True)
class Shape:
    """`machines` rented at once; on each of them `at_once` jobs run at the same time, on `gpus_per_job` GPUs each.

    `nodes_per_job` above 1: one job spans several machines.
    """

    machines: int
    at_once: int
    gpus_per_job: int
    nodes_per_job: int = 1

    @property
    def jobs_apart(self) -> int:
        """Machines that jobs of the plan have for themselves; 1 where all share one machine, or one job spans many."""
        return self.machines // self.nodes_per_job

    def describe(self, jobs: int) -> str:
        """The shape in words."""
        share = "" if self.gpus_per_job == 1 else f", sharded over {self.gpus_per_job} GPUs"
        if self.nodes_per_job > 1:
            return f"{self.nodes_per_job} machines for one job{share}"
        if jobs == 1:
            return share.removeprefix(", ") or "one machine"
        if self.machines > 1:
            return f"{self.machines} machines, a job each{share}"
        if self.at_once == 1:
            return f"one machine, one job after another{share}"
        return f"one machine, {self.at_once} jobs at once{share}"


def shapes_for(jobs: int, gpus: int, gpus_per_job: int, multi_node: bool) -> list[Shape]:
    """The layouts of `jobs` equal jobs on machines with `gpus` GPUs that waste no more than half a machine."""
    if gpus_per_job > gpus:
        spans = gpus == FULL_NODE and gpus_per_job % gpus == 0 and multi_node and jobs == 1
        return [Shape(gpus_per_job // gpus, 1, gpus_per_job, gpus_per_job // gpus)] if spans else []
    if gpus >= 2 * jobs * gpus_per_job:
        return []
    one = [Shape(1, min(jobs, gpus // gpus_per_job), gpus_per_job)]
    return one + ([Shape(jobs, 1, gpus_per_job)] if jobs > 1 and gpus == gpus_per_job else [])


@dataclass(frozen=True)
class TimedJob:
    """A job's duration on one kind of machine, and the base model that the machine must fetch for it."""

    model: str
    duration: Duration

    @property
    def own_seconds(self) -> float:
        """Median seconds of the phases that are paid per job."""
        return sum(term.median for name, term in self.duration.terms.items() if name not in MACHINE_TERMS)


def machine_terms(jobs: Sequence[TimedJob], at_once: int) -> dict[str, Spread]:
    """Seconds by phase of one machine that runs these jobs, `at_once` at a time; the busiest place decides.

    A longest-first list schedule. Terms of one place move together: what makes one job slow makes the next one slow.
    A model that several jobs share is fetched once.
    """
    places: list[list[TimedJob]] = [[] for _ in range(at_once)]
    for job in sorted(jobs, key=lambda job: job.own_seconds, reverse=True):
        min(places, key=_own_seconds).append(job)
    busiest = max(places, key=_own_seconds)
    by_model = {job.model: job for job in jobs}
    terms = {}
    for name in jobs[0].duration.terms:
        if name == DOWNLOAD:
            terms[name] = _together([job.duration.terms[name] for job in by_model.values()])
        elif name in MACHINE_TERMS:
            terms[name] = max((job.duration.terms[name] for job in jobs), key=lambda term: term.median)
        else:
            terms[name] = _together([job.duration.terms[name] for job in busiest])
    return terms


def _own_seconds(place: Sequence[TimedJob]) -> float:
    return sum(job.own_seconds for job in place)


def _together(terms: Sequence[Spread]) -> Spread:
    median = sum(term.median for term in terms)
    return Spread(median, max(term.below for term in terms), max(term.above for term in terms))


def phase_hours(terms: Mapping[str, Spread]) -> dict[str, float]:
    """Median hours by phase."""
    return {name: term.median / 3600 for name, term in terms.items()}
