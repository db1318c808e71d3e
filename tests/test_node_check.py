"""The check of a rented node: the right machine passes, the wrong one is refused with the reason, in seconds."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.node.check_node import Gpu, Node, Wanted, faults_of, host_memory_gib, main, parse_gpus
from tests.conftest import ROOT

RTX4090 = "NVIDIA GeForce RTX 4090, 24564, 24082, 550.54.14"
# What vast.ai rented out for one RTX 4090 when its search lost its filters.
EIGHT_H200 = "\n".join(["NVIDIA H200, 143771, 143166, 570.86.15"] * 8)
PLANNED = ["--gpu", "RTX4090", "--gpus", "1", "--gpu-memory", "24", "--needs-gib", "23.1", "--disk", "0.001"]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that puts a stand-in `nvidia-smi` on the path."""

    def install(listing: str, exit_code: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}\nEND\nexit {exit_code}\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return install


def test_the_planned_machine_passes(nvidia_smi: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    nvidia_smi(RTX4090)
    assert main(PLANNED) == 0
    assert "1 x NVIDIA GeForce RTX 4090, 24.0 GiB, driver 550.54.14" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("listing", "reason"),
    [
        (EIGHT_H200, "8 GPUs, 1 wanted; NVIDIA H200, RTX4090 wanted"),
        ("NVIDIA GeForce RTX 3090, 24576, 24260, 550.54.14", "NVIDIA GeForce RTX 3090, RTX4090 wanted"),
        ("NVIDIA GeForce RTX 4090, 24564, 11000, 550.54.14", "10.7 GiB of its memory free, 23.1 GiB needed"),
        ("NVIDIA GeForce RTX 4090, 16380, 16000, 550.54.14", "of 16.0 GiB, 24 GiB wanted"),
        ("NVIDIA GeForce RTX 4090, 24564, 24082, 470.199.02", "driver 470.199.02, 525.60.13 or newer needed"),
        ("NVIDIA GeForce RTX 4090, [N/A], [N/A], 550.54.14", "its memory is not shown, 24 GiB wanted"),
        ("A card nobody knows, 24564, 24082, 550.54.14", "A card nobody knows, RTX4090 wanted"),
        ("no devices", "nvidia-smi says 'no devices'"),
        ("", "0 GPUs, 1 wanted"),
    ],
)
def test_another_machine_is_refused_with_the_reason(
    listing: str, reason: str, nvidia_smi: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    nvidia_smi(listing)
    assert main(PLANNED) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("check_node: not the machine that was planned: ") and reason in last


def test_a_broken_driver_is_refused_in_its_own_words(
    nvidia_smi: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", exit_code=9)
    assert main(PLANNED) == 3
    assert "nvidia-smi failed: NVIDIA-SMI has failed because" in capsys.readouterr().err


def test_a_machine_without_a_driver_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(PLANNED) == 3
    assert "no nvidia-smi" in capsys.readouterr().err


def test_a_machine_without_gpus_needs_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--gpus", "0", "--disk", "0.001"]) == 0


def test_one_of_several_counts_will_do() -> None:
    gpus = parse_gpus("\n".join([RTX4090] * 4))
    assert not list(faults_of(Node(gpus, 1, 1), Wanted(gpus=(1, 4))))
    assert list(faults_of(Node(gpus[:2], 1, 1), Wanted(gpus=(1, 4)))) == ["2 GPUs, 1 or 4 wanted"]


def test_disk_and_host_memory_are_asked_for() -> None:
    node = Node((), disk_free_gib=40.0, host_memory_gib=62.0)
    wanted = Wanted(gpus=(0,), disk_gib=85.0, host_memory_gib=128.0)
    assert list(faults_of(node, wanted)) == [
        "40.0 GiB of disk free, 85 GiB needed",
        "62.0 GiB of host memory, 128 GiB needed",
    ]
    assert not list(faults_of(node, Wanted(gpus=(0,), disk_gib=40.0, host_memory_gib=64.0))), "sold as 64 GiB"


def test_a_containers_limit_is_its_memory(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{2**30}\n", encoding="ascii")
    assert host_memory_gib([limit, tmp_path / "missing"]) == 1.0
    limit.write_text("max\n", encoding="ascii")
    assert host_memory_gib([limit]) == host_memory_gib([])


def test_the_same_fault_of_several_cards_is_said_once() -> None:
    [gpu] = parse_gpus(RTX4090)
    faults = list(faults_of(Node((gpu, gpu), 1000, 1000), Wanted(gpus=(2,), needs_gib=30)))
    assert faults == ["NVIDIA GeForce RTX 4090: 23.5 GiB of its memory free, 30 GiB needed"]


def test_the_sizes_sold_under_one_name_are_told_apart() -> None:
    small = Gpu("NVIDIA A100-SXM4-40GB", 40.0, 39.5, "550.54.14")
    assert list(faults_of(Node((small,), 1, 1), Wanted(gpus=(1,), gpu="A100-80GB", gpu_memory_gib=80))) == [
        "NVIDIA A100-SXM4-40GB of 40.0 GiB, 80 GiB wanted"
    ]


def test_it_runs_on_a_bare_python_before_anything_is_installed(nvidia_smi: Callable[..., None]) -> None:
    nvidia_smi(RTX4090)
    command = ["python3", "-S", "-m", "launcher.node.check_node", *PLANNED]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).returncode == 0
