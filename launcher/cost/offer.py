"""An offer: one rentable machine, with its price and where the price came from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Provider = Literal["vast", "lambda", "runpod", "own"]
PROVIDERS: tuple[Provider, ...] = ("vast", "lambda", "runpod", "own")
RENTED: tuple[Provider, ...] = ("vast", "lambda", "runpod")
# Providers bill storage by the month and meter it by the second: 30 days, the dearer of the usual readings.
HOURS_PER_MONTH = 720
GB_PER_GIB = 2**30 / 1e9


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One rentable machine in one region.

    gpu: our name of the GPU model (`launcher.cost.gpus`), never a key to its memory: `gpu_memory_gib` is that of one
    GPU of this offer as sold, GiB. usd_per_hour: of the whole machine, without storage and traffic. spot: may be taken
    away at any time. disk_usd_per_gib_hour, upload_usd_per_gb, download_usd_per_gb: None where the provider does not
    bill them apart or does not say. download_gbit_s: the line's measured speed, None where unknown. source: `catalog`,
    `snapshot`, `live` or `own`; priced_at: ISO date or time of the price, None where nobody wrote it down. zone: the
    part of the region, where the provider names one. host_id: the one machine that a live offer is for.
    host_memory_is_floor: the machine has at least `host_memory_gib`, which the provider rounded down.
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
    host_memory_is_floor: bool = False
    zone: str | None = None


def positive_number(value: object) -> float | None:
    """A number above 0 and finite; None for everything else: null, zero, negative, NaN, infinite, not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 < number < math.inf else None


def valid_price(value: object) -> float | None:
    """A price in US dollars, None where a provider states none: 0.00 is how they write 'unknown', never 'free'."""
    return positive_number(value)


def gib_hour_usd(usd_per_gb_month: float) -> float:
    """A storage price in dollars per GB and month as dollars per GiB and hour."""
    return usd_per_gb_month * GB_PER_GIB / HOURS_PER_MONTH
