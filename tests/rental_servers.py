"""Local servers in the providers' place: the emulated clouds on a clock of the test's, and one with written answers.

Formats of the written answers: vastai-sdk 1.9 (`vastai/api/instances.py`, `vastai/data/instance.py`), Lambda's public
API as SkyPilot 0.14 reads it (`sky/provision/lambda_cloud/lambda_utils.py`), RunPod's SDK 1.10
(`runpod/api/queries/pods.py`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from launcher.cost.offer import Provider
from launcher.reconcile import Clock
from launcher.sandbox.clock import VirtualClock
from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.driver import VirtualHosts
from launcher.sandbox.instance import Instance, Order
from launcher.sandbox.server import serve

KEY = "secret-key-7b21"


class Emulated:
    """The emulated clouds at `url`, without hosts, on a clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.time = VirtualClock()
        self.cloud = SandboxCloud(self.time, VirtualHosts(), boot_s=3.0)
        self.server = serve(self.cloud, "127.0.0.1", 0)
        self.url = self.server.url

    @property
    def clock(self) -> Clock:
        return Clock(now=self.time.now, sleep=self.time.sleep)

    def rent(self, provider: Provider, name: str) -> Instance:
        """One machine, as SkyPilot would have it."""
        listing = next(each for each in self.cloud.market.every(provider) if each.gpus)
        return self.cloud.create(Order(listing=listing, name=name, disk_gib=40, user="root"))

    def rented(self) -> list[Instance]:
        return [instance for instance in self.cloud.instances() if not instance.is_ended]


@contextmanager
def emulated() -> Iterator[Emulated]:
    running = Emulated()
    try:
        yield running
    finally:
        running.server.stop()


class Written:
    """Answers one after another, the last one again and again; `requests`: method, path, headers and body of each."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.url = ""

    def will_answer(self, *answers: Any) -> None:
        """JSON values, each with status 200 unless it is a pair of status and value."""
        self.answers = [answer if isinstance(answer, tuple) else (200, answer) for answer in answers]
        self.requests.clear()

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        self.requests.append((method, path, headers, body))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def written() -> Iterator[Written]:
    state = Written()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state.answer))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _handler(answer: Callable[[str, str, dict[str, str], Any], tuple[int, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, value = answer(self.command, self.path, dict(self.headers), json.loads(content or "null"))
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            return

    return Handler


def vast_instance(**changes: Any) -> dict[str, Any]:
    """One instance of vast.ai's list."""
    return {
        "id": 9000011, "label": "launcher-g-1-3fa2-head", "actual_status": "running", "intended_status": "running",
        "cur_state": "running", "gpu_name": "RTX 4090", "num_gpus": 1, "dph_total": 0.4228, "start_date": 1767225600.5,
        "public_ipaddr": "203.0.113.7", "ssh_host": "ssh4.vast.ai", "ssh_port": 30011, "extra_env": [],
    } | changes  # fmt: skip


def lambda_instance(**changes: Any) -> dict[str, Any]:
    """One instance of Lambda's list."""
    kind = {"name": "gpu_1x_a10", "description": "1x A10 (24 GB PCIe)", "gpu_description": "A10 (24 GB PCIe)"}
    specs = {"vcpus": 30, "memory_gib": 200, "storage_gib": 1400, "gpus": 1}
    return {
        "id": "0920582c7ff041399e34823a0be62549", "name": "launcher-g-1-3fa2-head", "status": "active",
        "ip": "198.51.100.2", "private_ip": "10.0.2.100", "region": {"name": "us-west-1"},
        "instance_type": kind | {"price_cents_per_hour": 75, "specs": specs},
    } | changes  # fmt: skip


def runpod_pod(**changes: Any) -> dict[str, Any]:
    """One pod of RunPod's list."""
    ports = [
        {"ip": "100.65.0.9", "isIpPublic": False, "privatePort": 8265, "publicPort": 60123, "type": "http"},
        {"ip": "192.0.2.44", "isIpPublic": True, "privatePort": 22, "publicPort": 10341, "type": "tcp"},
    ]
    return {
        "id": "x1y2z3", "name": "launcher-g-1-3fa2-head", "desiredStatus": "RUNNING", "costPerHr": 0.69, "gpuCount": 1,
        "containerDiskInGb": 72, "volumeInGb": 0, "machine": {"gpuDisplayName": "RTX 4090"},
        "runtime": {"ports": ports},
    } | changes  # fmt: skip


def lists(provider: Provider, *machines: Any) -> dict[str, Any]:
    """A whole answer to the question for the list."""
    if provider == "vast":
        return {"success": True, "instances": list(machines), "next_token": None}
    return {"data": list(machines)} if provider == "lambda" else {"data": {"myself": {"pods": list(machines)}}}


EXAMPLES: dict[Provider, Callable[..., dict[str, Any]]] = {
    "vast": vast_instance,
    "lambda": lambda_instance,
    "runpod": runpod_pod,
}
