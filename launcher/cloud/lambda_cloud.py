"""Live offers of Lambda: its instance types, with the regions that have capacity now."""

from __future__ import annotations

import re
from typing import Any

from launcher.cloud.fetch import SourceFailed, fetch_json
from launcher.cost.intake import Intake
from launcher.cost.offer import positive_number

URL = "https://cloud.lambda.ai"
# "H100 (80 GB SXM5)", "1x A10 (24 GB PCIe)"
_MEMORY = re.compile(r"\((\d+(?:\.\d+)?) GB\b")


def fetch_lambda(key: str, url: str, timeout_s: float, priced_at: str) -> Intake:
    """The instance types that can be rented now, one offer for each region.

    Raises:
        SourceFailed: no usable answer.
    """
    answer = fetch_json(f"{url}/api/v1/instance-types", timeout_s=timeout_s, key=key)
    return read_answer(answer, Intake("lambda", "live", "lambda live"), priced_at)


def read_answer(answer: dict[str, Any], intake: Intake, priced_at: str) -> Intake:
    """The answer's offers, into `intake`.

    Raises:
        SourceFailed: it is no answer to such a question.
    """
    types = answer.get("data")
    if not isinstance(types, dict):
        raise SourceFailed("the answer holds no instance types")
    for name, entry in types.items():
        with intake.reading(name):
            _take(name, entry, intake, priced_at)
    return intake


def _take(name: str, entry: dict[str, Any], intake: Intake, priced_at: str) -> None:
    kind, regions = entry["instance_type"], entry["regions_with_capacity_available"]
    specs = kind["specs"]
    gpus = specs.get("gpus", 0)
    if gpus == 0:
        intake.cpu_rows += 1
        return
    if type(gpus) is not int or gpus < 0:
        raise ValueError(f"gpus {gpus!r}")
    gpu = kind.get("gpu_description") or kind["description"].partition("x ")[2]
    memory = _MEMORY.search(gpu)
    if memory is None:
        return intake.leave_out("memory not stated, left out", gpu)
    if not regions:
        intake.sold_out += 1
    stated = kind["price_cents_per_hour"]
    cents = positive_number(stated)
    for region in regions:
        intake.take(
            # Of a card that has one form only, such as the A10, our name does not say it.
            (gpu, gpu.partition(" (")[0]),
            float(memory[1]),
            stated if cents is None else cents / 100,
            None,
            instance_type=name,
            gpus=gpus,
            vcpus=positive_number(specs.get("vcpus")),
            host_memory_gib=positive_number(specs.get("memory_gib")),
            region=str(region["name"]),
            priced_at=priced_at,
            available=True,
        )
