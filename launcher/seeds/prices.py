"""Prices of the shipped snapshot for one kind of machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

from launcher.cost.catalogs import read_snapshot, snapshot_dates
from launcher.cost.offer import RENTED, Offer, Provider
from launcher.cost.offerings import wanted_gpu


@dataclass(frozen=True)
class SnapshotPrices:
    """US dollars an hour of a whole machine over the offers of the snapshot, and the date of the cheapest."""

    cheapest: float
    median: float
    dearest: float
    cheapest_provider: Provider
    dearest_provider: Provider
    priced_at: str


def snapshot_prices(
    gpu: str, memory_gib: float, gpus: int, providers: Sequence[Provider] = ()
) -> SnapshotPrices | None:
    """Prices of machines with this many such GPUs, not spot; None where there is no such offer.

    A GPU is sold in several forms (A100 SXM and PCIe): all of them count. No providers: all that rent.
    """
    wanted = wanted_gpu(gpu)
    offers = [
        offer
        for provider in providers or RENTED
        for offer in _offers(provider)
        if offer.gpus == gpus and offer.gpu_memory_gib == memory_gib and wanted.takes(offer)
    ]
    if not offers:
        return None
    cheapest = min(offers, key=lambda offer: offer.usd_per_hour)
    dearest = max(offers, key=lambda offer: offer.usd_per_hour)
    return SnapshotPrices(
        cheapest=cheapest.usd_per_hour,
        median=median(offer.usd_per_hour for offer in offers),
        dearest=dearest.usd_per_hour,
        cheapest_provider=cheapest.provider,
        dearest_provider=dearest.provider,
        priced_at=cheapest.priced_at or snapshot_dates()["undated"][cheapest.provider],
    )


@cache
def _offers(provider: Provider) -> tuple[Offer, ...]:
    return tuple(offer for offer in read_snapshot(provider).offers if not offer.spot)
