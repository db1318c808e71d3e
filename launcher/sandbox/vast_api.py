"""vast.ai's REST API (/api/v0 and /api/v1), as far as SkyPilot, vastai-sdk 1.9 and the launcher ask it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from launcher.cost.offer import Provider
from launcher.sandbox.cloud import NoCapacity, SandboxCloud
from launcher.sandbox.exchange import Reply, Request
from launcher.sandbox.faults import Fault, Operation
from launcher.sandbox.instance import Instance, Order
from launcher.sandbox.market import Listing, PriceChange

FIRST_ASK = 5_000_000
MOST_OFFERS = 64  # of an answer, where the question states no limit
PAGE = 25
_STATUS = {
    "booting": "loading",
    "active": "running",
    "unhealthy": "unknown",
    "exited": "exited",
    "terminating": "exited",
}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, among: value in among,
    "notin": lambda value, among: value not in among,
}


class VastApi:
    """Offers, instances and SSH keys. Volumes, templates and stopping are not emulated."""

    provider: Provider = "vast"

    def __init__(self, cloud: SandboxCloud) -> None:
        self._cloud = cloud
        self._keys: list[dict[str, Any]] = []

    def operation(self, request: Request) -> Operation | None:
        """What the request does."""
        match (request.method, request.path.split("/")[1:]):
            case ("PUT", ["asks", _]):
                return "create"
            case ("DELETE", ["instances", _]):
                return "terminate"
            case ("GET", ["instances", *_]):
                return "list"
            case ("POST", ["bundles"]):
                return "price"
        return None

    def failure(self, status: int, message: str) -> Reply:
        """A failure, in vast.ai's form."""
        return Reply({"success": False, "error": "error", "msg": message}, status)

    def answer(self, request: Request, fault: Fault | None) -> Reply:
        """Do what is asked. Paths begin with the version: v0/bundles."""
        match (request.method, request.path.split("/")):
            case ("POST", [_, "bundles"]):
                return Reply({"success": True, "offers": self._search(request.body or {}, fault)})
            case ("PUT", [_, "asks", ask]) if ask.isdigit():
                return self._rent(int(ask), request, fault)
            case ("GET", ["v0", "instances"]):
                return Reply({"success": True, "instances": [self._row(each) for each in self._cloud.listed("vast")]})
            case ("GET", ["v1", "instances"]):
                return self._page(request)
            case ("GET", [_, "instances", instance_id]):
                found = self._cloud.find("vast", instance_id)
                return Reply({"success": True, "instances": self._row(found) if found else None})
            case ("DELETE", [_, "instances", instance_id]):
                return self._destroy(instance_id, fault)
            case ("GET", [_, "ssh"]):
                return Reply(self._keys)
            case ("POST", [_, "ssh"]):
                key = request.field("ssh_key") or ""
                self._keys.append({"id": len(self._keys) + 1, "public_key": key, "key": key})
                return Reply({"success": True, "key": self._keys[-1]})
            case ("GET", [_, "users", "current"]):
                return Reply({"id": 1, "username": "sandbox", "credit": 1000.0, "balance": 0.0})
        self._cloud.record("unknown_request", provider="vast", method=request.method, path=request.path)
        return self.failure(404, f"{request.path} was not found")

    # --- offers --------------------------------------------------------------------------------------------------

    def _search(self, query: dict[str, Any], fault: Fault | None) -> list[dict[str, Any]]:
        """The offers that pass every filter of the query, in its order; without one, the highest score first."""
        listings = [] if fault and fault.how == "capacity" else self._cloud.market.listed("vast")
        stored_gib = float(query.get("allocated_storage") or 0)
        offers = [_offer(listing, stored_gib) for listing in listings]
        found = [offer for offer in offers if _passes(offer, query)]
        for name, way in reversed(query.get("order") or [["score", "desc"]]):
            found.sort(key=lambda offer: (offer.get(name) is not None, offer.get(name)), reverse=way == "desc")
        if fault is not None and fault.how == "price_up":
            self._cloud.change_prices(PriceChange(provider="vast", factor=fault.factor))
        return found[: int(query.get("limit") or MOST_OFFERS)]

    def _rent(self, ask: int, request: Request, fault: Fault | None) -> Reply:
        listing = next((each for each in self._cloud.market.every("vast") if FIRST_ASK + each.number == ask), None)
        if listing is None:
            return _no_such_ask(ask)
        order = Order(
            listing=listing,
            name=request.field("label") or "",
            bid_usd_per_hour=self._bid(request, listing),
            disk_gib=float(request.field("disk") or 10),
            user="root",
            public_keys=tuple(key["public_key"] for key in self._keys),
            start_script=request.field("onstart") or None,
            # Besides variables, `env` holds docker's port options as keys.
            environment={k: str(v) for k, v in (request.field("env") or {}).items() if k.isidentifier()},
            image=request.field("image") or "",
        )
        try:
            instance = self._cloud.create(order, fault)
        except NoCapacity:
            return _no_such_ask(ask)
        return Reply({"success": True, "new_contract": int(instance.id)})

    def _bid(self, request: Request, listing: Listing) -> float | None:
        """What is paid per hour as spot; None: on demand, no price was stated.

        SkyPilot 0.14 bids 0, since the SDK's `chunked` sets every `min_bid` to 0. What the real provider makes of that
        is not known; here a bid below the least one is raised to it.
        """
        price = request.field("price")
        if price is None:
            return None
        least = listing.spot_usd_per_hour or listing.usd_per_hour
        if float(price) < least:
            self._cloud.record("bid_raised", name=request.field("label"), bid=float(price), least=least)
        return max(float(price), least)

    # --- instances -----------------------------------------------------------------------------------------------

    def _page(self, request: Request) -> Reply:
        """One page of the list; `next_token` is the position at which the next one begins."""
        size, first = int(request.query.get("limit", PAGE)), int(request.query.get("after_token", 0))
        rows = [self._row(each) for each in self._cloud.listed("vast")]
        last = first + size
        return Reply(
            {
                "success": True,
                "instances": rows[first:last],
                "total_instances": len(rows),
                "next_token": str(last) if last < len(rows) else None,
            }
        )

    def _destroy(self, instance_id: str, fault: Fault | None) -> Reply:
        if self._cloud.find("vast", instance_id) is None:
            return self.failure(404, f"instance {instance_id} was not found")
        self._cloud.terminate(instance_id, fault)
        return Reply({"success": True})

    def _row(self, instance: Instance) -> dict[str, Any]:
        """An instance as the list shows it."""
        order, address = instance.order, instance.address
        storage = instance.bill.storage.usd_per_hour if instance.bill.storage else 0.0
        status = _STATUS[instance.state]
        reach: dict[str, Any] = {"ssh_host": None, "ssh_port": None, "public_ipaddr": "", "local_ipaddrs": ""}
        if address is not None:
            reach = {
                "ssh_host": address.ip,
                "ssh_port": address.ssh_port,
                "public_ipaddr": address.ip,
                "local_ipaddrs": f"{address.ip} \n",
                "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(address.ssh_port)}]},
            }
        return _machine(order.listing) | {
            "id": int(instance.id),
            "label": order.name,
            "actual_status": status,
            "cur_state": "running" if instance.state in ("booting", "active") else "stopped",
            "intended_status": "running",
            "image_uuid": order.image,
            "start_date": instance.created_at,
            "uptime_mins": (self._cloud.clock.now() - instance.created_at) / 60,
            "is_bid": instance.is_spot,
            "dph_base": instance.bill.compute.usd_per_hour,
            "dph_total": instance.bill.compute.usd_per_hour + storage,
            "disk_space": order.disk_gib,
            "extra_env": [list(pair) for pair in order.environment.items()],
            "ports": None,
        } | reach  # fmt: skip


