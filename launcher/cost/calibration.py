"""What runs measured, and the speed that it gives later plans in place of a prediction.

docs/calibration.md says what is measured when, and how sure it is. Tokens count padding, which the GPU computes too.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from launcher.cost.gpus import find_gpu
from launcher.cost.ledger import launcher_home
from launcher.cost.spread import Spread
from launcher.cost.workload import Attention, Method, Quantization, Sharding, Workload
from launcher.errors import BadInput
from launcher.linefile import append_object, read_objects

FILE = "calibration.jsonl"
# The libraries whose major version changes how fast a step is.
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")

# Standard deviations of the logarithm of a speed, beside what the run itself scattered. Assumed: two rented machines
# with one GPU model differ in cooling, power limit and host (the same configuration), and the scaling by FLOPs leaves
# out what does not grow with them (another one), the more so the further away it is.
SAME_DEVIATION = 0.08
SCALED_DEVIATION = 0.15
DEVIATION_PER_E_FOLD = 0.10
# Parameters of one model may be counted with or without its buffers and ties.
SAME_SIZE = 0.02

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord:
    """One measured run; `at` is seconds since the epoch.

    gpu: as the driver names it, the processor's name on a CPU, where gpu_memory_gib is None. family: `model_type`.
    parameters: of the base model. rank: None under full fine-tuning. seq_len: tokens of the longest row.
    weight_bytes: of a base weight that is not quantised. tokens_per_second_per_gpu with the 10th and 90th percentile of
    its mean, over `steps` optimizer steps. peak_reserved_gib: of the widest step, by torch's allocator; None on a CPU.
    """

    at: Positive
    run_id: str
    gpu: str
    gpu_memory_gib: Positive | None
    gpus: Count
    model: str
    family: str
    parameters: Count
    method: Method
    quantization: Quantization
    rank: Count | None
    seq_len: Count
    micro_batch: Count
    gradient_checkpointing: bool
    attention: Attention
    weight_bytes: Count
    sharding: Sharding
    stack: str
    versions: Mapping[str, str]
    tokens_per_second_per_gpu: Positive
    tokens_per_second_low: Positive
    tokens_per_second_high: Positive
    peak_reserved_gib: Positive | None
    load_s: Positive | None
    steps: Count

    @property
    def speed(self) -> Spread:
        """Tokens per second per GPU.

        Raises:
            ValueError: its quantiles are not in order.
        """
        return Spread.from_quantiles(
            self.tokens_per_second_low, self.tokens_per_second_per_gpu, self.tokens_per_second_high
        )


# --- the file --------------------------------------------------------------------------------------------------------


def calibration_file() -> Path:
    """Where this user's measurements are kept."""
    return launcher_home() / FILE


def append(path: Path, record: CalibrationRecord) -> None:
    """Add a measurement, alone with the file.

    Raises:
        OSError: the file cannot be written.
    """
    append_object(path, dataclasses.asdict(record) | {"versions": dict(record.versions)})


def read(path: Path) -> tuple[list[CalibrationRecord], int]:
    """The measurements of a file, oldest first, and how many lines hold none."""
    objects, broken = read_objects(path)
    records = []
    for value in objects:
        try:
            record = _adapter().validate_python(value)
            _ = record.speed
            records.append(record)
        except (ValidationError, ValueError):
            broken += 1
    return records, broken


def read_calibrations() -> list[CalibrationRecord]:
    """This user's measurements; broken lines are left out with a warning."""
    records, broken = read(calibration_file())
    if broken:
        _log.warning("%s: %d lines are no measurements and are left out", calibration_file(), broken)
    return records


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[CalibrationRecord]:
    return TypeAdapter(CalibrationRecord)


