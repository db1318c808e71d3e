"""Kinds of offers: those that differ in price and place only."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from launcher.cost.gpus import usable_gib
from launcher.cost.offer import Offer


@dataclass(frozen=True)
class Kind:
    """Offers of the same provider, card, count and line, all spot or none, cheapest first."""

    offers: tuple[Offer, ...]
    usable_gib: float

    @property
    def sample(self) -> Offer:
        """Any of them, for what they share."""
        return self.offers[0]

    def cheapest_with_room(self, host_gib: float) -> Offer | None:
        """The cheapest with so much host memory; one whose memory was rounded down may have it."""
        return next((o for o in self.offers if o.host_memory_is_floor or host_room_gib(o) >= host_gib), None)

    def other_regions(self, offer: Offer) -> tuple[str, ...]:
        """Where else it is to be had at this price."""
        same = {other.region for other in self.offers if other.usd_per_hour == offer.usd_per_hour}
        return tuple(sorted(same - {offer.region}))


def kinds_of(offers: Iterable[Offer]) -> list[Kind]:
    """Offers by kind."""
    groups: dict[tuple[object, ...], list[Offer]] = defaultdict(list)
    for offer in offers:
        key = (offer.provider, offer.gpu, offer.gpu_memory_gib, offer.gpus, offer.spot, line_gbit_s(offer))
        groups[key].append(offer)
    return [_kind(group) for group in groups.values()]


def _kind(offers: list[Offer]) -> Kind:
    offers.sort(key=lambda offer: (offer.usd_per_hour, offer.region))
    return Kind(tuple(offers), usable_gib(offers[0].gpu, offers[0].gpu_memory_gib))


def line_gbit_s(offer: Offer) -> float | None:
    """The offer's line, rounded down to a power of two: machines with a like line take as long to set up."""
    speed = offer.download_gbit_s
    return None if speed is None else 2.0 ** math.floor(math.log2(speed))


def host_room_gib(offer: Offer) -> float:
    """Host memory of an offer, boundless where it does not say."""
    return math.inf if offer.host_memory_gib is None else offer.host_memory_gib
