"""What is rented at RunPod: its GraphQL API, as its SDK 1.10 asks it (`runpod/api/queries/pods.py`)."""

from __future__ import annotations

import json
from typing import Any

from launcher.cloud.fetch import SourceFailed, fetch_json
from launcher.cloud.rented import MachineStatus, Rented, count, entries, identifier, text
from launcher.cost.catalogs import RUNPOD_DISK_USD_PER_GIB_HOUR
from launcher.cost.offer import positive_number

_PODS = """
query myPods {
  myself {
    pods {
      id name desiredStatus costPerHr gpuCount containerDiskInGb volumeInGb
      machine { gpuDisplayName }
      runtime { ports { ip isIpPublic privatePort publicPort type } }
    }
  }
}
"""
_BALANCE = "query myself { myself { clientBalance } }"
_TERMINATE = "mutation { podTerminate(input: { podId: %s }) }"
# `desiredStatus`: SkyPilot's table (`sky/provision/runpod/instance.py`), and what a pod that was taken away shows.
_STATUS = {
    "CREATED": MachineStatus.CREATING,
    "RESTARTING": MachineStatus.CREATING,
    "RUNNING": MachineStatus.RUNNING,
    "PAUSED": MachineStatus.STOPPED,
    "EXITED": MachineStatus.STOPPED,
    "TERMINATED": MachineStatus.GONE,
}


def list_runpod(key: str, url: str, timeout_s: float) -> list[Rented]:
    """Every pod of the account.

    Raises:
        SourceFailed: no usable answer.
    """
    return [_rented(entry) for entry in entries(_myself(key, url, timeout_s, _PODS).get("pods"), "pods")]


def terminate_runpod(key: str, url: str, timeout_s: float, instance_id: str) -> None:
    """Terminate a pod and delete its disks.

    Raises:
        SourceFailed: the provider did not say that it does.
    """
    data = _ask(key, url, timeout_s, _TERMINATE % json.dumps(instance_id))
    if "podTerminate" not in data:
        raise SourceFailed("the answer does not speak of the pod")


def balance_runpod(key: str, url: str, timeout_s: float) -> float | None:
    """Dollars of credit left on the account (`clientBalance` of its GraphQL API).

    Raises:
        SourceFailed: no usable answer.
    """
    credit = _myself(key, url, timeout_s, _BALANCE).get("clientBalance")
    return float(credit) if isinstance(credit, int | float) and not isinstance(credit, bool) else None


def _myself(key: str, url: str, timeout_s: float, query: str) -> dict[str, Any]:
    myself = _ask(key, url, timeout_s, query).get("myself")
    if not isinstance(myself, dict):
        raise SourceFailed("the answer holds no account")
    return myself


def _ask(key: str, url: str, timeout_s: float, query: str) -> dict[str, Any]:
    answer = fetch_json(f"{url}/graphql", timeout_s=timeout_s, key=key, body={"query": query})
    data = answer.get("data")
    if answer.get("errors") or not isinstance(data, dict):
        raise SourceFailed("the request was refused")
    return data


def _rented(entry: dict[str, Any]) -> Rented:
    machine = entry.get("machine")
    return Rented(
        provider="runpod",
        id=identifier(entry),
        name=text(entry.get("name")) or "",
        status=_STATUS.get(str(entry.get("desiredStatus")), MachineStatus.UNKNOWN),
        gpu=text(machine.get("gpuDisplayName")) if isinstance(machine, dict) else None,
        gpus=count(entry.get("gpuCount")),
        usd_per_hour=_usd_per_hour(entry),
        ip=_public_ip(entry.get("runtime")),
    )


def _usd_per_hour(entry: dict[str, Any]) -> float | None:
    """Of the pod with its disks, which are billed beside `costPerHr`; a disk of unknown size counts as none."""
    price = positive_number(entry.get("costPerHr"))
    if price is None:
        return None
    disk_gib = sum(positive_number(entry.get(name)) or 0.0 for name in ("containerDiskInGb", "volumeInGb"))
    return price + disk_gib * RUNPOD_DISK_USD_PER_GIB_HOUR


def _public_ip(runtime: Any) -> str | None:
    ports = runtime.get("ports") if isinstance(runtime, dict) else None
    public = [port for port in ports or [] if isinstance(port, dict) and port.get("isIpPublic")]
    return text(public[0].get("ip")) if public else None
