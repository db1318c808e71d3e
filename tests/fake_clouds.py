"""Providers without HTTP, on a clock that only moves when somebody waits: every interleaving is a list of numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.cloud.rentals import ProviderFailed
from launcher.cloud.rented import MachineStatus, Rented
from launcher.cost.offer import Provider
from launcher.reconcile import Clock

HOUR_S = 3600.0


@dataclass
class Host:
    """One machine as its provider knows it; `listed_at`: when a list showed it first, `ended_at`: when it ended."""

    provider: Provider
    id: str
    name: str
    usd_per_hour: float | None
    created_at: float
    visible_at: float
    status: MachineStatus = MachineStatus.RUNNING
    tells_creation: bool = False
    listed_at: float | None = None
    ended_at: float | None = None

    @property
    def usd_since_listed(self) -> float:
        """What it cost from the first list that showed it to its end."""
        if self.listed_at is None or self.ended_at is None or self.usd_per_hour is None:
            return 0.0
        return self.usd_per_hour * max(0.0, self.ended_at - self.listed_at) / HOUR_S


@dataclass
class FakeClouds:
    """Lists and ends hosts, and fails as it is told: `failing` lists, `refusals` of the next requests to end."""

    time_s: float = 1_000_000.0
    latency_s: float = 0.25
    providers: list[Provider] = field(default_factory=lambda: ["vast", "lambda"])
    hosts: list[Host] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    refusals: list[str] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.time_s, sleep=self.wait)

    def wait(self, seconds: float) -> None:
        self.time_s += seconds

    def rent(
        self, name: str, provider: Provider = "vast", usd_per_hour: float | None = 0.5, late_s: float = 0.0
    ) -> Host:
        host = Host(provider, f"id{len(self.hosts)}", name, usd_per_hour, self.time_s, self.time_s + late_s)
        self.hosts.append(host)
        return host

    def end(self, host: Host) -> None:
        """It ends without anybody here asking for it."""
        if host.ended_at is None:
            host.ended_at = self.time_s

    def there(self, prefix: str = "launcher-") -> list[Host]:
        return [host for host in self.hosts if host.ended_at is None and host.name.startswith(prefix)]

    # --- what the launcher asks ----------------------------------------------------------------------------------

    def names(self) -> list[Provider]:
        return self.providers

    def machines(self, provider: Provider) -> list[Rented]:
        self._answer("list", provider)
        shown = [h for h in self.hosts if h.provider == provider and h.ended_at is None and h.visible_at <= self.time_s]
        for host in shown:
            host.listed_at = self.time_s + self.latency_s if host.listed_at is None else host.listed_at
        rented = [self._rented(host) for host in shown]
        self.wait(self.latency_s)
        return rented

    def terminate(self, provider: Provider, instance_id: str) -> None:
        """`lost`: done, but the reply does not come. `refused`: an error. `swallowed`: a yes, and nothing happens."""
        self._answer("terminate", instance_id)
        how = self.refusals.pop(0) if self.refusals else "done"
        self.wait(self.latency_s)
        if how in ("done", "lost"):
            for host in self.hosts:
                if host.id == instance_id:
                    self.end(host)
        if how in ("lost", "refused"):
            raise ProviderFailed(provider, "HTTP 500")

    def _answer(self, what: str, whom: str) -> None:
        self.calls.append((what, whom))
        if what == "list" and whom in self.failing:
            self.wait(self.latency_s)
            raise ProviderFailed(whom, "HTTP 503")

    def _rented(self, host: Host) -> Rented:
        return Rented(
            provider=host.provider,
            id=host.id,
            name=host.name,
            status=host.status,
            gpu="RTX 4090",
            gpus=1,
            usd_per_hour=host.usd_per_hour,
            created_at=host.created_at if host.tells_creation else None,
        )
