"""One HTTP server for the three emulated APIs and for what controls them.

| address | as whom |
|---|---|
| /lambda/api/v1/... | Lambda: `LAUNCHER_LAMBDA_URL` is URL/lambda, SkyPilot's `API_ENDPOINT` URL/lambda/api/v1 |
| /runpod/graphql | RunPod: `LAUNCHER_RUNPOD_URL` and its SDK's `RUNPOD_API_BASE_URL` are URL/runpod |
| /vast/api/v0/..., /vast/api/v1/... | vast.ai: `LAUNCHER_VAST_URL` and its SDK's `VAST_URL` are URL/vast |
| /ctl/... | `launcher.sandbox.control` |

Any key is accepted, and none is kept or shown.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.control import control
from launcher.sandbox.exchange import ProviderApi, Reply, Request, exchange
from launcher.sandbox.lambda_api import LambdaApi
from launcher.sandbox.runpod_api import RunpodApi
from launcher.sandbox.vast_api import VastApi

MOST_BYTES = 4_000_000
SETTLE_EVERY_S = 0.5
URL_VARIABLES = {
    "LAUNCHER_LAMBDA_URL": "/lambda",
    "LAUNCHER_RUNPOD_URL": "/runpod",
    "LAUNCHER_VAST_URL": "/vast",
    "RUNPOD_API_BASE_URL": "/runpod",
    "VAST_URL": "/vast",
}

_log = logging.getLogger(__name__)
Answer = Callable[[Request], Reply | None]


class SandboxServer(ThreadingHTTPServer):
    """Listens from the moment it is made; `serve_forever` answers, `start` does so in a thread of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, cloud: SandboxCloud, address: str, port: int) -> None:
        self.cloud = cloud
        self._answers = answers(cloud)
        self._stopped = threading.Event()
        super().__init__((address, port), _Handler)

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """The variables that point the launcher and the providers' SDKs here. SkyPilot's Lambda client has none."""
        return {name: self.url + path for name, path in URL_VARIABLES.items()}

    def start(self) -> None:
        """Answer in a thread of its own, until `stop`."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        threading.Thread(target=self._keep_settling, daemon=True).start()

    def stop(self) -> None:
        """Answer no more, and take every host away."""
        self._stopped.set()
        self.shutdown()
        self.server_close()
        self.cloud.close()

    def answer(self, request: Request) -> Reply | None:
        """The answer of the API that the path names; None: the connection breaks."""
        for prefix, reply in self._answers.items():
            if request.path.startswith(prefix):
                path = request.path.removeprefix(prefix).strip("/")
                return reply(Request(request.method, path, request.query, request.body, request.has_key))
        return Reply({"error": f"{request.path}: no such address"}, 404)

    def _keep_settling(self) -> None:
        while not self._stopped.wait(SETTLE_EVERY_S):
            self.cloud.settle()


def serve(cloud: SandboxCloud, address: str, port: int) -> SandboxServer:
    """Start answering on that address (port 0: any free one), in threads of this process."""
    server = SandboxServer(cloud, address, port)
    server.start()
    return server


def answers(cloud: SandboxCloud) -> dict[str, Answer]:
    """What answers below each address."""
    apis: dict[str, ProviderApi] = {
        "/lambda/api/v1/": LambdaApi(cloud),
        "/runpod/graphql": RunpodApi(cloud),
        "/vast/api/": VastApi(cloud),
    }
    found: dict[str, Answer] = {prefix: _answer_of(cloud, api) for prefix, api in apis.items()}
    found["/ctl/"] = lambda request: control(cloud, request)
    return found


def _answer_of(cloud: SandboxCloud, api: ProviderApi) -> Answer:
    return lambda request: exchange(cloud, api, request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SandboxServer

    def _answer(self) -> None:
        try:
            reply = self._reply()
            if reply is None:
                self._break_off()
            else:
                self._send(reply)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # a client that died, or the host that has just terminated itself

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def _reply(self) -> Reply | None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MOST_BYTES:
            self.close_connection = True
            return Reply({"error": f"{length:,} bytes; {MOST_BYTES:,} at most"}, 413)
        content = self.rfile.read(length)
        try:
            body = json.loads(content) if content else None
        except ValueError:
            return Reply({"error": "the body is not JSON"}, 400)
        parts = urlsplit(self.path)
        has_key = self.headers.get("Authorization", "").startswith("Bearer ")
        method = "GET" if self.command == "HEAD" else self.command
        try:
            return self.server.answer(Request(method, parts.path, dict(parse_qsl(parts.query)), body, has_key))
        except Exception:
            # As a provider would: one broken request must not end the cloud with everything that is rented in it.
            _log.exception("%s %s", self.command, parts.path)
            return Reply({"error": "internal error"}, 500)

    def _send(self, reply: Reply) -> None:
        content = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "text/plain" if isinstance(reply.body, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _break_off(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *_: Any) -> None:
        """Nothing: what happened stands in the cloud's events, and no header is ever written down."""
