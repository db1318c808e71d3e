"""From how many calls a month one's own model is the cheaper one, in a number where there is one, and in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MOST_CALLS = 1e12  # a month: beyond every API's traffic
_GRID = 400


@dataclass(frozen=True)
class BreakEven:
    """The smallest number of calls a month at which one's own model costs no more; None: there is none."""

    calls: float | None
    words: str


def find_break_even(saves: Callable[[float], float], own_usd_per_call: float, api_usd_per_call: float) -> BreakEven:
    """The break-even of a month's saving in US dollars as a function of calls.

    Args:
        saves: API minus own at this many calls a month.
        own_usd_per_call: the least a call to one's own model can cost.
        api_usd_per_call: what one costs at the API.
    """
    calls = first_break_even(saves)
    if calls is None:
        if own_usd_per_call < api_usd_per_call:
            return BreakEven(None, f"not up to {MOST_CALLS:.0e} calls a month")
        own, api = _usd(own_usd_per_call), _usd(api_usd_per_call)
        return BreakEven(None, f"never: a call costs {own} of GPU time even at full load, {api} at the API")
    words = "from the first call" if calls <= 1 else f"from {calls:,.0f} calls a month"
    # Whole GPUs are steps: just above one, the next costs more than the calls it is needed for.
    dearer_again = any(saves(more) < 0 for more in _grid() if more > calls * (1 + 1e-6))
    return BreakEven(calls, f"{words}, but not just above each further GPU" if dearer_again else words)


def first_break_even(saves: Callable[[float], float]) -> float | None:
    """The smallest number of calls a month, 1 to MOST_CALLS, at which `saves(calls)` is not negative; None: none.

    On a logarithmic grid, then halved; steps of whole GPUs narrower than one cell of it (7 %) may hide.
    """
    before = 1.0
    for after in _grid():
        if saves(after) >= 0:
            return _halve(saves, before, after)
        before = after
    return None


def _grid() -> list[float]:
    return [MOST_CALLS ** (step / _GRID) for step in range(_GRID + 1)]


def _halve(saves: Callable[[float], float], low: float, high: float) -> float:
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if saves(middle) >= 0 else (middle, high)
    return high


def _usd(amount: float) -> str:
    return f"{amount:.3g} usd" if amount < 1 else f"{amount:,.2f} usd"
