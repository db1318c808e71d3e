"""The state behind the emulated providers: instances, from the order that was accepted to the host that is gone."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from launcher.cost.offer import Provider
from launcher.errors import BadInput
from launcher.sandbox import billing
from launcher.sandbox.clock import Clock
from launcher.sandbox.driver import HostDriver, HostFailed, HostRequest
from launcher.sandbox.faults import Fault, FaultPlan
from launcher.sandbox.instance import Instance, Order, Report, host_request, new_instance
from launcher.sandbox.market import Market, PriceChange

# How long a terminated instance is still listed. RunPod and vast.ai take theirs off the list at once.
TERMINATING_S: dict[str, float] = {"lambda": 2.0}


class NoCapacity(Exception):
    """The machine cannot be had now."""


class SandboxCloud:
    """Instances of all three providers, their bills and what happened, under one lock.

    Args:
        clock: its time.
        driver: what starts the hosts.
        market: what can be rented.
        faults: what goes wrong.
        boot_s: how long an instance boots, besides what its host takes.
        in_background: hosts are started and ended by threads of their own, so that the provider answers at once; for
            drivers that take time.
        first_number: from which instance ids are counted.
    """

    def __init__(
        self,
        clock: Clock,
        driver: HostDriver,
        market: Market | None = None,
        faults: FaultPlan | None = None,
        *,
        boot_s: float = 0.0,
        in_background: bool = False,
        first_number: int = 1,
    ) -> None:
        self.clock = clock
        self.driver = driver
        self.market = market or Market()
        self.faults = faults or FaultPlan()
        self.events: list[dict[str, Any]] = []
        self._boot_s, self._first_number = boot_s, first_number
        self._in_background = in_background
        self._lock = threading.RLock()
        self._instances: dict[str, Instance] = {}

    # --- what clients do -----------------------------------------------------------------------------------------

    def create(self, order: Order, fault: Fault | None = None) -> Instance:
        """Accept an order; from now on it is billed.

        Raises:
            NoCapacity: there is none.
        """
        how = fault.how if fault else None
        if how == "capacity" or not self.market.has_capacity(order.listing):
            self.record("no_capacity", provider=order.listing.provider, name=order.name)
            raise NoCapacity
        with self._lock:
            number = self._first_number + len(self._instances)
            instance = new_instance(order, number, self.clock.now(), self._boot_s, fault)
            self._instances[instance.id] = instance
        self.record("created", **instance.identity(), usd_per_hour=instance.bill.compute.usd_per_hour)
        request = host_request(instance, has_wrong_gpu=how == "wrong_gpu")
        self._run(lambda: self._start_host(instance, request))
        return instance

    def terminate(self, instance_id: str, fault: Fault | None = None) -> Instance | None:
        """End an instance and its bill; None where there is no such thing. What has ended already stays as it is."""
        self.settle()
        with self._lock:
            instance = self._instances.get(instance_id)
            if instance is None or instance.is_ended:
                return instance
            if fault is not None and fault.how == "stuck":
                instance.refuses_to_end = True
            if not instance.refuses_to_end:
                late_s = fault.seconds if fault is not None and fault.how == "late" else 0.0
                self._end(instance, self.clock.now(), late_s + TERMINATING_S.get(instance.provider, 0.0))
        self.settle()
        return instance

    def find(self, provider: Provider, instance_id: str) -> Instance | None:
        """The instance as its provider shows it, None where it shows none."""
        return next((instance for instance in self.listed(provider) if instance.id == instance_id), None)

    def listed(self, provider: Provider) -> list[Instance]:
        """What the provider's list shows, oldest first."""
        now = self.settle()
        return [
            instance
            for instance in self.instances()
            if instance.provider == provider and instance.state != "terminated" and now >= instance.hidden_until
        ]

    # --- what happens to instances -------------------------------------------------------------------------------

    def kill(self, instance_id: str, report: Report = "gone") -> None:
        """Let the machine die, now; `report`: what its provider says of it from then on.

        `gone` ends the bill; `exited` keeps the disk and its bill; under any other report all is billed on.

        Raises:
            BadInput: no such instance, or it has ended or died.
        """
        with self._lock:
            instance = self._living(instance_id)
            if instance.has_died:
                raise BadInput(f"instance: {instance_id!r}: has died before")
            self._die(instance, report, self.clock.now())
        self.settle()

    def preempt(self, instance_id: str, notice_s: float, report: Report = "gone") -> None:
        """Announce to the host that it will be taken away, and take it away `notice_s` later.

        Raises:
            BadInput: no such instance, or it has ended.
        """
        with self._lock:
            instance = self._living(instance_id)
            instance.preempted_at, instance.preemption_report = self.clock.now() + notice_s, report
        self.record("preemption_notice", **instance.identity(), notice_s=notice_s)
        self.driver.announce_end(instance_id)
        self.settle()

    def cut_network(self, instance_id: str) -> None:
        """Take its host off the network; it runs on, and is billed.

        Raises:
            BadInput: no such instance, it has ended, or there is no host behind it.
        """
        instance = self._living(instance_id)
        if not self.driver.cut_network(instance_id):
            raise BadInput(f"instance: {instance_id!r}: has no host whose network could be cut")
        self.record("network_cut", **instance.identity())

    def move_data(self, instance_id: str, upload_gb: float, download_gb: float) -> None:
        """Bill that traffic.

        Raises:
            BadInput: no such instance, it has ended, or an amount below 0.
        """
        if not (0 <= upload_gb < math.inf and 0 <= download_gb < math.inf):
            raise BadInput(f"upload_gb, download_gb: {upload_gb}, {download_gb}: 0 or more is needed")
        with self._lock:
            for traffic in self._living(instance_id).bill.traffic:
                traffic.gb += upload_gb if traffic.direction == "upload" else download_gb

    def change_prices(self, change: PriceChange) -> int:
        """Change prices of what is not rented yet; how many listings that were."""
        changed = self.market.change_prices(change)
        self.record("prices_changed", **change.model_dump(), listings=changed)
        return changed

    def settle(self) -> float:
        """Let everything happen that was due by now, which is returned. Whoever looks at the cloud does so first."""
        with self._lock:
            now = self.clock.now()
            for instance in self._instances.values():
                if now >= instance.preempted_at and not (instance.is_ended or instance.has_died):
                    self._die(instance, instance.preemption_report, instance.preempted_at)
                if instance.state == "booting" and instance.address is not None and now >= instance.active_at:
                    instance.state = "active"
                    self.record("active", **instance.identity())
                if instance.state == "terminating" and now >= instance.listed_until:
                    instance.state = "terminated"
                    self.record("terminated", **instance.identity())
        return now

    # --- what a test or a user looks at --------------------------------------------------------------------------

    def instances(self) -> list[Instance]:
        """Every instance there ever was, oldest first."""
        with self._lock:
            return list(self._instances.values())

    def invoice(self) -> dict[str, Any]:
        """Everything charged until now: `{"total_usd": ..., "lines": [...]}`."""
        with self._lock:
            now = self.settle()
            return billing.invoice([(each.identity(), each.bill) for each in self._instances.values()], now)

    def record(self, event: str, **facts: Any) -> None:
        """Add a line to the story of this cloud."""
        with self._lock:
            self.events.append({"at": self.clock.now(), "event": event, **facts})

    def close(self) -> None:
        """Take every host away."""
        for instance in self.instances():
            self.driver.destroy(instance.id)

    # --- inside --------------------------------------------------------------------------------------------------

    def _start_host(self, instance: Instance, request: HostRequest) -> None:
        try:
            address = self.driver.create(instance.id, request)
        except HostFailed as fault:
            with self._lock:
                if instance.state == "booting":
                    instance.state = "unhealthy"
            return self.record("host_failed", **instance.identity(), reason=str(fault))
        with self._lock:
            instance.address = address
            is_wanted = instance.state == "booting"
        if not is_wanted:  # it was ended while it was started
            self.driver.destroy(instance.id)
        self.settle()

    def _end(self, instance: Instance, at: float, listed_s: float) -> None:
        """Bill and host end at `at`; the list shows it for `listed_s` more."""
        instance.state = "terminating"
        instance.listed_until = at + listed_s
        instance.bill.stop(at)
        self.record("ended", **instance.identity(), ended_at=at)
        self._run(lambda: self.driver.destroy(instance.id))

    def _die(self, instance: Instance, report: Report, at: float) -> None:
        instance.has_died = True
        self.record("died", **instance.identity(), report=report, died_at=at)
        if report == "gone":
            return self._end(instance, at, 0.0)
        if report == "exited":
            instance.bill.stop_compute(at)
        instance.state = report
        self._run(lambda: self.driver.destroy(instance.id))

    def _living(self, instance_id: str) -> Instance:
        self.settle()
        instance = self._instances.get(instance_id)
        if instance is None or instance.is_ended:
            raise BadInput(f"instance: {instance_id!r}: one that is rented is needed")
        return instance

    def _run(self, task: Callable[[], None]) -> None:
        if self._in_background:
            threading.Thread(target=task, daemon=True).start()
        else:
            task()
