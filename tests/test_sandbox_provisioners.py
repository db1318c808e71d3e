"""SkyPilot's own provisioners, unmodified, against the emulated clouds: they create, find, describe and terminate.

What SkyPilot does wrong shows here too: those tests say so, and fail on the day when it no longer does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cost.offer import Provider
from launcher.sandbox.clock import RealClock
from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.driver import VirtualHosts
from launcher.sandbox.faults import Fault
from launcher.sandbox.instance import Instance
from launcher.sandbox.market import CLOUDS, CapacityRule
from launcher.sandbox.server import SandboxServer, serve

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "sky_provisioner.py"
KEY_FILES = {
    ".lambda_cloud/lambda_keys": "api_key = x\n",
    ".runpod/config.toml": '[default]\napi_key = "x"\n',
    ".config/vastai/vast_api_key": "x",
    "key.pub": "ssh-ed25519 AAAA me\n",
}
PLACES: dict[Provider, tuple[str, str]] = {
    "lambda": ("gpu_1x_a10", "us-east-1"),
    "runpod": ("1x_RTX4090_SECURE", "CA"),
    "vast": ("1x-RTX_4090-32-65536", "Germany, DE, EU"),
}


class Sky:
    """SkyPilot's provisioners of this SkyPilot version, in a process with a home of its own."""

    def __init__(self, server: SandboxServer, home: Path) -> None:
        self.server = server
        self.home = home
        for name, content in KEY_FILES.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(content, encoding="utf-8")
        kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS", "LANG") if name in os.environ}
        settings = {"HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "no_proxy": "127.0.0.1"}
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), f"{server.url}/lambda/api/v1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / "log").open("w"),
            text=True,
            env=kept | settings | server.environment(),
        )
        self.runpod_gpus: dict[str, str] = self._answer()["result"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def call(self, do: str, provider: Provider, within_s: float = 30.0, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        request = {"do": do, "provider": provider, "arguments": arguments, "within_s": within_s}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def create(
        self, provider: Provider, cluster: str, spot: bool = False, nodes: int = 1, within_s: float = 30.0, **node: Any
    ) -> dict[str, Any]:
        instance_type, region = PLACES[provider]
        config = {
            "provider_config": {"availability_zone": "CA-MTL-1,CA-MTL-2,CA-MTL-3"},
            "authentication_config": {"remote_key_name": "sky-key", "ssh_public_key": str(self.home / "key.pub")},
            "docker_config": {},
            "node_config": {
                "InstanceType": instance_type,
                "DiskSize": 40,
                "ImageId": "ubuntu:22.04",
                "Preemptible": spot,
                "PublicKey": "ssh-ed25519 AAAA me",
                "BidPerGPU": 0.74,
            }
            | node,
            "count": nodes,
            "tags": {},
            "resume_stopped_nodes": False,
            "ports_to_open_on_launch": None,
        }
        names = {"cluster_name": cluster, "cluster_name_on_cloud": cluster}
        return self.call("run_instances", provider, within_s, region=region, config=config, **names)

    def query(self, provider: Provider, cluster: str) -> dict[str, Any]:
        names = {"cluster_name": cluster, "cluster_name_on_cloud": cluster}
        return self.call("query_instances", provider, provider_config={}, **names)

    def terminate(self, provider: Provider, cluster: str) -> dict[str, Any]:
        return self.call("terminate_instances", provider, cluster_name_on_cloud=cluster, provider_config={})

    def info(self, provider: Provider, cluster: str) -> dict[str, Any]:
        answer = self.call(
            "get_cluster_info", provider, region=PLACES[provider][1], cluster_name_on_cloud=cluster, provider_config={}
        )
        return dict(answer["result"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self.home / "log").read_text()[-2000:]
        answer: dict[str, Any] = json.loads(line)
        return answer


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sky]:
    server = serve(SandboxCloud(RealClock(), VirtualHosts()), "127.0.0.1", 0)
    sky = Sky(server, tmp_path_factory.mktemp("home"))
    assert sky.call("register_ssh_key", "lambda", name="sky-key", pub_key="ssh-ed25519 AAAA me") == {"result": None}
    yield sky
    sky.close()
    server.stop()


@pytest.fixture
def cloud(sky: Sky) -> Iterator[SandboxCloud]:
    """The cloud behind the provisioners, with nothing rented and nothing wrong, before and after."""
    cloud = sky.server.cloud
    yield cloud
    cloud.faults.clear()
    cloud.market.deny([])
    for instance in cloud.instances():
        instance.refuses_to_end = False
        cloud.terminate(instance.id)


def rented(cloud: SandboxCloud, cluster: str) -> list[Instance]:
    """What is billed under that name."""
    cloud.settle()
    return [each for each in cloud.instances() if each.order.name.startswith(f"{cluster}-") and not each.is_ended]


@pytest.mark.parametrize(
    ("provider", "spot"),
    [("lambda", False), ("runpod", False), ("vast", False), ("runpod", True), ("vast", True)],
)
def test_a_cluster_is_created_found_described_and_terminated(
    sky: Sky, cloud: SandboxCloud, provider: Provider, spot: bool
) -> None:
    cluster = f"launcher-{provider}-{spot}"
    record = sky.create(provider, cluster, spot=spot)["result"]
    [instance] = rented(cloud, cluster)
    assert [str(each) for each in record["created_instance_ids"]] == [instance.id]
    assert (instance.is_spot, instance.order.name) == (spot, f"{cluster}-head")
    assert instance.order.public_keys or instance.order.start_script
    arguments = {"region": PLACES[provider][1], "cluster_name_on_cloud": cluster, "state": None}
    assert sky.call("wait_instances", provider, **arguments) == {"result": None}
    assert sky.query(provider, cluster) == {"result": {instance.id: "UP"}}
    [[host]] = sky.info(provider, cluster)["instances"].values()
    assert instance.address is not None
    assert (host["external_ip"], host["internal_ip"], host["ssh_port"]) == (
        instance.address.ip,
        instance.address.ip,
        22,
    )
    assert sky.terminate(provider, cluster) == {"result": None}
    assert rented(cloud, cluster) == []
    assert sky.query(provider, cluster) == {"result": {}}
    assert instance.bill.compute.ended_at is not None


def test_two_nodes_on_lambda_have_addresses_of_their_own(sky: Sky, cloud: SandboxCloud) -> None:
    record = sky.create("lambda", "launcher-two", nodes=2)["result"]
    hosts = sky.info("lambda", "launcher-two")["instances"]
    assert len(hosts) == 2 and record["head_instance_id"] in hosts
    assert len({host["internal_ip"] for [host] in hosts.values()}) == 2
    sky.terminate("lambda", "launcher-two")
    assert rented(cloud, "launcher-two") == []


def test_a_pod_without_gpu(sky: Sky, cloud: SandboxCloud) -> None:
    sky.create("runpod", "launcher-cpu", InstanceType="cpu3c-2-4")
    [pod] = rented(cloud, "launcher-cpu")
    assert pod.order.listing.gpu is None and pod.order.starts_ssh


def test_every_runpod_type_of_the_market_is_one_that_skypilot_asks_for(sky: Sky, cloud: SandboxCloud) -> None:
    for listing in cloud.market.every("runpod"):
        if listing.gpu is not None:
            assert sky.runpod_gpus[listing.instance_type.split("_")[1]] == listing.gpu_id


def test_on_vast_skypilot_rents_eight_dear_gpus_for_one_cheap_one(sky: Sky, cloud: SandboxCloud) -> None:
    """Its search loses all filters (skypilot #9733): what was rented must be checked after every creation."""
    sky.create("vast", "launcher-trap")
    [instance] = rented(cloud, "launcher-trap")
    assert (instance.order.listing.gpu, instance.order.listing.gpus) == ("H200", 8)
    assert instance.bill.compute.usd_per_hour == 28.0


def test_on_vast_skypilot_bids_nothing_for_a_spot_machine(sky: Sky, cloud: SandboxCloud) -> None:
    """The SDK's `chunked` sets every `min_bid` to 0, and SkyPilot bids that."""
    sky.create("vast", "launcher-bid", spot=True)
    [instance] = rented(cloud, "launcher-bid")
    [raised] = [each for each in cloud.events if each["event"] == "bid_raised" and each["name"] == "launcher-bid-head"]
    assert (raised["bid"], instance.bill.compute.usd_per_hour) == (0.0, instance.order.listing.spot_usd_per_hour)


@pytest.mark.parametrize("provider", CLOUDS)
@pytest.mark.parametrize("how", ["capacity", "500", "reset"])
def test_a_refused_order_is_an_error_and_costs_nothing(
    sky: Sky, cloud: SandboxCloud, provider: Provider, how: str
) -> None:
    cluster = f"launcher-{provider}-{how}"
    # vastai's SDK sends an order three times when the connection breaks.
    cloud.faults.add(Fault(provider=provider, op="create", how=how, times=3))  # type: ignore[arg-type]
    assert "error" in sky.create(provider, cluster)
    assert rented(cloud, cluster) == []


def test_lambda_is_not_asked_where_it_lists_no_capacity(sky: Sky, cloud: SandboxCloud) -> None:
    cloud.market.deny([CapacityRule(provider="lambda", region="us-east-1")])
    answer = sky.create("lambda", "launcher-full")
    assert "Regions with capacity available: " in answer["error"] and "us-west" in answer["error"]
    assert not [event for event in cloud.events if event["event"] == "no_capacity" and "full" in event["name"]]


@pytest.mark.parametrize("provider", ["lambda", "vast"])
def test_too_many_requests_are_asked_again(sky: Sky, cloud: SandboxCloud, provider: Provider) -> None:
    cloud.faults.add(Fault(provider=provider, op="create", how="429", times=2))
    assert "result" in sky.create(provider, f"launcher-{provider}-429")
    assert len(rented(cloud, f"launcher-{provider}-429")) == 1


@pytest.mark.parametrize("provider", ["lambda", "runpod"])
def test_a_lost_reply_leaves_one_instance_that_a_termination_by_name_finds(
    sky: Sky, cloud: SandboxCloud, provider: Provider
) -> None:
    cluster = f"launcher-{provider}-lost"
    cloud.faults.add(Fault(provider=provider, op="create", how="lost"))
    assert "ConnectionError" in sky.create(provider, cluster)["error"]
    assert len(rented(cloud, cluster)) == 1
    sky.terminate(provider, cluster)
    assert rented(cloud, cluster) == []


def test_on_vast_a_lost_reply_rents_twice_and_skypilot_waits_for_ever(sky: Sky, cloud: SandboxCloud) -> None:
    cloud.faults.add(Fault(provider="vast", op="create", how="lost"))
    assert sky.create("vast", "launcher-twice", within_s=2.0) == {"late": True}
    assert len(rented(cloud, "launcher-twice")) == 2
    sky.terminate("vast", "launcher-twice")
    assert rented(cloud, "launcher-twice") == []


def test_a_late_instance_is_an_orphan_that_skypilot_does_not_find(sky: Sky, cloud: SandboxCloud) -> None:
    cloud.faults.add(Fault(provider="lambda", op="create", how="late", seconds=3600))
    assert "error" in sky.create("lambda", "launcher-late")
    sky.terminate("lambda", "launcher-late")
    [orphan] = rented(cloud, "launcher-late")
    assert orphan.bill.compute.ended_at is None


@pytest.mark.parametrize("provider", CLOUDS)
def test_skypilot_waits_without_end_for_an_instance_that_never_boots(
    sky: Sky, cloud: SandboxCloud, provider: Provider
) -> None:
    cluster = f"launcher-{provider}-stuck"
    cloud.faults.add(Fault(provider=provider, op="create", how="stuck"))
    assert sky.create(provider, cluster, within_s=1.0) == {"late": True}
    [instance] = rented(cloud, cluster)
    assert sky.query(provider, cluster) == {"result": {instance.id: "INIT"}}
    sky.terminate(provider, cluster)
    assert rented(cloud, cluster) == []


@pytest.mark.parametrize("provider", CLOUDS)
def test_a_failed_termination_is_an_error_and_the_instance_stays(
    sky: Sky, cloud: SandboxCloud, provider: Provider
) -> None:
    cluster = f"launcher-{provider}-stays"
    sky.create(provider, cluster)
    cloud.faults.add(Fault(provider=provider, op="terminate", how="twice_fail"))
    for _ in range(2):
        assert "error" in sky.terminate(provider, cluster)
        assert len(rented(cloud, cluster)) == 1
    assert sky.terminate(provider, cluster) == {"result": None}
    assert rented(cloud, cluster) == []


@pytest.mark.parametrize("provider", CLOUDS)
def test_a_termination_that_did_nothing_looks_like_success_to_skypilot(
    sky: Sky, cloud: SandboxCloud, provider: Provider
) -> None:
    cluster = f"launcher-{provider}-unmoved"
    sky.create(provider, cluster)
    cloud.faults.add(Fault(provider=provider, op="terminate", how="stuck"))
    assert sky.terminate(provider, cluster) == {"result": None}
    assert len(rented(cloud, cluster)) == 1


@pytest.mark.parametrize(
    ("provider", "report", "seen"),
    [
        ("runpod", "gone", None),
        ("vast", "exited", "STOPPED"),
        ("lambda", "unhealthy", "INIT"),
        ("lambda", "active", "UP"),
        ("runpod", "exited", "KeyError"),
        ("vast", "unhealthy", "KeyError"),
    ],
)
def test_what_skypilot_makes_of_a_machine_that_died(
    sky: Sky, cloud: SandboxCloud, provider: Provider, report: Any, seen: str | None
) -> None:
    """A pod that has EXITED, as a preempted one is said to be, is a KeyError to SkyPilot 0.14.1."""
    cluster = f"launcher-{provider}-died-{report}"
    sky.create(provider, cluster)
    [instance] = rented(cloud, cluster)
    cloud.kill(instance.id, report)
    answer = sky.query(provider, cluster)
    if seen == "KeyError":
        assert "KeyError" in answer["error"]
    else:
        assert answer["result"] == ({instance.id: seen} if seen else {})
