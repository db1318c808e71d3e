"""A client of the emulated clouds for tests, without any server."""

from __future__ import annotations

from typing import Any

from launcher.cost.offer import Provider
from launcher.sandbox.clock import VirtualClock
from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.driver import HostAddress, HostRequest, VirtualHosts
from launcher.sandbox.exchange import ProviderApi, Reply, Request, exchange
from launcher.sandbox.faults import Fault
from launcher.sandbox.lambda_api import LambdaApi
from launcher.sandbox.market import Listing
from launcher.sandbox.runpod_api import RunpodApi
from launcher.sandbox.vast_api import FIRST_ASK, VastApi


class RecordingHosts(VirtualHosts):
    """Virtual hosts that remember what was asked of them."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[str, HostRequest] = {}
        self.announced: list[str] = []

    def create(self, instance_id: str, request: HostRequest) -> HostAddress:
        self.requests[instance_id] = request
        return super().create(instance_id, request)

    def announce_end(self, instance_id: str) -> None:
        self.announced.append(instance_id)


class Account:
    """A client of all three providers, without HTTP: it rents one kind of machine of each, in a cloud of its own."""

    def __init__(self, cloud: SandboxCloud | None = None, boot_s: float = 0.0) -> None:
        self.hosts = RecordingHosts()
        self.cloud = cloud or SandboxCloud(VirtualClock(), self.hosts, boot_s=boot_s)
        self.clock: Any = self.cloud.clock
        self.apis: dict[Provider, ProviderApi] = {
            "lambda": LambdaApi(self.cloud),
            "runpod": RunpodApi(self.cloud),
            "vast": VastApi(self.cloud),
        }
        self.send("lambda", "POST", "ssh-keys", {"name": "key", "public_key": "ssh-ed25519 AAAA me"})

    def send(self, provider: Provider, method: str, path: str, body: Any = None) -> Reply | None:
        return exchange(self.cloud, self.apis[provider], Request(method, path, {}, body))

    def listing(self, provider: Provider, spot: bool = False) -> Listing:
        wanted = {"lambda": "gpu_1x_a10", "runpod": "1x_RTX4090_SECURE", "vast": "1x-RTX_4090-32-65536"}[provider]
        every = [each for each in self.cloud.market.every(provider) if each.instance_type == wanted]
        return min(every, key=lambda each: each.usd_per_hour) if provider == "runpod" else every[0]

    def create(self, provider: Provider, name: str = "launcher-1-head", spot: bool = False) -> Reply | None:
        listing = self.listing(provider)
        if provider == "lambda":
            wanted = {"instance_type_name": listing.instance_type, "region_name": listing.region, "name": name}
            return self.send(provider, "POST", "instance-operations/launch", wanted | {"ssh_key_names": ["key"]})
        if provider == "vast":
            price = listing.spot_usd_per_hour if spot else None
            wanted = {"label": name, "disk": 40, "price": price, "onstart": "true", "env": {"A": "b", "-p 1:1": "1"}}
            return self.send(provider, "PUT", f"v0/asks/{FIRST_ASK + listing.number}", wanted)
        kind, bid = "podFindAndDeployOnDemand", ""
        if spot:
            kind, bid = "podRentInterruptable", f", bidPerGpu: {listing.spot_usd_per_hour}"
        fields = f'name: "{name}", gpuTypeId: "{listing.gpu_id}", gpuCount: 1, containerDiskInGb: 40{bid}'
        return self.send(provider, "POST", "", {"query": f"mutation {{ {kind}(input: {{{fields}}}) {{ id }} }}"})

    def terminate(self, provider: Provider, instance_id: str) -> Reply | None:
        if provider == "lambda":
            return self.send(provider, "POST", "instance-operations/terminate", {"instance_ids": [instance_id]})
        if provider == "vast":
            return self.send(provider, "DELETE", f"v0/instances/{instance_id}")
        query = f'mutation {{ podTerminate(input: {{podId: "{instance_id}"}}) }}'
        return self.send(provider, "POST", "", {"query": query})

    def statuses(self, provider: Provider) -> dict[str, str]:
        """Name and status of everything in the provider's list."""
        if provider == "lambda":
            reply = self.send(provider, "GET", "instances")
            return {} if reply is None else {each["name"]: each["status"] for each in reply.body["data"]}
        if provider == "vast":
            reply = self.send(provider, "GET", "v1/instances")
            return {} if reply is None else {each["label"]: each["actual_status"] for each in reply.body["instances"]}
        reply = self.send(provider, "POST", "", {"query": "{ myself { pods { name desiredStatus } } }"})
        assert reply is not None
        return {each["name"]: each["desiredStatus"] for each in reply.body["data"]["myself"]["pods"]}

    def newest(self) -> str:
        return self.cloud.instances()[-1].id

    def fault(self, **fields: Any) -> None:
        self.cloud.faults.add(Fault(**fields))

    def usd(self) -> float:
        return float(self.cloud.invoice()["total_usd"])


def is_success(reply: Reply | None) -> bool:
    return reply is not None and reply.status == 200 and "errors" not in reply.body
