"""The providers' lists over HTTP: read in their formats, never taken for empty, and held against the emulated bill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from launcher.cloud import rentals
from launcher.cloud.rentals import ProviderFailed, RealClouds, balance, list_rentals, terminate
from launcher.cloud.rented import MachineStatus
from launcher.cost.ledger import Ledger, LedgerEntry, LedgerEvent, default_ledger
from launcher.cost.offer import RENTED, Provider
from launcher.reconcile import Observer
from launcher.teardown import tear_down
from tests.rental_servers import EXAMPLES, KEY, Emulated, Written, emulated, lists, written

HEAD = "launcher-g-1-3fa2-head"
PROVIDERS = pytest.mark.parametrize("provider", RENTED)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No waiting, no keys of the user's."""
    monkeypatch.setattr(rentals, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("LAUNCHER_SANDBOX", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for provider in RENTED:
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    with written() as running:
        for provider in RENTED:
            monkeypatch.setenv(f"LAUNCHER_{provider.upper()}_URL", running.url)
        yield running


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    with emulated() as running:
        for provider in RENTED:
            monkeypatch.setenv(f"LAUNCHER_{provider.upper()}_URL", f"{running.url}/{provider}")
        yield running


# --- the lists -------------------------------------------------------------------------------------------------------


def test_a_machine_is_read_from_each_providers_list(server: Written) -> None:
    # 72 GiB of disk at 0.10 usd a GB and month (720 h) are billed beside RunPod's pod.
    pod_usd = pytest.approx(0.69 + 72 * 1.073741824 * 0.1 / 720)
    expected: dict[Provider, tuple[Any, ...]] = {
        "vast": ("9000011", "RTX 4090", 0.4228, 1767225600.5, "203.0.113.7"),
        "lambda": ("0920582c7ff041399e34823a0be62549", "A10 (24 GB PCIe)", 0.75, None, "198.51.100.2"),
        "runpod": ("x1y2z3", "RTX 4090", pod_usd, None, "192.0.2.44"),
    }
    for provider, example in EXAMPLES.items():
        server.will_answer(lists(provider, example()))
        [machine] = list_rentals(provider)
        assert (machine.name, machine.status, machine.gpus) == (HEAD, MachineStatus.RUNNING, 1)
        told = (machine.id, machine.gpu, machine.usd_per_hour, machine.created_at, machine.ip)
        assert told == expected[provider]


@pytest.mark.parametrize(
    ("provider", "word", "status"),
    [
        ("vast", "loading", "creating"), ("vast", "exited", "stopped"), ("vast", "unheard-of", "unknown"),
        ("lambda", "booting", "creating"), ("lambda", "unhealthy", "unknown"), ("lambda", "terminating", "gone"),
        ("runpod", "CREATED", "creating"), ("runpod", "EXITED", "stopped"), ("runpod", "TERMINATED", "gone"),
        ("runpod", None, "unknown"),
    ],
)  # fmt: skip
def test_each_providers_words_for_a_state(server: Written, provider: Provider, word: str | None, status: str) -> None:
    field = {"vast": "actual_status", "lambda": "status", "runpod": "desiredStatus"}[provider]
    server.will_answer(lists(provider, EXAMPLES[provider](**{field: word})))
    assert list_rentals(provider)[0].status == status


def test_vast_says_nothing_of_a_state_before_it_has_one(server: Written) -> None:
    server.will_answer(lists("vast", EXAMPLES["vast"](actual_status=None)))
    assert list_rentals("vast")[0].status == MachineStatus.CREATING


def test_vast_ai_is_asked_for_every_page(server: Written) -> None:
    pages = [
        {"instances": [EXAMPLES["vast"](id=number)], "next_token": None if number == 3 else f"after {number}"}
        for number in (1, 2, 3)
    ]
    server.will_answer(*pages)
    assert [machine.id for machine in list_rentals("vast")] == ["1", "2", "3"]
    assert "after_token=after+2" in server.requests[-1][1]


@PROVIDERS
def test_what_is_not_told_is_none_and_a_price_of_zero_is_not_told(server: Written, provider: Provider) -> None:
    changes: dict[str, Any] = {
        "vast": {"dph_total": 0.0, "label": None, "gpu_name": None, "public_ipaddr": None, "start_date": None},
        "lambda": {"instance_type": {}, "name": None, "ip": None},
        "runpod": {"costPerHr": 0, "name": "", "machine": None, "runtime": None},
    }[provider]
    server.will_answer(lists(provider, EXAMPLES[provider](**changes)))
    [machine] = list_rentals(provider)
    assert (machine.name, machine.gpu, machine.usd_per_hour, machine.created_at, machine.ip) == (
        "",
        None,
        None,
        None,
        None,
    )


@PROVIDERS
@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": None},
        {"instances": {}},
        [],
        b"<html>",
        {"errors": [{"message": "x"}]},
        {"data": {"myself": None}},
        b"",
    ],
    ids=str,
)
def test_an_answer_that_is_no_list_is_an_error_not_an_empty_list(
    server: Written, provider: Provider, answer: Any
) -> None:
    server.will_answer(answer)
    with pytest.raises(ProviderFailed, match=f"^{provider}: "):
        list_rentals(provider)


