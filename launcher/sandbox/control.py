"""What a test or a user does to the emulated cloud: faults, deaths, prices; and what it says of itself.

| request | does |
|---|---|
| GET status | time, instances, what is to go wrong, what cannot be had |
| GET invoice, GET events | what is charged; what happened |
| POST fault, DELETE fault | one more fault (`faults.Fault`); none any more |
| POST kill | `{"instance", "report", "notice_s"}`: dies now, or after that notice |
| POST cut | `{"instance"}`: off the network |
| POST capacity | `{"deny": [...]}` (`market.CapacityRule`): these and no others cannot be had |
| POST prices | one change (`market.PriceChange`) |
| POST traffic | `{"instance", "upload_gb", "download_gb"}`: billed |
| GET ping | nothing: the cloud is there |

An instance is named by its id or by its name, where only one that is rented has that name.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from launcher.errors import BadInput
from launcher.faults import fault_lines
from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.exchange import Reply, Request
from launcher.sandbox.faults import Fault
from launcher.sandbox.instance import Instance, Report
from launcher.sandbox.market import CapacityRule, PriceChange


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Kill(_Body):
    """Which machine dies, what is said of it, and how long before it is told; None: it is not."""

    instance: str
    report: Report = "gone"
    notice_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Cut(_Body):
    """Whose network is cut."""

    instance: str


class Capacity(_Body):
    """What cannot be had."""

    deny: list[CapacityRule] = Field(default=[], strict=False)


class Moved(_Body):
    """Traffic of an instance, in GB."""

    instance: str
    upload_gb: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    download_gb: float = Field(default=0.0, ge=0, allow_inf_nan=False)


_Model = TypeVar("_Model", bound=BaseModel)


def control(cloud: SandboxCloud, request: Request) -> Reply:
    """The answer to a request below /ctl/; what cannot be done is status 400 with the reason in `error`."""
    try:
        return Reply(_do(cloud, request))
    except BadInput as fault:
        return Reply({"error": str(fault)}, 400)


def _do(cloud: SandboxCloud, request: Request) -> Any:
    match (request.method, request.path):
        case ("GET", "ping"):
            return {}
        case ("GET", "status"):
            return status(cloud)
        case ("GET", "invoice"):
            return cloud.invoice()
        case ("GET", "events"):
            cloud.settle()
            return cloud.events
        case ("POST", "fault"):
            cloud.faults.add(_read(Fault, request))
        case ("DELETE", "fault"):
            cloud.faults.clear()
        case ("POST", "kill"):
            _kill(cloud, _read(Kill, request))
        case ("POST", "cut"):
            cloud.cut_network(_find(cloud, _read(Cut, request).instance).id)
        case ("POST", "capacity"):
            cloud.market.deny(_read(Capacity, request).deny)
        case ("POST", "prices"):
            return {"listings": cloud.change_prices(_read(PriceChange, request))}
        case ("POST", "traffic"):
            moved = _read(Moved, request)
            cloud.move_data(_find(cloud, moved.instance).id, moved.upload_gb, moved.download_gb)
        case _:
            raise BadInput(f"{request.method} {request.path}: no such request")
    return {}


def status(cloud: SandboxCloud) -> dict[str, Any]:
    """Time, everything that is rented, and what is to go wrong, as plain JSON values."""
    now = cloud.settle()
    return {
        "now": now,
        "instances": [
            each.identity()
            | {
                "state": each.state,
                "is_alive": cloud.driver.is_alive(each.id),
                "ip": each.address.ip if each.address else None,
                "ssh_port": each.address.ssh_port if each.address else None,
                "user": each.order.user,
                "created_at": each.created_at,
                "is_listed": now >= each.hidden_until,
                "usd_per_hour": each.bill.compute.usd_per_hour,
                "usd": math.fsum(line["usd"] for line in each.bill.lines(now)),
            }
            for each in cloud.instances()
            if each.state != "terminated"
        ],
        "faults": [fault.model_dump() for fault in cloud.faults.pending()],
        "denied": [rule.model_dump() for rule in cloud.market.denied()],
    }


def _kill(cloud: SandboxCloud, kill: Kill) -> None:
    instance = _find(cloud, kill.instance)
    if kill.notice_s is None:
        cloud.kill(instance.id, kill.report)
    else:
        cloud.preempt(instance.id, kill.notice_s, kill.report)


def _find(cloud: SandboxCloud, name: str) -> Instance:
    rented = [each for each in cloud.instances() if not each.is_ended and name in (each.id, each.order.name)]
    if len(rented) != 1:
        raise BadInput(f"instance: {name!r}: {len(rented)} rented instances have this id or name; one is needed")
    return rented[0]


def _read(model: type[_Model], request: Request) -> _Model:
    try:
        return model.model_validate(request.body)
    except ValidationError as fault:
        raise BadInput(*fault_lines(fault, model, lambda _: request.path)) from None
