"""Lambda's REST API (prefix /api/v1), as far as SkyPilot and the launcher ask it.

docs.lambda.ai/api/cloud: every answer is wrapped in `data`, every failure in `error`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from launcher.cost.offer import Provider
from launcher.sandbox.cloud import NoCapacity, SandboxCloud
from launcher.sandbox.exchange import Reply, Request
from launcher.sandbox.faults import Fault, Operation
from launcher.sandbox.instance import Instance, Order
from launcher.sandbox.market import Listing, PriceChange

DISK_GIB = 512.0
_OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "instance-operations/launch"): "create",
    ("POST", "instance-operations/terminate"): "terminate",
    ("GET", "instances"): "list",
    ("GET", "instance-types"): "price",
}


class LambdaApi:
    """Instance types, instances, SSH keys and firewall rules. Images and file systems are not emulated."""

    provider: Provider = "lambda"

    def __init__(self, cloud: SandboxCloud) -> None:
        self._cloud = cloud
        self._keys: list[dict[str, str]] = []
        self._rules: list[Any] = []

    def operation(self, request: Request) -> Operation | None:
        """What the request does."""
        if request.method == "GET" and request.path.startswith("instances/"):
            return "list"
        return _OPERATIONS.get((request.method, request.path))

    def failure(self, status: int, message: str, code: str = "global/internal-error") -> Reply:
        """An error, in Lambda's form."""
        return Reply({"error": {"code": code, "message": message, "suggestion": ""}}, status)

    def answer(self, request: Request, fault: Fault | None) -> Reply:
        """Do what is asked."""
        match (request.method, request.path.split("/")):
            case ("GET", ["instance-types"]):
                return Reply({"data": self._types(fault)})
            case ("GET", ["instances"]):
                return Reply({"data": [_row(instance) for instance in self._cloud.listed("lambda")]})
            case ("GET", ["instances", instance_id]):
                found = self._cloud.find("lambda", instance_id)
                return Reply({"data": _row(found)}) if found else self._unknown(f"instance {instance_id}")
            case ("POST", ["instance-operations", "launch"]):
                return self._launch(request, fault)
            case ("POST", ["instance-operations", "terminate"]):
                return self._terminate(request, fault)
            case ("GET", ["ssh-keys"]):
                return Reply({"data": self._keys})
            case ("POST", ["ssh-keys"]):
                return self._add_key(request)
            case ("GET", ["firewall-rules"]):
                return Reply({"data": self._rules})
            case ("PUT", ["firewall-rules"]):
                self._rules = list(request.field("data", []))
                return Reply({"data": self._rules})
        self._cloud.record("unknown_request", provider="lambda", method=request.method, path=request.path)
        return self._unknown(request.path)

    def _types(self, fault: Fault | None) -> dict[str, Any]:
        with_capacity: defaultdict[str, list[str]] = defaultdict(list)
        if fault is None or fault.how != "capacity":
            for listing in self._cloud.market.listed("lambda"):
                with_capacity[listing.instance_type].append(listing.region)
        # A type has one price in every region.
        kinds = {listing.instance_type: listing for listing in self._cloud.market.every("lambda")}
        answer = {
            name: {
                "instance_type": _type(listing, listing.usd_per_hour),
                "regions_with_capacity_available": [_region(region) for region in with_capacity[name]],
            }
            for name, listing in kinds.items()
        }
        if fault is not None and fault.how == "price_up":
            self._cloud.change_prices(PriceChange(provider="lambda", factor=fault.factor))
        return answer

    def _launch(self, request: Request, fault: Fault | None) -> Reply:
        name, region = request.field("instance_type_name"), request.field("region_name")
        listing = next(
            (
                each
                for each in self._cloud.market.every("lambda")
                if (each.instance_type, each.region) == (name, region)
            ),
            None,
        )
        if listing is None:
            return self.failure(400, f"no instance type {name!r} in {region!r}", "global/invalid-parameters")
        wanted = request.field("ssh_key_names", [])
        keys = tuple(key["public_key"] for key in self._keys if key["name"] in wanted)
        if len(wanted) != 1 or not keys:
            return self.failure(400, "one known SSH key is needed", "global/invalid-parameters")
        order = Order(
            listing=listing, name=request.field("name") or "", disk_gib=DISK_GIB, user="ubuntu", public_keys=keys
        )
        try:
            instance = self._cloud.create(order, fault)
        except NoCapacity:
            return self.failure(
                400,
                "Not enough capacity to fulfill launch request.",
                "instance-operations/launch/insufficient-capacity",
            )
        return Reply({"data": {"instance_ids": [instance.id]}})

    def _terminate(self, request: Request, fault: Fault | None) -> Reply:
        ended = [
            instance
            for instance_id in request.field("instance_ids", [])
            if self._cloud.find("lambda", instance_id) and (instance := self._cloud.terminate(instance_id, fault))
        ]
        return Reply({"data": {"terminated_instances": [_row(instance) for instance in ended]}})

    def _add_key(self, request: Request) -> Reply:
        key = {"id": f"{len(self._keys) + 1:032x}", "name": request.field("name"), "public_key": ""}
        key["public_key"] = request.field("public_key") or ""
        self._keys.append(key)
        return Reply({"data": key})

    def _unknown(self, what: str) -> Reply:
        return self.failure(404, f"{what} was not found", "global/object-does-not-exist")


def _row(instance: Instance) -> dict[str, Any]:
    """An instance as the list shows it."""
    listing, address = instance.order.listing, instance.address
    ip = address.ip if address and instance.state != "booting" else None
    return {
        "id": instance.id,
        "name": instance.order.name,
        "ip": ip,
        "private_ip": ip,
        # Lambda has no stopped instances.
        "status": "unhealthy" if instance.state == "exited" else instance.state,
        "ssh_key_names": [],
        "file_system_names": [],
        "region": _region(listing.region),
        "instance_type": _type(listing, instance.bill.compute.usd_per_hour),
        "hostname": ip,
        "is_reserved": False,
    }


def _type(listing: Listing, usd_per_hour: float) -> dict[str, Any]:
    gpu = listing.gpu or "N/A"
    return {
        "name": listing.instance_type,
        "description": f"{listing.gpus}x {gpu}" if listing.gpu else f"{listing.vcpus:g}x CPU",
        "gpu_description": gpu,
        "price_cents_per_hour": round(100 * usd_per_hour),
        "specs": {
            "vcpus": int(listing.vcpus),
            "memory_gib": int(listing.host_memory_gib),
            "storage_gib": int(DISK_GIB),
            "gpus": listing.gpus,
        },
    }


def _region(name: str) -> dict[str, str]:
    return {"name": name, "description": name}