@PROVIDERS
def test_a_machine_that_could_not_be_ended_makes_the_list_useless(server: Written, provider: Provider) -> None:
    server.will_answer(lists(provider, EXAMPLES[provider](id=None)))
    with pytest.raises(ProviderFailed, match="without an id"):
        list_rentals(provider)


# --- failures --------------------------------------------------------------------------------------------------------


@PROVIDERS
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_overrun_is_asked_again(server: Written, provider: Provider, status: int) -> None:
    server.will_answer((status, {}), (status, {}), lists(provider, EXAMPLES[provider]()))
    assert len(list_rentals(provider)) == 1 and len(server.requests) == 3


def test_it_is_not_asked_for_ever(server: Written) -> None:
    server.will_answer((503, {}))
    with pytest.raises(ProviderFailed, match="lambda: HTTP 503"):
        list_rentals("lambda")
    assert len(server.requests) == 4


@PROVIDERS
def test_a_refused_key_is_said_and_never_shown(server: Written, provider: Provider) -> None:
    server.will_answer((401, {"error": KEY}))
    with pytest.raises(ProviderFailed, match="the key was refused") as caught:
        list_rentals(provider)
    assert KEY not in str(caught.value) and len(server.requests) == 1
    assert server.requests[0][2]["Authorization"] == f"Bearer {KEY}"


def test_without_a_key_it_says_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    assert RealClouds().names() == ["vast", "lambda"]
    with pytest.raises(ProviderFailed, match="RUNPOD_API_KEY"):
        list_rentals("runpod")


# --- ending ----------------------------------------------------------------------------------------------------------


def test_the_request_to_end_is_the_providers_own(server: Written) -> None:
    server.will_answer({"success": True})
    terminate("vast", "9000011")
    assert server.requests[0][:2] == ("DELETE", "/api/v0/instances/9000011/")
    server.will_answer({"data": {"terminated_instances": [{"id": "abc"}]}})
    terminate("lambda", "abc")
    assert server.requests[0][1::2] == ("/api/v1/instance-operations/terminate", {"instance_ids": ["abc"]})
    server.will_answer({"data": {"podTerminate": None}})
    terminate("runpod", 'x"1')
    assert server.requests[0][3] == {"query": 'mutation { podTerminate(input: { podId: "x\\"1" }) }'}


@pytest.mark.parametrize(
    ("provider", "answer"),
    [
        ("vast", {"success": False, "error": "no_such_instance"}),
        ("lambda", {"data": {"terminated_instances": []}}),
        ("runpod", {"errors": [{"message": "pod not found"}], "data": None}),
    ],
)
def test_an_end_that_the_provider_did_not_promise_is_an_error(server: Written, provider: Provider, answer: Any) -> None:
    server.will_answer(answer)
    with pytest.raises(ProviderFailed):
        terminate(provider, "abc")


