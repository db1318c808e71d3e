"""RunPod's GraphQL API, as far as SkyPilot, RunPod's SDK 1.10 and the launcher ask it (graphql-spec.runpod.io)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from launcher.cost.offer import Provider
from launcher.sandbox.cloud import NoCapacity, SandboxCloud
from launcher.sandbox.driver import HostAddress
from launcher.sandbox.exchange import Reply, Request
from launcher.sandbox.faults import Fault, Operation
from launcher.sandbox.graphql import BadQuery, Selected, parse_query, project
from launcher.sandbox.instance import Instance, Order, new_instance
from launcher.sandbox.market import Listing, PriceChange

DEPLOYMENTS = ("podFindAndDeployOnDemand", "podRentInterruptable", "deployCpuPod")
_STATUS = {
    "booting": "CREATED",
    "active": "RUNNING",
    "unhealthy": "PAUSED",
    "exited": "EXITED",
    "terminating": "TERMINATED",
}
_NO_CAPACITY = "There are no longer any instances available with the requested specifications."


class RunpodApi:
    """Pods, GPU types and the user's settings. Volumes, templates and registries are not emulated."""

    provider: Provider = "runpod"

    def __init__(self, cloud: SandboxCloud) -> None:
        self._cloud = cloud
        self._public_keys = ""

    def operation(self, request: Request) -> Operation | None:
        """What the request does."""
        try:
            fields = self._fields(request)
        except BadQuery:
            return None
        names = {each.name for each in fields}
        if names & set(DEPLOYMENTS):
            return "create"
        if "podTerminate" in names:
            return "terminate"
        if "pod" in names or any(each.name == "myself" and _asks_for(each, "pods") for each in fields):
            return "list"
        return "price" if "gpuTypes" in names else None

    def failure(self, status: int, message: str) -> Reply:
        """A failure: GraphQL's errors, or below them an answer that is no JSON object."""
        return Reply("Internal Server Error" if status == 500 else {"errors": [{"message": message}]}, status)

    def answer(self, request: Request, fault: Fault | None) -> Reply:
        """Do what is asked."""
        try:
            return Reply({"data": {each.name: self._resolve(each, fault) for each in self._fields(request)}})
        except BadQuery as fault_of_query:
            self._cloud.record("refused_request", provider="runpod", reason=str(fault_of_query))
            return Reply({"errors": [{"message": str(fault_of_query)}]})

    def _fields(self, request: Request) -> list[Selected]:
        return parse_query(request.field("query") or "", request.field("variables"))

    def _resolve(self, asked: Selected, fault: Fault | None) -> Any:
        arguments = asked.arguments.get("input") or {}
        if asked.name in DEPLOYMENTS:
            project(_EXAMPLE_POD, asked.fields, "Pod")  # a query that is refused rents nothing
            pod = self._deploy(asked.name, arguments, fault)
            return project(_row(pod), asked.fields, "Pod")
        match asked.name:
            case "podTerminate":
                return self._terminate(arguments.get("podId"), fault)
            case "myself":
                return project(self._myself(asked), asked.fields, "User")
            case "pod":
                pod_found = self._cloud.find("runpod", str(arguments.get("podId")))
                return project(_row(pod_found), asked.fields, "Pod") if pod_found else None
            case "gpuTypes":
                return self._gpu_types(asked, arguments.get("id"), fault)
            case "updateUserSettings":
                self._public_keys = arguments.get("pubKey") or ""
                return project({"id": "user_1", "pubKey": self._public_keys}, asked.fields, "User")
        raise BadQuery(f'Cannot query field "{asked.name}".')

    def _myself(self, asked: Selected) -> dict[str, Any]:
        for each in asked.fields:
            if each.name == "pods":  # refused as by a real server, also where there is no pod
                project(_EXAMPLE_POD, each.fields, "Pod")
        pods = [_row(each) for each in self._cloud.listed("runpod")]
        return {
            "id": "user_1",
            "email": "sandbox@localhost",
            "pubKey": self._public_keys,
            "networkVolumes": [],
            "podTemplates": [],
            "clientBalance": 1000.0,
            "currentSpendPerHr": sum(pod["costPerHr"] for pod in pods),
            "spendLimit": None,
            "pods": pods,
        }

    def _terminate(self, pod_id: str | None, fault: Fault | None) -> None:
        if pod_id is None or self._cloud.find("runpod", pod_id) is None:
            raise BadQuery("pod not found to terminate")
        self._cloud.terminate(pod_id, fault)

    # --- renting -------------------------------------------------------------------------------------------------

    def _deploy(self, mutation: str, wanted: dict[str, Any], fault: Fault | None) -> Instance:
        listing = self._find_listing(wanted)
        bid = self._bid(wanted, listing) if mutation == "podRentInterruptable" else None
        order = Order(
            listing=listing,
            name=wanted.get("name") or "",
            bid_usd_per_hour=bid,
            disk_gib=float(wanted.get("containerDiskInGb") or 10) + float(wanted.get("volumeInGb") or 0),
            user="root",
            public_keys=tuple(self._public_keys.split("\n")) if self._public_keys else (),
            start_script=wanted.get("dockerArgs") or None,
            starts_ssh=bool(wanted.get("dockerArgs")),
            environment={pair["key"]: pair["value"] for pair in wanted.get("env") or []},
            image=wanted.get("imageName") or "",
        )
        try:
            return self._cloud.create(order, fault)
        except NoCapacity:
            raise BadQuery(_NO_CAPACITY) from None

    def _find_listing(self, wanted: dict[str, Any]) -> Listing:
        """The cheapest that is as wanted and has capacity. SkyPilot writes all zones of a region, joined by commas."""
        zones = (wanted.get("dataCenterId") or "").split(",")
        fitting = [
            listing
            for listing in self._cloud.market.every("runpod")
            if (
                listing.instance_type == wanted.get("instanceId")
                or (listing.gpu_id, listing.gpus) == (wanted.get("gpuTypeId"), wanted.get("gpuCount", 1))
            )
            and wanted.get("countryCode") in (None, listing.region)
            and (listing.zone is None or zones == [""] or listing.zone in zones)
            and self._cloud.market.has_capacity(listing)
        ]
        if not fitting:
            raise BadQuery(_NO_CAPACITY)
        return min(fitting, key=lambda listing: listing.usd_per_hour)

    def _bid(self, wanted: dict[str, Any], listing: Listing) -> float:
        """What is paid per hour for the whole pod: the bid, which has to reach the price as spot."""
        bid = float(wanted.get("bidPerGpu") or 0) * listing.gpus
        # To the cent: a bid is stated per GPU, and a catalog's price of several GPUs may not divide evenly.
        if listing.spot_usd_per_hour is None or bid < listing.spot_usd_per_hour - 0.005:
            raise BadQuery("Your bid is below the minimum bid price.")
        return bid

    # --- prices --------------------------------------------------------------------------------------------------

    def _gpu_types(self, asked: Selected, gpu_id: str | None, fault: Fault | None) -> list[Any]:
        listings = [] if fault and fault.how == "capacity" else self._cloud.market.listed("runpod")
        price = next((each for each in asked.fields if each.name == "lowestPrice"), Selected("lowestPrice"))
        gpus = (price.arguments.get("input") or {}).get("gpuCount") or 1
        every = [listing for listing in self._cloud.market.every("runpod") if listing.gpu_id in _ids(gpu_id, listing)]
        types = [
            _gpu_type(
                [listing for listing in every if listing.gpu_id == kind],
                [listing for listing in listings if (listing.gpu_id, listing.gpus) == (kind, gpus)],
            )
            for kind in dict.fromkeys(listing.gpu_id for listing in every)
        ]
        if fault is not None and fault.how == "price_up":
            self._cloud.change_prices(PriceChange(provider="runpod", factor=fault.factor))
        return [project(each, asked.fields, "GpuType") for each in types]


