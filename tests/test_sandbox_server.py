"""The emulated clouds over HTTP, asked by the launcher's own readers of offers, rentals and accounts."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from launcher.cloud.live_offers import live_questions
from launcher.cloud.rentals import ProviderFailed, balance, list_rentals, terminate
from launcher.cost.catalogs import read_snapshot
from launcher.cost.offer import Offer
from launcher.sandbox.clock import VirtualClock
from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.driver import VirtualHosts
from launcher.sandbox.faults import Fault
from launcher.sandbox.market import CLOUDS
from launcher.sandbox.server import SandboxServer, serve
from tests.sandbox_account import Account

KEY = "secret-key-9d1c"


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
    account = Account(server.cloud)
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
