"""Real hosts behind the sandbox cloud: a network namespace, an overlay over one shared tree, and a real SSH server.

A host is one process tree. Its mounts live in its own mount namespace, so that ending its first process takes
processes and mounts away together; what is left, its namespace and cable, carries the sandbox's name (`network.py`).
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from launcher.sandbox import redirect
from launcher.sandbox.driver import HostAddress, HostFailed, HostRequest
from launcher.sandbox.image import asset
from launcher.sandbox.network import LAST_HOST, CommandFailed, Network

SSH_WITHIN_S = 60.0
FIRST_MAPPED_PORT = 22_000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class _Host:
    """`lock`: held while the host is set up or taken down. `is_wanted`: it may be ended while it is set up."""

    number: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    is_wanted: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class LocalHosts:
    """A `HostDriver` whose hosts run on this machine. Needs root.

    folder: where hosts have their disks. shared: folders of this machine that every host sees, read-only, at the same
    place. url: where hosts find the cloud.
    """

    def __init__(self, *, image: Path, folder: Path, network: Network, shared: Sequence[Path], url: str) -> None:
        self._image = image
        self._folder = folder
        self._network = network
        self._shared = [str(path) for path in shared]
        self._url = url
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}
        self._next = 2

    def create(self, instance_id: str, request: HostRequest) -> HostAddress:
        """Start a host and return once its SSH server answers (0.3 to 1 s on an idle machine).

        Raises:
            HostFailed: it did not come up; nothing of it is left.
        """
        host = self._enter(instance_id)
        # A machine of one's own is reached at port 22; a container at a port that the provider maps.
        address = self._network.address(host.number)
        port = 22 if request.user != "root" else FIRST_MAPPED_PORT + host.number
        try:
            with host.lock:
                if not host.is_wanted:
                    raise HostFailed("the host was ended before it was started")
                self._write_config(host, request, port)
                self._network.plug_in(host.number)
                self._start(host, request)
            self._await_ssh(host, address, port)
        except (CommandFailed, OSError) as fault:
            self.destroy(instance_id)
            raise HostFailed(str(fault)) from fault
        except HostFailed:
            self.destroy(instance_id)
            raise
        return HostAddress(address, port, request.user)

    def destroy(self, instance_id: str) -> None:
        """End every process of the host and remove its network and its disk. One that does not exist is no fault."""
        host = self._hosts.get(instance_id)
        if host is None:
            return
        host.is_wanted = False
        with host.lock:
            if host.process is not None:
                end_host(host.process)
            self._network.unplug(host.number)
            shutil.rmtree(host.folder, ignore_errors=True)
        self._hosts.pop(instance_id, None)  # only now: its number may be used again

    def is_alive(self, instance_id: str) -> bool:
        """Whether its first process runs."""
        host = self._hosts.get(instance_id)
        return host is not None and host.is_alive

    def cut_network(self, instance_id: str) -> bool:
        """Take the host off the network while it runs on."""
        host = self._hosts.get(instance_id)
        if host is None:
            return False
        self._network.cut(host.number)
        return True

    def announce_end(self, instance_id: str) -> None:
        """Tell the host's programs that it will be taken away: SIGTERM to all but its first and its SSH server."""
        host = self._hosts.get(instance_id)
        if host is None or host.process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(host.process.pid).children()
            for process in [each for one in first for each in one.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.name() != "sshd":
                        process.terminate()

    def destroy_all(self) -> None:
        """Take every host away."""
        for instance_id in list(self._hosts):
            self.destroy(instance_id)

    def _enter(self, instance_id: str) -> _Host:
        """A host with a number that no other has, an unused one while there are such."""
        with self._lock:
            used = {host.number for host in self._hosts.values()}
            numbers = [*range(self._next, LAST_HOST + 1), *range(2, self._next)]
            number = next((n for n in numbers if n not in used), None)
            if number is None:
                raise HostFailed(f"{len(used)} hosts run; the sandbox's network has no address left")
            self._next = number + 1
            host = _Host(number, self._folder / str(number))
            self._hosts[instance_id] = host
        return host

    def _write_config(self, host: _Host, request: HostRequest, port: int) -> None:
        """Everything host.sh puts into the host's tree."""
        shutil.rmtree(host.folder, ignore_errors=True)
        config = host.folder / "config"
        config.mkdir(parents=True)
        name = request.internal_name
        texts = {
            "hostname": f"{name}\n",
            "hosts": f"127.0.0.1 localhost\n{self._network.address(host.number)} {name}\n",
            "url": f"{self._url}\n",
            "user": request.user,
            "authorized_keys": "".join(f"{key.strip()}\n" for key in request.public_keys),
            "disk-bytes": str(int(request.disk_gib * 2**30)),
            "ports.conf": "".join(f"Port {each}\n" for each in sorted({22, port})),
            "launcher_sandbox_redirect.pth": "import launcher_sandbox_redirect\n",
        }
        if request.start_script is not None:
            texts["start"] = request.start_script
        if request.starts_ssh:
            texts["starts-ssh"] = ""
        if request.gpu is not None:
            cards = {
                "name": driver_name(request.gpu),
                "count": request.gpus,
                "memory_mib": request.gpu_memory_mib or 0,
            }
            texts["gpus"] = json.dumps(cards)
        for file, text in texts.items():
            (config / file).write_text(text, encoding="utf-8")
        for file in ("init", "nvidia-smi"):
            shutil.copyfile(asset(file), config / file)
        shutil.copyfile(redirect.__file__, config / "launcher_sandbox_redirect.py")

    def _start(self, host: _Host, request: HostRequest) -> None:
        command = ["ip", "netns", "exec", self._network.name(host.number)]
        command += ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        command += ["sh", str(asset("host.sh")), str(host.folder), str(self._image), *self._shared]
        environment = {**request.environment, "PATH": PATH, "HOME": "/root"}
        with (host.folder / "log.txt").open("wb") as log:
            host.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _await_ssh(self, host: _Host, address: str, port: int) -> None:
        deadline = time.monotonic() + SSH_WITHIN_S
        while time.monotonic() < deadline:
            if not host.is_alive:
                said = (host.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip()
                raise HostFailed(f"the host ended while it started: {said[-300:]}")
            if _speaks_ssh(address, port):
                return
            time.sleep(0.05)
        raise HostFailed(f"no SSH server at {address} port {port} within {SSH_WITHIN_S:g} s")


def end_host(process: subprocess.Popen[bytes]) -> None:
    """Kill the host's first process; the kernel ends all others of its process namespace before it is gone.

    Killed first, and not the program that waits for it, so that it is waited for and leaves no zombie behind.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        for first in psutil.Process(process.pid).children():
            first.kill()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def shared_folders(prefix: Path, base_prefix: Path) -> list[Path]:
    """The environment a program runs in and its interpreter, where that is none of the system's own."""
    folders = [prefix.resolve(), base_prefix.resolve()]
    return [folder for folder in dict.fromkeys(folders) if folder not in (Path("/usr"), Path("/"))]


def _speaks_ssh(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1) as connection:
            connection.settimeout(5)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def driver_name(gpu: str) -> str:
    """What the driver calls a card of that listing.

    Providers leave out the maker, and "GeForce" of those for games; Lambda adds the memory: "A10 (24 GB)".
    """
    plain = gpu.partition(" (")[0]
    if plain.startswith("NVIDIA"):
        return plain
    return f"NVIDIA GeForce {plain}" if re.match(r"[GR]TX [1-5]0[5-9]0\b", plain) else f"NVIDIA {plain}"
