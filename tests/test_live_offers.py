"""Live offers in the providers' own formats over HTTP, catalogs renewed, and what is used when they fail."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cloud import fetch as fetching
from launcher.cloud import lambda_cloud, runpod, vast
from launcher.cloud.keys import find_key
from launcher.cost.catalogs import SNAPSHOT
from launcher.cost.intake import Intake
from launcher.cost.offer import Offer, Provider
from launcher.errors import BadInput
from launcher.offers import Gathered, gather_offers
from tests.price_servers import KEY, PriceServer, ask, gpu_type, lambda_type, serving

PROVIDERS: tuple[Provider, ...] = ("vast", "lambda", "runpod")
HOUR_S = 3600.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PriceServer]:
    """A server in the place of all four, and a home directory without keys and catalogs."""
    for name in ("VAST_API_KEY", "LAMBDA_API_KEY", "RUNPOD_API_KEY", "XDG_CONFIG_HOME", "SKY_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with serving() as running:
        for provider in PROVIDERS:
            monkeypatch.setenv(f"LAUNCHER_{provider.upper()}_URL", f"{running.url}/{provider}")
        monkeypatch.setenv("LAUNCHER_CATALOG_URL", f"{running.url}/catalogs")
        yield running


@pytest.fixture
def keys(server: PriceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in PROVIDERS:
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)


def of(gathered: Gathered, provider: Provider) -> list[Offer]:
    return [offer for offer in gathered.offers if offer.provider == provider]


def live(provider: Provider) -> tuple[list[Offer], tuple[str, ...]]:
    gathered = gather_offers(providers=[provider])
    return of(gathered, provider), gathered.warnings


def sky_home(tmp_path: Path) -> Path:
    return tmp_path / "home" / ".sky" / "catalogs" / "v8"


def put_catalog(tmp_path: Path, provider: Provider, age_hours: float, text: str | None = None) -> Path:
    """A catalog as SkyPilot leaves it: the file, touched just now, and its checksum from the day of the download."""
    path = sky_home(tmp_path) / provider / "vms.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(snapshot(provider) if text is None else text.encode())
    checksum = sky_home(tmp_path) / ".meta" / provider / "vms.csv.md5"
    checksum.parent.mkdir(parents=True)
    checksum.write_text(hashlib.md5(path.read_bytes()).hexdigest())
    downloaded = time.time() - age_hours * HOUR_S
    os.utime(checksum, (downloaded, downloaded))
    return path


def snapshot(provider: Provider) -> bytes:
    return (SNAPSHOT / "v8" / provider / "vms.csv").read_bytes()


# ---- the providers' formats


@pytest.mark.usefixtures("keys")
def test_vast(server: PriceServer) -> None:
    offers, warnings = live("vast")
    assert warnings == ()
    stays, spot = sorted(offers, key=lambda offer: offer.spot)
    assert (stays.gpu, stays.gpus, stays.gpu_memory_gib, stays.source) == ("RTX4090", 2, 24.0, "live")
    assert (stays.usd_per_hour, spot.usd_per_hour, spot.spot) == (0.80, 0.41, True)
    assert (stays.vcpus, stays.host_memory_gib) == (32.0, 64.0)  # half of the host
    assert stays.download_gbit_s == pytest.approx(0.95)
    assert (stays.upload_usd_per_gb, stays.download_usd_per_gb) == (0.004, 0.003)
    assert stays.disk_usd_per_gib_hour == pytest.approx(0.15 * 1.0737 / 720, rel=1e-4)
    assert (stays.reliability, stays.host_id, stays.region, stays.available) == (0.9987, "2555", "Texas, US", True)
    [(path, _, body)] = server.requests
    assert path == "/vast/api/v0/bundles/"
    assert body["verified"] == {"eq": True} and body["rentable"] == {"eq": True} and body["limit"] >= 1000


@pytest.mark.usefixtures("keys")
def test_vast_prices_that_are_none_are_counted(server: PriceServer) -> None:
    bad = [ask(dph_base=None, dph_total=price, min_bid=None) for price in (0, None, -1, math.nan)]
    server.asks = [*bad, ask(machine_id=1, dph_base=None, min_bid=0.0)]
    offers, warnings = live("vast")
    assert [(offer.usd_per_hour, offer.host_id) for offer in offers] == [(0.8028, "1")]
    assert any(line.startswith("vast live: no usable price, left out: 4 rows (") for line in warnings)
    assert any(line.startswith("vast live: no usable spot price, left out as spot: 1 row (0.0)") for line in warnings)


@pytest.mark.usefixtures("keys")
def test_vast_machines_that_are_rented_or_unverified_are_left_out_although_the_server_lists_them(
    server: PriceServer,
) -> None:
    server.asks = [ask(rented=True), ask(rentable=False), ask(verification="deverified"), ask(machine_id=7)]
    offers, warnings = live("vast")
    assert {offer.host_id for offer in offers} == {"7"}
    assert warnings == ("vast live: host not verified by vast.ai, left out: 1 row (RTX 4090)",)


@pytest.mark.usefixtures("keys")
def test_vast_offers_that_cannot_be_read_are_named(server: PriceServer) -> None:
    server.asks = [ask(num_gpus="two"), ask(gpu_ram=None), None, {}, ask(num_gpus=0.5), ask(machine_id=7)]
    offers, warnings = live("vast")
    assert {offer.host_id for offer in offers} == {"7"}
    assert [line.split(":")[0] for line in warnings] == [f"vast live offer {position}" for position in range(5)]


@pytest.mark.usefixtures("keys")
def test_lambda(server: PriceServer) -> None:
    offers, warnings = live("lambda")
    assert warnings == ()
    assert {(o.instance_type, o.region, o.gpu, o.gpu_memory_gib, o.usd_per_hour, o.spot) for o in offers} == {
        ("gpu_1x_h100_pcie", region, "H100-PCIe", 80.0, 2.49, False) for region in ("us-west-3", "us-east-1")
    }
    [(path, headers, _)] = server.requests
    assert (path, headers["Authorization"]) == ("/lambda/api/v1/instance-types", f"Bearer {KEY}")


@pytest.mark.usefixtures("keys")
def test_lambda_types_without_capacity_and_without_a_gpu_are_no_offers_but_counted(server: PriceServer) -> None:
    server.types["gpu_8x_b200"] = lambda_type("gpu_8x_b200", "B200 (180 GB SXM6)", 5352, [], gpus=8)
    gathered = gather_offers(providers=["lambda"])
    assert {offer.instance_type for offer in gathered.offers} == {"gpu_1x_h100_pcie"}
    [source] = gathered.sources
    assert (source.sold_out, source.cpu_rows) == (1, 1)
    assert "1 listed without capacity" in gathered.source_lines()[0]


@pytest.mark.usefixtures("keys")
def test_lambda_faults_are_counted_or_named(server: PriceServer) -> None:
    server.types = {
        "gpu_1x_free": lambda_type("gpu_1x_free", "A10 (24 GB PCIe)", 0, ["us-east-1"]),
        "gpu_1x_odd": lambda_type("gpu_1x_odd", "A10", 75, ["us-east-1"]),
        "gpu_1x_new": lambda_type("gpu_1x_new", "Z900 (24 GB)", 75, ["us-east-1"]),
        "gpu_1x_bare": {"instance_type": {"name": "gpu_1x_bare"}},
        "gpu_1x_a10": lambda_type("gpu_1x_a10", "A10 (24 GB PCIe)", 75, ["us-east-1"]),
    }
    offers, warnings = live("lambda")
    assert [(offer.instance_type, offer.usd_per_hour) for offer in offers] == [("gpu_1x_a10", 0.75)]
    assert list(warnings) == [
        "lambda live: no usable price, left out: 1 row (0)",
        "lambda live: memory not stated, left out: 1 row (A10)",
        "lambda live: GPU not known, left out: 1 row (Z900 (24 GB))",
        "lambda live gpu_1x_bare: cannot be read (KeyError: 'regions_with_capacity_available')",
    ]


@pytest.mark.usefixtures("keys")
def test_runpod(server: PriceServer) -> None:
    offers, warnings = live("runpod")
    assert warnings == ()
    on_demand = {offer.gpus: offer for offer in offers if not offer.spot}
    assert {gpus: round(offer.usd_per_hour, 2) for gpus, offer in on_demand.items()} == {
        1: 1.64, 2: 3.28, 3: 4.92, 4: 6.56, 6: 9.84, 8: 13.12,
    }  # fmt: skip
    assert {offer.gpus: round(offer.usd_per_hour, 2) for offer in offers if offer.spot}[8] == 6.56
    assert (on_demand[2].gpu, on_demand[2].gpu_memory_gib) == ("A100-PCIe", 80.0)
    # The name in SkyPilot's catalog, by which it is asked for.
    assert (on_demand[2].instance_type, on_demand[2].host_memory_gib) == ("2x_A100-80GB_SECURE", 120.0)
    assert all("secureCloud: true" in body["query"] for _, _, body in server.requests)


@pytest.mark.usefixtures("keys")
def test_runpod_types_out_of_stock_or_not_in_the_secure_cloud_are_no_offers(server: PriceServer) -> None:
    server.gpu_types = [
        gpu_type("RTX 4090", 24, None, None),
        gpu_type("RTX A6000", 48, 0.5, None, lowestPrice=None),
        gpu_type("RTX 5090", 32, 0.9, None, secureCloud=False),
        gpu_type("L40S", 48, 0.86, None, maxGpuCount=1),
        gpu_type("PRO 6000 MIG 24GB", 24, 0.59, None),
        gpu_type("H200 SXM", "lots", 3.5, None),
        gpu_type("L4", 24, 0, 0),
    ]
    gathered = gather_offers(providers=["runpod"])
    assert [(o.gpu, o.gpus, o.usd_per_hour) for o in gathered.offers] == [("L40S", 1, 0.86)]
    assert gathered.sources[0].sold_out == 12
    assert "runpod live: GPU not known, left out: 6 rows (PRO 6000 MIG 24GB: 6)" in gathered.warnings
    assert "runpod live: no usable price, left out: 6 rows (0: 6)" in gathered.warnings
    assert sum("cannot be read (ValueError" in line for line in gathered.warnings) == 6


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
A_TYPE = lambda_type("gpu_1x_a10", "A10 (24 GB PCIe)", 75, ["us-east-1"])
A_GPU = gpu_type("A100 PCIe", 80, 1.64, 0.82)(2)


@given(JSON, st.dictionaries(st.sampled_from([*ask(), *A_TYPE, *A_TYPE["instance_type"], *A_GPU]), JSON))
def test_an_answer_may_hold_anything(anything: Any, changes: dict[str, Any]) -> None:
    kind = A_TYPE["instance_type"] | changes
    for provider, read, good in (
        ("vast", vast.read_answer, {"offers": [anything, ask() | changes]}),
        (
            "lambda",
            lambda_cloud.read_answer,
            {"data": {"a": anything, "b": A_TYPE | {"instance_type": kind} | changes}},
        ),
        ("runpod", partial(runpod.read_answer, gpus=2), {"data": {"gpuTypes": [anything, A_GPU | changes]}}),
    ):
        intake = Intake(cast(Provider, provider), "live", "live")
        read(good, intake=intake, priced_at="2026-11-21")
        intake.warnings()
        assert all(0 < offer.usd_per_hour < math.inf for offer in intake.offers)
        json.dumps([dataclasses.asdict(offer) for offer in intake.offers], allow_nan=False)


# ---- failures: one line, and the catalog


FAILURES: dict[str, tuple[Callable[[PriceServer, str], Any], str]] = {
    "refused": (lambda s, p: s.failures.update({p: (401, b"{}")}), "the key was refused (HTTP 401)"),
    "throttled": (lambda s, p: s.failures.update({p: (429, b"slow down")}), "too many requests (HTTP 429)"),
    "broken": (lambda s, p: s.failures.update({p: (500, b"Internal Server Error")}), "HTTP 500"),
    "html": (lambda s, p: s.failures.update({p: (200, b"<html>maintenance</html>")}), "the answer is not JSON"),
    "list": (lambda s, p: s.failures.update({p: (200, b"[]")}), "the answer is no JSON object"),
    "empty": (lambda s, p: s.failures.update({p: (200, b"{}")}), "the answer holds no "),
    "deep": (lambda s, p: s.failures.update({p: (200, b"[" * 100_000)}), "the answer is not JSON"),
    "cut off": (lambda s, p: s.truncated.add(p), "the answer was cut off"),
    "redirect": (lambda s, p: s.failures.update({p: (302, b"http://127.0.0.1:9/")}), "HTTP 302"),
}


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_that_fails_is_one_line_and_its_catalog_is_used(
    server: PriceServer, provider: Provider, failure: str
) -> None:
    fail, reason = FAILURES[failure]
    fail(server, provider)
    gathered = gather_offers(providers=PROVIDERS)
    sources = {source.provider: source.kind for source in gathered.sources}
    assert sources == {name: "snapshot" if name == provider else "live" for name in PROVIDERS}
    assert of(gathered, provider)
    line = gathered.warnings[0]
    assert line.startswith(f"{provider}: not asked live: {reason}")
    assert line.endswith("; prices from files")


@pytest.mark.usefixtures("keys")
def test_a_provider_that_does_not_answer_is_not_waited_for(
    server: PriceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.offers.LIVE_TIMEOUT_S", 0.3)
    server.hanging.add("vast")
    gathered = gather_offers(providers=PROVIDERS)
    assert "vast: not asked live: no answer within 0.3 s; prices from files" in gathered.warnings
    assert {source.provider for source in gathered.sources if source.kind == "live"} == {"lambda", "runpod"}


@pytest.mark.usefixtures("keys")
def test_no_server_at_all(server: PriceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHER_VAST_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LAUNCHER_LAMBDA_URL", "no address")
    gathered = gather_offers(providers=["vast", "lambda"])
    assert gathered.warnings[0].startswith("vast: not asked live: not reached (")
    assert gathered.warnings[1].startswith("lambda: not asked live: 'no address/api/v1/instance-types' is no address")


@pytest.mark.usefixtures("keys")
def test_runpod_refusing_the_query_is_a_failure(server: PriceServer) -> None:
    server.failures["runpod"] = (200, json.dumps({"errors": [{"message": f"no {KEY}"}], "data": None}).encode())
    _, warnings = live("runpod")
    assert warnings[0] == "runpod: not asked live: the query was refused; prices from files"


def test_a_fault_in_our_own_code_is_not_taken_for_a_provider_that_fails() -> None:
    def fault() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fetching.in_parallel({"vast": fault}, 1.0)


@pytest.mark.parametrize("key", ["wrong-key", "two words", "a\nb", "ключ"])
def test_a_key_is_never_shown(server: PriceServer, monkeypatch: pytest.MonkeyPatch, key: str, caplog: Any) -> None:
    for provider in PROVIDERS:
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", key)
    gathered = gather_offers(providers=PROVIDERS)
    assert len(gathered.warnings) >= 3
    assert key not in "\n".join(gathered.warnings) + repr(gathered.sources) + caplog.text


# ---- keys


def test_keys_are_found_where_the_providers_tools_keep_them(server: PriceServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert [find_key(provider) for provider in PROVIDERS] == [None, None, None]
    for path, text in {
        ".config/vastai/vast_api_key": "v-key\n",
        ".lambda_cloud/lambda_keys": "name = x\napi_key = l-key\n",
        ".runpod/config.toml": '[default]\napi_key = "r-key"\n',
    }.items():
        (home / path).parent.mkdir(parents=True)
        (home / path).write_text(text)
    assert [find_key(provider) for provider in PROVIDERS] == ["v-key", "l-key", "r-key"]


@pytest.mark.parametrize("text", ["", "[default", "default = 3", "[default]\napi_key = 3", "[other]\napi_key = 'x'"])
def test_a_key_file_without_a_key_is_no_key(server: PriceServer, tmp_path: Path, text: str) -> None:
    for path in (".runpod/config.toml", ".lambda_cloud/lambda_keys"):
        (tmp_path / "home" / path).parent.mkdir(parents=True)
        (tmp_path / "home" / path).write_text(text)
    assert find_key("runpod") is None
    assert find_key("lambda") in (None, "3", "'x'")


# ---- catalogs


def test_offline_and_with_nothing_at_hand_the_snapshot_is_used_and_nobody_asked(server: PriceServer) -> None:
    gathered = gather_offers(offline=True)
    assert {source.kind for source in gathered.sources} == {"snapshot"}
    assert server.requests == []
    assert all("undated (2026)" in line for line in gathered.source_lines())
    assert "of 2026-09-25 (" in gathered.source_lines()[2]


def test_skypilots_catalog_goes_before_the_snapshot(server: PriceServer, tmp_path: Path) -> None:
    put_catalog(tmp_path, "lambda", age_hours=30)
    gathered = gather_offers(offline=True)
    kinds = {source.provider: source.kind for source in gathered.sources}
    assert kinds == {"vast": "snapshot", "lambda": "catalog", "runpod": "snapshot"}
    assert "(30 h old)" in gathered.source_lines()[1]
    assert {offer.priced_at is None for offer in of(gathered, "lambda")} == {False}


@pytest.mark.parametrize("text", ["", "<html>", "InstanceType,AcceleratorName,AcceleratorCount,Price,Region,GpuInfo\n"])
def test_a_catalog_without_offers_is_a_warning_and_the_snapshot_is_used(
    server: PriceServer, tmp_path: Path, text: str
) -> None:
    path = put_catalog(tmp_path, "lambda", age_hours=1, text=text)
    gathered = gather_offers(providers=["lambda"], offline=True)
    assert gathered.sources[0].kind == "snapshot"
    assert gathered.warnings[0].startswith(str(path))


def test_missing_and_old_catalogs_are_downloaded_and_young_ones_not(server: PriceServer, tmp_path: Path) -> None:
    put_catalog(tmp_path, "vast", age_hours=8)
    put_catalog(tmp_path, "lambda", age_hours=6)
    server.catalogs = {provider: snapshot(provider) for provider in PROVIDERS}
    gathered = gather_offers()
    assert {path for path, _, _ in server.requests} == {f"/catalogs/v8/{p}/vms.csv" for p in ("vast", "runpod")}
    assert {source.kind for source in gathered.sources} == {"catalog"}
    checksum = sky_home(tmp_path) / ".meta" / "runpod" / "vms.csv.md5"
    assert checksum.read_text() == hashlib.md5(snapshot("runpod")).hexdigest()
    assert "less than an hour old" in gathered.source_lines()[0]


def test_a_catalog_written_by_hand_is_never_replaced(server: PriceServer, tmp_path: Path) -> None:
    put_catalog(tmp_path, "vast", age_hours=99).write_bytes(snapshot("vast") + b"\n")
    path = put_catalog(tmp_path, "lambda", age_hours=99)
    (sky_home(tmp_path) / ".meta" / "lambda" / "vms.csv.md5").unlink()
    gather_offers(providers=["vast", "lambda"], refresh=True)
    assert server.requests == []
    assert path.read_bytes() == snapshot("lambda")


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xfe", b"InstanceType,Price\n"])
def test_a_download_that_is_no_catalog_replaces_nothing(server: PriceServer, tmp_path: Path, content: bytes) -> None:
    path = put_catalog(tmp_path, "lambda", age_hours=99)
    server.catalogs = {"lambda": content}
    gathered = gather_offers(providers=["lambda"])
    assert path.read_bytes() == snapshot("lambda")
    assert gathered.warnings == ("lambda: price catalogs not renewed: the answer is no price catalog",)
    assert "(4 days old)" in gathered.source_lines()[0]


def test_after_a_failed_download_nobody_waits_for_another_within_the_hour_unless_asked(server: PriceServer) -> None:
    gathered = gather_offers()
    assert gathered.warnings[0] == "vast, lambda, runpod: price catalogs not renewed: HTTP 404"
    asked = len(server.requests)
    assert "not renewed" not in "".join(gather_offers().warnings)
    assert len(server.requests) == asked
    server.catalogs = {provider: snapshot(provider) for provider in PROVIDERS}
    assert {source.kind for source in gather_offers(refresh=True).sources} == {"catalog"}


def test_a_second_host_is_asked_when_the_first_fails(server: PriceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHER_CATALOG_URL", f"{server.url}/nowhere/x {server.url}/catalogs")
    server.failures["nowhere"] = (429, b"")
    server.catalogs = {"lambda": snapshot("lambda")}
    assert gather_offers(providers=["lambda"]).sources[0].kind == "catalog"


def test_a_home_that_cannot_be_written_is_a_warning(
    server: PriceServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SKY_RUNTIME_DIR", str(tmp_path / "file"))
    server.catalogs = {"lambda": snapshot("lambda")}
    gathered = gather_offers(providers=["lambda"])
    assert "cannot be written" in gathered.warnings[0]
    assert gathered.sources[0].kind == "snapshot"


# ---- own machines


def test_own_machines_come_from_the_home_or_a_named_file(server: PriceServer, own_home: Path, tmp_path: Path) -> None:
    machine = "machines:\n  - {name: %s, gpu: RTX4090, memory: 24GiB, watts: 500, usd_per_kwh: 0.3}\n"
    own_home.mkdir(exist_ok=True)
    (own_home / "own.yaml").write_text(machine % "desk")
    (tmp_path / "other.yaml").write_text(machine % "lab")
    assert [offer.instance_type for offer in of(gather_offers(offline=True), "own")] == ["desk"]
    named = gather_offers(offline=True, own=tmp_path / "other.yaml")
    assert [offer.instance_type for offer in of(named, "own")] == ["lab"]
    assert of(gather_offers(offline=True, providers=["vast"]), "own") == []
    with pytest.raises(BadInput, match="no such file"):
        gather_offers(offline=True, own=tmp_path / "none.yaml")