def test_balances(server: Written) -> None:
    server.will_answer({"id": 1, "credit": 12.5, "balance": 0})
    assert balance("vast") == 12.5
    server.will_answer({"data": {"myself": {"clientBalance": 3.25}}})
    assert balance("runpod") == 3.25
    server.will_answer({"data": {"myself": {"clientBalance": None}}})
    assert balance("runpod") is None
    server.requests.clear()
    assert balance("lambda") is None and server.requests == []


# --- the sandbox -----------------------------------------------------------------------------------------------------


@PROVIDERS
def test_in_the_sandbox_no_real_key_and_no_real_provider_is_used(
    server: Written, provider: Provider, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    monkeypatch.delenv(f"LAUNCHER_{provider.upper()}_URL")
    monkeypatch.setenv("LAUNCHER_SANDBOX", "1")
    with pytest.raises(ProviderFailed, match="launcher sandbox up"):
        list_rentals(provider)
    (own_home / "sandbox").mkdir(parents=True)
    (own_home / "sandbox" / "running.json").write_text(json.dumps({"url": server.url}))
    server.will_answer(lists(provider))
    assert list_rentals(provider) == []
    _, path, headers, _ = server.requests[0]
    assert path.startswith(f"/{provider}/") and KEY not in headers["Authorization"]
    assert default_ledger().path == own_home / "sandbox" / "ledger.jsonl"


# --- against the emulated clouds -------------------------------------------------------------------------------------


@PROVIDERS
def test_a_machine_of_the_emulated_cloud_from_creation_to_its_end(clouds: Emulated, provider: Provider) -> None:
    instance = clouds.rent(provider, HEAD)
    assert [machine.status for machine in list_rentals(provider)] == [MachineStatus.CREATING]
    clouds.time.advance(5)
    [machine] = list_rentals(provider)
    assert (machine.id, machine.name, machine.status) == (instance.id, HEAD, MachineStatus.RUNNING)
    assert machine.usd_per_hour is not None and machine.gpus == instance.order.listing.gpus
    terminate(provider, machine.id)
    assert all(machine.status == MachineStatus.GONE for machine in list_rentals(provider))
    clouds.time.advance(5)
    assert list_rentals(provider) == [] and clouds.rented() == []


@PROVIDERS
@pytest.mark.parametrize("created_after_s", [0.0, 0.4, 0.99])
@pytest.mark.parametrize("hours", [0.01, 1.0, 30.0])
def test_the_ledger_is_never_below_the_bill_and_hardly_above_it(
    clouds: Emulated, tmp_path: Path, provider: Provider, created_after_s: float, hours: float
) -> None:
    """Over it by at most 0.5 % or two seconds of the machine, whichever is more; the list is asked every second."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    observer = Observer(ledger, RealClouds(), clouds.clock)
    now = clouds.time.now()
    ledger.append(LedgerEntry(now, LedgerEvent.INTENT, "r", "g", provider, "launcher-g-1", 1.0, deadline_at=now + 1e6))
    for second in range(6):
        observer.look(provider)
        clouds.time.advance(created_after_s)
        if second == 2:
            clouds.rent(provider, HEAD)
        clouds.time.advance(1.0 - created_after_s)
    clouds.time.advance(hours * 3600)
    [rental] = tear_down(["launcher-g-1"], observer)
    usd, billed = rental.usd(clouds.time.now()), cast(float, clouds.cloud.invoice()["total_usd"])
    [machine] = rental.machines.values()
    assert usd is not None and machine.usd_per_hour is not None
    assert billed <= usd + 1e-9
    assert usd - billed <= max(0.005 * billed, 2 * machine.usd_per_hour / 3600) + 1e-9
