"""Whether this machine is the one the plan asked for, before anything is downloaded to it.

`python3 -m launcher.node.check_node --gpu RTX4090 --gpus 1 --gpu-memory 24 --needs-gib 23.1 --disk 85 --host-memory 64`

Marketplaces rent out the wrong card, or one that another program uses. What does not fit is said in one line on
stderr, exit code 3. The standard library of the node's own Python (3.10 or newer) is enough, because the project's
environment is one of the downloads.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.cost.gpus import MEMORY_TOLERANCE, find_gpu
from launcher.errors import BadInput, Refused

GIB = 2**30
MIB_PER_GIB = 1024
# The oldest driver that runs programs built for any CUDA 12 (NVIDIA, CUDA release notes, minor version compatibility).
OLDEST_DRIVER = "525.60.13"
NVIDIA_SMI = "nvidia-smi"
NVIDIA_SMI_SECONDS = 20.0  # a driver that answers no sooner is broken; the machine is paid for meanwhile
# Control groups' limits, version 2 and 1, as a container sees its own.
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
QUERY = ("name", "memory.total", "memory.free", "driver_version")


@dataclass(frozen=True)
class Wanted:
    """What the plan needs. None: of no importance.

    gpus: the counts that will do, because more than wanted cost more; (0,): none are looked for.
    gpu_memory_gib: nominal, of one GPU as sold. needs_gib: the most that a job takes of one GPU. disk_gib: to be free
    in the working directory. host_memory_gib: of the machine.
    """

    gpus: tuple[int, ...]
    gpu: str | None = None
    gpu_memory_gib: float | None = None
    needs_gib: float | None = None
    disk_gib: float | None = None
    host_memory_gib: float | None = None
    oldest_driver: str = OLDEST_DRIVER


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver shows it. None: the driver does not say."""

    name: str
    total_gib: float | None
    free_gib: float | None
    driver: str


@dataclass(frozen=True)
class Node:
    """What this machine has."""

    gpus: tuple[Gpu, ...]
    disk_free_gib: float
    host_memory_gib: float

    def describe(self) -> str:
        """One line for the log."""
        cards = "no GPU"
        if self.gpus:
            first = self.gpus[0]
            memory = "unknown memory" if first.total_gib is None else f"{first.total_gib:.1f} GiB"
            cards = f"{len(self.gpus)} x {first.name}, {memory}, driver {first.driver}"
        return f"{cards}; {self.disk_free_gib:.0f} GiB of disk free; {self.host_memory_gib:.0f} GiB of host memory"


def faults_of(node: Node, wanted: Wanted) -> Iterator[str]:
    """Everything about the node that is not as wanted: what it has, and what was wanted."""
    if len(node.gpus) not in wanted.gpus:
        yield f"{len(node.gpus)} GPU{'s' if len(node.gpus) != 1 else ''}, {' or '.join(map(str, wanted.gpus))} wanted"
    # The same fault of several equal cards is one fault.
    yield from dict.fromkeys(fault for gpu in node.gpus for fault in _gpu_faults(gpu, wanted))
    if wanted.disk_gib is not None and node.disk_free_gib < wanted.disk_gib:
        yield f"{node.disk_free_gib:.1f} GiB of disk free, {wanted.disk_gib:g} GiB needed"
    # The kernel and the firmware keep a part of what is sold.
    if wanted.host_memory_gib is not None and node.host_memory_gib < wanted.host_memory_gib * (1 - MEMORY_TOLERANCE):
        yield f"{node.host_memory_gib:.1f} GiB of host memory, {wanted.host_memory_gib:g} GiB needed"


def _gpu_faults(gpu: Gpu, wanted: Wanted) -> Iterator[str]:
    if wanted.gpu is not None and not _is_model(gpu, wanted.gpu):
        yield f"{gpu.name}, {find_gpu(wanted.gpu, wanted.gpu_memory_gib).name} wanted"
    if wanted.gpu_memory_gib is not None:
        if gpu.total_gib is None:
            yield f"{gpu.name}: its memory is not shown, {wanted.gpu_memory_gib:g} GiB wanted"
        elif gpu.total_gib < wanted.gpu_memory_gib * (1 - MEMORY_TOLERANCE):
            yield f"{gpu.name} of {gpu.total_gib:.1f} GiB, {wanted.gpu_memory_gib:g} GiB wanted"
    if wanted.needs_gib is not None and gpu.free_gib is not None and gpu.free_gib < wanted.needs_gib:
        yield f"{gpu.name}: {gpu.free_gib:.1f} GiB of its memory free, {wanted.needs_gib:g} GiB needed"
    if _version(gpu.driver) < _version(wanted.oldest_driver):
        yield f"driver {gpu.driver}, {wanted.oldest_driver} or newer needed"


