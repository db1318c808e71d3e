"""From a plan to what is submitted: one cluster a machine, its task, its jobs, its deadline, its line in the ledger."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.cloud.tasks import TaskValues, task_config
from launcher.cost.ledger import LedgerEntry, LedgerEvent
from launcher.cost.offer import Provider
from launcher.cost.rental import SECONDS_PER_HOUR
from launcher.errors import Refused
from launcher.job import JobSpec
from launcher.planning.plan import Plan
from launcher.reconcile import rental_name

SECRETS = ("HF_TOKEN", "WANDB_API_KEY")


@dataclass(frozen=True)
class Cluster:
    """One rental of a launch.

    name: with which its machines' names begin. folder: what is submitted, and what SkyPilot says. worst_case_usd,
    hours: the most it may cost and last, from the intent to the confirmed end.
    """

    name: str
    group: str
    provider: Provider
    instance_type: str
    usd_per_hour: float
    jobs: tuple[JobSpec, ...]
    folder: Path
    config: dict[str, Any]
    secrets: tuple[str, ...]
    worst_case_usd: float
    hours: float

    def intent(self, now: float) -> LedgerEntry:
        """The line that stands in the ledger before anything is created."""
        return LedgerEntry(
            at=now,
            event=LedgerEvent.INTENT,
            run_id=f"{self.jobs[0].name}-{self.group}",
            group=self.group,
            provider=self.provider,
            rental=self.name,
            usd_per_hour=self.usd_per_hour,
            max_usd=self.worst_case_usd,
            deadline_at=now + self.hours * SECONDS_PER_HOUR,
            offer=self.instance_type,
            price_source="plan",
        )


def clusters_of(plan: Plan, specs: Sequence[JobSpec], group: str, folder: Path) -> list[Cluster]:
    """The clusters of a plan, with everything they need written below `folder`.

    Raises:
        Refused: a job's data lies here only, or one job spans several machines: neither can be launched yet.
    """
    if plan.shape.nodes_per_job > 1:
        raise Refused("launch: a job over several machines cannot be launched yet; choose another plan")
    for spec in specs:
        if not spec.data.source.startswith("builtin:"):
            raise Refused(f"{spec.name}: data.source: {spec.data.source}: data of your own cannot be launched yet")
    shares = [[spec] for spec in specs] if plan.shape.jobs_apart > 1 else [list(specs)]
    return [_cluster(plan, share, group, number, len(shares), folder) for number, share in enumerate(shares, start=1)]


def _cluster(plan: Plan, specs: Sequence[JobSpec], group: str, number: int, of: int, folder: Path) -> Cluster:
    offer, name = plan.offer, rental_name(group, number)
    own = folder / name
    own.mkdir(parents=True)
    worst = min(plan.worst_case_usd / of, sum(spec.budget.max_usd for spec in specs))
    hours = worst / offer.usd_per_hour
    share_usd_per_hour = offer.usd_per_hour / plan.shape.at_once
    jobs = {f"/tmp/{name}/{spec.name}.yaml": _job_file(spec, share_usd_per_hour, own) for spec in specs}
    secrets = tuple(key for key in SECRETS if os.environ.get(key))
    choice: dict[str, Any] = {"infra": offer.provider, "instance_type": offer.instance_type, "use_spot": offer.spot}
    config = task_config(
        "specialists" if len(specs) > 1 else "specialist",
        TaskValues(
            name=name,
            choices=[choice],
            disk_gb=math.ceil(plan.disk_gib),
            envs={
                "LAUNCHER_JOBS": " ".join(jobs),
                "LAUNCHER_GROUP": group,
                "LAUNCHER_CHECK": _check(plan),
                "LAUNCHER_MAX_HOURS": f"{hours:.4f}",
                "LAUNCHER_NODE_ENV": sys.prefix if os.environ.get("LAUNCHER_SANDBOX") else "",
            },
            secrets=secrets,
            file_mounts={there: str(here.absolute()) for there, here in jobs.items()},
        ),
    )
    return Cluster(
        name=name,
        group=group,
        provider=offer.provider,
        instance_type=offer.instance_type,
        usd_per_hour=offer.usd_per_hour,
        jobs=tuple(specs),
        folder=own,
        config=config,
        secrets=secrets,
        worst_case_usd=worst,
        hours=hours,
    )


def _check(plan: Plan) -> str:
    """What the node must have, as arguments of `launcher.node.check_node`."""
    offer = plan.offer
    need = plan.tightest.memory.high_gib
    return f"--gpus {offer.gpus} --gpu {offer.gpu} --gpu-memory {offer.gpu_memory_gib:g} --needs-gib {need:.1f}"


def _job_file(spec: JobSpec, usd_per_hour: float, folder: Path) -> Path:
    """The job as it runs there: everything resolved, and the price at which it is metered."""
    resolved = spec.resolved()
    resolved["resources"] |= {"usd_per_hour": usd_per_hour}
    prompt = resolved["data"]["system_prompt"]
    if prompt.get("text") is not None:
        prompt.pop("file")  # its text stands there
    file = folder / f"{spec.name}.yaml"
    file.write_text(yaml.safe_dump(_without_nulls(resolved), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return value
