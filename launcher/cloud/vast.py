"""Live offers of vast.ai: its search API, as vastai-sdk 1.x asks it."""

from __future__ import annotations

from typing import Any

from launcher.cloud.fetch import SourceFailed, fetch_json
from launcher.cost.intake import Intake
from launcher.cost.offer import gib_hour_usd, positive_number

URL = "https://console.vast.ai"
# What the SDK's search_offers sends by default, and a limit: without one the API answers 64 offers. A host's offer says
# both what it costs to keep (dph_*) and from what bid on it is let out until somebody pays more (min_bid).
QUERY: dict[str, Any] = {
    "verified": {"eq": True},
    "external": {"eq": False},
    "rentable": {"eq": True},
    "rented": {"eq": False},
    "order": [["score", "desc"]],
    "type": "on-demand",
    "limit": 5000,
    "allocated_storage": 5.0,
}


def fetch_vast(key: str, url: str, timeout_s: float, priced_at: str) -> Intake:
    """The machines that can be rented now.

    Raises:
        SourceFailed: no usable answer.
    """
    answer = fetch_json(f"{url}/api/v0/bundles/", timeout_s=timeout_s, key=key, body=QUERY)
    return read_answer(answer, Intake("vast", "live", "vast live"), priced_at)


def read_answer(answer: dict[str, Any], intake: Intake, priced_at: str) -> Intake:
    """The answer's offers, into `intake`.

    Raises:
        SourceFailed: it is no answer to such a question.
    """
    asks = answer.get("offers")
    if not isinstance(asks, list):
        raise SourceFailed("the answer holds no list of offers")
    for position, ask in enumerate(asks):
        with intake.reading(f"offer {position}"):
            _take(ask, intake, priced_at)
    return intake


def _take(ask: dict[str, Any], intake: Intake, priced_at: str) -> None:
    # The query's filters again: a server that ignores one must not put a stranger's rented machine into a plan.
    if not ask.get("rentable", True) or ask.get("rented", False):
        intake.sold_out += 1
        return
    if ask.get("verification", "verified") != "verified" or ask.get("verified") is False:
        intake.leave_out("host not verified by vast.ai, left out", str(ask["gpu_name"]))
        return
    name, gpus = str(ask["gpu_name"]), _count(ask["num_gpus"])
    cores, effective_cores = positive_number(ask.get("cpu_cores")), positive_number(ask.get("cpu_cores_effective"))
    host_mib = positive_number(ask.get("cpu_ram"))
    # cpu_cores and cpu_ram are the host's; of both the offer has the share that cpu_cores_effective says.
    share = min(1.0, effective_cores / cores) if cores and effective_cores else 1.0
    disk = positive_number(ask.get("storage_cost"))
    down_mbit_s = positive_number(ask.get("inet_down"))
    intake.take(
        (name,),
        float(ask["gpu_ram"]) / 1024,
        # dph_total holds the price of the few GiB of disk that the query names; disk is priced apart.
        ask["dph_total"] if positive_number(ask.get("dph_base")) is None else ask["dph_base"],
        ask.get("min_bid"),
        # The name SkyPilot's catalog gives such a machine, so that it can be asked for.
        instance_type=f"{gpus}x-{'_'.join(name.split())}-{_plain(cores)}-{_plain(host_mib)}",
        gpus=gpus,
        vcpus=effective_cores or cores,
        host_memory_gib=None if host_mib is None else host_mib * share / 1024,
        region=str(ask.get("geolocation") or "").strip(" ,"),
        priced_at=priced_at,
        disk_usd_per_gib_hour=None if disk is None else gib_hour_usd(disk),
        upload_usd_per_gb=positive_number(ask.get("inet_up_cost")),
        download_usd_per_gb=positive_number(ask.get("inet_down_cost")),
        download_gbit_s=None if down_mbit_s is None else down_mbit_s / 1000,
        available=True,
        reliability=positive_number(ask.get("reliability2")) or positive_number(ask.get("reliability")),
        host_id=None if ask.get("machine_id") is None else str(ask["machine_id"]),
    )


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"num_gpus {value!r}")
    return value


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
