"""The emulated clouds without hosts: what is billed, what each fault leaves behind, and who can read the answers."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.cloud.live_offers import live_questions
from launcher.cloud.rentals import ProviderFailed, balance, list_rentals, terminate
from launcher.cost.catalogs import read_snapshot
from launcher.cost.offer import Offer, Provider
from launcher.errors import BadInput
from launcher.sandbox.clock import VirtualClock
from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.control import control
from launcher.sandbox.driver import HostAddress, HostFailed, HostRequest, VirtualHosts
from launcher.sandbox.exchange import ProviderApi, Reply, Request, exchange
from launcher.sandbox.faults import POSSIBLE, Fault
from launcher.sandbox.graphql import BadQuery, parse_query
from launcher.sandbox.instance import WRONG_GPU
from launcher.sandbox.lambda_api import LambdaApi
from launcher.sandbox.market import CLOUDS, Listing
from launcher.sandbox.runpod_api import RunpodApi
from launcher.sandbox.server import SandboxServer, serve
from launcher.sandbox.vast_api import FIRST_ASK, VastApi

HOUR = 3600.0
KEY = "secret-key-9d1c"


class RecordingHosts(VirtualHosts):
    """Virtual hosts that remember what was asked of them."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[str, HostRequest] = {}
        self.announced: list[str] = []

    def create(self, instance_id: str, request: HostRequest) -> HostAddress:
        self.requests[instance_id] = request
        return super().create(instance_id, request)

    def announce_end(self, instance_id: str) -> None:
        self.announced.append(instance_id)


class Account:
    """A client of all three providers, without HTTP: it rents one kind of machine of each."""

    def __init__(self, boot_s: float = 0.0) -> None:
        self.clock = VirtualClock()
        self.hosts = RecordingHosts()
        self.cloud = SandboxCloud(self.clock, self.hosts, boot_s=boot_s)
        self.apis: dict[Provider, ProviderApi] = {
            "lambda": LambdaApi(self.cloud),
            "runpod": RunpodApi(self.cloud),
            "vast": VastApi(self.cloud),
        }
        self.send("lambda", "POST", "ssh-keys", {"name": "key", "public_key": "ssh-ed25519 AAAA me"})

    def send(self, provider: Provider, method: str, path: str, body: Any = None) -> Reply | None:
        return exchange(self.cloud, self.apis[provider], Request(method, path, {}, body))

    def listing(self, provider: Provider, spot: bool = False) -> Listing:
        wanted = {"lambda": "gpu_1x_a10", "runpod": "1x_RTX4090_SECURE", "vast": "1x-RTX_4090-32-65536"}[provider]
        every = [each for each in self.cloud.market.every(provider) if each.instance_type == wanted]
        return min(every, key=lambda each: each.usd_per_hour) if provider == "runpod" else every[0]

    def create(self, provider: Provider, name: str = "launcher-1-head", spot: bool = False) -> Reply | None:
        listing = self.listing(provider)
        if provider == "lambda":
            wanted = {"instance_type_name": listing.instance_type, "region_name": listing.region, "name": name}
            return self.send(provider, "POST", "instance-operations/launch", wanted | {"ssh_key_names": ["key"]})
        if provider == "vast":
            price = listing.spot_usd_per_hour if spot else None
            wanted = {"label": name, "disk": 40, "price": price, "onstart": "true", "env": {"A": "b", "-p 1:1": "1"}}
            return self.send(provider, "PUT", f"v0/asks/{FIRST_ASK + listing.number}", wanted)
        kind, bid = "podFindAndDeployOnDemand", ""
        if spot:
            kind, bid = "podRentInterruptable", f", bidPerGpu: {listing.spot_usd_per_hour}"
        fields = f'name: "{name}", gpuTypeId: "{listing.gpu_id}", gpuCount: 1, containerDiskInGb: 40{bid}'
        return self.send(provider, "POST", "", {"query": f"mutation {{ {kind}(input: {{{fields}}}) {{ id }} }}"})

    def terminate(self, provider: Provider, instance_id: str) -> Reply | None:
        if provider == "lambda":
            return self.send(provider, "POST", "instance-operations/terminate", {"instance_ids": [instance_id]})
        if provider == "vast":
            return self.send(provider, "DELETE", f"v0/instances/{instance_id}")
        query = f'mutation {{ podTerminate(input: {{podId: "{instance_id}"}}) }}'
        return self.send(provider, "POST", "", {"query": query})

    def statuses(self, provider: Provider) -> dict[str, str]:
        """Name and status of everything in the provider's list."""
        if provider == "lambda":
            reply = self.send(provider, "GET", "instances")
            return {} if reply is None else {each["name"]: each["status"] for each in reply.body["data"]}
        if provider == "vast":
            reply = self.send(provider, "GET", "v1/instances")
            return {} if reply is None else {each["label"]: each["actual_status"] for each in reply.body["instances"]}
        reply = self.send(provider, "POST", "", {"query": "{ myself { pods { name desiredStatus } } }"})
        assert reply is not None
        return {each["name"]: each["desiredStatus"] for each in reply.body["data"]["myself"]["pods"]}

    def newest(self) -> str:
        return self.cloud.instances()[-1].id

    def fault(self, **fields: Any) -> None:
        self.cloud.faults.add(Fault(**fields))

    def usd(self) -> float:
        return float(self.cloud.invoice()["total_usd"])


