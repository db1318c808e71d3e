"""SkyPilot's price catalogs (CSV, schema v8) as offers, and the snapshot of them that ships with the package.

Every provider's file writes GPU memory in a unit of its own, and names of GPUs and places differently: `_DIALECTS`.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from launcher.cost.intake import Intake
from launcher.cost.offer import Provider, gib_hour_usd, positive_number
from launcher.errors import BadInput

SCHEMA = "v8"
SNAPSHOT = Path(__file__).parent.parent / "assets" / "catalogs"
MOST_BYTES = 64_000_000
_MOST_INFO_CHARS = 4000
_COLUMNS = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price", "Region", "GpuInfo")
# docs.runpod.io/pods/storage: container and volume disk of a running pod, $0.10 per GB and month; the same
# documentation (pods/pricing): no fees for traffic. Lambda's instance prices include disk and traffic. What a vast.ai
# host asks for both stands in its live offer only.
RUNPOD_DISK_USD_PER_GIB_HOUR = gib_hour_usd(0.10)


@dataclass(frozen=True)
class GpuInfo:
    """A row's `GpuInfo`: the GPU's name, and its `SizeInMiB`, whatever it means."""

    name: str
    size: float


@dataclass(frozen=True)
class _Dialect:
    """How one provider's file is read.

    memory_gib: of one GPU, from `GpuInfo` and the number of GPUs. exact_name: what says more about the GPU than
    `AcceleratorName`, which leaves out PCIe, SXM and NVL; from the instance type and `GpuInfo`. rounds_down: the
    machine has at least the host memory that the file says.
    """

    memory_gib: Callable[[GpuInfo, int], float]
    exact_name: Callable[[str, GpuInfo], str]
    disk_usd_per_gib_hour: float | None = None
    rounds_down: bool = False


_DIALECTS: dict[Provider, _Dialect] = {
    # The sum over all GPUs in MiB. 1x-H100_NVL-32-65536: count, name, vCPUs, host MiB; SkyPilot's fetcher asks for
    # offers `chunked`, which rounds vCPUs and host memory down.
    "vast": _Dialect(
        memory_gib=lambda info, gpus: info.size / gpus / 1024,
        exact_name=lambda instance_type, _: instance_type.partition("-")[2].rsplit("-", 2)[0],
        rounds_down=True,
    ),
    # MiB of one GPU, however many there are. gpu_8x_a100_80gb_sxm4.
    "lambda": _Dialect(
        memory_gib=lambda info, _: info.size / 1024,
        exact_name=lambda instance_type, _: instance_type.removeprefix("gpu_").partition("_")[2],
    ),
    # GiB of one GPU under the name of MiB. `GpuInfo` has the name that RunPod shows: A100 PCIe.
    "runpod": _Dialect(
        memory_gib=lambda info, _: info.size,
        exact_name=lambda _, info: info.name,
        disk_usd_per_gib_hour=RUNPOD_DISK_USD_PER_GIB_HOUR,
    ),
}


class _Broken(Exception):
    """A row cannot be read; says which field, its value, and what would be right."""


def sky_catalogs() -> Path:
    """Where SkyPilot keeps its catalogs: under `$SKY_RUNTIME_DIR`, or the home directory."""
    base = os.environ.get("SKY_RUNTIME_DIR")
    return (Path(base).expanduser() if base else Path.home()) / ".sky" / "catalogs" / SCHEMA


def catalog_path(provider: Provider) -> Path:
    """Where SkyPilot keeps its catalog of a provider."""
    return sky_catalogs() / provider / "vms.csv"


def checksum_path(provider: Provider) -> Path:
    """The file in which SkyPilot keeps the MD5 of the catalog it downloaded; a hand-made one has none."""
    return sky_catalogs() / ".meta" / provider / "vms.csv.md5"


def read_sky_catalog(provider: Provider) -> Intake:
    """The offers of SkyPilot's catalog of a provider, as it lies on this machine.

    Raises:
        BadInput: there is no such file, or it is no price catalog.
    """
    path = catalog_path(provider)
    return parse_catalog(_read(path), str(path), provider, "catalog", catalog_date(provider))


def read_snapshot(provider: Provider) -> Intake:
    """The offers of a provider as they were when this version of the package was made."""
    path = SNAPSHOT / SCHEMA / provider / "vms.csv"
    dated = snapshot_dates()["dated"].get(provider, {})
    return parse_catalog(_read(path), f"snapshot {provider}/vms.csv", provider, "snapshot", None, dated)


@lru_cache(maxsize=1)
def snapshot_dates() -> Mapping[str, Mapping[str, Any]]:
    """`dated`: date by provider and instance type; `undated`: what is known of the others' date, in words."""
    return json.loads((SNAPSHOT / "snapshot.json").read_text(encoding="utf-8"))


def catalog_date(provider: Provider) -> str | None:
    """When SkyPilot's catalog of a provider was downloaded, or last written where it is hand-made; ISO, None: no file.

    SkyPilot touches the file when a download fails, but writes the `.md5` beside it only when one succeeds.
    """
    path, checksum = catalog_path(provider), checksum_path(provider)
    try:
        written = (checksum if checksum.exists() else path).stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")


