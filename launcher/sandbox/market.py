"""What the emulated providers have for rent: by default what the shipped catalogs list, and two things they do not."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field

from launcher.cost.catalogs import read_snapshot
from launcher.cost.offer import Offer, Provider, gib_hour_usd

CLOUDS: tuple[Provider, ...] = ("lambda", "runpod", "vast")
# Of the price on demand, where the catalog has none as spot: vast.ai's documentation says "often 50 % cheaper or more".
SPOT_SHARE = 0.5
# Of a vast.ai host, which sets them itself; within what hosts ask.
VAST_DISK_USD_PER_GB_MONTH = 0.15
VAST_TRAFFIC_USD_PER_GB = 0.004
RUNPOD_DISK_USD_PER_GB_MONTH = 0.10  # docs.runpod.io/pods/storage
CPU_REGIONS = ("CA", "US")
# What RunPod calls a GPU, and its id; by the name in SkyPilot's instance types (sky/provision/runpod/utils.py).
_RUNPOD_NAMES = {
    "A100-80GB": ("A100 PCIe", "NVIDIA A100 80GB PCIe"),
    "RTX3090": ("RTX 3090", "NVIDIA GeForce RTX 3090"),
    "RTX4090": ("RTX 4090", "NVIDIA GeForce RTX 4090"),
    "L40S": ("L40S", "NVIDIA L40S"),
}
_FORMS = {"pcie": "PCIe", "sxm4": "SXM4", "sxm5": "SXM5", "sxm6": "SXM6"}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A kind of machine for rent in one place.

    gpu: the provider's name of its GPU, None for a machine without; gpu_id: its id, where the provider has one.
    gpu_memory_mib: of one GPU. region, zone: as SkyPilot names them. usd_per_hour, spot_usd_per_hour: of the whole
    machine; None: not sold as spot. disk_usd_per_gb_month, traffic_usd_per_gb: 0 where the price covers them. number:
    unique in its market. score: vast.ai lists the highest first.
    """

    provider: Provider
    instance_type: str
    gpu: str | None
    gpu_id: str | None = None
    gpus: int = 0
    gpu_memory_mib: int | None = None
    vcpus: float = 0.0
    host_memory_gib: float = 0.0
    region: str
    zone: str | None = None
    usd_per_hour: float
    spot_usd_per_hour: float | None = None
    disk_usd_per_gb_month: float = 0.0
    traffic_usd_per_gb: float = 0.0
    number: int = 0
    score: float = 0.0

    @property
    def disk_usd_per_gib_hour(self) -> float:
        """The price of its disk."""
        return gib_hour_usd(self.disk_usd_per_gb_month)


class CapacityRule(BaseModel):
    """Machines that cannot be had; `*` is any. `is_listed`: they are shown all the same, and refused when asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str = "*"
    instance_type: str = "*"
    region: str = "*"
    is_listed: bool = False

    def covers(self, listing: Listing) -> bool:
        """Whether it is one of them."""
        return all(
            wanted in ("*", actual)
            for wanted, actual in (
                (self.provider, listing.provider),
                (self.instance_type, listing.instance_type),
                (self.region, listing.region),
            )
        )


class PriceChange(BaseModel):
    """Machines whose price changes by a factor; `*` is any. What is rented already keeps its price."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str = "*"
    instance_type: str = "*"
    region: str = "*"
    factor: float = Field(gt=0, allow_inf_nan=False)


class Market:
    """All listings at their present prices, and which of them have capacity. Threads may ask at once."""

    def __init__(self, listings: Iterable[Listing] | None = None) -> None:
        self._lock = threading.Lock()
        chosen = default_listings() if listings is None else listings
        self._listings = [replace(listing, number=number) for number, listing in enumerate(chosen)]
        self._denied: tuple[CapacityRule, ...] = ()

    def every(self, provider: Provider) -> list[Listing]:
        """What the provider sells, with capacity or without."""
        with self._lock:
            return [listing for listing in self._listings if listing.provider == provider]

    def listed(self, provider: Provider) -> list[Listing]:
        """What the provider shows as available."""
        return [listing for listing in self.every(provider) if self._covering(listing, listed=False) is None]

    def has_capacity(self, listing: Listing) -> bool:
        """Whether it can be rented now."""
        return self._covering(listing) is None

    def deny(self, rules: Sequence[CapacityRule]) -> None:
        """From now on these, and only these, cannot be had."""
        self._denied = tuple(rules)

    def denied(self) -> tuple[CapacityRule, ...]:
        """What cannot be had."""
        return self._denied

    def change_prices(self, change: PriceChange) -> int:
        """Make what it names dearer or cheaper from now on; how many listings that were."""
        rule = CapacityRule(provider=change.provider, instance_type=change.instance_type, region=change.region)
        with self._lock:
            found = [number for number, listing in enumerate(self._listings) if rule.covers(listing)]
            for number in found:
                self._listings[number] = _scaled(self._listings[number], change.factor)
        return len(found)

    def _covering(self, listing: Listing, listed: bool | None = None) -> CapacityRule | None:
        """The first rule that denies it; of those that show it all the same or not, where asked."""
        return next(
            (rule for rule in self._denied if rule.covers(listing) and listed in (None, rule.is_listed)),
            None,
        )


