"""Live offers of RunPod's secure cloud: the cheapest price of each GPU type by number of GPUs, from its GraphQL API."""

from __future__ import annotations

from functools import partial
from typing import Any

from launcher.cloud.fetch import SourceFailed, fetch_json, in_parallel
from launcher.cost.catalogs import RUNPOD_DISK_USD_PER_GIB_HOUR
from launcher.cost.intake import Intake
from launcher.cost.offer import positive_number

URL = "https://api.runpod.io"
GPU_COUNTS = (1, 2, 3, 4, 6, 8)
_QUERY = """
query GpuTypes {
  gpuTypes {
    id displayName memoryInGb secureCloud maxGpuCount
    lowestPrice(input: {gpuCount: %d, secureCloud: true}) {
      uninterruptablePrice minimumBidPrice minVcpu minMemory stockStatus
    }
  }
}
"""
# Names that SkyPilot's catalog keeps although RunPod calls these cards otherwise.
_SKY_NAMES = {"A100-PCIe": "A100-80GB", "A100-SXM": "A100-80GB-SXM", "H100-PCIe": "H100"}


def fetch_runpod(key: str, url: str, timeout_s: float, priced_at: str) -> Intake:
    """The GPU types that can be rented now, for each number of GPUs. RunPod chooses the place.

    Raises:
        SourceFailed: no usable answer to one of the questions.
    """
    ask = partial(fetch_json, f"{url}/graphql", timeout_s=timeout_s, key=key)
    questions = {gpus: partial(ask, body={"query": _QUERY % gpus}) for gpus in GPU_COUNTS}
    intake = Intake("runpod", "live", "runpod live")
    for gpus, answer in in_parallel(questions, timeout_s).items():
        if isinstance(answer, SourceFailed):
            raise answer
        read_answer(answer, gpus, intake, priced_at)
    return intake


def read_answer(answer: dict[str, Any], gpus: int, intake: Intake, priced_at: str) -> Intake:
    """The answer's offers of this many GPUs, into `intake`.

    Raises:
        SourceFailed: it is no answer to such a question.
    """
    if answer.get("errors"):
        raise SourceFailed("the query was refused")
    data = answer.get("data")
    types = data.get("gpuTypes") if isinstance(data, dict) else None
    if not isinstance(types, list):
        raise SourceFailed("the answer holds no GPU types")
    for position, entry in enumerate(types):
        with intake.reading(f"GPU type {position} x{gpus}"):
            _take(entry, gpus, intake, priced_at)
    return intake


def _take(entry: dict[str, Any], gpus: int, intake: Intake, priced_at: str) -> None:
    if not entry.get("secureCloud", True) or gpus > (positive_number(entry.get("maxGpuCount")) or gpus):
        return
    lowest = entry["lowestPrice"]
    if lowest is None or (lowest.get("uninterruptablePrice") is None and lowest.get("minimumBidPrice") is None):
        intake.sold_out += 1
        return
    name = str(entry["displayName"])
    intake.take(
        (name, str(entry["id"])),
        float(entry["memoryInGb"]),
        _whole(lowest.get("uninterruptablePrice"), gpus),
        _whole(lowest.get("minimumBidPrice"), gpus),
        instance_type=f"{gpus}x_{_sky_name(name)}_SECURE",
        gpus=gpus,
        vcpus=positive_number(lowest.get("minVcpu")),
        host_memory_gib=positive_number(lowest.get("minMemory")),
        region="any",
        priced_at=priced_at,
        disk_usd_per_gib_hour=RUNPOD_DISK_USD_PER_GIB_HOUR,
        available=True,
    )


def _whole(usd_per_gpu: Any, gpus: int) -> Any:
    """The price of the machine; RunPod states it per GPU. What is no price stays as stated."""
    usd = positive_number(usd_per_gpu)
    return usd_per_gpu if usd is None else usd * gpus


def _sky_name(display_name: str) -> str:
    """The GPU's name in SkyPilot's catalog, so that the offer can be asked for."""
    name = display_name.replace("RTX PRO ", "RTXPRO").replace("RTX ", "RTX").replace(" ", "-")
    return _SKY_NAMES.get(name, name)