def parse_catalog(
    text: str,
    what: str,
    provider: Provider,
    source: Literal["catalog", "snapshot"],
    priced_at: str | None,
    dated: Mapping[str, str] | None = None,
) -> Intake:
    """The offers of one catalog; rows that cannot be read are named in its warnings, and the rest is read.

    Args:
        text: the CSV file.
        what: its name in warnings.
        provider: whose dialect it is written in.
        source: what the offers say they come from.
        priced_at: ISO date of the prices, None where unknown.
        dated: dates of single instance types' prices.

    Raises:
        BadInput: it is no price catalog.
    """
    intake = Intake(provider, source, what)
    for line, row in _rows(text, intake):
        instance_type = row["InstanceType"].strip()
        try:
            _take(row, intake, (dated or {}).get(instance_type, priced_at))
        except _Broken as fault:
            intake.break_row(f":{line}", str(fault))
    return intake


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(f"{path}: {path.stat().st_size:,} bytes; a price catalog has {MOST_BYTES:,} at most")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not a text file in UTF-8") from None
    except OSError as fault:
        raise BadInput(f"{path}: cannot be read ({fault.strerror})") from None


def _rows(text: str, intake: Intake) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of each row. Line by line: an unclosed quote must not swallow the rows that follow."""
    lines = text.split("\n")
    try:
        header = _fields(lines[0])
    except csv.Error:
        header = []
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise BadInput(f"{intake.what}:1: no price catalog; columns missing: {', '.join(missing)}")
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            fields = _fields(line)
        except csv.Error as fault:
            intake.break_row(f":{number}", str(fault))
            continue
        if len(fields) == len(header):
            yield number, dict(zip(header, fields, strict=True))
        else:
            intake.break_row(f":{number}", f"{len(fields)} fields; {len(header)} are needed")


def _fields(line: str) -> list[str]:
    return next(csv.reader((line.rstrip("\r"),), strict=True), [])


def _take(row: Mapping[str, str], intake: Intake, priced_at: str | None) -> None:
    name, instance_type = row["AcceleratorName"].strip(), row["InstanceType"].strip()
    if not name:
        intake.cpu_rows += 1
        return
    if not instance_type:
        raise _Broken("InstanceType: '': a name is needed")
    count = _number(row, "AcceleratorCount")
    if count is None or not 0 < count < math.inf:
        raise _Broken(f"AcceleratorCount: {row['AcceleratorCount']!r}: a whole number from 1 is needed")
    if not count.is_integer():
        intake.leave_out("part of a GPU, left out", f"{name}: {count:g}")
        return
    dialect, info, gpus = _DIALECTS[intake.provider], _row_info(row), int(count)
    intake.take(
        (dialect.exact_name(instance_type, info), name),
        dialect.memory_gib(info, gpus),
        _number(row, "Price"),
        _number(row, "SpotPrice"),
        instance_type=instance_type,
        gpus=gpus,
        vcpus=positive_number(_number(row, "vCPUs")),
        host_memory_gib=positive_number(_number(row, "MemoryGiB")),
        host_memory_is_floor=dialect.rounds_down,
        region=row["Region"].strip(" ,"),
        zone=row.get("AvailabilityZone", "").strip() or None,
        priced_at=priced_at,
        disk_usd_per_gib_hour=dialect.disk_usd_per_gib_hour,
    )


def _number(row: Mapping[str, str], column: str) -> float | None:
    """The number in a column, None where it is blank or the file has no such column."""
    text = row.get(column, "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise _Broken(f"{column}: {text[:40]!r}: a number is needed") from None


def _row_info(row: Mapping[str, str]) -> GpuInfo:
    try:
        return gpu_info(row["GpuInfo"])
    except ValueError as fault:
        raise _Broken(f"GpuInfo: {fault}") from None


@lru_cache(maxsize=4096)
def gpu_info(text: str) -> GpuInfo:
    """A `GpuInfo` field: a Python literal, in some files JSON.

    Raises:
        ValueError: it is neither, or does not state a GPU and its size.
    """
    if len(text) > _MOST_INFO_CHARS:
        raise ValueError(f"{len(text):,} characters; {_MOST_INFO_CHARS:,} at most")
    try:
        # Parsing nested brackets too deep for the parser ends in MemoryError or RecursionError.
        content = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        content = _json(text)
    try:
        gpu = content["Gpus"][0]
        name, size = gpu["Name"], positive_number(gpu["MemoryInfo"]["SizeInMiB"])
    except (KeyError, IndexError, TypeError):
        raise ValueError("Gpus[0] with Name and MemoryInfo.SizeInMiB is needed") from None
    if not isinstance(name, str) or size is None:
        raise ValueError(f"SizeInMiB: {gpu['MemoryInfo']['SizeInMiB']!r}: a number above 0 is needed")
    return GpuInfo(name, size)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{text[:40]!r}: neither a Python literal nor JSON") from None