def _machine(listing: Listing) -> dict[str, Any]:
    """What offers and instances both say of the machine. Sizes in MiB, traffic in dollars per GB, speeds in Mbit/s."""
    memory_mib = listing.gpu_memory_mib or 0
    return {
        "machine_id": 20_000 + listing.number,
        "host_id": 1_000 + listing.number,
        "num_gpus": listing.gpus,
        "gpu_name": listing.gpu,
        "gpu_ram": memory_mib,
        "gpu_total_ram": memory_mib * listing.gpus,
        "gpu_frac": 1.0,
        "cpu_cores": int(listing.vcpus),
        "cpu_cores_effective": listing.vcpus,
        "cpu_ram": int(listing.host_memory_gib * 1024),
        # "France, FR, EU" in SkyPilot's catalog; its SDK adds the continent.
        "geolocation": listing.region.rsplit(", ", 1)[0],
        "storage_cost": listing.disk_usd_per_gb_month,
        "inet_up_cost": listing.traffic_usd_per_gb,
        "inet_down_cost": listing.traffic_usd_per_gb,
        "inet_up": 500.0,
        "inet_down": 800.0,
        "reliability2": 0.995,
        "reliability": 0.995,
        "hosting_type": 0,
        "datacenter": False,
        "verification": "verified",
        "verified": True,
        "external": False,
    }


def _offer(listing: Listing, stored_gib: float) -> dict[str, Any]:
    """A machine for rent; `dph_total` holds the price of that much disk."""
    storage = listing.disk_usd_per_gib_hour * stored_gib
    return _machine(listing) | {
        "id": FIRST_ASK + listing.number,
        "ask_contract_id": FIRST_ASK + listing.number,
        "disk_space": 1000.0,
        "dph_base": listing.usd_per_hour,
        "dph_total": listing.usd_per_hour + storage,
        "storage_total_cost": storage,
        "min_bid": listing.spot_usd_per_hour,
        "rentable": True,
        "rented": False,
        "score": listing.score,
    }


def _passes(offer: dict[str, Any], query: dict[str, Any]) -> bool:
    """Whether the offer passes every filter: `{"num_gpus": {"gte": 2}}`. What is no such filter is none."""
    return all(
        _holds(offer.get(name), how, wanted)
        for name, conditions in query.items()
        if isinstance(conditions, dict)
        for how, wanted in conditions.items()
    )


def _holds(value: Any, how: str, wanted: Any) -> bool:
    if value is None or how not in _COMPARE:
        return False
    if how in ("in", "notin"):
        # Places are asked for by country: "Texas, US" is in [US, CA].
        return _COMPARE[how](value, wanted) or (
            how == "in" and isinstance(value, str) and value.rsplit(", ", 1)[-1] in wanted
        )
    if isinstance(value, int | float) and isinstance(wanted, str):
        wanted = float(wanted)
    return _COMPARE[how](value, wanted)


def _no_such_ask(ask: int) -> Reply:
    """What a machine that somebody else has rented meanwhile looks like."""
    return Reply(
        {
            "success": False,
            "error": "no_such_ask",
            "msg": f"error 404/3603: no_such_ask Instance type by id {ask} is not available.",
        },
        404,
    )
