"""What else a provider says before anything is rented: how fast the account may spend, and what time it is there."""

from __future__ import annotations

import math
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from launcher.cloud.fetch import SourceFailed, fetch_json
from launcher.cloud.rentals import TIMEOUT_S, access
from launcher.cost.offer import Provider, positive_number

_RUNPOD_QUERY = "query myself { myself { spendLimit currentSpendPerHr } }"


@dataclass(frozen=True)
class HourlyLimit:
    """What all machines of an account together may cost an hour, and what they cost now."""

    usd_per_hour: float
    spending_usd_per_hour: float


def hourly_limit(provider: Provider) -> HourlyLimit | None:
    """The account's limit; None where the provider does not tell of one (vast.ai and Lambda do not).

    Raises:
        SourceFailed: no usable answer.
    """
    if provider != "runpod":
        return None
    key, url = access(provider)
    answer = fetch_json(f"{url}/graphql", timeout_s=TIMEOUT_S, key=key, body={"query": _RUNPOD_QUERY})
    data = answer.get("data")
    myself = data.get("myself") if isinstance(data, dict) else None
    if not isinstance(myself, dict):
        raise SourceFailed("the answer holds no account")
    limit = positive_number(myself.get("spendLimit"))
    return None if limit is None else HourlyLimit(limit, positive_number(myself.get("currentSpendPerHr")) or 0.0)


def clock_skew_s(provider: Provider) -> float:
    """By how many seconds this machine's clock is ahead of the provider's, at the least.

    The header is cut to whole seconds, and when it was written is known to half the round trip: what these two explain
    is no skew. Any answer will do, an error too: each carries the server's time (RFC 9110, 6.6.1). No key is sent.

    Raises:
        SourceFailed: no answer, or one without a time.
    """
    _, url = access(provider)
    asked_at = time.time()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as fault:
        fault.close()
        date = fault.headers.get("Date")
    except TimeoutError:
        raise SourceFailed(f"no answer within {TIMEOUT_S:g} s") from None
    except (OSError, ValueError) as fault:  # URLError is an OSError; a wrong address is a ValueError
        raise SourceFailed(f"not reached ({getattr(fault, 'reason', type(fault).__name__)})") from None
    answered_at = time.time()
    try:
        there = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        raise SourceFailed("the answer does not say what time it is") from None
    skew_s, unknown_s = (asked_at + answered_at) / 2 - (there + 0.5), abs(answered_at - asked_at) / 2 + 0.5
    return math.copysign(max(0.0, abs(skew_s) - unknown_s), skew_s)
