"""Points the providers' clients in this interpreter at the sandbox cloud, and keeps the interpreter inside it.

Standard library only: this file is copied, as `launcher_sandbox_redirect`, to where a `sitecustomize` (this side) or a
`.pth` file (inside a host) imports it. The sandbox's address is `$LAUNCHER_SANDBOX_URL`, in a host the content of
/etc/launcher-sandbox/url; without either, importing it does nothing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

ADDRESS_FILE = "/etc/launcher-sandbox/url"


def module_constants(url: str) -> dict[str, dict[str, Any]]:
    """Addresses that SkyPilot 0.14 holds in modules, with no setting for them: module -> name -> value."""
    return {
        "sky.provision.lambda_cloud.lambda_utils": {"API_ENDPOINT": f"{url}/lambda/api/v1"},
        "sky.adaptors.runpod": {"_REST_BASE": f"{url}/runpod/v1"},
        # Asked before SkyPilot believes that a silent cluster is dead.
        "sky.backends.backend_utils": {"_TEST_IP_LIST": [f"{url}/ctl/ping"]},
    }


def client_settings(url: str) -> dict[str, str]:
    """Environment variables that the providers' own packages read."""
    return {"RUNPOD_API_BASE_URL": f"{url}/runpod", "VAST_URL": f"{url}/vast"}


class Overrides(importlib.abc.MetaPathFinder):
    """Sets constants of modules right after they were executed."""

    def __init__(self, constants: Mapping[str, Mapping[str, Any]]) -> None:
        self.constants = constants

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.constants:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Overriding(spec.loader, self.constants[name])
                return spec
        return None


class _Overriding(importlib.abc.Loader):
    """A module's own loader, then the constants. Whatever else is asked of the loader, its own answers."""

    def __init__(self, loader: Any, constants: Mapping[str, Any]) -> None:
        self._loader = loader
        self._constants = constants

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        for name, value in self._constants.items():
            if not hasattr(module, name):
                raise ImportError(f"sandbox: {module.__name__} has no {name}; the sandbox was made for SkyPilot 0.14")
            setattr(module, name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class Inside:
    """Which hosts belong to the sandbox: this machine's loopback and the network of the sandbox's address."""

    def __init__(self, url: str) -> None:
        self._network = ipaddress.ip_network(f"{urlsplit(url).hostname}/24", strict=False)
        self._names = {"", "localhost", socket.gethostname()}

    def __contains__(self, host: object) -> bool:
        text = host.decode() if isinstance(host, bytes) else str("" if host is None else host)
        if text in self._names:
            return True
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        return address.is_loopback or address.is_unspecified or address in self._network


def guard(inside: Inside) -> None:
    """Refuse, by name, to look up or dial anything outside: a forgotten override must not reach a real provider."""
    look_up, dial, dial_ex = socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex

    def getaddrinfo(host: Any, *others: Any, **options: Any) -> Any:
        if host not in inside:
            raise socket.gaierror(socket.EAI_NONAME, f"sandbox: {host} is outside")
        return look_up(host, *others, **options)

    def refuse(address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in inside:
            raise OSError(101, f"sandbox: {address[0]} is outside")

    def connect(self: socket.socket, address: Any) -> None:
        refuse(address)
        dial(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        refuse(address)
        return dial_ex(self, address)

    socket.getaddrinfo = getaddrinfo
    socket.socket.connect = connect  # type: ignore[method-assign, assignment]
    socket.socket.connect_ex = connect_ex  # type: ignore[method-assign, assignment]


def sandbox_address() -> str | None:
    """The sandbox's address, None where there is no sandbox."""
    address = os.environ.get("LAUNCHER_SANDBOX_URL")
    if address:
        return address
    try:
        with open(ADDRESS_FILE, encoding="ascii") as file:
            return file.read().strip() or None
    except OSError:
        return None


def install(url: str) -> None:
    """Redirect and guard this interpreter."""
    for name, value in client_settings(url).items():
        os.environ.setdefault(name, value)
    sys.meta_path.insert(0, Overrides(module_constants(url)))
    guard(Inside(url))


if __name__ == "launcher_sandbox_redirect":
    _url = sandbox_address()
    if _url:
        install(_url)
