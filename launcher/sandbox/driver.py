"""What stands behind an emulated instance: a host of this machine, or, where none is wanted, nothing but an address."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class HostFailed(Exception):
    """No host could be started; the message is the reason, fit for one line of the cloud's events."""


@dataclass(frozen=True, kw_only=True)
class HostRequest:
    """What an instance needs of its host.

    user: who logs in over SSH. public_keys: who may. start_script: what the provider runs as root, with bash, when the
    host starts; None where it runs nothing. starts_ssh: the script is the host's main program, starts the SSH server
    itself and never ends (RunPod); otherwise it ends (vast.ai), and the SSH server is started after it. environment:
    variables of every process in the host. gpu, gpus, gpu_memory_mib: the cards it is rented with, by the provider's
    name; memory of one. internal_name: the host's own name, unique among those of this cloud.
    """

    user: str
    public_keys: tuple[str, ...] = ()
    start_script: str | None = None
    starts_ssh: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    gpu: str | None
    gpus: int
    gpu_memory_mib: int | None
    disk_gib: float
    internal_name: str


@dataclass(frozen=True)
class HostAddress:
    """Where a host is reached: its own address on the cloud's network, and the port and user of its SSH server."""

    ip: str
    ssh_port: int
    user: str


class HostDriver(Protocol):
    """Starts and ends hosts. Calls come from several threads."""

    def create(self, instance_id: str, request: HostRequest) -> HostAddress:
        """Start a host and return once its SSH server answers.

        Raises:
            HostFailed: it did not come up; nothing of it is left.
        """
        ...

    def destroy(self, instance_id: str) -> None:
        """Take the host away, whatever state it is in; nothing of it is left. One that does not exist is no fault."""
        ...

    def is_alive(self, instance_id: str) -> bool:
        """Whether the host runs now."""
        ...

    def cut_network(self, instance_id: str) -> bool:
        """Take the host off the network while it runs on; False where this driver cannot."""
        ...

    def announce_end(self, instance_id: str) -> None:
        """Tell the host's programs that it is about to be taken away (SIGTERM), as far as this driver can."""
        ...


class VirtualHosts:
    """No hosts: an instance is an address that nobody answers at. The ground for thousands of random runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._created = 0
        self._alive: set[str] = set()

    def create(self, instance_id: str, request: HostRequest) -> HostAddress:
        """An address of the network 10.79.0.0/16 that no other host has had."""
        with self._lock:
            self._created += 1
            number = self._created
            self._alive.add(instance_id)
        return HostAddress(f"10.79.{number // 250 % 256}.{number % 250 + 2}", 22, request.user)

    def destroy(self, instance_id: str) -> None:
        """Forget it."""
        with self._lock:
            self._alive.discard(instance_id)

    def is_alive(self, instance_id: str) -> bool:
        """Whether it was created and not destroyed."""
        return instance_id in self._alive

    def cut_network(self, instance_id: str) -> bool:
        """There is no network to cut."""
        return False

    def announce_end(self, instance_id: str) -> None:
        """There is nobody to tell."""
