"""What this machine lacks for sandbox hosts, and the apt line that brings it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Need:
    """One thing that sandbox hosts need. `package`: what apt calls it, None where apt does not bring it."""

    what: str
    is_met: Callable[[], bool]
    package: str | None = None
    remedy: str = ""


def _command(name: str, package: str) -> Need:
    return Need(f"command {name}", lambda: shutil.which(name) is not None, package, f"apt package {package}")


def _beside_python(name: str) -> bool:
    return (Path(sys.prefix) / "bin" / name).exists()


def _has_overlay() -> bool:
    filesystems = Path("/proc/filesystems")
    # Not listed does not mean that mounting would not load it; a module in the tree is enough.
    modules = Path("/lib/modules") / os.uname().release / "kernel/fs/overlayfs"
    return (filesystems.exists() and "\toverlay" in filesystems.read_text()) or modules.exists()


def _may_make_namespaces() -> bool:
    """Root of a container may still lack the right to mount and to make networks."""
    try:
        done = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


NEEDS = (
    Need("root", lambda: os.geteuid() == 0, None, "run as root: hosts are namespaces, mounts and a bridge"),
    _command("debootstrap", "debootstrap"),
    _command("ip", "iproute2"),
    _command("unshare", "util-linux"),
    _command("mount", "mount"),
    _command("mkfs.ext4", "e2fsprogs"),
    _command("ssh", "openssh-client"),
    _command("rsync", "rsync"),
    _command("apt-get", "apt"),
    Need("namespaces", _may_make_namespaces, None, "mounts and networks must be allowed (in Docker: --privileged)"),
    Need("overlayfs", _has_overlay, None, "a kernel with overlayfs"),
    Need("loop devices", Path("/dev/loop-control").exists, None, "/dev/loop-control (in Docker: --privileged)"),
    Need("uv", lambda: _beside_python("uv"), None, "run make setup"),
    Need("sky", lambda: _beside_python("sky"), None, "run make setup: the environment needs the extra `cloud`"),
)


def missing(needs: tuple[Need, ...] = NEEDS) -> list[Need]:
    """The needs that are not met, in the order in which to meet them."""
    return [need for need in needs if not need.is_met()]


def apt_line(lacking: list[Need]) -> str | None:
    """The command that installs what apt can bring of it; None where there is nothing to install."""
    packages = sorted({need.package for need in lacking if need.package})
    return f"apt-get install -y {' '.join(packages)}" if packages else None
