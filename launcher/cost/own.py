"""The user's own machines: a file of GPUs, watts and the price of power, as offers that are ranked with the rest.

machines:
  - name: desk
    gpu: RTX4090
    memory: 24GiB
    watts: 550
    usd_per_kwh: 0.30
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from launcher.cost.gpus import find_gpu, snap_memory_gib
from launcher.cost.offer import Offer
from launcher.errors import BadInput
from launcher.faults import fault_lines
from launcher.jobparts import Count, Section, Text, refuse
from launcher.units import Gib, Usd, format_memory
from launcher.yamlfile import read_mapping

_Above0 = Annotated[float, Field(gt=0)]


def _known_gpu(name: str) -> str:
    try:
        find_gpu(name)
    except BadInput as fault:
        raise ValueError(str(fault).removeprefix(f"gpu: {name!r}: ")) from None
    return name


class OwnMachine(Section):
    """One machine of the user's.

    watts: drawn by the whole machine under load. wear_usd_per_hour: what an hour costs beside power: wear, cooling,
    rent of the room. memory: of one GPU, nominal or as the driver reports it.
    """

    name: Text
    gpu: Annotated[str, AfterValidator(_known_gpu)]
    gpus: Count = 1
    memory: Gib
    watts: _Above0
    usd_per_kwh: Usd
    wear_usd_per_hour: Usd | None = None
    vcpus: Count | None = None
    host_memory: Gib | None = None
    download_gbit_s: _Above0 | None = None

    @model_validator(mode="after")
    def _memory_fits_gpu(self) -> Self:
        if snap_memory_gib(self.gpu, self.memory) is None:
            sizes = " or ".join(format_memory(size) for size in find_gpu(self.gpu).memories_gib)
            refuse([f"memory: {format_memory(self.memory)}: one {self.gpu} has {sizes}"])
        return self

    @property
    def usd_per_hour(self) -> float:
        """Power and wear of one hour under load."""
        return self.watts / 1000 * self.usd_per_kwh + (self.wear_usd_per_hour or 0.0)


class _OwnFile(Section):
    machines: Annotated[tuple[OwnMachine, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = [machine.name for machine in self.machines]
        twice = {name: None for name in names if names.count(name) > 1}
        refuse([f"machines: name {name!r} stands there twice" for name in twice])
        if not names:
            refuse(["machines: empty; at least one machine is needed"])
        return self


def read_own(path: Path) -> tuple[Offer, ...]:
    """The user's machines as offers of the provider `own`, priced when the file was last written.

    Raises:
        BadInput: the file cannot be read, or a field is wrong; one line a fault.
    """
    content = read_mapping(path)
    try:
        machines = _OwnFile.model_validate(content).machines
    except ValidationError as error:
        raise BadInput(*fault_lines(error, _OwnFile, lambda _: str(path))) from None
    priced_at = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return tuple(_offer(machine, priced_at) for machine in machines)


def _offer(machine: OwnMachine, priced_at: str) -> Offer:
    nominal_gib = snap_memory_gib(machine.gpu, machine.memory)
    assert nominal_gib is not None  # OwnMachine has seen to it
    return Offer(
        provider="own",
        instance_type=machine.name,
        gpu=find_gpu(machine.gpu, nominal_gib).name,
        gpus=machine.gpus,
        gpu_memory_gib=nominal_gib,
        vcpus=machine.vcpus,
        host_memory_gib=machine.host_memory,
        region="own",
        spot=False,
        usd_per_hour=machine.usd_per_hour,
        source="own",
        priced_at=priced_at,
        download_gbit_s=machine.download_gbit_s,
        available=True,
    )