def _ids(wanted: str | None, listing: Listing) -> tuple[str | None, ...]:
    """The ids that are meant: the one asked for, or that of any GPU."""
    if wanted is not None:
        return (wanted,)
    return (listing.gpu_id,) if listing.gpu is not None else ()


def _gpu_type(every: list[Listing], available: list[Listing]) -> dict[str, Any]:
    """A GPU type, with the lowest price of the number of GPUs asked for; per GPU, as RunPod states it."""
    kind = every[0]
    cheapest = min(available, key=lambda listing: listing.usd_per_hour, default=None)
    per_gpu = _per_gpu(cheapest) if cheapest else (None, None)
    single = _per_gpu(kind)
    return {
        "id": kind.gpu_id,
        "displayName": kind.gpu,
        "manufacturer": "Nvidia",
        "memoryInGb": (kind.gpu_memory_mib or 0) // 1024,
        "cudaCores": 0,
        "maxGpuCount": max(listing.gpus for listing in every),
        "secureCloud": True,
        "communityCloud": False,
        "securePrice": single[0],
        "secureSpotPrice": single[1],
        "communityPrice": None,
        "communitySpotPrice": None,
        "oneWeekPrice": None,
        "oneMonthPrice": None,
        "threeMonthPrice": None,
        "lowestPrice": {
            "uninterruptablePrice": per_gpu[0],
            "minimumBidPrice": per_gpu[1],
            "minVcpu": cheapest.vcpus if cheapest else None,
            "minMemory": cheapest.host_memory_gib if cheapest else None,
            "stockStatus": "High" if cheapest else None,
        },
    }


