"""Questions and answers of the emulated APIs, apart from any server, and the faults that spoil them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from launcher.cost.offer import Provider
from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.faults import Fault, Operation


@dataclass(frozen=True)
class Request:
    """One HTTP request. path: below the API's own address, without slashes at its ends. body: parsed JSON."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    has_key: bool = True

    def field(self, name: str, default: Any = None) -> Any:
        """A field of the body, where that is an object."""
        return self.body.get(name, default) if isinstance(self.body, dict) else default


@dataclass(frozen=True)
class Reply:
    """Status and JSON body."""

    body: Any
    status: int = 200


class ProviderApi(Protocol):
    """One emulated API."""

    provider: Provider

    def operation(self, request: Request) -> Operation | None:
        """What the request does, as far as faults can spoil it."""
        ...

    def answer(self, request: Request, fault: Fault | None) -> Reply:
        """Do what is asked. The fault is one that spoils the deed, not the answer."""
        ...

    def failure(self, status: int, message: str) -> Reply:
        """An answer without success, in the API's own form."""
        ...


def exchange(cloud: SandboxCloud, api: ProviderApi, request: Request) -> Reply | None:
    """The API's answer to the request, or None: the connection breaks without one."""
    if not request.has_key:
        return api.failure(401, "Unauthorized")
    operation = api.operation(request)
    fault = cloud.faults.take(api.provider, operation) if operation else None
    if fault is None:
        return api.answer(request, None)
    cloud.record("fault", provider=api.provider, op=operation, how=fault.how)
    if fault.how in ("429", "500"):
        return api.failure(int(fault.how), "too many requests" if fault.how == "429" else "internal error")
    if fault.how == "reset":
        return None
    if fault.how == "slow" and operation != "create":
        cloud.clock.sleep(fault.seconds)
    reply = api.answer(request, fault)
    is_unheard = fault.how == "lost" or (fault.how == "late" and operation == "create")
    return None if is_unheard else reply
