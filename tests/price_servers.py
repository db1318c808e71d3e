"""A local server that answers as vast.ai, Lambda, RunPod and the host of SkyPilot's catalogs do, or fails as they may.

Formats: vastai-sdk 1.9 (`vastai/api/offers.py`, `vastai/data/offer.py`), Lambda's public API (GET /instance-types) and
RunPod's GraphQL as SkyPilot 0.14 asks it (`sky/catalog/data_fetchers/fetch_runpod.py`).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, bytes]
KEY = "secret-key-5f3a"


def ask(**changes: Any) -> dict[str, Any]:
    """One offer of vast.ai's search."""
    return {
        "id": 5_000_001, "ask_contract_id": 5_000_001, "machine_id": 2555, "host_id": 1276, "num_gpus": 2,
        "gpu_name": "RTX 4090", "gpu_ram": 24564, "gpu_total_ram": 49128, "gpu_frac": 0.5, "cpu_cores": 64,
        "cpu_cores_effective": 32.0, "cpu_ram": 131072, "disk_space": 512.0, "inet_up": 480.0, "inet_down": 950.0,
        "inet_up_cost": 0.004, "inet_down_cost": 0.003, "dph_base": 0.80, "dph_total": 0.8028, "min_bid": 0.41,
        "storage_cost": 0.15, "storage_total_cost": 0.0028, "reliability2": 0.9987, "verification": "verified",
        "rentable": True, "rented": False, "external": False, "hosting_type": 0, "geolocation": "Texas, US",
    } | changes  # fmt: skip


def lambda_type(name: str, gpu: str, cents: Any, regions: list[str], gpus: int = 1) -> dict[str, Any]:
    """One entry of Lambda's instance types."""
    return {
        "instance_type": {
            "name": name,
            "description": f"{gpus}x {gpu}",
            "gpu_description": gpu,
            "price_cents_per_hour": cents,
            "specs": {"vcpus": 26 * gpus, "memory_gib": 200 * gpus, "storage_gib": 1024, "gpus": gpus},
        },
        "regions_with_capacity_available": [{"name": region, "description": region} for region in regions],
    }


def gpu_type(name: str, memory: Any, price: Any, bid: Any, **changes: Any) -> Callable[[int], dict[str, Any]]:
    """One of RunPod's GPU types, for a number of GPUs; prices are per GPU."""

    def entry(gpus: int) -> dict[str, Any]:
        lowest = {"uninterruptablePrice": price, "minimumBidPrice": bid, "minVcpu": 8 * gpus, "minMemory": 60 * gpus}
        return {
            "id": f"NVIDIA {name}", "displayName": name, "memoryInGb": memory, "secureCloud": True, "maxGpuCount": 8,
            "lowestPrice": lowest | {"stockStatus": None if price is None else "High"},
        } | changes  # fmt: skip

    return entry


class PriceServer:
    """What the providers have, and how they fail; `requests` holds path, headers and body of all that was asked."""

    def __init__(self) -> None:
        self.asks: list[Any] = [ask()]
        self.types: dict[str, Any] = {
            "gpu_1x_h100_pcie": lambda_type("gpu_1x_h100_pcie", "H100 (80 GB PCIe)", 249, ["us-west-3", "us-east-1"]),
            "cpu_4x_general": lambda_type("cpu_4x_general", "N/A", 20, ["us-east-1"], gpus=0),
        }
        self.gpu_types = [gpu_type("A100 PCIe", 80, 1.64, 0.82)]
        self.catalogs: dict[str, bytes] = {}
        self.failures: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.hang = threading.Event()
        self.hanging: set[str] = set()
        self.truncated: set[str] = set()
        self.url = ""

    def answer(self, provider: str, path: str, headers: dict[str, str], body: Any) -> Answer:
        self.requests.append((path, headers, body))
        if provider in self.hanging:
            self.hang.wait(30)
        if provider in self.failures:
            return self.failures[provider]
        if provider == "catalogs":
            name = path.split("/")[-2]
            return (200, self.catalogs[name]) if name in self.catalogs else (404, b"404: Not Found")
        if headers.get("Authorization") != f"Bearer {KEY}":
            return 401, json.dumps({"error": {"code": "global/invalid-api-key", "message": headers}}).encode()
        return 200, json.dumps(self._content(path, body)).encode()

    def _content(self, path: str, body: Any) -> dict[str, Any]:
        if path == "/vast/api/v0/bundles/":
            return {"offers": self.asks}
        if path == "/lambda/api/v1/instance-types":
            return {"data": self.types}
        assert path == "/runpod/graphql", path
        match = re.search(r"gpuCount: (\d+)", body["query"])
        assert match is not None
        return {"data": {"gpuTypes": [entry(int(match[1])) for entry in self.gpu_types]}}


@contextmanager
def serving() -> Iterator[PriceServer]:
    """A running server; `url`/vast, /lambda, /runpod and /catalogs are the four."""
    state = PriceServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            provider = self.path.split("/")[1]
            status, answer = state.answer(
                provider, self.path, dict(self.headers), json.loads(content) if content else None
            )
            self.send_response(status)
            if status == 302:
                self.send_header("Location", answer.decode())
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer[: len(answer) // 2] if provider in state.truncated else answer)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.hang.set()
        server.shutdown()
        server.server_close()
