"""The sandbox of this machine as a whole: bring it up, take it down, ask it, enter it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from launcher.cloud.fetch import SourceFailed, fetch_json
from launcher.cost.ledger import launcher_home
from launcher.errors import BadInput, LauncherError, Refused
from launcher.faults import fault_lines
from launcher.sandbox import leftovers
from launcher.sandbox.doctor import apt_line, missing
from launcher.sandbox.faults import Fault
from launcher.sandbox.home import as_environment, environment, outside_environment, prepare_home
from launcher.sandbox.image import ensure_image
from launcher.sandbox.network import Network

STARTS_WITHIN_S = 20.0
ENDS_WITHIN_S = 60.0


class SandboxFailed(LauncherError):
    """The sandbox did not start, or is not there."""


@dataclass(frozen=True)
class Running:
    """What `up` writes down, so that `down` finds the sandbox whatever became of it.

    started_at: of the process, seconds since the epoch: its id may be another's by now. url: of the cloud, for the
    launcher's other commands.
    """

    network: int
    pid: int
    started_at: float
    url: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether the cloud's process still runs."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.started_at and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class Sandbox:
    """The sandbox in a folder: images/, hosts/, home/, redirection/, running.json, log.txt."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or launcher_home() / "sandbox").absolute()
        self.home = self.folder / "home"
        self.redirection = self.folder / "redirection"
        self.log = self.folder / "log.txt"
        self._running = self.folder / "running.json"

    def running(self) -> Running | None:
        """What was brought up last and not taken down; it may have died since."""
        try:
            return Running(**json.loads(self._running.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def up(self, number: int, say: Callable[[str], None]) -> str:
        """Bring it up, with real hosts, and return the cloud's address. What a crashed one left is cleared first.

        number: of the network 10.78.`number`.0/24; two sandboxes on one machine need different ones.

        Raises:
            Refused: something is missing on this machine, or it is up.
            SandboxFailed: the cloud did not start.
        """
        refuse_without_needs()
        before = self.running()
        if before is not None and before.is_alive:
            raise Refused(f"sandbox: is up in {self.folder} (process {before.pid}); launcher sandbox down ends it")
        other = leftovers.other_sandbox(Network(number), self.folder)
        if other is not None:
            raise Refused(f"sandbox: network {number} is that of the sandbox in {other}; take another with --network")
        self.clear(number)
        self.folder.mkdir(parents=True, exist_ok=True)
        image = ensure_image(self.folder / "images", say)
        network = Network(number)
        prepare_home(self.home, self.redirection, image.wheels)
        network.up()
        say("starting the cloud")
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", leftovers.SERVICE, str(self.folder), str(number), str(image.root)]
            cloud = subprocess.Popen(
                command,
                env=outside_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        running = Running(number, cloud.pid, psutil.Process(cloud.pid).create_time(), network.url)
        self._running.write_text(json.dumps(asdict(running)), encoding="utf-8")
        self._await_answer(cloud, network.url)
        return network.url

    def down(self) -> list[str]:
        """End the cloud, its hosts and SkyPilot's processes of its home; image and log stay.

        Returns what is still there, in words: nothing, unless the system refuses.
        """
        running = self.running()
        number = running.network if running else 0
        if running is not None and running.is_alive:
            leftovers.end([psutil.Process(running.pid)], grace_s=ENDS_WITHIN_S)
        self.clear(number)
        return leftovers.left(Network(number), self.folder)

    def clear(self, number: int) -> None:
        """Remove whatever a sandbox of that network, or the last of this folder, has left."""
        before = self.running()
        for each in {number, before.network if before else number}:
            leftovers.clear(Network(each), self.folder)
        self._running.unlink(missing_ok=True)

    def ask(self, path: str, body: Any = None) -> dict[str, Any]:
        """What the cloud's control answers.

        Raises:
            SandboxFailed: it is not up, or does not answer.
        """
        running = self.running()
        if running is None or not running.is_alive:
            raise SandboxFailed(f"sandbox: none is up in {self.folder}; launcher sandbox up starts one")
        try:
            return fetch_json(f"{Network(running.network).url}/ctl/{path}", timeout_s=30, body=body)
        except SourceFailed as fault:
            raise SandboxFailed(f"sandbox: /ctl/{path}: {fault}") from None

    def add_fault(self, fault: dict[str, Any]) -> None:
        """Let something go wrong, the next time it can; `fault`: the fields of `faults.Fault`.

        Raises:
            BadInput: there is no such fault.
            SandboxFailed: it is not up, or does not answer.
        """
        try:
            Fault.model_validate(fault)
        except ValidationError as wrong:
            raise BadInput(*fault_lines(wrong, Fault, lambda _: "fault")) from None
        self.ask("fault", fault)

    def variables(self) -> dict[str, str | None]:
        """The environment that puts a shell into the sandbox.

        Raises:
            SandboxFailed: it is not up.
        """
        running = self.running()
        if running is None or not running.is_alive:
            raise SandboxFailed(f"sandbox: none is up in {self.folder}; launcher sandbox up starts one")
        network = Network(running.network)
        return environment(self.home, self.redirection, network, network.url)

    def environment(self) -> dict[str, str]:
        """This process's environment, moved into the sandbox, for a program to be started."""
        return as_environment(self.variables())

    def _await_answer(self, cloud: subprocess.Popen[bytes], url: str) -> None:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < deadline:
            if cloud.poll() is not None:
                break
            try:
                fetch_json(f"{url}/ctl/status", timeout_s=2)
                return
            except SourceFailed:
                time.sleep(0.1)
        self.down()
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise SandboxFailed(f"sandbox: the cloud did not start: {said[-1] if said else 'no word'} (log: {self.log})")


def refuse_without_needs() -> None:
    """Stop here on a machine that cannot have real hosts.

    Raises:
        Refused: it lacks something, named in one line.
    """
    lacking = missing()
    if not lacking:
        return
    if os.geteuid() != 0:
        raise Refused("sandbox: root is needed: hosts are namespaces, mounts and a bridge")
    line = apt_line(lacking)
    remedy = f"; install it: {line}" if line else f"; {lacking[0].remedy}"
    raise Refused(f"sandbox: missing: {', '.join(need.what for need in lacking)}{remedy}")
