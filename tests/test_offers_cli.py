"""The command `launcher offers`: filters, the table, JSON, and where prices come from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.app import run
from launcher.cost.offer import Offer

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """`launcher offers --offline` in a home directory of its own: exit code, stdout, stderr."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SKY_RUNTIME_DIR", raising=False)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(["offers", "--offline", *arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return command


def as_json(command: Command, *arguments: str) -> list[dict[str, Any]]:
    code, out, _ = command("--json", *arguments)
    assert code == 0
    content = json.loads(out)
    assert isinstance(content, list)
    return content


def test_json_is_one_array_with_every_field_cheapest_first(offers: Command) -> None:
    content = as_json(offers)
    assert len(content) > 400
    assert all(list(entry) == [field.name for field in dataclasses.fields(Offer)] for entry in content)
    prices = [entry["usd_per_hour"] for entry in content]
    assert prices == sorted(prices)
    assert all(price > 0 for price in prices)


def test_filters(offers: Command) -> None:
    entries = as_json(offers, "--gpu", "RTX4090", "--gpus", "1..2", "--provider", "vast")
    assert entries
    assert {(e["gpu"], e["provider"]) for e in entries} == {("RTX4090", "vast")}
    assert {e["gpus"] for e in entries} == {1, 2}
    assert {e["gpu_memory_gib"] for e in entries} == {24.0, 48.0}
    assert {e["gpu_memory_gib"] for e in as_json(offers, "--gpu", "RTX4090", "--min-memory", "40")} == {48.0}
    assert {e["gpu_memory_gib"] for e in as_json(offers, "--min-memory", "140GiB")} == {141.0, 180.0}
    assert {e["gpu"] for e in as_json(offers, "--gpu", "A100-80GB", "--gpu", "l40s")} == {"A100", "A100-PCIe", "L40S"}


def test_spot_and_on_demand(offers: Command) -> None:
    assert {(e["spot"], e["provider"]) for e in as_json(offers, "--spot")} == {(True, "runpod")}
    assert {e["spot"] for e in as_json(offers, "--on-demand")} == {False}
    assert as_json(offers, "--spot", "--provider", "vast") == []


def test_the_table_says_where_every_price_comes_from_and_how_old_it_is(offers: Command) -> None:
    code, out, err = offers("--gpu", "H100", "--gpu", "L40S")
    assert code == 0
    assert "H100-NVL" in out and "H100-PCIe" in out
    lines = out.splitlines()
    assert sum(line.startswith("prices: ") for line in lines) == 3
    assert any("undated (2026)" in line for line in lines)
    assert any("of 2026-09-25 (" in line and "days old)" in line for line in lines)
    assert "vms.csv: no usable spot price, left out as spot: 46 rows" in err


def test_with_json_stdout_holds_json_alone_and_sources_go_to_stderr(offers: Command) -> None:
    code, out, err = offers("--json", "--provider", "lambda")
    assert code == 0
    assert json.loads(out)
    assert "prices: lambda: snapshot" in err


def test_offers_equal_but_for_their_place_are_one_row_and_long_tables_are_cut(offers: Command) -> None:
    _, out, _ = offers("--provider", "runpod", "--gpu", "RTX4090", "--gpus", "1", "--on-demand")
    [row] = [line for line in out.splitlines() if "1x_RTX4090_SECURE" in line]
    assert "+11" in row
    _, out, _ = offers("--limit", "3")
    assert len([line for line in out.splitlines() if "snapshot " in line and "prices:" not in line]) == 3
    assert "more; --limit" in out


def test_own_machines_are_ranked_with_the_rest(offers: Command, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("machines:\n  - {name: desk, gpu: RTX4090, memory: 24GiB, watts: 500, usd_per_kwh: 0.30}\n")
    first = as_json(offers, "--own", str(own))[0]
    assert (first["provider"], first["instance_type"], first["usd_per_hour"]) == ("own", "desk", 0.15)
    assert as_json(offers, "--own", str(own), "--provider", "own") == [first]


def test_nothing_fits(offers: Command) -> None:
    code, out, err = offers("--gpu", "RTX3060", "--provider", "lambda")
    assert code == 0
    assert "no offer fits these conditions" in err
    assert "prices: lambda" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "RTX4091"], "gpu: 'RTX4091': unknown; nearest: RTX4090"),
        (["--gpus", "8..1"], "--gpus: '8..1': a number of GPUs from 1, or a range"),
        (["--provider", "aws"], "--provider: 'aws': one of vast, lambda, runpod, own is needed"),
        (["--min-memory", "lots"], "--min-memory: 'lots': GiB of one GPU are needed"),
        (["--min-memory", "-4"], "--min-memory: '-4': GiB of one GPU are needed"),
        (["--min-memory", "nan"], "--min-memory: 'nan': GiB of one GPU are needed"),
        (["--refresh"], "offers: --offline and --refresh: one of them"),
        (["--own", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(offers: Command, arguments: list[str], message: str) -> None:
    code, out, err = offers(*arguments)
    assert code == 2
    assert out == ""
    [line] = err.splitlines()
    assert message in line


def test_a_broken_catalog_row_is_named_and_the_rest_is_listed(offers: Command, tmp_path: Path) -> None:
    path = tmp_path / "home/.sky/catalogs/v8/lambda/vms.csv"
    path.parent.mkdir(parents=True)
    from launcher.cost.catalogs import SNAPSHOT

    lines = (SNAPSHOT / "v8/lambda/vms.csv").read_text(encoding="utf-8").splitlines()
    lines[10] = lines[10].replace("1.09", "[red]cheap[/]\x1b[31m")
    path.write_text("\n".join(lines))
    code, out, err = offers("--provider", "lambda")
    assert code == 0
    assert "gpu_1x_h100_pcie" in out
    assert f"{path}:11: Price: '[red]cheap[/]\\x1b[31m': a number is needed" in err
