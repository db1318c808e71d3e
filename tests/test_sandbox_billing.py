"""What the emulated clouds charge: seconds alive times price, whatever happens to an instance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.cost.offer import Provider
from launcher.errors import BadInput
from launcher.sandbox.control import control
from launcher.sandbox.exchange import Request
from launcher.sandbox.faults import POSSIBLE
from launcher.sandbox.market import CLOUDS
from tests.sandbox_account import Account, is_success

HOUR = 3600.0


@pytest.mark.parametrize("provider", CLOUDS)
def test_an_instance_is_billed_from_the_order_to_the_termination(provider: Provider) -> None:
    account = Account(boot_s=60)
    listing = account.listing(provider)
    assert is_success(account.create(provider))
    account.clock.advance(HOUR)
    account.terminate(provider, account.newest())
    billed = account.usd()
    assert billed == pytest.approx(listing.usd_per_hour + 40 * listing.disk_usd_per_gib_hour, rel=1e-9)
    account.clock.advance(10 * HOUR)
    assert account.usd() == billed
    assert account.statuses(provider) == {}


def test_the_invoice_has_a_line_for_machine_disk_and_traffic() -> None:
    account = Account()
    account.create("vast", spot=True)
    account.cloud.move_data(account.newest(), upload_gb=2, download_gb=10)
    account.clock.advance(HOUR)
    invoice = account.cloud.invoice()
    listing = account.listing("vast")
    lines = {line["kind"]: line["usd"] for line in invoice["lines"]}
    assert set(lines) == {"compute", "storage", "upload", "download"}
    assert lines["compute"] == pytest.approx(listing.spot_usd_per_hour)
    assert lines["download"] == pytest.approx(10 * listing.traffic_usd_per_gb)
    assert invoice["total_usd"] == math.fsum(line["usd"] for line in invoice["lines"])
    assert invoice["lines"][0]["name"] == "launcher-1-head"


def test_lambda_bills_neither_disk_nor_traffic() -> None:
    account = Account()
    account.create("lambda")
    account.cloud.move_data(account.newest(), upload_gb=2, download_gb=10)
    account.clock.advance(HOUR)
    assert [line["kind"] for line in account.cloud.invoice()["lines"]] == ["compute"]


def test_a_stopped_machine_pays_for_its_disk_until_it_is_terminated() -> None:
    account = Account()
    account.create("vast")
    account.clock.advance(HOUR)
    account.cloud.kill(account.newest(), "exited")
    before = account.usd()
    account.clock.advance(HOUR)
    assert account.usd() - before == pytest.approx(40 * account.listing("vast").disk_usd_per_gib_hour)
    account.terminate("vast", account.newest())
    assert account.statuses("vast") == {}


@dataclass
class Rent:
    """What the test itself expects of one instance."""

    provider: Provider
    instance_id: str
    usd_per_hour: float
    disk_usd_per_hour: float
    started_at: float
    hidden_until: float
    off_at: float = math.inf
    ended_at: float = math.inf
    preempted_at: float = math.inf
    report: str = "gone"
    dead: bool = False
    refuses: bool = False

    def die(self, at: float, report: str) -> None:
        self.dead = True
        if report in ("gone", "exited"):
            self.off_at = min(self.off_at, at)
        if report == "gone":
            self.ended_at = min(self.ended_at, at)

    def usd(self, now: float) -> float:
        on = max(0.0, min(now, self.off_at, self.ended_at) - self.started_at)
        kept = max(0.0, min(now, self.ended_at) - self.started_at)
        return (on * self.usd_per_hour + kept * self.disk_usd_per_hour) / HOUR


_seconds = st.floats(0, 50_000, allow_nan=False)
_reports = st.sampled_from(["gone", "exited", "unhealthy", "active"])
_which = st.integers(0, 5)
_create_fault = st.none() | st.sampled_from(sorted(POSSIBLE["create"]))
_terminate_fault = st.none() | st.sampled_from(sorted(POSSIBLE["terminate"] - {"twice_fail"}))
_steps = st.one_of(
    st.tuples(st.just("create"), st.sampled_from(CLOUDS), st.booleans(), _create_fault, _seconds),
    st.tuples(st.just("terminate"), _which, _terminate_fault, _seconds),
    st.tuples(st.just("kill"), _which, _reports),
    st.tuples(st.just("preempt"), _which, _reports, _seconds),
    st.tuples(st.just("advance"), _seconds),
    st.tuples(st.just("prices"), st.floats(0.5, 2.0)),
)


class Expectation:
    """The same story as the cloud's, told with nothing but a list of rents."""

    def __init__(self) -> None:
        self.account = Account(boot_s=30)
        self.rents: list[Rent] = []

    @property
    def now(self) -> float:
        return self.account.clock.now()

    def step(self, step: tuple[Any, ...]) -> None:
        kind, *rest = step
        if kind == "create":
            self.create(*rest)
        elif kind == "advance":
            self.account.clock.advance(rest[0])
        elif kind == "prices":
            control(self.account.cloud, Request("POST", "prices", {}, {"factor": rest[0]}))
        elif self.rents:
            rent, args = self.rents[rest[0] % len(self.rents)], rest[1:]
            getattr(self, kind)(rent, *args)
        self.expire()

    def expire(self) -> None:
        for rent in self.rents:
            if rent.preempted_at <= self.now and not rent.dead and rent.ended_at == math.inf:
                rent.die(rent.preempted_at, rent.report)

    def create(self, provider: Provider, spot: bool, how: Any, seconds: float) -> None:
        spot = spot and provider != "lambda"
        listing = self.account.listing(provider)
        quoted = listing.spot_usd_per_hour if spot else listing.usd_per_hour
        assert quoted is not None
        if how:
            self.account.fault(op="create", how=how, seconds=seconds, factor=1.25)
        reply = self.account.create(provider, spot=spot)
        assert is_success(reply) == (how in (None, "stuck", "slow", "wrong_gpu", "price_up"))
        if how in ("capacity", "429", "500", "reset"):
            return
        self.rents.append(
            Rent(
                provider=provider,
                instance_id=self.account.newest(),
                usd_per_hour=quoted * (1.25 if how == "price_up" else 1.0),
                disk_usd_per_hour=40 * listing.disk_usd_per_gib_hour,
                started_at=self.now,
                hidden_until=self.now + seconds if how == "late" else self.now,
            )
        )

    def terminate(self, rent: Rent, how: Any, seconds: float) -> None:
        if how:
            self.account.fault(op="terminate", how=how, seconds=seconds)
        self.account.terminate(rent.provider, rent.instance_id)
        self.expire()
        if how in ("429", "500", "reset") or self.now < rent.hidden_until or rent.ended_at < math.inf:
            return
        rent.refuses |= how == "stuck"
        if not rent.refuses:
            rent.ended_at = self.now

    def kill(self, rent: Rent, report: str) -> None:
        if rent.dead or rent.ended_at < math.inf:
            with pytest.raises(BadInput):
                self.account.cloud.kill(rent.instance_id, report)  # type: ignore[arg-type]
        else:
            self.account.cloud.kill(rent.instance_id, report)  # type: ignore[arg-type]
            rent.die(self.now, report)

    def preempt(self, rent: Rent, report: str, notice_s: float) -> None:
        if rent.ended_at == math.inf:
            self.account.cloud.preempt(rent.instance_id, notice_s, report)  # type: ignore[arg-type]
            rent.preempted_at, rent.report = self.now + notice_s, report


@settings(max_examples=150, deadline=None)
@given(st.lists(_steps, max_size=25))
def test_the_invoice_is_seconds_alive_times_price_whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    expected, last = Expectation(), 0.0
    for step in steps:
        expected.step(step)
        billed = expected.account.usd()
        assert billed == pytest.approx(math.fsum(rent.usd(expected.now) for rent in expected.rents), abs=1e-6)
        assert billed >= last - 1e-9
        last = billed
    for rent in expected.rents:
        rent_is_over = rent.ended_at <= expected.now
        assert (rent.instance_id in expected.account.hosts._alive) == (not rent_is_over and not rent.dead)
    open_before = [rent for rent in expected.rents if rent.ended_at == math.inf]
    expected.account.clock.advance(HOUR)
    if not open_before:
        assert expected.account.usd() == pytest.approx(last, abs=1e-9)
