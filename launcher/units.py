"""Units, parsed once where a file is read: durations become seconds, money US dollars, memory GiB, all floats.

Every parser raises ValueError with what would be right; the caller adds file, field and value.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile(rf"(?:({_NUMBER})d)?(?:({_NUMBER})h)?(?:({_NUMBER})m)?(?:({_NUMBER})s)?")
_SECONDS_PER_UNIT = (86400, 3600, 60, 1)
_USD = re.compile(rf"\$\s*({_NUMBER})|({_NUMBER})\s*(?:usd)?", re.IGNORECASE)
_MEMORY = re.compile(rf"({_NUMBER})\s*([KMGT]i?B)")
_BYTES_PER_UNIT = {
    prefix + suffix: base ** (power + 1)
    for suffix, base in (("iB", 1024), ("B", 1000))
    for power, prefix in enumerate("KMGT")
}


def parse_duration(value: Any) -> float:
    """`6h`, `90m`, `1h30m`, `1.5h`, `2d` as seconds. A bare number is refused: nobody can tell its unit."""
    match = _DURATION.fullmatch(re.sub(r"\s+", "", value)) if isinstance(value, str) else None
    if match is None or not any(match.groups()):
        raise ValueError("a duration such as 6h, 90m or 1h30m is needed")
    seconds = sum(float(part or 0) * unit for part, unit in zip(match.groups(), _SECONDS_PER_UNIT, strict=True))
    return _positive(seconds, "a duration")


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back to exactly this number of seconds."""
    if not seconds.is_integer() or seconds >= 2**53:
        return f"{_plain(seconds)}s"
    hours, rest = divmod(int(seconds), 3600)
    minutes, last = divmod(rest, 60)
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (last, "s")) if n) or "0s"


def parse_usd(value: Any) -> float:
    """`15 usd`, `$15`, `15` as US dollars; the fields' names say usd, so a bare number is clear."""
    if isinstance(value, str):
        match = _USD.fullmatch(value.strip())
        if match is None:
            raise ValueError("an amount above 0 in US dollars is needed, such as 15 usd or $15")
        value = float(match[1] or match[2])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("an amount above 0 in US dollars is needed, such as 15 usd or $15")
    return _positive(value, "an amount in US dollars")


def parse_memory(value: Any) -> float:
    """`80GiB`, `512 MiB`, or decimal `24GB` (22.35 GiB) as GiB. A bare number or `24G` is refused as ambiguous."""
    match = _MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("an amount of memory such as 80GiB is needed (24GB is read as decimal: 22.35GiB)")
    return _positive(float(match[1]) * (_BYTES_PER_UNIT[match[2]] / 2**30), "an amount of memory")


def format_memory(gib: float) -> str:
    """The text that `parse_memory` reads back to exactly this number of GiB."""
    return f"{_plain(gib)}GiB"


def _positive(value: float, what: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (0 < number < math.inf):
        raise ValueError(f"{what} above 0 and finite is needed; for 'no limit' leave the field out")
    return number


def _plain(value: float) -> str:
    # repr is exact but may use an exponent, which has no place in a unit string.
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0")


Seconds = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
Usd = Annotated[float, BeforeValidator(parse_usd)]
Gib = Annotated[float, BeforeValidator(parse_memory), PlainSerializer(format_memory, return_type=str)]
