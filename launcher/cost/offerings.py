"""Which offers a user asks for, cheapest first, and equal ones in several places as one row. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from launcher.cost.gpus import all_gpus, find_gpu, memory_in_name
from launcher.cost.offer import Offer, Provider
from launcher.errors import BadInput

_COUNTS = re.compile(r"(\d{1,4})(?:\s*(?:\.\.|-)\s*(\d{1,4})?)?")
MOST_GPUS = 9999
# Endings of our names that tell the form of a card, not another card: RTX6000-Ada is no RTX6000.
_FORMS = ("-PCIe", "-NVL", "-Server", "-MaxQ")


@dataclass(frozen=True)
class WantedGpu:
    """GPU models that a person's word means, and the GiB of one GPU where the word states a size."""

    names: tuple[str, ...]
    memory_gib: float | None

    def takes(self, offer: Offer) -> bool:
        """Whether the offer has such GPUs."""
        return offer.gpu in self.names and self.memory_gib in (None, offer.gpu_memory_gib)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an offer must have; the defaults ask for nothing.

    gpus: one of these. spot: True for spot offers alone, False for those that stay, None for both.
    """

    gpus: tuple[WantedGpu, ...] = ()
    min_memory_gib: float = 0.0
    fewest_gpus: int = 1
    most_gpus: int = MOST_GPUS
    providers: tuple[Provider, ...] = ()
    spot: bool | None = None

    def takes(self, offer: Offer) -> bool:
        """Whether the offer is one of those."""
        return (
            (not self.gpus or any(gpu.takes(offer) for gpu in self.gpus))
            and offer.gpu_memory_gib >= self.min_memory_gib
            and self.fewest_gpus <= offer.gpus <= self.most_gpus
            and (not self.providers or offer.provider in self.providers)
            and self.spot in (None, offer.spot)
        )


@dataclass(frozen=True)
class Row:
    """The same offer in several places: the first of them, and the regions and zones of all."""

    offer: Offer
    places: tuple[str, ...]


def wanted_gpu(name: str) -> WantedGpu:
    """What a person means by a GPU's name: `H100` is any H100, `H100 SXM` and `H100-NVL` are that one form of it.

    Raises:
        BadInput: no such GPU.
    """
    size = memory_in_name(name)
    model = find_gpu(name, size)
    if "SXM" in name.upper():
        return WantedGpu((model.name,), size)
    forms = {model.name, *(model.name + form for form in _FORMS)}
    return WantedGpu(tuple(gpu.name for gpu in all_gpus() if gpu.name in forms), size)


def parse_counts(text: str) -> tuple[int, int]:
    """`1..8`, `2` or `4..` as the fewest and the most GPUs.

    Raises:
        BadInput: it is none of these, or asks for none.
    """
    match = _COUNTS.fullmatch(text.strip())
    fewest = int(match[1]) if match else 0
    most = fewest if match and text.strip().isdigit() else int(match[2]) if match and match[2] else MOST_GPUS
    if match is None or not 1 <= fewest <= most:
        raise BadInput(f"--gpus: {text!r}: a number of GPUs from 1, or a range such as 1..8 or 4.., is needed")
    return fewest, most


def ranked(offers: Iterable[Offer], wanted: Wanted | None = None) -> list[Offer]:
    """The wanted offers by dollars per hour; equal prices in a fixed order."""
    chosen = offers if wanted is None else (offer for offer in offers if wanted.takes(offer))
    return sorted(chosen, key=_rank)


def _rank(offer: Offer) -> tuple[float, float, bool, str, str, str, str]:
    # More memory for the same money first, then what is not taken away.
    memory = -offer.gpus * offer.gpu_memory_gib
    place = (offer.region, offer.zone or "")
    return (offer.usd_per_hour, memory, offer.spot, offer.provider, offer.instance_type, *place)


def as_rows(offers: Iterable[Offer]) -> list[Row]:
    """Offers that differ in their place alone become one row, in the order of their first."""
    places: dict[Offer, list[str]] = {}
    first: dict[Offer, Offer] = {}
    for offer in offers:
        kind = replace(offer, region="", zone=None)
        first.setdefault(kind, offer)
        places.setdefault(kind, []).append(offer.zone or offer.region)
    return [Row(first[kind], tuple(dict.fromkeys(where))) for kind, where in places.items()]
