"""Catalogs as offers: every quirk of the hosted files, what is left out and counted, own machines, ranking."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launcher.cost.catalogs import SNAPSHOT, gpu_info, parse_catalog, read_snapshot
from launcher.cost.intake import Intake
from launcher.cost.offer import RENTED, Offer, Provider, gib_hour_usd, positive_number, valid_price
from launcher.cost.offerings import Wanted, as_rows, parse_counts, ranked, wanted_gpu
from launcher.cost.own import read_own
from launcher.errors import BadInput

HEADERS = {
    "vast": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region",
    "lambda": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice",
    "runpod": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Region,SpotPrice,Price,"
    "AvailabilityZone,GpuInfo",
}
VAST = {
    "InstanceType": "2x-RTX_4090-32-65536",
    "AcceleratorName": "RTX4090",
    "AcceleratorCount": "2",
    "vCPUs": "32",
    "MemoryGiB": "64.0",
    "Price": "0.79",
    "SpotPrice": "0.00",
    "Region": "Kansas, US, NA",
}
LAMBDA = {
    "InstanceType": "gpu_4x_a6000",
    "AcceleratorName": "A6000",
    "AcceleratorCount": "4.0",
    "vCPUs": "56.0",
    "MemoryGiB": "400.0",
    "Price": "4.36",
    "SpotPrice": "",
    "Region": "us-east-1",
}
RUNPOD = {
    "InstanceType": "2x_A100-80GB_SECURE",
    "AcceleratorName": "A100-80GB",
    "AcceleratorCount": "2.0",
    "vCPUs": "16.0",
    "MemoryGiB": "234.0",
    "Price": "2.78",
    "SpotPrice": "1.50",
    "Region": "US",
    "AvailabilityZone": "US-CA-2",
}


def info(name: str, count: Any, size: Any, total: Any = None) -> str:
    gpu = {"Name": name, "Count": count, "MemoryInfo": {"SizeInMiB": size}}
    return str({"Gpus": [gpu], "TotalGpuMemoryInMiB": size if total is None else total})


def catalog(provider: Provider, *rows: dict[str, str] | str) -> Intake:
    """A catalog file of these rows; a text stands for itself."""
    columns = HEADERS[provider].split(",")
    lines = [HEADERS[provider]]
    for row in rows:
        if isinstance(row, str):
            lines.append(row)
        else:
            lines.append(",".join('"' + row.get(column, "").replace('"', '""') + '"' for column in columns))
    return parse_catalog("\n".join(lines) + "\n", "vms.csv", provider, "catalog", None)


def the_offer(intake: Intake, spot: bool = False) -> Offer:
    [offer] = [offer for offer in intake.offers if offer.spot == spot]
    return offer


# ---- quirks of the hosted files


def test_runpod_writes_gib_where_the_column_says_mib() -> None:
    offer = the_offer(catalog("runpod", RUNPOD | {"GpuInfo": info("A100 PCIe", 2, 80, 160)}))
    assert (offer.gpu, offer.gpus, offer.gpu_memory_gib) == ("A100-PCIe", 2, 80.0)


def test_lambda_writes_mib_of_one_gpu_whatever_the_count() -> None:
    offer = the_offer(catalog("lambda", LAMBDA | {"GpuInfo": info("A6000", 4.0, 49152)}))
    assert (offer.gpu, offer.gpus, offer.gpu_memory_gib) == ("RTXA6000", 4, 48.0)


def test_vast_writes_the_sum_over_all_gpus() -> None:
    offer = the_offer(catalog("vast", VAST | {"GpuInfo": info("RTX4090", 2, 49128)}))
    assert (offer.gpu, offer.gpus, offer.gpu_memory_gib) == ("RTX4090", 2, 24.0)


def test_vasts_spot_price_of_zero_is_no_price_and_makes_no_spot_offer() -> None:
    intake = catalog("vast", VAST | {"GpuInfo": info("RTX4090", 2, 49128)})
    assert [offer.spot for offer in intake.offers] == [False]
    assert intake.warnings() == ["vms.csv: no usable spot price, left out as spot: 1 row (0.0)"]


def test_a_blank_spot_price_is_not_sold_as_spot_and_no_cause_for_a_warning() -> None:
    intake = catalog("lambda", LAMBDA | {"GpuInfo": info("A6000", 4.0, 49152)})
    assert [offer.spot for offer in intake.offers] == [False]
    assert intake.warnings() == []


@pytest.mark.parametrize(
    ("gpu", "sizes"),
    [("RTX_4090", {24564: 24.0, 49140: 48.0}), ("A100_SXM4", {40960: 40.0, 81920: 80.0})],
)
def test_one_name_with_two_memory_sizes_is_two_offers(gpu: str, sizes: dict[int, float]) -> None:
    row = VAST | {"InstanceType": f"1x-{gpu}-32-65536", "AcceleratorName": gpu.split("_S")[0], "AcceleratorCount": "1"}
    intake = catalog("vast", *(row | {"GpuInfo": info("x", 1, size)} for size in sizes))
    assert [offer.gpu_memory_gib for offer in intake.offers] == list(sizes.values())


@pytest.mark.parametrize(("form", "mib", "gpu"), [("SXM", 81559, "H100"), ("NVL", 95830, "H100-NVL")])
def test_an_h100_of_80_and_one_of_94_gib_are_told_apart(form: str, mib: int, gpu: str) -> None:
    row = VAST | {"InstanceType": f"1x-H100_{form}-32-65536", "AcceleratorName": "H100", "AcceleratorCount": "1"}
    offer = the_offer(catalog("vast", row | {"GpuInfo": info("H100", 1, mib)}))
    assert (offer.gpu, offer.gpu_memory_gib) == (gpu, 94.0 if form == "NVL" else 80.0)


def test_machines_without_a_gpu_are_counted_and_not_warned_about() -> None:
    cpu = {"InstanceType": "cpu_4x_general", "vCPUs": "4.0", "MemoryGiB": "16.0", "Price": "0.2", "Region": "us-east-1"}
    intake = catalog("lambda", cpu, LAMBDA | {"GpuInfo": info("A6000", 4.0, 49152)})
    assert len(intake.offers) == 1
    assert intake.cpu_rows == 1
    assert intake.warnings() == []


def test_places_and_hosts_are_kept() -> None:
    runpod = the_offer(catalog("runpod", RUNPOD | {"GpuInfo": info("A100 PCIe", 2, 80)}))
    assert (runpod.region, runpod.zone, runpod.vcpus, runpod.host_memory_gib) == ("US", "US-CA-2", 16.0, 234.0)
    vast = the_offer(catalog("vast", VAST | {"Region": ", US, NA", "vCPUs": "", "GpuInfo": info("x", 2, 49128)}))
    assert (vast.region, vast.vcpus) == ("US, NA", None)


def test_runpod_bills_disk_apart_and_lambda_does_not() -> None:
    runpod = the_offer(catalog("runpod", RUNPOD | {"GpuInfo": info("A100 PCIe", 2, 80)}))
    assert runpod.disk_usd_per_gib_hour == pytest.approx(gib_hour_usd(0.10))
    assert the_offer(catalog("lambda", LAMBDA | {"GpuInfo": info("A6000", 4, 49152)})).disk_usd_per_gib_hour is None


def test_spot_and_on_demand_are_two_offers() -> None:
    intake = catalog("runpod", RUNPOD | {"GpuInfo": info("A100 PCIe", 2, 80)})
    assert the_offer(intake).usd_per_hour == 2.78
    assert the_offer(intake, spot=True).usd_per_hour == 1.50


def test_memory_a_little_below_nominal_is_the_nominal_size() -> None:
    row = VAST | {"InstanceType": "2x-L40S-32-65536", "AcceleratorName": "L40S", "GpuInfo": info("L40S", 2, 92136)}
    assert the_offer(catalog("vast", row)).gpu_memory_gib == 48.0


# ---- what is left out


@pytest.mark.parametrize("price", ["0", "0.00", "-1", "", "nan", "inf", "-inf"])
def test_a_price_that_is_none_is_left_out_and_counted(price: str) -> None:
    good = LAMBDA | {"GpuInfo": info("A6000", 4, 49152)}
    intake = catalog("lambda", good | {"Price": price}, good, good | {"Price": price, "Region": "us-west-2"})
    assert [offer.usd_per_hour for offer in intake.offers] == [4.36]
    [warning] = intake.warnings()
    assert warning.startswith("vms.csv: no usable price, left out: 2 rows (")


def test_unknown_gpus_are_left_out_and_named() -> None:
    row = VAST | {"InstanceType": "1x-GTX_1080-32-65536", "AcceleratorName": "GTX1080", "AcceleratorCount": "1"}
    intake = catalog("vast", row | {"GpuInfo": info("GTX1080", 1, 8192)}, row | {"GpuInfo": info("GTX1080", 1, 8191)})
    assert intake.offers == ()
    assert intake.warnings() == ["vms.csv: GPU not known, left out: 2 rows (GTX_1080: 2)"]


def test_memory_that_no_such_gpu_has_is_left_out() -> None:
    intake = catalog("vast", VAST | {"GpuInfo": info("RTX4090", 2, 65536)})
    assert intake.offers == ()
    assert intake.warnings() == [
        "vms.csv: no such GPU has this memory, left out: 1 row (RTX_4090 with 32 GiB)",
    ]


@pytest.mark.parametrize("count", ["0.5", "1.5"])
def test_part_of_a_gpu_is_left_out(count: str) -> None:
    intake = catalog("vast", VAST | {"AcceleratorCount": count, "GpuInfo": info("RTX4090", 1, 24564)})
    assert intake.offers == ()
    assert intake.warnings() == [f"vms.csv: part of a GPU, left out: 1 row (RTX4090: {count})"]


BROKEN = {
    "AcceleratorCount": ["", "two", "0", "-1", "nan", "inf", "1e400"],
    "Price": ["cheap", "0.5.1"],
    "vCPUs": ["many"],
    "InstanceType": [""],
    "GpuInfo": [
        *("", "{", "[]", "{'Gpus': []}", "{'Gpus': 3}", "{'Gpus': [{'Name': 3}]}", "open('/etc/passwd')"),
        *("[" * 3000, "{" * 900, "1" * 5000, info("x", 1, None), info("x", 1, 0), info("x", 1, "nan")),
    ],
}


@pytest.mark.parametrize(("column", "value"), [(name, value) for name, values in BROKEN.items() for value in values])
def test_a_broken_row_is_named_by_line_and_the_rest_is_read(column: str, value: str) -> None:
    good = VAST | {"GpuInfo": info("RTX4090", 2, 49128), "SpotPrice": ""}
    intake = catalog("vast", good, good | {column: value}, good | {"Region": "Texas, US"})
    assert [offer.region for offer in intake.offers] == ["Kansas, US, NA", "Texas, US"]
    [warning] = intake.warnings()
    assert warning.startswith(f"vms.csv:3: {column}: ")
    assert len(warning) < 160


@pytest.mark.parametrize("line", ["a,b", '"' + "x," * 20, ",".join("x" * 40), "a\x00b", "x" * 200_000, '"unclosed,1,2'])
def test_a_line_that_is_no_row_does_not_swallow_the_next(line: str) -> None:
    good = VAST | {"GpuInfo": info("RTX4090", 2, 49128), "SpotPrice": ""}
    intake = catalog("vast", line, good)
    assert len(intake.offers) == 1
    [warning] = intake.warnings()
    assert warning.startswith("vms.csv:2: ")


def test_ten_broken_rows_are_named_and_the_others_counted() -> None:
    good = VAST | {"GpuInfo": info("RTX4090", 2, 49128), "SpotPrice": ""}
    intake = catalog("vast", *["broken"] * 15, good)
    assert len(intake.offers) == 1
    assert len(intake.warnings()) == 11
    assert intake.warnings()[-1] == "vms.csv: and 5 more rows that cannot be read"


@pytest.mark.parametrize("text", ["", "\n", "<html>", "a,b,c\n1,2,3\n", "InstanceType,Price\n"])
def test_a_file_that_is_no_catalog_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match=r"vms\.csv:1: no price catalog; columns missing"):
        parse_catalog(text, "vms.csv", "vast", "catalog", None)


def test_windows_line_ends_and_a_missing_last_one_are_read() -> None:
    row = VAST | {"GpuInfo": info("RTX4090", 2, 49128)}
    text = "\r\n".join([HEADERS["vast"], ",".join(f'"{row.get(c, "")}"' for c in HEADERS["vast"].split(","))])
    assert len(parse_catalog(text, "vms.csv", "vast", "catalog", None).offers) == 1


def test_gpu_info_may_be_json() -> None:
    text = json.dumps({"Gpus": [{"Name": "A10", "Count": 1, "MemoryInfo": {"SizeInMiB": 24576}, "Shared": False}]})
    assert gpu_info(text).size == 24576


@given(st.text(max_size=300))
def test_any_text_is_a_warning_or_bad_input_never_a_crash(text: str) -> None:
    parse_catalog(HEADERS["vast"] + "\n" + text, "vms.csv", "vast", "catalog", None).warnings()
    with pytest.raises(BadInput):
        parse_catalog(text, "vms.csv", "vast", "catalog", None)


@given(st.sampled_from(RENTED), st.dictionaries(st.sampled_from([*RUNPOD, "GpuInfo"]), st.text(max_size=40)))
def test_any_field_may_hold_anything(provider: Provider, changes: dict[str, str]) -> None:
    rows = {"vast": VAST, "lambda": LAMBDA, "runpod": RUNPOD}
    infos = {"vast": info("x", 2, 49128), "lambda": info("x", 4, 49152), "runpod": info("A100 PCIe", 2, 80)}
    intake = catalog(provider, rows[provider] | {"GpuInfo": infos[provider]} | changes)
    for offer in intake.offers:
        assert 0 < offer.usd_per_hour < math.inf
        assert offer.gpus >= 1
    intake.warnings()


# ---- the snapshot


@pytest.mark.parametrize(("provider", "rows", "cpu"), [("vast", 46, 0), ("lambda", 80, 5), ("runpod", 156, 0)])
def test_every_row_of_the_snapshot_is_an_offer(provider: Provider, rows: int, cpu: int) -> None:
    intake = read_snapshot(provider)
    on_demand = [offer for offer in intake.offers if not offer.spot]
    lines = (SNAPSHOT / "v8" / provider / "vms.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == rows + 1
    assert (len(on_demand), intake.cpu_rows) == (rows - cpu, cpu)
    assert {offer.source for offer in intake.offers} == {"snapshot"}


def test_the_snapshots_prices_are_undated_but_for_those_whose_date_is_known() -> None:
    assert {offer.priced_at for offer in read_snapshot("vast").offers} == {None}
    dates = {offer.instance_type: offer.priced_at for p in ("lambda", "runpod") for offer in read_snapshot(p).offers}
    assert {name for name, date in dates.items() if date == "2026-09-25"} == {
        "gpu_1x_h100_pcie", "1x_RTX4090_SECURE", "2x_RTX4090_SECURE", "4x_RTX4090_SECURE", "1x_L40S_SECURE",
        "2x_L40S_SECURE", "4x_L40S_SECURE",
    }  # fmt: skip
    assert set(dates.values()) == {None, "2026-09-25"}


@pytest.mark.parametrize(
    ("instance_type", "gpu", "gib", "usd"),
    [
        ("8x-H200-32-65536", "H200", 141.0, 17.88),
        ("4x-B200-32-65536", "B200", 180.0, 18.82),
        ("1x-RTX_PRO_6000_S-32-65536", "RTXPRO6000-Server", 96.0, 1.13),
        ("8x-Tesla_V100-32-65536", "V100", 16.0, 0.85),
        ("gpu_8x_a100_80gb_sxm4", "A100", 80.0, 22.32),
        ("gpu_1x_h100_pcie", "H100-PCIe", 80.0, 3.29),
        ("gpu_1x_gh200", "GH200", 96.0, 2.29),
        ("4x_L40S_SECURE", "L40S", 48.0, 4.36),
    ],
)
def test_rows_of_the_snapshot(instance_type: str, gpu: str, gib: float, usd: float) -> None:
    offers = [offer for provider in RENTED for offer in read_snapshot(provider).offers]
    found = {(o.gpu, o.gpu_memory_gib, o.usd_per_hour) for o in offers if o.instance_type == instance_type}
    assert found == {(gpu, gib, usd)}


# ---- prices


@pytest.mark.parametrize("value", [0, 0.0, -0.1, None, True, "", "free", math.nan, math.inf, -math.inf, [], 10**400])
def test_what_is_no_price_is_none(value: object) -> None:
    assert valid_price(value) is None


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_a_positive_number_is_itself(value: float) -> None:
    assert positive_number(value) == value == positive_number(str(value))


def test_a_storage_price_by_gb_and_month_is_dearer_by_gib_and_hour() -> None:
    assert gib_hour_usd(0.10) * 720 / 0.10 == pytest.approx(2**30 / 1e9)


# ---- own machines

DESK = {"name": "desk", "gpu": "RTX 4090", "memory": "24GiB", "watts": 550, "usd_per_kwh": 0.30}


def own_file(tmp_path: Path, *machines: Any) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"machines": list(machines)}), encoding="utf-8")
    return path


def test_an_hour_of_an_own_machine_costs_its_power_and_wear(tmp_path: Path) -> None:
    lab = DESK | {"name": "lab", "gpus": 2, "watts": 1100, "wear_usd_per_hour": 0.10, "host_memory": "128GiB"}
    desk, second = read_own(own_file(tmp_path, DESK, lab))
    assert (desk.provider, desk.source, desk.gpu, desk.gpu_memory_gib) == ("own", "own", "RTX4090", 24.0)
    assert desk.usd_per_hour == pytest.approx(0.165)
    assert second.usd_per_hour == pytest.approx(0.43)
    assert (second.gpus, second.host_memory_gib) == (2, 128.0)


def test_an_own_machines_memory_is_the_nominal_size(tmp_path: Path) -> None:
    [offer] = read_own(own_file(tmp_path, DESK | {"memory": "24GB"}))
    assert offer.gpu_memory_gib == 24.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpu": "RTX9090"}, "machines.0.gpu: 'RTX9090': unknown; nearest: "),
        ({"gpu": "MI300X"}, "machines.0.gpu: 'MI300X': has no CUDA"),
        ({"memory": "32GiB"}, "machines.0.memory: 32GiB: one RTX 4090 has 24GiB or 48GiB"),
        ({"memory": 24}, "machines.0.memory: 24: an amount of memory such as 80GiB is needed"),
        ({"watts": 0}, "machines.0.watts: 0: should be greater than 0"),
        ({"watts": math.nan}, "machines.0.watts: nan: a finite number is needed"),
        ({"usd_per_kwh": 0}, "machines.0.usd_per_kwh: 0: an amount in US dollars above 0"),
        ({"gpus": 0}, "machines.0.gpus: 0: "),
        ({"usd_per_kw": 0.3}, "machines.0.usd_per_kw: unknown key; did you mean usd_per_kwh?"),
    ],
)
def test_a_fault_of_the_own_file_is_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = own_file(tmp_path, DESK | change)
    with pytest.raises(BadInput) as caught:
        read_own(path)
    [fault] = caught.value.faults
    assert fault.startswith(f"{path}: {message}")


def test_two_own_machines_of_one_name_or_none_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name 'desk' stands there twice"):
        read_own(own_file(tmp_path, DESK, dict(DESK)))
    with pytest.raises(BadInput, match="machines: empty; at least one machine is needed"):
        read_own(own_file(tmp_path))


# ---- ranking


def offer(**changes: Any) -> Offer:
    fields: dict[str, Any] = {
        "provider": "vast", "instance_type": "x", "gpu": "RTX4090", "gpus": 1, "gpu_memory_gib": 24.0, "vcpus": None,
        "host_memory_gib": None, "region": "here", "spot": False, "usd_per_hour": 1.0, "source": "live",
        "priced_at": None,
    }  # fmt: skip
    return Offer(**(fields | changes))


def test_own_machines_are_ranked_with_the_rest(tmp_path: Path) -> None:
    [desk] = read_own(own_file(tmp_path, DESK))
    assert ranked([offer(), desk, offer(usd_per_hour=0.1)])[1] == desk


@given(st.lists(st.tuples(st.floats(0.01, 100), st.sampled_from([1, 2, 8]), st.booleans()), max_size=30), st.randoms())
def test_ranking_does_not_depend_on_the_order_and_loses_nothing(kinds: Any, random: Any) -> None:
    offers = [offer(usd_per_hour=usd, gpus=gpus, spot=spot) for usd, gpus, spot in kinds]
    mixed = random.sample(offers, len(offers))
    assert ranked(mixed) == ranked(offers)
    prices = [each.usd_per_hour for each in ranked(offers)]
    assert prices == sorted(prices)
    assert len(ranked(offers, Wanted(spot=True))) + len(ranked(offers, Wanted(spot=False))) == len(offers)


def test_conditions_narrow_the_list() -> None:
    a100 = offer(gpu="A100-PCIe", gpu_memory_gib=80.0, gpus=2, provider="runpod")
    offers = [offer(), offer(gpu_memory_gib=48.0), a100, offer(spot=True)]
    assert ranked(offers, Wanted(gpus=(wanted_gpu("A100"),))) == [a100]
    assert ranked(offers, Wanted(gpus=(wanted_gpu("A100-80GB"),))) == [a100]
    assert ranked(offers, Wanted(gpus=(wanted_gpu("A100-40GB"),))) == []
    assert ranked(offers, Wanted(min_memory_gib=48.0, most_gpus=1)) == [offers[1]]
    assert ranked(offers, Wanted(fewest_gpus=2)) == [a100]
    assert ranked(offers, Wanted(providers=("runpod", "own"))) == [a100]
    assert ranked(offers, Wanted(spot=True)) == [offers[3]]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("H100", {"H100", "H100-PCIe", "H100-NVL"}),
        ("H100 SXM", {"H100"}),
        ("H100-NVL", {"H100-NVL"}),
        ("rtx 4090", {"RTX4090"}),
        ("RTX6000", {"RTX6000"}),
        ("RTX 6000 Ada", {"RTX6000-Ada"}),
    ],
)
def test_a_gpus_name_means_every_form_of_the_card(asked: str, names: set[str]) -> None:
    assert set(wanted_gpu(asked).names) == names


@pytest.mark.parametrize(("text", "counts"), [("1..8", (1, 8)), ("2", (2, 2)), (" 2 .. 4 ", (2, 4)), ("2-4", (2, 4))])
def test_a_range_of_gpus(text: str, counts: tuple[int, int]) -> None:
    assert parse_counts(text) == counts


def test_an_open_range_has_no_upper_end() -> None:
    fewest, most = parse_counts("4..")
    assert (fewest, most >= 1000) == (4, True)


@pytest.mark.parametrize("text", ["", "0", "-1", "8..1", "a", "1...2", "0..4", "1.5", "99999"])
def test_a_wrong_range_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--gpus: "):
        parse_counts(text)


def test_offers_that_differ_in_place_alone_are_one_row() -> None:
    here, zone, dearer = offer(), offer(region="US", zone="US-CA-2"), offer(usd_per_hour=2.0)
    rows = as_rows([here, zone, replace(zone, zone="US-CA-3"), dearer])
    assert [(row.offer, row.places) for row in rows] == [(here, ("here", "US-CA-2", "US-CA-3")), (dearer, ("here",))]