def _per_gpu(listing: Listing) -> tuple[float, float | None]:
    spot = listing.spot_usd_per_hour
    return listing.usd_per_hour / listing.gpus, None if spot is None else spot / listing.gpus


def _row(pod: Instance) -> dict[str, Any]:
    """A pod with everything that may be asked of it."""
    listing, address = pod.order.listing, pod.address
    ports: Iterable[dict[str, Any]] = ()
    if address is not None and pod.state == "active":
        ports = (
            _port(address.ip, True, 22, address.ssh_port, "tcp"),
            # SkyPilot takes the pod's inner address from a port that is not public.
            _port(address.ip, False, 8265, 8265, "http"),
        )
    return {
        "id": pod.id,
        "name": pod.order.name,
        "desiredStatus": _STATUS[pod.state],
        "lastStatusChange": None,
        "imageName": pod.order.image,
        "dockerArgs": pod.order.start_script,
        "dockerId": None,
        "env": [f"{name}={value}" for name, value in pod.order.environment.items()],
        "costPerHr": pod.bill.compute.usd_per_hour,
        "adjustedCostPerHr": pod.bill.compute.usd_per_hour,
        "podType": "INTERRUPTABLE" if pod.is_spot else "RESERVED",
        "gpuCount": listing.gpus,
        "vcpuCount": listing.vcpus,
        "memoryInGb": listing.host_memory_gib,
        "containerDiskInGb": pod.order.disk_gib,
        "volumeInGb": 0,
        "volumeMountPath": None,
        "containerRegistryAuthId": None,
        "machineId": f"machine{listing.number}",
        "machine": {
            "podHostId": f"{pod.id}-64410000",
            "gpuDisplayName": listing.gpu,
            "gpuTypeId": listing.gpu_id,
            "dataCenterId": listing.zone,
            "location": listing.region,
        },
        "port": None,
        "ports": "22/tcp,8265/http",
        "uptimeSeconds": 0,
        "createdAt": pod.created_at,
        "runtime": {"uptimeInSeconds": 0, "ports": list(ports)} if ports else None,
    }


def _port(ip: str, is_public: bool, private: int, public: int, kind: str) -> dict[str, Any]:
    return {"ip": ip, "isIpPublic": is_public, "privatePort": private, "publicPort": public, "type": kind}


def _asks_for(asked: Selected, name: str) -> bool:
    return any(each.name == name for each in asked.fields)


def _example_pod() -> dict[str, Any]:
    """A running pod with every field that a pod has."""
    listing = Listing(provider="runpod", instance_type="", gpu="", region="", usd_per_hour=0.0)
    pod = new_instance(Order(listing=listing, name="", disk_gib=0, user=""), 0, 0.0, 0.0, None)
    pod.state, pod.address = "active", HostAddress("", 22, "")
    return _row(pod)


_EXAMPLE_POD = _example_pod()
