"""The network of the sandbox's hosts: one bridge, and a namespace and a cable a host, all found by their names."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from launcher.errors import LauncherError

LAST_HOST = 250
PORT = 8777


class CommandFailed(LauncherError):
    """A system command of the sandbox failed; the message names it and what it said."""


def system(*command: str) -> str:
    """Run a command and return what it printed.

    Raises:
        CommandFailed: it is not installed, or failed.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CommandFailed(f"sandbox: {command[0]} is not installed; see launcher sandbox doctor") from None
    if done.returncode:
        raise CommandFailed(f"sandbox: `{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


@dataclass(frozen=True)
class Network:
    """The addresses 10.78.`number`.0/24 and the names of everything on them.

    number: 0 to 255; two sandboxes on one machine need different ones. Host 1 is the machine itself.
    """

    number: int = 0

    @property
    def bridge(self) -> str:
        return f"lsbx{self.number}"

    @property
    def gateway(self) -> str:
        return self.address(1)

    @property
    def url(self) -> str:
        """Where the cloud answers, for this machine and for hosts."""
        return f"http://{self.gateway}:{PORT}"

    def address(self, host: int) -> str:
        """Where a host is reached."""
        return f"10.78.{self.number}.{host}"

    def has(self, address: str) -> bool:
        """Whether that is one of its addresses."""
        return address.startswith(self.address(0).removesuffix("0"))

    def name(self, host: int) -> str:
        """Of its namespace and of the machine's end of its cable (at most 15 characters)."""
        return f"{self.bridge}-{host}"

    def up(self) -> None:
        """Make the bridge."""
        system("ip", "link", "add", self.bridge, "type", "bridge")
        system("ip", "address", "add", f"{self.gateway}/24", "dev", self.bridge)
        system("ip", "link", "set", self.bridge, "up")

    def plug_in(self, host: int) -> None:
        """Make a namespace with an address on the bridge and a route to the machine, nowhere else."""
        name, inside = self.name(host), f"{self.bridge}p{host}"
        system("ip", "netns", "add", name)
        system("ip", "link", "add", name, "type", "veth", "peer", "name", inside, "netns", name)
        system("ip", "link", "set", name, "master", self.bridge, "up")
        system("ip", "-n", name, "link", "set", inside, "name", "eth0")
        system("ip", "-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            system("ip", "-n", name, "link", "set", device, "up")
        system("ip", "-n", name, "route", "add", "default", "via", self.gateway)

    def cut(self, host: int) -> None:
        """Take the host off the network; it runs on."""
        system("ip", "link", "set", self.name(host), "down")

    def unplug(self, host: int) -> None:
        """Remove a host's namespace and cable, where they are. Its processes must have ended."""
        name = self.name(host)
        if name in self.namespaces():
            system("ip", "netns", "delete", name)  # takes its end of the cable along, in the kernel's own time
        if name in self.links():
            self._delete_link(name)

    def namespaces(self) -> list[str]:
        """Names of this sandbox's namespaces."""
        lines = system("ip", "netns", "list").splitlines()
        return [name for name in (line.split()[0] for line in lines if line) if name.startswith(f"{self.bridge}-")]

    def links(self) -> list[str]:
        """Names of this sandbox's cables and of its bridge."""
        names = [link["ifname"] for link in json.loads(system("ip", "-json", "link", "show") or "[]")]
        return [name for name in names if name == self.bridge or name.startswith(f"{self.bridge}-")]

    def processes(self) -> list[int]:
        """Ids of all processes in the namespaces."""
        return [int(pid) for name in self.namespaces() for pid in system("ip", "netns", "pids", name).split()]

    def remove(self) -> None:
        """Remove every namespace and link of this sandbox, whoever left them. Their processes must have ended."""
        for name in self.namespaces():
            system("ip", "netns", "delete", name)
        for name in self.links():
            self._delete_link(name)

    def _delete_link(self, name: str) -> None:
        try:
            system("ip", "link", "delete", name)
        except CommandFailed:
            if name in self.links():  # else the kernel was quicker
                raise