def default_listings() -> list[Listing]:
    """The machines of the shipped catalogs, small ones without a GPU, and vast.ai's trap."""
    listings = [_VAST_TRAP, *_CPU_MACHINES]
    for provider in CLOUDS:
        offers = read_snapshot(provider).offers
        spot = {_key(offer): offer.usd_per_hour for offer in offers if offer.spot}
        listings += [_listing(offer, spot.get(_key(offer))) for offer in offers if not offer.spot]
    return listings


# What SkyPilot 0.14's search for any machine finds first: it loses its filters, and the best score wins.
_VAST_TRAP = Listing(
    provider="vast",
    instance_type="8x-H200-32-65536",
    gpu="H200",
    gpus=8,
    gpu_memory_mib=143771,
    vcpus=32,
    host_memory_gib=64,
    region="Ohio, US, NA",
    usd_per_hour=28.0,
    spot_usd_per_hour=14.0,
    disk_usd_per_gb_month=VAST_DISK_USD_PER_GB_MONTH,
    traffic_usd_per_gb=VAST_TRAFFIC_USD_PER_GB,
    score=1000.0,
)
# The catalogs list these too, but no offer is made of a machine without a GPU. Lambda's is of its snapshot; RunPod's
# price is $0.03 per vCPU and hour (its console's "compute-optimized").
_CPU_MACHINES = [
    *(
        Listing(
            provider="lambda", instance_type="cpu_4x_general", gpu=None, vcpus=4, host_memory_gib=16, region=region,
            usd_per_hour=0.20,
        )
        for region in ("us-east-1", "us-west-2")
    ),
    *(
        Listing(
            provider="runpod", instance_type=f"{family}-{vcpus}-{2 * vcpus}", gpu=None, vcpus=vcpus,
            host_memory_gib=2 * vcpus, region=region, usd_per_hour=0.03 * vcpus,
            disk_usd_per_gb_month=RUNPOD_DISK_USD_PER_GB_MONTH,
        )
        for family in ("cpu3c", "cpu5c")
        for vcpus in (2, 4, 8)
        for region in CPU_REGIONS
    ),
]  # fmt: skip


def _listing(offer: Offer, spot_usd_per_hour: float | None) -> Listing:
    """A catalog's offer as its provider lists it."""
    gpu, gpu_id = _names(offer)
    is_vast, is_runpod = offer.provider == "vast", offer.provider == "runpod"
    if is_vast and spot_usd_per_hour is None:
        spot_usd_per_hour = SPOT_SHARE * offer.usd_per_hour
    return Listing(
        provider=offer.provider,
        instance_type=offer.instance_type,
        gpu=gpu,
        gpu_id=gpu_id,
        gpus=offer.gpus,
        gpu_memory_mib=round(offer.gpu_memory_gib * 1024),
        vcpus=offer.vcpus or 0.0,
        host_memory_gib=offer.host_memory_gib or 0.0,
        region=offer.region,
        zone=offer.zone,
        usd_per_hour=offer.usd_per_hour,
        spot_usd_per_hour=spot_usd_per_hour,
        disk_usd_per_gb_month=VAST_DISK_USD_PER_GB_MONTH * is_vast + RUNPOD_DISK_USD_PER_GB_MONTH * is_runpod,
        traffic_usd_per_gb=VAST_TRAFFIC_USD_PER_GB * is_vast,
        score=100.0 / offer.usd_per_hour,
    )


def _names(offer: Offer) -> tuple[str, str | None]:
    """What the provider calls the GPU, and its id."""
    if offer.provider == "vast":  # 1x-RTX_4090-32-65536
        return offer.instance_type.split("-")[1].replace("_", " "), None
    if offer.provider == "runpod":  # 1x_RTX4090_SECURE
        name = offer.instance_type.split("_")[1]
        return _RUNPOD_NAMES.get(name, (name, f"NVIDIA {name}"))
    form = _FORMS.get(offer.instance_type.rsplit("_", 1)[1], "")  # gpu_8x_h100_sxm5
    return f"{offer.gpu.removesuffix('-PCIe')} ({offer.gpu_memory_gib:g} GB{' ' * bool(form)}{form})", None


def _key(offer: Offer) -> tuple[str, str, str | None]:
    return offer.instance_type, offer.region, offer.zone


def _scaled(listing: Listing, factor: float) -> Listing:
    spot = listing.spot_usd_per_hour
    return replace(
        listing,
        usd_per_hour=listing.usd_per_hour * factor,
        spot_usd_per_hour=None if spot is None else spot * factor,
    )
