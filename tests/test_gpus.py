"""GPU names in every spelling met so far, their memory sizes, and how much of them a program gets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cost.gpus import (
    ASSUMED_USABLE_SHARE,
    GpuModel,
    all_gpus,
    find_gpu,
    memory_in_name,
    snap_memory_gib,
    usable_gib,
    usable_is_measured,
)
from launcher.errors import BadInput

SPELLINGS = {
    "RTX 4090": "RTX4090",
    "RTX_4090": "RTX4090",
    "rtx-4090": "RTX4090",
    "4090": "RTX4090",
    "NVIDIA GeForce RTX 4090": "RTX4090",
    "RTX4090-48GB": "RTX4090",
    "NVIDIA GeForce RTX 4090 D": "RTX4090D",
    "RTX 4070S Ti": "RTX4070TiSuper",
    "NVIDIA GeForce RTX 4070 Ti SUPER": "RTX4070TiSuper",
    "RTX 5060 Ti": "RTX5060Ti",
    "A100": "A100",
    "A100-80GB": "A100",
    "A100-40G": "A100",
    "A100 SXM4": "A100",
    "A100_SXM4": "A100",
    "NVIDIA A100-SXM4-80GB": "A100",
    "A100 PCIe": "A100-PCIe",
    "NVIDIA A100 80GB PCIe": "A100-PCIe",
    "H100": "H100",
    "H100-SXM": "H100",
    "H100_SXM5": "H100",
    "NVIDIA H100 80GB HBM3": "H100",
    "H100 PCIe": "H100-PCIe",
    "NVIDIA H100 NVL": "H100-NVL",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA H200": "H200",
    "B200 SXM6": "B200",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "RTX PRO 6000": "RTXPRO6000",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "RTXPRO6000",
    "RTX PRO 6000 WS": "RTXPRO6000",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTXPRO6000-Server",
    "RTXPRO6000S": "RTXPRO6000-Server",
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": "RTXPRO6000-MaxQ",
    "RTX6000-Ada": "RTX6000-Ada",
    "RTX6000Ada": "RTX6000-Ada",
    "NVIDIA RTX 6000 Ada Generation": "RTX6000-Ada",
    "RTX6000": "RTX6000",
    "Quadro RTX 6000": "RTX6000",
    "A6000": "RTXA6000",
    "RTXA6000": "RTXA6000",
    "NVIDIA RTX A5000": "RTXA5000",
    "A5000": "RTXA5000",
    "A4000": "RTXA4000",
    "RTX 4080": "RTX4080",
    "Tesla V100-SXM2-16GB": "V100",
    "Tesla T4": "T4",
    "NVIDIA L40S": "L40S",
}

# One GPU of every kind of row in the catalogs of Vast (its total over the count), Lambda and RunPod, in MiB.
CATALOG_SIZES = [
    ("A100", 40960, 40),
    ("A100", 81920, 80),
    ("A40", 46068, 48),
    ("B200", 183359, 180),
    ("B200", 184320, 180),
    ("H100", 81559, 80),
    ("H100", 95830, 94),
    ("H200", 143771, 141),
    ("L40S", 46068, 48),
    ("RTX3060", 12288, 12),
    ("RTX3090", 24576, 24),
    ("RTX4090", 24564, 24),
    ("RTX4090", 49140, 48),
    ("RTX5090", 32607, 32),
    ("RTX6000-Ada", 49140, 48),
    ("RTXA6000", 49140, 48),
    ("RTXPRO6000S", 97887, 96),
    ("V100", 16384, 16),
    ("A10", 24576, 24),
    ("A100-80GB", 81920, 80),
    ("A6000", 49152, 48),
    ("RTX6000", 24576, 24),
    ("GH200", 98304, 96),
]
# Totals that nvidia-smi shows, MiB (modal-client pull request 2797).
DRIVER_TOTALS = [("H100", 81559, 80), ("A100", 40960, 40), ("L40S", 46068, 48), ("A10", 23028, 24), ("L4", 23034, 24)]


@pytest.mark.parametrize(("spelling", "name"), SPELLINGS.items())
def test_every_spelling_finds_its_gpu(spelling: str, name: str) -> None:
    assert find_gpu(spelling).name == name


@pytest.mark.parametrize("name", [gpu.name for gpu in all_gpus()])
def test_a_gpu_is_found_by_its_own_name(name: str) -> None:
    assert find_gpu(name).name == name


@pytest.mark.parametrize(("name", "mib", "nominal"), [*CATALOG_SIZES, *DRIVER_TOTALS, ("T4", 15109, 16)])
def test_a_catalogs_memory_becomes_the_size_sold(name: str, mib: int, nominal: float) -> None:
    assert snap_memory_gib(name, mib / 1024) == nominal


def test_a_size_nobody_sells_under_that_name_is_no_card() -> None:
    assert snap_memory_gib("RTX4090", 36) is None
    assert snap_memory_gib("A100", 80 / 1024) is None
    assert snap_memory_gib("H100", 160) is None


def test_memory_tells_the_models_of_one_name_apart() -> None:
    assert find_gpu("H100", 93.6).name == "H100-NVL"
    assert find_gpu("H100", 80).name == "H100"
    assert find_gpu("H100 94GB").name == "H100-NVL"
    assert find_gpu("RTX 6000", 48).name == "RTX6000-Ada"
    assert find_gpu("RTX 6000", 24).name == "RTX6000"


def test_memory_stated_in_a_name() -> None:
    assert memory_in_name("A100-80GB") == 80
    assert memory_in_name("A100-40G") == 40
    assert memory_in_name("RTX4090 48GB") == 48
    assert memory_in_name("A10G") is None
    # 480 GB is the memory of the processor beside the GPU.
    assert memory_in_name("NVIDIA GH200 480GB") is None


def test_an_unknown_gpu_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(BadInput, match=r"gpu: 'RTX 4091': unknown; nearest: RTX4090"):
        find_gpu("RTX 4091")
    with pytest.raises(BadInput, match=r"gpu: '': unknown; for example RTX4090"):
        find_gpu("")


@pytest.mark.parametrize("name", ["MI300X", "AMD Instinct MI300X", "TPU v5e"])
def test_an_accelerator_without_cuda_is_known_and_refused(name: str) -> None:
    with pytest.raises(BadInput, match="has no CUDA; an NVIDIA GPU is needed"):
        find_gpu(name)


def test_dense_peaks_of_the_cards_most_rented() -> None:
    # Tensor cores, dense, fp32 accumulation: half the fp16 rate on GeForce cards, no sparsity anywhere.
    peaks = {"RTX3090": 71, "RTX4090": 165, "RTX5090": 209.5, "A100": 312, "H100": 989, "H100-PCIe": 756, "L40S": 362}
    for name, tflops in peaks.items():
        assert find_gpu(name).bf16_tflops == pytest.approx(tflops, rel=0.01), name


def test_chips_before_ampere_have_no_bf16() -> None:
    without = {gpu.name for gpu in all_gpus() if not gpu.has_bf16}
    assert {"V100", "T4", "P100", "RTX6000", "RTX2080Ti"} <= without
    assert not without & {"A100", "RTX3060", "L4", "RTX6000-Ada"}


@pytest.mark.parametrize("gpu", all_gpus(), ids=lambda gpu: gpu.name)
def test_every_row_is_whole(gpu: GpuModel) -> None:
    figures = [gpu.bf16_tflops, gpu.memory_gb_per_s, gpu.watts, *gpu.memories_gib]
    assert all(math.isfinite(figure) and figure > 0 for figure in figures)
    assert gpu.nvlink_gb_per_s is None or gpu.nvlink_gb_per_s > 0
    assert gpu.chip and "20" in gpu.source


def test_usable_memory_is_what_drivers_report() -> None:
    assert usable_gib("RTX4090", 24) == 23.5
    assert usable_gib("A100-80GB", 80) == pytest.approx(79.1)
    assert usable_gib("L4", 22.49) < 22.49
    assert usable_is_measured("RTX4090", 24)


def test_usable_memory_nobody_published_is_assumed_low() -> None:
    assert not usable_is_measured("RTX3060Ti", 8)
    assert usable_gib("RTX3060Ti", 8) == 8 * ASSUMED_USABLE_SHARE
    measured = [
        usable_gib(gpu.name, size) / size
        for gpu in all_gpus()
        for size in gpu.memories_gib
        if usable_is_measured(gpu.name, size)
    ]
    assert len(measured) > 25
    assert min(measured) >= ASSUMED_USABLE_SHARE


@given(st.sampled_from(all_gpus()), st.floats(0.5, 500))
def test_usable_memory_never_exceeds_what_was_stated(gpu: GpuModel, memory_gib: float) -> None:
    assert 0 < usable_gib(gpu.name, memory_gib) <= memory_gib


@given(st.text(max_size=40))
def test_any_text_is_a_gpu_or_bad_input(name: str) -> None:
    try:
        assert find_gpu(name) in all_gpus()
    except BadInput as error:
        assert "\n" not in str(error)
