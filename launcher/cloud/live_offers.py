"""Live offers of every provider whose key is at hand: one question for each, behind one interface."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial

from launcher.cloud import lambda_cloud, runpod, vast
from launcher.cloud.keys import find_key
from launcher.cost.intake import Intake
from launcher.cost.offer import Provider

_FETCH: dict[Provider, tuple[str, Callable[[str, str, float, str], Intake]]] = {
    "vast": (vast.URL, vast.fetch_vast),
    "lambda": (lambda_cloud.URL, lambda_cloud.fetch_lambda),
    "runpod": (runpod.URL, runpod.fetch_runpod),
}


def live_questions(
    providers: Iterable[Provider], timeout_s: float, priced_at: str
) -> dict[Provider, Callable[[], Intake]]:
    """For each of these providers whose key is at hand, what asks it for its offers and raises SourceFailed.

    `$LAUNCHER_VAST_URL`, `$LAUNCHER_LAMBDA_URL` and `$LAUNCHER_RUNPOD_URL` put another address in a provider's place.
    """
    questions: dict[Provider, Callable[[], Intake]] = {}
    for provider in providers:
        if provider in _FETCH and (key := find_key(provider)) is not None:
            url, fetch = _FETCH[provider]
            url = os.environ.get(f"LAUNCHER_{provider.upper()}_URL") or url
            questions[provider] = partial(fetch, key, url.rstrip("/"), timeout_s, priced_at)
    return questions
