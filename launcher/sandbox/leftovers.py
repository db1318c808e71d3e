"""Ends and removes whatever of a sandbox is still there, also after its own process was killed."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import psutil

from launcher.sandbox.network import Network

_SKYPILOT = re.compile(r"\bsky\b|skypilot|multiprocessing", re.IGNORECASE)
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


def clear(network: Network, hosts: Path, home: Path) -> None:
    """End SkyPilot's processes of that home, then every host, and remove namespaces, links and disks."""
    end(skypilot_processes(home))
    # A host's first process takes its others along; who is killed beside it does no harm.
    end(_processes(network.processes()), grace_s=0)
    network.remove()
    shutil.rmtree(hosts, ignore_errors=True)


def left(network: Network, home: Path) -> list[str]:
    """What `clear` would end or remove, in words."""
    found = [f"namespace {name}" for name in network.namespaces()]
    found += [f"link {name}" for name in network.links()]
    found += [f"process {process.pid}" for process in skypilot_processes(home)]
    return found


def end(processes: Iterable[psutil.Process], grace_s: float = 5.0) -> None:
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


def skypilot_processes(home: Path) -> list[psutil.Process]:
    """SkyPilot's processes that live in that home directory: API server, its workers, controllers, their ssh.

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


def _is_skypilot(process: psutil.Process) -> bool:
    name, command = process.name(), " ".join(process.cmdline())
    return name == "ssh" or (not name.endswith("sh") and bool(_SKYPILOT.search(command)))


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