def is_success(reply: Reply | None) -> bool:
    return reply is not None and reply.status == 200 and "errors" not in reply.body


# --- billing -------------------------------------------------------------------------------------------------------


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


# --- faults, by what the list and the invoice say afterwards ---------------------------------------------------------


@pytest.mark.parametrize("provider", CLOUDS)
@pytest.mark.parametrize("how", ["capacity", "429", "500", "reset"])
def test_a_refused_order_leaves_nothing_and_costs_nothing(provider: Provider, how: str) -> None:
    account = Account()
    account.fault(op="create", how=how)
    assert not is_success(account.create(provider))
    account.clock.advance(HOUR)
    assert account.statuses(provider) == {} and account.usd() == 0
    assert is_success(account.create(provider))


@pytest.mark.parametrize("provider", CLOUDS)
def test_a_lost_reply_leaves_an_instance_that_is_listed_and_billed(provider: Provider) -> None:
    account = Account()
    account.fault(op="create", how="lost")
    assert account.create(provider) is None
    account.clock.advance(HOUR)
    assert list(account.statuses(provider)) == ["launcher-1-head"] and account.usd() > 0


@pytest.mark.parametrize("provider", CLOUDS)
def test_a_late_instance_is_billed_before_it_is_listed(provider: Provider) -> None:
    account = Account()
    account.fault(op="create", how="late", seconds=30)
    assert account.create(provider) is None
    account.clock.advance(29)
    assert account.statuses(provider) == {} and account.usd() > 0
    account.clock.advance(1)
    assert list(account.statuses(provider)) == ["launcher-1-head"]


@pytest.mark.parametrize(
    ("provider", "booting", "running"),
    [("lambda", "booting", "active"), ("runpod", "CREATED", "RUNNING"), ("vast", "loading", "running")],
)
def test_a_stuck_instance_boots_for_ever_and_a_slow_one_longer(provider: Provider, booting: str, running: str) -> None:
    account = Account(boot_s=10)
    account.fault(op="create", how="stuck")
    account.fault(op="create", how="slow", seconds=100)
    for name in ("stuck", "slow", "plain"):
        account.create(provider, name)
    account.clock.advance(10)
    assert account.statuses(provider) == {"stuck": booting, "slow": booting, "plain": running}
    account.clock.advance(100)
    assert account.statuses(provider) == {"stuck": booting, "slow": running, "plain": running}


def test_a_wrong_gpu_is_seen_on_the_host_only() -> None:
    account = Account()
    account.fault(op="create", how="wrong_gpu")
    account.create("runpod")
    assert account.hosts.requests[account.newest()].gpu == WRONG_GPU
    reply = account.send("runpod", "POST", "", {"query": "{ myself { pods { machine { gpuDisplayName } } } }"})
    assert reply is not None and reply.body["data"]["myself"]["pods"] == [{"machine": {"gpuDisplayName": "RTX 4090"}}]


def test_a_price_can_rise_between_quote_and_order() -> None:
    account = Account()
    quoted = account.listing("vast").usd_per_hour
    account.fault(op="price", how="price_up", factor=2.0)
    search = account.send("vast", "POST", "v0/bundles", {"num_gpus": {"eq": "1"}, "gpu_name": {"eq": "RTX 4090"}})
    assert search is not None and quoted in [offer["dph_base"] for offer in search.body["offers"]]
    account.create("vast")
    reply = account.send("vast", "GET", "v1/instances")
    assert reply is not None and reply.body["instances"][0]["dph_base"] == 2 * quoted
    account.clock.advance(HOUR)
    assert account.usd() > 2 * quoted


