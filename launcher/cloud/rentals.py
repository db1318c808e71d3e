"""What is rented now, by the providers' own lists, and ending it: the one truth that a ledger is held against."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from launcher.cloud import lambda_cloud, lambda_rentals, runpod, runpod_rentals, vast, vast_rentals
from launcher.cloud.fetch import SourceFailed, in_parallel
from launcher.cloud.keys import find_key
from launcher.cloud.rented import Rented
from launcher.cloud.sandbox_access import SANDBOX_KEY, sandbox_url
from launcher.cost.ledger import in_sandbox
from launcher.cost.offer import RENTED, Provider
from launcher.errors import LauncherError

TIMEOUT_S = 10.0
# The timeout of a socket covers neither looking up a name nor a server that sends a byte a second.
WHOLE_CALL_S = 30.0
# Pauses before a request that met a full or a failing server is made again; they add up to less than one pass of
# `launcher watch`, which asks again anyway.
RETRY_PAUSES_S = (1.0, 2.0, 4.0)

Result = TypeVar("Result")


class ProviderFailed(LauncherError):
    """A provider did not answer a question. It never means that nothing is rented there.

    status: the HTTP status where it answered with an error, None where it did not answer so.
    """

    def __init__(self, provider: str, reason: str, status: int | None = None) -> None:
        super().__init__(f"{provider}: {reason}")
        self.provider, self.reason, self.status = provider, reason, status


class Clouds(Protocol):
    """The providers, as everything that reconciles asks them."""

    def names(self) -> list[Provider]:
        """Those whose key is at hand."""
        ...

    def machines(self, provider: Provider) -> list[Rented]:
        """The provider's own list; ProviderFailed where it cannot be had."""
        ...

    def terminate(self, provider: Provider, instance_id: str) -> None:
        """Ask for a machine's end; ProviderFailed unless the provider says that it ends."""
        ...


class RealClouds:
    """The providers over HTTP."""

    def names(self) -> list[Provider]:
        return list(RENTED) if in_sandbox() else [name for name in RENTED if find_key(name) is not None]

    def machines(self, provider: Provider) -> list[Rented]:
        return list_rentals(provider)

    def terminate(self, provider: Provider, instance_id: str) -> None:
        terminate(provider, instance_id)


@dataclass(frozen=True)
class _Api:
    url: str
    machines: Callable[[str, str, float], list[Rented]]
    terminate: Callable[[str, str, float, str], None]
    balance: Callable[[str, str, float], float | None] | None
    way_out: str


_APIS: dict[str, _Api] = {
    "vast": _Api(
        vast.URL,
        vast_rentals.list_vast,
        vast_rentals.terminate_vast,
        vast_rentals.balance_vast,
        "`vastai destroy instance {id}` or https://cloud.vast.ai/instances/",
    ),
    "lambda": _Api(
        lambda_cloud.URL,
        lambda_rentals.list_lambda,
        lambda_rentals.terminate_lambda,
        None,
        "https://cloud.lambda.ai/instances",
    ),
    "runpod": _Api(
        runpod.URL,
        runpod_rentals.list_runpod,
        runpod_rentals.terminate_runpod,
        runpod_rentals.balance_runpod,
        "`runpodctl remove pod {id}` or https://console.runpod.io/pods",
    ),
}


def list_rentals(provider: Provider) -> list[Rented]:
    """Every machine of the account, also those that this launcher did not rent.

    Raises:
        ProviderFailed: the list cannot be had, whole.
    """
    return _call(provider, _APIS[provider].machines)


def terminate(provider: Provider, instance_id: str) -> None:
    """End a machine; the provider's list says whether it did.

    Raises:
        ProviderFailed: the provider did not say that it does.
    """
    _call(provider, lambda key, url, timeout_s: _APIS[provider].terminate(key, url, timeout_s, instance_id))


def balance(provider: Provider) -> float | None:
    """Dollars left on the account; None where the provider does not tell (Lambda bills afterwards).

    Raises:
        ProviderFailed: the question was not answered.
    """
    ask = _APIS[provider].balance
    return None if ask is None else _call(provider, ask)


def way_out(provider: str, instance_id: str) -> str:
    """How a user ends a machine by hand."""
    return _APIS[provider].way_out.format(id=instance_id)


def _call(provider: Provider, ask: Callable[[str, str, float], Result]) -> Result:
    """The answer, asked for again after growing pauses where the provider is overrun or failing."""
    try:
        key, url = access(provider)
        question = partial(ask, key, url, TIMEOUT_S)
        for pause_s in RETRY_PAUSES_S:
            try:
                return _within_time(question)
            except SourceFailed as fault:
                if fault.status != 429 and (fault.status or 0) < 500:
                    raise
            time.sleep(pause_s)
        return _within_time(question)
    except SourceFailed as fault:
        raise ProviderFailed(provider, str(fault), fault.status) from None


def access(provider: Provider) -> tuple[str, str]:
    """Key and address. In the sandbox no real key is used and no real provider is reached.

    Raises:
        SourceFailed: there is no key, or the sandbox is not up.
    """
    stated = os.environ.get(f"LAUNCHER_{provider.upper()}_URL")
    if in_sandbox():
        return SANDBOX_KEY, (stated or sandbox_url(provider)).rstrip("/")
    key = find_key(provider)
    if key is None:
        raise SourceFailed(f"no key: set {provider.upper()}_API_KEY, or log in with the provider's own tool")
    return key, (stated or _APIS[provider].url).rstrip("/")


def _within_time(question: Callable[[], Result]) -> Result:
    answer = in_parallel({"call": question}, WHOLE_CALL_S)["call"]
    if isinstance(answer, SourceFailed):
        raise answer
    return answer
