"""What a plan said a run would take, kept in the run's folder (`prediction.json`), for the report to hold it against.

Where jobs have a machine each, a run's prediction is that of its own machine; where they share one, it is that of the
whole machine, and `shared_by` names them.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from launcher.cost.calibration import read_calibrations
from launcher.cost.ledger import launcher_home
from launcher.cost.offer import Offer
from launcher.cost.own import read_own
from launcher.errors import BadInput
from launcher.job import JobSpec
from launcher.planning.fit import Fit
from launcher.planning.kinds import kinds_of
from launcher.planning.needs import CountTokens, JobNeeds
from launcher.planning.plan import Limits, Plan, quantiles_json
from launcher.planning.planner import Planner
from launcher.rundir import RunFolder
from launcher.tokens import count_tokens

Prediction = dict[str, Any]


def predictions_of(plan: Plan, jobs: Sequence[JobNeeds], limits: Limits, planned_at: float) -> dict[str, Prediction]:
    """What a plan says of each of its jobs, by the job's name; `planned_at` in seconds since the epoch."""
    names = [job.spec.name for job in jobs]
    if plan.shape.jobs_apart == 1:
        return {fit.job: _prediction(plan, fit, names, planned_at) for fit in plan.fits}
    alone = {job.spec.name: _plan_alone(plan, job, limits) for job in jobs}
    return {
        fit.job: _prediction(plan, fit, names, planned_at)
        if (own := alone[fit.job]) is None
        else _prediction(own, own.fits[0], [fit.job], planned_at)
        for fit in plan.fits
    }


def predict_here(specs: Sequence[JobSpec], count: CountTokens = count_tokens) -> dict[str, Prediction]:
    """What jobs will take on this machine; empty where no plan can be made.

    A plan needs to know the machine: `$LAUNCHER_HOME/own.yaml` has one of this host's name. A file that is wrong, or a
    job that cannot be planned, is no reason not to run.
    """
    try:
        offer = _this_machine()
        if offer is None:
            return {}
        jobs, limits = [JobNeeds.of(spec, count) for spec in specs], Limits()
        plans = Planner(jobs, kinds_of([offer]), limits, read_calibrations()).plan().plans
    except BadInput:
        return {}
    together = [plan for plan in plans if plan.shape.machines == 1]
    return predictions_of(together[0], jobs, limits, time.time()) if together else {}


def write_predictions(folders: Sequence[RunFolder], predictions: Mapping[str, Prediction]) -> None:
    """Keep each job's prediction in the folder of its run; a run without one gets no file."""
    for folder in folders:
        prediction = predictions.get(folder.read_record().job)
        if prediction is not None:
            folder.write_json(folder.prediction_file, prediction)


def _this_machine() -> Offer | None:
    path = launcher_home() / "own.yaml"
    if not path.exists():
        return None
    names = (platform.node(), platform.node().partition(".")[0])
    return next((offer for offer in read_own(path) if offer.instance_type in names), None)


def _plan_alone(plan: Plan, job: JobNeeds, limits: Limits) -> Plan | None:
    """The same offer for one of its jobs, laid out the same way."""
    plans = Planner([job], kinds_of([plan.offer]), limits, read_calibrations()).plan().plans
    same = (each for each in plans if each.shape.gpus_per_job == plan.shape.gpus_per_job and each.shape.machines == 1)
    return next(same, None)


def _prediction(plan: Plan, fit: Fit, shared_by: list[str], planned_at: float) -> Prediction:
    offer = plan.offer
    names = ("provider", "instance_type", "gpu", "gpus", "region", "spot", "usd_per_hour")
    return {
        "hours": quantiles_json(plan.hours),
        "usd": quantiles_json(plan.usd),
        "worst_case_usd": round(plan.worst_case_usd, 2),
        "peak_gib": round(fit.memory.expected_gib, 2),
        "peak_high_gib": round(fit.memory.high_gib, 2),
        "offer": {name: getattr(offer, name) for name in names}
        | {"price_source": offer.source, "priced_at": offer.priced_at},
        "shared_by": shared_by,
        "planned_at": datetime.fromtimestamp(planned_at, UTC).isoformat(timespec="seconds"),
    }
