"""An offer: one rentable machine, with its price and where the price came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Provider = Literal["vast", "lambda", "runpod", "own"]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One rentable machine in one region.

    gpu: our name of the GPU model (`launcher.cost.gpus`), never a key to its memory: `gpu_memory_gib` is that of one
    GPU of this offer as sold, GiB. usd_per_hour: of the whole machine. spot: may be taken away at any time.
    disk_usd_per_gib_hour, upload_usd_per_gb, download_usd_per_gb: None where the provider does not bill them apart.
    download_gbit_s: the line's measured speed, None where unknown. source: `catalog`, `snapshot`, `live` or `own`;
    priced_at: ISO date or time of the price, None where nobody wrote it down.
    """

    provider: Provider
    instance_type: str
    gpu: str
    gpus: int
    gpu_memory_gib: float
    vcpus: float | None
    host_memory_gib: float | None
    region: str
    spot: bool
    usd_per_hour: float
    source: Literal["catalog", "snapshot", "live", "own"]
    priced_at: str | None
    disk_usd_per_gib_hour: float | None = None
    upload_usd_per_gb: float | None = None
    download_usd_per_gb: float | None = None
    download_gbit_s: float | None = None
    available: bool | None = None
    reliability: float | None = None
    host_id: str | None = None