@pytest.mark.parametrize("provider", CLOUDS)
def test_a_termination_that_fails_twice_works_the_third_time(provider: Provider) -> None:
    account = Account()
    account.create(provider)
    account.fault(op="terminate", how="twice_fail")
    for _ in range(2):
        assert not is_success(account.terminate(provider, account.newest()))
        assert list(account.statuses(provider)) == ["launcher-1-head"]
    assert is_success(account.terminate(provider, account.newest()))
    account.clock.advance(10)
    assert account.statuses(provider) == {}


@pytest.mark.parametrize("provider", CLOUDS)
def test_a_termination_may_be_accepted_and_do_nothing(provider: Provider) -> None:
    account = Account()
    account.create(provider)
    account.fault(op="terminate", how="stuck")
    assert is_success(account.terminate(provider, account.newest()))
    before = account.usd()
    account.clock.advance(HOUR)
    assert list(account.statuses(provider)) == ["launcher-1-head"] and account.usd() > before


def test_a_terminated_instance_may_be_listed_for_a_while_and_is_not_billed_for_it() -> None:
    account = Account()
    account.create("vast")
    account.clock.advance(HOUR)
    account.fault(op="terminate", how="late", seconds=60)
    account.terminate("vast", account.newest())
    before = account.usd()
    account.clock.advance(59)
    assert account.statuses("vast") == {"launcher-1-head": "exited"} and account.usd() == before
    account.clock.advance(2)
    assert account.statuses("vast") == {}


@pytest.mark.parametrize(
    ("provider", "report", "shown"),
    [
        ("lambda", "unhealthy", "unhealthy"),
        ("runpod", "exited", "EXITED"),
        ("vast", "exited", "exited"),
        ("vast", "active", "running"),
        ("runpod", "gone", None),
    ],
)
def test_a_machine_that_died_is_shown_as_its_provider_would(provider: Provider, report: Any, shown: str | None) -> None:
    account = Account()
    account.create(provider)
    account.cloud.kill(account.newest(), report)
    assert account.statuses(provider).get("launcher-1-head") == shown
    assert not account.hosts.is_alive(account.newest())


def test_a_preemption_is_announced_and_ends_the_bill() -> None:
    account = Account()
    account.create("vast", spot=True)
    account.cloud.preempt(account.newest(), notice_s=20)
    assert account.hosts.announced == [account.newest()]
    account.clock.advance(HOUR)
    assert account.statuses("vast") == {}
    assert {line["seconds"] for line in account.cloud.invoice()["lines"]} == {20.0}


def test_faults_are_committed_in_order_and_by_provider() -> None:
    account = Account()
    account.fault(provider="vast", op="create", how="500", times=2)
    account.fault(op="create", how="429")
    replies = [account.create(provider) for provider in ("lambda", "vast", "vast", "vast")]
    assert [reply.status for reply in replies if reply] == [429, 500, 500, 200]
    assert account.cloud.faults.pending() == []


def test_a_host_that_does_not_start_is_an_unhealthy_instance() -> None:
    class Broken(VirtualHosts):
        def create(self, instance_id: str, request: HostRequest) -> HostAddress:
            raise HostFailed("no space left")

    account = Account()
    account.cloud.driver = Broken()
    account.create("lambda")
    assert account.statuses("lambda") == {"launcher-1-head": "unhealthy"}
    assert account.cloud.events[-1]["reason"] == "no space left"


def test_an_order_is_answered_before_its_host_runs_and_a_host_that_comes_too_late_is_taken_away() -> None:
    class Slow(VirtualHosts):
        begun, may_end = threading.Event(), threading.Event()

        def create(self, instance_id: str, request: HostRequest) -> HostAddress:
            self.begun.set()
            assert self.may_end.wait(10)
            return super().create(instance_id, request)

        def destroy(self, instance_id: str) -> None:
            super().destroy(instance_id)
            ended.append(self.may_end.is_set())

    ended: list[bool] = []
    account, hosts = Account(), Slow()
    account.cloud.driver, account.cloud._in_background = hosts, True
    assert is_success(account.create("vast")) and hosts.begun.wait(10)
    assert account.statuses("vast") == {"launcher-1-head": "loading"}
    account.terminate("vast", account.newest())
    hosts.may_end.set()
    deadline = time.monotonic() + 10
    while True not in ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not hosts.is_alive(account.newest()) and account.statuses("vast") == {}


# --- capacity and market -------------------------------------------------------------------------------------------


