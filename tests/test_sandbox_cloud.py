"""The emulated clouds without hosts: what each fault leaves behind, what the markets offer, what can be controlled."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cost.offer import Provider
from launcher.sandbox.clock import VirtualClock
from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.control import control
from launcher.sandbox.driver import HostAddress, HostFailed, HostRequest, VirtualHosts
from launcher.sandbox.exchange import Request, exchange
from launcher.sandbox.graphql import BadQuery, parse_query
from launcher.sandbox.instance import WRONG_GPU
from launcher.sandbox.market import CLOUDS
from tests.sandbox_account import Account, is_success

HOUR = 3600.0

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

    account = Account(SandboxCloud(VirtualClock(), Broken()))
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
    hosts = Slow()
    account = Account(SandboxCloud(VirtualClock(), hosts, in_background=True))
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
    fields = 'name: "x", gpuTypeId: "NVIDIA GeForce RTX 4090", gpuCount: 1'
    account.send(
        "runpod", "POST", "", {"query": f"mutation {{ podFindAndDeployOnDemand(input: {{{fields}}}) {{ it }} }}"}
    )
    assert account.cloud.instances() == []


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
