"""An instance of an emulated provider: what was ordered, what it is billed, what its host is to be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from launcher.cost.offer import Provider
from launcher.sandbox.billing import Bill, Meter, Traffic
from launcher.sandbox.driver import HostAddress, HostRequest
from launcher.sandbox.faults import Fault
from launcher.sandbox.market import Listing

State = Literal["booting", "active", "unhealthy", "exited", "terminating", "terminated"]
# What the provider's list says of a machine that died; `gone`: nothing, it is off the list.
Report = Literal["gone", "exited", "unhealthy", "active"]
WRONG_GPU, WRONG_GPU_MEMORY_MIB = "RTX 3060", 12288


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a client asks for. `bid_usd_per_hour`: of the whole machine, as spot; None: on demand."""

    listing: Listing
    name: str
    bid_usd_per_hour: float | None = None
    disk_gib: float
    user: str
    public_keys: tuple[str, ...] = ()
    start_script: str | None = None
    starts_ssh: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    image: str = ""


@dataclass(kw_only=True)
class Instance:
    """One rented machine. Times are seconds since the epoch.

    active_at: when it has booted; infinite: never. hidden_until: the list does not show it before. listed_until: it is
    shown as terminating until then. has_died: its host is no more. refuses_to_end: a terminate is accepted and does
    nothing. preempted_at, preemption_report: when it dies by itself, and what is said of it.
    """

    id: str
    number: int
    order: Order
    bill: Bill
    created_at: float
    active_at: float
    hidden_until: float
    state: State = "booting"
    address: HostAddress | None = None
    listed_until: float = math.inf
    has_died: bool = False
    refuses_to_end: bool = False
    preempted_at: float = math.inf
    preemption_report: Report = "gone"

    @property
    def provider(self) -> Provider:
        """Whose it is."""
        return self.order.listing.provider

    @property
    def is_spot(self) -> bool:
        """Whether it may be taken away."""
        return self.order.bid_usd_per_hour is not None

    @property
    def is_ended(self) -> bool:
        """Terminated, or about to be: no host, no bill."""
        return self.state in ("terminating", "terminated")

    def identity(self) -> dict[str, Any]:
        """What names it in invoices and events."""
        listing = self.order.listing
        return {
            "provider": self.provider,
            "instance": self.id,
            "name": self.order.name,
            "instance_type": listing.instance_type,
            "region": listing.region,
            "spot": self.is_spot,
        }


def new_instance(order: Order, number: int, now: float, boot_s: float, fault: Fault | None) -> Instance:
    """What comes of an order that was accepted at `now`; `boot_s`: how long it boots, where nothing goes wrong."""
    how, seconds = (fault.how, fault.seconds) if fault else (None, 0.0)
    extra_s = math.inf if how == "stuck" else seconds if how == "slow" else 0.0
    return Instance(
        id=_instance_id(order.listing.provider, number),
        number=number,
        order=order,
        bill=_new_bill(order, now, fault.factor if fault and how == "price_up" else 1.0),
        created_at=now,
        active_at=now + boot_s + extra_s,
        hidden_until=now + seconds if how == "late" else now,
    )


def host_request(instance: Instance, has_wrong_gpu: bool) -> HostRequest:
    """The host of an instance; `has_wrong_gpu`: another card than was ordered."""
    order, listing = instance.order, instance.order.listing
    is_wrong = has_wrong_gpu and listing.gpu is not None
    return HostRequest(
        user=order.user,
        public_keys=order.public_keys,
        start_script=order.start_script,
        starts_ssh=order.starts_ssh,
        environment=order.environment,
        gpu=WRONG_GPU if is_wrong else listing.gpu,
        gpus=listing.gpus,
        gpu_memory_mib=WRONG_GPU_MEMORY_MIB if is_wrong else listing.gpu_memory_mib,
        disk_gib=order.disk_gib,
        internal_name=f"sandbox-{instance.number}",
    )


def _instance_id(provider: Provider, number: int) -> str:
    """An id as the provider writes them."""
    if provider == "vast":
        return str(9_000_000 + number)
    return f"{number:032x}" if provider == "lambda" else f"pod{number:011d}"


def _new_bill(order: Order, now: float, factor: float) -> Bill:
    """Its meters, running from `now`; `factor`: how much dearer it is than was quoted."""
    listing = order.listing
    quoted = listing.usd_per_hour if order.bid_usd_per_hour is None else order.bid_usd_per_hour
    storage_usd_per_hour = listing.disk_usd_per_gib_hour * order.disk_gib
    directions: tuple[Literal["upload", "download"], ...] = ("upload", "download") if listing.traffic_usd_per_gb else ()
    return Bill(
        compute=Meter("compute", quoted * factor, now),
        storage=Meter("storage", storage_usd_per_hour, now) if storage_usd_per_hour else None,
        traffic=[Traffic(direction, listing.traffic_usd_per_gb) for direction in directions],
    )
