"""Ends and removes whatever of a sandbox is still there, also after its own process was killed."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import psutil

from launcher.sandbox.network import Network

SERVICE = "launcher.sandbox.service"
_SKYPILOT = re.compile(r"(\b|-m)sky\b|skypilot|multiprocessing", re.IGNORECASE)
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


def clear(network: Network, folder: Path) -> None:
    """End the cloud and SkyPilot's processes of the sandbox in that folder, then its hosts; remove what they leave.

    A network that a living sandbox of another folder has is left alone.
    """
    end(skypilot_processes(folder / "home"))
    if other_sandbox(network, folder) is None:
        end([*(process for process, _ in services(network)), *connections_into(network)])
        # A host's first process takes its others along; who is killed beside it does no harm.
        end(_processes(network.processes()), grace_s=0)
        network.remove()
    shutil.rmtree(folder / "hosts", ignore_errors=True)


def left(network: Network, folder: Path) -> list[str]:
    """What `clear` would end or remove, in words."""
    processes = skypilot_processes(folder / "home")
    found = []
    if other_sandbox(network, folder) is None:
        found += [f"namespace {name}" for name in network.namespaces()]
        found += [f"link {name}" for name in network.links()]
        processes += [*(process for process, _ in services(network)), *connections_into(network)]
    return found + [f"process {process.pid} ({process.name()})" for process in processes]


def end(processes: Iterable[psutil.Process], grace_s: float = 2.0) -> None:
    """Ask the processes to end, and kill those that have not after `grace_s`."""
    ended = list(processes)
    for process in ended if grace_s else ():
        with contextlib.suppress(*_GONE):
            process.terminate()
    _, still = psutil.wait_procs(ended, timeout=grace_s)
    for process in still:
        with contextlib.suppress(*_GONE):
            process.kill()
    psutil.wait_procs(still, timeout=10)


def services(network: Network) -> list[tuple[psutil.Process, Path]]:
    """The clouds that run on that network, each with the folder of its sandbox."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(*_GONE):
            command = process.cmdline()
            if SERVICE in command:
                folder, number = command[command.index(SERVICE) + 1 :][:2]
                found += [(process, Path(folder))] if number == str(network.number) else []
    return found


def other_sandbox(network: Network, folder: Path) -> Path | None:
    """The folder of another sandbox that lives on that network, if any; one whose folder is gone is nobody's."""
    return next((of for _, of in services(network) if of != folder and of.exists()), None)


def skypilot_processes(home: Path) -> list[psutil.Process]:
    """SkyPilot's processes that live in that home directory: API server, its workers, controllers.

    Its workers retitle themselves, which overwrites their environment: those are known by a file they hold open, or by
    their parent. Other programs of a shell that is in the sandbox are the user's, and left alone.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(*_GONE):
            if _is_skypilot(process) and _lives_in(process, home):
                for each in (process, *process.children(recursive=True)):
                    found[each.pid] = each
    found.pop(psutil.Process().pid, None)
    return list(found.values())


def connections_into(network: Network) -> list[psutil.Process]:
    """SSH clients of this machine that hold a connection to a host: SkyPilot keeps theirs open behind its back."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(*_GONE):
            if process.name() == "ssh":
                ends = [each.raddr.ip for each in process.net_connections("tcp4") if each.raddr]
                found += [process] if any(network.has(end) for end in ends) else []
    return found


def _is_skypilot(process: psutil.Process) -> bool:
    return not process.name().endswith("sh") and bool(_SKYPILOT.search(" ".join(process.cmdline())))


def _lives_in(process: psutil.Process, home: Path) -> bool:
    inside = f"{home}/"
    with contextlib.suppress(*_GONE):
        if process.environ().get("HOME") == str(home) or any(inside in part for part in process.cmdline()):
            return True
    return any(file.path.startswith(inside) for file in process.open_files())


def _processes(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found