def _is_model(gpu: Gpu, wanted: str) -> bool:
    """Whether the driver's name of a card means the wanted model; a card that is unknown is not."""
    try:
        return find_gpu(gpu.name, gpu.total_gib) == find_gpu(wanted, gpu.total_gib)
    except BadInput:
        return False


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


# --- looking ---------------------------------------------------------------------------------------------------------


def read_node(has_gpus: bool, disk: Path = Path()) -> Node:
    """This machine; its GPUs are asked for only where there should be some.

    Raises:
        Refused: the GPUs cannot be listed.
    """
    gpus = read_gpus() if has_gpus else ()
    return Node(gpus, shutil.disk_usage(disk).free / GIB, host_memory_gib())


def host_memory_gib(limits: Sequence[Path] = MEMORY_LIMITS) -> float:
    """Memory of the machine, or of the container that this is: marketplaces rent out parts of machines."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in limits:
        with suppress(OSError, ValueError):  # no such control group; "max"
            sizes.append(int(limit.read_text(encoding="ascii")))
    return min(sizes) / GIB


def read_gpus() -> tuple[Gpu, ...]:
    """The GPUs that `nvidia-smi` lists.

    Raises:
        Refused: there is no `nvidia-smi`, or it fails, or it does not answer.
    """
    command = [NVIDIA_SMI, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS)
    except FileNotFoundError:
        raise Refused(f"no {NVIDIA_SMI}: this machine has no NVIDIA driver") from None
    except subprocess.TimeoutExpired:
        raise Refused(f"{NVIDIA_SMI} did not answer within {NVIDIA_SMI_SECONDS:g} s") from None
    if answer.returncode:
        said = (answer.stdout + answer.stderr).strip().splitlines()
        raise Refused(f"{NVIDIA_SMI} failed: {said[0] if said else f'exit code {answer.returncode}'}")
    return parse_gpus(answer.stdout)


def parse_gpus(listing: str) -> tuple[Gpu, ...]:
    """The rows of `nvidia-smi`'s CSV, memory in MiB, `[N/A]` where the driver does not know.

    Raises:
        Refused: a row of another shape.
    """
    gpus = []
    for line in filter(None, map(str.strip, listing.splitlines())):
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(QUERY):
            raise Refused(f"{NVIDIA_SMI} says {line!r}; {', '.join(QUERY)} expected")
        name, total, free, driver = cells
        gpus.append(Gpu(name, _gib(total), _gib(free), driver))
    return tuple(gpus)


def _gib(mib: str) -> float | None:
    return int(mib) / MIB_PER_GIB if mib.isdigit() else None


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(count) for count in text.split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, look, say; 0 where the machine is the one wanted, 3 where it is not."""
    parser = argparse.ArgumentParser(prog="python3 -m launcher.node.check_node", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--gpus", type=_counts, required=True, help="how many, such as 1 or 1,4; 0: none")
    parser.add_argument("--gpu", help="the model; left out: any")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="nominal memory of one GPU")
    parser.add_argument("--needs-gib", type=float, metavar="GIB", help="memory of one GPU that must be free")
    parser.add_argument("--disk", type=float, metavar="GIB", help="disk that must be free")
    parser.add_argument("--host-memory", type=float, metavar="GIB", help="memory of the machine")
    parser.add_argument("--oldest-driver", default=OLDEST_DRIVER, metavar="VERSION")
    options = parser.parse_args(arguments)
    wanted = Wanted(
        options.gpus, options.gpu, options.gpu_memory, options.needs_gib, options.disk, options.host_memory,
        options.oldest_driver,
    )  # fmt: skip
    try:
        node = read_node(has_gpus=wanted.gpus != (0,))
        print(f"check_node: {node.describe()}", file=sys.stderr)
        faults = list(faults_of(node, wanted))
        if faults:
            raise Refused("; ".join(faults))
    except (Refused, BadInput) as fault:
        print(f"check_node: not the machine that was planned: {fault}", file=sys.stderr)
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
