"""One's own tuned model against an API: US dollars a month each way, break-even calls, payback of the training.

Prices are arguments with a date, none is built in. Pure; `today` is passed in. A crossover that does not exist is None
and is said in words, never infinity or a negative number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from launcher.cost.break_even import MOST_CALLS, BreakEven, find_break_even
from launcher.cost.self_hosting import HOURS_PER_MONTH, Mode, Serving
from launcher.cost.spread import Quantiles, Spread
from launcher.errors import BadInput

OLD_PRICE_DAYS = 90
DAYS_PER_MONTH = HOURS_PER_MONTH / 24


@dataclass(frozen=True, kw_only=True)
class ApiPrice:
    """What an API takes: US dollars per million tokens, and the date somebody read them."""

    input_usd_per_million: float
    output_usd_per_million: float
    priced_on: date

    def usd_per_call(self, input_tokens: float, output_tokens: float) -> float:
        """One call."""
        return (input_tokens * self.input_usd_per_million + output_tokens * self.output_usd_per_million) / 1e6


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Calls a month and tokens a call. `own_*`: of one's own model, which may need a shorter prompt."""

    calls: float
    input_tokens: float
    output_tokens: float
    own_input_tokens: float | None = None
    own_output_tokens: float | None = None

    @property
    def own_tokens_per_call(self) -> float:
        """Input and output tokens of one call to one's own model."""
        own_input = self.input_tokens if self.own_input_tokens is None else self.own_input_tokens
        own_output = self.output_tokens if self.own_output_tokens is None else self.own_output_tokens
        return own_input + own_output


@dataclass(frozen=True)
class ModeCost:
    """One way of serving. Quantiles are over the serving speed; the 90th percentile of cost is the slowest server.

    saves_usd: API minus own, a month (negative where the API is cheaper). payback_months: None where it never pays.
    """

    mode: Mode
    gpus: int
    gpu_hours: Quantiles
    usd: Quantiles
    saves_usd: Quantiles
    break_even: BreakEven
    break_even_low: BreakEven
    break_even_high: BreakEven
    payback_months: float | None
    payback: str


@dataclass(frozen=True)
class Comparison:
    """The API's bill, each way of serving, and what was taken for granted."""

    api_usd: float
    api_usd_per_call: float
    modes: tuple[ModeCost, ...]
    cheapest: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]


def compare(
    traffic: Traffic,
    price: ApiPrice,
    serving: Serving,
    speed: Spread,
    modes: Sequence[Mode],
    today: date,
    training_usd: float = 0.0,
    engineer_usd: float = 0.0,
) -> Comparison:
    """Compare one's own model with an API.

    Args:
        traffic: calls a month, tokens a call.
        price: the API's prices.
        serving: the GPU and its price; its `tokens_per_second` is replaced by quantiles of `speed`.
        speed: tokens per second of one GPU.
        modes: ways of serving to price.
        today: the date the prices' age is counted to.
        training_usd: what the tuning cost, once.
        engineer_usd: people's time a month that one's own model takes and an API does not.

    Raises:
        BadInput: a number that is not positive and finite, or a price date in the future; every fault at once.
    """
    _refuse_bad_numbers(traffic, price, serving, speed, training_usd, engineer_usd)
    warnings = price_age_warnings(price.priced_on, today)
    per_call = price.usd_per_call(traffic.input_tokens, traffic.output_tokens)
    costs = tuple(_mode_cost(mode, traffic, per_call, serving, speed, training_usd, engineer_usd) for mode in modes)
    return Comparison(
        api_usd=per_call * traffic.calls,
        api_usd_per_call=per_call,
        modes=costs,
        cheapest=_cheapest(costs, per_call * traffic.calls),
        assumptions=tuple(_assumptions(traffic, serving, modes)),
        warnings=warnings,
    )


def price_age_warnings(priced_on: date, today: date) -> tuple[str, ...]:
    """A line where the price is old.

    Raises:
        BadInput: the date lies in the future.
    """
    age = (today - priced_on).days
    if age < 0:
        raise BadInput(f"--price-date: {priced_on}: in the future (today is {today}); write the day you read the price")
    if age > OLD_PRICE_DAYS:
        return (f"the API's prices are {age} days old ({priced_on}); prices change, read them again",)
    return ()


def _mode_cost(
    mode: Mode,
    traffic: Traffic,
    per_call: float,
    serving: Serving,
    speed: Spread,
    training_usd: float,
    engineer_usd: float,
) -> ModeCost:
    # Slow servers are dear ones: the 90th percentile of cost is the 10th of speed.
    fast, usual, slow = (_at_speed(serving, traffic, speed.quantile(share)) for share in (0.9, 0.5, 0.1))
    servers = (fast, usual, slow)
    usd = Quantiles(*(server.usd(mode, traffic.calls) + engineer_usd for server in servers))
    api_usd = per_call * traffic.calls
    even = [_break_even(server, mode, per_call, engineer_usd) for server in servers]
    months, words = _payback(training_usd, api_usd - usd.p50)
    return ModeCost(
        mode=mode,
        gpus=usual.gpus(mode, traffic.calls),
        gpu_hours=Quantiles(*(server.hours(mode, traffic.calls) for server in servers)),
        usd=usd,
        saves_usd=Quantiles(api_usd - usd.p90, api_usd - usd.p50, api_usd - usd.p10),
        break_even=even[1],
        break_even_low=even[0],
        break_even_high=even[2],
        payback_months=months,
        payback=words,
    )