@lru_cache(maxsize=1)
def installed_versions() -> Mapping[str, str]:
    """The versions of the training libraries in this environment; those that are not installed are left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# --- speed, for later plans ------------------------------------------------------------------------------------------


def calibrated_speed(
    workload: Workload,
    gpu_name: str,
    records: Sequence[CalibrationRecord],
    flops_per_token: Callable[[Workload], float],
    versions: Mapping[str, str] | None = None,
) -> Spread | None:
    """Tokens per second per GPU from earlier runs on this GPU with this stack; None where no run is near enough.

    Runs of the very same configuration count alone where there are any; otherwise those of another row length,
    micro-batch, rank or size of the same family, scaled by their FLOPs per token. Several are combined by their median.

    Args:
        gpu_name: in any spelling that `launcher.cost.gpus.find_gpu` knows, or a processor's name.
        versions: of the libraries the run will have, by default those installed here; a record made with another major
            version is ignored.
    """
    if not records:
        return None
    here = installed_versions() if versions is None else versions
    wanted = gpu_key(gpu_name)
    usable = [r for r in records if gpu_key(r.gpu) == wanted and is_comparable(r, workload, here)]
    same = [r.speed for r in usable if is_same(r, workload)]
    if same:
        return _median(same, SAME_DEVIATION)
    scaled = [_scaled(r, workload, flops_per_token) for r in usable]
    return _median(scaled, SCALED_DEVIATION) if scaled else None


@lru_cache(maxsize=1024)
def gpu_key(name: str) -> str:
    """Our name of a GPU, or the name itself where it is none (a processor's)."""
    try:
        return find_gpu(name).name
    except BadInput:
        return name


def is_comparable(record: CalibrationRecord, workload: Workload, versions: Mapping[str, str]) -> bool:
    """Whether it says something about this workload at all: same stack, family, method and sharding."""
    same_majors = all(
        _major(version) == _major(versions[name]) for name, version in record.versions.items() if name in versions
    )
    asked = (workload.stack.name, workload.architecture.family, workload.method, workload.quantization)
    shared = (workload.sharding, workload.gpus, workload.weight_bytes)
    return (
        same_majors
        and asked == (record.stack, record.family, record.method, record.quantization)
        and shared == (record.sharding, record.gpus, record.weight_bytes)
    )


def _major(version: str) -> str:
    return version.split(".", 1)[0]


def is_same(record: CalibrationRecord, workload: Workload) -> bool:
    """Whether it is the very same model and configuration."""
    rank = None if workload.method == "full" else workload.rank
    asked = (rank, workload.seq_len, workload.micro_batch, workload.gradient_checkpointing, workload.attention)
    size = record.parameters / workload.architecture.parameters
    return abs(size - 1) <= SAME_SIZE and asked == (
        *(record.rank, record.seq_len, record.micro_batch, record.gradient_checkpointing, record.attention),
    )


def _scaled(record: CalibrationRecord, workload: Workload, flops_per_token: Callable[[Workload], float]) -> Spread:
    """The record's speed at this workload: the same FLOPs per second, the less sure the further away it is."""
    measured = measured_workload(record, workload)
    size = record.parameters / workload.architecture.parameters
    ratio = flops_per_token(measured) * size / flops_per_token(workload)
    distance = abs(math.log(ratio * measured.tokens / workload.tokens))
    speed = record.speed
    reach = DEVIATION_PER_E_FOLD * distance
    return Spread(speed.median * ratio, math.hypot(speed.below, reach), math.hypot(speed.above, reach))


def measured_workload(record: CalibrationRecord, workload: Workload) -> Workload:
    """What the record measured, on this workload's model."""
    tokens = record.seq_len * record.micro_batch
    trained = workload.trained_tokens
    return dataclasses.replace(
        workload,
        seq_len=record.seq_len,
        micro_batch=record.micro_batch,
        gradient_checkpointing=record.gradient_checkpointing,
        attention=record.attention,
        rank=record.rank or workload.rank,
        trained_tokens=None if trained is None else max(1, round(trained * tokens / workload.tokens)),
    )


def _median(speeds: Sequence[Spread], deviation: float) -> Spread:
    """The median of several speeds; they are as unsure as each, and as they differ among themselves."""
    medians = [speed.median for speed in speeds]
    between = max(deviation, statistics.stdev(map(math.log, medians))) if len(medians) > 1 else deviation
    below, above = (statistics.median(getattr(s, side) for s in speeds) for side in ("below", "above"))
    return Spread(statistics.median(medians), math.hypot(below, between), math.hypot(above, between))
