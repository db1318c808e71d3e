"""What this planner gets for a seed's claim: parameters, memory, hours and dollars, offline and reproducible.

Prices are those of the snapshot that ships with the package, with its dates, so that the table is the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from launcher.cost.duration import Duration, estimate_duration
from launcher.cost.gpus import find_gpu, usable_gib
from launcher.cost.memory import estimate_memory
from launcher.cost.speed import tokens_per_second_per_gpu
from launcher.cost.spread import Quantiles, Spread
from launcher.seeds.prices import SnapshotPrices, snapshot_prices
from launcher.seeds.setup import Kind, Setup
from launcher.seeds.verdict import Result

GIB = 2**30


def compute(entry: dict[str, Any]) -> Result:
    """The planner's figure for the `planner` entry of a claim.

    Raises:
        BadInput: an unknown model or GPU.
    """
    setup = Setup.model_validate(entry)
    return _KINDS[setup.kind](setup)


# --- parameters ------------------------------------------------------------------------------------------------------


def _parameters(setup: Setup) -> Result:
    return _exact(setup.architecture.adapter_parameters(setup.rank, setup.targets) / 1e6)


def _parameter_ratio(setup: Setup) -> Result:
    facts = _parameter_facts(setup)
    return _exact(1000 * facts["model_billions"] / facts["adapter_millions"], **facts)


def _parameter_percent(setup: Setup) -> Result:
    facts = _parameter_facts(setup)
    return _exact(facts["adapter_millions"] / facts["model_billions"] / 10, **facts)


def _adapter_megabytes(setup: Setup) -> Result:
    facts = _parameter_facts(setup)
    return Result(2 * facts["adapter_millions"], 4 * facts["adapter_millions"], facts=facts)


def _decode_ratio(setup: Setup) -> Result:
    other = Setup(kind=setup.kind, model=setup.other)
    return _exact(other.architecture.parameters / setup.architecture.parameters)


def _parameter_facts(setup: Setup) -> dict[str, float]:
    return {
        "adapter_millions": setup.architecture.adapter_parameters(setup.rank, setup.targets) / 1e6,
        "model_billions": setup.architecture.parameters / 1e9,
    }


# --- memory ----------------------------------------------------------------------------------------------------------


def _memory(setup: Setup) -> Result:
    usable = usable_gib(setup.gpu, setup.gpu_memory_gib)
    estimate = estimate_memory(setup.workload)
    fits = estimate.fits(usable)
    facts = {
        "usable_gib": usable,
        "weights_gib": estimate.components["weights"],
        "model_gib": 2 * setup.architecture.parameters / GIB,
        "fits": {"yes": "with room to spare", "tight": "if all goes as expected", "no": "not"}[fits],
    }
    return Result(estimate.low_gib, estimate.high_gib, estimate.expected_gib, fits, facts)


# --- time and money --------------------------------------------------------------------------------------------------


def _hours(setup: Setup) -> Result:
    (work,) = setup.jobs
    duration = _durations(setup)[0]
    speed = work.train_tokens / (duration.training_hours.p50 * 3600)
    return _quantiles(duration.hours, tokens_millions=work.train_tokens / 1e6, tokens_per_second=speed)


def _cost(setup: Setup) -> Result:
    """Each job on a machine of its own, which all guess wrong together: quantiles are added."""
    durations = _durations(setup)
    prices = snapshot_prices(setup.gpu, setup.gpu_memory_gib, setup.gpus, (setup.provider,))
    if prices is None:
        return _no_price(setup)
    sums = (sum(getattr(d.hours, q) for d in durations) * prices.cheapest for q in ("p10", "p50", "p90"))
    hours = sum(duration.hours.p50 for duration in durations)
    return _quantiles(Quantiles(*sums), machine_hours=hours, usd_per_hour=prices.cheapest)


def _durations(setup: Setup) -> list[Duration]:
    gpu = find_gpu(setup.gpu, setup.gpu_memory_gib)
    return [estimate_duration(setup.workload, work, gpu, setup.provider, None) for work in setup.jobs]


def _same_work(setup: Setup) -> Result:
    hours = _same_work_hours(setup)
    spread = Quantiles(*(hours.quantile(share) for share in (0.1, 0.5, 0.9)))
    return _quantiles(spread, speedup=setup.reference_hours / hours.median)


def _same_work_usd(setup: Setup) -> Result:
    prices = snapshot_prices(setup.gpu, setup.gpu_memory_gib, setup.gpus, setup.providers)
    usd_per_hour = setup.usd_per_hour if prices is None or setup.usd_per_hour else prices.cheapest
    if usd_per_hour is None:
        return _no_price(setup)
    hours = _same_work_hours(setup)
    usd = Quantiles(*(hours.quantile(share) * usd_per_hour for share in (0.1, 0.5, 0.9)))
    return _quantiles(usd, hours=hours.median, usd_per_hour=usd_per_hour)


def _same_work_hours(setup: Setup) -> Spread:
    """Hours for what the reference GPU does in its hours; on the reference GPU itself exactly those."""
    gpu = find_gpu(setup.gpu, setup.gpu_memory_gib)
    reference = find_gpu(setup.reference_gpu, setup.reference_memory_gib)
    if gpu == reference:
        return Spread(setup.reference_hours)
    here, there = (tokens_per_second_per_gpu(setup.workload, each) for each in (gpu, reference))
    return Spread(
        setup.reference_hours * there.median / here.median,
        math.hypot(here.above, there.below),
        math.hypot(here.below, there.above),
    )


def _price(setup: Setup) -> Result:
    prices = snapshot_prices(setup.gpu, setup.gpu_memory_gib, setup.gpus, setup.providers)
    if prices is None:
        return _no_price(setup)
    usd = (prices.cheapest * setup.times, prices.median * setup.times, prices.dearest * setup.times)
    return _quantiles(Quantiles(*usd), **_price_facts(prices))


def _rent(setup: Setup) -> Result:
    prices = snapshot_prices(setup.gpu, setup.gpu_memory_gib, setup.gpus, setup.providers)
    if prices is None:
        return _no_price(setup)
    low, high = setup.hours
    usd = Quantiles(prices.cheapest * low, prices.median * (low + high) / 2, prices.dearest * high)
    return _quantiles(usd, **_price_facts(prices))


def _price_facts(prices: SnapshotPrices) -> dict[str, Any]:
    return {
        "cheapest": prices.cheapest,
        "dearest": prices.dearest,
        "cheapest_provider": prices.cheapest_provider,
        "dearest_provider": prices.dearest_provider,
        "priced_at": prices.priced_at,
    }


def _no_price(setup: Setup) -> Result:
    where = " or ".join(setup.providers or (setup.provider,))
    what = f"{setup.gpus}x {setup.gpu} with {setup.gpu_memory_gib:g} GB"
    return Result(None, None, facts={"reason": f"no {what} of {where} in the shipped catalogs"})


def _exact(value: float, **facts: Any) -> Result:
    return Result(value, value, facts=facts)


def _quantiles(quantiles: Quantiles, **facts: Any) -> Result:
    return Result(quantiles.p10, quantiles.p90, quantiles.p50, facts=facts)


_KINDS: dict[Kind, Callable[[Setup], Result]] = {
    "parameters": _parameters,
    "parameter_ratio": _parameter_ratio,
    "parameter_percent": _parameter_percent,
    "adapter_megabytes": _adapter_megabytes,
    "decode_ratio": _decode_ratio,
    "memory": _memory,
    "hours": _hours,
    "cost": _cost,
    "same_work": _same_work,
    "same_work_usd": _same_work_usd,
    "price": _price,
    "rent": _rent,
}