def _at_speed(serving: Serving, traffic: Traffic, tokens_per_second: float) -> Serving:
    return dataclasses.replace(
        serving, tokens_per_second=tokens_per_second, tokens_per_call=traffic.own_tokens_per_call
    )


def _break_even(server: Serving, mode: Mode, per_call: float, engineer_usd: float) -> BreakEven:
    return find_break_even(
        lambda calls: per_call * calls - server.usd(mode, calls) - engineer_usd,
        own_usd_per_call=server.usd_per_call_at_full_load(),
        api_usd_per_call=per_call,
    )


def _payback(training_usd: float, saves_usd: float) -> tuple[float | None, str]:
    if training_usd == 0:
        return None, "no training cost given"
    if saves_usd <= 0:
        return None, "never: at this traffic the API is the cheaper one"
    months = training_usd / saves_usd
    return months, f"in {months:,.1f} months" if months >= 1 else f"in {months * DAYS_PER_MONTH:,.1f} days"


def _cheapest(costs: Sequence[ModeCost], api_usd: float) -> str:
    best = min(costs, key=lambda cost: cost.usd.p50)
    if best.usd.p50 >= api_usd:
        return "the API"
    sure = "" if best.usd.p90 < api_usd else " (a slow server would make the API the cheaper one)"
    return f"your own model, {best.mode}{sure}"


def _assumptions(traffic: Traffic, serving: Serving, modes: Sequence[Mode]) -> list[str]:
    lines = [
        "GPU time is paid by the minute, a month has 730.5 hours, and the machine serves nothing else",
        f"a call to your own model has {traffic.own_tokens_per_call:,.0f} tokens, input and output together",
    ]
    if Mode.BY_HOUR in modes:
        lines.append(
            f"by-hour: {serving.windows_per_month:g} batch windows a month at full load, "
            f"{serving.startup_minutes:g} minutes of start-up each; calls wait for their window"
        )
    if set(modes) - {Mode.BY_HOUR}:
        lines.append(
            f"always-on and on-demand: the busiest hour has {serving.peak_factor:g} x the calls of the mean one"
        )
    if set(modes) & {Mode.ON_DEMAND_CLUSTERED, Mode.ON_DEMAND_SPREAD}:
        lines.append(
            f"on-demand: {serving.startup_minutes:g} minutes of start-up, off after {serving.idle_minutes:g} idle "
            f"minutes; calls come at random, one by one (spread) or {serving.calls_per_session:g} together (clustered)"
        )
    return lines


def _refuse_bad_numbers(
    traffic: Traffic,
    price: ApiPrice,
    serving: Serving,
    speed: Spread,
    training_usd: float,
    engineer_usd: float,
) -> None:
    positive = {
        "--calls-per-month": traffic.calls,
        "--input-tokens": traffic.input_tokens,
        "--output-tokens": traffic.output_tokens,
        "--own-input-tokens": traffic.own_input_tokens,
        "--own-output-tokens": traffic.own_output_tokens,
        "--api-input-usd-per-million": price.input_usd_per_million,
        "--api-output-usd-per-million": price.output_usd_per_million,
        "--gpu-usd-per-hour": serving.usd_per_hour,
        "--tokens-per-second": speed.median,
        "--windows-per-month": serving.windows_per_month,
        "--calls-per-session": serving.calls_per_session,
        "--peak-factor": serving.peak_factor,
    }
    not_negative = {
        "--startup-minutes": serving.startup_minutes,
        "--idle-minutes": serving.idle_minutes,
        "--training-usd": training_usd,
        "--engineer-hours x --engineer-usd-per-hour": engineer_usd,
    }
    faults = [
        f"{name}: {number:g}: must be above 0 and finite"
        for name, number in positive.items()
        if number is not None and not 0 < number < math.inf
    ]
    faults += [
        f"{name}: {number:g}: must be finite and not negative"
        for name, number in not_negative.items()
        if not 0 <= number < math.inf
    ]
    if traffic.calls > MOST_CALLS:
        faults.append(f"--calls-per-month: {traffic.calls:g}: {MOST_CALLS:g} at most")
    if serving.peak_factor < 1:
        faults.append(
            f"--peak-factor: {serving.peak_factor:g}: the busiest hour cannot be below the mean one; 1 or more"
        )
    if faults:
        raise BadInput(*faults)