def test_capacity_that_is_gone_is_hidden_or_refused() -> None:
    account = Account()
    region = account.listing("lambda").region
    rule = {"provider": "lambda", "region": region}
    assert control(account.cloud, Request("POST", "capacity", {}, {"deny": [rule]})).status == 200
    types = account.send("lambda", "GET", "instance-types")
    assert types is not None
    regions = types.body["data"]["gpu_1x_a10"]["regions_with_capacity_available"]
    assert region not in [each["name"] for each in regions] and regions
    control(account.cloud, Request("POST", "capacity", {}, {"deny": [rule | {"is_listed": True}]}))
    refused = account.create("lambda")
    assert refused is not None and "insufficient-capacity" in refused.body["error"]["code"]
    assert account.usd() == 0


def test_a_search_without_filters_finds_eight_dear_gpus_first() -> None:
    reply = Account().send("vast", "POST", "v0/bundles", {"type": "on-demand", "rentable": {"eq": True}})
    assert reply is not None
    first = reply.body["offers"][0]
    assert (first["num_gpus"], first["gpu_name"], first["dph_base"]) == (8, "H200", 28.0)


def test_a_search_keeps_to_its_filters() -> None:
    query = {"gpu_name": {"eq": "RTX 4090"}, "num_gpus": {"gte": "2"}, "geolocation": {"in": ["DE", "FI"]}}
    reply = Account().send("vast", "POST", "v0/bundles", query | {"order": [["dph_total", "asc"]]})
    assert reply is not None
    found = [(offer["num_gpus"], offer["geolocation"]) for offer in reply.body["offers"]]
    assert found == [(2, "Finland, FI"), (4, "Germany, DE")]


def test_vast_lists_page_by_page() -> None:
    account = Account()
    for number in range(3):
        account.create("vast", f"n{number}")
    api = account.apis["vast"]
    first = exchange(account.cloud, api, Request("GET", "v1/instances", {"limit": "2"}))
    assert first is not None and [each["label"] for each in first.body["instances"]] == ["n0", "n1"]
    rest = Request("GET", "v1/instances", {"limit": "2", "after_token": first.body["next_token"]})
    last = exchange(account.cloud, api, rest)
    assert last is not None and [each["label"] for each in last.body["instances"]] == ["n2"]
    assert last.body["next_token"] is None


def test_vast_passes_start_script_and_variables_to_the_host() -> None:
    account = Account()
    account.create("vast")
    request = account.hosts.requests[account.newest()]
    assert (request.start_script, dict(request.environment), request.starts_ssh) == ("true", {"A": "b"}, False)


def test_runpod_refuses_what_its_schema_does_not_hold() -> None:
    account = Account()
    for query in ("{ myself { pods { prize } } }", "{ myself { pods } }", "{ myself {", "{ moon { id } }"):
        reply = account.send("runpod", "POST", "", {"query": query})
        assert reply is not None and reply.body["errors"][0]["message"], query


def test_runpod_refuses_a_bid_below_the_least() -> None:
    account = Account()
    fields = 'name: "x", gpuTypeId: "NVIDIA GeForce RTX 4090", gpuCount: 1, bidPerGpu: 0.01'
    query = f"mutation {{ podRentInterruptable(input: {{{fields}}}) {{ id }} }}"
    reply = account.send("runpod", "POST", "", {"query": query})
    assert reply is not None and "bid" in reply.body["errors"][0]["message"] and account.usd() == 0


@given(st.dictionaries(st.from_regex(r"[a-z]\w{0,5}", fullmatch=True), st.text() | st.integers() | st.booleans()))
def test_arguments_survive_the_reading_of_a_query(arguments: dict[str, Any]) -> None:
    written = ", ".join(f"{name}: {json.dumps(value)}" for name, value in arguments.items())
    [field] = parse_query(f"mutation {{ do(input: {{{written}}}) {{ id }} }}")
    assert field.arguments == {"input": arguments}
    [field] = parse_query("query q($i: In!) { do(input: $i) { id } }", {"i": arguments})
    assert field.arguments == {"input": arguments}


@given(st.text(alphabet='{}()[]:$",#ab1-. \n'))
def test_no_text_breaks_the_reader_of_queries(text: str) -> None:
    with contextlib.suppress(BadQuery):
        parse_query(text)


# --- control -------------------------------------------------------------------------------------------------------


