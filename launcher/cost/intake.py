"""From what a source lists to offers: the one place that names GPUs, checks sizes and prices, and counts the rest.

A catalog of ten thousand rows may hold hundreds that are of no use; each kind of them is one line of warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

from launcher.cost.gpus import GpuModel, find_gpu, snap_memory_gib
from launcher.cost.offer import Offer, Provider, valid_price
from launcher.errors import MOST_FAULTS_SHOWN, BadInput
from launcher.faults import printable, show_value

MOST_NAMES_SHOWN = 8


class Intake:
    """Collects the offers of one provider from one source.

    what: the source's name in warnings, a file or an address. `offers`: those that are of use. `cpu_rows`: machines
    without a GPU, which are no offers and no cause for a warning. `sold_out`: types listed without capacity.
    """

    def __init__(self, provider: Provider, source: Literal["catalog", "snapshot", "live"], what: str) -> None:
        self.provider = provider
        self.source = source
        self.what = what
        self.cpu_rows = 0
        self.sold_out = 0
        self._offers: dict[Offer, None] = {}
        self._broken: list[str] = []
        self._left_out: dict[str, Counter[str]] = {}

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The offers, each once, in the order of the source."""
        return tuple(self._offers)

    def take(self, names: Sequence[str], memory_gib: float, price: object, spot_price: object, **facts: Any) -> None:
        """Add a machine: an offer by the hour, and one as spot, as far as it has these prices.

        Args:
            names: what the provider calls its GPU, the most exact name first.
            memory_gib: of one GPU, as stated.
            price: dollars per hour of the whole machine, as stated.
            spot_price: the same as spot; None where the provider does not sell it so.
            facts: the other fields of `Offer`.
        """
        model = next((model for name in names if (model := _model(name, memory_gib)) is not None), None)
        if model is None:
            return self.leave_out("GPU not known, left out", names[0])
        size = snap_memory_gib(model.name, memory_gib)
        if size is None:
            return self.leave_out("no such GPU has this memory, left out", f"{names[0]} with {memory_gib:.4g} GiB")
        for spot, stated in ((False, price), (True, spot_price)):
            usd_per_hour = valid_price(stated)
            if usd_per_hour is not None:
                offer = Offer(
                    provider=self.provider,
                    source=self.source,
                    gpu=model.name,
                    gpu_memory_gib=size,
                    spot=spot,
                    usd_per_hour=usd_per_hour,
                    **facts,
                )
                self._offers[offer] = None
            elif not spot:
                self.leave_out("no usable price, left out", show_value(stated))
            elif stated is not None:
                self.leave_out("no usable spot price, left out as spot", show_value(stated))

    def leave_out(self, kind: str, example: str) -> None:
        """Count a machine that is of no use, by what is wrong with it; the example is shown."""
        self._left_out.setdefault(kind, Counter())[printable(example)] += 1

    @contextmanager
    def reading(self, place: str) -> Iterator[None]:
        """Within it, an entry of a server's answer that is not as expected is named, and the next one read."""
        try:
            yield
        except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as fault:
            self.break_row(f" {place}", f"cannot be read ({type(fault).__name__}: {str(fault)[:60]})")

    def break_row(self, place: str, reason: str) -> None:
        """Name a row that cannot be read."""
        self._broken.append(printable(f"{self.what}{place}: {reason}"))

    def warnings(self) -> list[str]:
        """What was left out, one line a kind, and each row that cannot be read, ten at most."""
        lines = []
        for kind, examples in self._left_out.items():
            count = examples.total()
            rows = "1 row" if count == 1 else f"{count} rows"
            lines.append(f"{self.what}: {kind}: {rows} ({_listed(examples)})")
        more = len(self._broken) - MOST_FAULTS_SHOWN
        lines += self._broken[:MOST_FAULTS_SHOWN]
        return lines + ([f"{self.what}: and {more} more rows that cannot be read"] if more > 0 else [])


def _listed(examples: Counter[str]) -> str:
    shown = [name if count == 1 else f"{name}: {count}" for name, count in examples.most_common(MOST_NAMES_SHOWN)]
    return ", ".join(shown + (["..."] if len(examples) > len(shown) else []))


@lru_cache(maxsize=4096)
def _model(name: str, memory_gib: float) -> GpuModel | None:
    try:
        return find_gpu(name, memory_gib)
    except BadInput:
        return None
