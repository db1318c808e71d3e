"""Rank plans for jobs over offers and shapes, and say of everything else why it is none. Pure: no files, no network.

Each kind of offer is worked out once, for its cheapest that can carry the jobs. Money never enters before memory: what
does not fit has no price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from launcher.cost.calibration import CalibrationRecord, calibrated_speed
from launcher.cost.disk import shared_disk
from launcher.cost.duration import Duration, estimate_duration, with_preemptions
from launcher.cost.gpus import find_gpu
from launcher.cost.offer import Offer
from launcher.cost.speed import flops_per_token
from launcher.cost.spread import Quantiles, total
from launcher.planning.choices import Objective
from launcher.planning.fit import DEGREES, Fit, Fitter
from launcher.planning.kinds import Kind, host_room_gib, line_gbit_s
from launcher.planning.needs import JobNeeds
from launcher.planning.plan import RULES, Limits, Plan, Refusal, refusal
from launcher.planning.ranking import explained, rank_key
from launcher.planning.rules import broken_rule, worst_case_usd
from launcher.planning.shapes import Shape, TimedJob, machine_terms, phase_hours, shapes_for

# A card is sold as 80 GB and reports a little less than a job's 80GiB: the same card is meant.
MEMORY_TOLERANCE = 0.98
MULTI_NODE_PROVIDERS = ("lambda",)
# Assumed, nobody publishes it for these marketplaces: an interruptible machine is taken away once in ten hours.
SPOT_PREEMPTIONS_PER_HOUR = 0.1


@dataclass(frozen=True)
class Planned:
    """Plans, best first, and one refusal for each kind of card, count and rule."""

    plans: tuple[Plan, ...]
    refused: tuple[Refusal, ...]


class Planner:
    """Plans jobs together: all on the same kind of machine.

    Args:
        jobs: what each job needs.
        kinds: everything that could be rented, by kind; those of providers that a job does not want are left out.
        limits: caps on the whole plan, beside those of the jobs.
        records: speeds measured by earlier runs.
    """

    def __init__(
        self,
        jobs: Sequence[JobNeeds],
        kinds: Iterable[Kind],
        limits: Limits,
        records: Sequence[CalibrationRecord] = (),
    ) -> None:
        self.jobs, self.limits, self.records = tuple(jobs), limits, tuple(records)
        self.budgets = [job.spec.budget for job in self.jobs]
        self.kinds = [kind for kind in kinds if self._wanted(kind.sample)]
        self.fitter = Fitter(self.records)
        self._durations: dict[tuple[object, ...], Duration] = {}

    def plan(self, objective: Objective = Objective.CHEAPEST) -> Planned:
        """All plans, best first by the objective, and why the rest is none."""
        outcomes = [outcome for kind in self.kinds for outcome in self._outcomes(kind)]
        plans = [outcome for outcome in outcomes if isinstance(outcome, Plan)]
        refusals = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
        return Planned(explained(sorted(plans, key=rank_key(objective)), objective), _summary(refusals, plans))

    def _wanted(self, offer: Offer) -> bool:
        own = offer.provider == "own"
        if offer.spot and not (self.limits.spot or all(job.spec.resources.spot for job in self.jobs)):
            return False
        return own or all(offer.provider in job.spec.resources.providers for job in self.jobs)

    def _outcomes(self, kind: Kind) -> Iterator[Plan | Refusal]:
        """One outcome a shape; degrees of sharding up to twice the smallest that fits."""
        least = max(job.spec.resources.gpus for job in self.jobs)
        offer, fitting = kind.sample, 0
        for degree in sorted({d for d in DEGREES if d > least} | {least}):
            if fitting and degree > 2 * fitting:
                return
            shapes = shapes_for(len(self.jobs), offer.gpus, degree, offer.provider in MULTI_NODE_PROVIDERS)
            for shape in shapes:
                outcome = self._outcome(kind, shape)
                fits = isinstance(outcome, Plan) or outcome.rule not in ("memory", "gpu_memory", "precision")
                fitting = fitting or (degree if fits else 0)
                yield outcome

    def _outcome(self, kind: Kind, shape: Shape) -> Plan | Refusal:
        gpu, degree, nodes = kind.sample.gpu, shape.gpus_per_job, shape.nodes_per_job
        fits = [self.fitter.fit(job, gpu, kind.usable_gib, degree, nodes) for job in self.jobs]
        unfit = self._without_bf16(kind) or self._too_small(kind, fits)
        if unfit is not None:
            return unfit
        offer = kind.cheapest_with_room(_host_gib(shape, fits))
        if offer is None:
            return _host_refusal(kind, shape, fits)
        plan = self._priced(kind, offer, shape, fits)
        return broken_rule(plan, self.budgets, self.limits) or plan

    # --- what fits -----------------------------------------------------------------------------------------------

    def _without_bf16(self, kind: Kind) -> Refusal | None:
        offer = kind.sample
        if find_gpu(offer.gpu).has_bf16 or all(job.spec.train.precision == "fp32" for job in self.jobs):
            return None
        return refusal(offer, "precision", f"{offer.gpu} has no bf16, which train.precision asks for", needed=0.0)

    def _too_small(self, kind: Kind, fits: Sequence[Fit]) -> Refusal | None:
        offer = kind.sample
        asked = max((job.spec.resources.gpu_memory or 0.0) for job in self.jobs)
        if offer.gpu_memory_gib < asked * MEMORY_TOLERANCE:
            reason = f"resources.gpu_memory asks for {asked:.4g} GiB"
            return refusal(offer, "gpu_memory", reason, needed=asked)
        worst = max(fits, key=lambda fit: fit.memory.high_gib)
        if worst.verdict == "yes":
            return None
        memory = worst.memory
        reason = (
            f"{worst.job} needs {memory.expected_gib:.1f} GiB, up to {memory.high_gib:.1f}, at micro-batch "
            f"{worst.micro_batch}; the card has {kind.usable_gib:.1f}"
        )
        if worst.verdict == "tight":
            reason = f"tight: {reason}"
        return refusal(offer, "memory", reason, needed=memory.high_gib)

    # --- what it costs -------------------------------------------------------------------------------------------

    def _priced(self, kind: Kind, offer: Offer, shape: Shape, fits: Sequence[Fit]) -> Plan:
        pairs = list(zip(self.jobs, fits, strict=True))
        timed = [TimedJob(job.spec.model.id, self._duration(job, fit, offer)) for job, fit in pairs]
        apart = shape.jobs_apart > 1
        terms = [machine_terms(group, shape.at_once) for group in ([[job] for job in timed] if apart else [timed])]
        disks = [(job.spec.model.id, job.disk(fit.workload, fit.micro_batch)) for job, fit in pairs]
        disk = max(shared_disk(group).disk_size for group in ([[each] for each in disks] if apart else [disks]))
        hours = [total(list(each.values())).times(1 / 3600) for each in terms]
        traffic = max(_traffic_usd(offer, job) for job in self.jobs)
        bills = [_bill(offer, each, disk, shape.nodes_per_job).plus(traffic * shape.nodes_per_job) for each in hours]
        busiest = max(range(len(hours)), key=lambda i: hours[i].p50)
        return Plan(
            offer=offer,
            usable_gib=kind.usable_gib,
            shape=shape,
            fits=tuple(fits),
            hours=_by_percentile(max, hours),
            # What makes one machine slow makes the others slow: percentiles add.
            usd=_by_percentile(sum, bills),
            worst_case_usd=worst_case_usd(self.budgets, self.limits, offer, shape),
            disk_gib=disk,
            phases=phase_hours(terms[busiest]),
            also_in=kind.other_regions(offer),
            changes=tuple(line for job, fit in pairs for line in _changes(job, fit)),
            conditions=tuple(_conditions(offer, _host_gib(shape, fits))),
            speed_sources=tuple(sorted({job.duration.sources["training"] for job in timed})),
        )

    def _duration(self, job: JobNeeds, fit: Fit, offer: Offer) -> Duration:
        line = line_gbit_s(offer)
        key = (fit.job, offer.gpu, offer.gpu_memory_gib, offer.provider, offer.spot, fit.micro_batch, fit.gpus, line)
        if key not in self._durations:
            gpu = find_gpu(offer.gpu)
            measured = calibrated_speed(fit.workload, gpu.name, self.records, flops_per_token)
            work = job.work(fit.micro_batch, fit.gpus)
            duration = estimate_duration(fit.workload, work, gpu, offer.provider, line, measured)
            if offer.spot:
                between_saves = duration.terms["training"].median / max(1, work.saves)
                duration = with_preemptions(duration, SPOT_PREEMPTIONS_PER_HOUR, between_saves)
            self._durations[key] = duration
        return self._durations[key]


def _by_percentile(join: Callable[[list[float]], float], each: Sequence[Quantiles]) -> Quantiles:
    return Quantiles(*(join([getattr(one, p) for one in each]) for p in ("p10", "p50", "p90")))


def _bill(offer: Offer, hours: Quantiles, disk: float, nodes: int) -> Quantiles:
    """Dollars of one machine (or of the nodes of one job): time, and disk where the provider bills it apart."""
    return hours.times((offer.usd_per_hour + disk * (offer.disk_usd_per_gib_hour or 0.0)) * nodes)


def _traffic_usd(offer: Offer, job: JobNeeds) -> float:
    """Dollars for fetching the weights and sending the checkpoints away, where the provider bills traffic."""
    fetched_gb = job.weights_gb * (offer.download_usd_per_gb or 0.0)
    return fetched_gb + job.sent_gb * (offer.upload_usd_per_gb or 0.0)


def _changes(job: JobNeeds, fit: Fit) -> Iterator[str]:
    train = job.spec.train
    if train.batch != "max" and (fit.micro_batch, fit.accumulation) != (train.batch, train.accumulation):
        yield (
            f"{fit.job}: micro-batch {fit.micro_batch} x accumulation {fit.accumulation}"
            + (f" x {fit.gpus} GPUs" if fit.gpus > 1 else "")
            + f" in place of {train.batch} x {train.accumulation}: the same global batch {train.effective_batch}"
        )


def _host_gib(shape: Shape, fits: Sequence[Fit]) -> float:
    """Host memory of one machine: that of the jobs that run on it at once."""
    most = sorted((fit.memory.host_gib for fit in fits), reverse=True)
    return sum(most[: shape.at_once])


def _conditions(offer: Offer, host_gib: float) -> Iterator[str]:
    """What must be asked for or checked when this offer is taken."""
    if offer.host_memory_gib is None:
        yield f"needs {host_gib:.0f} GiB of host memory; the offer does not say what it has"
    elif offer.host_memory_gib < host_gib:
        yield f"needs {host_gib:.0f} GiB of host memory; the offer says at least {offer.host_memory_gib:.0f}"


def _host_refusal(kind: Kind, shape: Shape, fits: Sequence[Fit]) -> Refusal:
    needed = _host_gib(shape, fits)
    most = max(map(host_room_gib, kind.offers))
    return refusal(kind.sample, "host memory", f"needs {needed:.0f} GiB of host memory and has {most:.0f}", needed)


def _nearness(each: Refusal) -> tuple[int, float]:
    """Refusals by the rule that stopped them, the first rule asked lowest, and by how little was short."""
    return RULES.index(each.rule), -each.needed


def _summary(refusals: Sequence[Refusal], plans: Sequence[Plan]) -> tuple[Refusal, ...]:
    """One refusal for each card, count and rule: the one that came closest. Cards that some plan uses are left out."""
    planned = {(plan.offer.gpu, plan.offer.gpu_memory_gib, plan.offer.gpus) for plan in plans}
    closest: dict[tuple[str, float, int], Refusal] = {}
    for each in refusals:
        key = (each.gpu, each.gpu_memory_gib, each.gpus)
        if key not in planned and (key not in closest or _nearness(each) > _nearness(closest[key])):
            closest[key] = each
    return tuple(sorted(closest.values(), key=lambda r: (r.gpu_memory_gib * r.gpus, r.gpu, r.gpus)))