def test_control_shows_kills_and_names_what_is_wrong() -> None:
    account = Account()
    account.create("lambda", "launcher-7-head")
    shown = control(account.cloud, Request("GET", "status")).body
    assert [(each["name"], each["state"]) for each in shown["instances"]] == [("launcher-7-head", "active")]
    assert control(account.cloud, Request("POST", "kill", {}, {"instance": "launcher-7-head"})).status == 200
    assert control(account.cloud, Request("GET", "status")).body["instances"] == []
    for path, body, part in (
        ("kill", {"instance": "launcher-7-head"}, "0 rented instances"),
        ("fault", {"op": "list", "how": "lost"}, "list one of"),
        ("fault", {"op": "create", "how": "lost", "tims": 2}, "did you mean times"),
        ("prices", {"factor": 0}, "factor"),
        ("capacity", {"deny": [{"provider": "vast", "area": 1}]}, "area"),
        ("moon", None, "no such request"),
    ):
        reply = control(account.cloud, Request("POST", path, {}, body))
        assert reply.status == 400 and part in reply.body["error"], reply.body


def test_a_network_that_is_not_there_cannot_be_cut() -> None:
    account = Account()
    account.create("lambda", "one")
    reply = control(account.cloud, Request("POST", "cut", {}, {"instance": "one"}))
    assert reply.status == 400 and "no host" in reply.body["error"]


# --- over HTTP: the launcher's own readers ---------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxServer]:
    running = serve(SandboxCloud(VirtualClock(), VirtualHosts()), "127.0.0.1", 0)
    for name, url in running.environment().items():
        monkeypatch.setenv(name, url)
    for provider in CLOUDS:
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
    yield running
    running.stop()


def facts(offers: tuple[Offer, ...], spot: bool) -> set[tuple[Any, ...]]:
    return {
        (each.instance_type, each.gpu, each.gpus, each.gpu_memory_gib, round(each.usd_per_hour, 6))
        for each in offers
        if each.spot is spot
    }


def test_the_launcher_reads_the_emulated_markets_as_the_catalogs_they_come_from(server: SandboxServer) -> None:
    trap = ("8x-H200-32-65536", "H200", 8, 141.0, 28.0)
    for provider, question in live_questions(CLOUDS, 10.0, "2026-01-01").items():
        found = question()
        assert found.warnings() == []
        wanted = facts(read_snapshot(provider).offers, spot=False) | ({trap} if provider == "vast" else set())
        assert facts(found.offers, spot=False) == wanted
        if provider != "lambda":
            assert facts(found.offers, spot=True) >= facts(read_snapshot(provider).offers, spot=True)


def test_the_launcher_reads_and_ends_what_is_rented(server: SandboxServer) -> None:
    account = Account()
    account.cloud = server.cloud
    account.apis = {"lambda": LambdaApi(server.cloud), "runpod": RunpodApi(server.cloud), "vast": VastApi(server.cloud)}
    account.send("lambda", "POST", "ssh-keys", {"name": "key", "public_key": "ssh-ed25519 AAAA me"})
    for provider in CLOUDS:
        account.create(provider)
        [rented] = list_rentals(provider)
        listing = account.listing(provider)
        disk = 0 if provider == "lambda" else 40 * listing.disk_usd_per_gib_hour
        assert (rented.name, rented.gpus, rented.status) == ("launcher-1-head", 1, "running")
        assert rented.usd_per_hour == pytest.approx(listing.usd_per_hour + disk, abs=0.01)
        terminate(provider, rented.id)
        assert [each for each in list_rentals(provider) if each.status != "gone"] == []


def test_the_launcher_reads_the_accounts(server: SandboxServer) -> None:
    assert [balance(provider) for provider in CLOUDS] == [None, 1000.0, 1000.0]


def test_a_broken_connection_is_a_failed_source_and_no_empty_list(server: SandboxServer) -> None:
    server.cloud.faults.add(Fault(provider="lambda", op="list", how="reset"))
    with pytest.raises(ProviderFailed):
        list_rentals("lambda")
    assert list_rentals("lambda") == []


def test_no_key_is_shown_or_kept_and_none_is_refused(server: SandboxServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/lambda/api/v1/instances", timeout=5)
    assert refused.value.code == 401
    list_rentals("vast")
    for path in ("status", "events", "invoice"):
        with urllib.request.urlopen(f"{server.url}/ctl/{path}", timeout=5) as answer:
            assert KEY not in answer.read().decode()


def test_a_request_that_cannot_be_understood_does_not_end_the_cloud(server: SandboxServer) -> None:
    for path, body in (("vast/api/v0/bundles/", b"{"), ("vast/api/v0/asks/1/", b"{}"), ("nowhere", b"")):
        request = urllib.request.Request(f"{server.url}/{path}", body, {"Authorization": f"Bearer {KEY}"})
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=5)
    assert list_rentals("vast") == []
