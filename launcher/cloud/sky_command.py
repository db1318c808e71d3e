"""SkyPilot's own command, as a program of its own: submit a task, copy what it wrote, let go of the cluster.

A program apart can be ended without losing ours, and what it says goes to a file. Its exit codes are not trusted: the
provider's own list says what is rented (`launcher.teardown`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from launcher.cloud.tasks import TASKS_DIR
from launcher.errors import LauncherError

COPY_TIMEOUT_S = 300.0
DOWN_TIMEOUT_S = 120.0


def sky_program() -> str:
    """SkyPilot's command beside this Python.

    Raises:
        LauncherError: it is not installed.
    """
    program = Path(sys.executable).parent / "sky"
    if not program.exists():
        raise LauncherError(f"{program}: not there; `make setup` installs SkyPilot")
    return str(program)


def submit(config: Mapping[str, Any], cluster: str, folder: Path, secrets: Sequence[str]) -> subprocess.Popen[bytes]:
    """Launch a task on a cluster of this name and follow its log into `folder/sky.log` until the task ends.

    The task is written to `folder/task.yaml`; it holds no secret. Those named are taken from this environment by
    SkyPilot itself. The copied working directory is this project's.

    Raises:
        LauncherError: SkyPilot is not installed.
    """
    task = folder / "task.yaml"
    task.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    command = [sky_program(), "launch", "--yes", "--cluster", cluster, str(task.absolute())]
    for name in secrets:
        command += ["--secret", name]
    with (folder / "sky.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=TASKS_DIR.parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to handle: the cluster must go first
        )


def introduce(cluster: str) -> subprocess.Popen[bytes]:
    """Have SkyPilot write down how to reach the cluster, which it does for one that is up when asked for its status."""
    return subprocess.Popen(
        [sky_program(), "status", cluster],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def is_reachable(cluster: str) -> bool:
    """Whether SkyPilot has written down how to reach the cluster."""
    return _ssh_config(cluster).exists()


def copy_from(cluster: str, remote: str, local: Path, leave_out: Sequence[str] = ()) -> bool:
    """Copy what lies below a folder of the node into a folder here; whether it worked."""
    # The config names the key below `~`, which ssh takes from the password file, not from HOME.
    ssh = f"ssh -F {_ssh_config(cluster)} -i {_ssh_key(cluster)} -o BatchMode=yes -o ConnectTimeout=10"
    command = ["rsync", "--archive", "--compress", "--rsh", ssh]
    command += [f"--exclude={pattern}" for pattern in leave_out]
    command += [f"{cluster}:{remote}/", f"{local}/"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=COPY_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def let_go(cluster: str) -> None:
    """Have SkyPilot cancel what it does for the cluster, end it and forget it; the provider is asked after it."""
    try:
        subprocess.run(
            [sky_program(), "down", "--yes", cluster], capture_output=True, check=False, timeout=DOWN_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return


def _ssh_config(cluster: str) -> Path:
    return _generated() / "ssh" / cluster


def _ssh_key(cluster: str) -> Path:
    return _generated() / "ssh-keys" / f"{cluster}.key"


def _generated() -> Path:
    return Path.home() / ".sky" / "generated"
