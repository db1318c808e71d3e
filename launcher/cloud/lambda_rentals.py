"""What is rented at Lambda: its public API, as SkyPilot 0.14 asks it (`sky/provision/lambda_cloud/lambda_utils.py`)."""

from __future__ import annotations

from typing import Any

from launcher.cloud.fetch import SourceFailed, fetch_json
from launcher.cloud.rented import MachineStatus, Rented, count, entries, identifier, text
from launcher.cost.offer import positive_number

# A machine that is terminating can no longer be kept, and is not billed.
_STATUS = {
    "booting": MachineStatus.CREATING,
    "active": MachineStatus.RUNNING,
    "terminating": MachineStatus.GONE,
    "terminated": MachineStatus.GONE,
}


def list_lambda(key: str, url: str, timeout_s: float) -> list[Rented]:
    """Every instance of the account.

    Raises:
        SourceFailed: no usable answer.
    """
    answer = fetch_json(f"{url}/api/v1/instances", timeout_s=timeout_s, key=key)
    return [_rented(entry) for entry in entries(answer.get("data"), "instances")]


def terminate_lambda(key: str, url: str, timeout_s: float, instance_id: str) -> None:
    """Terminate an instance.

    Raises:
        SourceFailed: the provider did not say that it does.
    """
    address = f"{url}/api/v1/instance-operations/terminate"
    answer = fetch_json(address, timeout_s=timeout_s, key=key, body={"instance_ids": [instance_id]})
    data = answer.get("data")
    ended = data.get("terminated_instances") if isinstance(data, dict) else None
    if instance_id not in {identifier(entry) for entry in entries(ended, "terminated instances")}:
        raise SourceFailed("the answer does not name the instance as terminated")


def _rented(entry: dict[str, Any]) -> Rented:
    kind = entry.get("instance_type")
    kind = kind if isinstance(kind, dict) else {}
    specs = kind.get("specs")
    cents = positive_number(kind.get("price_cents_per_hour"))
    return Rented(
        provider="lambda",
        id=identifier(entry),
        name=text(entry.get("name")) or "",
        status=_STATUS.get(str(entry.get("status")), MachineStatus.UNKNOWN),
        gpu=text(kind.get("gpu_description")) or text(kind.get("name")),
        gpus=count(specs.get("gpus")) if isinstance(specs, dict) else None,
        usd_per_hour=None if cents is None else cents / 100,
        ip=text(entry.get("ip")),
    )
